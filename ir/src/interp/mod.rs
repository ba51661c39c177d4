//! Reference interpreters. [`int`] is the normative semantics of the integer graph, [`mod@float`] that of the float
//! graph, [`boundary`] the step between them at the f32 entry points.
//!
//! They share one executor: nodes in topological order, values freed after their last use, results checked
//! against the declared types.
pub mod boundary;
pub mod float;
pub mod int;
mod movement;
mod strided;

use crate::{Graph, IrError, NodeId, Operator, Result, Tensor, ensure};
use std::collections::BTreeMap;

/// Called with every value that is computed or given, in topological order; constants are left out.
pub type Observer<'a> = dyn FnMut(NodeId, &Tensor) + 'a;

/// Evaluates every node with `eval`, which gets the operands in order.
fn execute<O: Operator>(
    graph: &Graph<O>,
    inputs: &[Tensor],
    observe: &mut Observer<'_>,
    eval: &dyn Fn(NodeId, &[&Tensor]) -> Result<Tensor>,
) -> Result<Vec<Tensor>> {
    ensure!(
        inputs.len() == graph.inputs.len(),
        "{} inputs for a network of {}",
        inputs.len(),
        graph.inputs.len()
    );
    let mut uses: BTreeMap<NodeId, usize> = graph.ids().map(|id| (id, graph.use_count(id))).collect();
    let mut values: BTreeMap<NodeId, Tensor> = BTreeMap::new();
    for (port, value) in graph.inputs.iter().zip(inputs) {
        let ty = graph.ty(port.node);
        ensure!(
            value.dtype() == ty.dtype && *value.shape() == ty.shape,
            "input {} is {}{}, the network takes {}{}",
            port.name,
            value.dtype(),
            value.shape(),
            ty.dtype,
            ty.shape
        );
        values.insert(port.node, value.clone());
    }
    for id in graph.topo_order()? {
        let node = graph.node(id);
        if let Some(value) = node.op.as_const() {
            values.insert(id, value.clone());
            continue;
        }
        if !node.op.is_input() {
            let operands: Vec<&Tensor> = node.operands().iter().filter_map(|o| values.get(o)).collect();
            let result = eval(id, &operands).map_err(|e| e.at(&node.name))?;
            ensure!(
                result.dtype() == node.ty.dtype && *result.shape() == node.ty.shape,
                "{}: the result is {}{}, declared {}{}",
                node.name,
                result.dtype(),
                result.shape(),
                node.ty.dtype,
                node.ty.shape
            );
            for operand in node.operands() {
                if let Some(n) = uses.get_mut(operand) {
                    *n -= 1;
                    if *n == 0 {
                        values.remove(operand);
                    }
                }
            }
            values.insert(id, result);
        }
        match values.get(&id) {
            Some(value) => observe(id, value),
            None => crate::bail!("{}: the node is an input but no port of the network", node.name),
        }
        if uses.get(&id) == Some(&0) {
            values.remove(&id);
        }
    }
    graph
        .outputs
        .iter()
        .map(|p| match values.get(&p.node) {
            Some(v) => Ok(v.clone()),
            None => crate::bail!("output {} has no value", p.name),
        })
        .collect()
}

/// The first error of the verifier. The interpreters index on the strength of its rules, so they run it first.
fn first(errors: Vec<IrError>) -> IrError {
    errors.into_iter().next().unwrap_or_else(|| IrError::new("the graph is invalid"))
}
