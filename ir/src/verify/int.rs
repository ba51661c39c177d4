//! Rules 8 to 18.
use super::common::{inferred, windows};
use crate::{
    DType, Dyadic, IntGraph, IntOp, IrError, NodeId, QParams, Requant, Result, Scale, Tensor, TensorType,
    bail, ensure, infer::int_shape, range, text::type_text,
};

/// Scales lie strictly between 2⁻⁶⁰ and 2⁶⁰, so that no ratio of them overflows f32.
const SCALE_LIMIT: f32 = (1u64 << 60) as f32;

/// All rules that do not depend on the values of constants.
pub fn check(graph: &IntGraph, id: NodeId) -> Result<()> {
    let node = graph.node(id);
    let x = graph.operand_types(id);
    if !matches!(node.op, IntOp::Input | IntOp::Const(_)) {
        let shapes: Vec<_> = x.iter().map(|t| &t.shape).collect();
        inferred(&node.ty.shape, &int_shape(&node.op, &shapes)?)?;
    }
    if !matches!(node.op, IntOp::Const(_)) {
        activation(&node.ty, &[DType::U8, DType::I16])
            .map_err(|e| IrError::new(format!("result: {}", e.message)))?;
    }
    let any = [DType::U8, DType::I16];
    let operand = |i: usize, types: &[DType]| {
        activation(x[i], types).map_err(|e| IrError::new(format!("operand {i}: {}", e.message)))
    };
    // Operand counts are checked by int_shape above.
    match &node.op {
        IntOp::Input | IntOp::Const(_) => Ok(()),
        IntOp::Conv(a) => {
            operand(0, &[DType::U8])?;
            weight(x[1])?;
            bias(x[2])?;
            requant(&a.requant, &node.ty)
        }
        IntOp::Linear(a) => {
            operand(0, &[DType::U8])?;
            weight(x[1])?;
            bias(x[2])?;
            requant(&a.requant, &node.ty)
        }
        IntOp::Add(a) => {
            operand(0, &any)?;
            operand(1, &any)?;
            dyadic(a.a)?;
            dyadic(a.b)?;
            clamp(a.zero_point, a.lo, a.hi, &node.ty)
        }
        IntOp::Mul(a) => {
            operand(0, &[DType::U8])?;
            operand(1, &[DType::U8])?;
            requant(&a.requant, &node.ty)
        }
        IntOp::Requant(a) => {
            operand(0, &any)?;
            requant(&a.requant, &node.ty)
        }
        IntOp::Lut(_) => {
            operand(0, &[DType::U8])?;
            let dtype = node.ty.dtype;
            ensure!(
                x[1].dtype == dtype && x[1].quant.is_none(),
                "the table of a lut that makes {dtype} has plain {dtype} entries, got {}",
                x[1].dtype
            );
            Ok(())
        }
        IntOp::MaxPool(w) => {
            operand(0, &any)?;
            windows(w, [x[0].shape[1], x[0].shape[2]])?;
            same(x[0], &node.ty)
        }
        IntOp::AvgPool(a) => {
            operand(0, &any)?;
            windows(&a.window, [x[0].shape[1], x[0].shape[2]])?;
            requant(&a.requant, &node.ty)
        }
        IntOp::Concat(_) => (0..x.len()).try_for_each(|i| {
            operand(i, &any)?;
            same(x[i], &node.ty)
        }),
        IntOp::Pad(a) => {
            operand(0, &any)?;
            same(x[0], &node.ty)?;
            let (lo, hi) = node.ty.qparams()?.range(node.ty.dtype);
            ensure!((lo..=hi).contains(&a.value), "the padding value {} is outside {lo}..={hi}", a.value);
            Ok(())
        }
        IntOp::Slice(_) | IntOp::Reshape(_) | IntOp::Transpose(_) | IntOp::ResizeNearest(_) => {
            operand(0, &any)?;
            same(x[0], &node.ty)
        }
        IntOp::ResizeLinear(_) => {
            operand(0, &[DType::U8])?;
            same(x[0], &node.ty)
        }
        IntOp::Softmax(_) => {
            operand(0, &[DType::U8])?;
            ensure!(
                x[1].dtype == DType::I32 && x[1].quant.is_none(),
                "the table of a softmax has plain i32 entries, got {}",
                x[1].dtype
            );
            let unit = node.ty.dtype == DType::I16 && node.ty.qparams()?.tensor_scale()? == 1.0 / 32768.0;
            ensure!(unit, "a softmax makes i16 of scale 2^-15, got {}", type_text(&node.ty));
            Ok(())
        }
    }
}

/// The rules about values of constants, and the accumulator proof.
pub fn check_values(graph: &IntGraph, id: NodeId) -> Result<()> {
    let node = graph.node(id);
    let constant = |i: usize, what: &str| match graph.constant(node.operands()[i]) {
        Some(t) => Ok(t),
        None => bail!("the {what} must be a constant"),
    };
    // Constants where activations are expected.
    let activations = match &node.op {
        IntOp::Conv(_) | IntOp::Linear(_) | IntOp::Lut(_) | IntOp::Softmax(_) => 1,
        IntOp::Input
        | IntOp::Const(_)
        | IntOp::Add(_)
        | IntOp::Mul(_)
        | IntOp::Requant(_)
        | IntOp::MaxPool(_)
        | IntOp::AvgPool(_)
        | IntOp::Concat(_)
        | IntOp::Slice(_)
        | IntOp::Pad(_)
        | IntOp::Reshape(_)
        | IntOp::Transpose(_)
        | IntOp::ResizeNearest(_)
        | IntOp::ResizeLinear(_) => usize::MAX,
    };
    for operand in node.operands().iter().take(activations) {
        if let Some(value) = graph.constant(*operand) {
            let ty = graph.ty(*operand);
            values_in(value, ty.qparams()?.range(ty.dtype), &graph.node(*operand).name)?;
        }
    }
    match &node.op {
        IntOp::Conv(_) | IntOp::Linear(_) => {
            let ty = graph.ty(node.operands()[1]);
            values_in(constant(1, "weight")?, ty.qparams()?.range(ty.dtype), "the weight")?;
            constant(2, "bias")?;
        }
        IntOp::Lut(_) => {
            values_in(constant(1, "table")?, node.ty.qparams()?.range(node.ty.dtype), "the table")?;
        }
        IntOp::Softmax(_) => {
            let table = constant(1, "table")?;
            values_in(table, (0, i32::MAX), "the table")?;
            ensure!(table.to_ints()?.first() != Some(&0), "the first entry of the table must be positive");
        }
        IntOp::Input
        | IntOp::Const(_)
        | IntOp::Add(_)
        | IntOp::Mul(_)
        | IntOp::Requant(_)
        | IntOp::MaxPool(_)
        | IntOp::AvgPool(_)
        | IntOp::Concat(_)
        | IntOp::Slice(_)
        | IntOp::Pad(_)
        | IntOp::Reshape(_)
        | IntOp::Transpose(_)
        | IntOp::ResizeNearest(_)
        | IntOp::ResizeLinear(_) => {}
    }
    range::check(graph, id)
}

/// Rule 18.
pub fn check_outputs(graph: &IntGraph) -> Vec<IrError> {
    let ports = graph.outputs.iter().filter(|p| graph.contains(p.node) && graph.constant(p.node).is_some());
    ports
        .map(|p| IrError::new(format!("output {} is a constant", p.name)).at(&graph.node(p.node).name))
        .collect()
}

/// Rule 8.
fn activation(ty: &TensorType, allowed: &[DType]) -> Result<()> {
    ensure!(
        allowed.contains(&ty.dtype),
        "expected {}, got {}",
        allowed.iter().map(|t| t.name()).collect::<Vec<_>>().join(" or "),
        ty.dtype
    );
    let q = ty.qparams()?;
    scale(q.tensor_scale()?)?;
    let (bits, zero_points) = if ty.dtype == DType::U8 { (2..=8, 0..=255) } else { (16..=16, 0..=0) };
    ensure!(bits.contains(&q.bits), "{} activations have {bits:?} bits, got {}", ty.dtype, q.bits);
    ensure!(
        zero_points.contains(&q.zero_point),
        "the zero point of {} lies in {zero_points:?}, got {}",
        ty.dtype,
        q.zero_point
    );
    Ok(())
}

fn scale(s: f32) -> Result<()> {
    ensure!(s > SCALE_LIMIT.recip() && s < SCALE_LIMIT, "scale {s:?} is not between 2^-60 and 2^60");
    Ok(())
}

/// Scales of weights and biases: one, or one for each output channel.
fn channel_scales(q: &QParams, ty: &TensorType, what: &str) -> Result<()> {
    ensure!(q.zero_point == 0, "the zero point of a {what} is 0, got {}", q.zero_point);
    match &q.scale {
        Scale::PerTensor(s) => scale(*s),
        Scale::PerChannel { axis, scales } => {
            ensure!(
                *axis == 0 && ty.shape.first() == Some(&scales.len()),
                "{} scales along axis {axis} do not fit a {what} of shape {}",
                scales.len(),
                ty.shape
            );
            scales.iter().try_for_each(|s| scale(*s))
        }
    }
}

/// Rule 10, without the values.
fn weight(ty: &TensorType) -> Result<()> {
    let most = match ty.dtype {
        DType::I8 => 8,
        DType::I4 => 4,
        DType::F32 | DType::I32 | DType::I16 | DType::U8 | DType::U4 => {
            bail!("weights are i8 or i4, got {}", ty.dtype)
        }
    };
    let q = ty.qparams()?;
    ensure!((2..=most).contains(&q.bits), "{} weights have 2 to {most} bits, got {}", ty.dtype, q.bits);
    channel_scales(q, ty, "weight")
}

/// Rule 11.
fn bias(ty: &TensorType) -> Result<()> {
    ensure!(ty.dtype == DType::I32, "biases are i32, got {}", ty.dtype);
    match &ty.quant {
        None => Ok(()),
        Some(q) => {
            ensure!(q.bits == 32, "biases have 32 bits, got {}", q.bits);
            channel_scales(q, ty, "bias")
        }
    }
}

fn dyadic(d: Dyadic) -> Result<()> {
    ensure!(
        d.mult >= 0 && (1..=62).contains(&d.shift),
        "dyadic({}, {}) needs mult >= 0 and shift in 1..=62",
        d.mult,
        d.shift
    );
    Ok(())
}

fn requant(r: &Requant, ty: &TensorType) -> Result<()> {
    r.mult.iter().try_for_each(|d| dyadic(*d))?;
    clamp(r.zero_point, r.lo, r.hi, ty)
}

/// Rule 13.
fn clamp(zero_point: i32, lo: i32, hi: i32, ty: &TensorType) -> Result<()> {
    let q = ty.qparams()?;
    ensure!(
        zero_point == q.zero_point,
        "the requantization adds zero point {zero_point}, the result has {}",
        q.zero_point
    );
    let (min, max) = q.range(ty.dtype);
    ensure!(min <= lo && lo <= hi && hi <= max, "the clamp {lo}..={hi} is empty or not inside {min}..={max}");
    Ok(())
}

/// Rule 14.
fn same(operand: &TensorType, result: &TensorType) -> Result<()> {
    ensure!(
        operand.dtype == result.dtype && operand.quant == result.quant,
        "operand {} and result {} must have the same quantization",
        type_text(operand),
        type_text(result)
    );
    Ok(())
}

fn values_in(value: &Tensor, (lo, hi): (i32, i32), what: &str) -> Result<()> {
    match value.to_ints()?.iter().find(|v| **v < lo || **v > hi) {
        Some(v) => bail!("{what} has the value {v}, outside {lo}..={hi}"),
        None => Ok(()),
    }
}
