//! Sensitivity: how much the loss of a network depends on the precision of each layer.
//!
//! Second-order information from the gradient engine (`crate::gradient`), after HAWQ (top eigenvalues), HAWQ-V2 (average traces of
//! weights and activations), CW-HAWQ (traces of channels) and FIT (empirical Fisher information); the errors of this
//! project's own quantizers; and what the loss really does when one layer alone is quantized. [`Profile`] holds it all;
//! [`LayerProfile::omega`] makes one number of it. docs/sensitivity.md says which metric to use, with measurements.
pub mod agreement;
pub mod errors;
pub mod estimate;
pub mod krylov;
pub mod layers;
pub mod measure;
mod merge;
pub mod metric;
pub mod probes;
pub mod profile;
pub mod rank;
pub mod sums;

pub use estimate::Estimate;
pub use metric::Metric;
pub use profile::{Curvature, Eigenvalue, FLOAT, LayerProfile, Measured, Origin, Profile, Spectrum};
