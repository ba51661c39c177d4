//! Latency where nothing was measured: a roofline with additive terms, fitted to what was.
//!
//! time = call + MACs / speed + weight bytes / bandwidth + activation bytes / bandwidth, all coefficients at least 0, one
//! set for each kind of layer and pair of widths that has enough measurements (depthwise layers have kernels of their own,
//! narrow weights must be unpacked), else for the kind, else for all. Relative errors are minimised, so that small layers
//! count as much as large ones; the worst and average error of the fit are part of it.
use super::{
    facts::LayerFacts,
    table::{CpuTable, Time},
};
use goshawk_passes::bits::LayerBits;
use serde::Serialize;
use std::collections::BTreeMap;

/// Number of coefficients.
const TERMS: usize = 4;
/// Fewest measurements that a set of coefficients is fitted to.
const ENOUGH: usize = 6;

/// Which measurements a set of coefficients is for: depthwise, and widths; `None` for all.
type Kind = (Option<bool>, Option<(u8, u8)>);

/// A set of coefficients in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Fit {
    /// For each call, MAC, byte of weights, byte of activations.
    pub terms: [f64; TERMS],
    /// Measurements it was fitted to; 0 for assumptions.
    pub measurements: usize,
    /// Average of |fit / measured − 1|.
    pub mean_error: f64,
    /// Largest |fit / measured − 1|.
    pub worst_error: f64,
}

/// The model of one target.
#[derive(Clone, Debug, PartialEq)]
pub struct Roofline {
    fits: BTreeMap<Kind, Fit>,
    assumed: Fit,
}

impl Roofline {
    /// Fits the measured times of a target; without any, a core of moderate speed is assumed (8 GMAC/s, 10 GB/s, 1 µs a
    /// layer): its milliseconds mean little, but large layers are still dearer than small ones.
    pub fn new(cpu: Option<&CpuTable>) -> Self {
        let assumed = Fit {
            terms: [1.0, 1.0 / 8e3, 1.0 / 10e3, 1.0 / 10e3],
            measurements: 0,
            mean_error: f64::INFINITY,
            worst_error: f64::INFINITY,
        };
        let mut sets: BTreeMap<Kind, Vec<&Time>> = BTreeMap::new();
        for time in cpu.iter().flat_map(|c| c.layers.values()) {
            let widths = (time.weight_bits, time.activation_bits);
            for kind in [(Some(time.depthwise), Some(widths)), (Some(time.depthwise), None), (None, None)] {
                sets.entry(kind).or_default().push(time);
            }
        }
        let fits = sets
            .into_iter()
            .filter(|(kind, times)| times.len() >= ENOUGH || *kind == (None, None))
            .map(|(kind, times)| (kind, fit(&times)))
            .collect();
        Self { fits, assumed }
    }

    /// The coefficients that apply to such a layer.
    pub fn fit(&self, depthwise: bool, bits: LayerBits) -> &Fit {
        let widths = Some((bits.weights, bits.activations));
        [(Some(depthwise), widths), (Some(depthwise), None), (None, None)]
            .iter()
            .find_map(|kind| self.fits.get(kind))
            .unwrap_or(&self.assumed)
    }

    /// Seconds of a layer.
    pub fn seconds(&self, layer: &LayerFacts, bits: LayerBits) -> f64 {
        let activations = layer.input + layer.output_bytes;
        let features = features(layer.macs, layer.bytes(bits.weights), activations);
        let terms = self.fit(layer.depthwise, bits).terms;
        features.iter().zip(terms).map(|(f, t)| f * t).sum::<f64>() * 1e-6
    }
}

fn features(macs: u64, weights: u64, activations: u64) -> [f64; TERMS] {
    [1.0, macs as f64, weights as f64, activations as f64]
}

/// Least squares of relative errors with coefficients of at least 0, by coordinate descent on the normal equations.
fn fit(times: &[&Time]) -> Fit {
    let rows: Vec<[f64; TERMS]> = times
        .iter()
        .map(|t| {
            let time = t.warm_us.max(1e-3);
            features(t.macs, t.weight_bytes, t.activation_bytes).map(|f| f / time)
        })
        .collect();
    // Columns of length 1 make one step size fit all.
    let mut scale = [0.0f64; TERMS];
    for row in &rows {
        (0..TERMS).for_each(|j| scale[j] += row[j] * row[j]);
    }
    let scale = scale.map(|s| s.sqrt().max(f64::MIN_POSITIVE));
    let mut gram = [[0.0; TERMS]; TERMS];
    let mut right = [0.0; TERMS];
    for row in &rows {
        for i in 0..TERMS {
            right[i] += row[i] / scale[i];
            (0..TERMS).for_each(|j| gram[i][j] += row[i] / scale[i] * row[j] / scale[j]);
        }
    }
    let mut x = [0.0f64; TERMS];
    for _ in 0..20_000 {
        let mut change: f64 = 0.0;
        for i in 0..TERMS {
            let gradient = right[i] - (0..TERMS).map(|j| gram[i][j] * x[j]).sum::<f64>();
            let next = (x[i] + gradient / gram[i][i].max(f64::MIN_POSITIVE)).max(0.0);
            change = change.max((next - x[i]).abs());
            x[i] = next;
        }
        if change < 1e-12 {
            break;
        }
    }
    let terms: [f64; TERMS] = std::array::from_fn(|i| x[i] / scale[i]);
    let errors: Vec<f64> =
        rows.iter().map(|row| (row.iter().zip(terms).map(|(f, t)| f * t).sum::<f64>() - 1.0).abs()).collect();
    Fit {
        terms,
        measurements: times.len(),
        mean_error: errors.iter().sum::<f64>() / errors.len().max(1) as f64,
        worst_error: errors.iter().copied().fold(0.0, f64::max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_is_a_roofline_is_found_again() {
        let truth = [2.0, 1e-4, 3e-4, 2e-4];
        let mut layers = BTreeMap::new();
        for (i, macs) in [1e5, 1e6, 5e6, 3e5, 7e6, 2e6, 4e5, 9e5].into_iter().enumerate() {
            let (weights, activations) = (500 * (i as u64 * 7 % 5 + 1), 900 * (i as u64 * 3 % 7 + 1));
            let f = features(macs as u64, weights, activations);
            let warm_us = f.iter().zip(truth).map(|(f, t)| f * t).sum();
            let time = Time {
                warm_us,
                cold_us: warm_us,
                spread: 0.0,
                macs: macs as u64,
                weight_bytes: weights,
                activation_bytes: activations,
                weight_bits: 8,
                activation_bits: 8,
                depthwise: false,
            };
            layers.insert(i.to_string(), time);
        }
        let cpu = CpuTable { layers, ..CpuTable::default() };
        let model = Roofline::new(Some(&cpu));
        let fit = model.fit(false, LayerBits::W8A8);
        assert!(fit.worst_error < 1e-3 && fit.measurements == 8, "{fit:?}");
        // Other widths and kinds fall back to what there is.
        assert_eq!(model.fit(true, LayerBits { weights: 4, activations: 4 }), fit);
        assert_eq!(Roofline::new(None).fit(true, LayerBits::W8A8).measurements, 0);
    }
}
