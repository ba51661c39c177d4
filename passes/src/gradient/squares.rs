//! Sums of squared per-sample gradients: traces of Gauss-Newton and Fisher matrices.
//!
//! With G = Jᵀ·H·J, H the Hessian of a sample's loss at the outputs, and s drawn so that E\[s·sᵀ\] = H, one backward pass
//! of s gives ‖Jᵀs‖², whose expectation is tr(G), for every layer, channel and activation at once. For softmax with p
//! the probabilities, s = e_y − p with y drawn from p does it, as does s = √p∘r − p·(√p·r) with r of random signs, which has
//! less variance where the network is confident.
use super::{
    Engine, Real,
    engine::Step,
    loss::Objective,
    random,
    reverse::Sink,
    rules::{Prepared, square},
    tape::Tape,
};
use goshawk_ir::{Result, bail};

/// What is propagated backwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noise {
    /// Gauss-Newton: random signs through a square root of the Hessian at the outputs. Takes a seed.
    Rademacher(u64),
    /// Gauss-Newton: e_y − p with y drawn from p; for squared errors normal noise. Takes a seed.
    Sampled(u64),
    /// Gauss-Newton without noise: one pass for each output element, so the trace of the batch itself.
    Exact,
    /// Empirical Fisher: the gradient of the sample's own loss. Not the trace of the Hessian; for rankings.
    Fisher,
}

/// Mean over the samples of the squared norm of what arrives.
#[derive(Clone, Debug, PartialEq)]
pub struct Squares {
    /// By layer.
    pub weights: Vec<ChannelSquares>,
    /// By activation.
    pub activations: Vec<ChannelSquares>,
}

/// Squares of one layer or activation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChannelSquares {
    /// By channel: mean over the samples.
    pub mean: Vec<f64>,
    /// By sample: sum over the channels. Their spread gives the standard error.
    pub samples: Vec<f64>,
}

impl ChannelSquares {
    /// Mean over samples of the sum over channels.
    pub fn total(&self) -> f64 {
        self.mean.iter().sum()
    }

    /// Joins the samples of the next chunk, weighted by counts; `add` where it is another pass over the same samples.
    fn join(&mut self, other: &Self) {
        let (a, b) = (self.samples.len() as f64, other.samples.len() as f64);
        if self.mean.is_empty() {
            self.mean = vec![0.0; other.mean.len()];
        }
        for (m, o) in self.mean.iter_mut().zip(&other.mean) {
            *m = (*m * a + o * b) / (a + b);
        }
        self.samples.extend_from_slice(&other.samples);
    }
}

impl Squares {
    /// Zeros for no samples.
    pub(super) fn empty<T: Real>(engine: &Engine<T>) -> Self {
        Self {
            weights: vec![ChannelSquares::default(); engine.layers().len()],
            activations: vec![ChannelSquares::default(); engine.activations().len()],
        }
    }

    pub(super) fn join(&mut self, other: &Self) {
        self.weights.iter_mut().zip(&other.weights).for_each(|(a, b)| a.join(b));
        self.activations.iter_mut().zip(&other.activations).for_each(|(a, b)| a.join(b));
    }
}

/// Adds up squares of a chunk by (sample, channel).
pub(super) struct Squaring<'a, T> {
    engine: &'a Engine<T>,
    samples: usize,
    weights: Vec<Vec<f64>>,
    activations: Vec<Vec<f64>>,
}

impl<'a, T: Real> Squaring<'a, T> {
    pub fn new(engine: &'a Engine<T>, samples: usize) -> Self {
        let layers = engine.layers().iter().map(|l| vec![0.0; samples * l.shape[0]]).collect();
        let activations = engine.activations().iter().map(|a| vec![0.0; samples * a.channels]).collect();
        Self { engine, samples, weights: layers, activations }
    }

    pub fn finish(self) -> Squares {
        let summed = |squares: &Vec<f64>| {
            let channels = squares.len() / self.samples;
            let mut mean = vec![0.0; channels];
            for sample in squares.chunks_exact(channels) {
                mean.iter_mut().zip(sample).for_each(|(m, s)| *m += s / self.samples as f64);
            }
            ChannelSquares { mean, samples: squares.chunks_exact(channels).map(|s| s.iter().sum()).collect() }
        };
        Squares {
            weights: self.weights.iter().map(summed).collect(),
            activations: self.activations.iter().map(summed).collect(),
        }
    }
}

impl<T: Real> Sink<T> for Squaring<'_, T> {
    fn layer(&mut self, layer: usize, step: &Step<T>, gy: &[T], x: &[T]) {
        let found = match &step.rules {
            Prepared::Convolution(c, _) => c.squares(self.samples, gy, x),
            Prepared::Linear(a, _) => a.squares(self.samples, gy, x),
            Prepared::Leaf | Prepared::Rule(..) => return,
        };
        self.weights[layer].iter_mut().zip(found).for_each(|(s, f)| *s += f);
    }
    fn activation(&mut self, activation: usize, step: &Step<T>, gradient: &[T]) {
        let a = &self.engine.activations()[activation];
        // [N, C, …]: the channel of a plane is its number modulo C.
        let inner: usize = a.shape.iter().skip(2).product();
        let planes = step.count / inner;
        for (i, plane) in gradient.chunks_exact(inner).enumerate() {
            let (sample, channel) = (i / planes, i % planes % a.channels);
            self.activations[activation][sample * a.channels + channel] += square(plane);
        }
    }
}

impl<T: Real> Objective<T> {
    /// How many backward passes the noise takes.
    pub(super) fn passes(&self, noise: Noise) -> usize {
        match (noise, self) {
            (Noise::Exact, Self::Classes { rows, .. }) => rows.count,
            (Noise::Exact, Self::Squares { outputs, .. }) => outputs.iter().map(|o| o.1).sum(),
            _ => 1,
        }
    }

    /// Checks that the loss has what the noise reads.
    pub(super) fn check(&self, noise: Noise) -> Result<()> {
        if noise == Noise::Fisher && self.is_stationary() {
            bail!(
                "the empirical Fisher trace needs labels or targets: against its own output the gradient is zero"
            );
        }
        Ok(())
    }

    /// Seeds of one backward pass, for a batch of `batch` samples.
    pub(super) fn noise(
        &self,
        tape: &Tape<T>,
        noise: Noise,
        pass: usize,
        batch: usize,
    ) -> Vec<(usize, Vec<T>)> {
        if noise == Noise::Fisher {
            // Gradients of the samples' own losses, not of their mean.
            let scale = T::of(batch as f64);
            let mut seeds = self.evaluate_outputs(tape, batch);
            seeds.iter_mut().flat_map(|s| &mut s.1).for_each(|v| *v *= scale);
            return seeds;
        }
        match self {
            Self::Classes { step, rows, .. } => {
                let scale = 1.0 / (rows.rows() as f64).sqrt();
                let mut seed = vec![T::ZERO; tape.probabilities.len()];
                let samples =
                    seed.chunks_exact_mut(rows.count).zip(tape.probabilities.chunks_exact(rows.count));
                for (i, (seed, p)) in samples.enumerate() {
                    let sample = (tape.range.start + i) as u64;
                    for row in 0..rows.rows() {
                        // Numbers of this row: elements of the batch in row-major order.
                        let first = (sample * rows.rows() as u64 + row as u64) * rows.classes as u64;
                        let (class, weight) = match noise {
                            Noise::Rademacher(key) => {
                                let signs = (first..).map(|i| random::sign(key, 0, i));
                                let roots: Vec<f64> =
                                    rows.row(row).zip(signs).map(|(j, r)| r * p[j].f64().sqrt()).collect();
                                let mean: f64 = roots.iter().sum();
                                for (j, r) in rows.row(row).zip(roots) {
                                    seed[j] = T::of(scale * (r - p[j].f64() * mean));
                                }
                                continue;
                            }
                            Noise::Sampled(key) => {
                                let mut left = random::uniform(key, 0, first);
                                let drawn = rows.row(row).position(|j| {
                                    left -= p[j].f64();
                                    left < 0.0
                                });
                                (drawn.unwrap_or(rows.classes - 1), scale)
                            }
                            // Pass (row, class): only this row, weighted by √p.
                            Noise::Exact | Noise::Fisher if pass / rows.classes == row => {
                                let class = pass % rows.classes;
                                let at = rows.row(row).nth(class).unwrap_or(0);
                                (class, scale * p[at].f64().sqrt())
                            }
                            Noise::Exact | Noise::Fisher => continue,
                        };
                        for (c, j) in rows.row(row).enumerate() {
                            let one = if c == class { 1.0 } else { 0.0 };
                            seed[j] = T::of(weight * (one - p[j].f64()));
                        }
                    }
                }
                vec![(*step, seed)]
            }
            Self::Squares { outputs, .. } => {
                let n: usize = outputs.iter().map(|o| o.1).sum();
                let scale = (2.0 / n as f64).sqrt();
                let mut before = 0;
                let mut seeds = Vec::new();
                for (o, (step, count)) in outputs.iter().enumerate() {
                    let first = tape.range.start * count;
                    let number = |i: usize| match noise {
                        Noise::Rademacher(key) => random::sign(key, o as u64, (first + i) as u64),
                        Noise::Sampled(key) => random::normal(key, o as u64, (first + i) as u64),
                        Noise::Exact | Noise::Fisher => f64::from(u8::from(before + i % count == pass)),
                    };
                    seeds.push((
                        *step,
                        (0..tape.samples() * count).map(|i| T::of(scale * number(i))).collect(),
                    ));
                    before += count;
                }
                seeds
            }
        }
    }

    /// The gradient at the outputs, from what the tape keeps of them.
    fn evaluate_outputs(&self, tape: &Tape<T>, batch: usize) -> Vec<(usize, Vec<T>)> {
        let mut values: Vec<Option<Vec<T>>> = Vec::new();
        let mut start = 0;
        let counts: Vec<(usize, usize)> = match self {
            Self::Classes { step, rows, .. } => vec![(*step, rows.count)],
            Self::Squares { outputs, .. } => outputs.clone(),
        };
        for (step, count) in counts {
            if values.len() <= step {
                values.resize(step + 1, None);
            }
            values[step] =
                Some(tape.outputs.iter().flat_map(|o| &o[start..start + count]).copied().collect());
            start += count;
        }
        self.evaluate(&values, tape.range.clone(), batch).seeds
    }
}
