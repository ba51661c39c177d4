//! Pools and reductions.
//!
//! An average is a sum in i32 whose division by the number of cells is folded into the dyadic number: one rounding.
//! Reductions over any axes are pools over a view [outer, reduced, 1, inner] of the tensor.
use super::context::{Lowerer, Value, requant};
use goshawk_ir::{
    Dyadic, IntOp, NodeId, Result, ensure,
    op::{float, int, window::PoolWindow},
};

/// What a reduction computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Mean.
    Mean,
    /// Sum.
    Sum,
    /// Maximum.
    Max,
}

/// [`goshawk_ir::FloatOp::MaxPool`]: commutes with the quantizer, which the result shares.
pub fn max(l: &mut Lowerer<'_>, id: NodeId, window: &PoolWindow) -> Result<()> {
    let operand = l.operand(id, 0)?;
    let x = l.value(operand)?;
    let x = l.canonical(&x)?;
    l.define(id, IntOp::MaxPool(window.clone()), &[x.node], vec![0, 2, 3, 1])
}

/// [`goshawk_ir::FloatOp::AvgPool`].
pub fn average(l: &mut Lowerer<'_>, id: NodeId, window: &PoolWindow) -> Result<()> {
    let operand = l.operand(id, 0)?;
    let x = l.value(operand)?;
    let x = l.canonical(&x)?;
    let op = average_op(l, id, &x, window.clone(), Reduction::Mean)?;
    l.define(id, op, &[x.node], vec![0, 2, 3, 1])
}

fn average_op(
    l: &Lowerer<'_>,
    id: NodeId,
    x: &Value,
    window: PoolWindow,
    reduction: Reduction,
) -> Result<IntOp> {
    let ty = l.out.ty(x.node);
    let home = l.home(id)?;
    let (scale_x, scale_y) = (ty.qparams()?.tensor_scale()?, home.quant.tensor_scale()?);
    let cells = window.kernel[0] * window.kernel[1];
    let (lo, hi) = ty.qparams()?.range(ty.dtype);
    let peak = (i64::from(hi) - i64::from(ty.zero_point())).max(i64::from(ty.zero_point()) - i64::from(lo));
    ensure!(
        i64::try_from(cells).is_ok_and(|n| n <= i64::from(i32::MAX) / peak.max(1)),
        "the sum over {cells} cells can exceed 32 bits: split the pool or use --residual-bits 8"
    );
    let divisor = |count: usize| if reduction == Reduction::Sum { 1.0 } else { count as f64 };
    let mult = (1..=cells)
        .map(|count| Dyadic::from_f64(f64::from(scale_x) / (divisor(count) * f64::from(scale_y))))
        .collect::<Result<Vec<_>>>()?;
    let requant = requant(mult, home.dtype, &home.quant, None)?;
    Ok(IntOp::AvgPool(int::AvgPool { window, requant }))
}

/// ReduceMean, ReduceSum, ReduceMax over any axes.
pub fn reduce(l: &mut Lowerer<'_>, id: NodeId, a: &float::Reduce, kind: Reduction) -> Result<()> {
    let operand = l.operand(id, 0)?;
    let x = l.value(operand)?;
    let reduced = |i: &usize| a.axes.contains(i);
    // Over a whole image plane the pool reads the tensor as it lies.
    if a.axes == [2, 3] && x.logical.len() == 4 {
        let x = l.canonical(&x)?;
        let [n, c, h, w] = [x.logical[0], x.logical[1], x.logical[2], x.logical[3]];
        let op = pool_op(l, id, &x, PoolWindow::global(h, w), kind)?;
        return finish(l, id, op, &x, vec![n, 1, 1, c], &[0, 1]);
    }
    // Reduced dimensions must be neighbours in memory.
    let first = x.order.iter().position(reduced).unwrap_or(0);
    let outer: Vec<usize> = x.order[..first].to_vec();
    let inner: Vec<usize> = x.order[first..].iter().copied().filter(|i| !reduced(i)).collect();
    let middle: Vec<usize> = x.order.iter().copied().filter(reduced).collect();
    let x = l.ordered(&x, [&outer[..], &middle[..], &inner[..]].concat())?;
    let count = |axes: &[usize]| axes.iter().map(|i| x.logical[*i]).product::<usize>();
    let (n, r, c) = (count(&outer), count(&middle), count(&inner));
    let dims = vec![n, r, 1, c];
    let base = format!("{}.view", l.name(operand));
    let node =
        l.derive(&base, IntOp::Reshape(float::Reshape { shape: dims.clone() }), &[x.node], x.node, dims)?;
    let view = Value { node, ..x };
    let op = pool_op(l, id, &view, PoolWindow::global(r, 1), kind)?;
    finish(l, id, op, &view, vec![n, 1, 1, c], &[&outer[..], &inner[..]].concat())
}

fn pool_op(l: &Lowerer<'_>, id: NodeId, x: &Value, window: PoolWindow, kind: Reduction) -> Result<IntOp> {
    match kind {
        Reduction::Max => Ok(IntOp::MaxPool(window)),
        Reduction::Mean | Reduction::Sum => average_op(l, id, x, window, kind),
    }
}

/// Adds the pool of stored dimensions `dims`, and the view under the dimensions of the float result; `kept` are the
/// operand's dimensions that remain, in memory order.
fn finish(
    l: &mut Lowerer<'_>,
    id: NodeId,
    op: IntOp,
    x: &Value,
    dims: Vec<usize>,
    kept: &[usize],
) -> Result<()> {
    let logical = l.dims(id);
    // Position of each kept dimension in the result.
    let order: Vec<usize> = if logical.len() == x.logical.len() {
        let rest = (0..logical.len()).filter(|i| !kept.contains(i));
        let candidate: Vec<usize> = kept.iter().copied().chain(rest).collect();
        let default = super::order::default(logical.len());
        if super::order::same_elements(&logical, &default, &candidate) { default } else { candidate }
    } else {
        let mut sorted = kept.to_vec();
        sorted.sort_unstable();
        kept.iter().map(|k| sorted.iter().position(|s| s == k).unwrap_or(0)).collect()
    };
    l.define_as(id, op, &[x.node], dims, order)
}
