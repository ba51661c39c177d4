//! Moves a Clip up over operators that only select or move elements (max pool, Concat, Reshape, Transpose, Slice,
//! DepthToSpace, nearest Resize, maxima, padding with a value inside the bounds), when a layer into which it can be
//! fused waits above on every path. Clip is monotone, so it commutes with a maximum; it commutes with moving elements
//! trivially.
//!
//! Fused, the clamp also keeps the calibrated range of the layer's result from covering values that are cut off later.
use super::activation::takes_clamp;
use crate::rewrite::{add_op, bypass};
use goshawk_ir::{
    FloatGraph, FloatOp, NodeId, Result,
    op::float::{Clamp, ResizeMode, Unary, UnaryFn},
};

/// Runs the pass.
///
/// # Errors
/// The graph has a cycle.
pub fn run(g: &mut FloatGraph) -> Result<()> {
    for id in g.topo_order()? {
        let FloatOp::Unary(unary) = &g.node(id).op else { continue };
        let Some(UnaryFn::Clip(clip)) = unary.chain.first().copied() else { continue };
        let rest = unary.chain[1..].to_vec();
        let source = g.node(id).operands()[0];
        if takes_clamp(&g.node(source).op) || !reaches_layers(g, source, clip) {
            continue;
        }
        push_up(g, source, clip)?;
        if rest.is_empty() {
            bypass(g, id, source);
        } else {
            g.node_mut(id).op = FloatOp::Unary(Unary { chain: rest });
        }
    }
    g.remove_dead();
    Ok(())
}

/// Whether every path upwards ends in a layer that takes the clamp, over operators that it commutes with, none of whose
/// results is read by anything else.
fn reaches_layers(g: &FloatGraph, id: NodeId, clip: Clamp) -> bool {
    let node = g.node(id);
    g.only_user(id).is_some()
        && (takes_clamp(&node.op)
            || (commutes(&node.op, clip) && node.operands().iter().all(|o| reaches_layers(g, *o, clip))))
}

fn push_up(g: &mut FloatGraph, id: NodeId, clip: Clamp) -> Result<()> {
    for (position, operand) in g.node(id).operands().to_vec().into_iter().enumerate() {
        if takes_clamp(&g.node(operand).op) {
            let base = format!("{}.clip", g.node(operand).name);
            let unary = FloatOp::Unary(Unary { chain: vec![UnaryFn::Clip(clip)] });
            let clipped = add_op(g, &base, unary, &[operand])?;
            g.set_operand(id, position, clipped);
        } else {
            push_up(g, operand, clip)?;
        }
    }
    Ok(())
}

fn commutes(op: &FloatOp, clip: Clamp) -> bool {
    match op {
        FloatOp::Pad(a) => clip.apply(a.value) == a.value,
        FloatOp::Resize(a) => a.mode == ResizeMode::Nearest,
        FloatOp::MaxPool(_)
        | FloatOp::Concat(_)
        | FloatOp::Reshape(_)
        | FloatOp::Transpose(_)
        | FloatOp::Slice(_)
        | FloatOp::DepthToSpace(_)
        | FloatOp::ReduceMax(_) => true,
        FloatOp::Input
        | FloatOp::Const(_)
        | FloatOp::Conv(_)
        | FloatOp::BatchNorm(_)
        | FloatOp::Linear(_)
        | FloatOp::MatMul(_)
        | FloatOp::Unary(_)
        | FloatOp::PRelu(_)
        | FloatOp::Binary(_)
        | FloatOp::AvgPool(_)
        | FloatOp::ReduceMean(_)
        | FloatOp::ReduceSum(_)
        | FloatOp::Softmax(_) => false,
    }
}
