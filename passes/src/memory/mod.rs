//! Memory plan: one arena, all offsets fixed at compile time.
//!
//! [`plan()`] places every computed value, [`check`] proves with independent code that no value is overwritten while it
//! is still needed. Execution order is [`goshawk_ir::Graph::topo_order`], but for layers that are computed together ([`Join`]).
mod check;
mod join;
mod lifetime;
mod place;

pub use check::check;
pub use join::Join;

use goshawk_ir::{IntGraph, NodeId, Result, bail};
use std::collections::BTreeMap;

/// Offsets and sizes are multiples of this many bytes: one cache line, the widest vector.
pub const ALIGN: usize = 64;

/// Place of a value in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Bytes from the start of the arena, a multiple of [`ALIGN`] where the slot is packed.
    pub offset: usize,
    /// Bytes of the packed tensor.
    pub bytes: usize,
    /// How the value lies where it is not packed: as a slice of a Concat's result.
    pub rows: Option<Rows>,
}

/// The innermost dimension of a value, one row for each index of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Bytes of a row.
    pub bytes: usize,
    /// Bytes from one row to the next.
    pub pitch: usize,
}

impl Slot {
    /// The first byte behind the value.
    pub const fn end(&self) -> usize {
        match self.rows {
            None => self.offset + self.bytes,
            Some(rows) => self.offset + (self.bytes / rows.bytes - 1) * rows.pitch + rows.bytes,
        }
    }
}

/// Where every value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Slot of every node that is not a constant, inputs and outputs included.
    ///
    /// The result of a Reshape has its operand's slot, that of an element-wise operator the slot of an operand which it
    /// overwrites, and convolutions lie inside the Concat that alone reads them; never where one of the two is a
    /// network input or output: those belong to the caller in `run`.
    pub slots: BTreeMap<NodeId, Slot>,
    /// Size of the arena, a multiple of [`ALIGN`].
    pub arena_bytes: usize,
    /// No plan is smaller: the largest sum of bytes (aligned) that are live at one time.
    pub lower_bound: usize,
    /// Layers that must be computed together: their convolutions have no slot.
    pub joins: Vec<Join>,
}

impl MemoryPlan {
    /// The slot of a value.
    ///
    /// # Errors
    /// The node is a constant or of another graph.
    pub fn slot(&self, id: NodeId) -> Result<Slot> {
        match self.slots.get(&id) {
            Some(slot) => Ok(*slot),
            None => bail!("node {} has no place in the arena", id.index()),
        }
    }

    /// The join of which the node is a part.
    pub fn join(&self, id: NodeId) -> Option<&Join> {
        self.joins.iter().find(|j| j.nodes().any(|n| n == id))
    }
}

/// Plans the arena for layers that are computed one by one.
///
/// # Errors
/// As [`plan_joined`].
pub fn plan(graph: &IntGraph) -> Result<MemoryPlan> {
    plan_joined(graph, Vec::new())
}

/// Plans the arena: the best of several greedy placements (Pisarchyk & Lee 2020, "Efficient memory management for deep
/// neural net inference", §5), which for convolutional networks usually meets the lower bound, improved by a bounded
/// local search where it does not.
///
/// # Errors
/// The graph has a cycle, a join does not fit it, or the arena would exceed the address space of 32-bit offsets.
pub fn plan_joined(graph: &IntGraph, joins: Vec<Join>) -> Result<MemoryPlan> {
    let steps = join::steps(graph, &joins)?;
    let blocks = lifetime::blocks(graph, &steps);
    let lower_bound = lifetime::peak(&blocks, steps.len());
    let (offsets, arena_bytes) = place::best(&blocks, lower_bound);
    if arena_bytes > i32::MAX as usize {
        bail!(
            "the network needs an arena of {arena_bytes} bytes, above the limit of 2 GiB: reduce its input size"
        );
    }
    let mut slots = BTreeMap::new();
    for (block, offset) in blocks.iter().zip(offsets) {
        for (id, slot) in &block.values {
            slots.insert(*id, Slot { offset: offset + slot.offset, ..*slot });
        }
    }
    Ok(MemoryPlan { slots, arena_bytes, lower_bound, joins })
}

#[cfg(test)]
mod tests;
