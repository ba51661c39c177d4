//! Softmax and Where.
use crate::import::{
    attrs,
    cx::{Cx, Value},
    host_ops,
    refusal::{Result, malformed, unsupported},
};
use goshawk_ir::{
    FloatOp, NodeId,
    op::float::{Axis, Reshape, Unary, UnaryFn},
};

/// What softmax runs over: from opset 13 one axis, before that everything from an axis on.
struct Over {
    axis: usize,
    /// [outer, inner] where the operand must be seen as a matrix.
    matrix: Option<Vec<usize>>,
}

fn over(cx: &Cx<'_, '_>) -> Result<Over> {
    let dims = cx.dims(0)?;
    let default = if cx.opset < 13 { 1 } else { -1 };
    let stated = cx.attrs.int("axis")?.unwrap_or(default);
    if cx.opset >= 13 {
        return Ok(Over { axis: attrs::axis(stated, dims.len())?, matrix: None });
    }
    let axis = match stated {
        a if a == dims.len() as i64 => dims.len(),
        a => attrs::axis(a, dims.len())?,
    };
    let inner: usize = dims[axis..].iter().product();
    if axis < dims.len() && dims[axis] == inner {
        return Ok(Over { axis, matrix: None });
    }
    Ok(Over { axis: 1, matrix: Some(vec![dims[..axis].iter().product(), inner]) })
}

pub fn softmax(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    run(cx, false)
}

/// ln(softmax(x)).
pub fn log_softmax(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    run(cx, true)
}

fn run(cx: &mut Cx<'_, '_>, log: bool) -> Result<Vec<Value>> {
    let Over { axis, matrix } = over(cx)?;
    let mut x: NodeId = cx.operand(0)?;
    let dims = cx.shape(x).to_vec();
    let reshaped = matrix.is_some();
    if let Some(shape) = matrix {
        x = cx.step("matrix", FloatOp::Reshape(Reshape { shape }), &[x])?;
    }
    // The last operator carries the result's name.
    let mut ops = vec![("softmax", FloatOp::Softmax(Axis { axis }))];
    if log {
        ops.push(("log", FloatOp::Unary(Unary { chain: vec![UnaryFn::Log] })));
    }
    if reshaped {
        ops.push(("shape", FloatOp::Reshape(Reshape { shape: dims })));
    }
    let last = ops.pop();
    for (suffix, op) in ops {
        x = cx.step(suffix, op, &[x])?;
    }
    match last {
        Some((_, op)) => cx.emit(op, &[x]),
        None => Err(malformed("nothing to do")),
    }
}

pub fn select(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    match cx.all_constant().as_deref() {
        Some([c, a, b]) => {
            let dims = host_ops::broadcast_dims(&host_ops::broadcast_dims(&c.dims, &a.dims)?, &b.dims)?;
            cx.builder.charge(&dims)?;
            cx.fold(host_ops::select(c, a, b)?)
        }
        Some(_) => Err(malformed(format!("{} operands, expected 3", cx.arity()))),
        None => Err(unsupported("Where on values that depend on the network's input")
            .help("this operator is supported in shape arithmetic only")),
    }
}
