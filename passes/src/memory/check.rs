//! Independent checker of memory plans: simulates the arena instead of reasoning about lifetimes.
//!
//! It knows nothing of how plans are made. For every step it looks which values are still going to be read and requires
//! that the step's results overlap none of them nor each other, except
//! * a Reshape that lies exactly on its operand;
//! * an element-wise result that lies exactly on an operand of its shape that nothing else of its step reads, which is
//!   then lost;
//! * a Concat around operands that lie in it where their data belongs.
use super::{ALIGN, MemoryPlan, Rows, Slot, join, lifetime::element_wise};
use goshawk_ir::{IntGraph, IntOp, NodeId, Result, bail, ensure};
use std::collections::BTreeSet;

fn overlap(a: Slot, b: Slot) -> bool {
    if a.offset >= b.end() || b.offset >= a.end() {
        return false;
    }
    match (a.rows, b.rows) {
        // Rows at one pitch meet where their columns do, the columns being a circle.
        (Some(x), Some(y)) if x.pitch == y.pitch => {
            let distance = |from: usize, to: usize| (to % x.pitch + x.pitch - from % x.pitch) % x.pitch;
            distance(a.offset, b.offset) < x.bytes || distance(b.offset, a.offset) < y.bytes
        }
        _ => true,
    }
}

/// Whether the value may be in the memory of `x`, its operand, and both places agree for that.
fn in_place(graph: &IntGraph, plan: &MemoryPlan, id: NodeId, x: NodeId) -> Result<bool> {
    let (node, slot, other) = (graph.node(id), plan.slot(id)?, plan.slot(x)?);
    if let IntOp::Concat(a) = &node.op {
        if slot.rows.is_some() || a.axis + 1 != node.ty.shape.rank() {
            return Ok(false);
        }
        let row = |id: NodeId| graph.ty(id).dtype.bytes(graph.ty(id).shape[a.axis]);
        let mut offset = slot.offset;
        for operand in node.operands() {
            let rows = Some(Rows { bytes: row(*operand), pitch: row(id) });
            if *operand == x && other.offset == offset && other.rows == rows {
                return Ok(true);
            }
            offset += row(*operand);
        }
        return Ok(false);
    }
    Ok(element_wise(&node.op)
        && graph.node(x).op != IntOp::Input
        && node.ty.shape == graph.ty(x).shape
        && slot == other
        && slot.rows.is_none())
}

/// Whether the operator's code can write rows at a distance.
fn writes_rows(op: &IntOp) -> bool {
    matches!(op, IntOp::Conv(c) if c.window.groups == 1)
}

/// Checks that every value has an aligned slot of its size inside the arena and is intact whenever it is read, that
/// inputs do not overlap each other, and that all outputs are intact at the end. O(values²).
///
/// # Errors
/// Names the first value that is lost and what overwrites it.
pub fn check(graph: &IntGraph, plan: &MemoryPlan) -> Result<()> {
    let steps = join::steps(graph, &plan.joins)?;
    // The first node of a join has no memory.
    let computed = |step: &Vec<NodeId>| step[usize::from(step.len() > 1)..].to_vec();
    let computed = steps.iter().flat_map(computed).filter(|id| graph.constant(*id).is_none());
    let computed: Vec<NodeId> = computed.collect();
    ensure!(
        plan.slots.len() == computed.len(),
        "the plan has {} slots for {} values",
        plan.slots.len(),
        computed.len()
    );
    ensure!(plan.arena_bytes.is_multiple_of(ALIGN), "the arena size {} is not aligned", plan.arena_bytes);
    for id in &computed {
        let (slot, name) = (plan.slot(*id)?, &graph.node(*id).name);
        let ty = graph.ty(*id);
        ensure!(slot.bytes == ty.bytes(), "{name}: slot of {} bytes", slot.bytes);
        match slot.rows {
            None => {
                ensure!(slot.offset.is_multiple_of(ALIGN), "{name}: offset {} is not aligned", slot.offset)
            }
            Some(rows) => {
                let row = ty.shape.last().map_or(0, |n| ty.dtype.bytes(*n));
                ensure!(rows.bytes == row && rows.pitch >= row && row > 0, "{name}: rows of {row} bytes");
                // Nobody but a Concat knows how to read them.
                let concat = |u: &NodeId| matches!(graph.node(*u).op, IntOp::Concat(_));
                ensure!(
                    writes_rows(&graph.node(*id).op)
                        && graph.users(*id).iter().all(concat)
                        && !graph.is_output(*id),
                    "{name} is not packed"
                );
            }
        }
        ensure!(slot.end() <= plan.arena_bytes, "{name}: slot reaches beyond the arena");
    }
    // Values that hold data now. Inputs are written before anything runs.
    let mut live: BTreeSet<NodeId> = BTreeSet::new();
    let is_input = |step: &&Vec<NodeId>| graph.node(step[0]).op == IntOp::Input;
    let computing = steps.iter().filter(|s| !is_input(s) && graph.constant(s[0]).is_none());
    let sequence: Vec<&Vec<NodeId>> = steps.iter().filter(is_input).chain(computing).collect();
    for (at, step) in sequence.iter().enumerate() {
        let reads = |id: &NodeId, x: &NodeId| graph.node(*id).operands().contains(x);
        for id in *step {
            let operands = graph.node(*id).operands().iter();
            for operand in operands.filter(|o| graph.constant(**o).is_none() && !step.contains(o)) {
                ensure!(
                    live.contains(operand),
                    "{} reads {} after its memory was given away",
                    graph.node(*id).name,
                    graph.node(*operand).name
                );
            }
        }
        let results = &step[usize::from(step.len() > 1)..];
        let mut lost = Vec::new();
        for (i, id) in results.iter().enumerate() {
            let (node, slot) = (graph.node(*id), plan.slot(*id)?);
            for other in &results[..i] {
                let apart = !overlap(slot, plan.slot(*other)?);
                ensure!(apart, "{} overwrites {} of the same step", node.name, graph.node(*other).name);
            }
            for other in &live {
                if !overlap(slot, plan.slot(*other)?) {
                    continue;
                }
                let same_data = matches!(node.op, IntOp::Reshape(_))
                    && same_bytes(graph, *id, *other)
                    && plan.slot(*other)? == slot;
                let operand = step.iter().any(|n| n != id && reads(n, other))
                    || (reads(id, other) && !in_place(graph, plan, *id, *other)?);
                let needed = graph.is_output(*other)
                    || operand
                    || sequence[at + 1..].iter().any(|later| later.iter().any(|n| reads(n, other)));
                if needed && !same_data {
                    bail!("{} overwrites {}, which is still needed", node.name, graph.node(*other).name);
                }
                if !same_data {
                    lost.push(*other);
                }
            }
        }
        for other in lost {
            live.remove(&other);
        }
        live.extend(results);
    }
    for port in &graph.outputs {
        ensure!(
            live.contains(&port.node) || graph.constant(port.node).is_some(),
            "output {} does not survive to the end",
            port.name
        );
    }
    Ok(())
}

/// Whether both values are the same bytes by reshapes alone.
fn same_bytes(graph: &IntGraph, a: NodeId, b: NodeId) -> bool {
    let origin = |mut id: NodeId| {
        while let IntOp::Reshape(_) = graph.node(id).op
            && let Some(x) = graph.node(id).operands().first()
        {
            id = *x;
        }
        id
    };
    origin(a) == origin(b)
}
