//! Quantizers: from float ranges, weights and biases to integers with scales.
//!
//! Weights are symmetric per output channel, activations affine per tensor with an exact zero, biases i32 in units of
//! the accumulator (HAWQ-V3 §3; the signedness of an activation follows from its range, never from its width).
pub mod activation;
pub mod bias;
pub mod weight;

pub use activation::{activation, wide};
pub use weight::{QuantizedWeight, WeightClip, quantize_weight};
