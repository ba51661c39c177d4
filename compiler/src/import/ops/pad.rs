//! Pad with a constant. Negative amounts cut.
use crate::import::{
    attrs,
    cx::{Cx, Value},
    refusal::{Result, malformed, unsupported},
};
use goshawk_ir::{FloatOp, op::float};

/// Amounts and value are attributes up to opset 10, operands from 11; opset 18 adds axes.
pub fn pad(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let dims = cx.dims(0)?;
    let pads =
        cx.ints_attr_or_input("pads", 1)?.ok_or_else(|| malformed("the amounts of padding are missing"))?;
    let value = match cx.opset < 11 {
        true => cx.attrs.float("value", 0.0)?,
        false => cx.scalar(2, "the padding value")?.unwrap_or(0.0),
    };
    let axes = match cx.ints(3, "the axes")? {
        Some(a) => {
            attrs::axes(&a, dims.len())?;
            a.iter().map(|a| attrs::axis(*a, dims.len())).collect::<Result<Vec<_>>>()?
        }
        None => (0..dims.len()).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(malformed(format!("{} amounts of padding for {} axes", pads.len(), axes.len())));
    }
    if pads.iter().all(|p| *p == 0) {
        return Ok(vec![cx.need(0)?.clone()]);
    }
    let mode = cx.attrs.string("mode", "constant")?;
    if mode != "constant" {
        return Err(
            unsupported(format!("padding of mode {mode:?}")).help("pad with a constant, as convolutions do")
        );
    }
    let (mut before, mut after) = (vec![0; dims.len()], vec![0; dims.len()]);
    let mut cut = float::Slice { start: vec![0; dims.len()], step: vec![1; dims.len()], size: dims.clone() };
    for (k, i) in axes.iter().enumerate() {
        let (b, a) = (pads[k], pads[k + axes.len()]);
        (before[*i], after[*i]) = (b.max(0) as usize, a.max(0) as usize);
        let (lost_b, lost_a) = (b.min(0).unsigned_abs() as usize, a.min(0).unsigned_abs() as usize);
        cut.start[*i] = lost_b;
        cut.size[*i] = dims[*i]
            .checked_sub(lost_b)
            .and_then(|d| d.checked_sub(lost_a))
            .filter(|d| *d > 0)
            .ok_or_else(|| malformed(format!("padding {pads:?} leaves nothing of {dims:?}")))?;
    }
    let x = cx.operand(0)?;
    let op = FloatOp::Pad(float::Pad { before, after, value });
    if cut.size == dims {
        return cx.emit(op, &[x]);
    }
    if pads.iter().all(|p| *p <= 0) {
        return cx.emit(FloatOp::Slice(cut), &[x]);
    }
    let x = cx.step("cut", FloatOp::Slice(cut), &[x])?;
    cx.emit(op, &[x])
}
