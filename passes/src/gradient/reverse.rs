//! The backward sweep.
use super::{
    Engine, Real,
    engine::{Source, Step, needs},
    parts::{Parts, Wanted},
    rules::Prepared,
    tape::{Tape, mask},
};

/// What is done with the gradients that arrive at layers and activations.
pub(super) trait Sink<T> {
    /// At the layer's output, before its bias and activation function, with the layer's operand.
    fn layer(&mut self, layer: usize, step: &Step<T>, gy: &[T], x: &[T]);
    /// At the activation's value.
    fn activation(&mut self, activation: usize, step: &Step<T>, gradient: &[T]);
}

impl<T: Real> Engine<T> {
    /// Carries gradients from the `seeds` at output steps to the wanted sources. Puts those that
    /// second-order rules read into `store`.
    pub(super) fn backward(
        &self,
        tape: &Tape<T>,
        seeds: Vec<(usize, Vec<T>)>,
        wanted: &Wanted,
        depends: &[bool],
        sink: &mut dyn Sink<T>,
        mut store: Option<&mut [Option<Vec<T>>]>,
    ) {
        let samples = tape.samples();
        let mut gradients: Vec<Option<Vec<T>>> = vec![None; self.steps.len()];
        for (step, seed) in seeds {
            accumulate(&mut gradients[step], seed);
        }
        for (i, step) in self.steps.iter().enumerate().rev() {
            let Some(mut gy) = gradients[i].take() else { continue };
            if let Some(a) = step.activation.filter(|a| wanted.activations[*a]) {
                sink.activation(a, step, &gy);
            }
            let need = needs(step, depends);
            let layer = step.layer.filter(|l| wanted.layers[*l]);
            if layer.is_none() && !need.contains(&true) {
                continue;
            }
            mask(step.clamp(), tape.values[i].as_ref(), &mut gy);
            if let Some(l) = layer {
                let x = self.value(step.operands[0], &tape.values).expect("layers keep their operand");
                sink.layer(l, step, &gy, x);
            }
            if need.contains(&true) {
                let found = match (&step.rules, step.layer) {
                    (Prepared::Convolution(c, _), Some(l)) => {
                        vec![Some(c.input_gradient(samples, &[(&gy, self.backward_weights(l))]))]
                    }
                    (Prepared::Linear(a, _), Some(l)) => {
                        vec![Some(a.input_gradient(samples, &[(&gy, self.backward_weights(l))]))]
                    }
                    (Prepared::Rule(rule, _), _) => {
                        let at = self.point(step, i, samples, &tape.values, &tape.chosen[i]);
                        rule.vjp(&at, &gy, &need)
                    }
                    _ => Vec::new(),
                };
                distribute(step, found, &need, &mut gradients);
            }
            if let Some(store) = store.as_deref_mut().filter(|_| step.keeps_gradient) {
                store[i] = Some(gy);
            }
        }
    }
}

/// Adds the gradients found for a step's operands.
pub(super) fn distribute<T: Real>(
    step: &Step<T>,
    found: Vec<Option<Vec<T>>>,
    need: &[bool],
    gradients: &mut [Option<Vec<T>>],
) {
    for ((source, found), need) in step.operands.iter().zip(found).zip(need) {
        if let (Source::Step(x), Some(found), true) = (source, found, need) {
            accumulate(&mut gradients[*x], found);
        }
    }
}

/// Adds to a sum that may be empty.
pub(super) fn accumulate<T: Real>(sum: &mut Option<Vec<T>>, term: Vec<T>) {
    match sum {
        Some(sum) => sum.iter_mut().zip(term).for_each(|(s, t)| *s += t),
        None => *sum = Some(term),
    }
}

/// Gradients of a chunk.
pub(super) struct Gradients<T> {
    pub samples: usize,
    pub parts: Parts<T>,
}

impl<T: Real> Gradients<T> {
    /// The entry of a layer, zero at first.
    pub fn weights(&mut self, layer: usize, count: usize) -> &mut [T] {
        self.parts.weights.entry(layer).or_insert_with(|| vec![T::ZERO; count])
    }
}

impl<T: Real> Sink<T> for Gradients<T> {
    fn layer(&mut self, layer: usize, step: &Step<T>, gy: &[T], x: &[T]) {
        let samples = self.samples;
        match &step.rules {
            Prepared::Convolution(c, _) => {
                c.weight_gradient(samples, &[(gy, x)], self.weights(layer, c.weights()));
            }
            Prepared::Linear(a, _) => {
                a.weight_gradient(samples, &[(gy, x)], self.weights(layer, a.inputs * a.outputs));
            }
            Prepared::Leaf | Prepared::Rule(..) => {}
        }
    }
    fn activation(&mut self, activation: usize, _: &Step<T>, gradient: &[T]) {
        self.parts.activations.insert(activation, gradient.to_vec());
    }
}
