//! MatMul by a constant matrix → Linear. a […,M,K] · b [K,N] treats every row of `a` alike, so the leading dimensions
//! join the rows: Reshape to [rows,K], Linear with the transposed matrix [N,K], Reshape back. A Linear has per-output
//! channel weights, a bias and an activation to fuse into; a MatMul has none.
use crate::rewrite::{add_const, add_op};
use goshawk_ir::{
    FloatGraph, FloatOp, NodeId, Result, Shape,
    op::float::{Linear, Reshape},
};

/// Runs the pass.
///
/// # Errors
/// The graph has a cycle.
pub fn run(g: &mut FloatGraph) -> Result<()> {
    for id in g.topo_order()? {
        if matches!(g.node(id).op, FloatOp::MatMul(_)) {
            convert(g, id)?;
        }
    }
    g.remove_dead();
    Ok(())
}

fn convert(g: &mut FloatGraph, id: NodeId) -> Result<()> {
    let &[a, b] = g.node(id).operands() else { return Ok(()) };
    let Some(values) = crate::rewrite::const_values(g, b) else { return Ok(()) };
    let [k, n] = g.ty(b).shape[..] else { return Ok(()) };
    let mut transposed = Vec::with_capacity(values.len());
    for column in 0..n {
        transposed.extend((0..k).map(|row| values[row * n + column]));
    }
    let (matrix_name, name) = (g.node(b).name.clone(), g.node(id).name.clone());
    let weight = add_const(g, &matrix_name, Shape::new([n, k])?, transposed)?;
    let linear = FloatOp::Linear(Linear { clamp: None });
    if g.ty(a).shape.rank() == 2 {
        g.node_mut(id).op = linear;
        g.set_operands(id, &[a, weight]);
        return Ok(());
    }
    let rows = g.ty(a).shape.count() / k;
    let flat = add_op(g, &name, FloatOp::Reshape(Reshape { shape: vec![rows, k] }), &[a])?;
    let product: NodeId = add_op(g, &name, linear, &[flat, weight])?;
    let shape = g.ty(id).shape.to_vec();
    g.node_mut(id).op = FloatOp::Reshape(Reshape { shape });
    g.set_operands(id, &[product]);
    Ok(())
}
