//! How times of layers alone become the time of the network.
//!
//! Networks of uniform and of mixed widths are measured as a whole, and two numbers are fitted to them: where between warm
//! and cold a layer is inside the network, and what the network does besides its layers.
use super::{
    facts::LayerFacts,
    measure::everywhere,
    table::{ModelTable, Time, Whole},
};
use goshawk_passes::bits::{BitPlan, LayerBits};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Networks of mixed widths that share and base are fitted to, besides the uniform ones.
pub(super) const MIXED: usize = 4;

/// A plan with any of the widths for each layer, the same activation bits for all that read one tensor.
pub(super) fn mixed(layers: &BTreeMap<String, LayerFacts>, widths: &[LayerBits], seed: u64) -> BitPlan {
    let any = |text: &str, count: usize| {
        let digest = Sha256::digest(format!("{seed} {text}"));
        digest.iter().fold(0, |n, byte| (n * 256 + usize::from(*byte)) % count)
    };
    let bits = |(name, facts): (&String, &LayerFacts)| {
        let activations = widths[any(&facts.reads, widths.len())].activations;
        let candidates: Vec<LayerBits> =
            widths.iter().copied().filter(|b| b.activations == activations).collect();
        (name.clone(), candidates[any(name, candidates.len())])
    };
    BitPlan { layers: layers.iter().map(bits).collect(), ..everywhere(widths[0]) }
}

/// Finds the share of coldness and the base that explain the whole networks best: for each share the base that makes the
/// sum of the squared relative errors smallest, and of the shares the one where that sum is smallest.
pub(super) fn fit(layers: &[Vec<Time>], measured: &[(String, f64)]) -> ModelTable {
    let mut best: Option<(f64, ModelTable)> = None;
    for step in 0..=20 {
        let cold_share = f64::from(step) / 20.0;
        let sums: Vec<f64> =
            layers.iter().map(|times| times.iter().map(|t| t.blended(cold_share)).sum()).collect();
        let weights: f64 = measured.iter().map(|(_, m)| 1.0 / (m * m)).sum();
        let left: f64 = measured.iter().zip(&sums).map(|((_, m), s)| (m - s) / (m * m)).sum();
        let base_us = left / weights.max(f64::MIN_POSITIVE);
        let wholes: Vec<Whole> = measured
            .iter()
            .zip(&sums)
            .map(|((bits, m), s)| Whole { bits: bits.clone(), measured_us: *m, predicted_us: s + base_us })
            .collect();
        let error: f64 = wholes.iter().map(|w| (w.predicted_us / w.measured_us - 1.0).powi(2)).sum();
        if best.as_ref().is_none_or(|(e, _)| error < *e) {
            best = Some((error, ModelTable { cold_share, base_us, wholes }));
        }
    }
    best.map(|(_, t)| t).unwrap_or_default()
}

/// The widths of a layer in such a plan.
pub(super) fn bits(plan: &BitPlan, layer: &str) -> LayerBits {
    plan.layers.get(layer).copied().unwrap_or(plan.default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_and_base_are_found_again() {
        let time = |warm_us: f64, cold_us: f64| Time {
            warm_us,
            cold_us,
            spread: 0.0,
            macs: 1,
            weight_bytes: 1,
            activation_bytes: 1,
            weight_bits: 8,
            activation_bits: 8,
            depthwise: false,
        };
        let layers = [vec![time(10.0, 30.0), time(5.0, 6.0)], vec![time(8.0, 12.0), time(4.0, 4.5)]];
        let whole = |times: &[Time]| 7.0 + times.iter().map(|t| t.blended(0.35)).sum::<f64>();
        let measured: Vec<_> = layers.iter().map(|l| ("w".to_owned(), whole(l))).collect();
        let fitted = fit(&layers, &measured);
        assert!((fitted.cold_share - 0.35).abs() < 1e-9 && (fitted.base_us - 7.0).abs() < 1e-9, "{fitted:?}");
    }
}
