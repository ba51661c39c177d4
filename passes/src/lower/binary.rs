//! Functions of two tensors, and of a tensor and a constant.
//!
//! * two tensors: Add and Sub rescale each operand by its own dyadic number to the result's grid (HAWQ-V3 §3.3);
//!   Mul rescales the product; max(a, b) = b + relu(a − b) and min(a, b) = a − relu(a − b) are two sums;
//! * one number: a table;
//! * one number per channel: a depthwise 1×1 convolution where the function is a·x + b, else one table per channel;
//! * any other constant is quantized as a tensor.
use super::{
    context::{Lowerer, Value, bounds, requant},
    conv::{Weight, emit_conv},
    homes::Home,
    lut::{at, channel_table, innermost, table, varying_axis},
    movement, order,
    reads::full_constant,
};
use crate::quantize;
use goshawk_ir::{
    DType, Dyadic, IntOp, NodeId, Result, Shape, TensorType, bail,
    op::{
        float::{self, BinaryFn, Clamp},
        int,
        window::ConvWindow,
    },
};

/// [`goshawk_ir::FloatOp::Binary`].
pub fn binary(l: &mut Lowerer<'_>, id: NodeId, a: &float::Binary) -> Result<()> {
    let operands = [l.operand(id, 0)?, l.operand(id, 1)?];
    let is_const = operands.map(|o| l.src.constant(o).is_some());
    match is_const {
        [true, true] => bail!("both operands are constants: simplify the graph first"),
        [false, true] if !full_constant(l.src, id, 1) => with_constant(l, id, a, 0),
        [true, false] if !full_constant(l.src, id, 0) => with_constant(l, id, a, 1),
        _ => two_tensors(l, id, a),
    }
}

/// The tensor is operand `position`, the constant the other one: one number, or one per channel.
fn with_constant(l: &mut Lowerer<'_>, id: NodeId, a: &float::Binary, position: usize) -> Result<()> {
    let (source, other) = (l.operand(id, position)?, l.operand(id, 1 - position)?);
    let (shape, c) = (l.dims(other), l.constant(id, 1 - position)?);
    let x = l.bytes(source, 8)?;
    let Some(axis) = varying_axis(&shape, &x.logical) else {
        bail!("constant {} of shape {shape:?} does not fit {:?}", l.name(other), x.logical)
    };
    let channels = c.len();
    let affine: Option<(Vec<f32>, Vec<f32>)> = match (a.function, position) {
        (BinaryFn::Add, _) => Some((vec![1.0; channels], c.to_vec())),
        (BinaryFn::Sub, 0) => Some((vec![1.0; channels], c.iter().map(|c| -c).collect())),
        (BinaryFn::Sub, _) => Some((vec![-1.0; channels], c.to_vec())),
        (BinaryFn::Mul, _) => Some((c.to_vec(), vec![0.0; channels])),
        (BinaryFn::Div, 0) if c.iter().all(|c| (1.0 / c).is_finite()) => {
            Some((c.iter().map(|c| 1.0 / c).collect(), vec![0.0; channels]))
        }
        (BinaryFn::Div | BinaryFn::Min | BinaryFn::Max | BinaryFn::Pow, _) => None,
    };
    if let (Some(axis), Some((factor, offset))) = (axis, affine) {
        return per_channel(l, id, &x, axis, &factor, &offset, a.clamp);
    }
    let function = a.function;
    let f = |channel: usize, x: f32| {
        let c = at(c, channel);
        let y = if position == 0 { function.eval(x, c) } else { function.eval(c, x) };
        a.clamp.map_or(y, |clamp| clamp.apply(y))
    };
    match axis {
        None => table(l, id, &x, 1, &f),
        Some(axis) => channel_table(l, id, &x, Some(axis), &f),
    }
}

/// factor\[c\]·x + offset\[c\] along `axis`: a depthwise 1×1 convolution with 8-bit weights, which hold one number per
/// channel exactly.
fn per_channel(
    l: &mut Lowerer<'_>,
    id: NodeId,
    x: &Value,
    axis: usize,
    factor: &[f32],
    offset: &[f32],
    clamp: Option<Clamp>,
) -> Result<()> {
    let x = innermost(l, x, axis)?;
    let channels = factor.len();
    let weight = Weight {
        values: factor,
        shape: Shape::new([channels, 1, 1, 1])?,
        name: format!("{}.factor", l.name(id)),
        bias: offset,
        bits: 8,
        moments: Vec::new(),
    };
    let window = ConvWindow { groups: channels, ..ConvWindow::unit() };
    if x.order == order::default(4) {
        return emit_conv(l, id, &x, &weight, window, clamp);
    }
    let rows = x.logical.iter().product::<usize>() / channels;
    let dims = vec![1, rows, 1, channels];
    let base = format!("{}.view", l.out.node(x.node).name);
    let op = IntOp::Reshape(float::Reshape { shape: dims.clone() });
    let view = Value { node: l.derive(&base, op, &[x.node], x.node, dims.clone())?, ..x.clone() };
    let (operands, requant) = super::conv::quantized(l, id, &view, &weight, clamp)?;
    l.define_as(id, IntOp::Conv(int::Conv { window, requant }), &operands, dims, x.order)
}

/// [`goshawk_ir::FloatOp::BatchNorm`] that could not be folded into a convolution.
pub fn batch_norm(l: &mut Lowerer<'_>, id: NodeId, a: &float::BatchNorm) -> Result<()> {
    let source = l.operand(id, 0)?;
    let x = l.bytes(source, 8)?;
    let [gamma, beta, mean, variance] =
        [l.constant(id, 1)?, l.constant(id, 2)?, l.constant(id, 3)?, l.constant(id, 4)?];
    let factor: Vec<f32> = gamma.iter().zip(variance).map(|(g, v)| g / (v + a.epsilon).sqrt()).collect();
    let offset: Vec<f32> = (0..factor.len()).map(|c| beta[c] - factor[c] * mean[c]).collect();
    per_channel(l, id, &x, 1, &factor, &offset, None)
}

fn two_tensors(l: &mut Lowerer<'_>, id: NodeId, a: &float::Binary) -> Result<()> {
    let wide = |l: &Lowerer<'_>| l.options.residual_bits == 16;
    match a.function {
        BinaryFn::Add | BinaryFn::Sub => {
            let wide = wide(l);
            let ([x, y], order) = operands(l, id, wide, None)?;
            let home = l.home(id)?;
            let op = sum(l, [&x, &y], &home, a.function == BinaryFn::Sub, a.clamp)?;
            l.define(id, op, &[x.node, y.node], order)
        }
        BinaryFn::Max | BinaryFn::Min => {
            let wide = wide(l);
            let ([x, y], order) = operands(l, id, wide, None)?;
            extremum(l, id, a, [x, y], order)
        }
        BinaryFn::Mul => {
            let ([x, y], order) = operands(l, id, false, Some(8))?;
            let home = l.home(id)?;
            let scale = |v: &Value| l.out.ty(v.node).qparams()?.tensor_scale();
            let mult = Dyadic::from_scales(scale(&x)?, scale(&y)?, home.quant.tensor_scale()?)?;
            let requant = requant(vec![mult], home.dtype, &home.quant, a.clamp)?;
            l.define(id, IntOp::Mul(int::Rescale { requant }), &[x.node, y.node], order)
        }
        BinaryFn::Div | BinaryFn::Pow => bail!(
            "a {} of two computed tensors has no integer form: only divisions by and powers of constants do",
            if a.function == BinaryFn::Div { "quotient" } else { "power" }
        ),
    }
}

/// Both operands with equal rank and memory order; constants are quantized as tensors (`wide`: on the 16-bit grid).
/// With `bytes`, no wider than that.
fn operands(
    l: &mut Lowerer<'_>,
    id: NodeId,
    wide: bool,
    bytes: Option<u8>,
) -> Result<([Value; 2], Vec<usize>)> {
    let rank = l.dims(id).len();
    let sources = [l.operand(id, 0)?, l.operand(id, 1)?];
    let mut values = Vec::new();
    for source in sources {
        let value = match (l.src.constant(source), bytes) {
            (Some(_), _) => constant(l, source, wide)?,
            (None, Some(bits)) => l.bytes(source, bits)?,
            (None, None) => l.value(source)?,
        };
        let mut dims = vec![1; rank.saturating_sub(value.logical.len())];
        values.push(if dims.is_empty() {
            value
        } else {
            dims.extend(&value.logical);
            l.viewed(&value, &dims, true)?
        });
    }
    let order =
        if values[0].order == values[1].order { values[0].order.clone() } else { order::default(rank) };
    let x = l.ordered(&values[0], order.clone())?;
    let y = l.ordered(&values[1], order.clone())?;
    Ok(([x, y], order))
}

/// A constant tensor, quantized by its own range.
fn constant(l: &mut Lowerer<'_>, id: NodeId, wide: bool) -> Result<Value> {
    let logical = l.dims(id);
    let order = order::default(logical.len());
    let Some(tensor) = l.src.constant(id) else { bail!("{} is not a constant", l.name(id)) };
    let range = tensor.as_f32()?.iter().fold((0f32, 0f32), |(lo, hi), v| (lo.min(*v), hi.max(*v)));
    let home = if wide {
        Home { dtype: DType::I16, quant: quantize::wide(range)? }
    } else {
        Home { dtype: DType::U8, quant: quantize::activation(range, 8)? }
    };
    let node = movement::constant(l, id, home.dtype, &home.quant, &order)?;
    Ok(Value { node, logical, order, columns: None })
}

/// The sum or difference of two stored values in `home`.
fn sum(
    l: &Lowerer<'_>,
    [x, y]: [&Value; 2],
    home: &Home,
    subtract: bool,
    clamp: Option<Clamp>,
) -> Result<IntOp> {
    let scale = home.quant.tensor_scale()?;
    let dyadic = |v: &Value| Dyadic::from_scales(l.out.ty(v.node).qparams()?.tensor_scale()?, 1.0, scale);
    let (lo, hi) = bounds(home.dtype, &home.quant, clamp)?;
    Ok(IntOp::Add(int::Add {
        a: dyadic(x)?,
        b: dyadic(y)?,
        subtract,
        zero_point: home.quant.zero_point,
        lo,
        hi,
    }))
}

/// Maximum and minimum by two sums; the difference lives on the 16-bit grid.
fn extremum(
    l: &mut Lowerer<'_>,
    id: NodeId,
    a: &float::Binary,
    [x, y]: [Value; 2],
    order: Vec<usize>,
) -> Result<()> {
    let reach = |v: &Value| -> Result<f32> {
        let ty = l.out.ty(v.node);
        let (lo, hi) = ty.qparams()?.range(ty.dtype);
        Ok(ty.qparams()?.tensor_scale()? * (hi - lo) as f32)
    };
    let bound = (reach(&x)? + reach(&y)?) / quantize::activation::WIDE_HEADROOM;
    let difference = Home { dtype: DType::I16, quant: quantize::wide((0.0, bound))? };
    let op = sum(l, [&x, &y], &difference, true, Some(Clamp::RELU))?;
    let shape = Shape::new(order::stored(&l.dims(id), &order))?;
    let name = l.fresh(&format!("{}.difference", l.name(id)));
    let ty = TensorType::quantized(difference.dtype, shape, difference.quant);
    let node = l.out.add(name, op, &[x.node, y.node], ty);
    let d = Value { node, logical: l.dims(id), order: order.clone(), columns: None };
    let (base, subtract) = if a.function == BinaryFn::Max { (y, false) } else { (x, true) };
    let home = l.home(id)?;
    let op = sum(l, [&base, &d], &home, subtract, a.clamp)?;
    l.define(id, op, &[base.node, d.node], order)
}
