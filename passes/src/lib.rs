//! goshawk's graph passes. One pass is one file; [`pipeline`](crate) is one readable list.
//!
//! Architecture invariants: no ONNX, no Cranelift, no files, no terminal.
#![forbid(unsafe_code)]
