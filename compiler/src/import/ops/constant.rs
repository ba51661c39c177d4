//! Constants, and operators that do nothing at inference.
use super::activation::kind;
use crate::import::{
    attrs,
    cx::{Cx, Value},
    host::{self, Elem, Host},
    host_ops,
    proto::DataType,
    refusal::{Result, malformed, unsupported},
};

pub fn identity(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    Ok(vec![cx.need(0)?.clone()])
}

/// The mask, a second result, is not made: nothing reads it at inference.
pub fn dropout(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let training = cx.ints(2, "training_mode")?.is_some_and(|t| t.iter().any(|t| *t != 0));
    if training || !cx.attrs.flag("is_test", true)? {
        return Err(
            unsupported("dropout in training mode").help("export the model in inference mode (model.eval())")
        );
    }
    identity(cx)
}

pub fn cast(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let code = cx.attrs.int("to")?.ok_or_else(|| malformed("attribute \"to\" is missing"))?;
    let code = i32::try_from(code).map_err(|_| malformed(format!("element type {code}")))?;
    let target = host::data_type(code)?;
    let values = to(cx, host::elem(target))?;
    match values.first() {
        Some(Value::Const { host, .. }) => fits(host, target)?,
        Some(Value::Node { .. } | Value::Broken) | None => {}
    }
    Ok(values)
}

/// Exporters differ in what becomes of values outside the target's range; shape arithmetic has none.
fn fits(host: &Host, target: DataType) -> Result<()> {
    let Some((lo, hi)) = host::int_range(target) else { return Ok(()) };
    match host.as_ints().and_then(|v| v.iter().find(|v| **v < lo || **v > hi)) {
        Some(v) => Err(unsupported(format!("a cast of {v} to {target:?}, which cannot hold it"))),
        None => Ok(()),
    }
}

pub fn cast_like(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let (from, target) = (kind(cx.need(0)?), kind(cx.need(1)?));
    // The width of the target is not known here, so neither is what becomes of large values.
    match target == Elem::Int && from != Elem::Int {
        true => Err(unsupported("CastLike to integers").help("use Cast")),
        false => to(cx, target),
    }
}

/// All floats are f32 here, so a cast between float types does nothing.
fn to(cx: &mut Cx<'_, '_>, target: Elem) -> Result<Vec<Value>> {
    match cx.need(0)?.clone() {
        Value::Const { host, .. } if host.elem != target => {
            cx.builder.charge(&host.dims)?;
            cx.fold(host_ops::cast(&host, target))
        }
        Value::Node { elem, .. } if elem != target && target != Elem::Float => {
            Err(unsupported("a cast to integers of a value that depends on the network's input")
                .help("keep the network in floats; goshawk makes the integers itself"))
        }
        Value::Node { id, .. } => Ok(vec![Value::Node { id, elem: target }]),
        value => Ok(vec![value]),
    }
}

pub fn constant(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let a = cx.attrs;
    if let Some(t) = a.tensor("value")? {
        return cx.fold(host::decode(t, cx.builder.limits, cx.builder.external)?);
    }
    if let Some(v) = a.floats("value_floats")? {
        return cx.fold(Host::floats(vec![v.len()], v));
    }
    if let Some(v) = a.ints("value_ints")? {
        return cx.fold(Host::vector(v.to_vec()));
    }
    if let Some(v) = a.int("value_int")? {
        return cx.fold(Host::ints(vec![], vec![v]));
    }
    if a.has("value_float") {
        return cx.fold(Host::floats(vec![], vec![a.float("value_float", 0.0)?]));
    }
    Err(unsupported("a constant that is neither a tensor nor a number"))
}

pub fn constant_of_shape(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let shape = cx.ints(0, "the shape")?.unwrap_or_default();
    let dims = attrs::sizes(&shape).ok_or_else(|| malformed(format!("a constant of shape {shape:?}")))?;
    cx.builder.limits.elements(&shape)?;
    cx.builder.charge(&dims)?;
    let value = match cx.attrs.tensor("value")? {
        None => Host::floats(vec![1], vec![0.0]),
        Some(t) => host::decode(t, cx.builder.limits, cx.builder.external)?,
    };
    if value.count() != 1 {
        return Err(malformed("attribute \"value\" must have one element"));
    }
    cx.fold(host_ops::expand(&host_ops::reshape(&value, vec![1; dims.len()])?, &dims))
}

pub fn range(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let Some([start, limit, delta]) = cx.all_constant().and_then(|c| <[Host; 3]>::try_from(c).ok()) else {
        return Err(unsupported("a Range that depends on the network's input"));
    };
    if let (Some(&[a]), Some(&[b]), Some(&[d])) = (start.as_ints(), limit.as_ints(), delta.as_ints()) {
        let span = i128::from(b) - i128::from(a);
        let count = match d {
            0 => return Err(malformed("a step of 0")),
            d => (span + i128::from(d) - i128::from(d.signum())) / i128::from(d),
        };
        let count = usize::try_from(count.max(0)).map_err(|_| malformed("the range is too long"))?;
        cx.builder.charge(&[count])?;
        return cx.fold(Host::vector((0..count as i64).map(|i| a + i * d).collect()));
    }
    let (Some([a]), Some([b]), Some([d])) = (
        start.as_floats().map(|v| &v[..]),
        limit.as_floats().map(|v| &v[..]),
        delta.as_floats().map(|v| &v[..]),
    ) else {
        return Err(malformed("start, limit and delta must be numbers of one type"));
    };
    let count = ((b - a) / d).ceil().max(0.0);
    if !count.is_finite() {
        return Err(malformed("a range without end"));
    }
    cx.builder.charge(&[count as usize])?;
    cx.fold(Host::floats(
        vec![count as usize],
        (0..count as usize).map(|i| a + i as f32 * d).collect::<Vec<_>>(),
    ))
}
