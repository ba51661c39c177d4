//! The GEMM tile: `mr` pixels × 8 output channels, accumulators in registers, requantized and stored.
//!
//! One function per combination that occurs in the network, shared by all its layers: sizes and strides come from a
//! constant table ([`Geometry`]). 16 bytes of k per iteration; each row of activations is loaded once and its 4-byte
//! groups are broadcast by a shuffle.
//!
//! | kind | needs | per 4 (pair: 2) k and 4 channels | exact because |
//! |---|---|---|---|
//! | vnni | avx512vnni + avx512vl, or avxvnni | `vpdpbusd` | 32-bit sums |
//! | maddubs | ssse3 | `pmaddubsw`, `pmaddwd`, `paddd` | no pair saturates: proven for each pair of weights |
//! | usdot | i8mm | `usdot` | 32-bit sums |
//! | sdot | dotprod | `eor 0x80`, `sdot` | 32-bit sums; 128·Σw is in the bias |
//! | pair | – | `pmaddwd`, `paddd` (x86), `smull`, `addp`, `add` (AArch64) | 16-bit operands |
//!
//! Tile: 4×8 = 8 accumulators + 2 weights + 4 rows, which leaves two of the 16 xmm registers.
//!
//! INT4 weights are unpacked in registers. *Times 16* keeps each nibble in the high half of its byte, so that the
//! accumulator is 16 times too large (bias and shift are adapted); it needs a shift and two masks for 8 channels.
//! *Offset* gives the plain value and serves where 16·z could leave i32 or pairs would saturate.
use super::{
    pack::{self, KSTEP, NR},
    rescale::{Output, Scheme},
};
use crate::{
    Result,
    codegen::{
        builder::Fb,
        emitter::{Emitter, Level},
    },
};
use cranelift_codegen::ir::{InstBuilder, Type, Value, types::*};
use cranelift_module::{FuncId, Linkage, Module};
use goshawk_ir::DType;

/// Rows of the largest tile.
pub(crate) const MR: usize = 4;

/// The multiply-accumulate instruction of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Vnni,
    Maddubs,
    Usdot,
    Sdot,
    Pair,
}

/// How weights lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weights {
    Int8,
    Int4Times16,
    Int4Offset,
}

/// What distinguishes two kernels of one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub kind: Kind,
    pub weights: Weights,
    pub scheme: Scheme,
    /// Pixels, 1..=[`MR`].
    pub mr: usize,
    /// Channels that are stored, 1..=[`NR`].
    pub channels: usize,
    /// Result of 16 bit instead of 8.
    pub wide: bool,
}

impl Key {
    fn name(&self) -> String {
        let weights = match self.weights {
            Weights::Int8 => "i8",
            Weights::Int4Times16 => "i4x16",
            Weights::Int4Offset => "i4",
        };
        let (mr, channels) = (self.mr, self.channels);
        let out = if self.wide { "i16" } else { "u8" };
        format!("gemm_{:?}_{weights}_{:?}_{mr}x{channels}_{out}", self.kind, self.scheme).to_lowercase()
    }
}

/// Sizes, strides (bytes) and output grid of a kernel call; becomes a constant table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// From one pixel's activations to the next one's.
    pub pixel: i64,
    /// From one pixel's result to the next one's.
    pub result: i64,
    /// Kernel rows.
    pub rows: usize,
    /// Bytes of a kernel row, a multiple of [`KSTEP`].
    pub run: usize,
    /// From one kernel row's activations to the next one's.
    pub row: i64,
    /// Shift and rounding constant of the uniform scheme.
    pub shift: u8,
    pub round: i64,
    pub output: Output,
}

const RESULT: i32 = 8;
const ROWS: i32 = 16;
const STEPS: i32 = 24;
const SKIP: i32 = 32;
const SHIFT: i32 = 40;
const ROUND: i32 = 48;
const ZERO_POINT: i32 = 64;
const LO: i32 = 80;
const HI: i32 = 96;

impl Geometry {
    /// The table; offsets are the constants above.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let skip = self.row - self.run as i64;
        let fields = [self.pixel, self.result, self.rows as i64, (self.run / KSTEP) as i64, skip];
        for v in fields {
            out.extend(v.to_le_bytes());
        }
        out.extend(i64::from(self.shift.saturating_sub(32)).to_le_bytes());
        out.extend(self.round.to_le_bytes().repeat(2));
        out.extend(self.output.zero_point.to_le_bytes().repeat(4));
        for v in [self.output.lo, self.output.hi] {
            match self.output.dtype {
                DType::U8 => out.extend([v as u8; 16]),
                _ => out.extend((v as i16).to_le_bytes().repeat(8)),
            }
        }
        out
    }
}

/// Defines the kernel: (activations, weights, epilogue constants, result, geometry).
pub(crate) fn define<M: Module>(em: &mut Emitter<M>, key: Key) -> Result<FuncId> {
    em.function(&key.name(), Linkage::Local, Level::Kernel, 5, &[], |_, b, p| {
        kernel(b, key, p);
        b.ins().return_(&[]);
        Ok(())
    })
}

fn kernel(b: &mut Fb<'_>, key: Key, params: &[Value]) {
    let &[a, w, epilogue, out, geometry] = params else { return };
    let pixel = b.load(I64, geometry, 0);
    let rows = b.load(I64, geometry, ROWS);
    let steps = b.load(I64, geometry, STEPS);
    let skip = b.load(I64, geometry, SKIP);

    // Loop variables: one pointer per pixel, the weights, the accumulators.
    let mut vars = vec![a];
    for r in 1..key.mr {
        let next = b.ins().iadd(vars[r - 1], pixel);
        vars.push(next);
    }
    vars.push(w);
    for _ in 0..key.mr {
        for v in 0..2 {
            let bias = b.load(I32X4, epilogue, 16 * v);
            vars.push(bias);
        }
    }
    let sums = b.repeat_runtime(rows, &vars, |b, vars| {
        let mut vars = b.repeat_runtime(steps, vars, |b, vars| step(b, key, vars));
        for pointer in &mut vars[..key.mr] {
            *pointer = b.ins().iadd(*pointer, skip);
        }
        vars
    });
    store(b, key, &sums[key.mr + 1..], epilogue, out, geometry);
}

/// 16 bytes of k.
fn step(b: &mut Fb<'_>, key: Key, vars: &[Value]) -> Vec<Value> {
    let (pointers, w) = (&vars[..key.mr], vars[key.mr]);
    let mut sums = vars[key.mr + 1..].to_vec();
    let mut rows: Vec<Value> = pointers.iter().map(|p| b.load(I8X16, *p, 0)).collect();
    if key.kind == Kind::Sdot {
        let flip = b.lanes(I8X16, 0x80);
        for row in &mut rows {
            *row = b.ins().bxor(*row, flip);
        }
    }
    let ones = (key.kind == Kind::Maddubs).then(|| b.lanes(I16X8, 1));
    if key.kind == Kind::Pair {
        for half in 0..2 {
            let wide: Vec<Value> = rows
                .iter()
                .map(|r| if half == 0 { b.ins().uwiden_low(*r) } else { b.ins().uwiden_high(*r) })
                .collect();
            for pair in 0..4 {
                let weights = pair_weights(b, key.weights, w, 4 * half + pair);
                for (r, row) in wide.iter().enumerate() {
                    let x = broadcast(b, *row, pair, I16X8);
                    for v in 0..2 {
                        let product = b.madd(x, weights[v]);
                        sums[2 * r + v] = b.ins().iadd(sums[2 * r + v], product);
                    }
                }
            }
        }
    } else {
        for quad in 0..4 {
            let weights = quad_weights(b, key.weights, w, quad);
            for (r, row) in rows.iter().enumerate() {
                let x = broadcast(b, *row, quad, I8X16);
                for v in 0..2 {
                    sums[2 * r + v] = dot(b, key.kind, sums[2 * r + v], weights[v], x, ones);
                }
            }
        }
    }
    let bytes = match key.weights {
        Weights::Int8 => KSTEP * NR,
        Weights::Int4Times16 | Weights::Int4Offset => KSTEP * NR / 2,
    };
    let mut next: Vec<Value> = pointers.iter().map(|p| b.offset(*p, KSTEP as i64)).collect();
    next.push(b.offset(w, bytes as i64));
    next.extend(sums);
    next
}

/// The 4-byte group `group` in all four positions.
fn broadcast(b: &mut Fb<'_>, v: Value, group: i32, ty: Type) -> Value {
    let v = b.shuffle(v, v, (0..16).map(|i| 4 * group as u8 + i % 4));
    b.cast(ty, v)
}

/// Weights of channels 0–3 and 4–7 for four k, i8x16.
fn quad_weights(b: &mut Fb<'_>, weights: Weights, w: Value, quad: i32) -> [Value; 2] {
    match weights {
        Weights::Int8 => [0, 1].map(|v| b.load(I8X16, w, 32 * quad + 16 * v)),
        Weights::Int4Times16 => {
            let packed = b.load(I8X16, w, 16 * quad);
            let high = b.lanes(I8X16, 0xf0);
            let words = b.cast(I16X8, packed);
            let four = b.int(I32, 4);
            let shifted = b.ins().ishl(words, four);
            let shifted = b.cast(I8X16, shifted);
            [b.ins().band(shifted, high), b.ins().band(packed, high)]
        }
        Weights::Int4Offset => {
            let packed = b.load(I8X16, w, 16 * quad);
            nibbles(b, packed)
        }
    }
}

/// Weights of channels 0–3 and 4–7 for two k, i16x8.
fn pair_weights(b: &mut Fb<'_>, weights: Weights, w: Value, pair: i32) -> [Value; 2] {
    match weights {
        Weights::Int8 => [0, 1].map(|v| b.load_s8x8(w, 16 * pair + 8 * v)),
        Weights::Int4Times16 | Weights::Int4Offset => {
            let packed = b.load(I8X16, w, 16 * (pair / 2));
            let bytes = nibbles(b, packed)[pair as usize % 2];
            [b.ins().swiden_low(bytes), b.ins().swiden_high(bytes)]
        }
    }
}

/// Low and high nibbles as signed bytes: (n ^ 8) − 8 of each.
pub(super) fn nibbles(b: &mut Fb<'_>, packed: Value) -> [Value; 2] {
    let (mask, eight) = (b.lanes(I8X16, 15), b.lanes(I8X16, 8));
    let words = b.cast(I16X8, packed);
    let four = b.int(I32, 4);
    let shifted = b.ins().ushr(words, four);
    let shifted = b.cast(I8X16, shifted);
    [packed, shifted].map(|v| {
        let n = b.ins().band(v, mask);
        let n = b.ins().bxor(n, eight);
        b.ins().isub(n, eight)
    })
}

/// sum + the dot products of four u8 (`x`) and four i8 (`w`) in each of four lanes. The operand order of the products
/// is what the back ends match: weights first on x86-64, activations first on AArch64.
fn dot(b: &mut Fb<'_>, kind: Kind, sum: Value, w: Value, x: Value, ones: Option<Value>) -> Value {
    if let (Kind::Maddubs, Some(ones)) = (kind, ones) {
        let pairs = b.ins().x86_pmaddubsw(w, x);
        let product = b.madd(pairs, ones);
        return b.ins().iadd(sum, product);
    }
    let half = |b: &mut Fb<'_>, high: bool| {
        let x = match (kind, high) {
            (Kind::Sdot, false) => b.ins().swiden_low(x),
            (Kind::Sdot, true) => b.ins().swiden_high(x),
            (_, false) => b.ins().uwiden_low(x),
            (_, true) => b.ins().uwiden_high(x),
        };
        let w = if high { b.ins().swiden_high(w) } else { b.ins().swiden_low(w) };
        let product = if kind == Kind::Vnni { b.ins().imul(w, x) } else { b.ins().imul(x, w) };
        let (low, high) = (b.ins().swiden_low(product), b.ins().swiden_high(product));
        b.ins().iadd_pairwise(low, high)
    };
    let (low, high) = (half(b, false), half(b, true));
    let product = b.ins().iadd_pairwise(low, high);
    b.ins().iadd(product, sum)
}

impl Fb<'_> {
    /// x0·y0 + x1·y1 of neighbouring i16: `pmaddwd`.
    pub fn madd(&mut self, x: Value, y: Value) -> Value {
        let (xl, yl) = (self.ins().swiden_low(x), self.ins().swiden_low(y));
        let (xh, yh) = (self.ins().swiden_high(x), self.ins().swiden_high(y));
        let (low, high) = (self.ins().imul(xl, yl), self.ins().imul(xh, yh));
        self.ins().iadd_pairwise(low, high)
    }
}

/// Requantizes the accumulators and stores them.
fn store(b: &mut Fb<'_>, key: Key, sums: &[Value], epilogue: Value, out: Value, geometry: Value) {
    let zero_point = b.load(I32X4, geometry, ZERO_POINT);
    let mut values = Vec::with_capacity(sums.len());
    for (i, z) in sums.iter().enumerate() {
        let rescaled = rescale(b, key.scheme, *z, epilogue, i as i32 % 2, geometry);
        values.push(b.ins().iadd(rescaled, zero_point));
    }
    let halves: Vec<Value> = values.chunks(2).map(|p| b.ins().snarrow(p[0], p[1])).collect();
    let ty = if key.wide { I16X8 } else { I8X16 };
    let (lo, hi) = (b.load(ty, geometry, LO), b.load(ty, geometry, HI));
    let stride = b.load(I64, geometry, RESULT);
    let mut pointer = out;
    let rows_per_vector = if key.wide { 1 } else { 2 };
    for (i, rows) in halves.chunks(rows_per_vector).enumerate() {
        let v = if key.wide {
            let v = b.ins().smax(rows[0], lo);
            b.ins().smin(v, hi)
        } else {
            let v = b.ins().unarrow(rows[0], rows[rows.len() - 1]);
            let v = b.ins().umax(v, lo);
            b.ins().umin(v, hi)
        };
        for r in 0..rows.len() {
            if i + r > 0 {
                pointer = b.ins().iadd(pointer, stride);
            }
            let bytes = if key.wide { 2 * key.channels } else { key.channels };
            b.store_part(v, pointer, 8 * r, bytes);
        }
    }
}

/// Four lanes of the block's channels `4·v..`.
fn rescale(b: &mut Fb<'_>, scheme: Scheme, z: Value, epilogue: Value, v: i32, geometry: Value) -> Value {
    if scheme == Scheme::Scalar {
        let mut lanes = Vec::new();
        for i in 0..4 {
            let c = 4 * v + i;
            let lane = b.ins().extractlane(z, i as u8);
            let mult = b.load(I32, epilogue, 32 + 4 * c);
            let mult = b.ins().sextend(I64, mult);
            let round = b.load(I64, epilogue, 64 + 8 * c);
            let shift = b.load(I64, epilogue, 128 + 8 * c);
            let wide = b.rescale1_by(lane, mult, round, shift);
            // Anything beyond ±2²⁴ is beyond every output range, whatever the zero point.
            let wide = b.clamp_scalar(wide, -(1 << 24), 1 << 24);
            lanes.push(b.ins().ireduce(I32, wide));
        }
        let mut out = b.ins().splat(I32X4, lanes[0]);
        for i in 1..4 {
            out = b.ins().insertlane(out, lanes[i], i as u8);
        }
        return out;
    }
    let pre = b.load(I32X4, epilogue, 64 + 16 * v);
    let z = b.ins().imul(z, pre);
    let mult = b.load(I32X4, epilogue, 32 + 16 * v);
    match scheme {
        Scheme::Uniform => {
            let round = b.load(I64X2, geometry, ROUND);
            let high = b.scaled_high(z, mult, [round; 2]);
            let shift = b.load(I32, geometry, SHIFT);
            b.ins().sshr(high, shift)
        }
        Scheme::PerLane | Scheme::Scalar => {
            let round = [0, 1].map(|i| b.load(I64X2, epilogue, 96 + 32 * v + 16 * i));
            let high = b.scaled_high(z, mult, round);
            let post = b.load(I32X4, epilogue, 160 + 16 * v);
            b.shift_by_lane(high, post)
        }
    }
}

/// Bytes of one packed block for `k` elements.
pub(crate) const fn block_bytes(weights: Weights, k: usize) -> usize {
    match weights {
        Weights::Int8 => k * NR,
        Weights::Int4Times16 | Weights::Int4Offset => k * NR / 2,
    }
}

/// Packs one block; see [`pack::block`].
pub(crate) fn pack_block(
    out: &mut Vec<u8>,
    kind: Kind,
    weights: Weights,
    k: usize,
    weight: impl Fn(usize, usize) -> i32,
) {
    pack::block(out, k, kind == Kind::Pair, weights != Weights::Int8, weight);
}
