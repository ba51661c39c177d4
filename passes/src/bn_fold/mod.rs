//!
//! At inference BatchNorm is y = scale·x + shift per channel, with scale = γ/√(σ² + ε) and shift = β − scale·μ. So is
//! adding, subtracting, multiplying or dividing by a constant that varies along one dimension. Three sweeps:
//!
//! 1. *Backward*, into a convolution or linear layer before it that nothing else reads:
//!    w′\[o\] = scale\[o\]·w\[o\], b′ = scale·b + shift (Jacob et al., CVPR 2018, §3.2; HAWQ-V3 folds the same way, and
//!    a negative γ is harmless because weight scales are absolute maxima).
//! 2. *Forward*, into the layers that read it, if all of them can take it: w′\[·,i\] = scale\[i\]·w\[·,i\],
//!    b′ = b + Σ w·shift. A padded convolution sees 0 and not `shift` in its padding, so there the shift must be 0.
//! 3. What is left becomes a depthwise 1×1 convolution, which has kernels, per-channel weight scales and room for a
//!    fused activation; further such operators behind it then fold backward.
//!
//! Reshapes and transposes between the two are looked through where the channel dimension stays whole.
//! All arithmetic is f64, rounded to f32 once.
mod channel_affine;
mod depthwise;
pub(crate) mod layer;

use crate::rewrite::bypass;
use channel_affine::ChannelAffine;
use goshawk_ir::{FloatGraph, FloatOp, NodeId, Result};

/// Runs the pass.
///
/// # Errors
/// A variance is not positive, a folded weight is not finite, or the graph has a cycle.
pub fn run(g: &mut FloatGraph) -> Result<()> {
    for id in g.topo_order()? {
        if let Some(affine) = channel_affine::of(g, id)? {
            fold_backward(g, id, &affine)?;
        }
    }
    for id in g.topo_order()?.into_iter().rev() {
        if let Some(affine) = channel_affine::of(g, id)? {
            fold_forward(g, id, &affine)?;
        }
    }
    for id in g.topo_order()? {
        if let Some(affine) = channel_affine::of(g, id)?
            && !fold_backward(g, id, &affine)?
        {
            depthwise::convert(g, id, &affine)?;
        }
    }
    g.remove_dead();
    Ok(())
}

/// Folds into the layer that makes the operand. Returns whether it did.
fn fold_backward(g: &mut FloatGraph, id: NodeId, affine: &ChannelAffine) -> Result<bool> {
    let Some(producer) = producing_layer(g, affine) else { return Ok(false) };
    layer::scale_outputs(g, producer, &affine.scale, &affine.shift)?;
    bypass(g, id, affine.x);
    Ok(true)
}

/// The layer whose output channels run along the affine's axis, if its result reaches only the affine.
fn producing_layer(g: &FloatGraph, affine: &ChannelAffine) -> Option<NodeId> {
    let (mut x, mut axis) = (affine.x, affine.axis);
    loop {
        g.only_user(x)?;
        let node = g.node(x);
        let operand = || node.operands()[0];
        match &node.op {
            FloatOp::Conv(a) if a.clamp.is_none() && axis == 1 => break,
            FloatOp::Linear(a) if a.clamp.is_none() && axis == 1 => break,
            FloatOp::Reshape(_) => {
                axis = same_dimension(&node.ty.shape, axis, &g.ty(operand()).shape)?;
                x = operand();
            }
            FloatOp::Transpose(a) => {
                axis = a.perm[axis];
                x = operand();
            }
            _ => return None,
        }
    }
    layer::has_constant_weights(g, x).then_some(x)
}

/// The dimension of `from` that holds the same index as dimension `axis` of `to`, its reshape: as many elements lie
/// outside it, and it is as long.
fn same_dimension(to: &[usize], axis: usize, from: &[usize]) -> Option<usize> {
    let outer = |dims: &[usize], axis: usize| dims[..axis].iter().product::<usize>();
    (0..from.len()).find(|i| from[*i] == to[axis] && outer(from, *i) == outer(to, axis))
}

/// Folds into every layer that reads the result, or into none.
fn fold_forward(g: &mut FloatGraph, id: NodeId, affine: &ChannelAffine) -> Result<()> {
    let users = g.users(id);
    let all = !users.is_empty()
        && !g.is_output(id)
        && affine.axis == 1
        && users.iter().all(|user| layer::takes_input_affine(g, *user, id, &affine.shift));
    if all {
        for user in users {
            layer::scale_inputs(g, user, &affine.scale, &affine.shift)?;
            g.set_operand(user, 0, affine.x);
        }
        g.set_operands(id, &[]);
    }
    Ok(())
}
