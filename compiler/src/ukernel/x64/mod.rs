//! Leaf kernels for x86-64, by instruction set.

pub mod avx2;
pub mod depthwise;
pub mod max_pool;
pub mod regs;
mod row;
pub mod vnni512;
