//! Runs `tests/filetests/**/*.gir` with the interpreter and with native code for every CPU level that runs here; the
//! format is described in [`goshawk_tests::filetest`]. `UPDATE_EXPECT=1` rewrites the expectations.
use goshawk_compiler::codegen::{self, Target};
use goshawk_ir::{IntGraph, Tensor};
use goshawk_tests::filetest::{Backend, check};
use libtest_mimic::{Arguments, Failed, Trial};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

const CPUS: [&str; 7] =
    ["x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", "avx512vnni", "avx512vbmi", "generic"];

fn native(cpu: &'static str) -> Option<Backend> {
    let target = Target::parse(None, cpu).ok().filter(Target::runs_here)?;
    let run = move |g: &IntGraph, inputs: &[Tensor]| {
        let options = codegen::Options::new(target.clone(), "filetest");
        let memory = codegen::arena(g, &options).map_err(|e| e.to_string())?;
        let model = codegen::jit(g, &memory, &options).map_err(|e| e.to_string())?;
        model.run(inputs).map(Some).map_err(|e| e.to_string())
    };
    Some(Backend { name: cpu.into(), run: Box::new(run) })
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for path in entries.map(|e| e.expect("a readable folder").path()) {
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "gir") {
            found.push(path);
        }
    }
}

fn one(path: &Path, backends: &[Backend]) -> Result<(), Failed> {
    let text = fs::read_to_string(path)?;
    let outcome = check(&text, backends)?;
    if std::env::var_os("UPDATE_EXPECT").is_some_and(|v| v == "1") {
        if outcome.updated != text {
            fs::write(path, outcome.updated)?;
        }
        return Ok(());
    }
    if outcome.failures.is_empty() { Ok(()) } else { Err(outcome.failures.join("\n").into()) }
}

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("filetests");
    let mut paths = Vec::new();
    files(&root, &mut paths);
    paths.sort();
    let backends: Arc<Vec<Backend>> = Arc::new(
        std::iter::once(Backend::interpreter()).chain(CPUS.into_iter().filter_map(native)).collect(),
    );
    let trials = paths
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
            let backends = Arc::clone(&backends);
            Trial::test(name, move || one(&path, &backends))
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
