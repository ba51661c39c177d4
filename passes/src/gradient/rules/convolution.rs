//! Convolution: y = w ∗ x + b and its adjoints. All three are sums over pairs of operands, so that values,
//! tangents, gradients and tangents of gradients share one implementation.
use super::super::{
    Real,
    geometry::{Layout, Sizes},
    kernels::{
        Correlation, Dots, LANES, Outer, Product, Source, Sums, correlate, dots, outer, panels, slices,
    },
};
use goshawk_ir::{Result, Shape, op::window::ConvWindow};

/// Positions per call below which images are laid side by side: long loops, few borders.
const LONG: usize = 256;
/// The same for sums along positions, which end with an addition across lanes.
const LONG_SUM: usize = 1024;
/// Outputs of a group from which on vectors run along them.
const MANY: usize = 8;
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

    /// w as [`Self::forward`] reads it.
    pub fn packed<T: Real>(&self, w: &[T]) -> Vec<T> {
        panels(w, self.groups, self.inputs * self.taps)
    }

    /// w ordered by input channel, then output channel, then tap, as [`Self::input_gradient`] reads it.
    pub fn transposed<T: Real>(&self, w: &[T]) -> Vec<T> {
        let mut to = Vec::with_capacity(w.len());
        for group in w.chunks(self.outputs * self.inputs * self.taps) {
            for i in 0..self.inputs {
                for o in 0..self.outputs {
                    to.extend_from_slice(&group[(o * self.inputs + i) * self.taps..][..self.taps]);
                }
            }
        }
        panels(&to, self.groups, self.outputs * self.taps)
    }

    /// Σ w ∗ x over the pairs (x, w packed), plus b.
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
                    let mut shape = Correlation {
                        groups: self.groups,
                        inputs: ends.inputs,
                        outputs: ends.outputs,
                        plane: layout.channel,
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
        let (images, terms) = (samples * self.batch, self.inputs * self.taps);
        if self.outputs < MANY {
            return self.few(images, pairs, sum);
        }
        self.many(images, pairs, &mut Buffers::default(), &mut |sums| {
            sums.add_to(&mut sum[sums.first * terms..], terms);
        });
    }

    /// For each sample and output channel the squared norm of that sample's gradient in w.
    pub fn squares<T: Real>(&self, samples: usize, gy: &[T], x: &[T]) -> Vec<f64> {
        let (from, to) = (self.batch * self.input_image(), self.batch * self.output_image());
        let (channels, terms) = (self.groups * self.outputs, self.inputs * self.taps);
        let mut out = vec![0.0; samples * channels];
        let mut buffers = Buffers::default();
        let mut gradient = Vec::new();
        for (i, out) in out.chunks_exact_mut(channels).enumerate() {
            let pairs = [(&gy[i * to..][..to], &x[i * from..][..from])];
            // The sums of one image are whole gradients, which need not be stored.
            if self.outputs >= MANY && self.batch == 1 {
                self.many(1, &pairs, &mut buffers, &mut |sums| {
                    for column in sums.values.chunks_exact(sums.width) {
                        for (o, v) in out[sums.first..][..sums.count].iter_mut().zip(column) {
                            *o += v.f64() * v.f64();
                        }
                    }
                });
                continue;
            }
            gradient.clear();
            gradient.resize(self.weights(), T::ZERO);
            self.weight_gradient(1, &pairs, &mut gradient);
            let rows = gradient.chunks_exact(terms);
            out.iter_mut().zip(rows).for_each(|(o, row)| *o = super::square(row));
        }
        out
    }

    /// Calls `work` for runs of images that are laid out side by side, about `long` positions of them.
    fn runs(&self, images: usize, long: usize, mut work: impl FnMut(usize, &Layout)) {
        let single = Layout::forward(&self.window, self.sizes, 1);
        let together = long.div_ceil(single.image).clamp(1, images);
        let layout = if together == 1 { single } else { Layout::forward(&self.window, self.sizes, together) };
        for first in (0..images).step_by(together) {
            if first + together > images {
                work(first, &Layout::forward(&self.window, self.sizes, images - first));
            } else {
                work(first, &layout);
            }
        }
    }

    /// Where the columns of the gradient start in the planes.
    fn columns(&self, layout: &Layout) -> (usize, Vec<usize>) {
        let part = &layout.parts[0];
        let channel = if layout.is_plain() { layout.positions(part) } else { layout.channel };
        let starts =
            (0..self.inputs).flat_map(|i| part.taps.iter().map(move |(offset, _)| i * channel + offset));
        (channel, starts.collect())
    }

    /// The gradient in w where vectors run along the outputs; the first output of its sums is a channel.
    fn many<T: Real>(
        &self,
        images: usize,
        pairs: &[(&[T], &[T])],
        buffers: &mut Buffers<T>,
        sink: &mut dyn FnMut(Sums<'_, T>),
    ) {
        let (from, to) = (self.input_image(), self.output_image());
        buffers.planes.resize_with(pairs.len(), Vec::new);
        buffers.slices.resize_with(pairs.len(), Vec::new);
        self.runs(images, LONG_SUM, |first, layout| {
            let plain = layout.is_plain();
            let (channel, columns) = self.columns(layout);
            let lines: Vec<usize> = (0..layout.images)
                .flat_map(|g| (0..self.sizes.output[0]).map(move |r| g * layout.image + r * layout.pitch))
                .collect();
            if !plain {
                for ((_, x), planes) in pairs.iter().zip(&mut buffers.planes) {
                    layout.fill(&x[first * from..], from, self.groups * self.inputs, planes);
                }
            }
            for g in 0..self.groups {
                for ((gy, _), to_slices) in pairs.iter().zip(&mut buffers.slices) {
                    let rows = &gy[first * to + g * self.outputs * self.output_plane()..];
                    slices(rows, self.outputs, self.output_plane(), layout.images, to, to_slices);
                }
                let products: Vec<Product<'_, T>> = pairs
                    .iter()
                    .zip(&buffers.planes)
                    .zip(&buffers.slices)
                    .map(|(((_, x), planes), a)| {
                        let b = if plain { &x[first * from..] } else { &planes[..] };
                        Product { a, b: &b[g * self.inputs * channel..] }
                    })
                    .collect();
                let shape = Outer {
                    outputs: self.outputs,
                    columns: &columns,
                    lines: &lines,
                    len: self.sizes.output[1],
                };
                outer(&shape, &products, &mut buffers.sums, &mut |sums| {
                    sink(Sums { first: g * self.outputs + sums.first, ..sums });
                });
            }
        });
    }

    /// The gradient in w where vectors run along the positions, added to `sum`.
    fn few<T: Real>(&self, images: usize, pairs: &[(&[T], &[T])], sum: &mut [T]) {
        let (from, to) = (self.input_image(), self.output_image());
        let (mut planes, mut lines) = (Vec::new(), Vec::new());
        let terms = self.inputs * self.taps;
        self.runs(images, LONG_SUM, |first, layout| {
            let plain = layout.is_plain();
            let exact = layout.positions(&layout.parts[0]);
            let len = if plain { exact } else { exact.next_multiple_of(LANES) };
            let (channel, starts) = self.columns(layout);
            for (gy, x) in pairs {
                let (gy, x) = (&gy[first * to..], &x[first * from..]);
                if !plain {
                    layout.fill(x, from, self.groups * self.inputs, &mut planes);
                    layout.spread(gy, to, self.groups * self.outputs, len, &mut lines);
                }
                let (a, b) = if plain { (gy, x) } else { (&lines[..], &planes[..]) };
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
        });
    }
}

/// Memory of [`Convolution::many`], for several calls.
#[derive(Default)]
struct Buffers<T> {
    planes: Vec<Vec<T>>,
    slices: Vec<Vec<T>>,
    sums: Vec<T>,
}

/// What a correlation reads and makes: channels of a group, and the distance of images.
#[derive(Clone, Copy)]
struct Ends {
    inputs: usize,
    outputs: usize,
    from: usize,
    to: usize,
}
