//! Transpose, Concat and block rearrangements.
use crate::import::{
    attrs,
    cx::{Cx, Value},
    host_ops,
    refusal::{Result, malformed, unsupported},
};
use goshawk_ir::{
    FloatOp, Shape,
    op::float::{Axis, DepthOrder, DepthToSpace, Reshape, Transpose},
};

pub fn transpose(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let rank = cx.dims(0)?.len();
    let perm = match cx.attrs.ints("perm")? {
        None => (0..rank).rev().collect(),
        Some(p) => {
            let perm = attrs::sizes(p).unwrap_or_default();
            let mut sorted = perm.clone();
            sorted.sort_unstable();
            if !sorted.iter().copied().eq(0..rank) {
                return Err(malformed(format!("{p:?} is not a permutation of {rank} dimensions")));
            }
            perm
        }
    };
    if let Some(host) = cx.constant(0).cloned() {
        cx.builder.charge(&host.dims)?;
        return cx.fold(host_ops::transpose(&host, &perm));
    }
    let x = cx.operand(0)?;
    cx.emit(FloatOp::Transpose(Transpose { perm }), &[x])
}

pub fn concat(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let rank = cx.dims(0)?.len();
    let axis = attrs::axis(cx.attrs.int("axis")?.unwrap_or(1), rank)?;
    if let Some(parts) = cx.all_constant() {
        for p in &parts {
            cx.builder.charge(&p.dims)?;
        }
        return cx.fold(host_ops::concat(&parts, axis)?);
    }
    let operands = cx.operands()?;
    cx.emit(FloatOp::Concat(Axis { axis }), &operands)
}

fn block(cx: &Cx<'_, '_>) -> Result<usize> {
    let b = cx.attrs.int("blocksize")?.unwrap_or(0);
    usize::try_from(b)
        .ok()
        .filter(|b| (1..=1 << 15).contains(b))
        .ok_or_else(|| malformed(format!("attribute \"blocksize\" is {b}")))
}

pub fn depth_to_space(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let block = block(cx)?;
    let order = match cx.attrs.string("mode", "DCR")? {
        "DCR" => DepthOrder::Dcr,
        "CRD" => DepthOrder::Crd,
        other => return Err(malformed(format!("attribute \"mode\" is {other:?}"))),
    };
    let x = cx.operand(0)?;
    cx.emit(FloatOp::DepthToSpace(DepthToSpace { block, order }), &[x])
}

/// [N,C,H·b,W·b] → [N,C,H,b,W,b] → [N,b,b,C,H,W] (or [N,C,b,b,H,W]) → [N,C·b²,H,W].
pub fn space_to_depth(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let b = block(cx)?;
    let perm = match cx.attrs.string("mode", "DCR")? {
        "DCR" => vec![0, 3, 5, 1, 2, 4],
        "CRD" => vec![0, 1, 3, 5, 2, 4],
        other => return Err(malformed(format!("attribute \"mode\" is {other:?}"))),
    };
    let x = cx.operand(0)?;
    let [n, c, h, w] = Shape::dims4(cx.shape(x))?;
    if h % b != 0 || w % b != 0 {
        return Err(malformed(format!("blocks of {b} do not divide {}", cx.shape(x))));
    }
    let (h, w) = (h / b, w / b);
    let split = cx.step("blocks", FloatOp::Reshape(Reshape { shape: vec![n, c, h, b, w, b] }), &[x])?;
    let turned = cx.step("turned", FloatOp::Transpose(Transpose { perm }), &[split])?;
    cx.emit(FloatOp::Reshape(Reshape { shape: vec![n, c * b * b, h, w] }), &[turned])
}

pub fn tile(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let dims = cx.dims(0)?;
    let repeats = cx.ints(1, "the repeats")?.unwrap_or_default();
    let repeats = attrs::sizes(&repeats)
        .filter(|r| r.len() == dims.len())
        .ok_or_else(|| malformed(format!("repeats {repeats:?} for {dims:?}")))?;
    if repeats.iter().all(|r| *r == 1) {
        return Ok(vec![cx.need(0)?.clone()]);
    }
    let Some(mut host) = cx.constant(0).cloned() else {
        return Err(unsupported("Tile of a value that depends on the network's input")
            .help("arithmetic operators broadcast by themselves: leave the Tile out"));
    };
    for (axis, r) in repeats.iter().enumerate() {
        let mut dims = host.dims.clone();
        dims[axis] =
            dims[axis].checked_mul(*r).ok_or_else(|| malformed("the result of Tile is too large"))?;
        cx.builder.charge(&dims)?;
        // The budget bounds the result only where the operand is not empty.
        if dims.contains(&0) {
            return Err(malformed("Tile of nothing"));
        }
        host = host_ops::concat(&vec![host; *r], axis)?;
    }
    cx.fold(host)
}
