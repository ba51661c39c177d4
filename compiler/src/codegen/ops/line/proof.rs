//! What Winograd along lines needs to be exact (docs/winograd.md), proven from the layer at hand as in two dimensions
//! ([`super::super::winograd`]): operands of `vpdpbusd` are the values that are meant, and the last sum fits.
//!
//! 1. data in [lo, hi], R = hi − lo: at positions 0, 2 and 3 a difference, in [−R, R]; at position 1 a sum, in [2 lo, 2 hi].
//!    Plus 128, or −2 lo, it is a u8 if R < 128.
//! 2. every transformed filter of the layer must be an s8: checked one by one.
//! 3. twice the accumulator, bias included, must be an i32.
use crate::{
    codegen::ops::conv::ConvSpec,
    ukernel::line::{self, OFFSET, SCALE_BITS, TAPS},
};

/// With what a layer is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proof {
    /// Offset at position 1, even.
    centre: i64,
}

impl Proof {
    /// Proves a layer of 3×3 filters, or says what does not hold.
    pub fn new(spec: &ConvSpec, bounds: &[i64]) -> Result<Self, String> {
        let (lo, hi) = spec.input_range;
        if hi - lo >= OFFSET as i32 {
            return Err(format!("transformed activations in {lo}..={hi} leave 8 bits"));
        }
        let s8 = i64::from(i8::MIN)..=i64::from(i8::MAX);
        for channel in 0..spec.channels {
            if bounds[channel] << SCALE_BITS >= 1 << 31 {
                return Err(format!("twice the sums of output channel {channel} may leave 32 bits"));
            }
            if let Some(value) = filters(spec, channel).flatten().find(|u| !s8.contains(u)) {
                return Err(format!(
                    "a transformed weight of output channel {channel} is {value}, more than 8 bits"
                ));
            }
        }
        let (lo, hi) = (i64::from(lo), i64::from(hi));
        Ok(Self { centre: if 2 * hi < OFFSET { OFFSET } else { -2 * lo } })
    }

    /// What is added at position 1 beyond [`OFFSET`], modulo 2⁸.
    pub fn centre(&self) -> u8 {
        (self.centre - OFFSET).rem_euclid(256) as u8
    }

    /// What a channel's results start from: its bias less the offsets' share, which is even because offsets are.
    pub fn start(&self, spec: &ConvSpec, channel: usize, bias: i32) -> [i64; 2] {
        let mut sums = [0; 4];
        for filter in filters(spec, channel) {
            for (sum, u) in sums.iter_mut().zip(filter) {
                *sum += u;
            }
        }
        let offsets = [OFFSET, self.centre, OFFSET, OFFSET];
        line::results(std::array::from_fn(|i| sums[i] * offsets[i]))
            .map(|share| i64::from(bias) - (share >> SCALE_BITS))
    }
}

/// The transformed filters of an output channel, one for each filter row and input channel.
fn filters(spec: &ConvSpec, channel: usize) -> impl Iterator<Item = [i64; 4]> {
    let channels = spec.input[3];
    (0..TAPS * channels).map(move |i| {
        let (row, k) = (i / channels, i % channels);
        let tap = |column: usize| i64::from(spec.weight(channel, (row * TAPS + column) * channels + k));
        line::filter([tap(0), tap(1), tap(2)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ukernel::winograd::data;

    /// Bounds of transformed data hold and are attained for all tiles of extreme values.
    #[test]
    fn ranges_of_transformed_data() {
        for (lo, hi) in [(0, 127), (3, 130), (0, 63), (10, 64)] {
            let centre = if 2 * hi < OFFSET { OFFSET } else { -2 * lo };
            let offsets = [OFFSET, centre, OFFSET, OFFSET];
            let (mut least, mut most) = (i64::MAX, i64::MIN);
            for corner in 0..16 {
                let d = std::array::from_fn(|i| if corner >> i & 1 == 1 { hi } else { lo });
                for (v, offset) in data(d).into_iter().zip(offsets) {
                    (least, most) = (least.min(v + offset), most.max(v + offset));
                }
            }
            assert!(least >= 0 && most <= 255, "{lo}..={hi}: {least}..={most}");
        }
        assert!(data([128, 0, 0, 0])[0] + OFFSET > 255, "eight bits more would not fit");
    }
}
