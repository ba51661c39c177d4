//! What `goshawk inspect` tells about a model.
use crate::{Code, Error};
use goshawk_ir::{FloatGraph, FloatOp, NodeId};
use serde::Serialize;
use std::collections::BTreeMap;

/// Facts about a model and everything that keeps goshawk from compiling it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Inspection {
    /// Name of the graph.
    pub name: String,
    /// Program that wrote the file, with its version.
    pub producer: String,
    /// Version of the ONNX file format.
    pub ir_version: i64,
    /// Version of the standard operators.
    pub opset: i64,
    /// Inputs in order.
    pub inputs: Vec<TensorInfo>,
    /// Outputs in order.
    pub outputs: Vec<TensorInfo>,
    /// Nodes in execution order; those that no output depends on are left out.
    pub nodes: Vec<NodeInfo>,
    /// How often each operator occurs.
    pub operators: BTreeMap<String, usize>,
    /// Multiply–accumulates of convolutions and matrix products per run.
    pub macs: u64,
    /// Elements of all constants.
    pub params: u64,
    /// Everything that must change before the model compiles.
    pub unsupported: Vec<Problem>,
    /// What was assumed, such as the batch size.
    pub notes: Vec<String>,
}

/// An input or output.
#[derive(Clone, Debug, Serialize)]
pub struct TensorInfo {
    /// Name.
    pub name: String,
    /// Element type in the model.
    pub elem: String,
    /// Dimensions; `None` where a problem keeps them unknown.
    pub shape: Option<Vec<usize>>,
}

/// A node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeInfo {
    /// Name of the ONNX node; may be empty.
    pub name: String,
    /// ONNX operator.
    pub op: String,
    /// Name of the first result: what bits files and reports call the layer.
    pub output: String,
    /// Shape of the first result; `None` where it is unknown or an integer constant.
    pub shape: Option<Vec<usize>>,
    /// Multiply–accumulates.
    pub macs: u64,
    /// Elements of the constants that this node is the first to read.
    pub params: u64,
}

/// Why a node cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Class of the error, such as 201.
    #[serde(serialize_with = "as_number")]
    pub code: Code,
    /// Name of the ONNX node.
    pub node: String,
    /// ONNX operator.
    pub op: String,
    /// The tensor concerned.
    pub tensor: String,
    /// Why.
    pub reason: String,
    /// What to do.
    pub remedy: Option<String>,
}

fn as_number<S: serde::Serializer>(code: &Code, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&code.to_string())
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} node {:?}, tensor {:?}: {}", self.op, self.node, self.tensor, self.reason)?;
        match &self.remedy {
            Some(r) => write!(f, " ({r})"),
            None => Ok(()),
        }
    }
}

/// One error for all problems. A defect of the model comes before what goshawk lacks.
pub fn error(problems: &[Problem]) -> Option<Error> {
    if let Some(p) = problems.iter().find(|p| p.code != Code::UNSUPPORTED) {
        let e = Error::new(p.code, p.reason.clone())
            .at(format!("{} node {:?}, tensor {:?}", p.op, p.node, p.tensor));
        return Some(match &p.remedy {
            Some(r) => e.help(r.clone()),
            None => e.help("the file is damaged or was written by a defective exporter"),
        });
    }
    let list: Vec<String> = problems.iter().map(|p| format!("\n    {p}")).collect();
    match list.len() {
        0 => None,
        1 => Some(
            Error::new(Code::UNSUPPORTED, "one node of the model is not supported").because(list.concat()),
        ),
        n => Some(
            Error::new(Code::UNSUPPORTED, format!("{n} nodes of the model are not supported"))
                .because(list.concat()),
        ),
    }
}

/// Multiply–accumulates of a node: those of its products of weights and activations.
pub fn macs(graph: &FloatGraph, id: NodeId) -> u64 {
    let node = graph.node(id);
    let per_output = |i: usize, dims: std::ops::Range<usize>| -> u64 {
        let shape = node.operands().get(i).map(|o| &graph.ty(*o).shape[..]).unwrap_or_default();
        shape.get(dims).map_or(0, |d| d.iter().map(|d| *d as u64).product())
    };
    let each = match &node.op {
        FloatOp::Conv(_) => per_output(1, 1..4),
        FloatOp::Linear(_) => per_output(1, 1..2),
        FloatOp::MatMul(_) => {
            let rank = node.operands().first().map_or(0, |o| graph.ty(*o).shape.rank());
            per_output(0, rank.saturating_sub(1)..rank)
        }
        FloatOp::Input
        | FloatOp::Const(_)
        | FloatOp::BatchNorm(_)
        | FloatOp::Unary(_)
        | FloatOp::PRelu(_)
        | FloatOp::Binary(_)
        | FloatOp::Concat(_)
        | FloatOp::Slice(_)
        | FloatOp::MaxPool(_)
        | FloatOp::AvgPool(_)
        | FloatOp::ReduceMean(_)
        | FloatOp::ReduceMax(_)
        | FloatOp::ReduceSum(_)
        | FloatOp::Reshape(_)
        | FloatOp::Transpose(_)
        | FloatOp::Pad(_)
        | FloatOp::Resize(_)
        | FloatOp::Softmax(_)
        | FloatOp::DepthToSpace(_) => 0,
    };
    each.saturating_mul(node.ty.shape.count() as u64)
}
