//! Common subexpressions: nodes with the same operator, attributes and operands compute the same value, so readers of
//! the later one read the first. Constants are the same when shape and bits are. In topological order operands are
//! merged before their readers, so one sweep finds everything (value numbering).
//!
//! Network outputs keep a node each: the caller's buffers are distinct.
use goshawk_ir::{FloatGraph, FloatOp, NodeId, Operator, Result};
use std::collections::BTreeMap;

/// Operator name, attributes as text (floats print exactly), operands, and for constants shape and digest.
type Key = (&'static str, String, Vec<NodeId>, u64);

/// Runs the pass.
///
/// # Errors
/// The graph has a cycle.
pub fn run(g: &mut FloatGraph) -> Result<()> {
    let mut seen: BTreeMap<Key, Vec<NodeId>> = BTreeMap::new();
    for id in g.topo_order()? {
        if matches!(g.node(id).op, FloatOp::Input) {
            continue;
        }
        let same_key = seen.entry(key(g, id)).or_default();
        match same_key.iter().find(|first| same_constant(g, **first, id)) {
            Some(first) if !g.is_output(id) => g.replace_uses(id, *first),
            Some(_) => {}
            None => same_key.push(id),
        }
    }
    g.remove_dead();
    Ok(())
}

fn key(g: &FloatGraph, id: NodeId) -> Key {
    let node = g.node(id);
    let digest = g.constant(id).map_or(0, |t| fnv1a(t.as_f32().unwrap_or(&[])));
    let attributes = format!("{:?}{}", node.op.to_attrs(), node.ty.shape);
    (node.op.name(), attributes, node.operands().to_vec(), digest)
}

/// Whether two nodes of equal key are equal: for constants the digest is not proof enough.
fn same_constant(g: &FloatGraph, a: NodeId, b: NodeId) -> bool {
    match (crate::rewrite::const_values(g, a), crate::rewrite::const_values(g, b)) {
        (None, None) => true,
        (Some(a), Some(b)) => a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits())),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// The 64-bit FNV-1a hash over 32-bit words.
fn fnv1a(values: &[f32]) -> u64 {
    values
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |h, x| (h ^ u64::from(x.to_bits())).wrapping_mul(0x0000_0100_0000_01b3))
}
