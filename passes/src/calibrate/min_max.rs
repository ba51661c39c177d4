//! Min–max calibration: the range of everything that was seen (Jacob et al., CVPR 2018; HAWQ-V3's default). Nothing
//! is clipped, so one outlier widens the steps of all other values.

/// Joins two ranges.
pub(super) fn join(a: (f32, f32), b: (f32, f32)) -> (f32, f32) {
    (a.0.min(b.0), a.1.max(b.1))
}

/// The empty range: the neutral element of [`join`].
pub(super) const EMPTY: (f32, f32) = (f32::INFINITY, f32::NEG_INFINITY);
