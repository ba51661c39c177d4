//! Requantization: clamp(((z·M + 2^(e−1)) >> e) + zero_point, lo, hi), exactly as `goshawk_ir::quant` defines it.
//!
//! Vectors of four lanes have no 64-bit arithmetic shift and no shift by lane. Both are avoided:
//! * the product is shifted by at least 32, so that the high halves are picked by a shuffle and shifted as i32;
//! * z is first multiplied by a power of two so that one shift E serves all lanes (*uniform*): 2^d·z must stay an i32,
//!   which the accumulator bound proves;
//! * where it does not (dead channels have shifts far from the others'), the shift of the high half is a second
//!   multiplication, by 2^(30−k) and a shift by 30 (*per lane*).
//!
//! Rounding is unchanged: (2^d·z·M + 2^(E−1)) >> E = (z·M + 2^(e−1)) >> e for E = e + d.
use crate::codegen::builder::Fb;
use cranelift_codegen::ir::{InstBuilder, Type, Value, condcodes::IntCC, types::*};
use goshawk_ir::{DType, Dyadic};

/// Zero point and clamp of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    pub dtype: DType,
    pub zero_point: i32,
    pub lo: i32,
    pub hi: i32,
}

impl Output {
    /// The clamp, the zero point not counted.
    pub fn range(self) -> [i64; 2] {
        [self.lo, self.hi].map(|v| i64::from(v) - i64::from(self.zero_point))
    }

    /// Results beyond this magnitude, the zero point not counted, are clamped.
    pub fn limit(self) -> i64 {
        let [lo, hi] = self.range();
        hi.max(-lo)
    }
}

/// How a set of dyadic numbers is applied to vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scheme {
    /// One shift for all lanes.
    Uniform,
    /// A shift for each lane.
    PerLane,
    /// Lane by lane in 64-bit registers.
    Scalar,
}

/// The dyadic number of one channel, prepared for a scheme.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lane {
    pub mult: i32,
    /// 2^d.
    pub pre: i32,
    /// 2^(E−1).
    pub round: i64,
    /// E.
    pub shift: u8,
    /// 2^(30−(E−32)) of the per-lane scheme.
    pub post: i32,
}

/// Chooses the scheme for channels of these dyadic numbers (`shift` may exceed 62 by a factor folded into the
/// accumulator) and bounds of |z|.
pub(crate) fn prepare(dyadics: &[(i32, u8)], bounds: &[i64]) -> (Scheme, Vec<Lane>) {
    let fits = |d: u32, bound: i64| d < 31 && bound << d < 1 << 31;
    let widest = dyadics.iter().map(|d| d.1).max().unwrap_or(32).max(32);
    let lane = |(mult, shift): (i32, u8), to: u8| Lane {
        mult,
        pre: 1i32.checked_shl(u32::from(to - shift)).unwrap_or(0),
        round: 1i64 << (to - 1),
        shift: to,
        post: 1i32 << (62 - to),
    };
    let pairs = || dyadics.iter().copied().zip(bounds.iter().copied());
    if widest <= 62 && pairs().all(|((_, e), bound)| fits(u32::from(widest - e), bound)) {
        return (Scheme::Uniform, dyadics.iter().map(|d| lane(*d, widest)).collect());
    }
    if widest <= 62 && pairs().all(|((_, e), bound)| fits(u32::from(e.max(32) - e), bound)) {
        return (Scheme::PerLane, dyadics.iter().map(|d| lane(*d, d.1.max(32))).collect());
    }
    let plain = |(mult, shift): (i32, u8)| Lane { mult, pre: 1, round: 1i64 << (shift - 1), shift, post: 0 };
    (Scheme::Scalar, dyadics.iter().map(|d| plain(*d)).collect())
}

impl Fb<'_> {
    /// The high halves of four i64 lanes.
    fn high_halves(&mut self, low: Value, high: Value) -> Value {
        let picked = self.shuffle(low, high, [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31]);
        self.cast(I32X4, picked)
    }

    fn wide_product(&mut self, x: Value, y: Value) -> (Value, Value) {
        let (xl, yl) = (self.ins().swiden_low(x), self.ins().swiden_low(y));
        let low = self.ins().imul(xl, yl);
        let (xh, yh) = (self.ins().swiden_high(x), self.ins().swiden_high(y));
        (low, self.ins().imul(xh, yh))
    }

    /// High halves of z·mult + round, `round` for the two low and the two high lanes.
    pub fn scaled_high(&mut self, z: Value, mult: Value, round: [Value; 2]) -> Value {
        let (low, high) = self.wide_product(z, mult);
        let low = self.ins().iadd(low, round[0]);
        let high = self.ins().iadd(high, round[1]);
        self.high_halves(low, high)
    }

    /// ⌊z / 2^k⌋ with post = 2^(30−k), for |z| ≤ 2³⁰.
    pub fn shift_by_lane(&mut self, z: Value, post: Value) -> Value {
        let (low, high) = self.wide_product(z, post);
        let two = self.int(I32, 2);
        let (low, high) = (self.ins().ishl(low, two), self.ins().ishl(high, two));
        self.high_halves(low, high)
    }

    /// Rescales four lanes by one dyadic number, which [`prepare`] found uniform.
    pub fn rescale4(&mut self, z: Value, lane: Lane) -> Value {
        let z = if lane.pre == 1 {
            z
        } else {
            let amount = self.int(I32, i64::from(lane.pre.trailing_zeros()));
            self.ins().ishl(z, amount)
        };
        let mult = self.lanes(I32X4, i64::from(lane.mult));
        let round = self.lanes(I64X2, lane.round);
        let high = self.scaled_high(z, mult, [round; 2]);
        if lane.shift == 32 {
            return high;
        }
        let amount = self.int(I32, i64::from(lane.shift - 32));
        self.ins().sshr(high, amount)
    }

    /// Rescales an i32 by a constant; i64.
    pub fn rescale1(&mut self, z: Value, dyadic: Dyadic) -> Value {
        let z = self.ins().sextend(I64, z);
        let product = self.ins().imul_imm_s(z, i64::from(dyadic.mult));
        let product = self.ins().iadd_imm_s(product, 1i64 << (dyadic.shift - 1));
        self.ins().sshr_imm_u(product, i64::from(dyadic.shift))
    }

    /// Rescales an i32 by run-time values: mult and shift as i64, round as i64; i64.
    pub fn rescale1_by(&mut self, z: Value, mult: Value, round: Value, shift: Value) -> Value {
        let z = self.ins().sextend(I64, z);
        let product = self.ins().imul(z, mult);
        let product = self.ins().iadd(product, round);
        self.ins().sshr(product, shift)
    }

    /// Zero point and clamp of an i64; i32.
    pub fn finish1(&mut self, rescaled: Value, out: Output) -> Value {
        let v = self.offset(rescaled, i64::from(out.zero_point));
        let v = self.clamp_scalar(v, i64::from(out.lo), i64::from(out.hi));
        self.ins().ireduce(I32, v)
    }

    /// clamp of a scalar by compare and select.
    pub fn clamp_scalar(&mut self, v: Value, lo: i64, hi: i64) -> Value {
        let ty = self.func.dfg.value_type(v);
        let (lo, hi) = (self.int(ty, lo), self.int(ty, hi));
        let below = self.ins().icmp(IntCC::SignedLessThan, v, lo);
        let v = self.ins().select(below, lo, v);
        let above = self.ins().icmp(IntCC::SignedGreaterThan, v, hi);
        self.ins().select(above, hi, v)
    }

    /// Narrows `lanes` (i32x4 each, zero point added, a multiple of 16 bytes of result) with saturation and clamps.
    pub fn narrow(&mut self, lanes: &[Value], out: Output) -> Vec<Value> {
        let halves: Vec<Value> = lanes.chunks(2).map(|p| self.ins().snarrow(p[0], p[1])).collect();
        match out.dtype {
            DType::U8 => halves
                .chunks(2)
                .map(|p| {
                    let v = self.ins().unarrow(p[0], p[p.len() - 1]);
                    self.clamp_packed(v, out)
                })
                .collect(),
            _ => halves.into_iter().map(|v| self.clamp_packed(v, out)).collect(),
        }
    }

    /// Clamps u8x16 or i16x8 of the result's type.
    pub fn clamp_packed(&mut self, v: Value, out: Output) -> Value {
        let (lo, hi) = (i64::from(out.lo), i64::from(out.hi));
        match out.dtype {
            DType::U8 => {
                let v = if lo > 0 {
                    let lo = self.lanes(I8X16, lo);
                    self.ins().umax(v, lo)
                } else {
                    v
                };
                if hi < 255 {
                    let hi = self.lanes(I8X16, hi);
                    self.ins().umin(v, hi)
                } else {
                    v
                }
            }
            _ => {
                let v = if lo > i64::from(i16::MIN) {
                    let lo = self.lanes(I16X8, lo);
                    self.ins().smax(v, lo)
                } else {
                    v
                };
                if hi < i64::from(i16::MAX) {
                    let hi = self.lanes(I16X8, hi);
                    self.ins().smin(v, hi)
                } else {
                    v
                }
            }
        }
    }

    /// Stores the first `bytes` of a 16-byte vector, beginning at byte `first` (a multiple of 8).
    pub fn store_part(&mut self, v: Value, pointer: Value, first: usize, bytes: usize) {
        if bytes == 16 {
            return self.store(v, pointer, 0);
        }
        let mut at = 0;
        for (ty, size) in [(I64X2, 8), (I32X4, 4), (I16X8, 2), (I8X16, 1)] as [(Type, usize); 4] {
            while bytes - at >= size {
                let w = self.cast(ty, v);
                let lane = self.ins().extractlane(w, ((first + at) / size) as u8);
                self.store(lane, pointer, at as i32);
                at += size;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes() {
        let bounds = [1 << 20; 2];
        assert_eq!(prepare(&[(1 << 30, 38), (1 << 30, 40)], &bounds).0, Scheme::Uniform);
        assert_eq!(prepare(&[(1 << 30, 38), (1 << 30, 60)], &bounds).0, Scheme::PerLane);
        assert_eq!(prepare(&[(1 << 30, 10), (1 << 30, 33)], &bounds).0, Scheme::Scalar);
        assert_eq!(prepare(&[(1 << 30, 64)], &bounds[..1]).0, Scheme::Scalar);
        let (_, lanes) = prepare(&[(7, 30)], &[100]);
        assert_eq!((lanes[0].pre, lanes[0].shift, lanes[0].round), (4, 32, 1 << 31));
    }
}
