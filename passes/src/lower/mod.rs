//! Lowering: the prepared float graph becomes the integer graph.
//!
//! Follows HAWQ-V3 §3 (dyadic scales, i32 accumulators, residual sums on a 16-bit grid) with affine unsigned
//! activations. Two phases:
//! 1. [`homes`] gives every value its one quantizer, from the calibrated ranges and from what its readers ask
//!    ([`reads`]);
//! 2. each operator is emitted by the file of its family, reading operands through [`context::Lowerer`], which converts
//!    widths ([`context::Lowerer::bytes`]) and memory order ([`order`]) where the operator needs it.
//!
//! Then [`crate::int_simplify`] removes what the two phases left over, and [`crate::short_multipliers`] gives all dyadic
//! numbers the form that kernels rescale fastest by.
mod binary;
mod context;
mod conv;
mod homes;
pub mod layers;
mod lut;
mod movement;
pub mod order;
mod pool;
mod reads;
mod reshape;

pub use homes::{Home, quantized_bits};

use crate::{
    bits::{BitPlan, LayerBits},
    calibrate::Ranges,
    int_simplify,
    quantize::WeightClip,
    short_multipliers,
};
use goshawk_ir::{FloatGraph, FloatOp, IntGraph, IrError, NodeId, Result, ensure, verify};
use std::collections::BTreeMap;

/// Choices of the lowering.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Width of the grid on which residual sums are taken: 8 or 16.
    pub residual_bits: u8,
    /// Width of the network outputs: 8 (unsigned, affine) or 16 (signed, symmetric).
    pub output_bits: u8,
    /// How weight scales are chosen; `None` takes the default of the width ([`Options::clip`]).
    pub weight_clip: Option<WeightClip>,
    /// Whether the biases of layers with weights of 6 bits or fewer make up for what weight rounding takes from the
    /// mean of each channel. Wider weights take next to nothing.
    pub bias_correction: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { residual_bits: 16, output_bits: 16, weight_clip: None, bias_correction: true }
    }
}

impl Options {
    /// How the scales of weights of `bits` bits are chosen.
    pub fn clip(&self, bits: u8) -> WeightClip {
        let default = if bits > 6 { WeightClip::MaxAbs } else { WeightClip::Mse };
        self.weight_clip.unwrap_or(default)
    }

    fn check(&self) -> Result<()> {
        for (what, bits) in [("residual", self.residual_bits), ("output", self.output_bits)] {
            ensure!(bits == 8 || bits == 16, "{what} bits must be 8 or 16, got {bits}");
        }
        Ok(())
    }
}

/// The integer graph and where the float graph's values are in it.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The integer graph.
    pub graph: IntGraph,
    /// Memory order of every integer node that carries the name of a float value: stored dimension j is dimension
    /// `order[j]` of the float value (see [`order`]).
    pub orders: BTreeMap<String, Vec<usize>>,
}

/// Lowers a graph that went through [`crate::pipeline::prepare`], calibrated into `ranges`.
///
/// # Errors
/// All problems at once, one a line, each with the node: no range, a combination of operators that has no integer form,
/// constants that are not finite, an accumulator that could overflow.
pub fn lower(graph: &FloatGraph, ranges: &Ranges, plan: &BitPlan, options: &Options) -> Result<IntGraph> {
    lower_traced(graph, ranges, plan, options).map(|l| l.graph).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        match &errors[..] {
            [only] => only.clone(),
            _ => IrError::new(lines.join("\n")),
        }
    })
}

/// As [`lower`], with the memory order of every named value, and the errors as a list.
///
/// # Errors
/// As [`lower`].
pub fn lower_traced(
    graph: &FloatGraph,
    ranges: &Ranges,
    plan: &BitPlan,
    options: &Options,
) -> std::result::Result<Lowered, Vec<IrError>> {
    options.check().map_err(|e| vec![e])?;
    let bits = plan.resolve(graph).map_err(|e| vec![e])?;
    let range = |id: NodeId| ranges.get(&graph.node(id).name);
    let homes = homes::assign(graph, &bits, options, &range)?;
    let mut lowerer = context::Lowerer::new(graph, ranges, &bits, options, homes);
    let mut errors = Vec::new();
    let mut failed = std::collections::BTreeSet::new();
    for id in graph.topo_order().map_err(|e| vec![e])? {
        if graph.constant(id).is_some() {
            continue;
        }
        if graph.node(id).operands().iter().any(|o| failed.contains(o)) {
            failed.insert(id);
        } else if let Err(e) = emit(&mut lowerer, id) {
            failed.insert(id);
            errors.push(e.at(&graph.node(id).name));
        }
    }
    if errors.is_empty() {
        lowerer.outputs().map_err(|e| vec![e])?;
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let (mut result, orders) = lowerer.finish();
    int_simplify::run(&mut result).map_err(|e| vec![e])?;
    short_multipliers::run(&mut result).map_err(|e| vec![e])?;
    verify::int(&result)?;
    let orders = orders.into_iter().filter(|(name, _)| result.find(name).is_some()).collect();
    Ok(Lowered { graph: result, orders })
}

/// Emits the integer form of one node.
fn emit(l: &mut context::Lowerer<'_>, id: NodeId) -> Result<()> {
    match &l.src.node(id).op.clone() {
        FloatOp::Input => l.input(id),
        FloatOp::Const(_) => Ok(()),
        FloatOp::Conv(a) => conv::conv(l, id, a),
        FloatOp::Linear(a) => conv::linear(l, id, a.clamp),
        FloatOp::MatMul(_) => conv::matmul(l, id),
        FloatOp::BatchNorm(a) => binary::batch_norm(l, id, a),
        FloatOp::Unary(a) => lut::unary(l, id, a),
        FloatOp::PRelu(_) => lut::prelu(l, id),
        FloatOp::Binary(a) => binary::binary(l, id, a),
        FloatOp::Concat(a) => movement::concat(l, id, a.axis),
        FloatOp::Slice(a) => movement::slice(l, id, a),
        FloatOp::Pad(a) => movement::pad(l, id, a),
        FloatOp::Resize(a) => movement::resize(l, id, a),
        FloatOp::MaxPool(w) => pool::max(l, id, w),
        FloatOp::AvgPool(w) => pool::average(l, id, w),
        FloatOp::ReduceMean(a) => pool::reduce(l, id, a, pool::Reduction::Mean),
        FloatOp::ReduceSum(a) => pool::reduce(l, id, a, pool::Reduction::Sum),
        FloatOp::ReduceMax(a) => pool::reduce(l, id, a, pool::Reduction::Max),
        FloatOp::Reshape(_) => reshape::reshape(l, id),
        FloatOp::Transpose(a) => reshape::transpose(l, id, &a.perm),
        FloatOp::DepthToSpace(a) => reshape::depth_to_space(l, id, a),
        FloatOp::Softmax(a) => lut::softmax(l, id, a.axis),
    }
}

/// Widths of the layers by name, as [`BitPlan::resolve`] gives them.
type Bits = BTreeMap<String, LayerBits>;
