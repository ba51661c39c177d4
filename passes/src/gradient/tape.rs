//! The forward sweep over a chunk of samples.
use super::{
    Engine, Real,
    loss::Objective,
    rules::{Prepared, unary::inside},
};
use goshawk_ir::{Result, Tensor, ensure, op::float::Clamp};
use std::ops::Range;

/// What a chunk keeps of its forward and backward sweeps.
pub(super) struct Tape<T> {
    /// The samples of the batch.
    pub range: Range<usize>,
    /// By step.
    pub values: Vec<Option<Vec<T>>>,
    /// Choices of maxima, by step.
    pub chosen: Vec<Vec<u32>>,
    /// Gradients that second-order rules read, by step.
    pub gradients: Vec<Option<Vec<T>>>,
    /// Softmax of the logits.
    pub probabilities: Vec<T>,
    /// All outputs of the loss, sample by sample.
    pub outputs: Vec<Vec<T>>,
}

impl<T> Tape<T> {
    /// Samples of the chunk.
    pub fn samples(&self) -> usize {
        self.range.len()
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        let reals: usize = self.values.iter().chain(&self.gradients).flatten().map(Vec::len).sum();
        let outputs: usize = self.outputs.iter().map(Vec::len).sum();
        let chosen: usize = self.chosen.iter().map(Vec::len).sum();
        (reals + outputs + self.probabilities.len()) * size_of::<T>() + chosen * size_of::<u32>()
    }
}

/// Limits values in place.
pub(super) fn clamp<T: Real>(clamp: Option<Clamp>, values: &mut [T]) {
    if let Some(c) = clamp {
        let (lo, hi) = (T::of(f64::from(c.lo)), T::of(f64::from(c.hi)));
        // NaN stays.
        for v in values {
            *v = if *v < lo { lo } else { *v };
            *v = if *v > hi { hi } else { *v };
        }
    }
}

/// Zeroes tangents or gradients where the clamped result `y` does not move.
pub(super) fn mask<T: Real>(clamp: Option<Clamp>, y: Option<&Vec<T>>, values: &mut [T]) {
    if let (Some(c), Some(y)) = (clamp, y) {
        for (v, y) in values.iter_mut().zip(y) {
            *v = if inside(c, *y) { *v } else { T::ZERO };
        }
    }
}

impl<T: Real> Engine<T> {
    /// Runs the samples `range`, keeping what derivative rules and the loss read.
    pub(super) fn forward(
        &self,
        samples: &[Vec<Tensor>],
        range: Range<usize>,
        loss: &Objective<T>,
    ) -> Result<Tape<T>> {
        let count = range.len();
        let mut values: Vec<Option<Vec<T>>> = vec![None; self.steps.len()];
        let mut chosen = vec![Vec::new(); self.steps.len()];
        let read_by_loss = loss.steps();
        for (i, step) in self.steps.iter().enumerate() {
            let value = match (&step.rules, step.input) {
                (_, Some(port)) => self.gather(samples, range.clone(), port)?,
                (Prepared::Leaf, None) => Vec::new(),
                (rules, None) => {
                    let x: Vec<&[T]> = step
                        .operands
                        .iter()
                        .map(|s| self.value(*s, &values).expect("freed after the last reader only"))
                        .collect();
                    let mut value = match (rules, step.layer) {
                        (Prepared::Convolution(c, _), Some(l)) => {
                            c.forward(count, &[(x[0], self.forward_weights(l))], self.bias(l))
                        }
                        (Prepared::Linear(a, _), Some(l)) => a.forward(count, &[(x[0], x[1])], self.bias(l)),
                        (Prepared::Rule(rule, _), _) => {
                            let forward = rule.forward(count, &x);
                            chosen[i] = forward.chosen;
                            forward.value
                        }
                        _ => Vec::new(),
                    };
                    clamp(step.clamp(), &mut value);
                    value
                }
            };
            values[i] = Some(value);
            for source in &step.operands {
                if let super::engine::Source::Step(x) = source
                    && self.steps[*x].last_reader == i
                    && !self.steps[*x].kept
                    && !read_by_loss.contains(x)
                {
                    values[*x] = None;
                }
            }
        }
        let mut outputs = vec![Vec::new(); count];
        for step in read_by_loss {
            let all = values[step].as_deref().unwrap_or(&[]);
            for (o, v) in outputs.iter_mut().zip(all.chunks_exact(self.steps[step].count)) {
                o.extend_from_slice(v);
            }
        }
        Ok(Tape {
            range,
            values,
            chosen,
            gradients: vec![None; self.steps.len()],
            probabilities: Vec::new(),
            outputs,
        })
    }

    /// The tensors of one network input.
    fn gather(&self, samples: &[Vec<Tensor>], range: Range<usize>, port: usize) -> Result<Vec<T>> {
        let (name, shape) = &self.inputs[port];
        let mut out = Vec::with_capacity(range.len() * shape.count());
        for i in range {
            ensure!(
                samples[i].len() == self.inputs.len(),
                "sample {i} has {} tensors for {} network inputs",
                samples[i].len(),
                self.inputs.len()
            );
            let tensor = &samples[i][port];
            ensure!(
                tensor.shape() == shape,
                "sample {i}: input {name} has shape {}, the network takes {shape}",
                tensor.shape()
            );
            out.extend(tensor.as_f32()?.iter().map(|v| T::of(f64::from(*v))));
        }
        Ok(out)
    }

    /// Drops values that only the loss read.
    pub(super) fn release(&self, tape: &mut Tape<T>) {
        for (step, value) in self.steps.iter().zip(&mut tape.values) {
            if !step.kept {
                *value = None;
            }
        }
    }
}
