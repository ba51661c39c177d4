//! Multipliers of 24 significant bits, the last of which is one: the last step of lowering.
//!
//! A dyadic number of 31 bits (HAWQ-V3 §3.2) needs 64-bit products. With 24 bits it is an f32, and one fused
//! multiply-add onto 1.5·2²³ rescales and rounds an accumulator below 2²⁴ exactly: kernels take three instructions for a
//! vector where 64-bit arithmetic takes eight. The odd last bit leaves no accumulator halfway between two results, so
//! that rounding half up (the normative rule) and half to even (IEEE) agree. The scale moves by less than 2⁻²³ of itself.
//!
//! Semantics are not concerned: kernels prove what they need of the numbers that they find.
use goshawk_ir::{IntGraph, IntOp, Requant, Result};

/// Shortens all multipliers of the graph.
///
/// # Errors
/// The graph has a cycle.
pub fn run(graph: &mut IntGraph) -> Result<()> {
    let shorten = |r: &mut Requant| r.mult.iter_mut().for_each(|d| *d = d.shortened());
    for id in graph.topo_order()? {
        match &mut graph.node_mut(id).op {
            IntOp::Conv(a) => shorten(&mut a.requant),
            IntOp::Linear(a) => shorten(&mut a.requant),
            IntOp::Mul(a) | IntOp::Requant(a) => shorten(&mut a.requant),
            IntOp::AvgPool(a) => shorten(&mut a.requant),
            IntOp::Add(a) => (a.a, a.b) = (a.a.shortened(), a.b.shortened()),
            IntOp::Input
            | IntOp::Const(_)
            | IntOp::Lut(_)
            | IntOp::MaxPool(_)
            | IntOp::Concat(_)
            | IntOp::Slice(_)
            | IntOp::Pad(_)
            | IntOp::Reshape(_)
            | IntOp::Transpose(_)
            | IntOp::ResizeNearest(_)
            | IntOp::ResizeLinear(_)
            | IntOp::Softmax(_) => {}
        }
    }
    Ok(())
}
