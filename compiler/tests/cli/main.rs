//! The real `goshawk` binary in temporary folders: what works, what is refused and how.
mod bad_input;
mod commands;
mod model;
mod sensitivity;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output},
};
use tempfile::TempDir;

/// A folder with a model, calibration data and what a test adds.
pub struct Place(TempDir);

impl Place {
    /// `model.onnx` and 16 labelled samples `x.npy`.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a temporary folder"));
        place.save("model.onnx", model::bytes(&model::residual()));
        place.save("x.npy", model::samples(16));
        place
    }

    /// Path of a file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file.
    pub fn save(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(name), bytes).expect("written");
        self.path(name)
    }

    /// Reads a file.
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Names of all files.
    pub fn list(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.0.path())
            .expect("readable")
            .map(|e| e.expect("readable").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Runs goshawk in the folder; the arguments are split at spaces.
    pub fn goshawk(&self, args: &str) -> Output {
        self.goshawk_args(&args.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs goshawk in the folder.
    pub fn goshawk_args<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        command(self.0.path()).args(args).output().expect("goshawk starts")
    }

    /// Runs goshawk and returns what it prints; fails the test unless it succeeds.
    pub fn ok(&self, args: &str) -> String {
        let output = self.goshawk(args);
        assert!(output.status.success(), "goshawk {args}\n{}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(text(&output.stderr), "", "goshawk {args}: silent in a pipe");
        text(&output.stdout)
    }

    /// As [`Place::ok`] with `--json`, parsed.
    pub fn json(&self, args: &str) -> serde_json::Value {
        serde_json::from_str(&self.ok(&format!("{args} --json"))).expect("one JSON document")
    }
}

/// goshawk, to be run in a folder.
pub fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_goshawk"));
    command.current_dir(folder);
    command
}

/// What a program printed.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
