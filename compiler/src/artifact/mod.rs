//! Artefacts: object, archive, shared library, C header, manifest; written atomically.
//!
//! [`bundle::compile`] turns a graph into all of them: it plans the kernels, makes the [`manifest`] and from it the
//! [`info`] block, emits the object with the block inside, and prints the [`header`]. The object is then wrapped
//! ([`shared`], [`archive`], [`linker`]) and all files are written at once ([`atomic`]). [`Network`] holds the facts that
//! several of them repeat.
//!
//! Architecture invariant: the same facts give the same bytes. No time, no path, no hash order gets into an artefact.

pub mod archive;
pub mod atomic;
pub mod bundle;
pub mod cname;
pub mod header;
pub mod info;
pub mod linker;
pub mod manifest;
pub mod network;
pub mod shared;

pub use atomic::{write_all_atomic, write_atomic};
pub use bundle::Bundle;
pub use cname::CName;
pub use network::{Network, PortFacts};
