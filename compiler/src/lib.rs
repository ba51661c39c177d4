//! goshawk's compiler: ONNX in, native integer code out.
//!
//! Data flows one way: [`import`] → passes → [`codegen`] → [`artifact`]; [`data`] reads calibration and test sets;
//! [`driver`] strings the stages together for the `goshawk` command and for Rust callers.
//!
//! Architecture invariant: all files, threads and terminal output of goshawk are in this crate and its binary.

pub mod artifact;
pub mod codegen;
pub mod data;
pub mod driver;
pub mod error;
pub mod explain;
pub mod import;
pub mod ukernel;

pub use error::{Code, Error, Result};
