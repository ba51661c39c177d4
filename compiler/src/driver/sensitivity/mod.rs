//! Sensitivity runs: from a model and data to a profile file and a report.
//!
//! The estimators are in [`goshawk_passes::sensitivity`]; here are data, threads, files, interruption and reports.
mod eigen;
pub mod file;
pub mod html;
pub mod import;
pub mod json;
mod message;
mod quantization;
pub mod run;
pub mod samples;
pub mod settings;
mod state;
mod svg;
mod traces;

pub use run::{Request, run};
pub use settings::{Estimator, Exact, Loss, Settings};
pub use state::State;
