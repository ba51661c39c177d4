//! Passes that join elementwise functions with each other and with the layers before them.
pub mod activation;
mod algebra;
pub mod chain;
pub mod hoist;
mod identify;
pub mod recognise;
