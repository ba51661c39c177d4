//! Sliding windows without a dot product: depthwise convolution, maximum and average pools.
//!
//! Outputs whose windows hold the same taps are treated alike: along each axis the outputs split into runs of equal
//! tap ranges (three for an ordinary padded window), and each pair of a row run and a column run gets its own loops.
//! Inside, channels are the vector lanes: eight at a time as i16, the rest one by one.
use super::{
    conv::ConvSpec,
    rescale::{self, Lane, Output, Scheme},
};
use crate::{
    Result,
    codegen::{
        builder::Fb,
        emitter::{Emitter, Level},
    },
};
use cranelift_codegen::ir::{InstBuilder, Value, condcodes::IntCC, types::*};
use cranelift_module::{FuncId, Linkage, Module};
use goshawk_ir::{DType, Requant, op::window::PoolWindow};

/// Neighbouring outputs along one axis with the same taps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// First output.
    pub start: usize,
    /// How many.
    pub count: usize,
    /// First tap inside the input, and how many follow.
    tap: usize,
    taps: usize,
    /// Input index of that tap for the first output.
    input: usize,
    /// Cells in the divisor of an average.
    pub counted: usize,
}

pub(super) fn runs(window: &PoolWindow, axis: usize, input: usize, out: usize) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for o in 0..out {
        let (taps, counted) = window.taps(axis, o, input);
        let start = o * window.stride[axis];
        let (first, before) = (taps.first().copied().unwrap_or(0), window.pads[axis]);
        let tap = if taps.is_empty() { 0 } else { (first + before - start) / window.dilation[axis] };
        match runs.last_mut() {
            Some(r) if (r.tap, r.taps, r.counted) == (tap, taps.len(), counted) => r.count += 1,
            _ => runs.push(Run { start: o, count: 1, tap, taps: taps.len(), input: first, counted }),
        }
    }
    runs
}

/// Geometry shared by the three operators.
struct Grid {
    input: [usize; 4],
    out: [usize; 2],
    window: PoolWindow,
    in_bytes: usize,
    out_bytes: usize,
}

/// One pair of runs, with everything a body needs to walk the taps.
struct Cell<'a> {
    rows: &'a Run,
    columns: &'a Run,
    /// Byte steps from tap to tap.
    tap_row: i64,
    tap_column: i64,
}

impl Grid {
    /// Calls `body` at every output pixel: (cell, first tap of channel 0, result of channel 0).
    fn walk(
        &self,
        b: &mut Fb<'_>,
        input: Value,
        out: Value,
        body: &mut dyn FnMut(&mut Fb<'_>, &Cell<'_>, Value, Value),
    ) {
        let [n, h, w, c] = self.input;
        let pixel = (c * self.in_bytes) as i64;
        let row = w as i64 * pixel;
        let result = (c * self.out_bytes) as i64;
        let result_row = self.out[1] as i64 * result;
        let [sy, sx] = self.window.stride.map(|s| s as i64);
        let [dy, dx] = self.window.dilation.map(|d| d as i64);
        let rows = runs(&self.window, 0, h, self.out[0]);
        let columns = runs(&self.window, 1, w, self.out[1]);
        b.repeat(n, &[input, out], |b, image| {
            for r in &rows {
                let from = b.offset(image[0], r.input as i64 * row);
                let to = b.offset(image[1], r.start as i64 * result_row);
                b.repeat(r.count, &[from, to], |b, line| {
                    for k in &columns {
                        let cell = Cell { rows: r, columns: k, tap_row: dy * row, tap_column: dx * pixel };
                        let from = b.offset(line[0], k.input as i64 * pixel);
                        let to = b.offset(line[1], k.start as i64 * result);
                        b.repeat(k.count, &[from, to], |b, v| {
                            body(b, &cell, v[0], v[1]);
                            vec![b.offset(v[0], sx * pixel), b.offset(v[1], result)]
                        });
                    }
                    vec![b.offset(line[0], sy * row), b.offset(line[1], result_row)]
                });
            }
            let image_out = self.out[0] as i64 * result_row;
            vec![b.offset(image[0], h as i64 * row), b.offset(image[1], image_out)]
        });
    }
}

impl Cell<'_> {
    fn taps(&self) -> usize {
        self.rows.taps * self.columns.taps
    }

    /// Folds `f` over the taps: `f(pointer, sums)`, unrolled along columns when there are few.
    fn fold(
        &self,
        b: &mut Fb<'_>,
        first: Value,
        sums: Vec<Value>,
        mut f: impl FnMut(&mut Fb<'_>, Value, Vec<Value>) -> Vec<Value>,
    ) -> Vec<Value> {
        self.fold_rows(b, first, sums, |b, first, sums| {
            let vars: Vec<Value> = std::iter::once(first).chain(sums).collect();
            let end = b.repeat(self.columns.taps, &vars, |b, v| {
                let sums = f(b, v[0], v[1..].to_vec());
                std::iter::once(b.offset(v[0], self.tap_column)).chain(sums).collect()
            });
            end[1..].to_vec()
        })
    }

    /// Folds `f` over the rows of taps: `f(pointer to the first, sums)`.
    fn fold_rows(
        &self,
        b: &mut Fb<'_>,
        first: Value,
        sums: Vec<Value>,
        mut f: impl FnMut(&mut Fb<'_>, Value, Vec<Value>) -> Vec<Value>,
    ) -> Vec<Value> {
        let vars: Vec<Value> = std::iter::once(first).chain(sums).collect();
        let end = b.repeat(self.rows.taps, &vars, |b, v| {
            let sums = f(b, v[0], v[1..].to_vec());
            std::iter::once(b.offset(v[0], self.tap_row)).chain(sums).collect()
        });
        end[1..].to_vec()
    }
}

/// Eight activations as i16x8.
fn load8(b: &mut Fb<'_>, dtype: DType, pointer: Value, offset: i32) -> Value {
    match dtype {
        DType::U8 => b.load_u8x8(pointer, offset),
        _ => b.load(I16X8, pointer, offset),
    }
}

/// Depthwise convolution: (input, result). Each tap's x̂ = x − zp is an i16, so borders need no compensation.
pub(crate) fn depthwise<M: Module>(em: &mut Emitter<M>, name: &str, spec: &ConvSpec) -> Result<FuncId> {
    let c = spec.channels;
    let window = PoolWindow {
        kernel: spec.kernel,
        stride: spec.window.stride,
        pads: spec.window.pads,
        dilation: spec.window.dilation,
        ceil_mode: false,
        count_include_pad: false,
    };
    let out_bytes = spec.output.dtype.bytes(1);
    let grid = Grid { input: spec.input, out: spec.out, window, in_bytes: 1, out_bytes };
    let plan = DepthwisePlan::new(spec);
    let blocks = if plan.scheme == Scheme::Scalar { 0 } else { c / 8 };
    let rest = c - 8 * blocks;
    let (vectors, scalars) = depthwise_weights(spec, blocks);
    let step = if spec.int4 { 4 } else { 8 };
    let vectors = em.rodata(&format!("{name}_weights"), vectors)?;
    let scalars = em.rodata(&format!("{name}_weights"), scalars)?;
    let constants = em.rodata(&format!("{name}_requant"), plan.bytes(&spec.bias))?;
    em.function(name, Linkage::Local, Level::Speed, 2, &[], |em, b, p| {
        let [vectors, scalars, constants] = [vectors, scalars, constants].map(|d| em.address(b, d));
        let zero_point = i64::from(spec.input_zero_point);
        grid.walk(b, p[0], p[1], &mut |b, cell, from, to| {
            let columns = spec.kernel[1];
            let first = (cell.rows.tap * columns + cell.columns.tap) as i64;
            let skipped = (columns - cell.columns.taps) as i64;
            let tap = (blocks * step) as i64;
            let w = b.offset(vectors, first * tap);
            let end = b.repeat(blocks, &[from, to, constants, w], |b, v| {
                let sums = [0, 16].map(|o| b.load(I32X4, v[2], o)).to_vec();
                let sums = cell.fold_weights(b, v[0], v[3], tap, skipped * tap, sums, |b, x, w, sums| {
                    let mut x = b.load_u8x8(x, 0);
                    if zero_point != 0 {
                        let zp = b.lanes(I16X8, zero_point);
                        x = b.ins().isub(x, zp);
                    }
                    let w = if spec.int4 { load_nibbles(b, w) } else { b.load_s8x8(w, 0) };
                    // |x̂| ≤ 255 and |w| ≤ 128: the product is an i16.
                    let product = b.ins().imul(x, w);
                    let (low, high) = (b.ins().swiden_low(product), b.ins().swiden_high(product));
                    vec![b.ins().iadd(sums[0], low), b.ins().iadd(sums[1], high)]
                });
                let values: Vec<Value> =
                    (0..2).map(|i| plan.rescale(b, sums[i], v[2], i as i32, spec.output)).collect();
                let packed = b.narrow(&values, spec.output);
                b.store_part(packed[0], v[1], 0, 8 * out_bytes);
                let steps = [8, 8 * out_bytes as i64, plan.block_bytes() as i64, step as i64];
                v.iter().zip(steps).map(|(p, s)| b.offset(*p, s)).collect()
            });
            let tap = rest as i64;
            let w = b.offset(scalars, first * tap);
            b.repeat(rest, &[end[0], end[1], end[2], w], |b, v| {
                let bias = b.load(I32, v[2], 0);
                let sums =
                    cell.fold_weights(b, v[0], v[3], tap, skipped * tap, vec![bias], |b, x, w, sums| {
                        let x = b.load_i32(DType::U8, x, 0);
                        let x = b.offset(x, -zero_point);
                        let w = b.load_i32(DType::I8, w, 0);
                        let product = b.ins().imul(x, w);
                        vec![b.ins().iadd(sums[0], product)]
                    });
                let mult = b.load(I32, v[2], 4);
                let mult = b.ins().sextend(I64, mult);
                let (round, shift) = (b.load(I64, v[2], 8), b.load(I64, v[2], 16));
                let rescaled = b.rescale1_by(sums[0], mult, round, shift);
                let value = b.finish1(rescaled, spec.output);
                b.store_i32(spec.output.dtype, value, v[1], 0);
                let steps = [1, out_bytes as i64, SCALAR_BYTES as i64, 1];
                v.iter().zip(steps).map(|(p, s)| b.offset(*p, s)).collect()
            });
        });
        b.ins().return_(&[]);
        Ok(())
    })
}

/// Weights of `blocks` blocks of eight channels by tap, and of the other channels by tap, one to a byte. A block of
/// INT4 weights takes four bytes: channel i in the low nibble of byte i, channel i + 4 in the high one.
fn depthwise_weights(spec: &ConvSpec, blocks: usize) -> (Vec<u8>, Vec<u8>) {
    let (mut vectors, mut scalars) = (Vec::new(), Vec::new());
    for tap in 0..spec.kernel[0] * spec.kernel[1] {
        let weight = |c: usize| spec.weight(c, tap) as u8;
        for first in (0..8 * blocks).step_by(8) {
            if spec.int4 {
                vectors.extend((first..first + 4).map(|c| (weight(c) & 15) | (weight(c + 4) << 4)));
            } else {
                vectors.extend((first..first + 8).map(weight));
            }
        }
        scalars.extend((8 * blocks..spec.channels).map(weight));
    }
    (vectors, scalars)
}

/// Eight INT4 weights of four bytes as i16x8.
fn load_nibbles(b: &mut Fb<'_>, w: Value) -> Value {
    let packed = b.load(I32, w, 0);
    let packed = b.ins().splat(I32X4, packed);
    let packed = b.cast(I8X16, packed);
    let [low, high] = super::gemm::nibbles(b, packed);
    // The interleaving of 32-bit words (punpckldq), which every target has.
    let bytes = b.shuffle(low, high, [0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23]);
    b.ins().swiden_low(bytes)
}

impl Cell<'_> {
    /// As [`Cell::fold`] with a second pointer, into weights of `step` bytes a tap and `skip` after each row.
    fn fold_weights(
        &self,
        b: &mut Fb<'_>,
        x: Value,
        w: Value,
        step: i64,
        skip: i64,
        sums: Vec<Value>,
        mut f: impl FnMut(&mut Fb<'_>, Value, Value, Vec<Value>) -> Vec<Value>,
    ) -> Vec<Value> {
        if self.taps() == 0 {
            return sums;
        }
        let vars: Vec<Value> = [x, w].into_iter().chain(sums).collect();
        let end = b.repeat(self.rows.taps, &vars, |b, v| {
            let mut walk = v.to_vec();
            for _ in 0..self.columns.taps {
                let sums = f(b, walk[0], walk[1], walk[2..].to_vec());
                let next = [b.offset(walk[0], self.tap_column), b.offset(walk[1], step)];
                walk = next.into_iter().chain(sums).collect();
            }
            let next = [b.offset(v[0], self.tap_row), b.offset(walk[1], skip)];
            next.into_iter().chain(walk[2..].iter().copied()).collect()
        });
        end[2..].to_vec()
    }
}

/// Bytes of the constants of one scalar channel: bias i32, mult i32, round i64, shift i64.
const SCALAR_BYTES: usize = 24;

/// Requantization of a depthwise convolution.
pub(crate) struct DepthwisePlan {
    pub scheme: Scheme,
    lanes: Vec<Lane>,
    plain: Vec<(i32, u8)>,
}

impl DepthwisePlan {
    pub fn new(spec: &ConvSpec) -> Self {
        let plain: Vec<(i32, u8)> =
            (0..spec.channels).map(|c| (spec.requant.dyadic(c).mult, spec.requant.dyadic(c).shift)).collect();
        let bounds = spec.bounds();
        let (scheme, lanes) = rescale::prepare(&plain, &bounds);
        Self { scheme, lanes, plain }
    }

    /// Bytes of the constants of eight vector channels.
    const fn block_bytes(&self) -> usize {
        super::pack::epilogue_bytes(self.scheme)
    }

    /// Whole blocks as GEMM epilogues, then the other channels one by one.
    fn bytes(&self, bias: &[i32]) -> Vec<u8> {
        let mut out = Vec::new();
        let blocks = if self.scheme == Scheme::Scalar { 0 } else { bias.len() / 8 };
        for block in 0..blocks {
            let range = 8 * block..8 * block + 8;
            super::pack::epilogue(&mut out, self.scheme, &bias[range.clone()], &self.lanes[range]);
        }
        for c in 8 * blocks..bias.len() {
            let (mult, shift) = self.plain[c];
            out.extend(bias[c].to_le_bytes());
            out.extend(mult.to_le_bytes());
            out.extend((1i64 << (shift - 1)).to_le_bytes());
            out.extend(i64::from(shift).to_le_bytes());
        }
        out
    }

    /// Rescales four channels and adds the zero point.
    fn rescale(&self, b: &mut Fb<'_>, z: Value, constants: Value, v: i32, out: Output) -> Value {
        let pre = b.load(I32X4, constants, 64 + 16 * v);
        let z = b.ins().imul(z, pre);
        let mult = b.load(I32X4, constants, 32 + 16 * v);
        let value = match (self.scheme, self.lanes.first()) {
            (Scheme::Uniform, Some(lane)) => {
                let round = b.lanes(I64X2, lane.round);
                let high = b.scaled_high(z, mult, [round; 2]);
                let shift = b.int(I32, i64::from(lane.shift - 32));
                b.ins().sshr(high, shift)
            }
            _ => {
                let round = [0, 1].map(|i| b.load(I64X2, constants, 96 + 32 * v + 16 * i));
                let high = b.scaled_high(z, mult, round);
                let post = b.load(I32X4, constants, 160 + 16 * v);
                b.shift_by_lane(high, post)
            }
        };
        let zero_point = b.lanes(I32X4, i64::from(out.zero_point));
        b.ins().iadd(value, zero_point)
    }
}

/// Maximum pool: (input, result).
pub(crate) fn max_pool<M: Module>(
    em: &mut Emitter<M>,
    name: &str,
    window: &PoolWindow,
    input: [usize; 4],
    out: [usize; 2],
    dtype: DType,
) -> Result<FuncId> {
    let bytes = dtype.bytes(1);
    let lanes = 16 / bytes;
    let c = input[3];
    let grid = Grid { input, out, window: window.clone(), in_bytes: bytes, out_bytes: bytes };
    let (least, ty) = match dtype {
        DType::U8 => (0, I8X16),
        _ => (i64::from(i16::MIN), I16X8),
    };
    em.function(name, Linkage::Local, Level::Speed, 2, &[], |_, b, p| {
        grid.walk(b, p[0], p[1], &mut |b, cell, from, to| {
            let end = b.repeat(c / lanes, &[from, to], |b, v| {
                let low = b.lanes(ty, least);
                let top = cell.fold(b, v[0], vec![low], |b, x, top| {
                    let x = b.load(ty, x, 0);
                    vec![if ty == I8X16 { b.ins().umax(x, top[0]) } else { b.ins().smax(x, top[0]) }]
                });
                b.store(top[0], v[1], 0);
                vec![b.offset(v[0], 16), b.offset(v[1], 16)]
            });
            b.repeat(c % lanes, &end, |b, v| {
                let low = b.int(I32, least);
                let top = cell.fold(b, v[0], vec![low], |b, x, top| {
                    let x = b.load_i32(dtype, x, 0);
                    let more = b.ins().icmp(IntCC::SignedGreaterThan, x, top[0]);
                    vec![b.ins().select(more, x, top[0])]
                });
                b.store_i32(dtype, top[0], v[1], 0);
                vec![b.offset(v[0], bytes as i64), b.offset(v[1], bytes as i64)]
            });
        });
        b.ins().return_(&[]);
        Ok(())
    })
}

/// Groups of eight channels that an average of many cells takes together, so that it reads each line of memory once or twice.
const GROUPS: usize = 4;
/// Cells from which on that is worth its code.
const FEW_TAPS: usize = 25;

/// Average pool: (input, result). One dyadic number for each count of cells.
pub(crate) fn avg_pool<M: Module>(
    em: &mut Emitter<M>,
    name: &str,
    window: &PoolWindow,
    requant: &Requant,
    input: ([usize; 4], DType, i32),
    out: [usize; 2],
    output: Output,
) -> Result<FuncId> {
    let ([_, _, _, c], dtype, zero_point) = input;
    let (in_bytes, out_bytes) = (dtype.bytes(1), output.dtype.bytes(1));
    let grid = Grid { input: input.0, out, window: window.clone(), in_bytes, out_bytes };
    let most = match dtype {
        DType::U8 => 255,
        _ => 1 << 15,
    };
    em.function(name, Linkage::Local, Level::Speed, 2, &[], |_, b, p| {
        grid.walk(b, p[0], p[1], &mut |b, cell, from, to| {
            let count = (cell.rows.counted * cell.columns.counted).clamp(1, requant.mult.len());
            let dyadic = requant.mult[count - 1];
            let start = -i64::from(zero_point) * cell.taps() as i64;
            let bound = cell.taps() as i64 * most;
            let (scheme, lanes) = rescale::prepare(&[(dyadic.mult, dyadic.shift)], &[bound]);
            // `groups` of eight channels.
            let some = |b: &mut Fb<'_>, groups: usize, v: &[Value]| {
                let zero = b.lanes(I32X4, start);
                let widen = |b: &mut Fb<'_>, x: &[Value], sums: &[Value]| -> Vec<Value> {
                    let both = |(x, sums): (&Value, &[Value])| {
                        let (low, high) = (b.ins().swiden_low(*x), b.ins().swiden_high(*x));
                        [b.ins().iadd(sums[0], low), b.ins().iadd(sums[1], high)]
                    };
                    x.iter().zip(sums.chunks(2)).flat_map(both).collect()
                };
                let load = |b: &mut Fb<'_>, x: Value| -> Vec<Value> {
                    (0..groups).map(|g| load8(b, dtype, x, (8 * g * in_bytes) as i32)).collect()
                };
                let sums = if most * cell.columns.taps as i64 <= i64::from(i16::MAX) {
                    // The sums of a row fit into 16 bits.
                    cell.fold_rows(b, v[0], vec![zero; 2 * groups], |b, first, sums| {
                        let none = b.lanes(I16X8, 0);
                        let vars: Vec<Value> = std::iter::once(first).chain(vec![none; groups]).collect();
                        let row = b.repeat(cell.columns.taps, &vars, |b, v| {
                            let x = load(b, v[0]);
                            let sums = v[1..].iter().zip(x).map(|(sum, x)| b.ins().iadd(*sum, x));
                            let sums: Vec<Value> = sums.collect();
                            std::iter::once(b.offset(v[0], cell.tap_column)).chain(sums).collect()
                        });
                        widen(b, &row[1..], &sums)
                    })
                } else {
                    cell.fold(b, v[0], vec![zero; 2 * groups], |b, x, sums| {
                        let x = load(b, x);
                        widen(b, &x, &sums)
                    })
                };
                let zp = b.lanes(I32X4, i64::from(output.zero_point));
                for (group, sums) in sums.chunks(2).enumerate() {
                    let values: Vec<Value> = sums
                        .iter()
                        .map(|z| {
                            let v = b.rescale4(*z, lanes[0]);
                            b.ins().iadd(v, zp)
                        })
                        .collect();
                    let packed = b.narrow(&values, output);
                    let to = b.offset(v[1], (8 * group * out_bytes) as i64);
                    b.store_part(packed[0], to, 0, 8 * out_bytes);
                }
                let channels = 8 * groups as i64;
                vec![b.offset(v[0], channels * in_bytes as i64), b.offset(v[1], channels * out_bytes as i64)]
            };
            let vectors = if scheme == Scheme::Uniform { c / 8 } else { 0 };
            let many = if cell.taps() > FEW_TAPS { vectors / GROUPS } else { 0 };
            let end = b.repeat(many, &[from, to], |b, v| some(b, GROUPS, v));
            let end = b.repeat(vectors - many * GROUPS, &end, |b, v| some(b, 1, v));
            b.repeat(c - 8 * vectors, &end, |b, v| {
                let zero = b.int(I32, start);
                let sums = cell.fold(b, v[0], vec![zero], |b, x, sums| {
                    let x = b.load_i32(dtype, x, 0);
                    vec![b.ins().iadd(sums[0], x)]
                });
                let rescaled = b.rescale1(sums[0], dyadic);
                let value = b.finish1(rescaled, output);
                b.store_i32(output.dtype, value, v[1], 0);
                vec![b.offset(v[0], in_bytes as i64), b.offset(v[1], out_bytes as i64)]
            });
        });
        b.ins().return_(&[]);
        Ok(())
    })
}
