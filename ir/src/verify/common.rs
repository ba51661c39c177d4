//! Rules 1 to 5, which both graphs share.
use crate::{Graph, IrError, Layout, NodeId, Operator, Port, Result, Shape, ensure, op::window::PoolWindow};
use std::collections::{BTreeMap, BTreeSet};

/// Checks the structure, then every node with `node`.
pub fn check<O: Operator>(graph: &Graph<O>, node: &dyn Fn(NodeId) -> Result<()>) -> Vec<IrError> {
    let mut errors = Vec::new();
    let order = match graph.topo_order() {
        Ok(order) => order,
        Err(e) => return vec![e],
    };
    let mut names = BTreeSet::new();
    for id in &order {
        let name = graph.node(*id).name.as_str();
        if name.is_empty() {
            errors.push(IrError::new("a node has no name"));
        } else if !names.insert(name) {
            errors.push(IrError::new("two nodes have this name").at(name));
        }
    }
    errors.extend(ports(graph).err());
    for id in order {
        let n = graph.node(id);
        errors.extend(declared(graph, id).and_then(|()| node(id)).err().map(|e| e.at(&n.name)));
    }
    errors
}

fn ports<O: Operator>(graph: &Graph<O>) -> Result<()> {
    ensure!(!graph.outputs.is_empty(), "the network has no outputs");
    let mut inputs: BTreeMap<NodeId, usize> = BTreeMap::new();
    let side = |ports: &[Port], what: &str| {
        let mut names = BTreeSet::new();
        for p in ports {
            ensure!(!p.name.is_empty(), "an {what} has no name");
            ensure!(names.insert(p.name.clone()), "two {what}s have the name {}", p.name);
            ensure!(graph.contains(p.node), "the node of {what} {} does not exist", p.name);
            let shape = &graph.ty(p.node).shape;
            ensure!(
                p.layout == Layout::Same || shape.rank() == 4,
                "{what} {} is nchw, but its shape is {shape}",
                p.name
            );
        }
        Ok(())
    };
    side(&graph.inputs, "input")?;
    side(&graph.outputs, "output")?;
    for p in &graph.inputs {
        let node = graph.node(p.node);
        ensure!(
            node.op.is_input(),
            "input {} names {}, a node of kind {}",
            p.name,
            node.name,
            node.op.name()
        );
        *inputs.entry(p.node).or_default() += 1;
    }
    for id in graph.ids().filter(|id| graph.node(*id).op.is_input()) {
        let count = inputs.get(&id).copied().unwrap_or(0);
        ensure!(count == 1, "{} has {count} input ports instead of one", graph.node(id).name);
    }
    Ok(())
}

/// Rule 3.
fn declared<O: Operator>(graph: &Graph<O>, id: NodeId) -> Result<()> {
    let node = graph.node(id);
    if let Some(value) = node.op.as_const() {
        ensure!(
            value.dtype() == node.ty.dtype && *value.shape() == node.ty.shape,
            "the value is {}{}, declared {}{}",
            value.dtype(),
            value.shape(),
            node.ty.dtype,
            node.ty.shape
        );
    }
    if node.op.is_input() || node.op.as_const().is_some() {
        ensure!(node.operands().is_empty(), "inputs and constants have no operands");
    }
    Ok(())
}

/// Rule 4.
pub fn inferred(declared: &Shape, inferred: &Shape) -> Result<()> {
    ensure!(declared == inferred, "the shape is {inferred}, declared {declared}");
    Ok(())
}

/// Rule 5, for an operand of `rows` and `columns`.
pub fn windows(w: &PoolWindow, input: [usize; 2]) -> Result<()> {
    let out = w.out_size(input)?;
    for axis in 0..2 {
        for o in 0..out[axis] {
            ensure!(
                !w.taps(axis, o, input[axis]).0.is_empty(),
                "window {o} along {} has no tap inside the operand",
                ["rows", "columns"][axis]
            );
        }
    }
    Ok(())
}
