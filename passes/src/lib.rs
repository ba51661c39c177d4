//! goshawk's graph passes. One pass is one file; [`pipeline`] is the readable list of those on the float graph.
//!
//! Architecture invariants: no ONNX, no Cranelift, no files, no terminal.
#![forbid(unsafe_code)]

pub mod bn_fold;
pub mod fuse;
pub mod pipeline;
mod rewrite;
pub mod simplify;
