//! Winograd against the integer interpreter: every way to loop, every number of threads, byte for byte. And that no layer
//! for which the proof does not hold is computed so.
use goshawk_compiler::codegen::{self, Options, Prefer, Target, TileChoice, Tuning};
use goshawk_ir::{IntGraph, IntOp, interp::int, text};
use goshawk_passes::memory;
use goshawk_runtime::Pool;
use goshawk_tests::generate;
use std::sync::Arc;

const GRAPHS: u64 = 240;

/// Options for every CPU that has kernels for it and runs here.
fn options(choice: Option<TileChoice>) -> Vec<Options> {
    let cpus = ["avx512vnni", "x86-64-v3"];
    let target = |cpu| Target::parse(Some("x86_64-unknown-linux-gnu"), cpu).expect("known");
    let (here, missing): (Vec<Target>, Vec<Target>) =
        cpus.map(target).into_iter().partition(Target::runs_here);
    for target in missing {
        eprintln!("skipped: this CPU has no {}", target.isa());
    }
    let options =
        |target| Options { share_all: true, tuning: Tuning::all(choice), ..Options::new(target, "m") };
    here.into_iter().map(options).collect()
}

/// How many layers were computed by Winograd.
fn check(g: &IntGraph, options: &Options, seed: u64, pools: &[Option<Arc<Pool>>]) -> usize {
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
    model.layers.iter().filter(|l| l.kernel.contains("winograd")).count()
}

#[test]
fn winograd_equals_the_interpreter() {
    let pools = [1, 2, 3].map(|n| (n > 1).then(|| Arc::new(Pool::new(n).expect("threads"))));
    let (mut layers, mut found, mut joins) = ([0; 2], [0; 2], [0; 2]);
    for seed in 0..GRAPHS {
        let g = generate::narrow_convolution(seed);
        for lines in [1, 2, 1 << 16] {
            let choice = TileChoice { vectors: 1 + seed as usize % 2, lines, winograd: true };
            for (cpu, options) in options(Some(choice)).iter().enumerate() {
                found[cpu] += check(&g, options, seed, &pools);
                joins[cpu] += codegen::arena(&g, options).expect("plan").joins.len();
                layers[cpu] += g.ids().filter(|id| matches!(g.node(*id).op, IntOp::Conv(_))).count();
            }
        }
    }
    for cpu in 0..options(None).len() {
        let (found, layers, joins) = (found[cpu], layers[cpu], joins[cpu]);
        assert!(joins > 50, "only {joins} sums were joined");
        assert!(found * 10 > layers * 8, "only {found} of {layers} layers were computed by Winograd");
    }
}

/// Where nothing is chosen the model decides, and both ways occur.
#[test]
fn the_model_chooses_both_ways() {
    for options in options(None) {
        let found: Vec<usize> =
            (0..60).map(|seed| check(&generate::narrow_convolution(seed), &options, seed, &[None])).collect();
        assert!(found.contains(&0) && found.iter().any(|n| *n > 0), "{found:?}");
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
            let g = generate::narrow_convolution(seed);
            assert_eq!(check(&g, &small, seed, &[None]), 0, "seed {seed}");
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
        let found = check(&g, &options, 0, &[None]);
        assert!(found == 1 || options.target.has("avx512vnni"), "{}", options.target.isa());
    }
}
