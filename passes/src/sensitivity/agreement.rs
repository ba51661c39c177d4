//! How well each metric orders the layers, judged by what quantizing one layer alone did to the loss.
use super::{
    metric::Metric,
    profile::{LayerProfile, Profile},
    rank,
};

/// Rank correlation of one metric with the measurements at one pair of widths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// The metric.
    pub metric: Metric,
    /// (Weight bits, activation bits).
    pub bits: (u8, u8),
    /// Layers compared.
    pub layers: usize,
    /// Spearman's ρ with the rise of the loss.
    pub spearman: f64,
    /// Kendall's τ with the rise of the loss.
    pub kendall: f64,
    /// Spearman's ρ with the divergence from the float network, which has less noise.
    pub divergence: f64,
    /// Pearson's r of the logarithms of Omega and divergence, where all are positive: whether the metric gets the
    /// sizes right, not just the order.
    pub log_pearson: Option<f64>,
}

/// For every pair of widths that was measured in at least three layers, and every metric that those layers have.
pub fn agreements(profile: &Profile) -> Vec<Agreement> {
    let mut pairs: Vec<(u8, u8)> = profile.layers.iter().flat_map(|l| l.measured.keys().copied()).collect();
    pairs.sort_unstable();
    pairs.dedup();
    let mut all = Vec::new();
    for bits in pairs {
        let metrics = Metric::ALL.iter().map(|(m, _)| *m).filter(|m| *m != Metric::Measured);
        all.extend(metrics.filter_map(|metric| agreement(&profile.layers, metric, bits)));
    }
    all
}

fn agreement(layers: &[LayerProfile], metric: Metric, bits: (u8, u8)) -> Option<Agreement> {
    let (mut omega, mut loss, mut divergence) = (Vec::new(), Vec::new(), Vec::new());
    for layer in layers {
        if let (Some(m), Ok(e)) = (layer.measured.get(&bits), layer.omega(metric, bits.0, bits.1)) {
            omega.push(e.mean);
            loss.push(m.loss.mean);
            divergence.push(m.divergence.mean);
        }
    }
    let logs = |v: &[f64]| v.iter().map(|x| x.ln()).collect::<Vec<_>>();
    let positive = omega.iter().chain(&divergence).all(|x| *x > 0.0);
    (omega.len() >= 3).then_some(())?;
    Some(Agreement {
        metric,
        bits,
        layers: omega.len(),
        spearman: rank::spearman(&omega, &loss)?,
        kendall: rank::kendall(&omega, &loss)?,
        divergence: rank::spearman(&omega, &divergence)?,
        log_pearson: if positive { rank::pearson(&logs(&omega), &logs(&divergence)) } else { None },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensitivity::{Curvature, Estimate, FLOAT, Measured};

    #[test]
    fn a_metric_that_knows_the_order_scores_one() {
        let layer = |i: u32| {
            let x = f64::from(i);
            let weights = Curvature {
                gauss_newton: Some(Estimate::exact(x)),
                fisher: Some(Estimate::exact(-x)),
                errors: [(4, 1.0)].into(),
                ..Curvature::default()
            };
            let m = Measured { loss: Estimate::exact(x * x), divergence: Estimate::exact(x), accuracy: None };
            LayerProfile { weights, measured: [((4, FLOAT), m)].into(), ..LayerProfile::default() }
        };
        let profile = Profile { layers: (1..6).map(layer).collect(), ..Profile::default() };
        let all = agreements(&profile);
        let of = |m| all.iter().find(|a| a.metric == m);
        let trace = of(Metric::Trace).expect("there");
        assert_eq!((trace.spearman, trace.kendall, trace.layers, trace.bits), (1.0, 1.0, 5, (4, FLOAT)));
        assert!((trace.log_pearson.expect("positive") - 1.0).abs() < 1e-12);
        let fisher = of(Metric::Fisher).expect("there");
        assert_eq!((fisher.spearman, fisher.log_pearson), (-1.0, None));
        assert!(of(Metric::Error).is_none(), "constant");
        assert!(of(Metric::Hutchinson).is_none(), "missing");
    }
}
