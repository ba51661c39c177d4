//! Independent checker of memory plans: simulates the arena instead of reasoning about lifetimes.
//!
//! It knows nothing of how plans are made. For every step it looks which values are still going to be read and requires
//! that the step's result overlaps none of them, except a Reshape that lies exactly on its operand.
use super::{ALIGN, MemoryPlan, Slot};
use goshawk_ir::{IntGraph, IntOp, NodeId, Result, bail, ensure};
use std::collections::BTreeSet;

fn overlap(a: Slot, b: Slot) -> bool {
    a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes
}

/// Checks that every value has an aligned slot of its size inside the arena and is intact whenever it is read, that
/// inputs do not overlap each other, and that all outputs are intact at the end. O(values²).
///
/// # Errors
/// Names the first value that is lost and what overwrites it.
pub fn check(graph: &IntGraph, plan: &MemoryPlan) -> Result<()> {
    let order = graph.topo_order()?;
    let computed: Vec<NodeId> =
        order.iter().copied().filter(|id| !matches!(graph.node(*id).op, IntOp::Const(_))).collect();
    ensure!(
        plan.slots.len() == computed.len(),
        "the plan has {} slots for {} values",
        plan.slots.len(),
        computed.len()
    );
    ensure!(plan.arena_bytes.is_multiple_of(ALIGN), "the arena size {} is not aligned", plan.arena_bytes);
    for id in &computed {
        let (slot, name) = (plan.slot(*id)?, &graph.node(*id).name);
        ensure!(slot.offset.is_multiple_of(ALIGN), "{name}: offset {} is not aligned", slot.offset);
        ensure!(slot.bytes == graph.ty(*id).bytes(), "{name}: slot of {} bytes", slot.bytes);
        let end = slot.offset.checked_add(slot.bytes);
        ensure!(end.is_some_and(|e| e <= plan.arena_bytes), "{name}: slot reaches beyond the arena");
    }
    // Values that hold data now. Inputs are written before anything runs.
    let mut live: BTreeSet<NodeId> = BTreeSet::new();
    let inputs = computed.iter().filter(|id| graph.node(**id).op == IntOp::Input);
    let steps = computed.iter().filter(|id| graph.node(**id).op != IntOp::Input);
    let sequence: Vec<NodeId> = inputs.chain(steps).copied().collect();
    for (step, id) in sequence.iter().enumerate() {
        let node = graph.node(*id);
        for operand in node.operands().iter().filter(|o| graph.constant(**o).is_none()) {
            ensure!(
                live.contains(operand),
                "{} reads {} after its memory was given away",
                node.name,
                graph.node(*operand).name
            );
        }
        let slot = plan.slot(*id)?;
        let mut lost = Vec::new();
        for other in &live {
            if !overlap(slot, plan.slot(*other)?) {
                continue;
            }
            let same_data = matches!(node.op, IntOp::Reshape(_))
                && same_bytes(graph, *id, *other)
                && plan.slot(*other)? == slot;
            let needed = graph.is_output(*other)
                || node.operands().contains(other)
                || sequence[step..].iter().any(|later| graph.node(*later).operands().contains(other));
            if needed && !same_data {
                bail!("{} overwrites {}, which is still needed", node.name, graph.node(*other).name);
            }
            if !same_data {
                lost.push(*other);
            }
        }
        for other in lost {
            live.remove(&other);
        }
        live.insert(*id);
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
