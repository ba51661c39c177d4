//! Random probes on the gradient engine: from a linearised batch to traces of every layer, tensor and channel.
//!
//! * *Noise probes* (Gauss–Newton): one backward pass of s with E\[s·sᵀ\] = the loss Hessian at the outputs gives
//!   ‖Jᵀs‖², whose mean is tr(G) of every layer, activation and channel at once. Where the network behind a layer is
//!   piecewise linear, or the loss is stationary in the outputs, G is the Hessian block itself.
//! * *Global Hutchinson probes*: one Hessian-vector product with random signs v for all layers; v_lᵀ(Hv)_l has mean
//!   tr(H_l), with the blocks beside the diagonal as extra noise.
//! * *Per-layer Hutchinson probes* (HAWQ-V2): v is zero outside of the layer; more work, less noise.
//! * *Empirical Fisher* (FIT): squared gradients of the samples' own losses; no noise, but not the trace.
use super::{layers::Layer, sums::Draws};
use crate::gradient::{Engine, Linearisation, Noise, Parts, Real, Rows, Squares, Workers, random};
use goshawk_ir::Result;

/// What one quantity is the curvature of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Index among [`super::layers::all`].
    pub layer: usize,
    /// Weights, or the layer's reading of its operand.
    pub part: Part,
    /// Channels: output channels of weights, dimension 1 of activations.
    pub channels: usize,
    /// Elements (of one sample).
    pub elements: usize,
    /// Elements of a channel that lie together.
    plane: usize,
    /// Whether the Gauss–Newton block is the Hessian block for any loss.
    pub exact: bool,
}

/// Which of the engine's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Weights of an engine layer.
    Weights(usize),
    /// An engine activation.
    Activation(usize),
}

/// The slots of all layers that the engine differentiates: weights and operand of each. `engine` is of the
/// [tapped](super::layers::tapped) network, in which every layer reads a tensor of its own.
pub fn slots<T: Real>(engine: &Engine<T>, layers: &[Layer]) -> Vec<Slot> {
    let mut slots = Vec::new();
    for (i, layer) in layers.iter().enumerate() {
        let Some(l) = engine.layers().iter().position(|l| l.name == layer.name) else { continue };
        let own = &engine.layers()[l];
        slots.push(Slot {
            layer: i,
            part: Part::Weights(l),
            channels: own.shape.first().copied().unwrap_or(1),
            elements: own.shape.iter().product(),
            plane: own.shape.iter().skip(1).product(),
            exact: own.exact_block,
        });
        let Some(read) = engine.activations().get(own.activation) else { continue };
        slots.push(Slot {
            layer: i,
            part: Part::Activation(own.activation),
            channels: read.channels,
            elements: read.shape.iter().product(),
            plane: read.shape.iter().skip(2).product(),
            exact: read.exact_block,
        });
    }
    slots
}

impl Slot {
    /// Whether these are weights.
    pub const fn is_weights(&self) -> bool {
        matches!(self.part, Part::Weights(_))
    }

    /// Sums of a vector of this slot by channel.
    fn by_channel<T: Real>(&self, v: &[T], hv: &[T]) -> Vec<f64> {
        let mut sums = vec![0.0; self.channels];
        let plane = self.plane.max(1);
        for (i, (v, hv)) in v.chunks(plane).zip(hv.chunks(plane)).enumerate() {
            sums[i % self.channels] += v.iter().zip(hv).map(|(a, b)| a.f64() * b.f64()).sum::<f64>();
        }
        sums
    }

    /// Random signs for this slot, for a batch.
    fn signs<T: Real>(&self, seed: u64, samples: usize) -> Vec<T> {
        let (stream, count) = match self.part {
            Part::Weights(l) => (2 * l, self.elements),
            Part::Activation(a) => (2 * a + 1, samples * self.elements),
        };
        random::rademacher(seed, stream as u64, count)
    }
}

impl Part {
    fn put<T>(self, parts: &mut Parts<T>, values: Vec<T>) {
        match self {
            Self::Weights(l) => parts.weights.insert(l, values),
            Self::Activation(a) => parts.activations.insert(a, values),
        };
    }

    fn get<T>(self, parts: &Parts<T>) -> Option<&Vec<T>> {
        match self {
            Self::Weights(l) => parts.weights.get(&l),
            Self::Activation(a) => parts.activations.get(&a),
        }
    }
}

/// The seed of a probe: every (estimator, block, batch, round) has its own.
pub fn seed(master: u64, estimator: u64, block: u64, batch: u64, round: u64) -> u64 {
    random::hash(random::hash(master, estimator, block), batch, round)
}

/// Rounds of squared norms; `noise` gives the noise of each.
///
/// # Errors
/// As [`Linearisation::squares`].
pub fn squares<T: Real>(
    lin: &Linearisation<'_, T>,
    slots: &[Slot],
    rounds: u64,
    noise: &dyn Fn(u64) -> Noise,
    workers: &dyn Workers,
) -> Result<Draws> {
    let mut draws = Draws::new(slots.len());
    for round in 0..rounds {
        let Squares { weights, activations } = lin.squares(noise(round), workers)?;
        for (i, slot) in slots.iter().enumerate() {
            let own = match slot.part {
                Part::Weights(l) => &weights[l],
                Part::Activation(a) => &activations[a],
            };
            draws.push(i, own.mean.clone(), &own.samples);
        }
    }
    Ok(draws)
}

/// Rounds of global Hutchinson probes: one product for the weights of all layers and one for all activations (two, so that
/// neither is noise of the other).
///
/// # Errors
/// As [`Linearisation::hvp`].
pub fn global<T: Real>(
    lin: &Linearisation<'_, T>,
    slots: &[Slot],
    rounds: u64,
    seed: &dyn Fn(u64) -> u64,
    workers: &dyn Workers,
) -> Result<Draws> {
    let mut draws = Draws::new(slots.len());
    for round in 0..rounds {
        for weights in [true, false] {
            let of_kind = || slots.iter().enumerate().filter(move |(_, s)| s.is_weights() == weights);
            let mut direction = Parts::new();
            for (_, slot) in of_kind() {
                slot.part.put(&mut direction, slot.signs::<T>(seed(round), lin.samples()));
            }
            let product = lin.hvp(&direction, Rows::Same, workers)?;
            for (i, slot) in of_kind() {
                if let (Some(v), Some(hv)) = (slot.part.get(&direction), slot.part.get(&product)) {
                    draws.push(i, slot.by_channel(v, hv), &[]);
                }
            }
        }
    }
    Ok(draws)
}

/// Rounds of per-layer Hutchinson probes of the slots that are `wanted`.
///
/// # Errors
/// As [`Linearisation::hvp`].
pub fn per_layer<T: Real>(
    lin: &Linearisation<'_, T>,
    slots: &[Slot],
    rounds: u64,
    seed: &dyn Fn(u64) -> u64,
    wanted: &dyn Fn(usize) -> bool,
    workers: &dyn Workers,
) -> Result<Draws> {
    let mut draws = Draws::new(slots.len());
    for round in 0..rounds {
        for (i, slot) in slots.iter().enumerate().filter(|(i, _)| wanted(*i)) {
            let mut direction = Parts::new();
            slot.part.put(&mut direction, slot.signs::<T>(seed(round), lin.samples()));
            let product = lin.hvp(&direction, Rows::Same, workers)?;
            if let (Some(v), Some(hv)) = (slot.part.get(&direction), slot.part.get(&product)) {
                draws.push(i, slot.by_channel(v, hv), &[]);
            }
        }
    }
    Ok(draws)
}

/// Adds `share` times the product of this batch's Hessian block of a slot's weights with `v` to `sum`.
///
/// # Errors
/// As [`Linearisation::hvp`].
pub fn multiply<T: Real>(
    lin: &Linearisation<'_, T>,
    slot: &Slot,
    v: &[f64],
    share: f64,
    sum: &mut [f64],
    workers: &dyn Workers,
) -> Result<()> {
    let mut direction = Parts::new();
    slot.part.put(&mut direction, v.iter().map(|x| T::of(*x)).collect());
    let product = lin.hvp(&direction, Rows::Same, workers)?;
    if let Some(hv) = slot.part.get(&product) {
        sum.iter_mut().zip(hv).for_each(|(s, x)| *s += share * x.f64());
    }
    Ok(())
}
