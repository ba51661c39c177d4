//! MaxPool and AveragePool.
use super::window;
use crate::import::{
    cx::{Cx, Value},
    refusal::{Result, malformed, unsupported},
};
use goshawk_ir::{FloatOp, op::window::PoolWindow};

pub fn max_pool(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    pool(cx, FloatOp::MaxPool)
}

pub fn average_pool(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    pool(cx, FloatOp::AvgPool)
}

fn pool(cx: &mut Cx<'_, '_>, op: fn(PoolWindow) -> FloatOp) -> Result<Vec<Value>> {
    let x = cx.dims(0)?;
    if x.len() < 3 {
        return Err(malformed(format!("a pool over {x:?}")));
    }
    let w = window::window(cx.attrs, &x[2..], None)?;
    let window = PoolWindow {
        kernel: w.kernel,
        stride: w.stride,
        pads: w.pads,
        dilation: w.dilation,
        ceil_mode: cx.attrs.flag("ceil_mode", false)? && !w.automatic,
        count_include_pad: cx.attrs.flag("count_include_pad", false)?,
    };
    // Otherwise a window could lie in the padding entirely, where neither a maximum nor a mean exists.
    let extent = |i: usize| (window.kernel[i] - 1).saturating_mul(window.dilation[i]) + 1;
    if (0..4).any(|i| window.pads[i] >= extent(i % 2)) {
        return Err(unsupported(format!(
            "padding {:?} is not smaller than the kernel {:?}",
            window.pads, window.kernel
        ))
        .help("pad with a separate Pad operator"));
    }
    let one_d = x.len() == 3;
    let x = cx.operand(0)?;
    let x = window::as_2d(cx, "input_2d", x)?;
    window::emit(cx, one_d, op(window), &[x])
}
