//! Composes Slice nodes, and takes a Slice of a Concat from the one operand that it lies in.
//!
//! Along each dimension, elements s₂ + t₂·j of the elements s₁ + t₁·i are the elements s₁ + t₁·s₂ + t₁·t₂·j.
use goshawk_ir::{FloatGraph, FloatOp, NodeId, Result, op::float::Slice};

/// Runs the pass.
///
/// # Errors
/// The graph has a cycle.
pub fn run(g: &mut FloatGraph) -> Result<()> {
    for id in g.topo_order()? {
        while let Some((source, slice)) = through_operand(g, id) {
            g.set_operand(id, 0, source);
            g.node_mut(id).op = FloatOp::Slice(slice);
        }
    }
    g.remove_dead();
    Ok(())
}

/// A Slice with the same result that reads further up, if `id` is one.
fn through_operand(g: &FloatGraph, id: NodeId) -> Option<(NodeId, Slice)> {
    let FloatOp::Slice(outer) = &g.node(id).op else { return None };
    let source = g.node(id).operands()[0];
    match &g.node(source).op {
        FloatOp::Slice(inner) => Some((g.node(source).operands()[0], compose(inner, outer)?)),
        FloatOp::Concat(a) => from_concat(g, source, a.axis, outer),
        _ => None,
    }
}

fn compose(inner: &Slice, outer: &Slice) -> Option<Slice> {
    let mut slice = outer.clone();
    for i in 0..outer.start.len() {
        let start = i64::try_from(outer.start[i]).ok()?.checked_mul(inner.step[i])?;
        let start = start.checked_add(i64::try_from(inner.start[i]).ok()?)?;
        slice.start[i] = usize::try_from(start).ok()?;
        slice.step[i] = outer.step[i].checked_mul(inner.step[i])?;
    }
    Some(slice)
}

fn from_concat(g: &FloatGraph, concat: NodeId, axis: usize, slice: &Slice) -> Option<(NodeId, Slice)> {
    let first = i64::try_from(slice.start[axis]).ok()?;
    let span = i64::try_from(slice.size[axis] - 1).ok()?.checked_mul(slice.step[axis])?;
    let (low, high) = (first.min(first + span), first.max(first + span));
    let mut begin = 0i64;
    for part in g.node(concat).operands() {
        let end = begin + i64::try_from(g.ty(*part).shape[axis]).ok()?;
        if low >= begin && high < end {
            let mut slice = slice.clone();
            slice.start[axis] = usize::try_from(first - begin).ok()?;
            return Some((*part, slice));
        }
        begin = end;
    }
    None
}
