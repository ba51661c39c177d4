//! The stages strung together: compile, evaluate, compare, bench.
pub mod parallel;
pub mod progress;
