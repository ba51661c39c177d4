//! The float interpreter: ONNX semantics on NCHW f32 tensors, for calibration and as the reference of accuracy.
//!
//! Every sum runs in one fixed order with separate multiplications and additions, whatever the CPU offers: the same
//! model and data give the same calibration ranges, and so the same artefacts, on every machine.
mod conv;
mod erf;
mod functions;
mod gemm;
mod pool;
mod reduce;

pub use erf::erf;

use super::{Observer, execute, first, movement, strided::broadcast};
use crate::{
    FloatGraph, FloatOp, Result, Shape, Tensor, bail, ensure,
    op::float::{Clamp, DepthOrder, DepthToSpace},
    verify,
};

/// Runs the network on f32 inputs in the ONNX layout.
///
/// # Errors
/// The inputs do not fit the network, or the graph breaks a rule of the verifier.
pub fn run(graph: &FloatGraph, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    run_with(graph, inputs, &mut |_, _| ())
}

/// As [`run`], and shows every value to `observe`.
///
/// # Errors
/// As [`run`].
pub fn run_with(graph: &FloatGraph, inputs: &[Tensor], observe: &mut Observer<'_>) -> Result<Vec<Tensor>> {
    verify::float(graph).map_err(first)?;
    execute(graph, inputs, observe, &|id, operands| {
        let node = graph.node(id);
        ensure!(operands.len() == node.operands().len(), "an operand has no value");
        evaluate(&node.op, operands)
    })
}

/// The result of one operator, also used to fold constants.
///
/// # Errors
/// The operands do not fit the operator.
pub fn evaluate(op: &FloatOp, operands: &[&Tensor]) -> Result<Tensor> {
    let shapes: Vec<&Shape> = operands.iter().map(|t| t.shape()).collect();
    let shape = crate::infer::float_shape(op, &shapes)?;
    let x: Vec<&[f32]> = operands.iter().map(|t| t.as_f32()).collect::<Result<_>>()?;
    // Operand counts are checked by float_shape above.
    let values = match op {
        FloatOp::Input | FloatOp::Const(_) => bail!("inputs and constants are not computed"),
        FloatOp::Conv(a) => clamped(
            a.clamp,
            conv::conv(&a.window, (x[0], shapes[0]), (x[1], shapes[1]), x.get(2).copied(), &shape)?,
        ),
        FloatOp::BatchNorm(a) => functions::batch_norm(a.epsilon, &x, shapes[0]),
        FloatOp::Linear(a) => clamped(a.clamp, gemm::linear(x[0], x[1], x.get(2).copied(), shapes[0][1])),
        FloatOp::MatMul(_) => gemm::matmul((x[0], shapes[0]), (x[1], shapes[1]), &shape)?,
        FloatOp::Unary(a) => {
            x[0].iter().map(|v| a.chain.iter().fold(*v, |v, function| function.eval(v))).collect()
        }
        FloatOp::PRelu(_) => {
            let slope = broadcast(x[1].to_vec(), shapes[1], &shape)?;
            x[0].iter().zip(&slope).map(|(v, s)| if *v < 0.0 { s * v } else { *v }).collect()
        }
        FloatOp::Binary(a) => {
            let left = broadcast(x[0].to_vec(), shapes[0], &shape)?;
            let right = broadcast(x[1].to_vec(), shapes[1], &shape)?;
            clamped(a.clamp, left.iter().zip(&right).map(|(l, r)| a.function.eval(*l, *r)).collect())
        }
        FloatOp::Concat(a) => {
            let parts: Vec<_> = x.iter().map(|v| v.to_vec()).zip(shapes.iter().copied()).collect();
            movement::concat(&parts, a.axis)
        }
        FloatOp::Slice(a) => movement::slice(x[0], shapes[0], a),
        FloatOp::MaxPool(w) => pool::max_pool(w, x[0], shapes[0], &shape)?,
        FloatOp::AvgPool(w) => pool::avg_pool(w, x[0], shapes[0], &shape)?,
        FloatOp::ReduceMean(a) => reduce::mean(x[0], shapes[0], &a.axes),
        FloatOp::ReduceMax(a) => reduce::max(x[0], shapes[0], &a.axes),
        FloatOp::ReduceSum(a) => reduce::sum(x[0], shapes[0], &a.axes),
        FloatOp::Reshape(_) => return operands[0].reshaped(shape),
        FloatOp::Transpose(a) => movement::transpose(x[0], shapes[0], &a.perm),
        FloatOp::Pad(a) => movement::pad(x[0], shapes[0], &a.before, &shape, a.value),
        FloatOp::Resize(a) => pool::resize(a, x[0], shapes[0])?,
        FloatOp::Softmax(a) => reduce::softmax(x[0], shapes[0], a.axis),
        FloatOp::DepthToSpace(a) => depth_to_space(a, x[0], shapes[0])?,
    };
    Tensor::from_f32(shape, values)
}

fn clamped(clamp: Option<Clamp>, mut values: Vec<f32>) -> Vec<f32> {
    if let Some(c) = clamp {
        for v in &mut values {
            *v = c.apply(*v);
        }
    }
    values
}

/// The reshape, transpose, reshape by which ONNX defines the operator.
fn depth_to_space(a: &DepthToSpace, x: &[f32], shape: &Shape) -> Result<Vec<f32>> {
    let ([n, c, h, w], b) = (shape.dims4()?, a.block);
    let depth = c / (b * b);
    Ok(match a.order {
        DepthOrder::Dcr => movement::transpose(x, &Shape::new([n, b, b, depth, h, w])?, &[0, 3, 4, 1, 5, 2]),
        DepthOrder::Crd => movement::transpose(x, &Shape::new([n, depth, b, b, h, w])?, &[0, 1, 4, 2, 5, 3]),
    })
}
