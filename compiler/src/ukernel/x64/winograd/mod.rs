//! Winograd kernels ([`crate::ukernel::winograd`]) with AVX-512 VNNI.
pub mod data;
pub mod filters;
pub mod outcome;
pub mod product;
