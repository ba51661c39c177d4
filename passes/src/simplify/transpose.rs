//! Composes Transpose nodes: Transpose(q) after Transpose(p) is the Transpose by p∘q, result dimension i being operand
//! dimension p\[q\[i\]\]. Two that cancel compose to the identity permutation, which `remove-identities` takes out.
//!
//! Elementwise functions commute with permutations, so a Transpose → Unary → Transpose sandwich composes as well: the
//! Unary is made to read the first Transpose's operand where it is its only reader.
use goshawk_ir::{FloatGraph, FloatOp, NodeId, Result, op::float::Transpose};

/// Runs the pass.
///
/// # Errors
/// The graph has a cycle.
pub fn run(g: &mut FloatGraph) -> Result<()> {
    for id in g.topo_order()? {
        let FloatOp::Transpose(outer) = &g.node(id).op else { continue };
        let outer = outer.perm.clone();
        // The elementwise nodes between the two transposes, nearest first.
        let mut between = Vec::new();
        let mut source = g.node(id).operands()[0];
        while matches!(g.node(source).op, FloatOp::Unary(_)) && g.only_user(source).is_some() {
            between.push(source);
            source = g.node(source).operands()[0];
        }
        let FloatOp::Transpose(inner) = &g.node(source).op else { continue };
        let perm: Vec<usize> = outer.iter().map(|i| inner.perm[*i]).collect();
        let origin = g.node(source).operands()[0];
        rewire(g, id, &between, origin, perm);
    }
    g.remove_dead();
    Ok(())
}

fn rewire(g: &mut FloatGraph, outer: NodeId, between: &[NodeId], origin: NodeId, perm: Vec<usize>) {
    match between.last() {
        None => g.set_operand(outer, 0, origin),
        Some(first) => {
            let ty = g.ty(origin).clone();
            for id in between {
                g.node_mut(*id).ty = ty.clone();
            }
            g.set_operand(*first, 0, origin);
        }
    }
    g.node_mut(outer).op = FloatOp::Transpose(Transpose { perm });
}
