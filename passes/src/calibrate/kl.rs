//! Kullback–Leibler calibration: the threshold at which the quantized distribution tells least information about the
//! observed one (Migacz, *8-bit inference with TensorRT*, GTC 2017).
//!
//! For every candidate threshold, P is the histogram up to it with everything beyond added to its last bin, and Q the
//! histogram up to it averaged over the bins that share a quantization level (bins without a value stay without).
//! The threshold with the smallest KL(P‖Q) wins. Tensors with both signs use one threshold for magnitudes, limited by
//! what was observed on either side. Zeros are left out: they are represented exactly whatever the threshold, and
//! after Relu they would drown everything else.
use super::histogram::Histogram;

/// Bins of the histogram that are joined, so that the finest candidate has the 2048 bins of the paper.
const JOINED: usize = 2;
/// Candidates that are tried.
const CANDIDATES: usize = 256;
/// Probability of a bin that Q rules out but P does not.
const FLOOR: f64 = 1e-9;

/// The range for `bits` bits.
pub(super) fn range(histogram: &Histogram, bits: u8, observed: (f32, f32)) -> (f32, f32) {
    let join = |side: &[u64]| -> Vec<f64> {
        side.chunks(JOINED).map(|bins| bins.iter().sum::<u64>() as f64).collect()
    };
    let (negative, positive) = histogram.sides();
    let (negative, positive) = (join(negative), join(positive));
    let used = |side: &[f64]| side.iter().rposition(|n| *n > 0.0).map_or(0, |last| last + 1);
    let (most_negative, most_positive) = (used(&negative), used(&positive));
    let bins = most_negative.max(most_positive);
    let sides: Vec<&[f64]> = [(&negative, most_negative), (&positive, most_positive)]
        .into_iter()
        .filter(|(_, used)| *used > 0)
        .map(|(side, _)| &side[..bins])
        .collect();
    if sides.is_empty() {
        return observed;
    }
    let levels = (1usize << bits) / sides.len();
    let step = bins.saturating_sub(levels).div_ceil(CANDIDATES).max(1);
    let candidates = (levels..bins).step_by(step).chain([bins]);
    // From the widest: of equal divergences the one that clips least wins.
    let candidates: Vec<usize> = candidates.collect();
    let best = candidates.iter().rev().map(|n| (*n, divergence(&sides, *n, levels)));
    let (threshold, _) = best.fold((bins, f64::INFINITY), |best, c| if c.1 < best.1 { c } else { best });
    let threshold = (threshold as f64 * histogram.width() * JOINED as f64) as f32;
    (observed.0.max(-threshold), observed.1.min(threshold))
}

/// KL(P‖Q) for the first `bins` magnitudes, quantized to `levels` levels on each side.
fn divergence(sides: &[&[f64]], bins: usize, levels: usize) -> f64 {
    let everything: f64 = sides.iter().map(|side| side.iter().sum::<f64>()).sum();
    let inside: f64 = sides.iter().map(|side| side[..bins.min(side.len())].iter().sum::<f64>()).sum();
    if inside == 0.0 {
        return f64::INFINITY;
    }
    let mut sum = 0.0;
    for side in sides {
        let (kept, beyond) = side.split_at(bins.min(side.len()));
        let outliers: f64 = beyond.iter().sum();
        for level in 0..levels.min(bins) {
            let (begin, end) = (level * bins / levels.min(bins), (level + 1) * bins / levels.min(bins));
            let group = &kept[begin..end];
            let occupied = group.iter().filter(|n| **n > 0.0).count();
            let mean = group.iter().sum::<f64>() / occupied.max(1) as f64;
            for (i, count) in group.iter().enumerate() {
                let last = begin + i + 1 == bins;
                let p = (count + if last { outliers } else { 0.0 }) / everything;
                let q = if *count > 0.0 { mean / inside } else { FLOOR };
                if p > 0.0 {
                    sum += p * (p / q).ln();
                }
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f32], bits: u8) -> (f32, f32) {
        let mut h = Histogram::new();
        h.add(values);
        let min = values.iter().copied().fold(f32::INFINITY, f32::min);
        let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        range(&h, bits, (min, max))
    }

    /// An exponential distribution by inversion, with a far outlier.
    fn exponential() -> Vec<f32> {
        let n = 50_000;
        (0..n).map(|i| -((i as f32 + 0.5) / n as f32).ln()).chain([100.0]).collect()
    }

    #[test]
    fn a_far_outlier_is_clipped() {
        let (lo, hi) = of(&exponential(), 8);
        assert!(lo >= 0.0 && hi > 3.0 && hi < 40.0, "{lo} {hi}");
        let both: Vec<f32> = exponential().into_iter().flat_map(|v| [v, -0.5 * v]).collect();
        let (lo, hi) = of(&both, 8);
        assert!(lo < -3.0 && hi > 3.0 && hi < 40.0, "{lo} {hi}");
    }

    #[test]
    fn a_uniform_distribution_is_kept() {
        let uniform: Vec<f32> = (1..=40_960).map(|i| i as f32 / 40_960.0).collect();
        assert!(of(&uniform, 8).1 > 0.95);
        assert_eq!(of(&[0.0; 3], 8), (0.0, 0.0));
        assert_eq!(of(&[-2.0; 3], 8), (-2.0, -2.0));
    }
}
