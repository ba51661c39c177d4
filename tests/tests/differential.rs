//! Native code against the integer interpreter on random graphs: byte for byte, at every target level that this
//! machine runs, in process and as a shared library. A failure names its seed.
use goshawk_compiler::{
    artifact::{CName, Network, info, network::Origin, shared},
    codegen::{self, Options, Target},
};
use goshawk_ir::{
    IntGraph, Tensor,
    interp::{boundary, int},
    text,
};
use goshawk_passes::memory;
use goshawk_runtime::{Library, Pool, RunError};
use goshawk_tests::generate::{self, Random};
use std::sync::Arc;

const GRAPHS: u64 = 500;

fn graph(seed: u64) -> IntGraph {
    let options = generate::Options {
        usual: seed.is_multiple_of(2),
        nodes: 2 + seed as usize % 16,
        ..Default::default()
    };
    generate::graph(0xd1ff + seed, options)
}

/// `None` where this machine cannot run the code.
fn options(cpu: &str) -> Option<Options> {
    let target = Target::parse(Some("x86_64-unknown-linux-gnu"), cpu).expect("known");
    target.runs_here().then(|| Options { share_all: true, ..Options::new(target, "m") })
}

fn floats(g: &IntGraph, seed: u64) -> Vec<Tensor> {
    let mut random = Random::new(seed);
    let ports = g.inputs.iter().map(|p| {
        let shape = boundary::f32_shape(g, p).expect("port");
        let scale = g.ty(p.node).qparams().expect("input").tensor_scale().expect("per tensor");
        let values: Vec<f32> =
            (0..shape.count()).map(|_| (random.below(600) as f32 - 300.0) * 0.5 * scale).collect();
        Tensor::from_f32(shape, values).expect("count")
    });
    ports.collect()
}

/// Pools of two and three threads. The random layers are small: they are shared all the same.
fn pools() -> [Option<Arc<Pool>>; 3] {
    [1, 2, 3].map(|n| (n > 1).then(|| Arc::new(Pool::new(n).expect("threads"))))
}

/// `GOSHAWK_GRAPHS` sets the number of graphs.
fn jit(cpu: &str) {
    let Some(options) = options(cpu) else { return };
    let graphs = std::env::var("GOSHAWK_GRAPHS").ok().and_then(|n| n.parse().ok()).unwrap_or(GRAPHS);
    let pools = pools();
    for seed in 0..graphs {
        let g = graph(seed);
        let fail = |what: &str| panic!("seed {seed}, {cpu}: {what}\n{}", text::print(&g));
        let memory = codegen::arena(&g, &options).expect("plan");
        memory::check(&g, &memory).unwrap_or_else(|e| panic!("seed {seed}, {cpu}: {e}"));
        let mut model = codegen::jit(&g, &memory, &options).unwrap_or_else(|e| fail(&e.to_string()));
        let (ints, floats) = (generate::inputs(&g, seed), floats(&g, seed));
        let want = int::run(&g, &ints).expect("interpreter");
        let want_f32 = boundary::run_f32(&g, &floats).expect("interpreter");
        for (threads, pool) in pools.iter().enumerate() {
            model.set_pool(pool.clone());
            let got = model.run(&ints).expect("run");
            if let Some(i) = (0..want.len()).find(|i| got[*i] != want[*i]) {
                let name = &g.node(g.outputs[i].node).name;
                let values = format!("{:?} instead of {:?}", got[i].to_ints(), want[i].to_ints());
                fail(&format!("%{name} differs on {} threads: {values}", threads + 1));
            }
            if model.run_f32(&floats).expect("run") != want_f32 {
                fail(&format!("f32 outputs differ on {} threads", threads + 1));
            }
        }
    }
}

#[test]
fn jit_x86_64() {
    jit("x86-64");
}

#[test]
fn jit_x86_64_v2() {
    jit("x86-64-v2");
}

#[test]
fn jit_x86_64_v3() {
    jit("x86-64-v3");
}

#[test]
fn jit_x86_64_v4() {
    jit("x86-64-v4");
}

#[test]
fn jit_avx512vnni() {
    jit("avx512vnni");
}

#[test]
fn jit_avx512vbmi() {
    jit("avx512vbmi");
}

#[test]
fn jit_avxvnni() {
    jit("avxvnni");
}

#[test]
fn jit_vnni_on_256_bits() {
    jit("x86-64-v3+avx512vnni");
}

/// The random graphs must contain what they are to test.
#[test]
fn residual_sums_are_joined() {
    let target = Target::parse(Some("x86_64-unknown-linux-gnu"), "avx512vnni").expect("known");
    let options = Options::new(target, "m");
    let joins = |seed| codegen::arena(&graph(seed), &options).expect("plan").joins;
    let all: Vec<_> = (0..GRAPHS).flat_map(joins).collect();
    let twice = all.iter().filter(|j| j.requant.is_some()).count();
    assert!(all.len() >= 50 && twice >= 10, "{} joins, {twice} with a second result", all.len());
}

/// The object of a graph with an info block.
fn object(g: &IntGraph, options: &Options) -> Vec<u8> {
    let memory = codegen::arena(g, options).expect("plan");
    let plan = codegen::plan(g, &memory, options).expect("plan");
    let origin = Origin {
        model_sha256: String::new(),
        levels: options.levels().map(Target::isa).collect(),
        arena_bytes: plan.arena_bytes,
        arena_lower_bound: memory.lower_bound,
    };
    let network = Network::new(g, CName::new("m").expect("usable"), origin).expect("ports");
    let info = info::block(&network, "{}").expect("small");
    let options = Options { info, ..options.clone() };
    codegen::object(g, &memory, &options).expect("object").bytes
}

#[test]
fn shared_libraries() {
    let levels = ["x86-64", "x86-64-v3", "avx512vnni"];
    let dir = tempfile::tempdir().expect("temporary folder");
    for seed in 0..GRAPHS {
        let Some(options) = options(levels[seed as usize % levels.len()]) else { continue };
        let g = graph(seed);
        let path = dir.path().join(format!("libm{seed}.so"));
        let bytes = shared::link(&object(&g, &options), "libm.so").expect("link");
        std::fs::write(&path, bytes).expect("write");
        let library = Library::open(&path).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let inputs = generate::inputs(&g, seed);
        let bytes: Vec<Vec<u8>> = inputs.iter().map(Tensor::to_bytes).collect();
        let slices: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
        assert_eq!(library.level(), Some(0));
        let got = library.run(&slices).expect("run");
        let want: Vec<_> = int::run(&g, &inputs).expect("interpreter").iter().map(Tensor::to_bytes).collect();
        assert!(got == want, "seed {seed}\n{}", text::print(&g));
        let inputs = floats(&g, seed);
        let slices: Vec<&[f32]> = inputs.iter().map(|t| t.as_f32().expect("f32")).collect();
        let want = boundary::run_f32(&g, &inputs).expect("interpreter");
        for (got, want) in library.run_f32(&slices).expect("run").iter().zip(&want) {
            assert!(got == want.as_f32().expect("f32"), "seed {seed}\n{}", text::print(&g));
        }
        std::fs::remove_file(path).expect("remove");
    }
}

/// Code for a CPU that this one is not refuses to run, with an error instead of a signal.
#[test]
fn missing_cpu_features_are_reported() {
    let g = graph(1);
    for cpu in ["avxvnni", "x86-64-v4+avxvnni", "avx512vbmi"] {
        let target = Target::parse(Some("x86_64-unknown-linux-gnu"), cpu).expect("known");
        if target.runs_here() {
            continue;
        }
        let options = Options::new(target, "m");
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("libm.so");
        let bytes = shared::link(&object(&g, &options), "libm.so").expect("link");
        std::fs::write(&path, bytes).expect("write");
        let library = Library::open(&path).expect("open");
        let inputs: Vec<Vec<u8>> = generate::inputs(&g, 1).iter().map(Tensor::to_bytes).collect();
        let slices: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        // Twice: the first call looks at the CPU, the second one at the answer that was kept.
        for _ in 0..2 {
            assert!(matches!(library.run(&slices), Err(RunError::Isa(_))), "{cpu}");
        }
    }
}

/// Several levels in one library: the best one that this CPU has runs, whatever else is in it; none is an error.
#[test]
fn levels_are_chosen_at_run_time() {
    let native = Target::native().expect("a supported machine");
    let dir = tempfile::tempdir().expect("temporary folder");
    let x64 = Some("x86_64-unknown-linux-gnu");
    let missing: Vec<&str> = ["avxvnni", "x86-64-v4+avxvnni", "avx512vbmi", "avx512vnni", "x86-64-v3"]
        .into_iter()
        .filter(|cpu| !Target::parse(x64, cpu).expect("known").runs_here())
        .collect();
    let pools = pools();
    for (n, cpus) in ["x86-64-v3,avx512vnni", "x86-64,x86-64-v2", "x86-64-v3", "x86-64,x86-64-v3,x86-64-v4"]
        .into_iter()
        .flat_map(|cpus| {
            std::iter::once(cpus.to_owned()).chain(missing.iter().map(move |m| format!("{cpus},{m}")))
        })
        .chain(missing.iter().map(|m| (*m).to_owned()))
        .enumerate()
    {
        let levels = Target::parse_levels(x64, &cpus).expect(&cpus);
        let here = levels.iter().position(Target::runs_here);
        if let Some(i) = here {
            assert!(levels[..i].iter().all(|l| !l.features().all(|f| native.has(f))), "{cpus}");
        }
        let options = Options::for_levels(&levels, "m").expect("levels");
        let options = Options { share_all: true, ..options };
        for seed in (n as u64..60).step_by(12) {
            let g = graph(seed);
            let memory = codegen::arena(&g, &options).expect("plan");
            let path = dir.path().join(format!("libm{n}_{seed}.so"));
            std::fs::write(&path, shared::link(&object(&g, &options), "libm.so").expect("link"))
                .expect("write");
            let library = Library::open(&path).unwrap_or_else(|e| panic!("{cpus} {seed}: {e}"));
            assert_eq!(library.info().levels, levels.iter().map(Target::isa).collect::<Vec<_>>());
            let inputs = generate::inputs(&g, seed);
            let bytes: Vec<Vec<u8>> = inputs.iter().map(Tensor::to_bytes).collect();
            let slices: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
            // Before and after the first run, which keeps what it finds out.
            assert_eq!(library.level(), here, "{cpus}");
            let Some(level) = here else {
                let error = library.run(&slices).expect_err("no level runs here");
                assert!(
                    matches!(&error, RunError::Isa(isas) if levels.iter().all(|l| isas.contains(&l.isa())))
                );
                assert_eq!(library.level(), None);
                assert!(codegen::jit(&g, &memory, &options).is_err());
                continue;
            };
            let want = int::run(&g, &inputs).expect("interpreter");
            let want_bytes: Vec<_> = want.iter().map(Tensor::to_bytes).collect();
            for pool in &pools {
                let mut session = library.session();
                if let Some(pool) = pool {
                    session = session.pool(Arc::clone(pool));
                }
                let mut got: Vec<Vec<u8>> = want_bytes.iter().map(|b| vec![0; b.len()]).collect();
                let mut outputs: Vec<&mut [u8]> = got.iter_mut().map(Vec::as_mut_slice).collect();
                session.run(&slices, &mut outputs).expect("run");
                assert!(got == want_bytes, "{cpus} seed {seed}\n{}", text::print(&g));
            }
            assert_eq!(library.level(), here, "{cpus}");
            let jit = codegen::jit(&g, &memory, &options).expect("a level runs here");
            assert!(jit.run(&inputs).expect("run") == want, "{cpus} seed {seed}");
            assert_eq!(jit.arena_bytes(), library.info().arena_bytes);
            let alone = codegen::plan(&g, &memory, &Options::new(levels[level].clone(), "m"));
            assert_eq!(
                jit.layers,
                alone.expect("plan").layers,
                "{cpus}: the report is that of the level that runs"
            );
        }
    }
}

/// Cross-compiled objects: every graph has code, which links without any other library.
#[test]
fn aarch64_objects() {
    for (i, cpu) in ["generic", "generic+dotprod", "generic+i8mm"].into_iter().enumerate() {
        let target = Target::parse(Some("aarch64-unknown-linux-gnu"), cpu).expect("known");
        let options = Options::new(target, "m");
        for seed in (i as u64..150).step_by(3) {
            let bytes = object(&graph(seed), &options);
            shared::link(&bytes, "libm.so").unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        }
    }
}
