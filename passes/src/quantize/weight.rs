//! Symmetric per-output-channel weight quantization at 2 to 8 bits.
use crate::calibrate::Moment;
use goshawk_ir::{Result, bail, ensure};
use pulp::{Arch, Simd, WithSimd};

/// How the scale of a channel is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightClip {
    /// max|w| / (2^(b−1) − 1): nothing is clipped (HAWQ).
    MaxAbs,
    /// The scale up to that one with the smallest squared error of the channel. At 4 bits and fewer a rare large
    /// weight is better clipped than allowed to coarsen all others; at 8 bits the result is nearly always `MaxAbs`.
    Mse,
}

/// Integers and their scales.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedWeight {
    /// Values in −(2^(b−1) − 1) ..= 2^(b−1) − 1, in the order of the float weight.
    pub values: Vec<i32>,
    /// One scale for each output channel.
    pub scales: Vec<f32>,
}

/// Smallest scale of a channel. With the smallest activation scale, `MIN_WIDTH` / 255 > 2⁻²², the scale of the bias stays
/// above 2⁻⁶⁰, the verifier's limit.
const MIN_SCALE: f32 = 1.0 / (1u64 << 36) as f32;
/// Candidates of the clip search: 100 %, 99 %, … of max|w|.
const STEPS: usize = 75;

/// Quantizes `w`, whose first dimension is `channels` long, to `bits` bits.
///
/// `floor[c]` is the smallest allowed scale of channel c; the caller uses it to keep that channel's bias inside i32
/// (channels that training has killed can have weights of 1e-20 beside an ordinary bias). A channel of zeros takes
/// 64 times its floor, which leaves the bias 24 bits, or 1 where there is no bias to represent.
///
/// `moments` holds, for each group of output channels, the moments of the input that every element of a row multiplies
/// (empty where unknown): the clip search then minimises the error of the layer's result, Σ E\[x²\]·(w − scale·q)²,
/// as if inputs were not correlated.
///
/// # Errors
/// A width outside 2..=8, a weight that is NaN or infinite, or counts that do not fit.
pub fn quantize_weight(
    w: &[f32],
    channels: usize,
    bits: u8,
    clip: WeightClip,
    floor: &[f32],
    moments: &[Vec<Moment>],
) -> Result<QuantizedWeight> {
    ensure!((2..=8).contains(&bits), "weights have 2 to 8 bits, got {bits}");
    ensure!(
        channels > 0 && w.len().is_multiple_of(channels) && floor.len() == channels,
        "{} weights and {} floors for {channels} channels",
        w.len(),
        floor.len()
    );
    if let Some(i) = w.iter().position(|v| !v.is_finite()) {
        bail!("weight {} of element {i} is not finite: the model file is damaged or training diverged", w[i]);
    }
    let max = (1i32 << (bits - 1)) - 1;
    let per_channel = w.len() / channels;
    let mut values = Vec::with_capacity(w.len());
    let mut scales = Vec::with_capacity(channels);
    let mut squares: Vec<Vec<f32>> = vec![vec![1.0; per_channel]; moments.len().max(1)];
    for (squares, moments) in squares.iter_mut().zip(moments).filter(|(_, m)| !m.is_empty()) {
        *squares = moments.iter().map(|m| m.square).collect();
    }
    for (c, (row, floor)) in w.chunks(per_channel.max(1)).zip(floor).enumerate() {
        let scale = channel_scale(row, max, clip, *floor, &squares[c * squares.len() / channels]);
        values.extend(row.iter().map(|v| round(*v, scale, max)));
        scales.push(scale);
    }
    Ok(QuantizedWeight { values, scales })
}

fn round(w: f32, scale: f32, max: i32) -> i32 {
    ((w / scale).round_ties_even() as i32).clamp(-max, max)
}

fn channel_scale(row: &[f32], max: i32, clip: WeightClip, floor: f32, squares: &[f32]) -> f32 {
    let peak = row.iter().fold(0f32, |m, v| m.max(v.abs()));
    if peak == 0.0 {
        return if floor > 0.0 { (floor * 64.0).max(MIN_SCALE) } else { 1.0 };
    }
    let full = peak / max as f32;
    let best = match clip {
        WeightClip::MaxAbs => full,
        WeightClip::Mse => {
            let arch = Arch::new();
            let scales: Vec<f32> = (0..STEPS).map(|i| full * (1.0 - i as f32 / 100.0)).collect();
            let groups = scales.chunks(TOGETHER).map(|group| {
                let padded = std::array::from_fn(|i| group[i.min(group.len() - 1)]);
                let errors = arch.dispatch(Errors { row, squares, scales: padded, max });
                errors.into_iter().zip(padded)
            });
            groups
                .flatten()
                .fold((f64::INFINITY, full), |best, next| if next.0 < best.0 { next } else { best })
                .1
        }
    };
    best.max(floor).max(MIN_SCALE)
}

/// Candidates whose errors are summed at the same time: independent sums keep the processor busy.
const TOGETHER: usize = 8;
/// x + ROUND − ROUND is x rounded to the nearest integer, ties to even, for |x| ≤ 2²².
const ROUND: f32 = 12_582_912.0;

/// Σ E\[x²\]·(w − scale·q)² for each scale, by the widest vectors that the processor has: every sum has its own lane, so that
/// its value does not depend on them.
struct Errors<'a> {
    row: &'a [f32],
    squares: &'a [f32],
    scales: [f32; TOGETHER],
    max: i32,
}

impl WithSimd for Errors<'_> {
    type Output = [f64; TOGETHER];

    // In a form that compilers make vectors of.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        let (inverse, max) = (self.scales.map(|s| 1.0 / s), self.max as f32);
        let mut sums = [0.0; TOGETHER];
        for (w, square) in self.row.iter().zip(self.squares) {
            let mut error = [0.0; TOGETHER];
            for (i, error) in error.iter_mut().enumerate() {
                let q = (w * inverse[i] + ROUND) - ROUND;
                let q = if q > max { max } else { q };
                let q = if q < -max { -max } else { q };
                *error = w - self.scales[i] * q;
            }
            for (sum, error) in sums.iter_mut().zip(error) {
                *sum += f64::from(error) * f64::from(error) * f64::from(*square);
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn squared_error(w: &[f32], q: &QuantizedWeight) -> f64 {
        let n = w.len() / q.scales.len();
        let back = |i: usize| q.scales[i / n] * q.values[i] as f32;
        w.iter().enumerate().map(|(i, v)| f64::from(v - back(i)).powi(2)).sum()
    }

    #[test]
    fn max_abs_reaches_both_ends_and_errs_by_half_a_step() {
        let w: Vec<f32> = (-20..=20).map(|i| i as f32 / 7.0).collect();
        for bits in 2..=8 {
            let q = quantize_weight(&w, 1, bits, WeightClip::MaxAbs, &[0.0], &[]).unwrap();
            let max = (1 << (bits - 1)) - 1;
            assert_eq!((q.values[0], q.values[40], q.values[20]), (-max, max, 0));
            for (v, i) in w.iter().zip(&q.values) {
                assert!((v - q.scales[0] * *i as f32).abs() <= q.scales[0] * 0.5001);
            }
        }
    }

    #[test]
    fn mse_clipping_wins_on_outliers_at_4_bits() {
        let mut w: Vec<f32> = (0..400).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
        w[17] = 6.0;
        let plain = quantize_weight(&w, 1, 4, WeightClip::MaxAbs, &[0.0], &[]).unwrap();
        let clipped = quantize_weight(&w, 1, 4, WeightClip::Mse, &[0.0], &[]).unwrap();
        assert!(squared_error(&w, &clipped) < 0.8 * squared_error(&w, &plain));
    }

    #[test]
    fn weights_of_strong_inputs_are_kept_and_others_clipped() {
        let mut w: Vec<f32> = (0..100).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
        w[17] = 6.0;
        let scale = |square: f32| {
            let mut inputs = vec![Moment { mean: 0.0, square: 1.0 }; 100];
            inputs[17].square = square;
            quantize_weight(&w, 1, 4, WeightClip::Mse, &[0.0], &[inputs]).unwrap().scales[0]
        };
        assert!(scale(1e6) > 0.98 * 6.0 / 7.0 && scale(0.0) < 0.5 * 6.0 / 7.0);
    }

    #[test]
    fn four_bits_err_about_329_times_as_much_as_eight() {
        // (127/7)², the ratio of the squared steps; measured 265 to 338 on the layers of ResNet-18 (HAWQ-V3).
        let w: Vec<f32> =
            (0..9000u32).map(|i| (i.wrapping_mul(2654435761) >> 8) as f32 / 8388608.0 - 1.0).collect();
        let at = |bits| {
            squared_error(&w, &quantize_weight(&w, 3, bits, WeightClip::MaxAbs, &[0.0; 3], &[]).unwrap())
        };
        let ratio = at(4) / at(8);
        assert!((250.0..400.0).contains(&ratio), "{ratio}");
    }

    #[test]
    fn dead_channels_have_defined_scales_and_bad_weights_are_refused() {
        let q = quantize_weight(&[0.0, 0.0, 1e-38, 0.0], 2, 8, WeightClip::Mse, &[0.0, 1e-3], &[]).unwrap();
        assert_eq!((q.scales[0], q.scales[1]), (1.0, 1e-3));
        assert_eq!(q.values, [0; 4]);
        // NanoDet-m has channels like this one: their bias has a scale too, and it must not vanish.
        let q = quantize_weight(&[1e-18, -1e-17], 1, 8, WeightClip::MaxAbs, &[0.0], &[]).unwrap();
        assert!(q.scales[0] * (super::super::activation::MIN_WIDTH / 255.0) > 1.0 / (1u64 << 60) as f32);
        assert!(quantize_weight(&[f32::NAN], 1, 8, WeightClip::Mse, &[0.0], &[]).is_err());
        assert!(quantize_weight(&[1.0], 1, 9, WeightClip::Mse, &[0.0], &[]).is_err());
    }
}
