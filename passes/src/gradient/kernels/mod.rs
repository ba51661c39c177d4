//! The two inner loops of the engine, in safe Rust on the vectors of the machine.
//!
//! Every convolution, matrix product and their adjoints is one of two sums: [`correlate`] (vectors along the result,
//! weights broadcast) or [`dots`] (vectors along the sum). Convolutions need no im2col: their images are laid out with
//! shared zero borders ([`super::geometry`]), so that a tap is a constant offset.
mod correlate;
mod dots;

pub use correlate::{Correlation, Source, correlate};
pub use dots::{Dots, dots};

/// Lengths and slack that every vector width of f32 and f64 divides.
pub const LANES: usize = 16;
