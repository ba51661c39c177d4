//! The normative integer interpreter: what every kernel and every pass must reproduce byte for byte.
//!
//! Values are widened to i32, computed, and narrowed with a range check. Clarity comes first; convolutions still
//! run at several GMAC/s because their inner loops are contiguous i16 dot products.
mod conv;
mod elementwise;
mod pool;

use super::{Observer, execute, first, movement};
use crate::{Dyadic, IntGraph, IntOp, NodeId, Requant, Result, Tensor, TensorType, bail, ensure, verify};

/// Variants of the semantics, for comparisons with other tools only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Rescaling rounds ties to even, as PyTorch does, instead of up.
    pub half_even: bool,
}

impl Options {
    fn rescale(self, d: Dyadic, z: i32) -> i64 {
        if self.half_even { d.apply_half_even(z) } else { d.apply(z) }
    }

    fn requant(self, r: &Requant, z: i32, channel: usize) -> i32 {
        r.finish(self.rescale(r.dyadic(channel), z))
    }
}

/// Runs the network on integer inputs (NHWC where they are images).
///
/// # Errors
/// The inputs do not fit the network, or the graph breaks a rule of the verifier.
pub fn run(graph: &IntGraph, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    run_with(graph, inputs, &mut |_, _| ())
}

/// As [`run`], and shows every value to `observe`.
///
/// # Errors
/// As [`run`].
pub fn run_with(graph: &IntGraph, inputs: &[Tensor], observe: &mut Observer<'_>) -> Result<Vec<Tensor>> {
    run_options(graph, inputs, Options::default(), observe)
}

/// As [`run_with`] under a variant of the semantics.
///
/// # Errors
/// As [`run`].
pub fn run_options(
    graph: &IntGraph,
    inputs: &[Tensor],
    options: Options,
    observe: &mut Observer<'_>,
) -> Result<Vec<Tensor>> {
    verify::int_types(graph).map_err(first)?;
    for (port, value) in graph.inputs.iter().zip(inputs) {
        let ty = graph.ty(port.node);
        let (lo, hi) = ty.qparams()?.range(ty.dtype);
        if let Some(v) = value.to_ints()?.iter().find(|v| !(lo..=hi).contains(*v)) {
            bail!("input {} has the value {v}, outside {lo}..={hi}", port.name);
        }
    }
    execute(graph, inputs, observe, &|id, operands| eval(graph, id, operands, options))
}

/// An operand: values widened to i32, and its type.
struct Operand<'a> {
    values: Vec<i32>,
    ty: &'a TensorType,
}

impl Operand<'_> {
    /// x̂ = x − zero_point.
    fn centred(&self) -> Vec<i32> {
        let zp = self.ty.zero_point();
        self.values.iter().map(|v| v - zp).collect()
    }
}

/// The result of one operator on the values of its operands.
fn eval(graph: &IntGraph, id: NodeId, operands: &[&Tensor], options: Options) -> Result<Tensor> {
    let node = graph.node(id);
    let types = graph.operand_types(id);
    ensure!(operands.len() == types.len(), "an operand has no value");
    let shapes: Vec<_> = types.iter().map(|t| &t.shape).collect();
    let shape = crate::infer::int_shape(&node.op, &shapes)?;
    let x: Vec<Operand<'_>> = operands
        .iter()
        .zip(&types)
        .map(|(t, ty)| Ok(Operand { values: t.to_ints()?, ty }))
        .collect::<Result<_>>()?;
    // Operand counts are checked by int_shape above.
    let values = match &node.op {
        IntOp::Input | IntOp::Const(_) => bail!("inputs and constants are not computed"),
        IntOp::Conv(a) => conv::conv(a, &x, &shape, options)?,
        IntOp::Linear(a) => conv::linear(a, &x, options),
        IntOp::Add(a) => elementwise::add(a, &x, &shape, options)?,
        IntOp::Mul(a) => elementwise::mul(a, &x, &shape, options)?,
        IntOp::Requant(a) => elementwise::requant(a, &x[0], options),
        IntOp::Lut(_) => elementwise::lut(&x[0], &x[1])?,
        IntOp::MaxPool(w) => pool::max_pool(w, &x[0], &shape)?,
        IntOp::AvgPool(a) => pool::avg_pool(a, &x[0], &shape, options)?,
        IntOp::Concat(a) => {
            let parts: Vec<_> = x.into_iter().map(|o| (o.values, &o.ty.shape)).collect();
            movement::concat(&parts, a.axis)
        }
        IntOp::Slice(a) => movement::slice(&x[0].values, shapes[0], a),
        IntOp::Pad(a) => movement::pad(&x[0].values, shapes[0], &a.before, &shape, a.value),
        IntOp::Reshape(_) => return operands[0].reshaped(shape),
        IntOp::Transpose(a) => movement::transpose(&x[0].values, shapes[0], &a.perm),
        IntOp::ResizeNearest(a) => pool::resize_nearest(a, &x[0])?,
        IntOp::ResizeLinear(a) => pool::resize_linear(a, &x[0])?,
        IntOp::Softmax(_) => elementwise::softmax(&x[0], &x[1])?,
    };
    Tensor::from_ints(node.ty.dtype, shape, &values)
}
