//! Winograd along lines ([`crate::ukernel::line`]) with AVX-512 VNNI.
pub mod data;
pub mod tile;
