//! Mean squared error calibration: the range whose quantizer of the tensor's own width has the smallest expected
//! squared error, counting rounding inside the range and clipping outside (Sung et al., arXiv 1511.06488; Banner et
//! al., NeurIPS 2019, do it for assumed distributions, this does it for the observed one).
//!
//! Values are taken as uniform inside a bin of the histogram, for which the error integral has a closed form; zeros
//! cost nothing. Both ends are searched: together, then each by itself, on a grid that is refined once.
use super::histogram::{Bin, Histogram};

/// Steps of the coarse search along one end.
const COARSE: u32 = 32;
/// Steps of the refinement between the neighbours of the best coarse candidate.
const FINE: u32 = 16;

/// The range of smallest error for `bits` bits.
pub(super) fn range(histogram: &Histogram, bits: u8, observed: (f32, f32)) -> (f32, f32) {
    let bins = histogram.bins();
    // Quantizers represent 0, so their ranges contain it.
    let (low, high) = (f64::from(observed.0.min(0.0)), f64::from(observed.1.max(0.0)));
    let error = |l: f64, h: f64| expected_error(&bins, l * low, h * high, bits);
    let (mut l, mut h) = (1.0, 1.0);
    if low < 0.0 && high > 0.0 {
        l = best(&|t| error(t, t));
        h = l;
        h = not_worse(h, best(&|t| error(l, t)), &|t| error(l, t));
        l = not_worse(l, best(&|t| error(t, h)), &|t| error(t, h));
    } else if high > 0.0 {
        h = best(&|t| error(1.0, t));
    } else if low < 0.0 {
        l = best(&|t| error(t, 1.0));
    }
    (((l * low) as f32).max(observed.0), ((h * high) as f32).min(observed.1))
}

/// The share of the full end, in (0, 1], with the smallest error.
fn best(error: &dyn Fn(f64) -> f64) -> f64 {
    let pick = |shares: &mut dyn Iterator<Item = f64>| {
        // The largest share first: of equal errors the one that clips least wins.
        let first = (1.0, error(1.0));
        shares.fold(first, |best, t| {
            let e = error(t);
            if e < best.1 { (t, e) } else { best }
        })
    };
    let step = 1.0 / f64::from(COARSE);
    let (coarse, _) = pick(&mut (1..COARSE).rev().map(|i| f64::from(i) * step));
    let fine = |i: u32| coarse + step * (f64::from(FINE - i) / f64::from(FINE / 2) - 1.0);
    pick(&mut (0..=FINE).map(fine).filter(|t| *t > 0.0 && *t < 1.0)).0
}

fn not_worse(old: f64, new: f64, error: &dyn Fn(f64) -> f64) -> f64 {
    if error(new) < error(old) { new } else { old }
}

/// Sum of squared errors of the quantizer with the range [low, high] ∋ 0.
fn expected_error(bins: &[Bin], low: f64, high: f64, bits: u8) -> f64 {
    let levels = f64::from((1u32 << bits) - 1);
    let scale = (high - low) / levels;
    if scale <= 0.0 {
        return f64::INFINITY;
    }
    // As `quantize` does: 0 is on the grid, which moves both ends by up to half a step.
    let zero_point = (-low / scale).round();
    let (bottom, top) = (-zero_point * scale, (levels - zero_point) * scale);
    bins.iter()
        .map(|bin| {
            let cut = |x: f64| x.clamp(bottom, top);
            let inside = rounding(cut(bin.high) / scale) - rounding(cut(bin.low) / scale);
            let clipped =
                distance(bin.low, bin.high.min(bottom), bottom) + distance(bin.low.max(top), bin.high, top);
            bin.count * (inside * scale.powi(3) + clipped) / (bin.high - bin.low)
        })
        .sum()
}

/// ∫ (x − end)² over [a, b], 0 if that is empty.
fn distance(a: f64, b: f64, end: f64) -> f64 {
    if a < b { ((b - end).powi(3) - (a - end).powi(3)) / 3.0 } else { 0.0 }
}

/// ∫ (t − round(t))² dt from 0 to u: 1/12 for every whole step.
fn rounding(u: f64) -> f64 {
    let whole = u.round();
    whole / 12.0 + (u - whole).powi(3) / 3.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(values: &[f32]) -> Histogram {
        let mut h = Histogram::new();
        h.add(values);
        h
    }

    fn normal(n: usize) -> Vec<f32> {
        // Sums of twelve uniform numbers of a Weyl sequence.
        let mut state = 0u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        (0..n).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
    }

    #[test]
    fn matches_the_error_measured_value_by_value() {
        let values = normal(20_000);
        let bins = histogram(&values).bins();
        for (low, high, bits) in [(-2.0, 2.5, 4), (-4.0, 4.0, 4), (-1.0, 3.0, 3), (-3.0, 0.5, 8)] {
            let levels = f64::from((1u32 << bits) - 1);
            let scale = (high - low) / levels;
            let zero = f64::round(-low / scale);
            let measured: f64 = values
                .iter()
                .map(|v| {
                    let q = ((f64::from(*v) / scale).round() + zero).clamp(0.0, levels);
                    (f64::from(*v) - (q - zero) * scale).powi(2)
                })
                .sum();
            let expected = expected_error(&bins, low, high, bits);
            assert!((expected / measured - 1.0).abs() < 0.02, "{expected} {measured}");
        }
    }

    #[test]
    fn few_bits_clip_more() {
        let mut values = normal(20_000);
        values.push(40.0);
        let h = histogram(&values);
        let width = |bits| {
            let (lo, hi) = range(&h, bits, (-6.0, 40.0));
            f64::from(hi - lo)
        };
        // One outlier among 20,000: at 8 bits clipping it would cost (40 − 8)² ≈ 1000, rounding costs 54.
        assert!(width(8) > 40.0 && width(4) < 15.0 && width(2) < width(4), "{} {}", width(8), width(4));
        assert!(width(2) > 1.0);
    }

    #[test]
    fn values_on_the_grid_are_not_clipped() {
        let values: Vec<f32> = (0..1500).map(|i| (i % 16) as f32).collect();
        assert_eq!(range(&histogram(&values), 8, (0.0, 15.0)), (0.0, 15.0));
        assert_eq!(range(&histogram(&[0.0; 9]), 8, (0.0, 0.0)), (0.0, 0.0));
        let (lo, hi) = range(&histogram(&[-1.0, -2.0, -3.0]), 8, (-3.0, -1.0));
        assert!((-3.0..-2.9).contains(&lo) && hi <= 0.0);
    }
}
