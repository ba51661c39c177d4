//! Lowering of every operator family, compared with the float interpreter.
mod bits;
mod errors;
mod layers;
mod movement;
mod net;
mod nonlinear;
mod residual;
