//! Quantization parameters and dyadic numbers.
use crate::{DType, Result, ensure};
use std::sync::Arc;

/// Scale of a quantized tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Scale {
    /// One scale for the tensor.
    PerTensor(f32),
    /// One scale for each index along `axis`.
    PerChannel {
        /// Dimension that the scales run along.
        axis: usize,
        /// The scales.
        scales: Arc<[f32]>,
    },
}

/// real = scale · (q − zero_point).
#[derive(Clone, Debug, PartialEq)]
pub struct QParams {
    /// Scale(s), positive and finite.
    pub scale: Scale,
    /// Zero point; 0 for weights, biases and 16-bit activations.
    pub zero_point: i32,
    /// Bits that the values use: 2..=8 in a u8 activation or an i4/i8 weight, 16 or 32 in wider types.
    pub bits: u8,
}

impl QParams {
    /// One scale for the whole tensor.
    pub const fn per_tensor(scale: f32, zero_point: i32, bits: u8) -> Self {
        Self { scale: Scale::PerTensor(scale), zero_point, bits }
    }

    /// Symmetric, one scale for each index along `axis`.
    pub fn per_channel(axis: usize, scales: impl Into<Arc<[f32]>>, bits: u8) -> Self {
        Self { scale: Scale::PerChannel { axis, scales: scales.into() }, zero_point: 0, bits }
    }

    /// The scale of a tensor quantized as a whole.
    ///
    /// # Errors
    /// The tensor is quantized per channel.
    pub fn tensor_scale(&self) -> Result<f32> {
        match self.scale {
            Scale::PerTensor(s) => Ok(s),
            Scale::PerChannel { .. } => {
                crate::bail!("expected one scale for the tensor, got one per channel")
            }
        }
    }

    /// Smallest and largest value that a tensor of `dtype` may hold under these parameters: activations (u8) use
    /// [0, 2^bits − 1], signed types are symmetric, [−(2^(bits−1) − 1), 2^(bits−1) − 1].
    pub fn range(&self, dtype: DType) -> (i32, i32) {
        match dtype {
            DType::U8 | DType::U4 => (0, (1i32 << self.bits) - 1),
            _ => {
                let max = ((1i64 << (self.bits - 1)) - 1) as i32;
                (-max, max)
            }
        }
    }
}

/// The rational number `mult / 2^shift` by which accumulators are rescaled (HAWQ-V3 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dyadic {
    /// Multiplier in [0, 2³¹): 31 bits, so that its product with an i32 fits in an i64.
    pub mult: i32,
    /// Shift in 1..=62: 62 = 31 + 31, the bits of the product.
    pub shift: u8,
}

impl Dyadic {
    /// The dyadic number nearest to `s`: (m, e0) = frexp(s), mult = ⌊m·2³¹ + ½⌋, shift = 31 − e0, mult = 2³¹
    /// normalised to 2³⁰. Numbers below 2⁻³¹ lose multiplier bits instead of growing the shift beyond 62.
    ///
    /// # Errors
    /// `s` is not finite, not positive, or at least 2³⁰.
    pub fn from_f64(s: f64) -> Result<Self> {
        ensure!(s.is_finite() && s > 0.0, "scale ratio {s} must be finite and positive");
        let (m, e0) = frexp(s);
        let mut mult = (m * 2f64.powi(31) + 0.5).floor() as i64;
        let mut shift = 31 - e0;
        if mult == 1 << 31 {
            mult >>= 1;
            shift -= 1;
        }
        ensure!(shift >= 1, "scale ratio {s} is 2^30 or more");
        if shift > 62 {
            let drop = (shift - 62).min(40);
            mult = (mult + (1 << (drop - 1))) >> drop;
            shift = 62;
        }
        Ok(Self { mult: mult as i32, shift: shift as u8 })
    }

    /// Rescales from scale `sx·sw` to scale `sy`. Both scales are rounded to f32 before the division, as TVM and
    /// HAWQ-V3's reference code do.
    ///
    /// # Errors
    /// As [`Dyadic::from_f64`].
    pub fn from_scales(sx: f32, sw: f32, sy: f32) -> Result<Self> {
        Self::from_f64(f64::from(sx * sw) / f64::from(sy))
    }

    /// ⌊z · mult / 2^shift + ½⌋: round half up, the normative rule.
    pub const fn apply(self, z: i32) -> i64 {
        (z as i64 * self.mult as i64 + (1 << (self.shift - 1))) >> self.shift
    }

    /// The same rounded half to even, as PyTorch does; for comparisons only.
    pub const fn apply_half_even(self, z: i32) -> i64 {
        let product = z as i64 * self.mult as i64;
        let half = 1i64 << (self.shift - 1);
        let up = (product + half) >> self.shift;
        let tie = product & ((half << 1) - 1) == half;
        if tie && up & 1 == 1 { up - 1 } else { up }
    }

    /// The nearest number of at most 24 significant bits whose last one is odd. Whole numbers (powers of two from 1 on)
    /// and numbers that have lost bits to the limit of the shift stay as they are.
    #[must_use]
    pub const fn shortened(self) -> Self {
        let whole = self.mult & (self.mult - 1) == 0 && self.mult.trailing_zeros() >= self.shift as u32;
        if whole || self.mult < 1 << 30 {
            return self;
        }
        // Between two multiples of 256: the number in the middle has 24 bits.
        Self { mult: self.mult & !0xff | 0x80, shift: self.shift }
    }

    /// The number as f64, exact.
    pub fn value(self) -> f64 {
        f64::from(self.mult) / 2f64.powi(i32::from(self.shift))
    }
}

/// (m, e) with s = m·2^e and 0.5 ≤ m < 1, for positive finite s.
fn frexp(s: f64) -> (f64, i32) {
    let scaled = if s < f64::MIN_POSITIVE { s * 2f64.powi(64) } else { s };
    let bits = scaled.to_bits();
    let exponent = (bits >> 52) as i32 - 1022 - if s < f64::MIN_POSITIVE { 64 } else { 0 };
    (f64::from_bits((bits & !(0x7ff << 52)) | (1022 << 52)), exponent)
}

/// requant(z) = clamp(((z·M + 2^(e−1)) >> e) + zero_point, lo, hi). ReLU, ReLU6 and clip are the clamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requant {
    /// One dyadic number, or one per output channel (innermost dimension).
    pub mult: Vec<Dyadic>,
    /// Zero point of the result.
    pub zero_point: i32,
    /// Smallest result.
    pub lo: i32,
    /// Largest result.
    pub hi: i32,
}

impl Requant {
    /// Rescales the accumulator `z` of channel `channel`.
    pub fn apply(&self, z: i32, channel: usize) -> i32 {
        self.finish(self.dyadic(channel).apply(z))
    }

    /// The dyadic number of `channel`.
    pub fn dyadic(&self, channel: usize) -> Dyadic {
        self.mult[if self.mult.len() == 1 { 0 } else { channel }]
    }

    /// Adds the zero point and clamps.
    pub fn finish(&self, rescaled: i64) -> i32 {
        (rescaled + i64::from(self.zero_point)).clamp(i64::from(self.lo), i64::from(self.hi)) as i32
    }
}

/// The one quantization of a real number (entry points and constants): q = round_half_even(clamp(x · (1/scale), lo − zp,
/// hi − zp)) + zp, with the reciprocal and the product in f32 and NaN giving `lo`. Multiplication and half-even
/// rounding are IEEE operations that every target has, so this is the same everywhere.
pub fn quantize(x: f32, scale: f32, zero_point: i32, (lo, hi): (i32, i32)) -> i32 {
    let t = x * (1.0 / scale);
    let (lo, hi) = ((lo - zero_point) as f32, (hi - zero_point) as f32);
    let t = if t > lo { t } else { lo };
    let t = if t < hi { t } else { hi };
    t.round_ties_even() as i32 + zero_point
}

/// real = scale · (q − zero_point), in f32.
pub fn dequantize(q: i32, scale: f32, zero_point: i32) -> f32 {
    scale * (q - zero_point) as f32
}
