//! Turns elementwise operators with a constant operand of one value into functions of one variable, which later passes
//! compose, recognise and fuse: x + c, c − x, x · c, x / c → Affine; c / x → Reciprocal; max and min with c → Clip;
//! x ^ c → Pow; PRelu with one slope → LeakyRelu, or Relu where the slope is 0.
//!
//! A clamp that is fused already stays, as the next function of the chain. x / c becomes x · (1/c), which may differ
//! from the division in the last bit.
use goshawk_ir::{
    FloatGraph, FloatOp, NodeId, Result,
    op::float::{BinaryFn, Clamp, Unary, UnaryFn},
};

/// Runs the pass.
///
/// # Errors
/// The graph has a cycle.
pub fn run(g: &mut FloatGraph) -> Result<()> {
    for id in g.topo_order()? {
        if let Some((x, chain)) = as_unary(g, id) {
            g.node_mut(id).op = FloatOp::Unary(Unary { chain });
            g.set_operands(id, &[x]);
        }
    }
    g.remove_dead();
    Ok(())
}

/// The variable operand and the functions applied to it.
fn as_unary(g: &FloatGraph, id: NodeId) -> Option<(NodeId, Vec<UnaryFn>)> {
    let node = g.node(id);
    let &[a, b] = node.operands() else { return None };
    // The constant must not widen the result.
    let fits = |x: NodeId| g.ty(x).shape == node.ty.shape;
    let of_x = |x: NodeId, c: NodeId| {
        fits(x).then(|| crate::rewrite::splat(g, c)).flatten().filter(|c| !c.is_nan()).map(|c| (x, c))
    };
    match &node.op {
        FloatOp::PRelu(_) => {
            let (x, slope) = of_x(a, b)?;
            Some((x, vec![if slope == 0.0 { UnaryFn::RELU } else { UnaryFn::LeakyRelu(slope) }]))
        }
        FloatOp::Binary(binary) => {
            let (x, function) = if let Some((x, c)) = of_x(a, b) {
                (x, with_right_constant(binary.function, c)?)
            } else {
                let (x, c) = of_x(b, a)?;
                (x, with_left_constant(binary.function, c)?)
            };
            Some((x, std::iter::once(function).chain(binary.clamp.map(UnaryFn::Clip)).collect()))
        }
        _ => None,
    }
}

/// f(x, c) as a function of x.
fn with_right_constant(f: BinaryFn, c: f32) -> Option<UnaryFn> {
    match f {
        BinaryFn::Add => Some(UnaryFn::Affine(1.0, c)),
        BinaryFn::Sub => Some(UnaryFn::Affine(1.0, -c)),
        BinaryFn::Mul => Some(UnaryFn::Affine(c, 0.0)),
        BinaryFn::Div => (c != 0.0 && (1.0 / c).is_finite()).then(|| UnaryFn::Affine(1.0 / c, 0.0)),
        BinaryFn::Min => Some(UnaryFn::Clip(Clamp { lo: f32::NEG_INFINITY, hi: c })),
        BinaryFn::Max => Some(UnaryFn::Clip(Clamp { lo: c, hi: f32::INFINITY })),
        BinaryFn::Pow => Some(UnaryFn::Pow(c)),
    }
}

/// f(c, x) as a function of x.
fn with_left_constant(f: BinaryFn, c: f32) -> Option<UnaryFn> {
    match f {
        BinaryFn::Add | BinaryFn::Mul | BinaryFn::Min | BinaryFn::Max => with_right_constant(f, c),
        BinaryFn::Sub => Some(UnaryFn::Affine(-1.0, c)),
        BinaryFn::Div => Some(UnaryFn::Reciprocal(c)),
        BinaryFn::Pow => None,
    }
}
