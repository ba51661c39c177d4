//! Which nodes are layers (have weights whose width can be chosen), and how they are connected.
use goshawk_ir::{FloatGraph, FloatOp, NodeId, Result, op::float::ResizeMode};
use std::collections::BTreeSet;

/// Whether the node multiplies activations with a constant matrix.
pub fn is_layer(graph: &FloatGraph, id: NodeId) -> bool {
    let node = graph.node(id);
    let is_const = |i: usize| node.operands().get(i).is_some_and(|o| graph.constant(*o).is_some());
    match &node.op {
        FloatOp::Conv(_) | FloatOp::Linear(_) => true,
        FloatOp::MatMul(_) => is_const(1) && !is_const(0),
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
        | FloatOp::DepthToSpace(_) => false,
    }
}

/// Whether the result consists of operand values only, so that one quantizer serves both. Concat and Pad add other
/// values and are coupled with more care.
pub fn keeps_quantizer(op: &FloatOp) -> bool {
    match op {
        FloatOp::Slice(_)
        | FloatOp::MaxPool(_)
        | FloatOp::ReduceMax(_)
        | FloatOp::Reshape(_)
        | FloatOp::Transpose(_)
        | FloatOp::Pad(_)
        | FloatOp::Resize(_)
        | FloatOp::DepthToSpace(_) => true,
        FloatOp::Input
        | FloatOp::Const(_)
        | FloatOp::Conv(_)
        | FloatOp::BatchNorm(_)
        | FloatOp::Linear(_)
        | FloatOp::MatMul(_)
        | FloatOp::Unary(_)
        | FloatOp::PRelu(_)
        | FloatOp::Binary(_)
        | FloatOp::Concat(_)
        | FloatOp::AvgPool(_)
        | FloatOp::ReduceMean(_)
        | FloatOp::ReduceSum(_)
        | FloatOp::Softmax(_) => false,
    }
}

/// Whether the operator works on bytes only and hands on its operand's quantizer.
pub fn needs_bytes(op: &FloatOp) -> bool {
    matches!(op, FloatOp::Resize(r) if r.mode == ResizeMode::Linear)
}

/// The value whose quantizer `value` has: back through operators that keep it.
pub fn quantizer_of(graph: &FloatGraph, mut value: NodeId) -> NodeId {
    while keeps_quantizer(&graph.node(value).op)
        && let Some(operand) = graph.node(value).operands().first()
    {
        value = *operand;
    }
    value
}

/// All layers in execution order.
///
/// # Errors
/// The graph has a cycle.
pub fn all(graph: &FloatGraph) -> Result<Vec<NodeId>> {
    Ok(graph.topo_order()?.into_iter().filter(|id| is_layer(graph, *id)).collect())
}

/// The layers at both ends.
pub struct Ends {
    /// Layers that no other layer comes before.
    pub first: BTreeSet<NodeId>,
    /// Layers that no other layer comes behind.
    pub last: BTreeSet<NodeId>,
}

/// Finds the layers at both ends.
///
/// # Errors
/// The graph has a cycle.
pub fn ends(graph: &FloatGraph) -> Result<Ends> {
    let order = graph.topo_order()?;
    let mut behind: BTreeSet<NodeId> = BTreeSet::new();
    for id in &order {
        let operands = graph.node(*id).operands();
        if operands.iter().any(|o| behind.contains(o) || is_layer(graph, *o)) {
            behind.insert(*id);
        }
    }
    let mut before: BTreeSet<NodeId> = BTreeSet::new();
    for id in order.iter().rev() {
        if before.contains(id) || is_layer(graph, *id) {
            before.extend(graph.node(*id).operands());
        }
    }
    let layers = || order.iter().copied().filter(|id| is_layer(graph, *id));
    Ok(Ends {
        first: layers().filter(|id| !behind.contains(id)).collect(),
        last: layers().filter(|id| !before.contains(id)).collect(),
    })
}
