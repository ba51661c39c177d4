//! Quantization parameters of activations from calibrated ranges.
use goshawk_ir::{QParams, Result, ensure};

/// Ranges narrower than this are widened to it: a tensor that was constant 0 during calibration still gets a scale,
/// and rescaling to it stays far from the 2³⁰ limit of a dyadic number.
pub const MIN_WIDTH: f32 = 1e-4;

/// How far the 16-bit grid reaches beyond the calibrated range. It has bits to spare (13 remain inside the range), and
/// a sum or a logit that saturates costs far more than the last bit.
pub const WIDE_HEADROOM: f32 = 4.0;

fn checked((min, max): (f32, f32)) -> Result<(f32, f32)> {
    ensure!(
        min.is_finite() && max.is_finite() && min <= max,
        "the calibrated range [{min}, {max}] is not usable: calibrate on finite data"
    );
    let (min, max) = (min.min(0.0), max.max(0.0));
    ensure!(
        max - min < f32::MAX / WIDE_HEADROOM,
        "the calibrated range [{min}, {max}] is too wide for a scale in f32"
    );
    Ok((min, max))
}

/// Unsigned parameters of `bits` bits for values in `range` (extended to contain 0): zero point 0 where nothing is
/// negative, else the zero point next to −min/scale, so that real 0 is exact and both ends are met within half a step.
///
/// # Errors
/// The range is not finite or empty, or the width is outside 2..=8.
pub fn activation(range: (f32, f32), bits: u8) -> Result<QParams> {
    ensure!((2..=8).contains(&bits), "activations have 2 to 8 bits, got {bits}");
    let (min, max) = checked(range)?;
    let levels = ((1u32 << bits) - 1) as f32;
    let scale = (max - min).max(MIN_WIDTH) / levels;
    let zero_point = if min == 0.0 { 0.0 } else { (-min / scale).round().clamp(0.0, levels) };
    Ok(QParams::per_tensor(scale, zero_point as i32, bits))
}

/// Parameters of the 16-bit symmetric grid for values in `range`, with [`WIDE_HEADROOM`].
///
/// # Errors
/// The range is not finite or empty.
pub fn wide(range: (f32, f32)) -> Result<QParams> {
    let (min, max) = checked(range)?;
    let bound = max.max(-min).max(MIN_WIDTH) * WIDE_HEADROOM;
    Ok(QParams::per_tensor(bound / 32767.0, 0, 16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_become_parameters() {
        let q = activation((0.5, 2.55), 8).unwrap();
        assert_eq!((q.zero_point, q.tensor_scale().unwrap()), (0, 0.01));
        let q = activation((-1.0, 2.0), 4).unwrap();
        assert_eq!((q.zero_point, q.tensor_scale().unwrap()), (5, 0.2));
        let q = activation((-3.0, -1.0), 8).unwrap();
        assert_eq!(q.zero_point, 255);
        // A tiny negative excursion rounds away: the zero point follows the rounding, not the sign of the minimum.
        assert_eq!(activation((-1e-6, 1.0), 8).unwrap().zero_point, 0);
    }

    #[test]
    fn degenerate_ranges_are_defined_and_bad_ones_refused() {
        let q = activation((0.0, 0.0), 8).unwrap();
        assert!(q.tensor_scale().unwrap() > 0.0);
        assert!(wide((0.0, 0.0)).unwrap().tensor_scale().unwrap() > 0.0);
        for bad in [(f32::NAN, 1.0), (0.0, f32::INFINITY), (1.0, -1.0), (-f32::MAX, f32::MAX)] {
            assert!(activation(bad, 8).is_err() && wide(bad).is_err(), "{bad:?}");
        }
        assert!(activation((0.0, 1.0), 9).is_err() && activation((0.0, 1.0), 1).is_err());
    }
}
