//! Rules 6 and 7.
use super::common::{inferred, windows};
use crate::{
    DType, FloatGraph, FloatOp, NodeId, Result, ensure, infer::float_shape, op::float::Clamp,
    op::float::UnaryFn,
};

pub fn check(graph: &FloatGraph, id: NodeId) -> Result<()> {
    let node = graph.node(id);
    ensure!(
        node.ty.dtype == DType::F32 && node.ty.quant.is_none(),
        "the float graph has f32 tensors without quantization, got {}",
        node.ty.dtype
    );
    let types = graph.operand_types(id);
    if !matches!(node.op, FloatOp::Input | FloatOp::Const(_)) {
        let shapes: Vec<_> = types.iter().map(|t| &t.shape).collect();
        inferred(&node.ty.shape, &float_shape(&node.op, &shapes)?)?;
    }
    match &node.op {
        FloatOp::Conv(a) => a.clamp.as_ref().map_or(Ok(()), clamp),
        FloatOp::Linear(a) => a.clamp.as_ref().map_or(Ok(()), clamp),
        FloatOp::Binary(a) => a.clamp.as_ref().map_or(Ok(()), clamp),
        FloatOp::Unary(a) => {
            a.chain.iter().try_for_each(|f| if let UnaryFn::Clip(c) = f { clamp(c) } else { Ok(()) })
        }
        FloatOp::BatchNorm(a) => {
            ensure!(
                a.epsilon.is_finite() && a.epsilon >= 0.0,
                "epsilon {} must be finite and not negative",
                a.epsilon
            );
            Ok(())
        }
        FloatOp::MaxPool(w) | FloatOp::AvgPool(w) => {
            let [_, _, rows, columns] = types[0].shape.dims4()?;
            windows(w, [rows, columns])
        }
        FloatOp::Input
        | FloatOp::Const(_)
        | FloatOp::MatMul(_)
        | FloatOp::PRelu(_)
        | FloatOp::Concat(_)
        | FloatOp::Slice(_)
        | FloatOp::ReduceMean(_)
        | FloatOp::ReduceMax(_)
        | FloatOp::ReduceSum(_)
        | FloatOp::Reshape(_)
        | FloatOp::Transpose(_)
        | FloatOp::Pad(_)
        | FloatOp::Resize(_)
        | FloatOp::Softmax(_)
        | FloatOp::DepthToSpace(_) => Ok(()),
    }
}

fn clamp(c: &Clamp) -> Result<()> {
    let ordered = c.lo <= c.hi;
    ensure!(ordered, "the clamp [{}, {}] is empty", c.lo, c.hi);
    Ok(())
}
