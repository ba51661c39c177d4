//! Which convolutions take the residual sum behind them into their tiles ([`crate::ukernel::join`]).
//!
//! A library has one arena for all its levels, so layers are joined where every level can do it.
use super::{
    Options,
    ops::{conv::ConvSpec, edge, rescale::Output, tiles},
    plan::conv_spec,
};
use crate::{
    Error, Result,
    ukernel::{
        Grid,
        edge::{Formula, Map, Operand},
        join::{Constants, Join as TileJoin, Second},
    },
};
use goshawk_ir::{Dyadic, IntGraph, IntOp, NodeId, TensorType, op::int::Add};
use goshawk_passes::memory::Join;
use std::collections::BTreeMap;

/// The joins of a network.
pub(super) fn joins(graph: &IntGraph, options: &Options) -> Result<Vec<Join>> {
    let order = graph.topo_order().map_err(|e| Error::internal(&e))?;
    let position: BTreeMap<NodeId, usize> = order.iter().enumerate().map(|(i, id)| (*id, i)).collect();
    let mut joins = Vec::new();
    for add in &order {
        let &[a, b] = graph.node(*add).operands() else { continue };
        // The later of two convolutions: the other's result is in memory by then.
        let candidates = if position[&a] > position[&b] { [(a, b), (b, a)] } else { [(b, a), (a, b)] };
        for (conv, residual) in candidates {
            let join = Join { conv, add: *add, residual, requant: second(graph, *add) };
            if possible(graph, &join, options)? {
                joins.push(join);
                break;
            }
        }
    }
    Ok(joins)
}

/// What the tiles of a joined convolution do behind rescaling; `None` where the nodes do not allow it.
pub(super) fn joined(graph: &IntGraph, join: &Join, spec: &ConvSpec) -> Option<tiles::Joined> {
    let (conv, sum, residual) = (graph.ty(join.conv), graph.ty(join.add), graph.ty(join.residual));
    let IntOp::Add(add) = &graph.node(join.add).op else { return None };
    let own_first = graph.node(join.add).operands().first() == Some(&join.conv);
    let (own, other) = if own_first { (add.a, add.b) } else { (add.b, add.a) };
    let map = |formula, operands: &[&TensorType], grid, zero_point, clamp| {
        let operand = |ty: &&TensorType| {
            Some(Operand { grid: edge::grid(ty.dtype)?, zero_point: ty.zero_point(), splat: false })
        };
        let operands = operands.iter().map(operand).collect::<Option<Vec<_>>>()?;
        Some(Map { formula, operands, grid, zero_point, clamp }).filter(Map::exact)
    };
    let grid = edge::grid(sum.dtype)?;
    map(Formula::Add(own, other), &[conv, residual], grid, add.zero_point, (add.lo, add.hi))?;
    let bounds = (spec.output.lo - spec.output.zero_point, spec.output.hi - spec.output.zero_point);
    let mut constants = Constants {
        own,
        bounds,
        residual: other,
        residual_zero_point: residual.zero_point(),
        clamp: (add.lo, add.hi),
        second: None,
    };
    let residual_grid = edge::grid(residual.dtype)?;
    let second = match join.requant.map(|id| (&graph.node(id).op, graph.ty(id))) {
        Some((IntOp::Requant(a), ty)) => {
            let r = &a.requant;
            map(Formula::Requant(r.dyadic(0)), &[sum], Grid::U8, r.zero_point, (r.lo, r.hi))?;
            constants.second = Some((r.dyadic(0), r.zero_point));
            let clamp = (r.lo, r.hi);
            let clamps_sum = clamps_sum(&constants, residual_grid, clamp);
            Some(Second { stride: ty.dtype.bytes(spec.channels), clamp, clamps_sum })
        }
        _ => None,
    };
    let largest = (0..spec.channels).map(|c| {
        let dyadic = spec.requant.dyadic(c);
        ((i128::from(spec.bound(c)) * i128::from(dyadic.mult)) >> dyadic.shift) + 1
    });
    let clamps = largest.max().is_none_or(|n| n > i128::from(bounds.1) || -n < i128::from(bounds.0));
    Some(tiles::Joined {
        output: Output { dtype: sum.dtype, zero_point: add.zero_point, lo: add.lo, hi: add.hi },
        join: TileJoin {
            residual: residual_grid,
            stride: residual.dtype.bytes(spec.channels),
            clamps,
            own_unit: own.value() == 1.0,
            residual_unit: other.value() == 1.0 && residual.zero_point() == 0,
            second,
            ahead: None,
        },
        constants,
    })
}

/// Whether the sum must be clamped below and above before it becomes the second result, clamped to `(lo, hi)`. Rescaling
/// rises with the sum, as long as the magic number holds it, so it need not where already the bound is rescaled to the
/// end of that clamp or beyond.
fn clamps_sum(constants: &Constants, residual: Grid, (lo, hi): (i32, i32)) -> (bool, bool) {
    let Some((dyadic, zero_point)) = constants.second else { return (true, true) };
    let most = match residual {
        Grid::U8 => 255,
        Grid::I16 => 1 << 15,
    };
    let size = |d: Dyadic, most: i32| d.value() * f64::from(most) + 1.0;
    let own = constants.bounds.0.abs().max(constants.bounds.1.abs());
    let largest = size(constants.own, own) + size(constants.residual, most);
    let held = largest * dyadic.value() < f64::from(1 << 21);
    let at = |bound: i32| dyadic.apply(bound) + i64::from(zero_point);
    let (least, most) = (at(constants.clamp.0), at(constants.clamp.1));
    (!held || least > i64::from(lo), !held || most < i64::from(hi))
}

/// Whether the nodes have the form of a join and tiles of every level can do it.
fn possible(graph: &IntGraph, join: &Join, options: &Options) -> Result<bool> {
    let alike = |id: NodeId| graph.ty(id).shape == graph.ty(join.add).shape && graph.constant(id).is_none();
    let IntOp::Add(Add { subtract: false, .. }) = &graph.node(join.add).op else { return Ok(false) };
    let IntOp::Conv(_) = &graph.node(join.conv).op else { return Ok(false) };
    if graph.use_count(join.conv) != 1 || !alike(join.conv) || !alike(join.residual) {
        return Ok(false);
    }
    let spec = conv_spec(graph, join.conv, None)?;
    let tiled = |spec: &ConvSpec| options.levels().all(|target| tiles::rescales_in_float(spec, target));
    Ok(!spec.is_depthwise() && tiled(&spec) && joined(graph, join, &spec).is_some())
}

/// A requantization of the sum to u8 that may be stored with it.
fn second(graph: &IntGraph, add: NodeId) -> Option<NodeId> {
    let wanted = |id: &NodeId| {
        matches!(graph.node(*id).op, IntOp::Requant(_))
            && edge::grid(graph.ty(*id).dtype) == Some(Grid::U8)
            && edge::grid(graph.ty(add).dtype) == Some(Grid::I16)
    };
    graph.users(add).into_iter().find(wanted)
}
