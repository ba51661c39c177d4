//! A batch, linearised: loss, gradient, and products with the Hessian.
use super::{
    Engine, Loss, Noise, Parts, Real, Rows, Squares, Workers, loss::Objective, parts::Wanted,
    reverse::Gradients, second::Direction, squares::Squaring, tape::Tape, workers::fold,
};
use goshawk_ir::{Result, Tensor, bail, ensure};
use std::ops::Range;

/// What a linearisation keeps for later products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keep {
    /// Loss and gradient only.
    Nothing,
    /// Values: squares are possible.
    Values,
    /// Values and gradients: Hessian products too.
    Everything,
}

/// Chunks of a batch at least, where it is large enough.
const CHUNKS: usize = 4;

/// A network at a batch.
pub struct Linearisation<'e, T> {
    engine: &'e Engine<T>,
    objective: Objective<T>,
    tapes: Vec<Tape<T>>,
    keep: Keep,
    samples: usize,
    /// The loss of the batch.
    pub loss: f64,
    /// The losses of the samples, whose mean is the loss.
    pub losses: Vec<f64>,
    /// Gradient of the loss in every layer's weights and every activation.
    pub gradients: Parts<T>,
    outputs: Vec<Vec<T>>,
}

impl<T: Real> Engine<T> {
    /// Runs a batch forward and backward. Each sample is one tensor for each network input.
    ///
    /// # Errors
    /// Samples, labels or targets do not fit the network, or the loss or a gradient is not finite.
    pub fn linearise(
        &self,
        samples: &[Vec<Tensor>],
        loss: &Loss<'_>,
        keep: Keep,
        workers: &dyn Workers,
    ) -> Result<Linearisation<'_, T>> {
        ensure!(!samples.is_empty(), "a batch needs a sample");
        let count = samples.len();
        let objective = Objective::new(self, loss, count)?;
        let wanted = Wanted::of(Rows::All, &Parts::new(), self)?;
        let depends = self.depends(&wanted);
        let chunks = self.chunks(count);
        let run = |chunk: usize| -> Result<(Tape<T>, Vec<f64>, Parts<T>)> {
            let mut tape = self.forward(samples, chunks[chunk].clone(), &objective)?;
            let evaluated = objective.evaluate(&tape.values, tape.range.clone(), count);
            tape.probabilities = evaluated.probabilities;
            self.release(&mut tape);
            let mut gradients = Gradients { samples: tape.samples(), parts: Parts::new() };
            let mut kept = vec![None; self.steps.len()];
            let store = (keep == Keep::Everything).then_some(&mut kept[..]);
            self.backward(&tape, evaluated.seeds, &wanted, &depends, &mut gradients, store);
            tape.gradients = kept;
            if keep == Keep::Nothing {
                tape.values.clear();
                tape.chosen.clear();
            }
            Ok((tape, evaluated.losses, gradients.parts))
        };
        let start: Result<Total<T>> =
            Ok(Total { tapes: Vec::new(), losses: Vec::new(), gradients: Parts::new() });
        let total = fold(workers, chunks.len(), start, run, |total, result| {
            let joined = std::mem::replace(total, Ok(Total::default())).and_then(|mut sum| {
                let (tape, losses, mut parts) = result?;
                sum.append(self, &tape, &mut parts);
                sum.gradients.add(parts);
                sum.losses.extend(losses);
                sum.tapes.push(tape);
                Ok(sum)
            });
            *total = joined;
        })?;
        if let Some(i) = total.losses.iter().position(|l| !l.is_finite()) {
            bail!("the loss of sample {i} is {}", total.losses[i]);
        }
        let mut linearisation = Linearisation {
            engine: self,
            objective,
            keep,
            samples: count,
            loss: total.losses.iter().sum::<f64>() / count as f64,
            losses: total.losses,
            gradients: total.gradients,
            outputs: Vec::new(),
            tapes: total.tapes,
        };
        linearisation.outputs = linearisation.tapes.iter().flat_map(|t| t.outputs.iter().cloned()).collect();
        linearisation.fill_zeros(&wanted);
        for (i, gradient) in &linearisation.gradients.weights {
            ensure!(
                gradient.iter().all(|g| g.finite()),
                "{}: the gradient is not finite",
                self.layers()[*i].name
            );
        }
        Ok(linearisation)
    }

    /// Fixed chunks of a batch. A chunk's activations should outweigh the weights that it passes through, and its sums.
    fn chunks(&self, samples: usize) -> Vec<Range<usize>> {
        let weights: usize = self.layers().iter().map(|l| l.shape.iter().product::<usize>()).sum();
        let values: usize = self.steps.iter().map(|s| s.count).sum();
        let size = (4 * weights).div_ceil(values).clamp(1, samples.div_ceil(CHUNKS));
        (0..samples).step_by(size).map(|start| start..samples.min(start + size)).collect()
    }

    /// Bytes that a linearisation of so many samples holds until it is dropped, without its gradients in the weights.
    pub fn memory(&self, samples: usize, keep: Keep) -> usize {
        let sum = |used: &dyn Fn(&super::engine::Step<T>) -> bool| -> usize {
            self.steps.iter().filter(|s| used(s)).map(|s| s.count).sum()
        };
        let elements = match keep {
            Keep::Nothing => 0,
            Keep::Values => sum(&|s| s.kept),
            Keep::Everything => sum(&|s| s.kept) + sum(&|s| s.keeps_gradient),
        };
        let activations: usize = self.activations().iter().map(|a| a.shape.iter().product::<usize>()).sum();
        (elements + activations) * samples * size_of::<T>()
    }
}

/// Joined results of chunks.
struct Total<T> {
    tapes: Vec<Tape<T>>,
    losses: Vec<f64>,
    gradients: Parts<T>,
}

impl<T> Default for Total<T> {
    fn default() -> Self {
        Self {
            tapes: Vec::new(),
            losses: Vec::new(),
            gradients: Parts { weights: Default::default(), activations: Default::default() },
        }
    }
}

impl<T: Real> Total<T> {
    /// Moves the activations of the next chunk behind those of the chunks before.
    fn append(&mut self, engine: &Engine<T>, tape: &Tape<T>, parts: &mut Parts<T>) {
        append(engine, &mut self.gradients, tape, parts);
    }
}

/// Activations of chunks follow each other, where weights add up. An entry that earlier chunks lack is zero there.
fn append<T: Real>(engine: &Engine<T>, total: &mut Parts<T>, tape: &Tape<T>, parts: &mut Parts<T>) {
    for (i, values) in std::mem::take(&mut parts.activations) {
        let count: usize = engine.activations()[i].shape.iter().product();
        let entry = total.activations.entry(i).or_default();
        entry.resize(tape.range.start * count, T::ZERO);
        entry.extend(values);
    }
}

impl<T: Real> Linearisation<'_, T> {
    /// Number of samples.
    pub const fn samples(&self) -> usize {
        self.samples
    }

    /// For each sample what the loss reads: logits, or all outputs one after the other.
    pub fn outputs(&self) -> &[Vec<T>] {
        &self.outputs
    }

    /// Bytes held for later products.
    pub fn bytes(&self) -> usize {
        self.tapes.iter().map(Tape::bytes).sum()
    }

    /// Wanted entries that no gradient reached are zero.
    fn fill_zeros(&mut self, wanted: &Wanted) {
        let mut gradients = std::mem::take(&mut self.gradients);
        self.complete(&mut gradients, wanted);
        self.gradients = gradients;
    }

    fn complete(&self, parts: &mut Parts<T>, wanted: &Wanted) {
        for (i, layer) in self.engine.layers().iter().enumerate().filter(|(i, _)| wanted.layers[*i]) {
            parts.weights.entry(i).or_insert_with(|| vec![T::ZERO; layer.shape.iter().product()]);
        }
        for (i, a) in self.engine.activations().iter().enumerate().filter(|(i, _)| wanted.activations[*i]) {
            let count = self.samples * a.shape.iter().product::<usize>();
            parts.activations.entry(i).or_default().resize(count, T::ZERO);
        }
    }

    /// The wanted rows of the Hessian of the batch's loss times a direction. Since the loss is a mean, vᵀ·H·v of a
    /// direction in an activation of the whole batch is the mean over the samples of that product.
    ///
    /// # Errors
    /// The direction does not fit the network, or the linearisation did not keep everything.
    pub fn hvp(&self, direction: &Parts<T>, rows: Rows<'_>, workers: &dyn Workers) -> Result<Parts<T>> {
        ensure!(self.keep == Keep::Everything, "Hessian products need a linearisation that keeps everything");
        direction.check(self.engine, self.samples)?;
        let wanted = Wanted::of(rows, direction, self.engine)?;
        let depends = self.engine.depends(&wanted);
        let prepared = Direction::new(self.engine, direction);
        let run = |chunk: usize| {
            let tape = &self.tapes[chunk];
            self.engine.product(tape, &self.objective, self.samples, &prepared, &wanted, &depends)
        };
        let start = (Parts::new(), 0);
        let (mut product, _) = fold(workers, self.tapes.len(), start, run, |(total, next), mut parts| {
            append(self.engine, total, &self.tapes[*next], &mut parts);
            total.add(parts);
            *next += 1;
        });
        self.complete(&mut product, &wanted);
        Ok(product)
    }

    /// Squared norms of the samples' backpropagated noise, for every layer, activation and channel.
    ///
    /// # Errors
    /// The linearisation keeps nothing, or the noise does not go with the loss.
    pub fn squares(&self, noise: Noise, workers: &dyn Workers) -> Result<Squares> {
        ensure!(self.keep >= Keep::Values, "squares need a linearisation that keeps values");
        self.objective.check(noise)?;
        let wanted = Wanted::of(Rows::All, &Parts::new(), self.engine)?;
        let depends = self.engine.depends(&wanted);
        let run = |chunk: usize| {
            let tape = &self.tapes[chunk];
            let mut sums = Squaring::new(self.engine, tape.samples());
            for pass in 0..self.objective.passes(noise) {
                let seeds = self.objective.noise(tape, noise, pass, self.samples);
                self.engine.backward(tape, seeds, &wanted, &depends, &mut sums, None);
            }
            sums.finish()
        };
        let start = Squares::empty(self.engine);
        Ok(fold(workers, self.tapes.len(), start, run, |total, next| total.join(&next)))
    }
}
