//! Two profiles of one model become one.
//!
//! On the same data (another seed, or other metrics) estimates of one quantity are independent and pool by 1/variance. On
//! other data they are means over other samples and join by numbers of samples. What only one of them has is kept.
use super::{
    estimate::Estimate,
    profile::{Curvature, Eigenvalue, LayerProfile, Measured, Profile, VERSION},
};
use goshawk_ir::{IrError, Result, bail, ensure};
use std::collections::BTreeMap;

/// How numbers of the two profiles are put together.
#[derive(Clone, Copy)]
struct Join {
    same_data: bool,
    /// Numbers of samples.
    samples: (f64, f64),
}

impl Join {
    fn estimate(self, a: Estimate, b: Estimate) -> Estimate {
        // The same number twice (same data, same seed) is no second opinion.
        match self.same_data {
            true if a == b => a,
            true => a.pooled(b),
            false => a.joined(b, self.samples),
        }
    }

    fn number(self, a: f64, b: f64) -> f64 {
        let (na, nb) = self.samples;
        if self.same_data { a } else { (na * a + nb * b) / (na + nb) }
    }

    fn optional(self, a: Option<Estimate>, b: Option<Estimate>) -> Option<Estimate> {
        match (a, b) {
            (Some(a), Some(b)) => Some(self.estimate(a, b)),
            (a, b) => a.or(b),
        }
    }

    fn estimates(self, a: Vec<Estimate>, b: Vec<Estimate>) -> Result<Vec<Estimate>> {
        if a.is_empty() || b.is_empty() {
            return Ok(if a.is_empty() { b } else { a });
        }
        ensure!(a.len() == b.len(), "{} and {} channels", a.len(), b.len());
        Ok(a.into_iter().zip(b).map(|(a, b)| self.estimate(a, b)).collect())
    }

    /// Eigenvalues do not average: the profile with more samples wins, on the same data the smaller residual.
    fn eigenvalues(self, a: Vec<Eigenvalue>, b: Vec<Eigenvalue>) -> Vec<Eigenvalue> {
        let first = |e: &[Eigenvalue]| e.first().map_or(f64::INFINITY, |e| e.residual);
        let take_a = match self.same_data {
            true => (b.len(), first(&a)) <= (a.len(), first(&b)),
            false => self.samples.0 >= self.samples.1,
        };
        if b.is_empty() || !a.is_empty() && take_a { a } else { b }
    }

    fn measured(self, a: Measured, b: Measured) -> Measured {
        if self.same_data {
            return a;
        }
        Measured {
            loss: self.estimate(a.loss, b.loss),
            divergence: self.estimate(a.divergence, b.divergence),
            accuracy: match (a.accuracy, b.accuracy) {
                (Some(a), Some(b)) => Some(self.number(a, b)),
                (a, b) => a.or(b),
            },
        }
    }

    fn curvature(self, a: Curvature, b: Curvature) -> Result<Curvature> {
        let channels =
            |a: Vec<f64>, b: Vec<f64>| a.into_iter().zip(b).map(|(a, b)| self.number(a, b)).collect();
        Ok(Curvature {
            hutchinson: self.optional(a.hutchinson, b.hutchinson),
            gauss_newton: self.optional(a.gauss_newton, b.gauss_newton),
            fisher: self.optional(a.fisher, b.fisher),
            channels: self.estimates(a.channels, b.channels)?,
            data_error: match (a.data_error, b.data_error) {
                (Some(x), Some(y)) if !self.same_data => {
                    let (na, nb) = self.samples;
                    Some((na * x).hypot(nb * y) / (na + nb))
                }
                (x, y) => x.or(y),
            },
            eigenvalues: self.eigenvalues(a.eigenvalues, b.eigenvalues),
            errors: union(a.errors, b.errors, |a, b| self.number(a, b)),
            channel_errors: union(a.channel_errors, b.channel_errors, channels),
        })
    }

    fn layer(self, a: LayerProfile, b: LayerProfile) -> Result<LayerProfile> {
        let name = a.name.clone();
        let larger = |a: u64, b: u64| -> Result<u64> {
            ensure!(a == b || a == 0 || b == 0, "{a} against {b} elements or operations");
            Ok(a.max(b))
        };
        let merged = || -> Result<LayerProfile> {
            Ok(LayerProfile {
                parameters: larger(a.parameters, b.parameters)?,
                macs: larger(a.macs, b.macs)?,
                input_elements: larger(a.input_elements, b.input_elements)?,
                name: a.name,
                input: if a.input.is_empty() { b.input } else { a.input },
                curved_by: a.curved_by.or(b.curved_by),
                weights: self.curvature(a.weights, b.weights)?,
                activations: self.curvature(a.activations, b.activations)?,
                measured: union(a.measured, b.measured, |a, b| self.measured(a, b)),
            })
        };
        merged().map_err(|e| e.at(name))
    }
}

fn union<K: Ord, V>(a: BTreeMap<K, V>, mut b: BTreeMap<K, V>, join: impl Fn(V, V) -> V) -> BTreeMap<K, V> {
    let mut all: BTreeMap<K, V> = BTreeMap::new();
    for (key, value) in a {
        let joined = match b.remove(&key) {
            Some(other) => join(value, other),
            None => value,
        };
        all.insert(key, joined);
    }
    all.extend(b);
    all
}

impl Profile {
    /// Puts two profiles together.
    ///
    /// # Errors
    /// They are of different models, losses or versions, or have different layers.
    pub fn merge(self, other: Self) -> Result<Self> {
        let different = |what: &str, a: &str, b: &str| {
            IrError::new(format!("profiles of different {what} do not merge: {a:?} and {b:?}"))
        };
        let differ = |a: &str, b: &str| !a.is_empty() && !b.is_empty() && a != b;
        if differ(&self.model_sha256, &other.model_sha256) {
            return Err(different("models", &self.model_sha256, &other.model_sha256));
        }
        if differ(&self.origin.loss, &other.origin.loss) {
            return Err(different("losses", &self.origin.loss, &other.origin.loss));
        }
        ensure!(
            self.version == other.version,
            "versions {} and {} do not merge",
            self.version,
            other.version
        );
        let known = !self.origin.data_sha256.is_empty();
        let join = Join {
            same_data: known && self.origin.data_sha256 == other.origin.data_sha256,
            samples: (self.origin.samples.max(1) as f64, other.origin.samples.max(1) as f64),
        };
        let mut theirs: BTreeMap<String, LayerProfile> =
            other.layers.into_iter().map(|l| (l.name.clone(), l)).collect();
        let mut layers = Vec::new();
        for layer in self.layers {
            layers.push(match theirs.remove(&layer.name) {
                Some(b) => join.layer(layer, b)?,
                None => layer,
            });
        }
        if let Some(name) = theirs.into_keys().next() {
            bail!("the first profile has no layer {name}");
        }
        let mut origin = self.origin;
        if !join.same_data {
            origin.samples += other.origin.samples;
            // The union of two sets has no hash of its own: neither profile is "the same data" any more.
            origin.data_sha256 = format!("{}+{}", origin.data_sha256, other.origin.data_sha256);
        }
        if origin.tool != other.origin.tool {
            origin.tool = format!("{}+{}", origin.tool, other.origin.tool);
        }
        Ok(Self {
            version: VERSION,
            model_sha256: if self.model_sha256.is_empty() { other.model_sha256 } else { self.model_sha256 },
            origin,
            layers,
            spectra: union(self.spectra, other.spectra, |a, _| a),
            baseline: match (self.baseline, other.baseline) {
                (Some(a), Some(b)) => Some(join.measured(a, b)),
                (a, b) => a.or(b),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensitivity::profile::Origin;

    fn profile(data: &str, samples: u64, trace: Estimate) -> Profile {
        let weights =
            Curvature { gauss_newton: Some(trace), errors: [(4, 2.0)].into(), ..Curvature::default() };
        Profile {
            version: VERSION,
            model_sha256: "m".into(),
            origin: Origin { data_sha256: data.into(), samples, loss: "own".into(), ..Origin::default() },
            layers: vec![LayerProfile { name: "a".into(), weights, ..LayerProfile::default() }],
            ..Profile::default()
        }
    }

    fn trace(p: &Profile) -> Estimate {
        p.layers[0].weight_trace().expect("a trace")
    }

    #[test]
    fn the_same_data_pools_by_variance_and_other_data_joins_by_samples() {
        let (a, b) = (
            Estimate { mean: 1.0, std_error: 0.1, samples: 8 },
            Estimate { mean: 2.0, std_error: 0.2, samples: 8 },
        );
        let same = profile("d", 100, a).merge(profile("d", 100, b)).expect("merges");
        assert!((trace(&same).mean - 1.2).abs() < 1e-12 && same.origin.samples == 100);
        let other = profile("d", 100, a).merge(profile("e", 300, b)).expect("merges");
        assert!((trace(&other).mean - 1.75).abs() < 1e-12 && other.origin.samples == 400);
        let twice = profile("d", 100, a).merge(profile("d", 100, a)).expect("merges");
        assert_eq!(trace(&twice), a, "the same run twice is one run");
    }

    #[test]
    fn what_one_lacks_comes_from_the_other() {
        let mut b = profile("d", 100, Estimate::exact(1.0));
        b.layers[0].weights = Curvature { fisher: Some(Estimate::exact(3.0)), ..Curvature::default() };
        b.layers[0].measured.insert((4, 32), Measured::default());
        let m = profile("d", 100, Estimate::exact(1.0)).merge(b).expect("merges");
        let l = &m.layers[0];
        assert_eq!((l.weights.fisher.map(|e| e.mean), l.weights.errors[&4]), (Some(3.0), 2.0));
        assert_eq!(l.measured.len(), 1);
    }

    #[test]
    fn strangers_are_refused() {
        let p = || profile("d", 100, Estimate::exact(1.0));
        let mut model = p();
        model.model_sha256 = "n".into();
        assert!(p().merge(model).expect_err("models").to_string().contains("models"));
        let mut loss = p();
        loss.origin.loss = "labels".into();
        assert!(p().merge(loss).expect_err("losses").to_string().contains("losses"));
        let mut layer = p();
        layer.layers[0].name = "b".into();
        assert!(p().merge(layer).expect_err("layers").to_string().contains("layer b"));
        let mut size = p();
        size.layers[0].parameters = 5;
        let mut own = p();
        own.layers[0].parameters = 6;
        assert!(own.merge(size).is_err());
    }
}
