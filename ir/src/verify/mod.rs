//! The verifier: what the interpreters, the passes and the code generator may rely on.
//!
//! Every pass is followed by it. It reports one error for each node that breaks a rule, with the node's name.
//!
//! Rules of both graphs:
//! 1. The graph has no cycle, node names are unique and not empty, and there is at least one output.
//! 2. Ports name existing nodes; port names are unique on each side and not empty; every `input` node has exactly one
//!    input port, which names no other kind of node; an `nchw` port has a tensor of rank 4.
//! 3. Inputs and constants have no operands; a constant has the element type and shape of its value.
//! 4. Every other node has the shape that [`crate::infer`] gives, which also checks operand counts and attributes.
//! 5. Every window of a pool has a tap inside the operand.
//!
//! Rules of the float graph:
//! 6. Every tensor is f32 and not quantized.
//! 7. Clamps have lo ≤ hi, epsilon is finite and not negative.
//!
//! Rules of the integer graph:
//! 8. Every value but a constant is an activation: u8 of 2 to 8 bits with a zero point in 0..=255, or i16 of 16 bits
//!    with zero point 0 (the residual grid and outputs); its one scale is finite and between 2⁻⁶⁰ and 2⁶⁰.
//! 9. Constants used as activations obey rule 8, and their values lie in the range of their bits.
//! 10. Weights are constants, i8 of 2 to 8 bits or i4 of 2 to 4, with zero point 0, values in ±(2^(bits−1) − 1), and
//!     one scale for the tensor or for each output channel (axis 0), finite and between 2⁻⁶⁰ and 2⁶⁰.
//! 11. Biases are i32 constants; quantized biases have zero point 0, 32 bits and one scale or one per channel.
//! 12. Operand and result types are those that [`crate::IntOp`] documents.
//! 13. Dyadic numbers have mult ≥ 0 and shift in 1..=62. The requantization's zero point is that of the result, and
//!     lo ≤ hi lie in the range of the result's bits.
//! 14. Max pools, concats, slices, pads, reshapes, transposes and resizes keep element type and quantization; all
//!     operands of a concat have the same.
//! 15. The value of a pad lies in the range of the result's bits.
//! 16. Tables are constants without quantization; the entries of a `lut` have the result's type and lie in its range;
//!     those of a `softmax` are i32, not negative, and the first one is positive. A softmax makes i16 of scale 2⁻¹⁵.
//! 17. Accumulators fit in i32 for every possible activation: [`crate::range`].
//! 18. Network outputs are not constants.
mod common;
mod float;
mod int;

use crate::{FloatGraph, IntGraph, IrError, Result};

/// Checks the rules of the float graph.
///
/// # Errors
/// All errors found, one for each node at most.
pub fn float(graph: &FloatGraph) -> Result<(), Vec<IrError>> {
    finish(common::check(graph, &|id| float::check(graph, id)))
}

/// Checks the rules of the integer graph.
///
/// # Errors
/// As [`float()`].
pub fn int(graph: &IntGraph) -> Result<(), Vec<IrError>> {
    let mut errors = common::check(graph, &|id| {
        int::check(graph, id)?;
        int::check_values(graph, id)
    });
    errors.extend(int::check_outputs(graph));
    finish(errors)
}

/// As [`int()`], but does not look at the values of constants, on which no index depends: cheap enough for every
/// run of the interpreter.
pub(crate) fn int_types(graph: &IntGraph) -> Result<(), Vec<IrError>> {
    finish(common::check(graph, &|id| int::check(graph, id)))
}

fn finish(errors: Vec<IrError>) -> Result<(), Vec<IrError>> {
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}
