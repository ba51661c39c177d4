//! What a sensitivity run computes, and how.
use crate::{Code, Error, Result};
use goshawk_passes::{
    calibrate::Method,
    sensitivity::{FLOAT, krylov},
};
use std::{collections::BTreeSet, fmt, str::FromStr};

/// A kind of number that a run can produce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Estimator {
    /// ‖Q_b(x) − x‖² of weights and activations.
    Errors,
    /// Gauss–Newton traces by noise probes, or exactly.
    GaussNewton,
    /// Empirical Fisher information.
    Fisher,
    /// Hutchinson traces.
    Hutchinson,
    /// Largest eigenvalues.
    Eigenvalues,
    /// One layer quantized at a time.
    Measured,
}

impl Estimator {
    /// Every estimator with its name.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Errors, "errors"),
        (Self::GaussNewton, "gauss-newton"),
        (Self::Fisher, "fisher"),
        (Self::Hutchinson, "hutchinson"),
        (Self::Eigenvalues, "eigenvalues"),
        (Self::Measured, "measured"),
    ];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(e, _)| *e == self).map_or("", |(_, n)| n)
    }
}

impl FromStr for Estimator {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let names = || Self::ALL.map(|(_, n)| n).join(", ");
        let found = Self::ALL.iter().find(|(_, n)| *n == text);
        found.map(|(e, _)| *e).ok_or_else(|| format!("expected {}", names()))
    }
}

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Cross-entropy of the labels.
    Labels,
    /// Cross-entropy against the network's own prediction: no labels needed.
    Own,
    /// Mean squared error against targets.
    Mse,
    /// Mean squared error against the network's own outputs.
    OwnMse,
}

impl Loss {
    const NAMES: [(Self, &'static str); 4] =
        [(Self::Labels, "labels"), (Self::Own, "own"), (Self::Mse, "mse"), (Self::OwnMse, "own-mse")];

    /// Whether the gradient at the outputs is 0, so that the Gauss–Newton matrix is the Hessian for any network.
    pub const fn is_stationary(self) -> bool {
        matches!(self, Self::Own | Self::OwnMse)
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES.iter().find(|(l, _)| l == self).map_or("", |(_, n)| n))
    }
}

impl FromStr for Loss {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let found = Self::NAMES.iter().find(|(_, n)| *n == text);
        found.map(|(l, _)| *l).ok_or_else(|| "expected labels, own, mse or own-mse".into())
    }
}

/// Whether Gauss–Newton traces are computed by one backward pass for each class instead of random probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exact {
    /// Where there are at most [`EXACT_CLASSES`] classes.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Up to so many classes one pass for each costs no more than probes to 5 %.
pub const EXACT_CLASSES: usize = 16;

/// Everything that decides a run's numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What to compute.
    pub estimators: BTreeSet<Estimator>,
    /// Loss.
    pub loss: Loss,
    /// Widths for which errors are computed.
    pub widths: BTreeSet<u8>,
    /// Relative standard error at which trace probes stop, for every layer.
    pub tolerance: f64,
    /// Probes at most.
    pub max_probes: u64,
    /// Whether Gauss–Newton traces are exact.
    pub exact: Exact,
    /// Hutchinson probes of one layer at a time instead of all at once.
    pub per_layer: bool,
    /// Number of eigenvalues for each layer.
    pub top: usize,
    /// How they are found.
    pub eigen_method: krylov::Method,
    /// Their relative error.
    pub eigen_tolerance: f64,
    /// Products at most.
    pub eigen_products: usize,
    /// Samples for eigenvalues and spectra: they take a product of the whole Hessian block in every step.
    pub eigen_samples: usize,
    /// Pairs of widths at which layers are measured, [`FLOAT`] for a side that stays.
    pub measure: Vec<(u8, u8)>,
    /// Layers whose spectral density is wanted.
    pub spectra: Vec<String>,
    /// Lanczos steps of a spectrum.
    pub spectrum_steps: usize,
    /// Start vectors of a spectrum.
    pub spectrum_runs: usize,
    /// How activation ranges are chosen.
    pub calibration: Method,
    /// Samples that are differentiated at once; `None` for as many as fit into `memory`, 128 at most.
    pub batch: Option<usize>,
    /// Bytes that linearised batches may take.
    pub memory: usize,
    /// Seed.
    pub seed: u64,
}

impl Settings {
    /// Checks that the numbers make sense.
    ///
    /// # Errors
    /// [`Code::DATA`] naming the option.
    pub fn check(&self) -> Result<()> {
        let bad = |what: String| Err(Error::new(Code::DATA, what));
        if !(self.tolerance > 0.0 && self.eigen_tolerance > 0.0) {
            return bad("tolerances are larger than 0".into());
        }
        let widths = self.measure.iter().flat_map(|(w, a)| [*w, *a]).filter(|b| *b != FLOAT);
        if let Some(b) = self.widths.iter().copied().chain(widths).find(|b| !(2..=8).contains(b)) {
            return bad(format!("widths are 2 to 8 bits, got {b}"));
        }
        let counts = [
            ("--max-probes", self.max_probes as usize),
            ("--top", self.top),
            ("--eigen-products", self.eigen_products),
            ("--eigen-samples", self.eigen_samples),
            ("--batch", self.batch.unwrap_or(1)),
            ("--spectrum-steps", self.spectrum_steps),
            ("--spectrum-runs", self.spectrum_runs),
        ];
        match counts.iter().find(|(_, n)| *n == 0) {
            Some((name, _)) => bad(format!("{name} is at least 1")),
            None => Ok(()),
        }
    }

    /// The settings in words: two runs with the same words, model and data give the same numbers.
    pub fn words(&self, batch: usize) -> String {
        let names: Vec<_> = self.estimators.iter().map(|e| e.name()).collect();
        format!(
            "estimators {}; loss {}; widths {:?}; tolerance {}; max-probes {}; exact {:?}; per-layer {}; top {}; \
             eigen {:?} {} {} {}; measure {:?}; spectra {:?} {} {}; calibration {}; batch {batch}; seed {}",
            names.join(","),
            self.loss,
            self.widths,
            self.tolerance,
            self.max_probes,
            self.exact,
            self.per_layer,
            self.top,
            self.eigen_method,
            self.eigen_tolerance,
            self.eigen_products,
            self.eigen_samples,
            self.measure,
            self.spectra,
            self.spectrum_steps,
            self.spectrum_runs,
            self.calibration,
            self.seed,
        )
    }
}
