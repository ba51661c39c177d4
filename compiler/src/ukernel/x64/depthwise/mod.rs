//! Depthwise convolution along a row ([`crate::ukernel::depthwise`]).

pub mod avx2;
pub mod vnni512;
