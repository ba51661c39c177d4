//! The same graph gives the same bytes of every artefact, whatever the folder and however often.
use goshawk_compiler::{
    artifact::{
        CName,
        bundle::{Request, compile},
        manifest::File,
    },
    codegen::Target,
};
use goshawk_tests::{cc, nets};
use std::{collections::BTreeMap, ffi::OsStr};

/// Every artefact of every test network for several targets.
fn artefacts(with_cc: bool) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for graph in nets::all().expect("well formed") {
        for (triple, cpu) in [
            ("x86_64-unknown-linux-gnu", "x86-64"),
            ("x86_64-unknown-linux-gnu", "x86-64-v3"),
            ("x86_64-unknown-linux-gnu", "avx512vnni"),
            ("x86_64-unknown-linux-gnu", "x86-64-v3,avx512vnni"),
            ("aarch64-unknown-linux-gnu", "generic+dotprod"),
        ] {
            let bundle = compile(Request {
                graph: &graph,
                levels: &Target::parse_levels(Some(triple), cpu).expect("known"),
                prefix: CName::from_model_name(&graph.name),
                model_sha256: String::new(),
                listing: true,
                tuning: goshawk_compiler::codegen::Tuning::default(),
            })
            .expect("compiles");
            let mut add = |form: &str, bytes: Vec<u8>| {
                all.insert(format!("{} {triple} {cpu} {form}", graph.name), bytes);
            };
            let shared = bundle.shared("libm.so", None).expect("links");
            add(
                "json",
                bundle.manifest_file(vec![File::new("libm.so", &shared)]).expect("JSON").into_bytes(),
            );
            add("so", shared);
            add("a", bundle.archive().expect("archives"));
            add("h", bundle.header.clone().into_bytes());
            add("s", bundle.object.asm.clone().into_bytes());
            add("gir", goshawk_ir::text::print(&graph).into_bytes());
            if with_cc && triple.starts_with(std::env::consts::ARCH) {
                add("cc so", bundle.shared("libm.so", Some(OsStr::new("cc"))).expect("links"));
            }
            add("o", bundle.object.bytes);
        }
    }
    all
}

#[test]
fn the_folder_and_the_repetition_do_not_matter() {
    let with_cc = cc::have("cc", "determinism of --linker cc");
    let first = artefacts(with_cc);
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::env::set_current_dir(dir.path()).expect("a folder to work in");
    let here = dir.path().to_string_lossy().into_owned();
    for (name, bytes) in artefacts(with_cc) {
        assert!(first[&name] == bytes, "{name} differs");
        let text = String::from_utf8_lossy(&bytes);
        assert!(
            !text.contains(&here) && !text.contains(env!("CARGO_MANIFEST_DIR")),
            "{name} has a path in it"
        );
    }
}
