//! Biases: i32 in units of scale_x · scale_w\[c\], and the proof that accumulators stay inside i32.
use super::QuantizedWeight;
use crate::calibrate::Moment;
use goshawk_ir::{Result, bail, range};

/// Largest |bias| that a channel's scale is chosen for: half of i32, the other half belongs to the products.
const LIMIT: f64 = (1i64 << 30) as f64;

/// Smallest weight scale of each channel that keeps its bias below 2³⁰.
pub fn scale_floor(bias: &[f32], scale_x: f32) -> Vec<f32> {
    bias.iter().map(|b| (f64::from(b.abs()) / (f64::from(scale_x) * LIMIT)) as f32).collect()
}

/// The bias plus what weight rounding takes from the mean of each channel's result: Σ (w − scale·q)·E\[x\]
/// (Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", §4.2, with measured
/// instead of derived means). `moments` as in [`super::quantize_weight`].
pub fn corrected(bias: &[f32], w: &[f32], q: &QuantizedWeight, moments: &[Vec<Moment>]) -> Vec<f32> {
    if moments.is_empty() {
        return bias.to_vec();
    }
    let row = w.len() / bias.len();
    let correct = |(c, b): (usize, &f32)| {
        let inputs = &moments[c * moments.len() / bias.len()];
        let at = c * row;
        let error = |j: usize| f64::from(w[at + j]) - f64::from(q.scales[c]) * f64::from(q.values[at + j]);
        (f64::from(*b) + (0..row).map(|j| error(j) * f64::from(inputs[j].mean)).sum::<f64>()) as f32
    };
    bias.iter().enumerate().map(correct).collect()
}

/// round(bias / (scale_x · scale_w)).
///
/// # Errors
/// A bias is not finite, or does not fit.
pub fn quantize_bias(bias: &[f32], scale_x: f32, scales_w: &[f32]) -> Result<Vec<i32>> {
    bias.iter()
        .zip(scales_w)
        .enumerate()
        .map(|(c, (b, sw))| {
            let q = (f64::from(*b) / (f64::from(scale_x) * f64::from(*sw))).round_ties_even();
            if !q.is_finite() || q.abs() > 1.01 * LIMIT {
                bail!("bias {b} of channel {c} does not fit in 32 bits");
            }
            Ok(q as i32)
        })
        .collect()
}

/// Proves Σ|w|·max|x̂| + |bias| < 2³¹ for every channel (see [`goshawk_ir::range`]).
///
/// # Errors
/// A channel whose accumulator could overflow.
pub fn prove_accumulator(weights: &[i32], bias: &[i32], max_x: i64) -> Result<()> {
    let bounds = range::channel_bounds(weights, bias, weights.len() / bias.len().max(1), max_x)?;
    match bounds.iter().enumerate().find(|(_, b)| **b >= range::LIMIT) {
        None => Ok(()),
        Some((c, bound)) => bail!(
            "the accumulator of channel {c} can reach {bound}, beyond 2^31: give this layer fewer weight or \
             activation bits"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::{WeightClip, quantize_weight};

    #[test]
    fn floor_keeps_biases_inside() {
        let bias = [1e6f32, -3.0, 0.0];
        let floor = scale_floor(&bias, 1e-4);
        let q = quantize_bias(&bias, 1e-4, &[floor[0].max(1e-9), 0.01, 1.0]).unwrap();
        assert!((q[0] - (1 << 30)).abs() < 200);
        assert_eq!(&q[1..], [-3_000_000, 0]);
        assert!(quantize_bias(&[f32::NAN], 1.0, &[1.0]).is_err());
        assert!(quantize_bias(&[1e6], 1e-4, &[1e-9]).is_err());
    }

    #[test]
    fn correction_restores_the_mean_of_each_channel() {
        let w = [0.9f32, 0.3, -0.2, 0.5, 0.1, -0.7, 0.4, 0.6];
        let moment = |mean: f32| Moment { mean, square: mean * mean + 1.0 };
        let groups = [vec![moment(1.0), moment(-2.0)], vec![moment(0.5), moment(3.0)]];
        let q = quantize_weight(&w, 4, 2, WeightClip::Mse, &[0.0; 4], &groups).unwrap();
        let bias = corrected(&[1.0, 2.0, 3.0, 4.0], &w, &q, &groups);
        for c in 0..4 {
            let x = &groups[c / 2];
            let mean = |w: &dyn Fn(usize) -> f32| (0..2).map(|j| w(2 * c + j) * x[j].mean).sum::<f32>();
            let want = mean(&|i| w[i]) + c as f32 + 1.0;
            let got = mean(&|i| q.scales[c] * q.values[i] as f32) + bias[c];
            assert!((want - got).abs() < 1e-5, "channel {c}: {want} {got}");
        }
        assert_eq!(corrected(&[1.0, 2.0, 3.0, 4.0], &w, &q, &[]), [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn overflow_is_found_at_the_exact_bound() {
        // 127 · 255 · 66311 = 2147481735, 1913 below 2³¹.
        let weights = vec![-127; 66_311];
        assert!(prove_accumulator(&weights, &[1912], 255).is_ok());
        assert!(prove_accumulator(&weights, &[-1913], 255).is_err());
    }
}
