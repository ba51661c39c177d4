//! Runs the system's C compiler and other tools, for tests that need them.
use std::{
    path::Path,
    process::{Command, Output},
};

/// Whether the program is installed. If not, says on standard error which test is skipped: a test that cannot run is
/// neither passed in silence nor failed.
pub fn have(program: &str, test: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    if !found {
        eprintln!("SKIPPED {test}: {program} is not installed");
    }
    found
}

/// Runs a command in `dir`; its output.
///
/// # Panics
/// The command cannot be started or fails; the message has all that it said.
pub fn run(dir: &Path, program: &str, args: &[&str]) -> Output {
    let output = Command::new(program)
        .current_dir(dir)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("cannot run {program}: {e}"));
    assert!(
        output.status.success(),
        "{program} {} failed ({})\n{}{}",
        args.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Flags under which headers and programs must compile as C.
pub const C99: &[&str] = &["-std=c99", "-O1", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Werror"];
/// Flags under which they must compile as C++.
pub const CXX11: &[&str] =
    &["-x", "c++", "-std=c++11", "-O1", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Werror"];
