//! Elementwise functions as tables of 256 entries, and Softmax.
//!
//! A byte has 256 values, so any function of one is a table: the only rounding is that of the result. A lone Clip needs
//! no table, it is the clamp of a rescale.
use super::context::{Lowerer, Value, requant};
use goshawk_ir::{
    DType, Dyadic, IntOp, NodeId, Result, Shape, Tensor, bail,
    op::{
        float::{self, NoAttrs, UnaryFn},
        int::Rescale,
    },
    quant::{dequantize, quantize},
};

/// [`goshawk_ir::FloatOp::Unary`].
pub fn unary(l: &mut Lowerer<'_>, id: NodeId, a: &float::Unary) -> Result<()> {
    let operand = l.operand(id, 0)?;
    if let [UnaryFn::Clip(clamp)] = a.chain[..] {
        let x = l.value(operand)?;
        let home = l.home(id)?;
        let scale_x = l.out.ty(x.node).qparams()?.tensor_scale()?;
        let mult = Dyadic::from_scales(scale_x, 1.0, home.quant.tensor_scale()?)?;
        let requant = requant(vec![mult], home.dtype, &home.quant, Some(clamp))?;
        return l.define(id, IntOp::Requant(Rescale { requant }), &[x.node], x.order);
    }
    let x = l.bytes(operand, 8)?;
    table(l, id, &x, 1, &|_, x| a.chain.iter().fold(x, |x, f| f.eval(x)))
}

/// [`goshawk_ir::FloatOp::PRelu`] with a slope per tensor or per channel.
pub fn prelu(l: &mut Lowerer<'_>, id: NodeId) -> Result<()> {
    let (operand, slope) = (l.operand(id, 0)?, l.constant(id, 1)?);
    let shape = l.dims(l.operand(id, 1)?);
    let x = l.bytes(operand, 8)?;
    match varying_axis(&shape, &x.logical) {
        Some(axis) => channel_table(l, id, &x, axis, &|c, x| if x >= 0.0 { x } else { at(slope, c) * x }),
        None => {
            bail!("a slope of shape {shape:?} varies along several dimensions: one per channel is supported")
        }
    }
}

/// Element `c` of a constant that is one number or one per channel.
pub fn at(constant: &[f32], c: usize) -> f32 {
    if constant.len() == 1 { constant[0] } else { constant[c] }
}

/// Along which dimension of a tensor of dimensions `dims` a constant that broadcasts to it varies: `Some(None)` if it
/// is one number, `None` if along several.
pub fn varying_axis(constant: &[usize], dims: &[usize]) -> Option<Option<usize>> {
    let mut varying = (0..constant.len()).filter(|i| constant[*i] > 1);
    let axis = varying.next();
    if varying.next().is_some() || constant.len() > dims.len() {
        return None;
    }
    Some(axis.map(|i| i + dims.len() - constant.len()))
}

/// A table for each index along `axis` (for the whole tensor if there is no axis).
///
/// # Errors
/// As [`table`].
pub fn channel_table(
    l: &mut Lowerer<'_>,
    id: NodeId,
    x: &Value,
    axis: Option<usize>,
    f: &dyn Fn(usize, f32) -> f32,
) -> Result<()> {
    match axis {
        None => table(l, id, x, 1, f),
        Some(axis) => {
            let x = innermost(l, x, axis)?;
            table(l, id, &x, x.logical[axis], f)
        }
    }
}

/// The value in an order that ends with `axis`.
///
/// # Errors
/// An impossible shape.
pub fn innermost(l: &mut Lowerer<'_>, x: &Value, axis: usize) -> Result<Value> {
    if x.order.last() == Some(&axis) {
        return Ok(x.clone());
    }
    let default = super::order::default(x.order.len());
    let order = if default.last() == Some(&axis) {
        default
    } else {
        x.order.iter().copied().filter(|i| *i != axis).chain([axis]).collect()
    };
    l.ordered(x, order)
}

/// Adds the table of `f(channel, x)`: `channels` is 1 or the innermost stored length. A function that is not defined
/// somewhere (NaN) gives the smallest result there.
///
/// # Errors
/// An impossible shape.
pub fn table(
    l: &mut Lowerer<'_>,
    id: NodeId,
    x: &Value,
    channels: usize,
    f: &dyn Fn(usize, f32) -> f32,
) -> Result<()> {
    let home = l.home(id)?;
    let q = l.out.ty(x.node).qparams()?.clone();
    let (scale_x, zero_x) = (q.tensor_scale()?, q.zero_point);
    let (scale_y, zero_y) = (home.quant.tensor_scale()?, home.quant.zero_point);
    let range = home.quant.range(home.dtype);
    let entries: Vec<i32> = (0..channels)
        .flat_map(|c| (0..256).map(move |i| (c, i)))
        .map(|(c, i)| quantize(f(c, dequantize(i, scale_x, zero_x)), scale_y, zero_y, range))
        .collect();
    let table = Tensor::from_ints(home.dtype, Shape::new([channels, 256])?, &entries)?;
    let name = format!("{}.table", l.name(id));
    let table = l.add_const(&name, table, None);
    l.define(id, IntOp::Lut(NoAttrs {}), &[x.node, table], x.order.clone())
}

/// [`goshawk_ir::FloatOp::Softmax`]: the table holds round(2²³·e^(−scale·d)) for the distance d from the maximum.
pub fn softmax(l: &mut Lowerer<'_>, id: NodeId, axis: usize) -> Result<()> {
    let operand = l.operand(id, 0)?;
    let x = l.bytes(operand, 8)?;
    let x = innermost(l, &x, axis)?;
    let scale = f64::from(l.out.ty(x.node).qparams()?.tensor_scale()?);
    let entries: Vec<i32> =
        (0..256).map(|d| (f64::from(1 << 23) * (-scale * f64::from(d)).exp()).round() as i32).collect();
    let table = Tensor::from_ints(DType::I32, Shape::new([256])?, &entries)?;
    let name = format!("{}.table", l.name(id));
    let table = l.add_const(&name, table, None);
    l.define(id, IntOp::Softmax(NoAttrs {}), &[x.node, table], x.order)
}
