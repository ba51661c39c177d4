//! Lifetimes: which values share memory, and when each block of memory must hold its value.
//!
//! Values share a block where that saves a copy or a buffer: a Reshape lies on its operand; an element-wise result lies on
//! an operand that nobody reads afterwards; convolutions write straight into the result of the Concat that is their only
//! reader, pixel by pixel at the distance of its pixels.
use super::{ALIGN, Rows, Slot};
use goshawk_ir::{IntGraph, IntOp, NodeId};
use std::collections::BTreeMap;

/// Memory that one value, or several that share it, occupy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The values with their places relative to the block.
    pub values: Vec<(NodeId, Slot)>,
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

/// Whether the caller owns the memory of the value in `run`.
fn owned(graph: &IntGraph, id: NodeId) -> bool {
    graph.is_output(id) || graph.node(id).op == IntOp::Input
}

/// Whether a Reshape lies in its operand's memory.
fn reshaped(graph: &IntGraph, id: NodeId) -> Option<NodeId> {
    let node = graph.node(id);
    let IntOp::Reshape(_) = node.op else { return None };
    let x = *node.operands().first()?;
    (!owned(graph, id) && !owned(graph, x) && graph.constant(x).is_none()).then_some(x)
}

/// Whether the operator computes each element from the elements at the same place alone, and may so overwrite them.
pub(super) const fn element_wise(op: &IntOp) -> bool {
    matches!(op, IntOp::Add(_) | IntOp::Mul(_) | IntOp::Requant(_) | IntOp::Lut(_))
}

/// Where the operands of Concats lie that are written in place: their slots in the result.
fn slices(graph: &IntGraph) -> BTreeMap<NodeId, (NodeId, Slot)> {
    let mut out = BTreeMap::new();
    for id in graph.ids() {
        let node = graph.node(id);
        let IntOp::Concat(a) = &node.op else { continue };
        let rank = node.ty.shape.rank();
        if graph.is_output(id) || rank != 4 || a.axis + 1 != rank {
            continue;
        }
        let pitch = node.ty.dtype.bytes(node.ty.shape[rank - 1]);
        let mut offset = 0;
        for x in node.operands() {
            let ty = graph.ty(*x);
            let row = ty.dtype.bytes(ty.shape[rank - 1]);
            let writes_rows = matches!(&graph.node(*x).op, IntOp::Conv(c) if c.window.groups == 1);
            if writes_rows && !owned(graph, *x) && graph.use_count(*x) == 1 {
                let rows = Some(Rows { bytes: row, pitch });
                out.insert(*x, (id, Slot { offset, bytes: ty.bytes(), rows }));
            }
            offset += row;
        }
    }
    out
}

/// Blocks in order of their first step. Step i computes the values of `steps[i]`, of which only those that others read
/// get memory; inputs are there before the first step, outputs stay until after the last.
pub fn blocks(graph: &IntGraph, steps: &[Vec<NodeId>]) -> Vec<Block> {
    let mut last_use: BTreeMap<NodeId, usize> = BTreeMap::new();
    for (step, nodes) in steps.iter().enumerate() {
        for id in nodes {
            for operand in graph.node(*id).operands() {
                last_use.insert(*operand, step);
            }
        }
    }
    let slices = slices(graph);
    let mut of: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut blocks: Vec<Block> = Vec::new();
    for (step, nodes) in steps.iter().enumerate() {
        for operand in nodes.iter().flat_map(|id| graph.node(*id).operands()) {
            if let Some(i) = of.get(operand) {
                blocks[*i].to = blocks[*i].to.max(step);
            }
        }
        for (at, id) in nodes.iter().enumerate() {
            // The first node of several is the convolution that only the next one reads.
            if graph.constant(*id).is_some() || (at == 0 && nodes.len() > 1) {
                continue;
            }
            let to = if graph.is_output(*id) { steps.len() } else { step };
            let whole = Slot { offset: 0, bytes: graph.ty(*id).bytes(), rows: None };
            let (host, slot) = slices.get(id).map_or((*id, whole), |(concat, slot)| (*concat, *slot));
            let shared = reshaped(graph, *id).and_then(|x| of.get(&x).copied());
            let shared = shared.or_else(|| of.get(&host).copied());
            let shared = shared.or_else(|| {
                // What other nodes of the step read, they may read after this one has written.
                let others = |v: &NodeId| {
                    nodes.iter().any(|other| other != id && graph.node(*other).operands().contains(v))
                };
                let dies = |x: &NodeId| {
                    let i = *of.get(x)?;
                    // Another operand that lies there too, as a Reshape does, may be read in another order.
                    let read = |v: &NodeId| v != x && graph.node(*id).operands().contains(v);
                    let dead = |(v, _): &(NodeId, Slot)| {
                        !owned(graph, *v)
                            && last_use.get(v).is_none_or(|last| *last <= step)
                            && !others(v)
                            && !read(v)
                    };
                    (overwrites(graph, *id, *x) && blocks[i].values.iter().all(dead)).then_some(i)
                };
                graph.node(*id).operands().iter().find_map(dies)
            });
            let index = shared.unwrap_or_else(|| {
                let from = if graph.node(*id).op == IntOp::Input { 0 } else { step };
                let bytes = graph.ty(host).bytes().next_multiple_of(ALIGN);
                blocks.push(Block { values: Vec::new(), bytes, from, to });
                of.insert(host, blocks.len() - 1);
                blocks.len() - 1
            });
            blocks[index].values.push((*id, slot));
            blocks[index].to = blocks[index].to.max(to);
            of.insert(*id, index);
        }
    }
    blocks
}

/// Whether the result of `id` may lie on its operand `x` once nobody needs that any more.
fn overwrites(graph: &IntGraph, id: NodeId, x: NodeId) -> bool {
    let (ty, operand) = (graph.ty(id), graph.ty(x));
    element_wise(&graph.node(id).op)
        && !owned(graph, id)
        && ty.shape == operand.shape
        && ty.bytes() == operand.bytes()
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
