//! The stages strung together: compile, evaluate, compare, bench.
//!
//! [`model`] goes from a file to a quantized network, [`build`] from there to artefacts; [`eval`], [`diff`],
//! [`bench`], [`layers`] and [`run`] execute what was made. The `goshawk` command only parses options and prints; everything else is here,
//! for tests and Rust callers.
pub mod allocate;
pub mod bench;
pub mod bits_file;
pub mod build;
pub mod cache;
pub mod costs;
pub mod diff;
pub mod engine;
pub mod eval;
pub mod layers;
pub mod machine;
pub mod model;
pub mod parallel;
pub mod profile;
pub mod progress;
pub mod run;
pub mod sensitivity;
pub mod tune;
