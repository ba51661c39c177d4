//! Lifetimes: when each block of memory must hold its value.
use super::ALIGN;
use goshawk_ir::{IntGraph, IntOp, NodeId};
use std::collections::BTreeMap;

/// Memory that one value, or a chain of reshapes of it, occupies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The values.
    pub values: Vec<NodeId>,
    /// Size, aligned.
    pub bytes: usize,
    /// Step that writes it first.
    pub from: usize,
    /// Last step that reads it.
    pub to: usize,
}

impl Block {
    /// Whether both are needed at the same time. A step's result must not overlap its operands.
    pub fn meets(&self, other: &Self) -> bool {
        self.from <= other.to && other.from <= self.to
    }
}

/// Whether a Reshape lies in its operand's memory.
pub fn aliases(graph: &IntGraph, id: NodeId) -> Option<NodeId> {
    let node = graph.node(id);
    let IntOp::Reshape(_) = node.op else { return None };
    let x = *node.operands().first()?;
    let owned = |v: NodeId| graph.is_output(v) || graph.node(v).op == IntOp::Input;
    (!owned(id) && !owned(x) && graph.constant(x).is_none()).then_some(x)
}

/// Blocks in order of their first step. Step i computes `order[i]`; inputs are there before the first step, outputs
/// stay until after the last.
pub fn blocks(graph: &IntGraph, order: &[NodeId]) -> Vec<Block> {
    let mut of: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut blocks: Vec<Block> = Vec::new();
    for (step, id) in order.iter().enumerate() {
        if graph.constant(*id).is_some() {
            continue;
        }
        for operand in graph.node(*id).operands() {
            if let Some(i) = of.get(operand) {
                blocks[*i].to = blocks[*i].to.max(step);
            }
        }
        let to = if graph.is_output(*id) { order.len() } else { step };
        let aliased = aliases(graph, *id).and_then(|x| of.get(&x).copied());
        let index = match aliased {
            Some(i) => {
                blocks[i].values.push(*id);
                i
            }
            None => {
                let from = if graph.node(*id).op == IntOp::Input { 0 } else { step };
                let bytes = graph.ty(*id).bytes().next_multiple_of(ALIGN);
                blocks.push(Block { values: vec![*id], bytes, from, to });
                blocks.len() - 1
            }
        };
        blocks[index].to = blocks[index].to.max(to);
        of.insert(*id, index);
    }
    blocks
}

/// Largest sum of live bytes over all steps.
pub fn peak(blocks: &[Block], steps: usize) -> usize {
    let mut change = vec![0i64; steps + 2];
    for b in blocks {
        change[b.from] += b.bytes as i64;
        change[b.to + 1] -= b.bytes as i64;
    }
    let mut live = 0;
    change.into_iter().fold(0, |peak, c| {
        live += c;
        peak.max(live)
    }) as usize
}
