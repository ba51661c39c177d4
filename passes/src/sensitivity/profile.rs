//! What is known about how much each layer's quantization costs: the result of a sensitivity run.
//!
//! Conventions. The loss is the mean over samples. A weight trace is that of the Hessian block of this loss; an
//! activation trace is the mean over samples of the trace of the Hessian of *one* sample's loss with respect to the
//! tensor of that sample (HAWQ-V2 §2.2). Both stand divided by the number of elements n ("average trace"), so that
//! ½·trace·‖error‖² approximates the rise of the loss in both cases.
use super::estimate::Estimate;
use std::collections::BTreeMap;

/// Version of the meaning of the fields; a file says which one it follows.
pub const VERSION: u32 = 1;

/// Width that stands for "left in float" in [`LayerProfile::measured`] and in questions about Omega.
pub const FLOAT: u8 = 32;

/// Sensitivity of every layer of one model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// Hash of the model file, in hexadecimal; empty where the profile was imported without one.
    pub model_sha256: String,
    /// How it was made.
    pub origin: Origin,
    /// Layers in execution order.
    pub layers: Vec<LayerProfile>,
    /// Spectral densities that were asked for, by layer.
    pub spectra: BTreeMap<String, Spectrum>,
    /// Loss, KL divergence and accuracy of the float network on the data of the measurements.
    pub baseline: Option<Measured>,
}

/// How a profile was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// What made it: `goshawk`, or the name given at import.
    pub tool: String,
    /// Hash of the tensors of all samples, in order.
    pub data_sha256: String,
    /// Number of samples.
    pub samples: u64,
    /// Loss, as the command takes it.
    pub loss: String,
    /// Calibration method of the activation errors.
    pub calibration: String,
    /// Seed of the probes.
    pub seed: u64,
    /// Everything else that decides the numbers, in words.
    pub settings: String,
}

/// One layer: a convolution, a linear layer or a product with a constant matrix.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerProfile {
    /// Name of the layer's node, as in bits files.
    pub name: String,
    /// Elements of the weight.
    pub parameters: u64,
    /// Multiply–accumulates of one sample.
    pub macs: u64,
    /// The tensor whose quantizer decides the activation bits: the one that the layer reads, behind pools and reshapes.
    /// Layers with the same `input` share activation bits.
    pub input: String,
    /// Elements of that tensor in one sample.
    pub input_elements: u64,
    /// Whether the Gauss–Newton block is the Hessian block: `None` if so, else why not.
    pub curved_by: Option<String>,
    /// Curvature along the weights, and quantization errors of the weights.
    pub weights: Curvature,
    /// The same for what the layer reads (this layer's reading only: a sum that reads the same tensor keeps its 16 bits).
    pub activations: Curvature,
    /// What the loss does when this layer alone is quantized, by (weight bits, activation bits); [`FLOAT`] leaves a side
    /// alone.
    pub measured: BTreeMap<(u8, u8), Measured>,
}

/// Second-order information on one tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curvature {
    /// Average trace of the Hessian block by Hutchinson's estimator (HAWQ-V2).
    pub hutchinson: Option<Estimate>,
    /// Average trace of the Gauss–Newton block by noise probes; equal to the Hessian's where
    /// [`LayerProfile::curved_by`] is `None`.
    pub gauss_newton: Option<Estimate>,
    /// Average squared per-sample gradient (trace of the empirical Fisher information, FIT).
    pub fisher: Option<Estimate>,
    /// Average trace of every output channel (weights) or channel (activations), from the same probes as the preferred
    /// trace (CW-HAWQ).
    pub channels: Vec<Estimate>,
    /// Relative standard error of the trace that the choice of samples makes: another set of as many samples would give
    /// a trace that differs by this. (The errors of the traces themselves are those of the probes, for these samples.)
    pub data_error: Option<f64>,
    /// Largest eigenvalues of the Hessian block, largest magnitude first (HAWQ).
    pub eigenvalues: Vec<Eigenvalue>,
    /// ‖Q_b(x) − x‖² by width b; for activations the mean over samples.
    pub errors: BTreeMap<u8, f64>,
    /// The same for every channel.
    pub channel_errors: BTreeMap<u8, Vec<f64>>,
}

/// An eigenvalue with what is left: ‖H v − λ v‖ for the unit vector v. An eigenvalue of H lies within `residual` of `value`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Eigenvalue {
    /// λ.
    pub value: f64,
    /// ‖H v − λ v‖.
    pub residual: f64,
    /// Hessian-vector products that it took.
    pub products: u64,
}

/// What quantizing does to the network's result.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// Rise of the mean loss, with the error that comes from the choice of samples.
    pub loss: Estimate,
    /// Mean Kullback–Leibler divergence from the float network's prediction; for losses without classes, the mean squared
    /// distance of the outputs.
    pub divergence: Estimate,
    /// Change of top-1 accuracy, −1 to 1, where there are labels.
    pub accuracy: Option<f64>,
}

/// Spectral density of a Hessian block: a discrete measure whose moments are those of the eigenvalues.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spectrum {
    /// Dimension of the block.
    pub dimension: u64,
    /// Steps of each Lanczos run.
    pub steps: u64,
    /// For every run, its nodes and weights (Ritz values and squared first components); the weights of a run add up to 1.
    pub runs: Vec<Vec<(f64, f64)>>,
}

impl Profile {
    /// The layer of that name.
    pub fn layer(&self, name: &str) -> Option<&LayerProfile> {
        self.layers.iter().find(|l| l.name == name)
    }
}

impl Curvature {
    /// The best trace there is. The Gauss–Newton estimate wins where it equals the Hessian (or is all there is): its
    /// error is an order of magnitude smaller at equal cost. With curvature behind the layer Hutchinson's is unbiased.
    pub fn trace(&self, curved: bool) -> Option<Estimate> {
        match curved {
            false => self.gauss_newton.or(self.hutchinson),
            true => self.hutchinson.or(self.gauss_newton),
        }
    }
}

impl LayerProfile {
    /// Whether the Gauss–Newton block is only an approximation of the Hessian block.
    pub const fn is_curved(&self) -> bool {
        self.curved_by.is_some()
    }

    /// The best average trace of the weights.
    pub fn weight_trace(&self) -> Option<Estimate> {
        self.weights.trace(self.is_curved())
    }

    /// The best average trace of the activations.
    pub fn activation_trace(&self) -> Option<Estimate> {
        self.activations.trace(self.is_curved())
    }
}
