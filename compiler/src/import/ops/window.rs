//! Attributes that convolutions and pools share, and the 1-D forms, which become 2-D with one row.
use crate::import::{
    attrs::Attrs,
    cx::Cx,
    refusal::{Result, malformed, unsupported},
};
use goshawk_ir::{FloatOp, NodeId, Shape, op::float::Reshape};

/// Geometry of a window over rows and columns.
pub struct Window {
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    pub pads: [usize; 4],
    /// Whether `auto_pad` decided the padding; then `ceil_mode` has no meaning.
    pub automatic: bool,
}

/// Reads the geometry. `spatial` are the operand's rows and columns, or only columns for a 1-D window; `kernel` the
/// weight's, where the operator has weights.
pub fn window(attrs: Attrs<'_>, spatial: &[usize], kernel: Option<&[usize]>) -> Result<Window> {
    match spatial {
        [h, w] => window_2d(attrs, [*h, *w], kernel),
        [w] => window_1d(attrs, *w, kernel),
        _ => Err(unsupported(format!("a window over {} dimensions", spatial.len()))
            .help("goshawk supports 1-D and 2-D convolutions and pools")),
    }
}

fn window_2d(attrs: Attrs<'_>, spatial: [usize; 2], kernel: Option<&[usize]>) -> Result<Window> {
    let kernel = checked_kernel::<2>(attrs, kernel)?;
    let stride = positive(attrs, "strides")?;
    let dilation = positive(attrs, "dilations")?;
    let (pads, automatic) = pads::<2, 4>(attrs, spatial, kernel, stride, dilation)?;
    Ok(Window { kernel, stride, dilation, pads, automatic })
}

fn window_1d(attrs: Attrs<'_>, width: usize, kernel: Option<&[usize]>) -> Result<Window> {
    let [k] = checked_kernel::<1>(attrs, kernel)?;
    let [s] = positive(attrs, "strides")?;
    let [d] = positive(attrs, "dilations")?;
    let ([before, after], automatic) = pads::<1, 2>(attrs, [width], [k], [s], [d])?;
    Ok(Window { kernel: [1, k], stride: [1, s], dilation: [1, d], pads: [0, before, 0, after], automatic })
}

fn checked_kernel<const N: usize>(attrs: Attrs<'_>, weight: Option<&[usize]>) -> Result<[usize; N]> {
    let stated: Option<[usize; N]> =
        if attrs.has("kernel_shape") { Some(attrs.sizes("kernel_shape", 1)?) } else { None };
    let weight: Option<[usize; N]> = weight.and_then(|w| w.try_into().ok());
    match (stated, weight) {
        (Some(s), Some(w)) if s != w => {
            Err(malformed(format!("attribute \"kernel_shape\" is {s:?}, but the weight's is {w:?}")))
        }
        (_, Some(w)) => Ok(w),
        (Some(s), None) if s.contains(&0) => Err(malformed("a kernel of size 0")),
        (Some(s), None) => Ok(s),
        (None, None) => Err(malformed("attribute \"kernel_shape\" is missing")),
    }
}

fn positive<const N: usize>(attrs: Attrs<'_>, name: &str) -> Result<[usize; N]> {
    let v: [usize; N] = attrs.sizes(name, 1)?;
    match v.iter().all(|v| (1..=1 << 30).contains(v)) {
        true => Ok(v),
        false => Err(malformed(format!("attribute {name:?} is {v:?}; its values must be positive"))),
    }
}

/// Padding: all the leading ones, then all the trailing ones.
fn pads<const N: usize, const M: usize>(
    attrs: Attrs<'_>,
    spatial: [usize; N],
    kernel: [usize; N],
    stride: [usize; N],
    dilation: [usize; N],
) -> Result<([usize; M], bool)> {
    let mode = attrs.string("auto_pad", "NOTSET")?;
    let mut pads = [0; M];
    match mode {
        "NOTSET" | "" => return Ok((attrs.sizes("pads", 0)?, false)),
        "VALID" => {}
        "SAME_UPPER" | "SAME_LOWER" => {
            for i in 0..N {
                let out = spatial[i].div_ceil(stride[i]);
                let extent = (kernel[i] - 1).checked_mul(dilation[i]).and_then(|e| e.checked_add(1));
                let needed = extent.and_then(|e| e.checked_add((out - 1) * stride[i]));
                let total =
                    needed.ok_or_else(|| malformed("the kernel is too large"))?.saturating_sub(spatial[i]);
                let (less, more) = (total / 2, total - total / 2);
                (pads[i], pads[i + N]) = if mode == "SAME_UPPER" { (less, more) } else { (more, less) };
            }
        }
        _ => return Err(malformed(format!("attribute \"auto_pad\" is {mode:?}"))),
    }
    Ok((pads, true))
}

/// A 1-D operand [N,C,W] as [N,C,1,W]; others as they are.
pub fn as_2d(cx: &mut Cx<'_, '_>, suffix: &str, x: NodeId) -> Result<NodeId> {
    match cx.shape(x)[..] {
        [n, c, w] => cx.step(suffix, FloatOp::Reshape(Reshape { shape: vec![n, c, 1, w] }), &[x]),
        _ => Ok(x),
    }
}

/// Emits a 2-D operator; its result loses the row dimension again if the ONNX operator was 1-D.
pub fn emit(
    cx: &mut Cx<'_, '_>,
    one_d: bool,
    op: FloatOp,
    operands: &[NodeId],
) -> Result<Vec<crate::import::cx::Value>> {
    if !one_d {
        return cx.emit(op, operands);
    }
    let y = cx.step("2d", op, operands)?;
    let [n, c, _, w] = Shape::dims4(cx.shape(y))?;
    cx.emit(FloatOp::Reshape(Reshape { shape: vec![n, c, w] }), &[y])
}
