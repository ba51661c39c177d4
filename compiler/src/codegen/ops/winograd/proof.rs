//! What Winograd needs to be exact (docs/winograd.md), proven from the layer at hand.
//!
//! All arithmetic is modulo 2⁸ (transforms) or 2³² (sums), and a sum, difference or product modulo n is that of the
//! values modulo n. So nothing in between can go wrong; what must hold is that the bytes that `vpdpbusd` multiplies
//! *are* the values that are meant, and that the last sum fits:
//!
//! 1. data in [lo, hi], R = hi − lo: a transformed value adds two or four of them with alternating signs, and lies in
//!    [−2R, 2R], at position (1, 1), which adds all four, in [4 lo, 4 hi]. Plus its offset it must be a u8. The bounds
//!    are attained, so the condition is necessary too.
//! 2. every transformed filter of the layer must be an s8: checked one by one.
//! 3. four times the accumulator, bias included, must be an i32.
use crate::{
    codegen::ops::conv::ConvSpec,
    ukernel::winograd::{self, DATA, OFFSET, RESULTS, SCALE_BITS, TAPS},
};

/// Offsets with which a layer is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proof {
    /// Offset of position (1, 1); that of the others is [`OFFSET`].
    centre: i64,
}

impl Proof {
    /// Proves a layer of 3×3 filters, or says what does not hold.
    pub fn new(spec: &ConvSpec, bounds: &[i64]) -> Result<Self, String> {
        let (lo, hi) = (i64::from(spec.input_range.0), i64::from(spec.input_range.1));
        let proof = Self { centre: centre(lo, hi)? };
        let s8 = i64::from(i8::MIN)..=i64::from(i8::MAX);
        for channel in 0..spec.channels {
            if bounds[channel] << SCALE_BITS >= 1 << 31 {
                return Err(format!("four times the sums of output channel {channel} may leave 32 bits"));
            }
            let wide = |u: [[i64; DATA]; DATA]| u.into_iter().flatten().find(|u| !s8.contains(u));
            if let Some(value) = (0..spec.input[3]).find_map(|k| wide(filter(spec, channel, k))) {
                return Err(format!(
                    "a transformed weight of output channel {channel} is {value}, more than 8 bits"
                ));
            }
        }
        Ok(proof)
    }

    /// What is added at position (1, 1) beyond [`OFFSET`], modulo 2⁸.
    pub fn centre(&self) -> u8 {
        (self.centre - OFFSET).rem_euclid(256) as u8
    }

    /// Where the sums of a channel start: its bias less the offsets' share, for each result of a tile.
    pub fn start(&self, spec: &ConvSpec, channel: usize, bias: i32) -> [[i32; RESULTS]; RESULTS] {
        let mut offsets = [[0; DATA]; DATA];
        for k in 0..spec.input[3] {
            let u = filter(spec, channel, k);
            for (r, row) in offsets.iter_mut().enumerate() {
                for (c, sum) in row.iter_mut().enumerate() {
                    *sum += u[r][c] * if (r, c) == (1, 1) { self.centre } else { OFFSET };
                }
            }
        }
        // Offsets are multiples of four, so that the division is exact. Modulo 2³² as the sums are.
        winograd::square(offsets, winograd::results)
            .map(|row| row.map(|v| bias.wrapping_sub((v >> SCALE_BITS) as i32)))
    }
}

/// The offset of position (1, 1) for data in [lo, hi].
fn centre(lo: i64, hi: i64) -> Result<i64, String> {
    let width = hi - lo;
    if 2 * width >= OFFSET {
        return Err(format!("transformed activations in 0..={hi} leave 8 bits"));
    }
    Ok(if (-OFFSET..OFFSET).contains(&(4 * lo)) && 4 * hi < OFFSET { OFFSET } else { -4 * lo })
}

/// The transformed filter of an output and an input channel.
fn filter(spec: &ConvSpec, channel: usize, k: usize) -> [[i64; DATA]; DATA] {
    let channels = spec.input[3];
    let tap = |r: usize, c: usize| i64::from(spec.weight(channel, (r * TAPS + c) * channels + k));
    let taps = std::array::from_fn(|r| std::array::from_fn(|c| tap(r, c)));
    winograd::square(taps, winograd::filter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// All transformed values that data of two extremes can give, for each position.
    fn values(lo: i64, hi: i64) -> [[BTreeSet<i64>; DATA]; DATA] {
        let mut found: [[BTreeSet<i64>; DATA]; DATA] = Default::default();
        for bits in 0..1 << (DATA * DATA) {
            let value = |r: usize, c: usize| if bits >> (r * DATA + c) & 1 == 1 { hi } else { lo };
            let d = std::array::from_fn(|r| std::array::from_fn(|c| value(r, c)));
            for (r, row) in winograd::square(d, winograd::data).into_iter().enumerate() {
                for (c, v) in row.into_iter().enumerate() {
                    found[r][c].insert(v);
                }
            }
        }
        found
    }

    /// Transformed values are linear in each datum, so extremes give the extremes: brute force over all of them shows that the
    /// bounds hold and are attained, and that the offsets are sufficient and the refusals necessary.
    #[test]
    fn bounds_of_transformed_data_are_attained() {
        for (lo, hi) in [(0, 1), (0, 15), (0, 31), (0, 32), (0, 63), (3, 66), (0, 64), (100, 164), (190, 253)]
        {
            let width = hi - lo;
            let proof = centre(lo, hi);
            assert_eq!(proof.is_ok(), width < 64, "{lo}..={hi}");
            for (r, row) in values(lo, hi).iter().enumerate() {
                for (c, found) in row.iter().enumerate() {
                    let wanted = if (r, c) == (1, 1) { [4 * lo, 4 * hi] } else { [-2 * width, 2 * width] };
                    let [first, last] = [found.first(), found.last()].map(|v| *v.expect("values"));
                    assert_eq!([first, last], wanted);
                    if let Ok(centre) = proof {
                        let offset = if (r, c) == (1, 1) { centre } else { OFFSET };
                        assert!(first + offset >= 0 && last + offset <= 255, "{lo}..={hi} at {r}, {c}");
                        assert_eq!(offset % 4, 0);
                    } else if (r, c) == (0, 0) {
                        assert!(last - first > 255, "a byte could hold {first}..={last}");
                    }
                }
            }
        }
    }

    /// Four-bit weights never fail, five-bit ones may.
    #[test]
    fn bounds_of_transformed_filters_are_attained() {
        for (limit, largest) in [(8, 72), (16, 144)] {
            for position in 0..DATA * DATA {
                let unit = |i: usize| {
                    let g = std::array::from_fn(|r| std::array::from_fn(|c| i64::from(r * TAPS + c == i)));
                    winograd::square(g, winograd::filter)[position / DATA][position % DATA]
                };
                let sum: i64 = (0..TAPS * TAPS).map(|i| unit(i).abs() * limit).sum();
                let ones = [1, TAPS as i64];
                let [r, c] = [position / DATA, position % DATA].map(|i| ones[usize::from(i == 1 || i == 2)]);
                assert_eq!(sum, r * c * limit);
                assert!(sum <= largest);
            }
        }
    }
}
