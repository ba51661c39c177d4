//! What layers cost at given widths: bytes, bit operations, energy, and latency measured on the target.
//!
//! [`facts`] describes the layers of a model, [`measure`] times each of their variants alone on the machine at hand and fits how they add up,
//! [`table`] keeps the times in a file that can be moved to where the allocation is made, [`roofline`] stands in where a
//! variant was never measured, [`energy`] is a model with documented coefficients.
mod bench;
mod blend;
pub mod energy;
pub mod facts;
pub mod measure;
pub mod roofline;
pub(crate) mod runner;
pub mod table;
mod variant;

use crate::Result;
use facts::LayerFacts;
use goshawk_passes::{allocate::Metric, bits::LayerBits};
use table::{CpuTable, ModelTable};

/// Names and units of the metrics of [`Costs::of`], in order. The arena is not among them: it does not add up over
/// layers, so it is checked on the lowered network.
pub fn metrics() -> Vec<Metric> {
    [("size", "bytes"), ("bops", "bit operations"), ("energy", "J"), ("latency", "s")]
        .map(|(name, unit)| Metric::new(name, unit))
        .to_vec()
}

/// Everything that costs are computed from.
#[derive(Clone, Debug)]
pub struct Costs<'a> {
    /// Layers by name.
    pub facts: &'a std::collections::BTreeMap<String, LayerFacts>,
    /// Energy coefficients.
    pub energy: energy::Coefficients,
    /// Measured times of the target, if there are any.
    pub cpu: Option<&'a CpuTable>,
    /// How times of layers became times of this network, if that was measured.
    pub blend: Option<&'a ModelTable>,
    /// Stands in where a time is missing.
    pub roofline: roofline::Roofline,
}

impl Costs<'_> {
    /// Size, bit operations, energy and latency of a layer at these widths.
    ///
    /// # Errors
    /// The layer is unknown.
    pub fn of(&self, layer: &str, bits: LayerBits) -> Result<Vec<f64>> {
        let facts = self.facts.get(layer).ok_or_else(|| facts::unknown(layer))?;
        Ok(vec![
            facts.bytes(bits.weights) as f64,
            facts.bops(bits),
            self.energy.joules(facts, bits),
            self.latency(facts, bits).0,
        ])
    }

    /// Seconds, and whether they were measured.
    pub fn latency(&self, facts: &LayerFacts, bits: LayerBits) -> (f64, bool) {
        let measured = self.cpu.and_then(|cpu| cpu.layers.get(&facts.key(bits)));
        match measured {
            Some(time) => (time.blended(self.blend.map_or(0.0, |b| b.cold_share)) * 1e-6, true),
            None => (self.roofline.seconds(facts, bits), false),
        }
    }

    /// What the network has of each metric besides its layers.
    pub fn base(&self) -> Vec<f64> {
        let constants: u64 = self.facts.values().map(|f| f.constant_bytes()).sum();
        vec![constants as f64, 0.0, 0.0, self.blend.map_or(0.0, |b| b.base_us * 1e-6)]
    }
}
