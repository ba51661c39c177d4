//! Gradient engine: derivatives of a loss in the weights and activations of a float graph.
//!
//! [`Engine`] compiles a graph, [`Engine::linearise`] runs a batch forward and backward and keeps what further products
//! need; a [`Linearisation`] then gives exact Hessian-vector products by the R-operator (Pearlmutter, "Fast exact
//! multiplication by the Hessian", 1994) and sums of squared per-sample gradients (Gauss-Newton and Fisher traces).
//! It is generic over f32 and f64, works on fixed chunks of samples in parallel and joins them in order: results do not
//! depend on the number of threads.
//!
//! The loss L is the mean over the samples of the samples' losses, and every derivative is one of L. A sample is one run
//! of the graph at its declared shapes.
mod engine;
mod geometry;
mod kernels;
mod linearise;
mod loss;
mod parts;
pub mod random;
mod real;
mod reverse;
mod rules;
mod second;
mod squares;
mod tape;
mod workers;

pub use engine::{Activation, Engine, Layer};
pub use linearise::{Keep, Linearisation};
pub use loss::Loss;
pub use parts::{Parts, Rows};
pub use real::Real;
pub use squares::{ChannelSquares, Noise, Squares};
pub use workers::{Serial, Workers};
