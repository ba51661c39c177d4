//! Hessian-vector products of a chunk by the R-operator: tangents of values forward, tangents of gradients backward.
//!
//! A tangent or gradient that is zero is absent, so a direction in one layer costs only the steps behind it, and a row of
//! one layer only those in front.
use super::{
    Engine, Real,
    engine::{Source, Step, needs},
    loss::Objective,
    parts::{Parts, Wanted},
    reverse::{Gradients, accumulate, distribute},
    rules::Prepared,
    tape::{Tape, mask},
};
use std::collections::BTreeMap;

/// A direction in the form that the sweeps read.
pub(super) struct Direction<'a, T> {
    pub parts: &'a Parts<T>,
    /// Weights of convolutions as the forward sum reads them.
    packed: BTreeMap<usize, Vec<T>>,
    /// Weights of convolutions as the input gradient reads them.
    transposed: BTreeMap<usize, Vec<T>>,
}

impl<'a, T: Real> Direction<'a, T> {
    pub fn new(engine: &Engine<T>, parts: &'a Parts<T>) -> Self {
        let (mut packed, mut transposed) = (BTreeMap::new(), BTreeMap::new());
        for step in &engine.steps {
            if let (Prepared::Convolution(c, _), Some(l)) = (&step.rules, step.layer)
                && let Some(w) = parts.weights.get(&l)
            {
                packed.insert(l, c.packed(w));
                transposed.insert(l, c.transposed(w));
            }
        }
        Self { parts, packed, transposed }
    }

    fn forward_weights(&self, layer: Option<usize>) -> Option<&[T]> {
        let layer = layer?;
        self.packed.get(&layer).or_else(|| self.parts.weights.get(&layer)).map(Vec::as_slice)
    }

    fn backward_weights(&self, layer: Option<usize>) -> Option<&[T]> {
        let layer = layer?;
        self.transposed.get(&layer).or_else(|| self.parts.weights.get(&layer)).map(Vec::as_slice)
    }

    /// Whether a tangent starts here.
    fn starts_at(&self, step: &Step<T>) -> bool {
        step.layer.is_some_and(|l| self.parts.weights.contains_key(&l))
            || step.activation.is_some_and(|a| self.parts.activations.contains_key(&a))
    }
}

/// The tangent of an operand.
fn tangent<T>(source: Source, tangents: &[Option<Vec<T>>]) -> Option<&[T]> {
    match source {
        Source::Step(i) => tangents[i].as_deref(),
        Source::Constant(_) => None,
    }
}

impl<T: Real> Engine<T> {
    /// The wanted rows of the chunk's Hessian (of the loss of a batch of `batch` samples) times the direction.
    pub(super) fn product(
        &self,
        tape: &Tape<T>,
        loss: &Objective<T>,
        batch: usize,
        direction: &Direction<'_, T>,
        wanted: &Wanted,
        depends: &[bool],
    ) -> Parts<T> {
        let mut tangents = self.tangents(tape, loss, direction);
        let mut gradients: Vec<Option<Vec<T>>> = vec![None; self.steps.len()];
        for (step, seed) in loss.second(&tape.probabilities, &tangents, batch) {
            accumulate(&mut gradients[step], seed);
        }
        let samples = tape.samples();
        let mut out = Gradients { samples, parts: Parts::new() };
        for (i, step) in self.steps.iter().enumerate().rev() {
            // Readers come later, so nobody reads this tangent any more.
            tangents[i] = None;
            let mut dgy = gradients[i].take();
            if let (Some(a), Some(d)) = (step.activation.filter(|a| wanted.activations[*a]), &dgy) {
                out.parts.activations.insert(a, d.clone());
            }
            let need = needs(step, depends);
            let layer = step.layer.filter(|l| wanted.layers[*l]);
            let gy = tape.gradients[i].as_deref();
            if (layer.is_none() && !need.contains(&true)) || (dgy.is_none() && gy.is_none()) {
                continue;
            }
            if let Some(d) = &mut dgy {
                mask(step.clamp(), tape.values[i].as_ref(), d);
            }
            let dgy = dgy.as_deref();
            if let Some(l) = layer {
                let x = self.value(step.operands[0], &tape.values);
                let dx = tangent(step.operands[0], &tangents);
                let pairs = both(dgy.zip(x), gy.zip(dx));
                match &step.rules {
                    Prepared::Convolution(c, _) if !pairs.is_empty() => {
                        c.weight_gradient(samples, &pairs, out.weights(l, c.weights()));
                    }
                    Prepared::Linear(a, _) if !pairs.is_empty() => {
                        a.weight_gradient(samples, &pairs, out.weights(l, a.inputs * a.outputs));
                    }
                    _ => {}
                }
            }
            if !need.contains(&true) {
                continue;
            }
            match (&step.rules, step.layer) {
                (Prepared::Leaf, _) => {}
                (Prepared::Convolution(..) | Prepared::Linear(..), layer) => {
                    let w = layer.map(|l| self.backward_weights(l));
                    let pairs = both(dgy.zip(w), gy.zip(direction.backward_weights(layer)));
                    if pairs.is_empty() {
                        continue;
                    }
                    let found = match &step.rules {
                        Prepared::Convolution(c, _) => c.input_gradient(samples, &pairs),
                        Prepared::Linear(a, _) => a.input_gradient(samples, &pairs),
                        Prepared::Leaf | Prepared::Rule(..) => continue,
                    };
                    distribute(step, vec![Some(found)], &need, &mut gradients);
                }
                (Prepared::Rule(rule, _), _) => {
                    let at = self.point(step, i, samples, &tape.values, &tape.chosen[i]);
                    if let Some(d) = dgy {
                        distribute(step, rule.vjp(&at, d, &need), &need, &mut gradients);
                    }
                    if let Some(gy) = gy.filter(|_| rule.has_second()) {
                        let dx: Vec<Option<&[T]>> =
                            step.operands.iter().map(|s| tangent(*s, &tangents)).collect();
                        if dx.iter().any(Option::is_some) {
                            distribute(step, rule.second(&at, &dx, gy, &need), &need, &mut gradients);
                        }
                    }
                }
            }
        }
        out.parts
    }

    /// Tangents of the values that the loss or second-order rules read.
    fn tangents(
        &self,
        tape: &Tape<T>,
        loss: &Objective<T>,
        direction: &Direction<'_, T>,
    ) -> Vec<Option<Vec<T>>> {
        let samples = tape.samples();
        let read_by_loss = loss.steps();
        let kept =
            |i: usize| (self.steps[i].keeps_tangent && !loss.is_stationary()) || read_by_loss.contains(&i);
        let mut tangents: Vec<Option<Vec<T>>> = vec![None; self.steps.len()];
        for (i, step) in self.steps.iter().enumerate() {
            let dx: Vec<Option<&[T]>> = step.operands.iter().map(|s| tangent(*s, &tangents)).collect();
            let moves = dx.iter().any(Option::is_some);
            if moves || direction.starts_at(step) {
                let dw = direction.forward_weights(step.layer);
                let mut dy = match &step.rules {
                    Prepared::Leaf => None,
                    Prepared::Convolution(..) | Prepared::Linear(..) => {
                        let x = self.value(step.operands[0], &tape.values);
                        let w = step.layer.map(|l| self.forward_weights(l));
                        let pairs = both(dx[0].zip(w), x.zip(dw));
                        match &step.rules {
                            Prepared::Convolution(c, _) if !pairs.is_empty() => {
                                Some(c.forward(samples, &pairs, None))
                            }
                            Prepared::Linear(a, _) if !pairs.is_empty() => {
                                Some(a.forward(samples, &pairs, None))
                            }
                            _ => None,
                        }
                    }
                    Prepared::Rule(rule, _) if moves => {
                        rule.jvp(&self.point(step, i, samples, &tape.values, &tape.chosen[i]), &dx)
                    }
                    Prepared::Rule(..) => None,
                };
                if let Some(d) = &mut dy {
                    mask(step.clamp(), tape.values[i].as_ref(), d);
                }
                if let Some(d) = step.activation.and_then(|a| direction.parts.activations.get(&a)) {
                    let own = &d[tape.range.start * step.count..tape.range.end * step.count];
                    accumulate(&mut dy, own.to_vec());
                }
                tangents[i] = dy;
            }
            for source in &step.operands {
                if let Source::Step(x) = source
                    && self.steps[*x].last_reader == i
                    && !kept(*x)
                {
                    tangents[*x] = None;
                }
            }
        }
        tangents
    }
}

/// The terms that are there.
fn both<T: Copy>(a: Option<T>, b: Option<T>) -> Vec<T> {
    a.into_iter().chain(b).collect()
}
