//! Recognises activation functions that a model spells out: x·sigmoid(x) is Silu, x·clip(x + 3, 0, 6)/6 HardSwish,
//! x·tanh(ln(1 + eˣ)) Mish, ½·x·(1 + erf(x/√2)) Gelu, its tanh form GeluTanh, max(x, a·x) LeakyRelu, 1/(1 + e⁻ˣ) Sigmoid.
//! One function of one tensor is one table in the integer graph; spelled out it is several rounded steps.
//!
//! For every elementwise node, each tensor above it is tried as "the variable", nearest first: if the node is a
//! function of that tensor alone, the function is written in normal form ([`super::algebra`]) and identified
//! ([`super::identify`]). Constants may deviate by rounding (relative 10⁻⁵).
use super::algebra::{Poly, apply, combine};
use super::identify::identify;
use crate::rewrite::splat;
use goshawk_ir::{
    FloatGraph, FloatOp, NodeId, Result,
    op::float::{Unary, UnaryFn},
};
use std::collections::{BTreeMap, VecDeque};

/// Elementwise nodes above a node that are looked at: the longest known spelling (tanh-GELU) takes 9.
const MAX_REGION: usize = 24;

/// Runs the pass.
///
/// # Errors
/// The graph has a cycle.
pub fn run(g: &mut FloatGraph) -> Result<()> {
    for id in g.topo_order()? {
        if let Some((x, chain)) = recognised(g, id) {
            g.node_mut(id).op = FloatOp::Unary(Unary { chain });
            g.set_operands(id, &[x]);
        }
    }
    g.remove_dead();
    Ok(())
}

/// The variable and the functions applied to it, if that is simpler than what stands there.
fn recognised(g: &FloatGraph, id: NodeId) -> Option<(NodeId, Vec<UnaryFn>)> {
    let region = region(g, id);
    region.iter().skip(1).find_map(|variable| {
        let mut values = BTreeMap::from([(*variable, Some(Poly::x()))]);
        let value = value(g, id, &mut values, region.len())?;
        let chain = identify(&value)?;
        let inside: Vec<&FloatOp> =
            values.keys().filter(|n| *n != variable).map(|n| &g.node(*n).op).collect();
        let binaries = inside.iter().filter(|op| matches!(op, FloatOp::Binary(_))).count();
        let functions: usize = inside.iter().map(|op| function_count(op)).sum();
        (binaries > 0 || chain.len() < functions).then_some((*variable, chain))
    })
}

fn function_count(op: &FloatOp) -> usize {
    if let FloatOp::Unary(a) = op { a.chain.len() } else { 0 }
}

fn is_elementwise(op: &FloatOp) -> bool {
    matches!(op, FloatOp::Unary(_) | FloatOp::Binary(_))
}

/// The node, the elementwise nodes above it and what they read, nearest first; constants are left out.
fn region(g: &FloatGraph, id: NodeId) -> Vec<NodeId> {
    let mut found = vec![id];
    let mut queue = VecDeque::from([id]);
    while let Some(next) = queue.pop_front()
        && found.len() < MAX_REGION
    {
        if !is_elementwise(&g.node(next).op) {
            continue;
        }
        for operand in g.node(next).operands() {
            if g.constant(*operand).is_none() && !found.contains(operand) {
                found.push(*operand);
                queue.push_back(*operand);
            }
        }
    }
    found
}

/// The node as a function of the variable, whose entry is in `values`; `None` if it depends on anything else.
fn value(
    g: &FloatGraph,
    id: NodeId,
    values: &mut BTreeMap<NodeId, Option<Poly>>,
    depth: usize,
) -> Option<Poly> {
    if let Some(known) = values.get(&id) {
        return known.clone();
    }
    let depth = depth.checked_sub(1)?;
    let node = g.node(id);
    let result = match &node.op {
        FloatOp::Unary(a) => {
            let x = value(g, node.operands()[0], values, depth);
            a.chain.iter().try_fold(x?, |x, f| apply(*f, &x))
        }
        FloatOp::Binary(a) => {
            let mut operand = |o: NodeId| match splat(g, o) {
                Some(c) => Some(Poly::constant(f64::from(c))),
                None if g.ty(o).shape == node.ty.shape => value(g, o, values, depth),
                None => None,
            };
            let (left, right) = (operand(node.operands()[0])?, operand(node.operands()[1])?);
            let value = combine(a.function, &left, &right)?;
            match a.clamp {
                Some(c) => apply(UnaryFn::Clip(c), &value),
                None => Some(value),
            }
        }
        _ => None,
    };
    values.insert(id, result.clone());
    result
}
