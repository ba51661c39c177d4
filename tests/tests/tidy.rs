//! House rules that the compiler does not check: dependency direction, file budgets, headers, SAFETY comments,
//! no panics in library code that faces user input, nothing of the workplace in the tree.
#![allow(clippy::print_stdout)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Files aim at 300 lines; beyond this they are split.
const MAX_LINES: usize = 800;

/// Which of our crates each crate may use (ARCHITECTURE.md, "Code map").
const EDGES: &[(&str, &[&str])] = &[
    ("ir", &[]),
    ("passes", &["ir"]),
    ("runtime", &[]),
    ("compiler", &["ir", "passes", "runtime"]),
    ("tests", &["ir", "passes", "runtime", "compiler"]),
];

/// Folders whose code may be `unsafe`: runtime, code emission and JIT calls.
const UNSAFE_ALLOWED: &[&str] = &["runtime/", "compiler/src/codegen/", "tests/"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate has a parent folder").to_owned()
}

/// Every file of the tree below `dir` that git would carry, by path relative to the root.
fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> =
        fs::read_dir(dir).expect("readable folder").map(|e| e.expect("entry").path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().expect("name").to_string_lossy().into_owned();
        if path.is_dir() {
            if !["target", ".git", ".venv", "__pycache__"].contains(&name.as_str()) {
                files(&path, found);
            }
        } else {
            found.push(path);
        }
    }
}

/// (relative path, text) of every Rust file.
fn rust_files() -> BTreeMap<String, String> {
    let root = root();
    let mut found = Vec::new();
    files(&root, &mut found);
    found
        .into_iter()
        .filter(|p| p.extension().is_some_and(|e| e == "rs"))
        .map(|p| {
            let text = fs::read_to_string(&p).expect("UTF-8 source");
            (p.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned(), text)
        })
        .collect()
}

fn report(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

#[test]
fn dependencies_point_one_way() {
    let mut offences = Vec::new();
    for (krate, allowed) in EDGES {
        let manifest = fs::read_to_string(root().join(krate).join("Cargo.toml")).expect("manifest");
        for (other, _) in EDGES {
            let uses = manifest.lines().any(|l| l.starts_with(&format!("goshawk-{other}")));
            if uses && !allowed.contains(other) {
                offences.push(format!("{krate} must not depend on {other}"));
            }
        }
        if ["ir", "passes"].contains(krate) {
            for foreign in ["cranelift", "prost", "clap", "tract", "image", "npyz"] {
                if manifest.lines().any(|l| l.starts_with(foreign)) {
                    offences.push(format!("{krate} must not depend on {foreign}"));
                }
            }
        }
    }
    report("dependencies point one way", &offences);
}

#[test]
fn ir_and_passes_do_no_io() {
    let offences: Vec<_> = rust_files()
        .iter()
        .filter(|(path, _)| path.starts_with("ir/src") || path.starts_with("passes/src"))
        .flat_map(|(path, text)| {
            ["std::fs", "std::io", "std::thread", "std::net", "println!", "std::env"]
                .into_iter()
                .filter(|word| text.contains(word))
                .map(move |word| format!("{path} uses {word}"))
        })
        .collect();
    report("ir and passes see no files, threads or terminal", &offences);
}

#[test]
fn files_are_small() {
    let mut sizes: Vec<_> = rust_files().iter().map(|(p, t)| (t.lines().count(), p.clone())).collect();
    sizes.sort();
    let total: usize = sizes.iter().map(|(n, _)| n).sum();
    println!("{} files, {total} lines, median {}", sizes.len(), sizes[sizes.len() / 2].0);
    for (lines, path) in sizes.iter().rev().filter(|(n, _)| *n > 300).take(20) {
        println!("  {lines:5} {path}");
    }
    let offences: Vec<_> =
        sizes.iter().filter(|(n, _)| *n > MAX_LINES).map(|(n, p)| format!("{p} has {n} lines")).collect();
    report(&format!("no file has more than {MAX_LINES} lines"), &offences);
}

#[test]
fn files_say_what_they_are() {
    let offences: Vec<_> = rust_files()
        .iter()
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(path, _)| path.clone())
        .collect();
    report("every file starts with a //! header", &offences);
}

#[test]
fn unsafe_stays_where_it_belongs() {
    let mut offences = Vec::new();
    for (path, text) in rust_files() {
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            let block = code.contains("unsafe {") || code.contains("unsafe impl");
            if !block || path.ends_with("tidy.rs") {
                continue;
            }
            if !UNSAFE_ALLOWED.iter().any(|dir| path.starts_with(dir)) && !path.ends_with("tests.rs") {
                offences.push(format!("{path}:{}: unsafe outside {UNSAFE_ALLOWED:?}", i + 1));
            }
            if !lines[i.saturating_sub(8)..=i].iter().any(|l| l.contains("SAFETY:")) {
                offences.push(format!("{path}:{}: unsafe without a SAFETY comment", i + 1));
            }
        }
    }
    report("unsafe code is confined and argued", &offences);
}

/// Library code never panics on purpose; invariants use `expect("why it holds")`.
#[test]
fn libraries_do_not_panic() {
    let mut offences = Vec::new();
    for (path, text) in rust_files() {
        let library =
            ["ir/src", "passes/src", "compiler/src", "runtime/src"].iter().any(|d| path.starts_with(d));
        if !library || path.ends_with("tests.rs") || path.contains("/tests/") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or("");
        for (i, line) in code.lines().enumerate() {
            let line = line.split("//").next().unwrap_or("");
            for word in [".unwrap()", "panic!(", "todo!(", "unimplemented!("] {
                if line.contains(word) {
                    offences.push(format!("{path}:{}: {word}", i + 1));
                }
            }
        }
    }
    report("libraries return errors", &offences);
}

#[test]
fn documents_exist_and_name_each_other() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap_or_default();
    let mut offences = Vec::new();
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE"]
    {
        if read(name).len() < 200 {
            offences.push(format!("{name} is missing or empty"));
        }
    }
    for (krate, _) in EDGES {
        if !read("ARCHITECTURE.md").contains(&format!("`{krate}/")) {
            offences.push(format!("ARCHITECTURE.md does not describe {krate}/"));
        }
    }
    let test_command = fs::read_to_string(root().join(".ci/run")).unwrap_or_default();
    let readme = read("README.md");
    let command = readme.lines().find(|l| l.starts_with("cargo test"));
    match command {
        Some(c) if test_command.contains(c) => {}
        Some(c) => offences.push(format!(".ci/run does not run README's test command: {c}")),
        None => offences.push("README.md gives no test command".into()),
    }
    report("documents are complete", &offences);
}
