//! Constant folding: a node whose operands are all constants is evaluated by the float interpreter and becomes a
//! constant under its own name. In topological order whole constant subgraphs fold in one sweep.
//!
//! Results above [`MAX_FOLDED`] elements stay operators, so that a small hostile model cannot make a huge one.
use goshawk_ir::{FloatGraph, FloatOp, Result, Tensor, interp};

/// Largest constant that folding makes, in elements.
pub const MAX_FOLDED: usize = 1 << 26;

/// Runs the pass.
///
/// # Errors
/// The graph has a cycle, or a node cannot be evaluated; the error names it.
pub fn run(g: &mut FloatGraph) -> Result<()> {
    for id in g.topo_order()? {
        let node = g.node(id);
        if node.operands().is_empty() || node.ty.shape.count() > MAX_FOLDED {
            continue;
        }
        let Some(operands) = node.operands().iter().map(|o| g.constant(*o)).collect::<Option<Vec<&Tensor>>>()
        else {
            continue;
        };
        let value = interp::float::evaluate(&node.op, &operands).map_err(|e| e.at(node.name.clone()))?;
        g.node_mut(id).op = FloatOp::Const(value);
        g.set_operands(id, &[]);
    }
    g.remove_dead();
    Ok(())
}
