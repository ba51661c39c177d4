//! Composes Reshape nodes: a Reshape reads through any Reshape before it, since only the element order counts. A
//! Transpose that moves nothing but dimensions of length 1 is a Reshape and becomes one.
use goshawk_ir::{FloatGraph, FloatOp, NodeId, Result, op::float::Reshape};

/// Runs the pass.
///
/// # Errors
/// The graph has a cycle.
pub fn run(g: &mut FloatGraph) -> Result<()> {
    for id in g.topo_order()? {
        if moves_unit_dims_only(g, id) {
            let shape = g.ty(id).shape.to_vec();
            g.node_mut(id).op = FloatOp::Reshape(Reshape { shape });
        }
        if let FloatOp::Reshape(_) = g.node(id).op {
            // Operands come first in the order, so theirs are composed already.
            let source = g.node(id).operands()[0];
            if let FloatOp::Reshape(_) = g.node(source).op {
                let origin = g.node(source).operands()[0];
                g.set_operand(id, 0, origin);
            }
        }
    }
    g.remove_dead();
    Ok(())
}

fn moves_unit_dims_only(g: &FloatGraph, id: NodeId) -> bool {
    let FloatOp::Transpose(a) = &g.node(id).op else { return false };
    let x = &g.ty(g.node(id).operands()[0]).shape;
    let long: Vec<_> = a.perm.iter().filter(|p| x[**p] > 1).collect();
    long.is_sorted()
}
