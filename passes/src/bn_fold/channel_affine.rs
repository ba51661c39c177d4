//! Recognises operators that are y = scale·x + shift along one dimension.
use goshawk_ir::{
    FloatGraph, FloatOp, NodeId, Result, Shape, ensure,
    op::float::{Binary, BinaryFn},
};

/// y = scale\[i\]·x + shift\[i\], i being the index along `axis` of x.
pub(super) struct ChannelAffine {
    /// The variable operand.
    pub x: NodeId,
    /// Dimension that the parameters run along.
    pub axis: usize,
    /// Factors.
    pub scale: Vec<f64>,
    /// Summands.
    pub shift: Vec<f64>,
}

/// The node as an affine map per channel, if it is one with constant parameters.
///
/// # Errors
/// A BatchNorm whose variance + epsilon is not positive, or with parameters that are not finite.
pub(super) fn of(g: &FloatGraph, id: NodeId) -> Result<Option<ChannelAffine>> {
    let node = g.node(id);
    Ok(match &node.op {
        FloatOp::BatchNorm(a) => {
            batch_norm(g, id, f64::from(a.epsilon)).map_err(|e| e.at(node.name.clone()))?
        }
        FloatOp::Binary(a) => binary(g, id, a),
        _ => None,
    })
}

fn batch_norm(g: &FloatGraph, id: NodeId, epsilon: f64) -> Result<Option<ChannelAffine>> {
    let &[x, gamma, beta, mean, variance] = g.node(id).operands() else { return Ok(None) };
    let values = |id| crate::rewrite::const_values(g, id);
    let (Some(gamma), Some(beta), Some(mean), Some(variance)) =
        (values(gamma), values(beta), values(mean), values(variance))
    else {
        return Ok(None);
    };
    let (mut scale, mut shift) = (Vec::new(), Vec::new());
    for c in 0..gamma.len() {
        let spread = f64::from(variance[c]) + epsilon;
        ensure!(
            spread > 0.0,
            "the variance of channel {c} is {} and epsilon {epsilon}: their sum must be positive; \
             the model's batch normalisation statistics are broken",
            variance[c]
        );
        scale.push(f64::from(gamma[c]) / spread.sqrt());
        shift.push(f64::from(beta[c]) - f64::from(mean[c]) * scale[c]);
        ensure!(
            scale[c].is_finite() && shift[c].is_finite(),
            "the batch normalisation parameters of channel {c} are not finite"
        );
    }
    Ok(Some(ChannelAffine { x, axis: 1, scale, shift }))
}

fn binary(g: &FloatGraph, id: NodeId, a: &Binary) -> Option<ChannelAffine> {
    let node = g.node(id);
    let &[left, right] = node.operands() else { return None };
    if a.clamp.is_some() {
        return None;
    }
    let constant_right = g.constant(right).is_some();
    let (x, constant) = if constant_right { (left, right) } else { (right, left) };
    if g.ty(x).shape != node.ty.shape {
        return None;
    }
    let axis = varying_axis(&g.ty(constant).shape, &node.ty.shape)?;
    let values = crate::rewrite::const_values(g, constant)?.iter().map(|v| f64::from(*v));
    // (scale, shift) of each channel.
    let pairs: Vec<(f64, f64)> = match (a.function, constant_right) {
        (BinaryFn::Add, _) => values.map(|c| (1.0, c)).collect(),
        (BinaryFn::Sub, true) => values.map(|c| (1.0, -c)).collect(),
        (BinaryFn::Sub, false) => values.map(|c| (-1.0, c)).collect(),
        (BinaryFn::Mul, _) => values.map(|c| (c, 0.0)).collect(),
        (BinaryFn::Div, true) => values.map(|c| (1.0 / c, 0.0)).collect(),
        (BinaryFn::Div, false) | (BinaryFn::Min | BinaryFn::Max | BinaryFn::Pow, _) => return None,
    };
    let finite = pairs.iter().all(|(s, t)| s.is_finite() && t.is_finite());
    finite.then(|| {
        let (scale, shift) = pairs.into_iter().unzip();
        ChannelAffine { x, axis, scale, shift }
    })
}

/// The one dimension of `target` along which a tensor of shape `shape` varies when it broadcasts.
fn varying_axis(shape: &Shape, target: &Shape) -> Option<usize> {
    let skip = target.rank().checked_sub(shape.rank())?;
    let mut long = (0..shape.rank()).filter(|i| shape[*i] > 1);
    let axis = long.next()?;
    long.next().is_none().then_some(axis + skip)
}
