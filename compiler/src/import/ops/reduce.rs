//! Reductions and global pools.
use crate::import::{
    attrs,
    cx::{Cx, Value},
    host_ops::{self, Fold},
    refusal::{Result, malformed, unsupported},
};
use goshawk_ir::{
    FloatOp,
    op::float::{Reduce, Unary, UnaryFn},
};

fn op(f: Fold, reduce: Reduce) -> Option<FloatOp> {
    match f {
        Fold::Sum => Some(FloatOp::ReduceSum(reduce)),
        Fold::Mean => Some(FloatOp::ReduceMean(reduce)),
        Fold::Max => Some(FloatOp::ReduceMax(reduce)),
        // min(x) = −max(−x): see `reduce`.
        Fold::Min | Fold::Prod => None,
    }
}

/// Axes are an attribute up to opset 17 (ReduceSum: 12), an operand after.
pub fn reduce(cx: &mut Cx<'_, '_>, f: Fold) -> Result<Vec<Value>> {
    let rank = cx.dims(0)?.len();
    let keep_dims = cx.attrs.flag("keepdims", true)?;
    let stated = cx.ints_attr_or_input("axes", 1)?.filter(|a| !a.is_empty());
    let axes = match stated {
        Some(a) => attrs::axes(&a, rank)?,
        None if cx.attrs.flag("noop_with_empty_axes", false)? => return Ok(vec![cx.need(0)?.clone()]),
        None => (0..rank).collect(),
    };
    if let Some(x) = cx.constant(0).cloned() {
        cx.builder.charge(&x.dims)?;
        return cx.fold(host_ops::reduce(f, &x, &axes, keep_dims)?);
    }
    let x = cx.operand(0)?;
    let reduce = Reduce { axes, keep_dims };
    if let Some(op) = op(f, reduce.clone()) {
        return cx.emit(op, &[x]);
    }
    if f == Fold::Prod {
        return Err(unsupported("ReduceProd of a value that depends on the network's input")
            .help("products are supported in shape arithmetic only"));
    }
    let negate = || FloatOp::Unary(Unary { chain: vec![UnaryFn::Affine(-1.0, 0.0)] });
    let x = cx.step("negated", negate(), &[x])?;
    let y = cx.step("max", FloatOp::ReduceMax(reduce), &[x])?;
    cx.emit(negate(), &[y])
}

pub fn global(cx: &mut Cx<'_, '_>, f: Fold) -> Result<Vec<Value>> {
    let x = cx.operand(0)?;
    let rank = cx.shape(x).rank();
    if rank < 3 {
        return Err(malformed(format!("a global pool over {}", cx.shape(x))));
    }
    match op(f, Reduce { axes: (2..rank).collect(), keep_dims: true }) {
        Some(op) => cx.emit(op, &[x]),
        None => Err(malformed("a global pool is a mean or a maximum")),
    }
}
