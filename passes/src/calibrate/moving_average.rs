//! Moving average calibration: exponential averages of the minimum and maximum of every sample, starting at the first
//! sample's (Krishnamoorthi, arXiv 1806.08342, §3.1; HAWQ-V3's training runs use momentum 0.99). It follows the
//! typical sample rather than the worst.
//!
//! An average depends on the order, so the extrema of every sample are kept and averaged at the end: shards of
//! consecutive samples that are merged in order give the result of one run.

/// Weight of the past.
pub(super) const MOMENTUM: f64 = 0.99;

/// The averages over the extrema of samples in order; `None` without samples.
pub(super) fn range(samples: &[(f32, f32)]) -> Option<(f32, f32)> {
    let mut extrema = samples.iter().map(|(lo, hi)| (f64::from(*lo), f64::from(*hi)));
    let first = extrema.next()?;
    let average = |old: f64, new: f64| MOMENTUM * old + (1.0 - MOMENTUM) * new;
    let (lo, hi) = extrema.fold(first, |(lo, hi), new| (average(lo, new.0), average(hi, new.1)));
    Some((lo as f32, hi as f32))
}
