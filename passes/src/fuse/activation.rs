//! Fuses elementwise functions into the layer before them, where nothing else reads the layer's result. The leading
//! functions of a chain go one by one:
//!
//! - Clip (Relu, Relu6) becomes the clamp of a Conv, Linear or a Binary Add, Sub or Mul: in integers it costs
//!   nothing, it is the bounds of the requantization;
//! - Affine a·x + b scales weights and bias of a Conv or Linear, and moves an existing clamp along.
use super::chain::intersected;
use crate::{bn_fold::layer, rewrite::bypass};
use goshawk_ir::{
    FloatGraph, FloatOp, NodeId, Result,
    op::float::{BinaryFn, Clamp, Unary, UnaryFn},
};

/// Runs the pass.
///
/// # Errors
/// A folded weight is not finite, or the graph has a cycle.
pub fn run(g: &mut FloatGraph) -> Result<()> {
    for id in g.topo_order()? {
        let FloatOp::Unary(unary) = &g.node(id).op else { continue };
        let mut rest = unary.chain.clone();
        let source = g.node(id).operands()[0];
        if g.only_user(source) != Some(id) {
            continue;
        }
        while let Some(function) = rest.first()
            && absorb(g, source, *function)?
        {
            rest.remove(0);
        }
        if rest.is_empty() {
            bypass(g, id, source);
        } else {
            g.node_mut(id).op = FloatOp::Unary(Unary { chain: rest });
        }
    }
    g.remove_dead();
    Ok(())
}

/// Makes `layer` apply `function` to its result. Returns whether it could.
fn absorb(g: &mut FloatGraph, layer: NodeId, function: UnaryFn) -> Result<bool> {
    match function {
        UnaryFn::Clip(clip) => Ok(clamp_slot(g, layer).is_some_and(|slot| {
            *slot = Some(slot.map_or(clip, |first| intersected(first, clip)));
            true
        })),
        UnaryFn::Affine(a, b) if layer::has_constant_weights(g, layer) && a != 0.0 => {
            let outputs = g.ty(g.node(layer).operands()[1]).shape[0];
            layer::scale_outputs(g, layer, &vec![f64::from(a); outputs], &vec![f64::from(b); outputs])?;
            if let Some(slot) = clamp_slot(g, layer)
                && let Some(clamp) = slot
            {
                *clamp = moved(*clamp, a, b);
            }
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Whether a clamp can be fused into the node.
pub(crate) fn takes_clamp(op: &FloatOp) -> bool {
    match op {
        FloatOp::Conv(_) | FloatOp::Linear(_) => true,
        FloatOp::Binary(a) => matches!(a.function, BinaryFn::Add | BinaryFn::Sub | BinaryFn::Mul),
        _ => false,
    }
}

fn clamp_slot(g: &mut FloatGraph, id: NodeId) -> Option<&mut Option<Clamp>> {
    let op = &mut g.node_mut(id).op;
    if !takes_clamp(op) {
        return None;
    }
    match op {
        FloatOp::Conv(a) => Some(&mut a.clamp),
        FloatOp::Linear(a) => Some(&mut a.clamp),
        FloatOp::Binary(a) => Some(&mut a.clamp),
        _ => None,
    }
}

/// The image of the interval under a·x + b.
fn moved(clamp: Clamp, a: f32, b: f32) -> Clamp {
    let image = |x: f32| (f64::from(x) * f64::from(a) + f64::from(b)) as f32;
    let (p, q) = (image(clamp.lo), image(clamp.hi));
    Clamp { lo: p.min(q), hi: p.max(q) }
}
