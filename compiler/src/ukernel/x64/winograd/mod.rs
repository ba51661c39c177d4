//! Winograd kernels ([`crate::ukernel::winograd`]).
pub mod avx2;
pub mod outcome;
pub mod vnni512;
