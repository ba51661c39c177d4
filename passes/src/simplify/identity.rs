//! Removes operators that give back their operand: a Reshape to the same shape, a Transpose that moves nothing, a
//! Slice of the whole, padding by nothing, a Concat of one tensor, a pool over one cell, a Resize to the same size, a
//! reduction over axes of length 1, an empty chain of functions. A reduction over axes of length 1 that drops them
//! becomes a Reshape.
//!
//! A network output whose value is also a network input, a constant or another output stays a node of its own, as a
//! Reshape to the same shape, so that the caller's buffers stay distinct.
use crate::rewrite::bypass;
use goshawk_ir::{
    FloatGraph, FloatOp, NodeId, Result,
    op::float::{Reduce, Reshape, Resize, ResizeMode},
    op::window::PoolWindow,
    resize,
};

/// Runs the pass.
///
/// # Errors
/// The graph has a cycle.
pub fn run(g: &mut FloatGraph) -> Result<()> {
    for id in g.topo_order()? {
        if drops_unit_axes(g, id) {
            let shape = g.ty(id).shape.to_vec();
            g.node_mut(id).op = FloatOp::Reshape(Reshape { shape });
        }
        if !is_identity(g, id) {
            continue;
        }
        let source = g.node(id).operands()[0];
        let source_is_port =
            g.is_output(source) || g.node(source).op.eq(&FloatOp::Input) || g.constant(source).is_some();
        if g.is_output(id) && source_is_port {
            let shape = g.ty(id).shape.to_vec();
            g.node_mut(id).op = FloatOp::Reshape(Reshape { shape });
        } else {
            bypass(g, id, source);
        }
    }
    g.remove_dead();
    Ok(())
}

/// A reduction over axes of length 1 that does not keep them.
fn drops_unit_axes(g: &FloatGraph, id: NodeId) -> bool {
    match &g.node(id).op {
        FloatOp::ReduceMean(a) | FloatOp::ReduceMax(a) | FloatOp::ReduceSum(a) => {
            !a.keep_dims && reduces_nothing(g, id, a)
        }
        _ => false,
    }
}

fn reduces_nothing(g: &FloatGraph, id: NodeId, a: &Reduce) -> bool {
    let x = &g.ty(g.node(id).operands()[0]).shape;
    a.axes.iter().all(|axis| x[*axis] == 1)
}

fn is_identity(g: &FloatGraph, id: NodeId) -> bool {
    let node = g.node(id);
    let Some(first) = node.operands().first() else { return false };
    let x = &g.ty(*first).shape;
    match &node.op {
        FloatOp::Unary(a) => a.chain.is_empty(),
        FloatOp::Reshape(_) => *x == node.ty.shape,
        // Only unit dimensions move, and the shape is the same afterwards.
        FloatOp::Transpose(a) => {
            *x == node.ty.shape && {
                let moved: Vec<_> = a.perm.iter().filter(|p| x[**p] > 1).collect();
                moved.is_sorted()
            }
        }
        FloatOp::Slice(a) => {
            *x == node.ty.shape && (0..x.rank()).all(|i| a.start[i] == 0 && (a.step[i] == 1 || x[i] == 1))
        }
        FloatOp::Pad(a) => a.before.iter().chain(&a.after).all(|n| *n == 0),
        FloatOp::Concat(_) => node.operands().len() == 1,
        FloatOp::MaxPool(w) | FloatOp::AvgPool(w) => is_unit_pool(w),
        FloatOp::ReduceMean(a) | FloatOp::ReduceMax(a) | FloatOp::ReduceSum(a) => {
            (a.keep_dims || a.axes.is_empty()) && reduces_nothing(g, id, a)
        }
        FloatOp::Resize(a) => x.dims4().is_ok_and(|[_, _, h, w]| resizes_nothing(a, [h, w])),
        FloatOp::DepthToSpace(a) => a.block == 1,
        FloatOp::Input
        | FloatOp::Const(_)
        | FloatOp::Conv(_)
        | FloatOp::BatchNorm(_)
        | FloatOp::Linear(_)
        | FloatOp::MatMul(_)
        | FloatOp::PRelu(_)
        | FloatOp::Binary(_)
        | FloatOp::Softmax(_) => false,
    }
}

fn is_unit_pool(w: &PoolWindow) -> bool {
    w.kernel == [1, 1] && w.stride == [1, 1] && w.pads == [0; 4]
}

/// Asks the coordinate rules themselves: not every rule is the identity at scale 1.
fn resizes_nothing(a: &Resize, input: [usize; 2]) -> bool {
    let axis = |i: usize| match a.mode {
        ResizeMode::Nearest => resize::nearest(a.coordinates, a.nearest, input[i], a.size[i], a.scale[i])
            .into_iter()
            .eq(0..input[i]),
        ResizeMode::Linear => resize::linear(a.coordinates, input[i], a.size[i], a.scale[i])
            .iter()
            .enumerate()
            .all(|(out, (low, _, weight))| *low == out && *weight == 0.0),
    };
    a.size == input && axis(0) && axis(1)
}
