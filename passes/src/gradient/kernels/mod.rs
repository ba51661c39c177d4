//! The inner loops of the engine, in safe Rust on the vectors of the machine.
//!
//! Every convolution, matrix product and their adjoints is one of three sums: [`correlate`] (vectors along the result,
//! weights broadcast), [`outer`] (vectors along the outputs, positions summed) or [`dots`] (vectors along the sum, where there
//! are too few outputs). Convolutions need no im2col: their images are laid out with shared zero borders
//! ([`super::geometry`]), so that a tap is a constant offset.
mod correlate;
mod dots;
mod outer;
mod panels;

pub use correlate::{Correlation, Source, correlate};
pub use dots::{Dots, dots};
pub use outer::{Outer, Product, Sums, outer, slices};
pub use panels::panels;

/// Lengths and slack that every vector width of f32 and f64 divides.
pub const LANES: usize = 16;
