//! goshawk's intermediate representations.
//!
//! Two graphs share one structure ([`Graph`]): [`FloatGraph`] is what an ONNX model becomes (NCHW, f32),
//! [`IntGraph`] is what is compiled (NHWC, integers only). Every node has exactly one result, so a value is
//! named by its node. The integer interpreter ([`interp::int`]) is the *normative* semantics: every kernel and
//! every pass is tested for byte equality with it.
//!
//! Architecture invariants: this crate knows nothing of ONNX, Cranelift, files, threads or the terminal.
#![forbid(unsafe_code)]

pub mod attr;
pub mod dtype;
pub mod error;
pub mod graph;
pub mod infer;
pub mod interp;
pub mod op;
pub mod quant;
pub mod range;
pub mod resize;
pub mod shape;
pub mod tensor;
pub mod text;
pub mod verify;

pub use dtype::DType;
pub use error::{IrError, Result};
pub use graph::{FloatGraph, Graph, IntGraph, Layout, Node, NodeId, Operator, Port, TensorType};
pub use op::{float::FloatOp, int::IntOp};
pub use quant::{Dyadic, QParams, Requant, Scale};
pub use shape::Shape;
pub use tensor::Tensor;
