//! Elementwise functions of one tensor.
use crate::import::{
    attrs::Attrs,
    cx::{Cx, Value},
    host::Elem,
    host_ops,
    refusal::{Result, malformed, unsupported},
};
use goshawk_ir::{
    FloatOp,
    op::float::{Clamp, NoAttrs, Reshape, Unary, UnaryFn},
};

/// A chain of functions of the first operand.
pub fn chain(cx: &mut Cx<'_, '_>, chain: Vec<UnaryFn>) -> Result<Vec<Value>> {
    let x = cx.operand(0)?;
    cx.emit(FloatOp::Unary(Unary { chain }), &[x])
}

pub fn simple(cx: &mut Cx<'_, '_>, f: UnaryFn) -> Result<Vec<Value>> {
    chain(cx, vec![f])
}

/// A function that shape arithmetic also uses: constants are computed at once.
fn folded(
    cx: &mut Cx<'_, '_>,
    float: fn(f32) -> f32,
    int: Option<fn(i64) -> Option<i64>>,
) -> Result<Option<Vec<Value>>> {
    let Some(x) = cx.constant(0).cloned() else { return Ok(None) };
    cx.builder.charge(&x.dims)?;
    cx.fold(host_ops::map(&x, float, int)?).map(Some)
}

pub fn neg(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    match folded(cx, |x| -x, Some(i64::checked_neg))? {
        Some(values) => Ok(values),
        None => simple(cx, UnaryFn::Affine(-1.0, 0.0)),
    }
}

pub fn abs(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    match folded(cx, f32::abs, Some(i64::checked_abs))? {
        Some(values) => Ok(values),
        None => simple(cx, UnaryFn::Abs),
    }
}

pub fn sqrt(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    match folded(cx, f32::sqrt, None)? {
        Some(values) => Ok(values),
        None => simple(cx, UnaryFn::Sqrt),
    }
}

/// Floor, Ceil, Round: in shape arithmetic only.
pub fn rounding(cx: &mut Cx<'_, '_>, f: fn(f32) -> f32) -> Result<Vec<Value>> {
    match folded(cx, f, None)? {
        Some(values) => Ok(values),
        None => {
            Err(unsupported(format!("{} of a value that depends on the network's input", cx.node.op_type))
                .help("rounding is supported in shape arithmetic only"))
        }
    }
}

/// Bounds that mean "none": exporters write the largest float.
fn bound(v: f32) -> f32 {
    match v {
        f32::MIN => f32::NEG_INFINITY,
        f32::MAX => f32::INFINITY,
        v => v,
    }
}

/// Bounds are attributes up to opset 10, operands from 11.
pub fn clip(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let (lo, hi) = if cx.opset < 11 {
        (cx.attrs.float("min", f32::MIN)?, cx.attrs.float("max", f32::MAX)?)
    } else {
        (
            cx.scalar(1, "the lower bound")?.unwrap_or(f32::MIN),
            cx.scalar(2, "the upper bound")?.unwrap_or(f32::MAX),
        )
    };
    // ONNX: where the bounds cross, the result is the upper one.
    let clamp = Clamp { lo: bound(lo).min(bound(hi)), hi: bound(hi) };
    simple(cx, UnaryFn::Clip(clamp))
}

pub fn leaky_relu(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let alpha = finite(cx.attrs, "alpha", 0.01)?;
    simple(cx, UnaryFn::LeakyRelu(alpha))
}

pub fn elu(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let alpha = finite(cx.attrs, "alpha", 1.0)?;
    simple(cx, UnaryFn::Elu(alpha))
}

/// γ·elu(x, α).
pub fn selu(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let alpha = finite(cx.attrs, "alpha", 1.673_263_2)?;
    let gamma = finite(cx.attrs, "gamma", 1.050_701)?;
    chain(cx, vec![UnaryFn::Elu(alpha), UnaryFn::Affine(gamma, 0.0)])
}

/// max(0, x) + min(0, α·(exp(x/α) − 1)) = α·elu(x/α) for α > 0.
pub fn celu(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let alpha = finite(cx.attrs, "alpha", 1.0)?;
    if alpha <= 0.0 {
        return Err(unsupported(format!("Celu with alpha {alpha}")));
    }
    chain(cx, vec![UnaryFn::Affine(1.0 / alpha, 0.0), UnaryFn::Elu(1.0), UnaryFn::Affine(alpha, 0.0)])
}

pub fn hard_sigmoid(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let (alpha, beta) = (finite(cx.attrs, "alpha", 0.2)?, finite(cx.attrs, "beta", 0.5)?);
    simple(cx, UnaryFn::HardSigmoid(alpha, beta))
}

pub fn gelu(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    match cx.attrs.string("approximate", "none")? {
        "none" => simple(cx, UnaryFn::Gelu),
        "tanh" => simple(cx, UnaryFn::GeluTanh),
        other => Err(malformed(format!("attribute \"approximate\" is {other:?}"))),
    }
}

pub fn prelu(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let mut operands = [cx.operand(0)?, cx.operand(1)?];
    let (x, slope) = (cx.shape(operands[0]).to_vec(), cx.shape(operands[1]).to_vec());
    // Opset 6: one slope for each channel. Later slopes broadcast like any operand.
    if cx.opset < 7 && x.len() > 2 && slope.len() == 1 && slope[0] == x[1] {
        let mut shape = vec![1; x.len() - 1];
        shape[0] = slope[0];
        operands[1] = cx.step("slope", FloatOp::Reshape(Reshape { shape }), &[operands[1]])?;
    }
    cx.emit(FloatOp::PRelu(NoAttrs {}), &operands)
}

fn finite(attrs: Attrs<'_>, name: &str, default: f32) -> Result<f32> {
    let v = attrs.float(name, default)?;
    match v.is_finite() {
        true => Ok(v),
        false => Err(malformed(format!("attribute {name:?} is {v}"))),
    }
}

/// A value of one kind, whatever it was.
pub fn kind(value: &Value) -> Elem {
    match value {
        Value::Const { host, .. } => host.elem,
        Value::Node { elem, .. } => *elem,
        Value::Broken => Elem::Float,
    }
}
