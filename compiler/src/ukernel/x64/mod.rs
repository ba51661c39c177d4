//! Leaf kernels for x86-64, by instruction set.

pub mod avx2;
pub mod border;
mod channels;
pub mod copy;
pub mod depthwise;
pub mod line;
pub mod lut;
pub mod map;
pub mod max_pool;
pub mod regs;
mod requantize;
mod row;
pub mod vector;
pub mod vnni512;
pub mod winograd;
