//! What the float passes share: new nodes with inferred types, constants replaced without disturbing other readers,
//! and questions about values.
use goshawk_ir::{FloatGraph, FloatOp, NodeId, Result, Shape, Tensor, TensorType, infer};

/// Adds an operator under a fresh name made from `base`; the type is inferred.
///
/// # Errors
/// The operands do not fit the operator.
pub(crate) fn add_op(g: &mut FloatGraph, base: &str, op: FloatOp, operands: &[NodeId]) -> Result<NodeId> {
    let shapes: Vec<&Shape> = operands.iter().map(|o| &g.ty(*o).shape).collect();
    let shape = infer::float_shape(&op, &shapes).map_err(|e| e.at(base))?;
    let name = g.fresh_name(base);
    Ok(g.add(name, op, operands, TensorType::f32(shape)))
}

/// Adds a constant under a fresh name made from `base`.
///
/// # Errors
/// The count is not that of the shape.
pub(crate) fn add_const(g: &mut FloatGraph, base: &str, shape: Shape, values: Vec<f32>) -> Result<NodeId> {
    let tensor = Tensor::from_f32(shape, values).map_err(|e| e.at(base))?;
    let name = g.fresh_name(base);
    Ok(g.add_const(name, tensor, None))
}

/// Makes `user` read `value` at `position`, where it reads a constant now. The constant is changed in place, and so
/// keeps its name, unless something else reads it.
///
/// # Errors
/// The count is not that of the shape.
pub(crate) fn replace_const(
    g: &mut FloatGraph,
    user: NodeId,
    position: usize,
    shape: Shape,
    values: Vec<f32>,
) -> Result<()> {
    let old = g.node(user).operands()[position];
    let name = g.node(old).name.clone();
    if g.use_count(old) > 1 {
        let new = add_const(g, &name, shape, values)?;
        g.set_operand(user, position, new);
    } else {
        let tensor = Tensor::from_f32(shape.clone(), values).map_err(|e| e.at(name))?;
        let node = g.node_mut(old);
        node.op = FloatOp::Const(tensor);
        node.ty = TensorType::f32(shape);
    }
    Ok(())
}

/// Makes every reader of `id` read `source` and cuts `id` off, so that it no longer counts as a reader itself. It is
/// left for `remove_dead`: removing nodes during a sweep would let new nodes take their ids.
pub(crate) fn bypass(g: &mut FloatGraph, id: NodeId, source: NodeId) {
    g.replace_uses(id, source);
    g.set_operands(id, &[]);
}

/// The values of a constant, `None` for anything else.
pub(crate) fn const_values(g: &FloatGraph, id: NodeId) -> Option<&[f32]> {
    g.constant(id).and_then(|t| t.as_f32().ok())
}

/// The value that all elements of a constant have, if it is one value.
pub(crate) fn splat(g: &FloatGraph, id: NodeId) -> Option<f32> {
    let values = const_values(g, id)?;
    let first = *values.first()?;
    values.iter().all(|v| v.to_bits() == first.to_bits()).then_some(first)
}

/// A lower bound of every element of a value, from the operators that made it: what padding with 0 may rely on.
/// `f32::NEG_INFINITY` where nothing is known.
pub(crate) fn lower_bound(g: &FloatGraph, id: NodeId) -> f32 {
    bound(g, id, 16)
}

fn bound(g: &FloatGraph, id: NodeId, depth: usize) -> f32 {
    use goshawk_ir::op::float::UnaryFn as F;
    let unknown = f32::NEG_INFINITY;
    if depth == 0 {
        return unknown;
    }
    let node = g.node(id);
    let of = |o: &NodeId| bound(g, *o, depth - 1);
    let all = || node.operands().iter().map(of).fold(f32::INFINITY, f32::min);
    match &node.op {
        FloatOp::Conv(a) => a.clamp.map_or(unknown, |c| c.lo),
        FloatOp::Linear(a) => a.clamp.map_or(unknown, |c| c.lo),
        FloatOp::Binary(a) => a.clamp.map_or(unknown, |c| c.lo),
        FloatOp::Unary(a) => match a.chain.last() {
            None => all(),
            Some(F::Clip(c)) => c.lo,
            Some(F::HardSigmoid(..) | F::Sigmoid | F::Softplus | F::Exp | F::Sqrt | F::Abs) => 0.0,
            Some(F::Elu(a)) if *a >= 0.0 => -a,
            Some(F::Tanh | F::Erf) => -1.0,
            // Minima: hard-swish −3/8, SiLU −0.2785, Mish −0.3088, GELU −0.1700, its tanh form −0.1701.
            Some(F::HardSwish) => -0.375,
            Some(F::Silu | F::Mish | F::Gelu | F::GeluTanh) => -0.31,
            Some(F::LeakyRelu(_) | F::Elu(_) | F::Log | F::Pow(_) | F::Affine(..) | F::Reciprocal(_)) => {
                unknown
            }
        },
        FloatOp::Const(t) => match t.as_f32() {
            Ok(v) if !v.iter().any(|x| x.is_nan()) => v.iter().copied().fold(f32::INFINITY, f32::min),
            _ => unknown,
        },
        FloatOp::Softmax(_) => 0.0,
        FloatOp::Concat(_)
        | FloatOp::Slice(_)
        | FloatOp::MaxPool(_)
        | FloatOp::ReduceMax(_)
        | FloatOp::Reshape(_)
        | FloatOp::Transpose(_)
        | FloatOp::DepthToSpace(_) => all(),
        FloatOp::Pad(a) => all().min(a.value),
        // Means stay above a non-negative bound only up to rounding; 0 itself is safe.
        FloatOp::AvgPool(_) | FloatOp::ReduceMean(_) | FloatOp::ReduceSum(_) if all() >= 0.0 => 0.0,
        FloatOp::Resize(_) if all() >= 0.0 => 0.0,
        FloatOp::AvgPool(_)
        | FloatOp::ReduceMean(_)
        | FloatOp::ReduceSum(_)
        | FloatOp::Resize(_)
        | FloatOp::Input
        | FloatOp::BatchNorm(_)
        | FloatOp::MatMul(_)
        | FloatOp::PRelu(_) => unknown,
    }
}
