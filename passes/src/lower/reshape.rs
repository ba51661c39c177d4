//! Reshape, Transpose and DepthToSpace: mostly bookkeeping of memory orders, see [`super::order`].
use super::{
    context::{Lowerer, Value},
    order,
};
use goshawk_ir::{
    FloatOp, IntOp, NodeId, Result, ensure,
    op::float::{self, DepthOrder},
};

/// [`FloatOp::Reshape`].
pub fn reshape(l: &mut Lowerer<'_>, id: NodeId) -> Result<()> {
    let operand = l.operand(id, 0)?;
    let x = l.value(operand)?;
    let dims = l.dims(id);
    if let Some(columns) = flattened_columns(l, id, &x, &dims) {
        let op = IntOp::Reshape(float::Reshape { shape: dims });
        let x = l.canonical(&x)?;
        l.define(id, op, &[x.node], vec![0, 1])?;
        let value = Value { columns: Some(columns), ..l.value(id)? };
        l.forget_order(id);
        l.set(id, value);
        return Ok(());
    }
    let plan = order::reshape(&x.logical, &x.order, &dims);
    let moved = l.ordered(&x, plan.before)?;
    let shape = order::stored(&dims, &plan.after);
    if l.out.ty(moved.node).shape[..] == shape[..] {
        l.set(id, Value { node: moved.node, logical: dims, order: plan.after, columns: None });
        return Ok(());
    }
    l.define(id, IntOp::Reshape(float::Reshape { shape }), &[moved.node], plan.after)
}

/// For [N,C,H,W] → [N,C·H·W] read by linear layers only: the float column of every column of the NHWC data.
fn flattened_columns(l: &Lowerer<'_>, id: NodeId, x: &Value, dims: &[usize]) -> Option<Vec<usize>> {
    let [n, c, h, w] = x.logical[..] else { return None };
    let readers = l.src.users(id);
    let linear = |u: &NodeId| {
        matches!(l.src.node(*u).op, FloatOp::Linear(_))
            && l.src.node(*u).operands()[1..].iter().all(|o| *o != id)
    };
    let fits = dims == [n, c * h * w]
        && c > 1
        && h * w > 1
        && x.order == order::default(4)
        && !l.src.is_output(id)
        && readers.iter().all(linear);
    fits.then(|| (0..h * w).flat_map(|cell| (0..c).map(move |ch| ch * h * w + cell)).collect())
}

/// [`FloatOp::Transpose`]: relabels, moves nothing.
pub fn transpose(l: &mut Lowerer<'_>, id: NodeId, perm: &[usize]) -> Result<()> {
    let operand = l.operand(id, 0)?;
    let x = l.value(operand)?;
    let order = order::relabelled(&x.order, perm);
    let value = Value { node: x.node, logical: l.dims(id), order, columns: None };
    l.set(id, value);
    Ok(())
}

/// [`FloatOp::DepthToSpace`] as reshape, transpose, reshape of logical dimensions.
pub fn depth_to_space(l: &mut Lowerer<'_>, id: NodeId, a: &float::DepthToSpace) -> Result<()> {
    let operand = l.operand(id, 0)?;
    let x = l.value(operand)?;
    let [n, c, h, w] = x.logical[..] else { goshawk_ir::bail!("expected [N,C,H,W]") };
    let b = a.block;
    ensure!(b > 0 && c % (b * b) == 0, "block {b} does not divide {c} channels");
    let depth = c / (b * b);
    let (split, perm) = match a.order {
        DepthOrder::Dcr => (vec![n, b, b, depth, h, w], [0, 3, 4, 1, 5, 2]),
        DepthOrder::Crd => (vec![n, depth, b, b, h, w], [0, 1, 4, 2, 5, 3]),
    };
    let x = l.viewed(&x, &split, false)?;
    let logical = order::stored(&split, &perm);
    let x = Value { order: order::relabelled(&x.order, &perm), logical, ..x };
    let dims = l.dims(id);
    let plan = order::reshape(&x.logical, &x.order, &dims);
    let moved = l.ordered(&x, plan.before)?;
    let shape = order::stored(&dims, &plan.after);
    l.define(id, IntOp::Reshape(float::Reshape { shape }), &[moved.node], plan.after)
}
