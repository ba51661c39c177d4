//! Convolution, NCHW: im2col straight into the panels of the matrix product; depthwise directly.
use super::gemm::{COLUMNS, Left};
use crate::{Result, Shape, op::window::ConvWindow};

/// x [N,C,H,W], w [O,C/groups,KH,KW], b [O] → [N,O,H',W'].
pub fn conv(
    window: &ConvWindow,
    (x, x_shape): (&[f32], &Shape),
    (w, w_shape): (&[f32], &Shape),
    b: Option<&[f32]>,
    shape: &Shape,
) -> Result<Vec<f32>> {
    let [_, c, h, wd] = x_shape.dims4()?;
    let [o, cg, kh, kw] = w_shape.dims4()?;
    let [_, _, oh, ow] = shape.dims4()?;
    let (groups, k) = (window.groups, cg * kh * kw);
    let og = o / groups;
    let mut out = vec![0.0; shape.count()];
    let axes = [Axis::new(window, 0, kh, h, oh), Axis::new(window, 1, kw, wd, ow)];
    // A product with one row of few terms does not pay for packing.
    if cg == 1 {
        for (i, plane) in out.chunks_mut(oh * ow).enumerate() {
            let (image, o) = (i / o, i % o);
            let x = &x[(image * c + o / og) * h * wd..][..h * wd];
            plane.fill(b.map_or(0.0, |b| b[o]));
            depthwise(&axes, x, &w[o * k..][..k], plane);
        }
        return Ok(out);
    }
    let lefts: Vec<Left> = w.chunks(og * k).map(|w| Left::new(w, og, k)).collect();
    for (i, out) in out.chunks_mut(og * oh * ow).enumerate() {
        let (image, g) = (i / groups, i % groups);
        let x = &x[(image * c + g * cg) * h * wd..][..cg * h * wd];
        let bias = b.map(|b| &b[g * og..][..og]);
        lefts[g].times(oh * ow, bias, &mut |panel, first| im2col(&axes, x, panel, first), out);
    }
    Ok(out)
}

/// One axis of the geometry.
struct Axis {
    kernel: usize,
    input: usize,
    output: usize,
    stride: usize,
    dilation: usize,
    before: usize,
}

impl Axis {
    fn new(w: &ConvWindow, axis: usize, kernel: usize, input: usize, output: usize) -> Self {
        let (stride, dilation, before) = (w.stride[axis], w.dilation[axis], w.pads[axis]);
        Self { kernel, input, output, stride, dilation, before }
    }

    /// Operand index of tap `k` of output `out`, if it lies inside the operand.
    fn index(&self, out: usize, k: usize) -> Option<usize> {
        (out * self.stride + k * self.dilation).checked_sub(self.before).filter(|i| *i < self.input)
    }

    /// Outputs whose tap `k` lies inside the operand.
    fn outputs(&self, k: usize) -> std::ops::Range<usize> {
        let tap = k * self.dilation;
        let first = self.before.saturating_sub(tap).div_ceil(self.stride);
        let end = (self.input + self.before).saturating_sub(tap).div_ceil(self.stride).min(self.output);
        first.min(end)..end
    }
}

/// The patches of [`COLUMNS`] output pixels from `first` on, one column each.
fn im2col([rows, columns]: &[Axis; 2], x: &[f32], panel: &mut [[f32; COLUMNS]], first: usize) {
    let pixels = rows.output * columns.output;
    let at: Vec<(usize, usize)> =
        (first..pixels.min(first + COLUMNS)).map(|p| (p / columns.output, p % columns.output)).collect();
    let mut cells = panel.iter_mut();
    let mut offsets = [None; COLUMNS];
    let taps = rows.kernel * columns.kernel;
    // Offsets are the same for every channel, so the loop over taps is outside; cells lie [channel][tap].
    let mut by_tap = Vec::with_capacity(taps);
    for t in 0..taps {
        offsets.fill(None);
        for (offset, (y, z)) in offsets.iter_mut().zip(&at) {
            let (iy, ix) = (rows.index(*y, t / columns.kernel), columns.index(*z, t % columns.kernel));
            *offset = iy.zip(ix).map(|(iy, ix)| iy * columns.input + ix);
        }
        by_tap.push(offsets);
    }
    for plane in x.chunks(rows.input * columns.input) {
        for (offsets, cell) in by_tap.iter().zip(&mut cells) {
            for (v, offset) in cell.iter_mut().zip(offsets) {
                *v = offset.map_or(0.0, |o| plane[o]);
            }
        }
    }
}

/// Adds Σ taps to a plane of outputs.
fn depthwise([rows, columns]: &[Axis; 2], x: &[f32], w: &[f32], out: &mut [f32]) {
    for (t, w) in w.iter().enumerate() {
        let (ky, kx) = (t / columns.kernel, t % columns.kernel);
        let range = columns.outputs(kx);
        let Some(ix) = columns.index(range.start, kx).filter(|_| !range.is_empty()) else { continue };
        for y in rows.outputs(ky) {
            let Some(iy) = rows.index(y, ky) else { continue };
            let source = x[iy * columns.input + ix..(iy + 1) * columns.input].iter();
            let to = &mut out[y * columns.output..][range.clone()];
            if columns.stride == 1 {
                to.iter_mut().zip(source).for_each(|(o, v)| *o += w * v);
            } else {
                to.iter_mut().zip(source.step_by(columns.stride)).for_each(|(o, v)| *o += w * v);
            }
        }
    }
}
