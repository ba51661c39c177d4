//! Joins chains of elementwise functions: a Unary that is the only reader of another Unary takes over its functions.
//! The integer graph evaluates any chain with one table of 256 entries, so a longer chain costs nothing.
//!
//! Neighbours in the chain are composed: Affine ∘ Affine is an Affine, Clip ∘ Clip a Clip, and functions that change
//! nothing go.
use goshawk_ir::{
    FloatGraph, FloatOp, Result,
    op::float::{Clamp, Unary, UnaryFn},
};

/// Runs the pass.
///
/// # Errors
/// The graph has a cycle.
pub fn run(g: &mut FloatGraph) -> Result<()> {
    for id in g.topo_order()? {
        let FloatOp::Unary(outer) = &g.node(id).op else { continue };
        let mut chain = outer.chain.clone();
        let source = g.node(id).operands()[0];
        if let FloatOp::Unary(inner) = &g.node(source).op
            && g.only_user(source) == Some(id)
        {
            chain.splice(0..0, inner.chain.iter().copied());
            let origin = g.node(source).operands()[0];
            g.set_operand(id, 0, origin);
            g.set_operands(source, &[]);
        }
        g.node_mut(id).op = FloatOp::Unary(Unary { chain: composed(&chain) });
    }
    g.remove_dead();
    Ok(())
}

/// The chain with neighbours composed and identities left out.
pub(crate) fn composed(chain: &[UnaryFn]) -> Vec<UnaryFn> {
    let mut out: Vec<UnaryFn> = Vec::with_capacity(chain.len());
    for function in chain {
        let next = match (out.last(), function) {
            (Some(UnaryFn::Affine(a, b)), UnaryFn::Affine(c, d)) => {
                let (a, b, c, d) = (f64::from(*a), f64::from(*b), f64::from(*c), f64::from(*d));
                out.pop();
                UnaryFn::Affine((a * c) as f32, (b * c + d) as f32)
            }
            (Some(UnaryFn::Clip(first)), UnaryFn::Clip(second)) => {
                let both = intersected(*first, *second);
                out.pop();
                UnaryFn::Clip(both)
            }
            _ => *function,
        };
        if !is_identity(&next) {
            out.push(next);
        }
    }
    out
}

/// The clamp that has the effect of `second` after `first`.
pub(crate) fn intersected(first: Clamp, second: Clamp) -> Clamp {
    Clamp { lo: second.apply(first.lo), hi: second.apply(first.hi) }
}

fn is_identity(f: &UnaryFn) -> bool {
    matches!(f, UnaryFn::Affine(a, b) if *a == 1.0 && *b == 0.0)
        || matches!(f, UnaryFn::Clip(c) if c.lo == f32::NEG_INFINITY && c.hi == f32::INFINITY)
}
