//! With AVX-512 VNNI.
pub mod data;
pub mod filters;
mod outcome;
pub mod product;
