//! What a user of compiled libraries needs: the C ABI in Rust, a loader, latency measurement.
//!
//! Architecture invariant: this crate depends on no other crate of goshawk.
