//! Vectors in the space of weights and activations: gradients, directions and Hessian products.
use super::{Engine, Real};
use goshawk_ir::{Result, ensure};
use std::collections::BTreeMap;

/// A vector of which only the entries present count: absent ones are zero, or not asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parts<T> {
    /// By layer, row-major in the layer's shape.
    pub weights: BTreeMap<usize, Vec<T>>,
    /// By activation: the activation's elements for each sample, one sample after the other.
    pub activations: BTreeMap<usize, Vec<T>>,
}

impl<T: Real> Parts<T> {
    /// Nothing.
    pub const fn new() -> Self {
        Self { weights: BTreeMap::new(), activations: BTreeMap::new() }
    }

    /// Σ of products of the entries that both have.
    pub fn dot(&self, other: &Self) -> f64 {
        let sum = |a: &BTreeMap<usize, Vec<T>>, b: &BTreeMap<usize, Vec<T>>| -> f64 {
            a.iter().filter_map(|(i, a)| b.get(i).map(|b| dot(a, b))).sum()
        };
        sum(&self.weights, &other.weights) + sum(&self.activations, &other.activations)
    }

    /// Adds the entries of `other`.
    pub(super) fn add(&mut self, other: Self) {
        for (into, from) in [(&mut self.weights, other.weights), (&mut self.activations, other.activations)] {
            for (i, from) in from {
                match into.get_mut(&i) {
                    Some(sum) => sum.iter_mut().zip(from).for_each(|(s, v)| *s += v),
                    None => {
                        into.insert(i, from);
                    }
                }
            }
        }
    }

    /// Checks that every entry exists in the engine and has its length.
    pub(super) fn check(&self, engine: &Engine<T>, samples: usize) -> Result<()> {
        for (i, v) in &self.weights {
            let Some(layer) = engine.layers().get(*i) else {
                goshawk_ir::bail!("direction of layer {i}, but there are {} layers", engine.layers().len())
            };
            let count: usize = layer.shape.iter().product();
            ensure!(
                v.len() == count,
                "{}: a direction of {} values for {count} weights",
                layer.name,
                v.len()
            );
        }
        for (i, v) in &self.activations {
            let Some(a) = engine.activations().get(*i) else {
                goshawk_ir::bail!(
                    "direction of activation {i}, but there are {} activations",
                    engine.activations().len()
                )
            };
            let count = samples * a.shape.iter().product::<usize>();
            ensure!(v.len() == count, "{}: a direction of {} values for {count} elements", a.name, v.len());
        }
        Ok(())
    }
}

/// Σ a·b in f64.
pub fn dot<T: Real>(a: &[T], b: &[T]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a.f64() * b.f64()).sum()
}

/// Which entries of a product are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows<'a> {
    /// All layers' weights.
    Weights,
    /// All activations.
    Activations,
    /// Everything.
    All,
    /// Those that the direction has.
    Same,
    /// These layers and these activations.
    Of(&'a [usize], &'a [usize]),
}

/// Sources of derivatives, as flags.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// By layer.
    pub layers: Vec<bool>,
    /// By activation.
    pub activations: Vec<bool>,
}

impl Wanted {
    /// The entries that `rows` names.
    pub fn of<T: Real>(rows: Rows<'_>, direction: &Parts<T>, engine: &Engine<T>) -> Result<Self> {
        let (layers, activations) = (engine.layers().len(), engine.activations().len());
        let flags = |n: usize, set: &mut dyn Iterator<Item = usize>| -> Result<Vec<bool>> {
            let mut flags = vec![false; n];
            for i in set {
                ensure!(i < n, "entry {i} of {n} is wanted");
                flags[i] = true;
            }
            Ok(flags)
        };
        Ok(match rows {
            Rows::Weights => Self { layers: vec![true; layers], activations: vec![false; activations] },
            Rows::Activations => Self { layers: vec![false; layers], activations: vec![true; activations] },
            Rows::All => Self { layers: vec![true; layers], activations: vec![true; activations] },
            Rows::Same => Self {
                layers: flags(layers, &mut direction.weights.keys().copied())?,
                activations: flags(activations, &mut direction.activations.keys().copied())?,
            },
            Rows::Of(l, a) => Self {
                layers: flags(layers, &mut l.iter().copied())?,
                activations: flags(activations, &mut a.iter().copied())?,
            },
        })
    }
}
