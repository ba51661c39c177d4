//! The C interface of compiled networks: every artefact form is linked into a C program and compared with the
//! interpreter byte for byte; no read or write outside the buffers, no shared state, no stack beyond the bound.
use goshawk_compiler::{
    artifact::{
        CName,
        bundle::{Bundle, Request, compile},
    },
    codegen::Target,
};
use goshawk_ir::{
    IntGraph, Tensor,
    interp::{boundary, int},
};
use goshawk_runtime::Library;
use goshawk_tests::{
    cc::{self, C99, CXX11},
    generate,
    nets::{self, Numbers},
};
use object::{Object, ObjectSection, ObjectSymbol};
use std::{ffi::OsStr, fs, path::Path};
use tempfile::TempDir;

const PROGRAM: &str = include_str!("../c/abi_test.c");

fn bundle(graph: &IntGraph, target: &Target) -> Bundle {
    compile(Request {
        graph,
        levels: std::slice::from_ref(target),
        prefix: CName::new("net").expect("usable"),
        model_sha256: "0".repeat(64),
        listing: false,
        tuning: goshawk_compiler::codegen::Tuning::default(),
    })
    .expect("compiles")
}

fn native() -> Target {
    Target::native().expect("a supported machine")
}

/// Inputs and what the interpreter makes of them.
struct Expected {
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
    inputs_f32: Vec<Tensor>,
    outputs_f32: Vec<Tensor>,
}

impl Expected {
    fn new(graph: &IntGraph) -> Self {
        let mut n = Numbers::new(42);
        let types: Vec<_> = graph.inputs.iter().map(|p| graph.ty(p.node)).collect();
        let inputs: Vec<_> = types.iter().map(|ty| n.tensor(ty).expect("quantized")).collect();
        let inputs_f32: Vec<_> = graph
            .inputs
            .iter()
            .map(|p| {
                let values = n.floats(graph.ty(p.node)).expect("quantized");
                Tensor::from_f32(boundary::f32_shape(graph, p).expect("valid"), values).expect("its shape")
            })
            .collect();
        let quantized = boundary::quantize_inputs(graph, &inputs_f32).expect("fits");
        let results = int::run(graph, &quantized).expect("runs");
        Self {
            outputs: int::run(graph, &inputs).expect("runs"),
            outputs_f32: boundary::dequantize_outputs(graph, &results).expect("fits"),
            inputs,
            inputs_f32,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let all = [&self.inputs, &self.outputs, &self.inputs_f32, &self.outputs_f32];
        all.into_iter().flatten().flat_map(Tensor::to_bytes).collect()
    }
}

/// A folder with the program's sources and data.
fn workshop(graph: &IntGraph, bundle: &Bundle) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).expect("writable");
    write("net.h", bundle.header.as_bytes());
    write("main.c", PROGRAM.as_bytes());
    write("data", &Expected::new(graph).bytes());
    write("net.o", &bundle.object.bytes);
    write("libarchive_form.a", &bundle.archive().expect("archives"));
    write("libshared_form.so", &bundle.shared("libshared_form.so", None).expect("links"));
    dir
}

/// Compiles the program with `flags` and links it with `library`.
fn build(dir: &Path, program: &str, flags: &[&str], library: &[&str]) {
    let compiler = if flags.contains(&"c++") { "c++" } else { "cc" };
    let object = format!("{program}.o");
    cc::run(dir, compiler, &[flags, &["-c", "main.c", "-o", &object]].concat());
    cc::run(dir, compiler, &[&[&object[..], "-o", program], library, &["-pthread"]].concat());
}

fn every_form(check: impl Fn(&Path, &str), test: &str) {
    if !cc::have("cc", test) {
        return;
    }
    for graph in nets::all().expect("well formed") {
        let bundle = bundle(&graph, &native());
        let dir = workshop(&graph, &bundle);
        let dir = dir.path();
        let mut forms: Vec<(&str, Vec<&str>)> = vec![
            ("object", vec!["net.o"]),
            ("archive", vec!["-L.", "-larchive_form"]),
            ("shared", vec!["-L.", "-lshared_form", "-Wl,-rpath,$ORIGIN"]),
        ];
        let linked = bundle.shared("libcc_form.so", Some(OsStr::new("cc"))).expect("links");
        fs::write(dir.join("libcc_form.so"), linked).expect("writable");
        forms.push(("cc", vec!["-L.", "-lcc_form", "-Wl,-rpath,$ORIGIN"]));
        for (form, library) in forms {
            build(dir, form, C99, &library);
            check(dir, form);
        }
    }
}

#[test]
fn every_form_gives_the_interpreters_bytes() {
    every_form(
        |dir, form| {
            cc::run(dir, &format!("./{form}"), &["values", "data"]);
        },
        "every_form_gives_the_interpreters_bytes",
    );
}

#[test]
fn runs_stay_inside_their_buffers() {
    every_form(
        |dir, form| {
            cc::run(dir, &format!("./{form}"), &["guard", "data"]);
        },
        "runs_stay_inside_their_buffers",
    );
}

#[test]
fn eight_threads_do_not_disturb_each_other() {
    every_form(
        |dir, form| {
            cc::run(dir, &format!("./{form}"), &["threads", "data"]);
        },
        "eight_threads_do_not_disturb_each_other",
    );
}

#[test]
fn executors_of_every_kind_give_the_same_bytes() {
    every_form(
        |dir, form| {
            cc::run(dir, &format!("./{form}"), &["executors", "data"]);
        },
        "executors_of_every_kind_give_the_same_bytes",
    );
}

/// The pool of the header under ThreadSanitizer, which sees its own code though not the network's.
#[test]
fn the_thread_sanitizer_finds_nothing() {
    let test = "the_thread_sanitizer_finds_nothing";
    if !cc::have("cc", test) {
        return;
    }
    let graph = nets::broad().expect("well formed");
    let dir = workshop(&graph, &bundle(&graph, &native()));
    let flags = [C99, &["-fsanitize=thread"]].concat();
    cc::run(dir.path(), "cc", &[&flags[..], &["-c", "main.c", "-o", "tsan.o"]].concat());
    let link = ["-fsanitize=thread", "tsan.o", "-o", "tsan", "net.o", "-pthread"];
    if !std::process::Command::new("cc").current_dir(&dir).args(link).status().is_ok_and(|s| s.success()) {
        eprintln!("SKIPPED {test}: the compiler has no ThreadSanitizer");
        return;
    }
    cc::run(dir.path(), "./tsan", &["executors", "data"]);
}

#[test]
fn the_stack_bound_holds() {
    every_form(
        |dir, form| {
            let output = cc::run(dir, &format!("./{form}"), &["stack", "data"]);
            eprint!("{form} {}", String::from_utf8_lossy(&output.stdout));
        },
        "the_stack_bound_holds",
    );
}

#[test]
fn headers_and_programs_are_also_cpp() {
    let test = "headers_and_programs_are_also_cpp";
    if !cc::have("c++", test) {
        return;
    }
    for graph in nets::all().expect("well formed") {
        let dir = workshop(&graph, &bundle(&graph, &native()));
        build(dir.path(), "cpp", CXX11, &["net.o"]);
        cc::run(dir.path(), "./cpp", &["values", "data"]);
    }
}

#[test]
fn valgrind_finds_nothing() {
    let test = "valgrind_finds_nothing";
    if !cc::have("cc", test) || !cc::have("valgrind", test) {
        return;
    }
    for graph in nets::all().expect("well formed") {
        // Valgrind does not know AVX-512.
        let target = Target::parse(None, if cfg!(target_arch = "x86_64") { "x86-64-v3" } else { "generic" });
        let target = target.expect("known");
        if !target.runs_here() {
            eprintln!("SKIPPED {test}: this CPU lacks {}", target.isa());
            return;
        }
        let dir = workshop(&graph, &bundle(&graph, &target));
        build(dir.path(), "checked", C99, &["-L.", "-lshared_form", "-Wl,-rpath,$ORIGIN"]);
        let flags = ["-q", "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=all"];
        cc::run(dir.path(), "valgrind", &[&flags[..], &["./checked", "values", "data"]].concat());
    }
}

#[test]
fn libraries_have_four_symbols_and_no_loose_ends() {
    for triple in ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"] {
        for graph in nets::all().expect("well formed") {
            let target = Target::parse(Some(triple), "").expect("known");
            let library = bundle(&graph, &target).shared("libnet.so", None).expect("links");
            let file = object::File::parse(&*library).expect("an ELF file");
            let mut names: Vec<_> = file.dynamic_symbols().filter_map(|s| s.name().ok()).collect();
            names.sort_unstable();
            assert_eq!(names, ["net_info", "net_level", "net_run", "net_run_f32"]);
            assert!(file.dynamic_symbols().all(|s| s.is_definition()), "nothing is undefined");
            assert_eq!(file.dynamic_relocations().map_or(0, Iterator::count), 0, "nothing to relocate");
            assert!(file.symbols().filter(|s| s.is_local()).count() > 3, "profilers see the layers");
            for name in [".eh_frame_hdr", ".eh_frame", ".gnu.hash", ".hash", ".note.gnu.build-id"] {
                assert!(file.section_by_name(name).is_some_and(|s| s.size() > 0), "{triple} {name}");
            }
        }
    }
}

#[test]
fn the_loader_runs_what_was_compiled() {
    for graph in nets::all().expect("well formed") {
        let expected = Expected::new(&graph);
        let bundle = bundle(&graph, &native());
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("anything.so");
        fs::write(&path, bundle.shared("libnet.so", None).expect("links")).expect("writable");
        let library = Library::open(&path).expect("loads");
        let info = library.info();
        assert_eq!((library.prefix(), &info.name), ("net", &graph.name));
        assert_eq!(info.arena_bytes, bundle.object.arena_bytes);
        assert_eq!(info.stack_bytes, bundle.object.stack_bytes as usize);
        for (t, p) in info.inputs.iter().zip(&graph.inputs).chain(info.outputs.iter().zip(&graph.outputs)) {
            let ty = graph.ty(p.node);
            assert_eq!((&t.name, &t.dims[..], t.bytes()), (&p.name, &ty.shape[..], ty.bytes()));
            assert_eq!(t.f32_dims[..], boundary::f32_shape(&graph, p).expect("valid")[..]);
        }
        let manifest: serde_json::Value = serde_json::from_str(&info.manifest).expect("JSON");
        assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(bundle.manifest.layers.len()));

        let inputs: Vec<_> = expected.inputs.iter().map(Tensor::to_bytes).collect();
        let inputs: Vec<_> = inputs.iter().map(Vec::as_slice).collect();
        let outputs: Vec<_> = expected.outputs.iter().map(Tensor::to_bytes).collect();
        assert_eq!(library.run(&inputs).expect("runs"), outputs);
        let inputs_f32: Vec<_> = expected.inputs_f32.iter().map(|t| t.as_f32().expect("f32")).collect();
        let outputs_f32: Vec<_> = expected.outputs_f32.iter().map(|t| t.as_f32().expect("f32")).collect();
        assert_eq!(library.run_f32(&inputs_f32).expect("runs"), outputs_f32);

        let error = library.run(&inputs[1..]).expect_err("an input is missing");
        assert!(error.to_string().contains("inputs"), "{error}");
        let short: Vec<_> = inputs.iter().map(|i| &i[1..]).collect();
        let error = library.run(&short).expect_err("a byte is missing");
        assert!(error.to_string().contains(&graph.inputs[0].name), "{error}");
    }
}

/// Many runs from several host threads, each with its session and pool: more threads than cores.
#[test]
fn sessions_with_pools_do_not_disturb_each_other() {
    let graph = nets::broad().expect("well formed");
    let expected = Expected::new(&graph);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("libnet.so");
    fs::write(&path, bundle(&graph, &native()).shared("libnet.so", None).expect("links")).expect("writable");
    let library = Library::open(&path).expect("loads");
    let inputs: Vec<_> = expected.inputs.iter().map(Tensor::to_bytes).collect();
    let inputs: Vec<_> = inputs.iter().map(Vec::as_slice).collect();
    let outputs: Vec<_> = expected.outputs.iter().map(Tensor::to_bytes).collect();
    std::thread::scope(|scope| {
        for threads in 1..=4 {
            let (library, inputs, outputs) = (&library, &inputs, &outputs);
            scope.spawn(move || {
                let mut session = library.session().threads(threads).expect("threads");
                for _ in 0..60 {
                    let mut found: Vec<Vec<u8>> = outputs.iter().map(|o| vec![0xa5; o.len()]).collect();
                    let mut slices: Vec<&mut [u8]> = found.iter_mut().map(Vec::as_mut_slice).collect();
                    session.run(inputs, &mut slices).expect("runs");
                    assert!(found == *outputs, "{threads} threads");
                }
            });
        }
    });
    assert!(library.session().threads(0).is_err(), "no threads at all");
}

#[test]
fn the_loader_refuses_what_was_not_compiled() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("lib.so");
    assert!(Library::open(&path).is_err(), "missing");
    fs::write(&path, b"text").expect("writable");
    assert!(Library::open(&path).is_err(), "no ELF");
    let graph = nets::residual().expect("well formed");
    let library = bundle(&graph, &native()).shared("lib.so", None).expect("links");
    for length in [100, 1000, library.len() / 2] {
        fs::write(&path, &library[..length]).expect("writable");
        assert!(Library::open(&path).is_err(), "cut after {length} bytes");
    }
}

/// Random networks through the shared library, at every level of this machine. `GOSHAWK_GRAPHS` sets their number.
#[test]
fn libraries_of_random_networks_give_the_interpreters_bytes() {
    let graphs = std::env::var("GOSHAWK_GRAPHS").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    let cpus: &[&str] = if cfg!(target_arch = "x86_64") {
        &["x86-64", "x86-64-v2", "x86-64-v3", "avx512vnni"]
    } else {
        &["generic", "generic+dotprod"]
    };
    let targets: Vec<_> = cpus.iter().map(|cpu| Target::parse(None, cpu).expect("known")).collect();
    let targets: Vec<_> = targets.iter().filter(|t| t.runs_here()).collect();
    let dir = tempfile::tempdir().expect("a temporary folder");
    for seed in 0..graphs {
        let graph = generate::graph(seed, generate::Options { nodes: 12, elements: 2000, usual: false });
        let inputs = generate::inputs(&graph, seed);
        let expected: Vec<_> =
            int::run(&graph, &inputs).expect("runs").iter().map(Tensor::to_bytes).collect();
        let inputs: Vec<_> = inputs.iter().map(Tensor::to_bytes).collect();
        let inputs: Vec<_> = inputs.iter().map(Vec::as_slice).collect();
        for (level, target) in targets.iter().enumerate() {
            // The loader may take a file of the same name for the same library: every one gets its own.
            let path = dir.path().join(format!("{seed}.{level}.so"));
            fs::write(&path, bundle(&graph, target).shared("libnet.so", None).expect("links"))
                .expect("writable");
            let found = Library::open(&path).expect("loads").run(&inputs).expect("runs");
            assert!(found == expected, "graph {seed} on {} differs", target.isa());
            fs::remove_file(&path).expect("removable");
        }
    }
}
