//! Winograd against the integer interpreter: every way to loop, every number of threads, byte for byte. And that no layer
//! for which the proof does not hold is computed so.
use goshawk_compiler::codegen::{self, Algorithm, Options, Prefer, Target, TileChoice, Tuning};
use goshawk_ir::{IntGraph, IntOp, interp::int, text};
use goshawk_passes::memory;
use goshawk_runtime::Pool;
use goshawk_tests::generate;
use std::sync::Arc;

const GRAPHS: u64 = 240;

const CPUS: [&str; 3] = ["avx512vnni", "x86-64-v3", "x86-64-v3+avx512vnni"];

/// Options for a CPU, if code for it runs here.
fn options_for(cpu: &str, choice: Option<TileChoice>) -> Option<Options> {
    let target = Target::parse(Some("x86_64-unknown-linux-gnu"), cpu).expect("known");
    if !target.runs_here() {
        eprintln!("skipped: this CPU has no {}", target.isa());
        return None;
    }
    Some(Options { share_all: true, tuning: Tuning::all(choice), ..Options::new(target, "m") })
}

/// Options for every CPU that has kernels for it and runs here.
fn options(choice: Option<TileChoice>) -> Vec<Options> {
    CPUS.into_iter().filter_map(|cpu| options_for(cpu, choice)).collect()
}

/// How many layers were computed by that algorithm.
fn check(g: &IntGraph, options: &Options, seed: u64, pools: &[Option<Arc<Pool>>], algorithm: &str) -> usize {
    let memory = codegen::arena(g, options).expect("plan");
    memory::check(g, &memory).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    let mut model = codegen::jit(g, &memory, options).expect("compiles");
    let inputs = generate::inputs(g, seed);
    let want = int::run(g, &inputs).expect("interpreter");
    for (threads, pool) in pools.iter().enumerate() {
        model.set_pool(pool.clone());
        let same = model.run(&inputs).expect("run") == want;
        assert!(same, "seed {seed}, {:?}, {} threads\n{}", options.tuning, threads + 1, text::print(g));
    }
    model.layers.iter().filter(|l| l.kernel.contains(algorithm)).count()
}

/// Graphs for Winograd in two dimensions.
fn square_graph(seed: u64) -> IntGraph {
    generate::narrow_convolution(seed, &[4], &[4, 4, 4, 5, 6])
}

/// Graphs for Winograd along lines.
fn line_graph(seed: u64) -> IntGraph {
    generate::narrow_convolution(seed, &[4, 5, 6], &[5, 6, 7, 7])
}

/// Compares all graphs with the interpreter, at several sizes of what is computed at a time.
fn all_equal(cpu: &str, algorithm: Algorithm, kernel: &str, sizes: [usize; 3], graph: fn(u64) -> IntGraph) {
    let pools = [1, 2, 3].map(|n| (n > 1).then(|| Arc::new(Pool::new(n).expect("threads"))));
    let (mut layers, mut found, mut joins) = (0, 0, 0);
    for seed in 0..GRAPHS {
        let g = graph(seed);
        for lines in sizes {
            let choice = TileChoice { vectors: 1 + seed as usize % 2, lines, algorithm };
            let Some(options) = options_for(cpu, Some(choice)) else { return };
            found += check(&g, &options, seed, &pools, kernel);
            joins += codegen::arena(&g, &options).expect("plan").joins.len();
            layers += g.ids().filter(|id| matches!(g.node(*id).op, IntOp::Conv(_))).count();
        }
    }
    assert!(joins > 50, "only {joins} sums were joined");
    assert!(found * 10 > layers * 8, "only {found} of {layers} layers were computed so");
}

#[test]
fn two_dimensions_equal_the_interpreter() {
    for cpu in CPUS {
        all_equal(cpu, Algorithm::Square, "winograd 2x2", [1, 2, 1 << 16], square_graph);
    }
}

#[test]
fn lines_equal_the_interpreter() {
    all_equal("avx512vnni", Algorithm::Line, "winograd 1x2", [1, 3, 1 << 16], line_graph);
}

/// Where nothing is chosen the model decides: some layers are direct, others are not.
#[test]
fn the_model_chooses() {
    let chosen = |options: &Options, graph: fn(u64) -> IntGraph, kernel: &str| {
        let found: Vec<usize> =
            (0..60).map(|seed| check(&graph(seed), options, seed, &[None], kernel)).collect();
        assert!(found.contains(&0) && found.iter().any(|n| *n > 0), "{kernel}: {found:?}");
    };
    for options in options(None) {
        chosen(&options, square_graph, "winograd");
        if codegen::tile_choices(&options.target).iter().any(|c| c.algorithm == Algorithm::Line) {
            chosen(&options, line_graph, "winograd 1x2");
        }
    }
}

/// Preferring size gives the same bytes from an arena that is never larger.
#[test]
fn size_is_preferred_to_speed() {
    for fast in options(None) {
        let tuning = Tuning { prefer: Prefer::Size, ..Tuning::default() };
        let small = Options { tuning, ..fast.clone() };
        let mut saved = 0;
        for seed in 0..60 {
            let g = square_graph(seed);
            assert_eq!(check(&g, &small, seed, &[None], "winograd"), 0, "seed {seed}");
            let arena = |options: &Options| {
                let memory = codegen::arena(&g, options).expect("plan");
                codegen::plan(&g, &memory, options).expect("plan").arena_bytes
            };
            assert!(arena(&small) <= arena(&fast), "seed {seed}");
            saved += usize::from(arena(&small) < arena(&fast));
        }
        assert!(saved > 2, "{saved} arenas are smaller");
    }
}

/// The filetest of Winograd has it on AVX2, which needs less to be faster so than VNNI does.
#[test]
fn the_filetest_is_computed_so() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/filetests/run/conv_winograd.gir");
    let g: IntGraph = text::parse(&std::fs::read_to_string(path).expect("a file")).expect("a graph");
    for options in options(None) {
        let found = check(&g, &options, 0, &[None], "winograd 2x2");
        assert!(found == 1 || options.target.has("avx512bw"), "{}", options.target.isa());
    }
}
