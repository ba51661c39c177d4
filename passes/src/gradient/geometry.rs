//! Convolutions as sums over constant offsets.
//!
//! Each channel is laid out as one plane per stride phase, with zeros where the window reaches outside. Lines share
//! their zero border with the next line, and images with the next image, so that for stride 1 and padding 1 a plane
//! of H×W takes about (H+1)·(W+1) cells. In these planes the value that a tap reads for output (y, x) of image g lies at
//! a constant distance from g·image + y·pitch + x, for every stride, dilation and padding; the few positions between
//! lines are computed and thrown away. The adjoint in x has the same form: each phase of the result is a sum over
//! the taps of that phase of the output's gradient.
use super::{Real, kernels::LANES};
use goshawk_ir::op::window::ConvWindow;

/// How one phase's line is filled: cell `to + i` from element `from + i·step`, for `count` of them.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Fill {
    to: usize,
    from: usize,
    step: usize,
    count: usize,
}

/// Results of one phase along an axis: elements first, first + step, …, and for each tap that reaches them (tap, phase
/// of the plane, distance).
#[derive(Clone, Debug, PartialEq)]
struct Phase {
    first: usize,
    step: usize,
    count: usize,
    taps: Vec<(usize, usize, usize)>,
}

/// One axis of a layout.
#[derive(Clone, Debug, PartialEq)]
struct Axis {
    fills: Vec<Fill>,
    len: usize,
    /// Zeros that a line and the next one can share.
    shared: usize,
    results: Vec<Phase>,
}

impl Axis {
    fn new(fills: Vec<Fill>, len: usize, results: Vec<Phase>) -> Self {
        let front = fills.iter().map(|f| f.to).min().unwrap_or(0);
        let back = fills.iter().map(|f| len - f.to - f.count).min().unwrap_or(0);
        Self { fills, len, shared: front.min(back), results }
    }

    /// Reads inputs, makes outputs.
    fn forward(
        input: usize,
        output: usize,
        kernel: usize,
        stride: usize,
        dilation: usize,
        pad: usize,
    ) -> Self {
        let mut phases: Vec<usize> = (0..kernel).map(|k| k * dilation % stride).collect();
        phases.sort_unstable();
        phases.dedup();
        let taps: Vec<_> = (0..kernel)
            .map(|k| {
                let phase = phases.partition_point(|p| *p < k * dilation % stride);
                (k, phase, k * dilation / stride)
            })
            .collect();
        let len = output + taps.iter().map(|t| t.2).max().unwrap_or(0);
        let fills = phases
            .iter()
            .map(|phase| {
                // Cell r holds element r·stride + phase − pad.
                let to = pad.saturating_sub(*phase).div_ceil(stride).min(len);
                let from = to * stride + phase - pad.min(to * stride + phase);
                let count = input.saturating_sub(from).div_ceil(stride).min(len - to);
                Fill { to, from: if count == 0 { 0 } else { from }, step: stride, count }
            })
            .collect();
        Self::new(fills, len, vec![Phase { first: 0, step: 1, count: output, taps }])
    }

    /// Reads gradients of outputs, makes gradients of inputs.
    fn backward(
        input: usize,
        output: usize,
        kernel: usize,
        stride: usize,
        dilation: usize,
        pad: usize,
    ) -> Self {
        let signed = |x: usize| x as i64;
        // (first input, its quotient, number of inputs, taps with their quotients) of each phase that has any.
        let mut found = Vec::new();
        for phase in 0..stride {
            let taps: Vec<(usize, i64)> = (0..kernel)
                .filter(|k| k * dilation % stride == phase)
                .map(|k| (k, signed(k * dilation / stride)))
                .collect();
            let quotient = pad.saturating_sub(phase).div_ceil(stride);
            let first = quotient * stride + phase - pad;
            if !taps.is_empty() && first < input {
                found.push((first, signed(quotient), (input - first).div_ceil(stride), taps));
            }
        }
        let low =
            found.iter().flat_map(|(_, q, _, taps)| taps.iter().map(move |t| q - t.1)).min().unwrap_or(0);
        let high = found
            .iter()
            .flat_map(|(_, q, n, taps)| taps.iter().map(move |t| q + signed(*n) - 1 - t.1))
            .max()
            .unwrap_or(0);
        let len = (high - low + 1) as usize;
        // Cell r holds output r + low.
        let from = low.max(0);
        let to = from - low;
        let count = (high.min(signed(output) - 1) - from + 1).max(0);
        let fill =
            Fill { to: to.min(signed(len)) as usize, from: from as usize, step: 1, count: count as usize };
        let results = found
            .into_iter()
            .map(|(first, q, count, taps)| {
                let taps = taps.into_iter().map(|(k, t)| (k, 0, (q - t - low) as usize)).collect();
                Phase { first, step: stride, count, taps }
            })
            .collect();
        Self::new(vec![fill], len, results)
    }
}

/// Results of one pair of phases: which, and for each tap (offset in the planes of a channel, tap).
#[derive(Clone, Debug)]
pub struct Part {
    rows: Phase,
    columns: Phase,
    /// For each tap its offset in the planes of a channel and its number.
    pub taps: Vec<(usize, usize)>,
}

/// Planes for a number of images.
#[derive(Clone, Debug)]
pub struct Layout {
    rows: Axis,
    columns: Axis,
    /// From one line to the next.
    pub pitch: usize,
    /// From one image to the next.
    pub image: usize,
    /// Images side by side.
    pub images: usize,
    /// From one channel to the next.
    pub channel: usize,
    /// Sums over taps that make the result.
    pub parts: Vec<Part>,
    source: [usize; 2],
    result: [usize; 2],
    phase: usize,
}

/// Sizes of a convolution's planes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Input rows and columns.
    pub input: [usize; 2],
    /// Output rows and columns.
    pub output: [usize; 2],
    /// Kernel rows and columns.
    pub kernel: [usize; 2],
}

/// Zeroes a buffer unless it has this length already: then all but the borders, which stay zero, are overwritten.
fn blank<T: Real>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() != len {
        buffer.clear();
        buffer.resize(len, T::ZERO);
    }
}

impl Layout {
    /// The layout of x for y = w ∗ x.
    pub fn forward(w: &ConvWindow, s: Sizes, images: usize) -> Self {
        let axis =
            |i| Axis::forward(s.input[i], s.output[i], s.kernel[i], w.stride[i], w.dilation[i], w.pads[i]);
        Self::new([axis(0), axis(1)], s.kernel[1], images, s.input, s.output)
    }

    /// The layout of ∂y for ∂x.
    pub fn backward(w: &ConvWindow, s: Sizes, images: usize) -> Self {
        let axis =
            |i| Axis::backward(s.input[i], s.output[i], s.kernel[i], w.stride[i], w.dilation[i], w.pads[i]);
        Self::new([axis(0), axis(1)], s.kernel[1], images, s.output, s.input)
    }

    fn new(
        [rows, columns]: [Axis; 2],
        kernel: usize,
        images: usize,
        source: [usize; 2],
        result: [usize; 2],
    ) -> Self {
        let widest = |a: &Axis| a.results.iter().map(|p| p.count).max().unwrap_or(0);
        let pitch = (columns.len - columns.shared).max(widest(&columns));
        let lines = (rows.len - rows.shared).max(widest(&rows));
        let image = lines * pitch;
        // The last image keeps its border; vectors may read past the end.
        let phase =
            ((images - 1) * image + rows.len * pitch + columns.len + 4 * LANES).next_multiple_of(LANES);
        let mut parts = Vec::new();
        for row in &rows.results {
            for column in &columns.results {
                let taps = row.taps.iter().flat_map(|(ky, py, qy)| {
                    column.taps.iter().map(move |(kx, px, qx)| (*ky, *kx, *py, *px, qy * pitch + qx))
                });
                let taps = taps
                    .map(|(ky, kx, py, px, q)| {
                        ((py * columns.fills.len() + px) * phase + q, ky * kernel + kx)
                    })
                    .collect();
                parts.push(Part { rows: row.clone(), columns: column.clone(), taps });
            }
        }
        let channel = phase * rows.fills.len() * columns.fills.len();
        Self { rows, columns, pitch, image, images, channel, parts, source, result, phase }
    }

    /// Whether planes and results are the tensors themselves: one tap, stride 1, no padding, one image.
    pub fn is_plain(&self) -> bool {
        let whole =
            |a: &Axis, n: usize| a.fills == [Fill { to: 0, from: 0, step: 1, count: n }] && a.len == n;
        let one_tap = self.parts.len() == 1 && self.parts[0].taps == [(0, 0)];
        self.images == 1
            && one_tap
            && self.source == self.result
            && whole(&self.rows, self.source[0])
            && whole(&self.columns, self.source[1])
    }

    /// Positions of a part, from the first output of the first image to the last of the last.
    pub fn positions(&self, part: &Part) -> usize {
        (self.images - 1) * self.image + (part.rows.count - 1) * self.pitch + part.columns.count
    }

    /// Lays out `channels` of every image; images are `distance` apart in `x`. The buffer is empty, or was filled for this
    /// geometry before.
    pub fn fill<T: Real>(&self, x: &[T], distance: usize, channels: usize, planes: &mut Vec<T>) {
        blank(planes, channels * self.channel);
        let [height, width] = self.source;
        for c in 0..channels {
            for g in 0..self.images {
                let plane = &x[g * distance + c * height * width..][..height * width];
                let mut at = c * self.channel + g * self.image;
                for rows in &self.rows.fills {
                    for columns in &self.columns.fills {
                        for r in 0..rows.count {
                            let line = &plane[(rows.from + r * rows.step) * width..][..width];
                            let to =
                                &mut planes[at + (rows.to + r) * self.pitch + columns.to..][..columns.count];
                            if columns.step == 1 {
                                to.copy_from_slice(&line[columns.from..][..columns.count]);
                            } else {
                                let from = line[columns.from.min(width)..].iter().step_by(columns.step);
                                to.iter_mut().zip(from).for_each(|(t, v)| *t = *v);
                            }
                        }
                        at += self.phase;
                    }
                }
            }
        }
    }

    /// Lays out the results (one part with step 1) at their positions, zeros between them, for [`super::kernels::dots`].
    pub fn spread<T: Real>(&self, y: &[T], distance: usize, channels: usize, len: usize, lines: &mut Vec<T>) {
        blank(lines, channels * len);
        let [height, width] = self.result;
        for c in 0..channels {
            for g in 0..self.images {
                let plane = &y[g * distance + c * height * width..][..height * width];
                for (r, line) in plane.chunks_exact(width).enumerate() {
                    lines[c * len + g * self.image + r * self.pitch..][..width].copy_from_slice(line);
                }
            }
        }
    }

    /// Takes the results of a part out of `sums`, which holds `channels` rows of `len` positions from line `line` on.
    pub fn collect<T: Real>(
        &self,
        part: &Part,
        sums: &[T],
        len: usize,
        lines: std::ops::Range<usize>,
        channels: usize,
        out: &mut [T],
        distance: usize,
    ) {
        let [height, width] = self.result;
        for c in 0..channels {
            for g in 0..self.images {
                let plane = &mut out[g * distance + c * height * width..][..height * width];
                for r in lines.clone() {
                    let from = &sums[c * len + g * self.image + (r - lines.start) * self.pitch..]
                        [..part.columns.count];
                    let to = &mut plane[(part.rows.first + r * part.rows.step) * width..][..width];
                    if part.columns.step == 1 {
                        to[part.columns.first..][..from.len()].copy_from_slice(from);
                    } else {
                        let to = to[part.columns.first..].iter_mut().step_by(part.columns.step);
                        to.zip(from).for_each(|(t, v)| *t = *v);
                    }
                }
            }
        }
    }

    /// Lines of a part.
    pub fn lines(&self, part: &Part) -> usize {
        part.rows.count
    }
}
