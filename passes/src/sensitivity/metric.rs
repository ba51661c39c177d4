//! Omega: what a metric says about the cost of quantizing one layer to given widths, and the rankings built on it.
//!
//! | metric | Omega | source |
//! |---|---|---|
//! | trace | tr(H)/n · ‖Q(x) − x‖² | HAWQ-V2, eq. 2.11 (a *sum* of squares) |
//! | channel-trace | Σ_c tr(H_c)/n_c · ‖Q(x_c) − x_c‖² | after CW-HAWQ |
//! | eigenvalue | λ · ‖Q(x) − x‖² | HAWQ-V1 |
//! | fisher | tr(I)/n · ‖Q(x) − x‖² | FIT |
//! | error | ‖Q(x) − x‖² | no second-order information: the control |
//! | measured | rise of the loss with this layer alone quantized | the sanity baseline |
use super::{
    estimate::Estimate,
    profile::{Curvature, FLOAT, LayerProfile, Measured, Profile},
};
use goshawk_ir::{IrError, Result, bail};
use std::{fmt, str::FromStr};

/// What Omega is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Average trace, the better of the two estimates ([`Curvature::trace`]).
    Trace,
    /// Average Hessian trace by Hutchinson's estimator.
    Hutchinson,
    /// Average Gauss–Newton trace.
    GaussNewton,
    /// Channel by channel.
    ChannelTrace,
    /// Largest eigenvalue.
    Eigenvalue,
    /// Empirical Fisher information.
    Fisher,
    /// The quantization error alone.
    Error,
    /// Measured rise of the loss.
    Measured,
}

impl Metric {
    /// Every metric with its name.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::Trace, "trace"),
        (Self::Hutchinson, "hutchinson"),
        (Self::GaussNewton, "gauss-newton"),
        (Self::ChannelTrace, "channel-trace"),
        (Self::Eigenvalue, "eigenvalue"),
        (Self::Fisher, "fisher"),
        (Self::Error, "error"),
        (Self::Measured, "measured"),
    ];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(m, _)| *m == self).map_or("", |(_, name)| name)
    }
}

impl Default for Metric {
    /// The metric that agrees best with measured loss rises in docs/sensitivity.md.
    fn default() -> Self {
        Self::Trace
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Metric {
    type Err = IrError;

    fn from_str(text: &str) -> Result<Self> {
        match Self::ALL.iter().find(|(_, name)| *name == text) {
            Some((metric, _)) => Ok(*metric),
            None => {
                let names: Vec<_> = Self::ALL.iter().map(|(_, name)| *name).collect();
                bail!("unknown metric {text:?}: expected {}", names.join(", "))
            }
        }
    }
}

impl LayerProfile {
    /// What it costs to quantize this layer's weights and activations to these widths ([`FLOAT`] leaves a side in float), in
    /// units of twice the loss, except that `error` has its own unit. Weights and activations are added as if their
    /// errors were independent.
    ///
    /// # Errors
    /// The profile lacks what the metric needs; the error names the layer and what is missing.
    pub fn omega(&self, metric: Metric, weight_bits: u8, activation_bits: u8) -> Result<Estimate> {
        if metric == Metric::Measured {
            return self.measured_omega(weight_bits, activation_bits);
        }
        let weights = self.side(&self.weights, "weight", metric, weight_bits)?;
        let activations = self.side(&self.activations, "activation", metric, activation_bits)?;
        Ok(weights.plus(activations))
    }

    /// The measured rise of the loss, twice: comparable with Hᵢᵢ·δ². Where only each side alone was measured, their sum.
    fn measured_omega(&self, weights: u8, activations: u8) -> Result<Estimate> {
        let find = |w: u8, a: u8| match self.measured.get(&(w, a)) {
            _ if w == FLOAT && a == FLOAT => Some(Estimate::default()),
            Some(Measured { loss, .. }) => Some(loss.scaled(2.0)),
            None => None,
        };
        let sum = || Some(find(weights, FLOAT)?.plus(find(FLOAT, activations)?));
        match find(weights, activations).or_else(sum) {
            Some(estimate) => Ok(estimate),
            None => Err(self.lacks(&format!("a measurement at w{weights}a{activations}"))),
        }
    }

    fn side(&self, c: &Curvature, what: &str, metric: Metric, bits: u8) -> Result<Estimate> {
        if bits == FLOAT {
            return Ok(Estimate::default());
        }
        let error = || match c.errors.get(&bits) {
            Some(error) => Ok(*error),
            None => Err(self.lacks(&format!("the {what} error at {bits} bits"))),
        };
        let times = |trace: Option<Estimate>, name: &str| match trace {
            Some(trace) => Ok(trace.scaled(error()?)),
            None => Err(self.lacks(&format!("the {what} {name}"))),
        };
        match metric {
            Metric::Trace => times(c.trace(self.is_curved()), "trace"),
            Metric::Hutchinson => times(c.hutchinson, "trace by Hutchinson's estimator"),
            Metric::GaussNewton => times(c.gauss_newton, "Gauss–Newton trace"),
            Metric::Fisher => times(c.fisher, "Fisher information"),
            Metric::Eigenvalue => {
                let first = c
                    .eigenvalues
                    .first()
                    .map(|e| Estimate { std_error: e.residual, ..Estimate::exact(e.value) });
                times(first, "eigenvalue")
            }
            Metric::ChannelTrace => self.channel_sum(c, what, bits),
            Metric::Error => Ok(Estimate::exact(error()?)),
            Metric::Measured => bail!("measurements are not made of a curvature"),
        }
    }

    fn channel_sum(&self, c: &Curvature, what: &str, bits: u8) -> Result<Estimate> {
        match c.channel_errors.get(&bits) {
            Some(errors) if errors.len() == c.channels.len() && !errors.is_empty() => {
                let terms = errors.iter().zip(&c.channels).map(|(e, t)| t.scaled(*e));
                Ok(terms.fold(Estimate::default(), Estimate::plus))
            }
            _ => Err(self.lacks(&format!("the {what} traces or errors of its channels at {bits} bits"))),
        }
    }

    fn lacks(&self, what: &str) -> IrError {
        IrError::new(format!("the sensitivity profile lacks {what}")).at(&self.name)
    }
}

/// A layer with the number that it is ranked by.
pub type Ranked = (String, f64);

/// Descending; equal numbers keep the order of layers.
fn ranked(mut list: Vec<Ranked>) -> Vec<Ranked> {
    list.sort_by(|a, b| b.1.total_cmp(&a.1));
    list
}

impl Profile {
    /// HAWQ-V1's order for choosing bits: λ/n, most sensitive first. Layers without an eigenvalue are left out.
    pub fn bit_ranking(&self) -> Vec<Ranked> {
        let key = |l: &LayerProfile| Some(l.weights.eigenvalues.first()?.value / l.parameters.max(1) as f64);
        ranked(self.layers.iter().filter_map(|l| Some((l.name.clone(), key(l)?))).collect())
    }

    /// HAWQ-V1's order for fine-tuning: λ·‖Q(W) − W‖² at the widths that `bits` gives, largest first. (Not divided by
    /// n, unlike [`Profile::bit_ranking`].)
    pub fn fine_tuning_order(&self, bits: &dyn Fn(&str) -> u8) -> Vec<Ranked> {
        let key = |l: &LayerProfile| l.omega(Metric::Eigenvalue, bits(&l.name), FLOAT).ok().map(|e| e.mean);
        ranked(self.layers.iter().filter_map(|l| Some((l.name.clone(), key(l)?))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensitivity::profile::Eigenvalue;

    fn layer() -> LayerProfile {
        let side = |trace: f64, error: f64| Curvature {
            gauss_newton: Some(Estimate { mean: trace, std_error: 0.1 * trace, samples: 9 }),
            channels: vec![Estimate::exact(trace), Estimate::exact(3.0 * trace)],
            eigenvalues: vec![Eigenvalue { value: 10.0 * trace, residual: 0.0, products: 1 }],
            errors: [(4, error)].into(),
            channel_errors: [(4, vec![0.25 * error, 0.75 * error])].into(),
            ..Curvature::default()
        };
        LayerProfile {
            name: "conv".into(),
            parameters: 5,
            weights: side(2.0, 8.0),
            activations: side(3.0, 4.0),
            ..LayerProfile::default()
        }
    }

    #[test]
    fn omega_is_trace_times_squared_error_of_both_sides() {
        let l = layer();
        let e = l.omega(Metric::Trace, 4, 4).expect("all there");
        assert!((e.mean - 28.0).abs() < 1e-12 && (e.std_error - 1.6f64.hypot(1.2)).abs() < 1e-12);
        assert_eq!(l.omega(Metric::Trace, 4, FLOAT).expect("weights").mean, 16.0);
        assert_eq!(l.omega(Metric::Eigenvalue, FLOAT, 4).expect("activations").mean, 120.0);
        assert_eq!(l.omega(Metric::ChannelTrace, 4, FLOAT).expect("channels").mean, 2.0 * 2.0 + 6.0 * 6.0);
        assert_eq!(l.omega(Metric::Error, 4, 4).expect("errors").mean, 12.0);
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut l = layer();
        let reason = |r: Result<Estimate>| r.expect_err("missing").to_string();
        assert!(reason(l.omega(Metric::Trace, 3, 4)).contains("weight error at 3 bits"));
        assert!(reason(l.omega(Metric::Fisher, 4, 4)).contains("Fisher"));
        assert!(reason(l.omega(Metric::Measured, 4, 4)).contains("w4a4"));
        let rise = |loss| Measured { loss: Estimate::exact(loss), ..Measured::default() };
        l.measured = [((4, FLOAT), rise(1.0)), ((FLOAT, 4), rise(0.5))].into();
        assert_eq!(l.omega(Metric::Measured, 4, 4).expect("a sum").mean, 3.0);
        l.measured.insert((4, 4), rise(2.0));
        assert_eq!(l.omega(Metric::Measured, 4, 4).expect("measured together").mean, 4.0);
    }

    #[test]
    fn curvature_behind_the_layer_prefers_the_unbiased_estimate() {
        let mut l = layer();
        l.weights.hutchinson = Some(Estimate::exact(7.0));
        assert_eq!(l.weight_trace().expect("trace").mean, 2.0);
        l.curved_by = Some("sigmoid".into());
        assert_eq!(l.weight_trace().expect("trace").mean, 7.0);
    }

    #[test]
    fn the_two_rankings_differ_by_the_number_of_parameters() {
        let (small, mut large) = (layer(), layer());
        large.name = "large".into();
        large.parameters = 1000;
        large.weights.errors.insert(4, 80.0);
        let p = Profile { layers: vec![small, large], ..Profile::default() };
        assert_eq!(p.bit_ranking()[0].0, "conv");
        assert_eq!(p.fine_tuning_order(&|_| 4)[0], ("large".to_owned(), 1600.0));
        assert_eq!("eigenvalue".parse::<Metric>().ok(), Some(Metric::Eigenvalue));
        assert!("loss".parse::<Metric>().is_err());
    }
}
