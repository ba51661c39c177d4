//! Leaf kernels for x86-64, by instruction set.

pub mod avx2;
pub mod regs;
pub mod vnni512;
