//! Convolution: y = w ∗ x + b and its adjoints. All three are sums over pairs of operands, so that values,
//! tangents, gradients and tangents of gradients share one implementation.
use super::super::{
    Real,
    geometry::{Layout, Sizes},
    kernels::{Correlation, Dots, LANES, Source, correlate, dots},
};
use goshawk_ir::{Result, Shape, op::window::ConvWindow};

/// Positions per call below which images are laid side by side: long loops, few borders.
const LONG: usize = 256;
/// The same for sums along positions, which end with an addition across lanes.
const LONG_SUM: usize = 1024;
/// Positions per call above which an image is cut in bands, to stay in the cache.
const BAND: usize = 1536;

/// A convolution of one network run.
#[derive(Clone, Debug)]
pub struct Convolution {
    window: ConvWindow,
    sizes: Sizes,
    /// Images of one run: the declared batch.
    batch: usize,
    groups: usize,
    /// Input and output channels of a group.
    inputs: usize,
    outputs: usize,
    taps: usize,
}

impl Convolution {
    /// From the declared shapes of x, w and y.
    pub fn new(window: &ConvWindow, x: &Shape, w: &Shape, y: &Shape) -> Result<Self> {
        let ([batch, c, h, wd], [o, _, kh, kw], [_, _, oh, ow]) = (x.dims4()?, w.dims4()?, y.dims4()?);
        Ok(Self {
            window: window.clone(),
            sizes: Sizes { input: [h, wd], output: [oh, ow], kernel: [kh, kw] },
            batch,
            groups: window.groups,
            inputs: c / window.groups,
            outputs: o / window.groups,
            taps: kh * kw,
        })
    }

    fn input_image(&self) -> usize {
        self.groups * self.inputs * self.sizes.input[0] * self.sizes.input[1]
    }

    fn output_plane(&self) -> usize {
        self.sizes.output[0] * self.sizes.output[1]
    }

    fn output_image(&self) -> usize {
        self.groups * self.outputs * self.output_plane()
    }

    /// Elements of the weights.
    pub fn weights(&self) -> usize {
        self.groups * self.outputs * self.inputs * self.taps
    }

    /// w ordered by input channel, then output channel, then tap: what [`Self::input_gradient`] reads.
    pub fn transposed<T: Real>(&self, w: &[T]) -> Vec<T> {
        let mut to = Vec::with_capacity(w.len());
        for group in w.chunks(self.outputs * self.inputs * self.taps) {
            for i in 0..self.inputs {
                for o in 0..self.outputs {
                    to.extend_from_slice(&group[(o * self.inputs + i) * self.taps..][..self.taps]);
                }
            }
        }
        to
    }

    /// Σ w ∗ x over the pairs (x, w), plus b.
    pub fn forward<T: Real>(&self, samples: usize, pairs: &[(&[T], &[T])], bias: Option<&[T]>) -> Vec<T> {
        let images = samples * self.batch;
        let mut y = vec![T::ZERO; images * self.output_image()];
        let build = |n| Layout::forward(&self.window, self.sizes, n);
        let ends = Ends {
            inputs: self.inputs,
            outputs: self.outputs,
            from: self.input_image(),
            to: self.output_image(),
        };
        self.correlate(&build, images, ends, pairs, &mut y);
        if let Some(bias) = bias {
            for (plane, b) in y.chunks_exact_mut(self.output_plane()).zip(bias.iter().cycle()) {
                plane.iter_mut().for_each(|v| *v += *b);
            }
        }
        y
    }

    /// Σ of the adjoint of w applied to ∂y over the pairs (∂y, w transposed).
    pub fn input_gradient<T: Real>(&self, samples: usize, pairs: &[(&[T], &[T])]) -> Vec<T> {
        let images = samples * self.batch;
        let mut x = vec![T::ZERO; images * self.input_image()];
        let build = |n| Layout::backward(&self.window, self.sizes, n);
        let ends = Ends {
            inputs: self.outputs,
            outputs: self.inputs,
            from: self.output_image(),
            to: self.input_image(),
        };
        self.correlate(&build, images, ends, pairs, &mut x);
        x
    }

    fn correlate<T: Real>(
        &self,
        build: &dyn Fn(usize) -> Layout,
        images: usize,
        ends: Ends,
        pairs: &[(&[T], &[T])],
        out: &mut [T],
    ) {
        let single = build(1);
        let together = LONG.div_ceil(single.image).clamp(1, images);
        let layout = if together == 1 { single } else { build(together) };
        let mut planes: Vec<Vec<T>> = vec![Vec::new(); pairs.len()];
        let mut sums = Vec::new();
        for first in (0..images).step_by(together) {
            let rest;
            let layout = if first + together > images {
                rest = build(images - first);
                &rest
            } else {
                &layout
            };
            let plain = layout.is_plain();
            if !plain {
                for ((x, _), planes) in pairs.iter().zip(&mut planes) {
                    layout.fill(&x[first * ends.from..], ends.from, self.groups * ends.inputs, planes);
                }
            }
            for part in &layout.parts {
                let lines = layout.lines(part);
                let whole = layout.positions(part);
                let band = if layout.images > 1 || plain || whole <= BAND {
                    lines
                } else {
                    (BAND / layout.pitch).max(1)
                };
                for start in (0..lines).step_by(band) {
                    let range = start..lines.min(start + band);
                    let len = whole - (lines - range.len()) * layout.pitch;
                    let sources: Vec<Source<'_, T>> = pairs
                        .iter()
                        .zip(&planes)
                        .map(|((x, weights), planes)| Source {
                            planes: if plain {
                                &x[first * ends.from..]
                            } else {
                                &planes[start * layout.pitch..]
                            },
                            weights,
                        })
                        .collect();
                    let row = ends.inputs * self.taps;
                    let mut shape = Correlation {
                        groups: self.groups,
                        inputs: ends.inputs,
                        outputs: ends.outputs,
                        plane: layout.channel,
                        row,
                        step: self.taps,
                        taps: &part.taps,
                        len,
                        pitch: len,
                    };
                    if plain {
                        shape.plane = len;
                        correlate(&shape, &sources, &mut out[first * ends.to..][..ends.to]);
                        continue;
                    }
                    shape.len = len.next_multiple_of(LANES);
                    shape.pitch = shape.len;
                    sums.resize(self.groups * ends.outputs * shape.len, T::ZERO);
                    correlate(&shape, &sources, &mut sums);
                    layout.collect(
                        part,
                        &sums,
                        shape.len,
                        range,
                        self.groups * ends.outputs,
                        &mut out[first * ends.to..],
                        ends.to,
                    );
                }
            }
        }
    }

    /// Adds Σ over samples and pairs (∂y, x) of the gradient in w to `sum`.
    pub fn weight_gradient<T: Real>(&self, samples: usize, pairs: &[(&[T], &[T])], sum: &mut [T]) {
        self.gradient(samples * self.batch, LONG_SUM, pairs, sum);
    }

    /// For each sample and output channel the squared norm of that sample's gradient in w.
    pub fn squares<T: Real>(&self, samples: usize, gy: &[T], x: &[T]) -> Vec<f64> {
        let (from, to) = (self.batch * self.input_image(), self.batch * self.output_image());
        let mut gradient = vec![T::ZERO; self.weights()];
        let mut out = Vec::with_capacity(samples * self.groups * self.outputs);
        for (x, gy) in x.chunks_exact(from).zip(gy.chunks_exact(to)) {
            gradient.fill(T::ZERO);
            self.gradient(self.batch, LONG_SUM, &[(gy, x)], &mut gradient);
            out.extend(gradient.chunks_exact(self.inputs * self.taps).map(super::square));
        }
        out
    }

    fn gradient<T: Real>(&self, images: usize, long: usize, pairs: &[(&[T], &[T])], sum: &mut [T]) {
        let single = Layout::forward(&self.window, self.sizes, 1);
        let together = long.div_ceil(single.image).clamp(1, images);
        let layout = if together == 1 { single } else { Layout::forward(&self.window, self.sizes, together) };
        let (from, to) = (self.input_image(), self.output_image());
        let (mut planes, mut lines) = (Vec::new(), Vec::new());
        let terms = self.inputs * self.taps;
        for first in (0..images).step_by(together) {
            let rest;
            let layout = if first + together > images {
                rest = Layout::forward(&self.window, self.sizes, images - first);
                &rest
            } else {
                &layout
            };
            let part = &layout.parts[0];
            let plain = layout.is_plain();
            let exact = layout.positions(part);
            let len = if plain { exact } else { exact.next_multiple_of(LANES) };
            let channel = if plain { exact } else { layout.channel };
            for (gy, x) in pairs {
                let (gy, x) = (&gy[first * to..], &x[first * from..]);
                if !plain {
                    layout.fill(x, from, self.groups * self.inputs, &mut planes);
                    layout.spread(gy, to, self.groups * self.outputs, len, &mut lines);
                }
                let (a, b) = if plain { (gy, x) } else { (&lines[..], &planes[..]) };
                let starts: Vec<usize> = (0..self.inputs)
                    .flat_map(|i| part.taps.iter().map(move |(offset, _)| i * channel + offset))
                    .collect();
                for g in 0..self.groups {
                    let shape = Dots {
                        a: &a[g * self.outputs * len..],
                        pitch: len,
                        rows: self.outputs,
                        b: &b[g * self.inputs * channel..],
                        starts: &starts,
                        len,
                    };
                    dots(&shape, &mut sum[g * self.outputs * terms..][..self.outputs * terms]);
                }
            }
        }
    }
}

/// What a correlation reads and makes: channels of a group, and the distance of images.
#[derive(Clone, Copy)]
struct Ends {
    inputs: usize,
    outputs: usize,
    from: usize,
    to: usize,
}
