//! Conv, with groups, dilation and all forms of padding.
use super::window;
use crate::import::{
    cx::{Cx, Value},
    refusal::{Result, malformed},
};
use goshawk_ir::{
    FloatOp,
    op::{float::Conv, window::ConvWindow},
};

pub fn conv(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let (x, w) = (cx.dims(0)?, cx.dims(1)?);
    if x.len() != w.len() || x.len() < 3 {
        return Err(malformed(format!("a convolution of {x:?} with weights of {w:?}")));
    }
    let win = window::window(cx.attrs, &x[2..], Some(&w[2..]))?;
    let groups = cx.attrs.int("group")?.unwrap_or(1);
    let groups = usize::try_from(groups)
        .ok()
        .filter(|g| *g > 0)
        .ok_or_else(|| malformed(format!("attribute \"group\" is {groups}")))?;
    let one_d = x.len() == 3;
    let mut operands = vec![cx.operand(0)?, cx.operand(1)?];
    operands[0] = window::as_2d(cx, "input_2d", operands[0])?;
    operands[1] = match (one_d, cx.constant(1).and_then(|h| h.as_floats()).cloned()) {
        (true, Some(values)) => {
            let shape = goshawk_ir::Shape::new([w[0], w[1], 1, w[2]])?;
            cx.derived_constant(1, shape, values.to_vec())?
        }
        _ => window::as_2d(cx, "weight_2d", operands[1])?,
    };
    if cx.input(2).is_some() {
        operands.push(cx.operand(2)?);
    }
    let window = ConvWindow { stride: win.stride, pads: win.pads, dilation: win.dilation, groups };
    window::emit(cx, one_d, FloatOp::Conv(Conv { window, clamp: None }), &operands)
}
