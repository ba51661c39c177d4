//! Helpers shared by goshawk's integration tests.
pub mod assets;
pub mod generate;
