//! Dyadic numbers against exact rational arithmetic.
use goshawk_ir::{Dyadic, Requant};

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// ⌊z·mult/2^shift + ½⌋ as ⌊(2·z·mult + 2^shift) / 2^(shift+1)⌋ over the integers.
fn half_up(d: Dyadic, z: i32) -> i128 {
    let (numerator, denominator) = (i128::from(z) * i128::from(d.mult), 1i128 << d.shift);
    (2 * numerator + denominator).div_euclid(2 * denominator)
}

#[test]
fn apply_is_exact_for_a_million_accumulators() {
    let mut random = Random(1);
    for _ in 0..1_000_000 {
        let r = random.next();
        let d = Dyadic { mult: (r >> 33) as i32, shift: 1 + (r % 62) as u8 };
        // All magnitudes, both ends of the range often.
        let z = match r >> 8 & 15 {
            0 => i32::MIN,
            1 => i32::MAX,
            k => (random.next() as i32) >> (2 * (k - 2)),
        };
        assert_eq!(i128::from(d.apply(z)), half_up(d, z), "{d:?} · {z}");
        // Half to even differs from half up only at ties, and there by the parity.
        let (up, tie) = (half_up(d, z), (i128::from(z) * i128::from(d.mult)).rem_euclid(1 << d.shift));
        let even = if tie == 1 << (d.shift - 1) && up & 1 == 1 { up - 1 } else { up };
        assert_eq!(i128::from(d.apply_half_even(z)), even, "{d:?} · {z}");
    }
}

#[test]
fn ties_round_up() {
    let half = Dyadic { mult: 1 << 30, shift: 31 };
    let rounded: Vec<i64> = [-5, -3, -1, 0, 1, 3, 5].map(|z| half.apply(z)).into();
    assert_eq!(rounded, [-2, -1, 0, 0, 1, 2, 3]);
    let even: Vec<i64> = [-5, -3, -1, 0, 1, 3, 5].map(|z| half.apply_half_even(z)).into();
    assert_eq!(even, [-2, -2, 0, 0, 0, 2, 2]);
}

/// A double is mantissa·2^exponent; all arithmetic below is exact.
fn parts(s: f64) -> (i128, i32) {
    let bits = s.to_bits();
    let (exponent, fraction) = ((bits >> 52) as i32, i128::from(bits & ((1 << 52) - 1)));
    if exponent == 0 { (fraction, -1074) } else { (fraction | 1 << 52, exponent - 1075) }
}

#[test]
fn from_f64_is_the_nearest_with_31_bits() {
    let mut random = Random(2);
    for i in 0..200_000 {
        // Exponents from 2⁻³¹ to 2²⁹, where the multiplier keeps all of its bits.
        let bits = (random.next() & ((1 << 52) - 1)) | (((i % 60 + 1023 - 31) as u64) << 52);
        let s = f64::from_bits(bits);
        let d = Dyadic::from_f64(s).unwrap();
        assert!((1 << 30..=i32::MAX).contains(&d.mult) && (1..=62).contains(&d.shift), "{s:e}: {d:?}");
        // |mult/2^shift − s| ≤ half a step, as integers scaled by 2^(shift − exponent + 1).
        let (mantissa, exponent) = parts(s);
        let up = -exponent - i32::from(d.shift);
        assert!(up >= 0, "a double has 53 bits, the multiplier 31");
        let (ours, exact) = (i128::from(d.mult) << up, mantissa);
        assert!(2 * (ours - exact).abs() <= 1 << up, "{s:e}: {d:?}");
        assert_eq!(d.value(), f64::from(d.mult) * 2f64.powi(-i32::from(d.shift)));
    }
}

#[test]
fn a_multiplier_of_two_to_the_31_is_normalised() {
    // (1 − 2⁻³³)·2³¹ rounds to 2³¹.
    let s = 1.0 - 2f64.powi(-33);
    assert_eq!(Dyadic::from_f64(s).unwrap(), Dyadic { mult: 1 << 30, shift: 30 });
    assert_eq!(Dyadic::from_f64(1.0).unwrap(), Dyadic { mult: 1 << 30, shift: 30 });
    assert_eq!(Dyadic::from_f64(0.75).unwrap(), Dyadic { mult: 3 << 29, shift: 31 });
}

#[test]
fn small_ratios_lose_bits_and_extreme_ones_are_refused() {
    assert_eq!(Dyadic::from_f64(2f64.powi(-32)).unwrap(), Dyadic { mult: 1 << 30, shift: 62 });
    assert_eq!(Dyadic::from_f64(2f64.powi(-62)).unwrap(), Dyadic { mult: 1, shift: 62 });
    assert_eq!(Dyadic::from_f64(f64::MIN_POSITIVE / 8.0).unwrap(), Dyadic { mult: 0, shift: 62 });
    assert_eq!(Dyadic::from_f64(2f64.powi(29)).unwrap(), Dyadic { mult: 1 << 30, shift: 1 });
    for s in [2f64.powi(30), 0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(Dyadic::from_f64(s).is_err(), "{s}");
    }
}

#[test]
fn requant_adds_the_zero_point_after_rounding_and_clamps() {
    let half = Dyadic { mult: 1 << 30, shift: 31 };
    let r = Requant { mult: vec![half], zero_point: 10, lo: 8, hi: 12 };
    let results: Vec<i32> = [-100, -5, -3, -1, 1, 3, 5, i32::MAX].map(|z| r.apply(z, 7)).into();
    assert_eq!(results, [8, 8, 9, 10, 11, 12, 12, 12]);
}

#[test]
fn shortened_numbers_are_f32_numbers_and_close() {
    let mut random = Random(7);
    for _ in 0..100_000 {
        let r = random.next();
        let d = Dyadic { mult: ((r >> 34) | 1 << 30) as i32, shift: 1 + (r % 62) as u8 };
        let s = d.shortened();
        assert_eq!(f64::from(s.value() as f32), s.value(), "{d:?} became {s:?}");
        assert!((s.value() / d.value() - 1.0).abs() < 2f64.powi(-22), "{d:?} became {s:?}");
    }
    let one = Dyadic::from_f64(1.0).expect("in range");
    assert_eq!(one.shortened(), one, "whole numbers stay");
}
