//! Merges spatial padding with a constant into the window that reads it, where the result is exactly the same:
//!
//! - a convolution pads with 0, so a Pad of value 0 joins its padding;
//! - an average pool that counts padding cells (or has none of its own) takes a Pad of value 0, provided `ceil_mode`
//!   does not make the set of windows depend on where the input ends, and every window has a cell inside (a window of
//!   padding only is not allowed);
//! - a max pool ignores padding, so the padded value must lose or tie against every element: it must be at most a lower
//!   bound of the operand, known from its producer (0 after Relu), and every window must have a cell inside.
//!
//! Two Pads with the same value compose first.
use crate::rewrite::lower_bound;
use goshawk_ir::{
    FloatGraph, FloatOp, NodeId, Result,
    op::{float::Pad, window::PoolWindow},
};

/// Runs the pass.
///
/// # Errors
/// The graph has a cycle.
pub fn run(g: &mut FloatGraph) -> Result<()> {
    for id in g.topo_order()? {
        let Some(source) = g.node(id).operands().first().copied() else { continue };
        let FloatOp::Pad(pad) = g.node(source).op.clone() else { continue };
        let origin = g.node(source).operands()[0];
        if let Some(op) = merged(g, id, &pad, origin) {
            g.node_mut(id).op = op;
            g.set_operand(id, 0, origin);
        }
    }
    g.remove_dead();
    Ok(())
}

/// The operator that reads the operand of the Pad directly.
fn merged(g: &FloatGraph, id: NodeId, pad: &Pad, origin: NodeId) -> Option<FloatOp> {
    match &g.node(id).op {
        FloatOp::Pad(outer) if outer.value.to_bits() == pad.value.to_bits() => {
            let sum = |a: &[usize], b: &[usize]| a.iter().zip(b).map(|(x, y)| x + y).collect();
            Some(FloatOp::Pad(Pad {
                before: sum(&pad.before, &outer.before),
                after: sum(&pad.after, &outer.after),
                value: pad.value,
            }))
        }
        FloatOp::Conv(a) if pad.value == 0.0 => {
            let mut a = a.clone();
            a.window.pads = joined(a.window.pads, spatial(pad)?);
            Some(FloatOp::Conv(a))
        }
        FloatOp::AvgPool(w) => {
            let own = w.pads != [0; 4];
            let exact = pad.value == 0.0 && !w.ceil_mode && (w.count_include_pad || !own);
            let pads = joined(w.pads, spatial(pad)?);
            let merged = PoolWindow { pads, count_include_pad: true, ..w.clone() };
            (exact && same_windows(g, id, origin, &merged)).then_some(FloatOp::AvgPool(merged))
        }
        FloatOp::MaxPool(w) => {
            let merged = PoolWindow { pads: joined(w.pads, spatial(pad)?), ..w.clone() };
            let exact = pad.value <= lower_bound(g, origin) && same_windows(g, id, origin, &merged);
            exact.then_some(FloatOp::MaxPool(merged))
        }
        _ => None,
    }
}

/// Padding as top, left, bottom, right, if only the two spatial dimensions of an image tensor are padded.
fn spatial(pad: &Pad) -> Option<[usize; 4]> {
    match (&pad.before[..], &pad.after[..]) {
        (&[0, 0, top, left], &[0, 0, bottom, right]) => Some([top, left, bottom, right]),
        _ => None,
    }
}

fn joined(a: [usize; 4], b: [usize; 4]) -> [usize; 4] {
    std::array::from_fn(|i| a[i] + b[i])
}

/// Whether the pool `id` may read `origin` through `merged`: as many windows (`ceil_mode` counts them by where padding
/// begins), each with a cell inside the input.
fn same_windows(g: &FloatGraph, id: NodeId, origin: NodeId, merged: &PoolWindow) -> bool {
    let (Ok([_, _, height, width]), Ok([_, _, rows, columns])) =
        (g.ty(origin).shape.dims4(), g.ty(id).shape.dims4())
    else {
        return false;
    };
    let sees_input = |axis: usize, outputs: usize, input: usize| {
        (0..outputs).all(|out| !merged.taps(axis, out, input).0.is_empty())
    };
    merged.out_size([height, width]).is_ok_and(|size| size == [rows, columns])
        && sees_input(0, rows, height)
        && sees_input(1, columns, width)
}
