//! Helpers shared by goshawk's integration tests.
pub mod generate;
