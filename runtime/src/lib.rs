//! What a user of compiled libraries needs: the C ABI in Rust, a loader, a thread pool, latency measurement.
//!
//! ```no_run
//! let library = goshawk_runtime::Library::open("libmodel.so".as_ref())?;
//! let pixels = vec![0.0; library.info().inputs[0].elements()];
//! let logits = library.run_f32(&[&pixels])?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Architecture invariant: this crate depends on no other crate of goshawk.

pub mod abi;
pub mod arena;
pub mod error;
mod exports;
pub mod info;
pub mod latency;
pub mod library;
pub mod pool;

pub use arena::Arena;
pub use error::{LoadError, RunError};
pub use info::{DType, ModelInfo, TensorInfo};
pub use library::{Library, Session};
pub use pool::Pool;
