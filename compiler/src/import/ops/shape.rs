//! Changes of shape, which all become Reshape, and questions about shapes, which become constants.
use crate::import::{
    attrs,
    cx::{Cx, Value},
    host::Host,
    host_ops,
    refusal::{Result, malformed, unsupported},
};
use goshawk_ir::{FloatOp, op::float};

/// The first operand under new dimensions.
fn to(cx: &mut Cx<'_, '_>, dims: Vec<usize>) -> Result<Vec<Value>> {
    if let Some(host) = cx.constant(0) {
        return cx.fold(host_ops::reshape(host, dims)?);
    }
    let x = cx.operand(0)?;
    cx.emit(FloatOp::Reshape(float::Reshape { shape: dims }), &[x])
}

pub fn reshape(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let x = cx.dims(0)?;
    let target = cx.ints_attr_or_input("shape", 1)?.ok_or_else(|| malformed("the new shape is missing"))?;
    let allow_zero = cx.attrs.flag("allowzero", false)?;
    let dims = target_dims(&x, &target, allow_zero)?;
    to(cx, dims)
}

/// ONNX: 0 copies a dimension (unless `allowzero`), one −1 takes what is left.
fn target_dims(x: &[usize], target: &[i64], allow_zero: bool) -> Result<Vec<usize>> {
    let wrong = || malformed(format!("cannot reshape {x:?} to {target:?}"));
    let mut open = None;
    let mut dims = Vec::with_capacity(target.len());
    for (i, t) in target.iter().enumerate() {
        dims.push(match *t {
            0 if !allow_zero => *x.get(i).ok_or_else(wrong)?,
            -1 if open.is_none() => {
                open = Some(i);
                1
            }
            t => usize::try_from(t).map_err(|_| wrong())?,
        });
    }
    let product = |d: &[usize]| d.iter().try_fold(1usize, |c, d| c.checked_mul(*d)).ok_or_else(wrong);
    let (have, rest) = (product(x)?, product(&dims)?);
    if let Some(i) = open {
        dims[i] = have.checked_div(rest).ok_or_else(wrong)?;
    }
    match product(&dims)? == have {
        true => Ok(dims),
        false => Err(wrong()),
    }
}

pub fn flatten(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let x = cx.dims(0)?;
    let axis = match cx.attrs.int("axis")?.unwrap_or(1) {
        a if a == x.len() as i64 => x.len(),
        a => attrs::axis(a, x.len())?,
    };
    to(cx, vec![x[..axis].iter().product(), x[axis..].iter().product()])
}

pub fn squeeze(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let x = cx.dims(0)?;
    let axes = match cx.ints_attr_or_input("axes", 1)? {
        Some(a) => attrs::axes(&a, x.len())?,
        None => (0..x.len()).filter(|i| x[*i] == 1).collect(),
    };
    if let Some(i) = axes.iter().find(|i| x[**i] != 1) {
        return Err(malformed(format!("cannot squeeze dimension {i} of {x:?}")));
    }
    to(cx, (0..x.len()).filter(|i| !axes.contains(i)).map(|i| x[i]).collect())
}

pub fn unsqueeze(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let x = cx.dims(0)?;
    let stated = cx.ints_attr_or_input("axes", 1)?.ok_or_else(|| malformed("the axes are missing"))?;
    let rank = x.len() + stated.len();
    let axes = attrs::axes(&stated, rank)?;
    let mut rest = x.iter();
    let dims =
        (0..rank).map(|i| if axes.contains(&i) { 1 } else { rest.next().copied().unwrap_or(1) }).collect();
    to(cx, dims)
}

pub fn shape(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let dims: Vec<i64> = cx.dims(0)?.iter().map(|d| *d as i64).collect();
    let rank = dims.len() as i64;
    let clip = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
    let start = clip(cx.attrs.int("start")?.unwrap_or(0));
    let end = clip(cx.attrs.int("end")?.unwrap_or(rank)).max(start);
    cx.fold(Host::vector(dims[start..end].to_vec()))
}

pub fn size(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let count: usize = cx.dims(0)?.iter().product();
    cx.fold(Host::ints(vec![], vec![count as i64]))
}

pub fn expand(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let x = cx.dims(0)?;
    let target = cx.ints(1, "the new shape")?.ok_or_else(|| malformed("the new shape is missing"))?;
    let target =
        attrs::sizes(&target).ok_or_else(|| malformed(format!("cannot expand {x:?} to {target:?}")))?;
    let dims = host_ops::broadcast_dims(&x, &target)?;
    if let Some(host) = cx.constant(0).cloned() {
        cx.builder.charge(&dims)?;
        return cx.fold(host_ops::expand(&host, &dims));
    }
    if dims.iter().product::<usize>() == x.iter().product::<usize>() {
        return to(cx, dims);
    }
    Err(unsupported(format!(
        "repetition of a value that depends on the network's input, from {x:?} to {dims:?}"
    ))
    .help("arithmetic operators broadcast by themselves: leave the Expand out"))
}
