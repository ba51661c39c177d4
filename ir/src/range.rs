//! Proof that accumulators fit in i32.
//!
//! For each output channel, whatever the activations are, |Σ x̂·w + b| ≤ Σ|w|·max|x̂| + |b|, with max|x̂| from the bits
//! and the zero point of the operand. Every partial sum in any order obeys the same bound, so kernels may sum in
//! any order. The verifier refuses graphs in which a bound reaches 2³¹.
use crate::{IntGraph, IntOp, NodeId, Result, TensorType, bail, ensure};

/// First magnitude that does not fit.
pub const LIMIT: i64 = 1 << 31;

/// Largest |x − zero_point| of an activation.
///
/// # Errors
/// The tensor is not quantized.
pub fn max_centred(ty: &TensorType) -> Result<i64> {
    let q = ty.qparams()?;
    let (lo, hi) = q.range(ty.dtype);
    let zp = i64::from(q.zero_point);
    Ok((i64::from(lo) - zp).abs().max((i64::from(hi) - zp).abs()))
}

/// Bounds of the accumulators of a node: one for each output channel of convolutions and linear layers, one for the
/// node of average pools and products, none for operators that do not accumulate. Saturates at `i64::MAX`.
///
/// # Errors
/// Weights or biases are not constants, or an operand is not quantized.
pub fn accumulator_bounds(graph: &IntGraph, id: NodeId) -> Result<Vec<i64>> {
    let node = graph.node(id);
    let types = graph.operand_types(id);
    match &node.op {
        IntOp::Conv(_) | IntOp::Linear(_) => {
            ensure!(types.len() == 3, "expected x, weight and bias, got {} operands", types.len());
            let constant = |i: usize, what: &str| match graph.constant(node.operands()[i]) {
                Some(t) => t.to_ints(),
                None => bail!("the {what} must be a constant"),
            };
            let (w, b) = (constant(1, "weight")?, constant(2, "bias")?);
            let row = w.len() / types[1].shape.first().copied().unwrap_or(1).max(1);
            channel_bounds(&w, &b, row, max_centred(types[0])?)
        }
        IntOp::AvgPool(a) => {
            let cells = a.window.kernel[0].saturating_mul(a.window.kernel[1]);
            match types.first() {
                Some(x) => Ok(vec![max_centred(x)?.saturating_mul(i64::try_from(cells).unwrap_or(i64::MAX))]),
                None => bail!("expected one operand"),
            }
        }
        IntOp::Mul(_) => match types[..] {
            [a, b] => Ok(vec![max_centred(a)?.saturating_mul(max_centred(b)?)]),
            _ => bail!("expected two operands, got {}", types.len()),
        },
        IntOp::Input
        | IntOp::Const(_)
        | IntOp::Add(_)
        | IntOp::Requant(_)
        | IntOp::Lut(_)
        | IntOp::MaxPool(_)
        | IntOp::Concat(_)
        | IntOp::Slice(_)
        | IntOp::Pad(_)
        | IntOp::Reshape(_)
        | IntOp::Transpose(_)
        | IntOp::ResizeNearest(_)
        | IntOp::ResizeLinear(_)
        | IntOp::Softmax(_) => Ok(Vec::new()),
    }
}

/// Σ|w|·`max_x` + |b| for each channel, whose weights are `row` consecutive values of `w`.
///
/// # Errors
/// The number of weights is not `row` times the number of biases.
pub fn channel_bounds(w: &[i32], b: &[i32], row: usize, max_x: i64) -> Result<Vec<i64>> {
    ensure!(row > 0 && w.len() == row * b.len(), "{} weights for {} channels of {row}", w.len(), b.len());
    Ok(w.chunks(row)
        .zip(b)
        .map(|(w, b)| {
            let sum: i64 = w.iter().map(|v| i64::from(v.unsigned_abs())).sum();
            sum.saturating_mul(max_x).saturating_add(i64::from(b.unsigned_abs()))
        })
        .collect())
}

/// Proves that the accumulators of a node fit in i32.
///
/// # Errors
/// A bound reaches 2³¹: names the channel.
pub fn check(graph: &IntGraph, id: NodeId) -> Result<()> {
    let bounds = accumulator_bounds(graph, id)?;
    match bounds.iter().enumerate().find(|(_, b)| **b >= LIMIT) {
        None => Ok(()),
        Some((channel, bound)) => bail!(
            "the accumulator of channel {channel} can reach {bound}, beyond 2^31: lower the bits of the weights or \
             of the activations, or split the layer"
        ),
    }
}
