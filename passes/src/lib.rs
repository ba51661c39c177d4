//! goshawk's graph passes. One pass is one file; [`pipeline`] is the readable list of those on the float graph.
//!
//! Architecture invariants: no ONNX, no Cranelift, no files, no terminal.
#![forbid(unsafe_code)]

pub mod allocate;
pub mod bits;
pub mod bn_fold;
pub mod calibrate;
pub mod fuse;
pub mod gradient;
pub mod int_simplify;
pub mod lower;
pub mod memory;
pub mod pipeline;
pub mod quantize;
mod rewrite;
pub mod sensitivity;
pub mod short_multipliers;
pub mod simplify;
