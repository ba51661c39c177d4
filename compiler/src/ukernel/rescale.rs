//! Rescaling by one fused multiply-add, where it is provably the normative rule.
//!
//! For an accumulator z below 2²⁴ and a multiplier of at most 24 significant bits, z and s = M/2^e are f32 numbers, and
//! fma(z, s, 1.5·2²³ + zero point) rounds the exact sum once, to an integer: its low bits are the result. That is half to
//! even where the rule is half up (`Dyadic::apply`), so no accumulator may lie halfway between two integers.

/// 1.5·2²³, whose neighbours in f32 are one apart. As bits, subtracting it leaves the integer that was added.
pub const MAGIC: f32 = 12_582_912.0;

/// M/2^e as f32 if [`MAGIC`] rescales every accumulator of magnitude up to `bound` exactly.
pub fn as_float(mult: i32, shift: u8, bound: i64) -> Option<f32> {
    if mult <= 0 {
        return None;
    }
    let zeros = mult.trailing_zeros();
    let short = mult >> zeros < 1 << 24 && bound < 1 << 24;
    // A tie is z·M = 2^(e−1) times an odd number; with M = odd·2^zeros it takes 2^(e−1−zeros) to divide z ≠ 0.
    let factors = i64::from(shift) - 1 - i64::from(zeros);
    let ties = (0..62).contains(&factors) && bound >= 1 << factors;
    // With the zero point the sum must stay between 2²³ and 2²⁴.
    let fits = (i128::from(bound) * i128::from(mult)) >> shift < 1 << 21;
    (short && !ties && fits).then(|| as_f32(mult, shift))
}

/// M/2^e in f32, exact for at most 24 significant bits.
pub(super) fn as_f32(mult: i32, shift: u8) -> f32 {
    mult as f32 / 2f32.powi(i32::from(shift))
}

#[cfg(test)]
mod tests {
    use super::{MAGIC, as_float};
    use goshawk_ir::Dyadic;

    fn rescale(z: i32, s: f32, zero_point: i32) -> i32 {
        let sum = (z as f32).mul_add(s, MAGIC + zero_point as f32);
        sum.to_bits().wrapping_sub(MAGIC.to_bits()) as i32
    }

    /// The accumulators next to every boundary between two results, where an error would show first.
    #[test]
    fn equals_the_rule_at_every_boundary() {
        let mut proved = 0;
        for i in 0..4000u32 {
            let scale = 2f64.powf(-f64::from(i) / 300.0) * (1.0 + f64::from(i % 7) / 9.0);
            let dyadic = Dyadic::from_f64(scale).expect("in range").shortened();
            let bound = ((1i64 << 24) - 1).min((2e6 / scale) as i64);
            let Some(s) = as_float(dyadic.mult, dyadic.shift, bound) else { continue };
            proved += 1;
            for result in [-300.5, -128.5, -1.5, -0.5, 0.5, 1.5, 17.5, 254.5, 255.5, 2047.5, 32766.5] {
                let z = (result / scale) as i64;
                for z in (z - 3..=z + 3).filter(|z| z.abs() <= bound) {
                    let z = z as i32;
                    assert_eq!(i64::from(rescale(z, s, 77)), dyadic.apply(z) + 77, "{z} times {dyadic:?}");
                }
            }
        }
        assert!(proved > 3900, "only {proved} proofs held");
    }

    #[test]
    fn refuses_what_it_cannot_prove() {
        let half = Dyadic::from_f64(0.5).expect("in range");
        assert_eq!(as_float(half.mult, half.shift, 100), None, "1 lies halfway between 0 and 1");
        assert!(as_float(half.shortened().mult, half.shortened().shift, 100).is_some());
        let third = Dyadic::from_f64(1.0 / 3.0).expect("in range");
        assert_eq!(as_float(third.mult, third.shift, 100), None, "31 bits are no f32");
        let third = third.shortened();
        assert!(as_float(third.mult, third.shift, (1 << 21) - 1).is_some());
        assert_eq!(as_float(third.mult, third.shift, 1 << 24), None, "an accumulator beyond f32");
        let one = Dyadic::from_f64(1.0).expect("in range");
        assert!(as_float(one.mult, one.shift, 1 << 20).is_some());
        assert_eq!(as_float(one.mult, one.shift, 1 << 21), None, "a result beyond the magic number's range");
    }
}
