//! What each reader asks of the value that it reads.
use super::layers;
use crate::bits::LayerBits;
use goshawk_ir::{
    FloatGraph, FloatOp, NodeId,
    op::float::{BinaryFn, UnaryFn},
};
use std::collections::BTreeMap;

/// What a reader asks of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// A layer: unsigned values of exactly this many bits.
    Layer(u8),
    /// A byte of up to 8 bits.
    Byte,
    /// A byte or the 16-bit grid, whatever is there.
    Any,
    /// A sum: the residual grid.
    Sum,
    /// The reader hands the quantizer on.
    Through,
    /// A branch of a concatenation.
    Branch,
    /// A constant operand, which the reader quantizes itself.
    Constant,
}

/// What `reader` asks of its operand at `position`.
pub fn read(graph: &FloatGraph, bits: &BTreeMap<String, LayerBits>, reader: NodeId, position: usize) -> Read {
    let node = graph.node(reader);
    let is_const = |i: usize| node.operands().get(i).is_none_or(|o| graph.constant(*o).is_some());
    if is_const(position) {
        return Read::Constant;
    }
    match &node.op {
        FloatOp::Conv(_) | FloatOp::Linear(_) | FloatOp::MatMul(_) => {
            Read::Layer(bits.get(&node.name).map_or(8, |b| b.activations))
        }
        FloatOp::Unary(u) => match u.chain[..] {
            [UnaryFn::Clip(_)] => Read::Any,
            _ => Read::Byte,
        },
        FloatOp::Binary(b) => match b.function {
            _ if is_const(1 - position) && !full_constant(graph, reader, 1 - position) => Read::Byte,
            BinaryFn::Add | BinaryFn::Sub | BinaryFn::Min | BinaryFn::Max => Read::Sum,
            BinaryFn::Mul | BinaryFn::Div | BinaryFn::Pow => Read::Byte,
        },
        FloatOp::Concat(_) => Read::Branch,
        FloatOp::Slice(_)
        | FloatOp::MaxPool(_)
        | FloatOp::ReduceMax(_)
        | FloatOp::Reshape(_)
        | FloatOp::Transpose(_)
        | FloatOp::Pad(_)
        | FloatOp::Resize(_)
        | FloatOp::DepthToSpace(_) => {
            debug_assert!(layers::keeps_quantizer(&node.op));
            Read::Through
        }
        FloatOp::AvgPool(_) | FloatOp::ReduceMean(_) | FloatOp::ReduceSum(_) => Read::Any,
        FloatOp::Input
        | FloatOp::Const(_)
        | FloatOp::BatchNorm(_)
        | FloatOp::PRelu(_)
        | FloatOp::Softmax(_) => Read::Byte,
    }
}

/// Whether the constant operand of a two-operand node varies along more than one dimension (or widens the result), so
/// that it is treated as a tensor instead of as one number per channel.
pub fn full_constant(graph: &FloatGraph, reader: NodeId, position: usize) -> bool {
    let node = graph.node(reader);
    let Some(constant) = node.operands().get(position) else { return false };
    let varying = graph.ty(*constant).shape.iter().filter(|d| **d > 1).count();
    let other = node.operands().get(1 - position).map(|o| &graph.ty(*o).shape);
    varying > 1 || other.is_some_and(|o| o.count() != node.ty.shape.count())
}
