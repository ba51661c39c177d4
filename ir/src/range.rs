//! What values can be: those of a tensor, and the proof that accumulators fit in i32.
//!
//! For each output channel, whatever the activations are, |Σ x̂·w + b| ≤ Σ|w|·max|x̂| + |b|, with max|x̂| from the bits
//! and the zero point of the operand. Every partial sum in any order obeys the same bound, so kernels may sum in
//! any order. The verifier refuses graphs in which a bound reaches 2³¹.
use crate::{DType, IntGraph, IntOp, NodeId, Result, TensorType, bail, ensure};
use std::collections::BTreeSet;

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

/// Smallest and largest value that the result of a node can hold, whatever the inputs hold: the clamps of what makes it,
/// seen through operators that only move, choose or mix values. Callers may hand in any value of an input's type.
///
/// # Errors
/// A constant or a table is not of integers.
pub fn values(graph: &IntGraph, id: NodeId) -> Result<(i32, i32)> {
    let (mut lo, mut hi) = (i32::MAX, i32::MIN);
    let mut include = |(low, high): (i32, i32)| (lo, hi) = (lo.min(low), hi.max(high));
    let extremes = |values: Vec<i32>| {
        let lo = values.iter().copied().min().unwrap_or(0);
        (lo, values.iter().copied().max().unwrap_or(0))
    };
    let (mut open, mut seen) = (vec![id], BTreeSet::from([id]));
    while let Some(id) = open.pop() {
        let node = graph.node(id);
        match &node.op {
            IntOp::Input => include(match node.ty.dtype {
                DType::U8 => (0, 255),
                DType::I16 => (i32::from(i16::MIN), i32::from(i16::MAX)),
                _ => node.ty.qparams()?.range(node.ty.dtype),
            }),
            IntOp::Const(tensor) => include(extremes(tensor.to_ints()?)),
            IntOp::Conv(a) => include((a.requant.lo, a.requant.hi)),
            IntOp::Linear(a) => include((a.requant.lo, a.requant.hi)),
            IntOp::Add(a) => include((a.lo, a.hi)),
            IntOp::Mul(a) | IntOp::Requant(a) => include((a.requant.lo, a.requant.hi)),
            IntOp::AvgPool(a) => include((a.requant.lo, a.requant.hi)),
            IntOp::Lut(_) => match node.operands().get(1).and_then(|table| graph.constant(*table)) {
                Some(table) => include(extremes(table.to_ints()?)),
                None => bail!("the table must be a constant"),
            },
            IntOp::Softmax(_) => include((0, i32::from(i16::MAX))),
            IntOp::MaxPool(_)
            | IntOp::Concat(_)
            | IntOp::Slice(_)
            | IntOp::Pad(_)
            | IntOp::Reshape(_)
            | IntOp::Transpose(_)
            | IntOp::ResizeNearest(_)
            | IntOp::ResizeLinear(_) => {
                if let IntOp::Pad(pad) = &node.op {
                    include((pad.value, pad.value));
                }
                // Each node once: operands may be shared by many.
                open.extend(node.operands().iter().filter(|x| seen.insert(**x)));
            }
        }
    }
    Ok((lo, hi))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;

    /// Clamps, tables and inputs are seen through everything that moves values.
    #[test]
    fn ranges_of_values() {
        let entries: Vec<String> = (0..256).map(|i| (3 + i % 7).to_string()).collect();
        let text = format!(
            r#"gir 1 int "values"
input "x" = %x same
input "s" = %s same
%x: u8[1,2,2,1] q(1.0, 0, 4) = input
%s: i16[1,2,2,1] q(1.0, 0, 16) = input
%k: u8[1,2,2,1] q(1.0, 0, 4) = const [2, 9, 4, 4]
%r: u8[1,2,2,1] q(1.0, 2, 4) = requant(%x) {{requant = requant([dyadic(1073741824, 30)], 2, 1, 6)}}
%t: u8[1,256] = const [{}]
%l: u8[1,2,2,1] q(1.0, 2, 4) = lut(%x, %t)
%c: u8[1,2,2,2] q(1.0, 2, 4) = concat(%r, %l) {{axis = 3}}
%m: u8[1,2,2,4] q(1.0, 2, 4) = concat(%c, %c) {{axis = 3}}
%p: u8[1,2,2,5] q(1.0, 2, 4) = pad(%m) {{before = [0, 0, 0, 1], after = [0, 0, 0, 0], value = 12}}
%v: u8[4,5] q(1.0, 2, 4) = reshape(%p) {{shape = [4, 5]}}
output "v" = %v same
"#,
            entries.join(", ")
        );
        let graph: IntGraph = parse(&text).expect("a graph");
        let range = |name: &str| values(&graph, graph.find(name).expect(name)).expect("a range");
        // Callers may hand in any byte, whatever the type says.
        assert_eq!(range("x"), (0, 255));
        assert_eq!(range("s"), (-32768, 32767));
        assert_eq!(range("k"), (2, 9));
        assert_eq!(range("r"), (1, 6));
        assert_eq!(range("l"), (3, 9));
        assert_eq!(range("c"), (1, 9));
        assert_eq!(range("m"), (1, 9));
        assert_eq!(range("p"), (1, 12));
        assert_eq!(range("v"), (1, 12));
    }
}
