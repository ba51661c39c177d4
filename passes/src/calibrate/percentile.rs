//! Percentile calibration: the range leaves out a fixed share of the values at either end, so that a few outliers do
//! not cost all others their resolution (McKinstry et al., arXiv 1809.04191; Wu et al., arXiv 2004.09602, §5.2, find
//! 99.9 to 99.9999 useful; HAWQ-V3's `act_percentile`).
//!
//! The lower end is the (100 − p)-th percentile, the upper the p-th, interpolated linearly inside a bin.
use super::histogram::Histogram;

/// (min, max) of the values between the percentiles.
pub(super) fn range(histogram: &Histogram, percentile: f64, observed: (f32, f32)) -> (f32, f32) {
    let upper = quantile(histogram, percentile / 100.0);
    let lower = quantile(histogram, 1.0 - percentile / 100.0);
    let inside = |v: f64| (v as f32).clamp(observed.0, observed.1);
    (inside(lower), inside(upper))
}

/// The value below which the share `q` of all values lies.
fn quantile(histogram: &Histogram, q: f64) -> f64 {
    let target = q * histogram.total() as f64;
    let mut below = 0.0;
    let mut highest = 0.0;
    let mut zeros = histogram.zeros as f64;
    for bin in histogram.bins() {
        if bin.low >= 0.0 && zeros > 0.0 {
            below += zeros;
            zeros = 0.0;
            if below >= target {
                return 0.0;
            }
        }
        if below + bin.count >= target {
            return bin.low + (bin.high - bin.low) * ((target - below) / bin.count);
        }
        below += bin.count;
        highest = bin.high;
    }
    if zeros > 0.0 { 0.0 } else { highest }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f32], percentile: f64) -> (f32, f32) {
        let mut h = Histogram::new();
        h.add(values);
        let min = values.iter().copied().fold(f32::INFINITY, f32::min);
        let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        range(&h, percentile, (min, max))
    }

    #[test]
    fn outliers_are_left_out() {
        let mut values: Vec<f32> = (0..10_000).map(|i| i as f32 / 10_000.0).collect();
        values.push(8.0);
        let (lo, hi) = of(&values, 99.0);
        assert!((lo - 0.01).abs() < 0.005 && (hi - 0.99).abs() < 0.005, "{lo} {hi}");
        assert_eq!(of(&values, 100.0), (0.0, 8.0));
    }

    #[test]
    fn zeros_and_signs_count() {
        let mut values = vec![0.0; 900];
        values.extend((0..100).map(|i| -(i as f32) / 100.0 - 0.01));
        let (lo, hi) = of(&values, 95.0);
        assert!((lo + 0.5).abs() < 0.02, "{lo}");
        assert_eq!(hi, 0.0);
        assert_eq!(of(&[0.0; 5], 99.9), (0.0, 0.0));
        assert_eq!(of(&[2.5; 5], 99.9), (2.5, 2.5));
    }
}
