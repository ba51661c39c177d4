//! Artefacts: object, archive, shared library, C header, manifest; written atomically.
//!
//! [`Network`] holds the facts that all of them repeat. The order of work: plan the kernels, make the [`manifest`] and
//! from it the [`info`] block, emit the object with the block inside, then wrap the object ([`shared`], [`archive`],
//! [`linker`]), print the [`header`], and write all files at once ([`atomic`]).
//!
//! Architecture invariant: the same facts give the same bytes. No time, no path, no hash order gets into an artefact.

pub mod archive;
pub mod atomic;
pub mod cname;
pub mod header;
pub mod info;
pub mod linker;
pub mod manifest;
pub mod network;
pub mod shared;

pub use atomic::{write_all_atomic, write_atomic};
pub use cname::CName;
pub use network::{Network, PortFacts};
