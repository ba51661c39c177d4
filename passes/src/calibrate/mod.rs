//! Calibration: which real values each tensor takes.
mod ranges;

pub use ranges::Ranges;
