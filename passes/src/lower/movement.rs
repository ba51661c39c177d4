//! Operators that move or repeat values without computing: the result has its operand's quantizer.
use super::{
    context::{Lowerer, Value},
    order,
};
use goshawk_ir::{
    IntOp, NodeId, QParams, Result, Shape, Tensor, bail, ensure,
    op::{
        float::{self, ResizeMode},
        int,
    },
    quant::quantize,
    resize,
};

/// [`goshawk_ir::FloatOp::Concat`]: branches that do not share its quantizer are rescaled one by one.
pub fn concat(l: &mut Lowerer<'_>, id: NodeId, axis: usize) -> Result<()> {
    let home = l.home(id)?;
    let operands = l.src.node(id).operands().to_vec();
    let mut branches = Vec::new();
    for operand in &operands {
        branches.push(match l.src.constant(*operand) {
            Some(_) => None,
            None => Some(l.value(*operand)?),
        });
    }
    // The order that most branches have avoids moving them.
    let rank = l.dims(id).len();
    let mut order = order::default(rank);
    let mut known = branches.iter().flatten().map(|v| &v.order);
    if let Some(first) = known.next()
        && known.all(|o| o == first)
    {
        order = first.clone();
    }
    let mut nodes = Vec::new();
    for (operand, branch) in operands.iter().zip(branches) {
        let Some(value) = branch else {
            nodes.push(constant(l, *operand, home.dtype, &home.quant, &order)?);
            continue;
        };
        let mut value = l.ordered(&value, order.clone())?;
        let ty = l.out.ty(value.node);
        if ty.dtype != home.dtype || ty.quant.as_ref() != Some(&home.quant) {
            let base = format!("{}.branch", l.name(id));
            value.node = l.rescaled(&value, &base, home.dtype, home.quant.clone())?;
        }
        nodes.push(value.node);
    }
    let stored_axis = position(&order, axis);
    if let [only] = nodes[..] {
        let value = Value { node: only, logical: l.dims(id), order, columns: None };
        l.set(id, value);
        return Ok(());
    }
    l.define(id, IntOp::Concat(float::Axis { axis: stored_axis }), &nodes, order)
}

/// A float constant as a tensor of the given quantizer, in memory order `order`.
///
/// # Errors
/// A value is not finite.
pub fn constant(
    l: &mut Lowerer<'_>,
    id: NodeId,
    dtype: goshawk_ir::DType,
    quant: &QParams,
    order: &[usize],
) -> Result<NodeId> {
    let name = l.name(id);
    let logical = l.dims(id);
    let Some(tensor) = l.src.constant(id) else { bail!("{name} is not a constant") };
    let values = tensor.as_f32()?;
    ensure!(values.iter().all(|v| v.is_finite()), "constant {name} is not finite");
    let (scale, range) = (quant.tensor_scale()?, quant.range(dtype));
    let shape = Shape::new(order::stored(&logical, order))?;
    let strides = Shape::new(&logical[..])?.strides();
    let stored: Vec<i32> = (0..shape.count())
        .map(|mut flat| {
            let mut index = 0;
            for j in (0..order.len()).rev() {
                index += flat % shape[j] * strides[order[j]];
                flat /= shape[j];
            }
            quantize(values[index], scale, quant.zero_point, range)
        })
        .collect();
    let tensor = Tensor::from_ints(dtype, shape, &stored)?;
    Ok(l.add_const(&name, tensor, Some(quant.clone())))
}

fn position(order: &[usize], axis: usize) -> usize {
    order.iter().position(|i| *i == axis).unwrap_or(axis)
}

/// [`goshawk_ir::FloatOp::Slice`].
pub fn slice(l: &mut Lowerer<'_>, id: NodeId, a: &float::Slice) -> Result<()> {
    let operand = l.operand(id, 0)?;
    let x = l.value(operand)?;
    ensure!(
        a.step.iter().all(|s| *s > 0),
        "slices with negative steps (a reversal) have no integer form: fold the reversal into the weights around it"
    );
    let op = IntOp::Slice(float::Slice {
        start: order::stored(&a.start, &x.order),
        step: x.order.iter().map(|i| a.step[*i]).collect(),
        size: order::stored(&a.size, &x.order),
    });
    l.define(id, op, &[x.node], x.order)
}

/// [`goshawk_ir::FloatOp::Pad`]: pads with the quantized value.
pub fn pad(l: &mut Lowerer<'_>, id: NodeId, a: &float::Pad) -> Result<()> {
    let operand = l.operand(id, 0)?;
    let x = l.value(operand)?;
    let home = l.home(id)?;
    ensure!(!a.value.is_nan(), "padding with NaN has no integer form");
    let range = home.quant.range(home.dtype);
    let op = IntOp::Pad(int::Pad {
        before: order::stored(&a.before, &x.order),
        after: order::stored(&a.after, &x.order),
        value: quantize(a.value, home.quant.tensor_scale()?, home.quant.zero_point, range),
    });
    l.define(id, op, &[x.node], x.order)
}

/// [`goshawk_ir::FloatOp::Resize`]: index maps, or taps in 1/2048.
pub fn resize(l: &mut Lowerer<'_>, id: NodeId, a: &float::Resize) -> Result<()> {
    let operand = l.operand(id, 0)?;
    let x = l.value(operand)?;
    let x = l.canonical(&x)?;
    let input = [x.logical[2], x.logical[3]];
    let op = match a.mode {
        ResizeMode::Nearest => {
            let map = |i: usize| resize::nearest(a.coordinates, a.nearest, input[i], a.size[i], a.scale[i]);
            IntOp::ResizeNearest(int::ResizeNearest { rows: map(0), columns: map(1) })
        }
        ResizeMode::Linear => {
            let taps = |i: usize| {
                let taps = resize::linear(a.coordinates, input[i], a.size[i], a.scale[i]).into_iter();
                taps.map(|(low, high, w)| int::Tap { low, high, weight: (w * 2048.0).round() as i32 })
                    .collect()
            };
            IntOp::ResizeLinear(int::ResizeLinear { rows: taps(0), columns: taps(1) })
        }
    };
    l.define(id, op, &[x.node], vec![0, 2, 3, 1])
}
