//! Functions of two and more tensors. With a scalar constant they become functions of one tensor.
use super::activation;
use crate::{
    Code,
    import::{
        cx::{Cx, Value},
        host::{Elem, Host},
        host_ops::{self, Two},
        refusal::{Refusal, Result, malformed, unsupported},
    },
};
use goshawk_ir::{
    FloatOp, NodeId,
    op::float::{Binary, BinaryFn, Clamp, Unary, UnaryFn},
};

fn two(f: BinaryFn) -> Two {
    match f {
        BinaryFn::Add => Two::Add,
        BinaryFn::Sub => Two::Sub,
        BinaryFn::Mul => Two::Mul,
        BinaryFn::Div => Two::Div,
        BinaryFn::Min => Two::Min,
        BinaryFn::Max => Two::Max,
        BinaryFn::Pow => Two::Pow,
    }
}

fn op(function: BinaryFn) -> FloatOp {
    FloatOp::Binary(Binary { function, clamp: None })
}

/// A function of constants.
fn fold(cx: &mut Cx<'_, '_>, f: Two, a: &Host, b: &Host) -> Result<Host> {
    cx.builder.charge(&host_ops::broadcast_dims(&a.dims, &b.dims)?)?;
    Ok(host_ops::binary(f, a, b)?)
}

/// The value of a constant with one element that does not change the shape of the other operand.
fn scalar(cx: &Cx<'_, '_>, i: usize, other: usize) -> Result<Option<f32>> {
    let Some(host) = cx.constant(i).filter(|h| h.count() == 1) else { return Ok(None) };
    if host.dims.len() > cx.dims(other)?.len() {
        return Ok(None);
    }
    // Pow may have an integer exponent.
    let v = match (host.as_floats(), host.as_ints()) {
        (Some(v), _) => v[0],
        (None, Some(v)) if cx.node.op_type == "Pow" => v[0] as f32,
        _ => return Err(malformed("operands are of different types").of(cx.input_name(i))),
    };
    match v.is_nan() {
        false => Ok(Some(v)),
        true => Err(non_finite("the constant operand is NaN").of(cx.input_name(i))),
    }
}

fn non_finite(reason: impl Into<String>) -> Refusal {
    Refusal { code: Code::NON_FINITE, ..malformed(reason) }
}

/// x ∘ c as a function of x.
fn right(f: BinaryFn, c: f32) -> UnaryFn {
    match f {
        BinaryFn::Add => UnaryFn::Affine(1.0, c),
        BinaryFn::Sub => UnaryFn::Affine(1.0, -c),
        BinaryFn::Mul => UnaryFn::Affine(c, 0.0),
        BinaryFn::Div => UnaryFn::Affine(1.0 / c, 0.0),
        BinaryFn::Min => UnaryFn::Clip(Clamp { lo: f32::NEG_INFINITY, hi: c }),
        BinaryFn::Max => UnaryFn::Clip(Clamp { lo: c, hi: f32::INFINITY }),
        BinaryFn::Pow => UnaryFn::Pow(c),
    }
}

/// c ∘ x as a function of x, where there is one.
fn left(f: BinaryFn, c: f32) -> Option<UnaryFn> {
    match f {
        BinaryFn::Add | BinaryFn::Mul | BinaryFn::Min | BinaryFn::Max => Some(right(f, c)),
        BinaryFn::Sub => Some(UnaryFn::Affine(-1.0, c)),
        BinaryFn::Div => Some(UnaryFn::Reciprocal(c)),
        BinaryFn::Pow => None,
    }
}

/// Infinite bounds of Min and Max do nothing; elsewhere an infinity poisons the result.
fn check(f: UnaryFn) -> Result<UnaryFn> {
    let finite = match f {
        UnaryFn::Affine(a, b) => a.is_finite() && b.is_finite(),
        UnaryFn::Reciprocal(a) | UnaryFn::Pow(a) => a.is_finite(),
        _ => true,
    };
    match finite {
        true => Ok(f),
        false => Err(non_finite("a constant operand makes every result infinite or NaN (division by zero?)")),
    }
}

pub fn binary(cx: &mut Cx<'_, '_>, f: BinaryFn) -> Result<Vec<Value>> {
    if cx.arity() != 2 {
        return Err(malformed(format!("{} operands, expected 2", cx.arity())));
    }
    // Opset 6: broadcasting had to be asked for, and could start at an axis.
    if cx.attrs.has("axis") {
        return Err(unsupported("broadcasting from an axis (opset 6)").help("export with opset 7 or later"));
    }
    if let Some(c) = cx.all_constant() {
        let host = fold(cx, two(f), &c[0], &c[1])?;
        return cx.fold(host);
    }
    if let Some(c) = scalar(cx, 1, 0)? {
        let x = cx.operand(0)?;
        return cx.emit(FloatOp::Unary(Unary { chain: vec![check(right(f, c))?] }), &[x]);
    }
    if let Some(c) = scalar(cx, 0, 1)?
        && let Some(function) = left(f, c)
    {
        let x = cx.operand(1)?;
        return cx.emit(FloatOp::Unary(Unary { chain: vec![check(function)?] }), &[x]);
    }
    if f == BinaryFn::Div
        && let Some(divisor) = cx.constant(1).and_then(Host::as_floats).cloned()
    {
        let x = cx.operand(0)?;
        let shape = goshawk_ir::Shape::new(cx.dims(1)?)?;
        let inverse = cx.derived_constant(1, shape, divisor.iter().map(|d| 1.0 / d).collect())?;
        return cx.emit(op(BinaryFn::Mul), &[x, inverse]);
    }
    if f == BinaryFn::Pow
        && let Some(exponent) = cx.constant(1).filter(|h| h.elem == Elem::Int).cloned()
    {
        let x = cx.operand(0)?;
        let shape = goshawk_ir::Shape::new(exponent.dims.clone())?;
        let values = host_ops::cast(&exponent, Elem::Float);
        let exponent =
            cx.derived_constant(1, shape, values.as_floats().map(|v| v.to_vec()).unwrap_or_default())?;
        return cx.emit(op(f), &[x, exponent]);
    }
    let operands = cx.operands()?;
    cx.emit(op(f), &operands)
}

/// Min, Max and Sum take any number of operands.
pub fn variadic(cx: &mut Cx<'_, '_>, f: BinaryFn) -> Result<Vec<Value>> {
    match cx.arity() {
        0 => Err(malformed("no operands")),
        1 => Ok(vec![cx.need(0)?.clone()]),
        2 => binary(cx, f),
        _ => {
            if let Some(c) = cx.all_constant() {
                let mut total = c[0].clone();
                for h in &c[1..] {
                    total = fold(cx, two(f), &total, h)?;
                }
                return cx.fold(total);
            }
            let operands = cx.operands()?;
            let total = chain(cx, f, &operands[..operands.len() - 1])?;
            cx.emit(op(f), &[total, operands[operands.len() - 1]])
        }
    }
}

fn chain(cx: &mut Cx<'_, '_>, f: BinaryFn, operands: &[NodeId]) -> Result<NodeId> {
    let mut total = operands[0];
    for x in &operands[1..] {
        total = cx.step("partial", op(f), &[total, *x])?;
    }
    Ok(total)
}

pub fn mean(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    match cx.arity() {
        0 => Err(malformed("no operands")),
        1 => Ok(vec![cx.need(0)?.clone()]),
        n => {
            let operands = cx.operands()?;
            let total = chain(cx, BinaryFn::Add, &operands)?;
            cx.emit(FloatOp::Unary(Unary { chain: vec![UnaryFn::Affine(1.0 / n as f32, 0.0)] }), &[total])
        }
    }
}

/// Functions that only shape arithmetic uses.
pub fn constant_only(cx: &mut Cx<'_, '_>, f: Two) -> Result<Vec<Value>> {
    match cx.all_constant().as_deref() {
        Some([a, b]) => {
            let host = fold(cx, f, a, b)?;
            cx.fold(host)
        }
        Some(_) => Err(malformed(format!("{} operands, expected 2", cx.arity()))),
        None => Err(unsupported(format!("{} of values that depend on the network's input", cx.node.op_type))
            .help("this operator is supported in shape arithmetic only")),
    }
}

/// The sign of the remainder is that of the divisor, or of the dividend with `fmod`.
pub fn modulo(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let f = if cx.attrs.flag("fmod", false)? { Two::Rem } else { Two::Mod };
    constant_only(cx, f)
}

pub fn not(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    match cx.constant(0).cloned() {
        Some(x) if activation::kind(cx.need(0)?) == Elem::Bool => {
            cx.fold(host_ops::map(&x, |x| x, Some(|v| Some(i64::from(v == 0))))?)
        }
        Some(_) => Err(malformed("Not of a tensor that does not hold truth values")),
        None => Err(unsupported("Not of a value that depends on the network's input")),
    }
}
