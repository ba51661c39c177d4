//! Layers that are computed together, so that what lies between them needs no memory.
use goshawk_ir::{IntGraph, IntOp, NodeId, Result, ensure};

/// A convolution, the sum that alone reads it, and a requantization of that sum: one step of execution, at the place of
/// the sum. The convolution's result is never in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Join {
    /// The convolution.
    pub conv: NodeId,
    /// The sum of its result and the residual.
    pub add: NodeId,
    /// The other operand of the sum.
    pub residual: NodeId,
    /// A requantization of the sum.
    pub requant: Option<NodeId>,
}

impl Join {
    /// Its nodes in their order.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        [self.conv, self.add].into_iter().chain(self.requant)
    }

    /// Whether the graph has these nodes in this relation, all of one shape.
    fn check(&self, graph: &IntGraph) -> Result<()> {
        let name = &graph.node(self.conv).name;
        let operands = graph.node(self.add).operands();
        let sum = matches!(graph.node(self.add).op, IntOp::Add(_))
            && (operands == [self.conv, self.residual] || operands == [self.residual, self.conv]);
        let alone = matches!(graph.node(self.conv).op, IntOp::Conv(_))
            && graph.users(self.conv) == [self.add]
            && !graph.is_output(self.conv)
            && self.conv != self.residual;
        let again = self.requant.is_none_or(|r| {
            matches!(graph.node(r).op, IntOp::Requant(_)) && graph.node(r).operands() == [self.add]
        });
        let shape = &graph.ty(self.conv).shape;
        let alike = self.nodes().chain([self.residual]).all(|id| graph.ty(id).shape == *shape);
        ensure!(sum && alone && again && alike, "{name} cannot be joined with the sum that reads it");
        Ok(())
    }
}

/// The steps of execution in order: single nodes, and joins.
///
/// # Errors
/// The graph has a cycle, or a join does not fit it.
pub fn steps(graph: &IntGraph, joins: &[Join]) -> Result<Vec<Vec<NodeId>>> {
    for join in joins {
        join.check(graph)?;
    }
    let step = |id: NodeId| match joins.iter().find(|j| j.nodes().any(|n| n == id)) {
        Some(join) if join.add == id => join.nodes().collect(),
        Some(_) => Vec::new(),
        None => vec![id],
    };
    let steps = graph.topo_order()?.into_iter().map(step);
    Ok(steps.filter(|s: &Vec<NodeId>| !s.is_empty()).collect())
}
