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
//!
//! AVX2 without dot products multiplies by `vpmaddubsw` and sums in i16, which must not leave them:
//!
//! 4. the offset is the smallest that leaves no value negative, so that values are at most 4R, rounded up. For each output
//!    channel, position and lane (two neighbouring k of each step of four), the positive transformed filters of the steps
//!    that are summed before they are widened, times the largest value, must stay below 2¹⁵, and the negative ones too.
//!    The most steps for which that holds, segment by segment as the kernel makes them, are the period.
use crate::{
    codegen::ops::conv::ConvSpec,
    ukernel::{
        Dot, Isa,
        winograd::{self, DATA, OFFSET, RESULTS, SCALE_BITS, TAPS},
    },
};

/// With what a layer is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proof {
    offsets: Offsets,
    /// Steps of four k whose sums AVX2 may hold in i16.
    period: usize,
}

/// What makes transformed data unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Offsets {
    /// Of all positions but (1, 1), and of that: their difference is a multiple of four.
    usual: i64,
    centre: i64,
}

impl Proof {
    /// Proves a layer of 3×3 filters, or says what does not hold.
    pub fn new(spec: &ConvSpec, isa: Isa, dot: Option<Dot>, bounds: &[i64]) -> Result<Self, String> {
        let (lo, hi) = spec.input_range;
        let (lo, hi) = (i64::from(lo), i64::from(hi));
        let offsets = Offsets::new(isa, lo, hi)?;
        let short = isa == Isa::Avx2 && dot.is_none();
        let s8 = i64::from(i8::MIN)..=i64::from(i8::MAX);
        let steps = winograd::depth(spec.input[3]) / 4;
        let mut sums = Sums::new(steps, [offsets.usual + 2 * (hi - lo), offsets.centre + 4 * hi]);
        for channel in 0..spec.channels {
            if bounds[channel] << SCALE_BITS >= 1 << 31 {
                return Err(format!("four times the sums of output channel {channel} may leave 32 bits"));
            }
            let filters: Vec<_> = (0..spec.input[3]).map(|k| filter(spec, channel, k)).collect();
            if let Some(value) = filters.iter().flatten().flatten().find(|u| !s8.contains(u)) {
                return Err(format!(
                    "a transformed weight of output channel {channel} is {value}, more than 8 bits"
                ));
            }
            if short {
                sums.push(&filters);
            }
        }
        let period = match short {
            true => sums.period().ok_or("two transformed weights could saturate vpmaddubsw")?,
            false => steps,
        };
        Ok(Self { offsets, period })
    }

    /// What is added at every position.
    pub fn offset(&self) -> u8 {
        self.offsets.usual as u8
    }

    /// What is added at position (1, 1) beyond that, modulo 2⁸.
    pub fn centre(&self) -> u8 {
        (self.offsets.centre - self.offsets.usual).rem_euclid(256) as u8
    }

    /// Steps of four k that are summed before they are widened.
    pub fn period(&self) -> usize {
        self.period
    }

    /// Where the sums of a channel start: its bias less the offsets' share, for each result of a tile.
    pub fn start(&self, spec: &ConvSpec, channel: usize, bias: i32) -> [[i32; RESULTS]; RESULTS] {
        let mut offsets = [[0; DATA]; DATA];
        for k in 0..spec.input[3] {
            let u = filter(spec, channel, k);
            for (r, row) in offsets.iter_mut().enumerate() {
                for (c, sum) in row.iter_mut().enumerate() {
                    *sum += u[r][c] * self.offsets.at(r, c);
                }
            }
        }
        // Equal offsets come from constants added to the data, and what (1, 1) has beyond that is a multiple of four: the
        // division is exact. Modulo 2³² as the sums are.
        winograd::square(offsets, winograd::results)
            .map(|row| row.map(|v| bias.wrapping_sub((v >> SCALE_BITS) as i32)))
    }
}

impl Offsets {
    /// For data in [lo, hi].
    fn new(isa: Isa, lo: i64, hi: i64) -> Result<Self, String> {
        let width = hi - lo;
        if 2 * width >= OFFSET {
            return Err(format!("transformed activations in {lo}..={hi} leave 8 bits"));
        }
        Ok(match isa {
            Isa::Vnni512 if 4 * hi < OFFSET => Self { usual: OFFSET, centre: OFFSET },
            Isa::Vnni512 => Self { usual: OFFSET, centre: -4 * lo },
            Isa::Avx2 => Self { usual: (2 * width + 3) / 4 * 4, centre: -4 * lo },
        })
    }

    fn at(self, row: usize, column: usize) -> i64 {
        if (row, column) == (1, 1) { self.centre } else { self.usual }
    }
}

/// What AVX2 sums in i16.
struct Sums {
    steps: usize,
    /// Positive and negative transformed filters of two neighbouring k, for each step, of lane after lane, position after
    /// position, channel after channel.
    pairs: Vec<[i16; 2]>,
    /// Largest transformed datum, and that of position (1, 1).
    largest: [i64; 2],
}

impl Sums {
    fn new(steps: usize, largest: [i64; 2]) -> Self {
        Self { steps, pairs: Vec::new(), largest }
    }

    /// One more output channel.
    fn push(&mut self, filters: &[[[i64; DATA]; DATA]]) {
        for (position, lane) in (0..DATA * DATA).flat_map(|p| [(p, 0), (p, 2)]) {
            let value = |k: usize| filters.get(k).map_or(0, |u| u[position / DATA][position % DATA] as i16);
            self.pairs.extend((0..self.steps).map(|step| {
                let pair = [0, 1].map(|i| value(4 * step + lane + i));
                [pair.map(|u| u.max(0)).iter().sum(), pair.map(|u| -u.min(0)).iter().sum()]
            }));
        }
    }

    /// Whether no sum of `period` steps, aligned, leaves i16.
    fn fit(&self, period: usize) -> bool {
        let top = i64::from(i16::MAX);
        let limits = self.largest.map(|largest| (top / largest.max(1)) as i32);
        self.pairs.chunks(self.steps).enumerate().all(|(lane, pairs)| {
            let position = lane / 2 % (DATA * DATA);
            let limit = limits[usize::from(position == DATA + 1)];
            pairs.chunks(period).all(|segment| {
                let sum = segment
                    .iter()
                    .fold([0, 0], |[p, n], pair| [p + i32::from(pair[0]), n + i32::from(pair[1])]);
                sum.iter().all(|sum| *sum <= limit)
            })
        })
    }

    /// Steps of the fewest equal segments that fit.
    fn period(&self) -> Option<usize> {
        (1..=self.steps).map(|segments| self.steps.div_ceil(segments)).find(|period| self.fit(*period))
    }
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
            let proofs = [Isa::Vnni512, Isa::Avx2].map(|isa| Offsets::new(isa, lo, hi));
            assert!(proofs.iter().all(|p| p.is_ok() == (width < 64)), "{lo}..={hi}");
            for (r, row) in values(lo, hi).iter().enumerate() {
                for (c, found) in row.iter().enumerate() {
                    let wanted = if (r, c) == (1, 1) { [4 * lo, 4 * hi] } else { [-2 * width, 2 * width] };
                    let [first, last] = [found.first(), found.last()].map(|v| *v.expect("values"));
                    assert_eq!([first, last], wanted);
                    for offsets in proofs.iter().flatten() {
                        let offset = offsets.at(r, c);
                        assert!(first + offset >= 0 && last + offset <= 255, "{lo}..={hi} at {r}, {c}");
                        assert_eq!((offset - offsets.usual) % 4, 0);
                    }
                    if let Ok(offsets) = &proofs[1] {
                        // AVX2 wants small values: the largest is the width of the interval, or two more.
                        assert!(last + offsets.at(r, c) <= 4 * width + 2);
                    } else if (r, c) == (0, 0) {
                        assert!(last - first > 255, "a byte could hold {first}..={last}");
                    }
                }
            }
        }
    }

    /// The period is the largest of its kind: brute force over the sums that can occur.
    #[test]
    fn sums_of_a_period_stay_in_i16() {
        for seed in 0..300i64 {
            let steps = 2 + (seed % 11) as usize;
            let largest = [62, 60 + seed % 7 * 30];
            let filters: Vec<[[i64; DATA]; DATA]> = (0..4 * steps as i64)
                .map(|k| {
                    let u =
                        |i: i64| ((seed * 31 + k * k * 7 + i * i * 13 + k * i) % 255 - 127).clamp(-72, 72);
                    std::array::from_fn(|r| std::array::from_fn(|c| u((DATA * r + c) as i64)))
                })
                .collect();
            let mut sums = Sums::new(steps, largest);
            sums.push(&filters);
            let extreme = |period: usize| {
                let mut most = 0;
                for (r, c) in (0..DATA).flat_map(|r| (0..DATA).map(move |c| (r, c))) {
                    let top = largest[usize::from((r, c) == (1, 1))];
                    for (lane, sign) in [(0, 1), (2, 1), (0, -1), (2, -1)] {
                        for first in (0..steps).step_by(period) {
                            let of = |step: usize| (0..2).map(move |i| 4 * step + lane + i);
                            let chosen = (first..steps.min(first + period)).flat_map(of);
                            let sum: i64 = chosen.map(|k| (sign * filters[k][r][c]).max(0) * top).sum();
                            most = most.max(sum);
                        }
                    }
                }
                most
            };
            match sums.period() {
                Some(period) => {
                    assert!(extreme(period) <= i64::from(i16::MAX), "seed {seed}");
                    let fewer = (1..=steps).map(|n| steps.div_ceil(n)).take_while(|p| *p > period);
                    assert!(fewer.into_iter().all(|p| extreme(p) > i64::from(i16::MAX)), "seed {seed}");
                }
                None => assert!(extreme(1) > i64::from(i16::MAX), "seed {seed}"),
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
