//! Losses: value, gradient at the outputs, and product with the Hessian at the outputs.
//!
//! Cross-entropy is taken of logits: where the network ends in a softmax over the class axis, its operand. With p =
//! softmax(z) and target q, ∂z = p − q and the Hessian is diag(p) − p·pᵀ. Squared errors are means over all elements of all
//! outputs, with the Hessian 2/n.
use super::{Engine, Real, rules::softmax as rule};
use goshawk_ir::{Result, Shape, Tensor, bail, ensure};
use std::ops::Range;

/// What is minimised: the mean over samples of this.
#[derive(Clone, Copy, Debug)]
pub enum Loss<'a> {
    /// Cross-entropy against labels: one class for each row of logits (dimension 1 is the class), in row-major order, sample
    /// after sample; the mean over the rows of a sample.
    CrossEntropy(&'a [usize]),
    /// Cross-entropy against the network's own distribution, held constant. Its gradient is zero and its Hessian the
    /// Gauss-Newton matrix; no labels are needed.
    CrossEntropyOwn,
    /// Mean squared error against targets: for each sample one tensor for each network output.
    SquaredError(&'a [Vec<Tensor>]),
    /// Mean squared error against the network's own outputs, held constant: zero, as is its gradient.
    SquaredErrorOwn,
}

/// A loss that fits its network and batch.
pub(super) enum Objective<T> {
    Classes {
        /// The step that makes the logits.
        step: usize,
        rows: Rows,
        /// By row of the batch; `None`: the network's own distribution.
        labels: Option<Vec<usize>>,
    },
    Squares {
        /// Steps of the outputs, and elements of each for one sample.
        outputs: Vec<(usize, usize)>,
        /// By output, for the batch; `None`: the network's own outputs.
        targets: Option<Vec<Vec<T>>>,
    },
}

/// Logits of one sample as rows: row r has its classes `inner` apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    pub classes: usize,
    pub inner: usize,
    /// Elements of one sample.
    pub count: usize,
}

impl Rows {
    fn of(shape: &Shape, axis: usize) -> Self {
        Self { classes: shape[axis], inner: shape[axis + 1..].iter().product(), count: shape.count() }
    }

    /// Rows of one sample.
    pub fn rows(&self) -> usize {
        self.count / self.classes
    }

    /// Elements of a row.
    pub fn row(&self, row: usize) -> impl Iterator<Item = usize> + use<> {
        let (inner, classes) = (self.inner, self.classes);
        let start = row / inner * inner * classes + row % inner;
        (0..classes).map(move |c| start + c * inner)
    }
}

/// What the loss says of a chunk of samples.
pub(super) struct Evaluated<T> {
    /// By sample.
    pub losses: Vec<f64>,
    /// Gradient of the batch's loss at each output step; empty where it is zero by construction.
    pub seeds: Vec<(usize, Vec<T>)>,
    /// Softmax of the logits.
    pub probabilities: Vec<T>,
}

impl<T: Real> Objective<T> {
    /// Checks labels or targets.
    pub fn new(engine: &Engine<T>, loss: &Loss<'_>, samples: usize) -> Result<Self> {
        match loss {
            Loss::CrossEntropy(labels) => {
                let (step, rows) = logits(engine)?;
                let count = samples * rows.rows();
                ensure!(
                    labels.len() == count,
                    "{} labels for {samples} samples of {} rows of logits",
                    labels.len(),
                    rows.rows()
                );
                if let Some((i, l)) = labels.iter().enumerate().find(|(_, l)| **l >= rows.classes) {
                    bail!("label {i} is {l}, the network has {} classes", rows.classes);
                }
                Ok(Self::Classes { step, rows, labels: Some(labels.to_vec()) })
            }
            Loss::CrossEntropyOwn => {
                let (step, rows) = logits(engine)?;
                Ok(Self::Classes { step, rows, labels: None })
            }
            Loss::SquaredError(targets) => {
                ensure!(targets.len() == samples, "{} targets for {samples} samples", targets.len());
                let mut by_output = vec![Vec::new(); engine.outputs.len()];
                for (i, sample) in targets.iter().enumerate() {
                    ensure!(
                        sample.len() == engine.outputs.len(),
                        "target {i} has {} tensors, the network {} outputs",
                        sample.len(),
                        engine.outputs.len()
                    );
                    for ((tensor, output), to) in sample.iter().zip(&engine.outputs).zip(&mut by_output) {
                        ensure!(
                            *tensor.shape() == output.shape,
                            "target {i} of output {} has shape {}, expected {}",
                            output.name,
                            tensor.shape(),
                            output.shape
                        );
                        to.extend(tensor.as_f32()?.iter().map(|v| T::of(f64::from(*v))));
                    }
                }
                Ok(Self::Squares { outputs: outputs(engine), targets: Some(by_output) })
            }
            Loss::SquaredErrorOwn => Ok(Self::Squares { outputs: outputs(engine), targets: None }),
        }
    }

    /// Steps whose values the loss reads.
    pub fn steps(&self) -> Vec<usize> {
        match self {
            Self::Classes { step, .. } => vec![*step],
            Self::Squares { outputs, .. } => outputs.iter().map(|o| o.0).collect(),
        }
    }

    /// Whether the gradient is zero by construction.
    pub fn is_stationary(&self) -> bool {
        match self {
            Self::Classes { labels, .. } => labels.is_none(),
            Self::Squares { targets, .. } => targets.is_none(),
        }
    }

    /// Evaluates the samples `range` of a batch of `samples`.
    pub fn evaluate(&self, values: &[Option<Vec<T>>], range: Range<usize>, samples: usize) -> Evaluated<T> {
        let value = |step: usize| values[step].as_deref().expect("kept, since steps() names it");
        match self {
            Self::Classes { step, rows, labels } => {
                let z = value(*step);
                let mut p = z.to_vec();
                let scale = 1.0 / (samples * rows.rows()) as f64;
                let mut seed = Vec::new();
                let mut losses = Vec::with_capacity(range.len());
                for (i, (z, p)) in z.chunks_exact(rows.count).zip(p.chunks_exact_mut(rows.count)).enumerate()
                {
                    let mut loss = 0.0;
                    for row in 0..rows.rows() {
                        let max = rows.row(row).map(|j| z[j].f64()).fold(f64::NEG_INFINITY, f64::max);
                        let log_sum = max + rows.row(row).map(|j| (z[j].f64() - max).exp()).sum::<f64>().ln();
                        let start = rows.row(row).next().unwrap_or(0);
                        rule::softmax(p, start, rows.classes, rows.inner);
                        loss += match labels {
                            Some(labels) => {
                                let label = labels[(range.start + i) * rows.rows() + row];
                                log_sum - z[start + label * rows.inner].f64()
                            }
                            None => rows.row(row).map(|j| p[j].f64() * (log_sum - z[j].f64())).sum(),
                        };
                    }
                    losses.push(loss / rows.rows() as f64);
                }
                if let Some(labels) = labels {
                    seed = p.iter().map(|p| *p * T::of(scale)).collect::<Vec<T>>();
                    for (i, seed) in seed.chunks_exact_mut(rows.count).enumerate() {
                        for row in 0..rows.rows() {
                            let label = labels[(range.start + i) * rows.rows() + row];
                            let at = rows.row(row).nth(label).unwrap_or(0);
                            seed[at] -= T::of(scale);
                        }
                    }
                }
                let seeds = if seed.is_empty() { Vec::new() } else { vec![(*step, seed)] };
                Evaluated { losses, seeds, probabilities: p }
            }
            Self::Squares { outputs, targets } => {
                let n: usize = outputs.iter().map(|o| o.1).sum();
                let mut losses = vec![0.0; range.len()];
                let mut seeds = Vec::new();
                for (o, (step, count)) in outputs.iter().enumerate() {
                    let Some(targets) = targets else { break };
                    let target = &targets[o][range.start * count..range.end * count];
                    let residual: Vec<T> = value(*step).iter().zip(target).map(|(y, t)| *y - *t).collect();
                    for (loss, r) in losses.iter_mut().zip(residual.chunks_exact(*count)) {
                        *loss += super::rules::square(r) / n as f64;
                    }
                    let scale = T::of(2.0 / (n * samples) as f64);
                    seeds.push((*step, residual.iter().map(|r| *r * scale).collect()));
                }
                Evaluated { losses, seeds, probabilities: Vec::new() }
            }
        }
    }

    /// The Hessian at the outputs times their tangents, for a batch of `samples`.
    pub fn second(
        &self,
        probabilities: &[T],
        tangents: &[Option<Vec<T>>],
        samples: usize,
    ) -> Vec<(usize, Vec<T>)> {
        match self {
            Self::Classes { step, rows, .. } => {
                let Some(dz) = &tangents[*step] else { return Vec::new() };
                let scale = T::of(1.0 / (samples * rows.rows()) as f64);
                let mut out = vec![T::ZERO; dz.len()];
                let samples = dz.chunks_exact(rows.count).zip(probabilities.chunks_exact(rows.count));
                for ((dz, p), out) in samples.zip(out.chunks_exact_mut(rows.count)) {
                    for row in 0..rows.rows() {
                        let mut mean = T::ZERO;
                        rows.row(row).for_each(|j| mean += p[j] * dz[j]);
                        rows.row(row).for_each(|j| out[j] = scale * p[j] * (dz[j] - mean));
                    }
                }
                vec![(*step, out)]
            }
            Self::Squares { outputs, .. } => {
                let n: usize = outputs.iter().map(|o| o.1).sum();
                let scale = T::of(2.0 / (n * samples) as f64);
                let product = |step: usize| {
                    tangents[step].as_ref().map(|d| (step, d.iter().map(|d| *d * scale).collect()))
                };
                outputs.iter().filter_map(|(step, _)| product(*step)).collect()
            }
        }
    }
}

fn outputs<T>(engine: &Engine<T>) -> Vec<(usize, usize)> {
    engine.outputs.iter().map(|o| (o.step, o.shape.count())).collect()
}

/// Step and rows of the logits.
fn logits<T: Real>(engine: &Engine<T>) -> Result<(usize, Rows)> {
    let [output] = &engine.outputs[..] else {
        bail!(
            "cross-entropy needs a network with one output, this one has {}; use the squared error",
            engine.outputs.len()
        )
    };
    let axis = usize::from(output.shape.rank() > 1);
    ensure!(output.shape.rank() > 0, "output {} is a scalar, not logits", output.name);
    match output.logits {
        Some((softmax, step)) => {
            ensure!(
                softmax == axis,
                "output {} is a softmax over axis {softmax}; cross-entropy takes classes along axis {axis}",
                output.name
            );
            Ok((step, Rows::of(&output.shape, axis)))
        }
        None => Ok((output.step, Rows::of(&output.shape, axis))),
    }
}
