//! Rescaling by one fused multiply-add, where it is provably the normative rule.
//!
//! For an accumulator z below 2²⁴ and a multiplier of at most 24 significant bits, z and s = M/2^e are f32 numbers, and
//! fma(z, s, 1.5·2²³ + zero point) rounds the exact sum once, to an integer: its low bits are the result. That is half to
//! even where the rule is half up (`Dyadic::apply`), so no accumulator may lie halfway between two integers.
//!
//! That concerns only accumulators whose results are not clamped. Conversion to f32 and the fused operation never decrease, so
//! all that lie beyond such a one, 2²⁴ or more even, are rescaled to the clamp's end or beyond it, and are clamped.

use goshawk_ir::Dyadic;

/// 1.5·2²³, whose neighbours in f32 are one apart. As bits, subtracting it leaves the integer that was added.
pub const MAGIC: f32 = 12_582_912.0;

/// M/2^e as f32 if [`MAGIC`] rescales every accumulator of magnitude up to `bound` exactly, or to a magnitude beyond
/// `limit`, at which all results are clamped anyway, where the exact result is beyond it.
pub fn as_float(mult: i32, shift: u8, bound: i64, limit: i64) -> Option<f32> {
    if mult <= 0 {
        return None;
    }
    // The least accumulator that is rescaled beyond the limit.
    let clamped = ((limit.unsigned_abs() as u128 + 1) << shift).div_ceil(mult as u128);
    let exact = (bound.unsigned_abs() as u128).min(clamped) as i64;
    let zeros = mult.trailing_zeros();
    let short = mult >> zeros < 1 << 24 && exact < 1 << 24;
    // A tie is z·M = 2^(e−1) times an odd number; with M = odd·2^zeros it takes 2^(e−1−zeros) to divide z ≠ 0.
    let factors = i64::from(shift) - 1 - i64::from(zeros);
    let ties = (0..62).contains(&factors) && exact >= 1 << factors;
    (short && !ties && fits(mult, shift, bound)).then(|| as_f32(mult, shift))
}

/// Whether the sum stays between 2²³ and 2²⁴, with the zero point too, for accumulators of magnitude up to `bound`.
fn fits(mult: i32, shift: u8, bound: i64) -> bool {
    (i128::from(bound) * i128::from(mult)) >> shift < 1 << 21
}

/// Most steps between results that [`agrees`] looks at.
const STEPS: i64 = 1 << 12;

/// Whether [`MAGIC`] rescales every accumulator from `least` to `most` as the rule does, once both results are clamped to
/// `lo` and `hi`. Both never decrease, so they agree everywhere if they do on either side of every step of the rule. For
/// what [`as_float`] does not prove: channels whose bias is large and whose products are small.
pub fn agrees(dyadic: Dyadic, [least, most]: [i64; 2], [lo, hi]: [i64; 2]) -> bool {
    let Dyadic { mult, shift } = dyadic;
    let [Ok(first), Ok(last)] = [least, most].map(i32::try_from) else { return false };
    if mult <= 0 || !fits(mult, shift, most.max(-least)) {
        return false;
    }
    let scale = as_f32(mult, shift);
    let rule = |z: i32| dyadic.apply(z).clamp(lo, hi);
    // Halves are rounded to even, zero point included, which may be even or odd.
    let same = |z: i32| {
        [MAGIC, MAGIC + 1.0].into_iter().all(|magic| {
            let sum = (z as f32).mul_add(scale, magic);
            (i64::from(sum.to_bits()) - i64::from(magic.to_bits())).clamp(lo, hi) == rule(z)
        })
    };
    // The least z that is rescaled to at least `result`.
    let step = |result: i64| {
        let numerator = (i128::from(result) << shift) - (1 << (shift - 1));
        let mult = i128::from(mult);
        (numerator.div_euclid(mult) + i128::from(numerator.rem_euclid(mult) > 0)) as i32
    };
    let results = rule(first) + 1..=rule(last);
    results.end() - results.start() < STEPS
        && same(first)
        && same(last)
        && results.map(step).all(|z| same(z) && same(z - 1))
}

/// M/2^e in f32, exact for at most 24 significant bits.
pub(super) fn as_f32(mult: i32, shift: u8) -> f32 {
    mult as f32 / 2f32.powi(i32::from(shift))
}

#[cfg(test)]
mod tests {
    use super::{MAGIC, agrees, as_float};
    use goshawk_ir::Dyadic;

    /// No result is clamped.
    const ANY: i64 = i32::MAX as i64;

    fn rescale(z: i32, s: f32, zero_point: i32) -> i32 {
        let sum = (z as f32).mul_add(s, MAGIC + zero_point as f32);
        sum.to_bits().wrapping_sub(MAGIC.to_bits()) as i32
    }

    /// So many scales from 2 down, `octave` of them to each power of two.
    fn scales(count: u32, octave: f64) -> impl Iterator<Item = (u32, f64)> {
        (0..count).map(move |i| (i, 2f64.powf(-f64::from(i) / octave) * (1.0 + f64::from(i % 7) / 9.0)))
    }

    /// The accumulators next to every boundary between two results, where an error would show first.
    #[test]
    fn equals_the_rule_at_every_boundary() {
        let mut proved = 0;
        for (_, scale) in scales(4000, 300.0) {
            let dyadic = Dyadic::from_f64(scale).expect("in range").shortened();
            let bound = ((1i64 << 24) - 1).min((2e6 / scale) as i64);
            let Some(s) = as_float(dyadic.mult, dyadic.shift, bound, ANY) else { continue };
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

    /// Beyond 2²⁴ accumulators are rounded, but their results are clamped; those next to the boundaries of all others are exact.
    #[test]
    fn equals_the_rule_where_large_results_are_clamped() {
        let mut proved = 0;
        for (i, scale) in scales(3000, 150.0) {
            let dyadic = Dyadic::from_f64(scale).expect("in range").shortened();
            let (bound, limit) = (i64::from(i32::MAX), [127, 255, 32767][i as usize % 3]);
            let Some(s) = as_float(dyadic.mult, dyadic.shift, bound, limit) else { continue };
            proved += 1;
            let near = |z: i64| (z - 3..=z + 3).chain([-z - 3, -z, -z + 3]);
            let boundary = |result: i64| ((result as f64 + 0.5) / scale) as i64;
            let results = [0, 1, 17, limit - 1, limit, limit + 1, 2 * limit].map(boundary);
            for z in results.into_iter().chain([1 << 24, bound]).flat_map(near).filter(|z| z.abs() <= bound) {
                let clamped = |v: i64| v.clamp(-limit, limit);
                let z = z as i32;
                assert_eq!(
                    clamped(rescale(z, s, 0).into()),
                    clamped(dyadic.apply(z)),
                    "{z} times {dyadic:?}"
                );
            }
        }
        assert!(proved > 500, "only {proved} proofs held");
    }

    /// Against all accumulators of small intervals, around large biases too.
    #[test]
    fn agreement_is_that_of_every_accumulator() {
        let (mut yes, mut no) = (0, 0);
        for (i, scale) in scales(600, 25.0) {
            let dyadic = Dyadic::from_f64(scale).expect("in range");
            let dyadic = if i % 2 == 0 { dyadic.shortened() } else { dyadic };
            let middle = [0.0, 1.0, -1.0][i as usize % 3] * f64::from(i % 11) * 25.5 / scale;
            let (least, most) = (middle as i32 - 700, middle as i32 + 400);
            let clamp = [[0, 255], [-128, 127], [-32768, 32767]][i as usize / 3 % 3];
            let s = super::as_f32(dyadic.mult, dyadic.shift);
            let [lo, hi] = clamp;
            let exact = |z: i32| {
                let sum = |zero_point: i32| i64::from(rescale(z, s, zero_point) - zero_point);
                [0, 1, 77].iter().all(|o| sum(*o).clamp(lo, hi) == dyadic.apply(z).clamp(lo, hi))
            };
            let expected = (least..=most).all(exact);
            assert_eq!(
                agrees(dyadic, [least, most].map(i64::from), clamp),
                expected,
                "{middle} times {dyadic:?}"
            );
            *if expected { &mut yes } else { &mut no } += 1;
        }
        assert!(yes > 200 && no > 20, "{yes} agree, {no} do not");
    }

    #[test]
    fn refuses_what_it_cannot_prove() {
        let half = Dyadic::from_f64(0.5).expect("in range");
        assert_eq!(as_float(half.mult, half.shift, 100, ANY), None, "1 lies halfway between 0 and 1");
        assert!(as_float(half.shortened().mult, half.shortened().shift, 100, ANY).is_some());
        let third = Dyadic::from_f64(1.0 / 3.0).expect("in range");
        assert_eq!(as_float(third.mult, third.shift, 100, ANY), None, "31 bits are no f32");
        let third = third.shortened();
        assert!(as_float(third.mult, third.shift, (1 << 21) - 1, ANY).is_some());
        assert_eq!(as_float(third.mult, third.shift, 1 << 24, ANY), None, "an accumulator beyond f32");
        let one = Dyadic::from_f64(1.0).expect("in range");
        assert!(as_float(one.mult, one.shift, 1 << 20, ANY).is_some());
        assert_eq!(
            as_float(one.mult, one.shift, 1 << 21, ANY),
            None,
            "a result beyond the magic number's range"
        );
        assert_eq!(
            as_float(one.mult, one.shift, 1 << 21, 255),
            None,
            "clamped, but beyond the magic number's range"
        );
        let small = Dyadic::from_f64(1e-5).expect("in range").shortened();
        assert!(as_float(small.mult, small.shift, 1 << 26, 127).is_some());
        assert_eq!(
            as_float(small.mult, small.shift, 1 << 26, 255),
            None,
            "255 takes an accumulator beyond f32"
        );
    }
}
