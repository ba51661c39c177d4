//! The gradient engine against explicit Hessians, central differences and the reference interpreter, in f64.
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/threads.rs"]
mod threads;

mod check;
mod errors;
mod hessian;
mod networks;
mod random;
mod squares;
mod workers;
