//! Helpers shared by goshawk's integration tests.

pub mod assets;
pub mod cc;
pub mod filetest;
pub mod generate;
pub mod guard;
pub mod interpret;
pub mod models;
pub mod nets;
pub mod subjects;
pub mod whole;
