//! Convolutions and linear layers as loops over GEMM tiles.
//!
//! A linear layer is a 1×1 convolution over an image of one row. Two ways to feed the tiles:
//! * *direct*: where a kernel row is a run of contiguous bytes and a multiple of 16 long, tiles read the tensor
//!   itself (NHWC, so the rows of a tile lie at a constant distance). Only pixels whose window lies inside the input.
//! * *gathered*: windows are copied to a panel in the arena's scratch area, cells outside the input as the zero point
//!   (their x̂ is 0), the tail of k as zeros. Borders of direct layers, and everything else: any stride, dilation,
//!   group count and channel count.
//!
//! The zero point is folded into the bias: Σ (x − zp)·w = Σ x·w − zp·Σw. No tensor is read outside its bounds.
use super::{
    gemm::{self, Geometry, Key, Kind, MR, Weights},
    pack::{self, KSTEP, NR},
    rescale::{self, Lane, Output, Scheme},
};
use crate::{
    Result,
    codegen::{
        builder::Fb,
        emitter::{Emitter, Level},
        target::Target,
    },
};
use cranelift_codegen::ir::{FuncRef, InstBuilder, Value, condcodes::IntCC, types::*};
use cranelift_module::{DataId, FuncId, Linkage, Module};
use goshawk_ir::{DType, Requant, op::window::ConvWindow};
use std::collections::BTreeMap;

/// Bytes of the panel that gathered windows may take, unless one tile needs more.
const PANEL_BYTES: usize = 32 << 10;

/// A convolution with constant weights, independent of the graph.
#[derive(Clone, Debug)]
pub(crate) struct ConvSpec {
    /// N, H, W, C of the input.
    pub input: [usize; 4],
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Rows and columns of the result.
    pub out: [usize; 2],
    pub window: ConvWindow,
    /// Output channels.
    pub channels: usize,
    /// O, KH, KW, C/groups.
    pub weights: Vec<i8>,
    /// Weights come as 4-bit values.
    pub int4: bool,
    pub bias: Vec<i32>,
    pub requant: Requant,
    pub output: Output,
    pub input_zero_point: i32,
    /// Largest value that the input can hold.
    pub input_max: i32,
}

impl ConvSpec {
    pub fn group_inputs(&self) -> usize {
        self.input[3] / self.window.groups
    }

    pub fn group_outputs(&self) -> usize {
        self.channels / self.window.groups
    }

    /// Weights of one output channel, before padding.
    pub fn k(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.group_inputs()
    }

    pub fn macs(&self) -> u64 {
        (self.input[0] * self.out[0] * self.out[1] * self.channels) as u64 * self.k() as u64
    }

    pub fn is_depthwise(&self) -> bool {
        self.window.groups > 1 && self.group_inputs() == 1 && self.group_outputs() == 1
    }

    pub fn weight(&self, channel: usize, k: usize) -> i32 {
        i32::from(self.weights[channel * self.k() + k])
    }

    /// Outputs along `axis` whose windows lie inside the input: [start, end), possibly empty.
    fn interior(&self, axis: usize) -> (usize, usize) {
        let (input, kernel, out) = (self.input[1 + axis], self.kernel[axis], self.out[axis]);
        let (stride, before) = (self.window.stride[axis], self.window.pads[axis]);
        let extent = (kernel - 1) * self.window.dilation[axis] + 1;
        let start = before.div_ceil(stride).min(out);
        let last = (input + before).checked_sub(extent).map_or(0, |room| room / stride + 1);
        (start, last.clamp(start, out))
    }

    /// |accumulator| of a channel, bias included, for any input.
    pub fn bound(&self, channel: usize) -> i64 {
        let zp = i64::from(self.input_zero_point);
        let span = zp.max(i64::from(self.input_max) - zp);
        let (mut sum, mut plain) = (0i64, 0i64);
        for w in &self.weights[channel * self.k()..(channel + 1) * self.k()] {
            sum += i64::from(*w).abs();
            plain += i64::from(*w);
        }
        // The true accumulator, or the bias with the zero point folded in, whichever is larger.
        let bias = i64::from(self.bias[channel]);
        (sum * span + bias.abs()).max((bias - zp * plain).abs())
    }
}

/// What the planner decided for a GEMM layer.
#[derive(Clone, Debug)]
pub(crate) struct GemmPlan {
    pub kind: Kind,
    pub weights: Weights,
    pub scheme: Scheme,
    /// Interior windows are read in place.
    pub direct: bool,
    /// Pixels of the panel.
    pub panel: usize,
    /// k of a gathered window, padded.
    pub k: usize,
    pub scratch: usize,
    /// Why the layer is off the fastest path of its target.
    pub why: Option<String>,
    lanes: Vec<Lane>,
    bias: Vec<i32>,
}

/// Chooses kernel, weight format, requantization scheme and input mode.
pub(crate) fn plan(spec: &ConvSpec, target: &Target) -> GemmPlan {
    let (mut kind, mut why) = choose_kind(spec, target);
    let bounds: Vec<i64> = (0..spec.channels).map(|c| spec.bound(c)).collect();
    let fold =
        |kind: Kind| if kind == Kind::Sdot { spec.input_zero_point - 128 } else { spec.input_zero_point };
    let biases = |kind: Kind| -> Vec<i64> {
        (0..spec.channels)
            .map(|c| {
                let sum: i64 = (0..spec.k()).map(|k| i64::from(spec.weight(c, k))).sum();
                i64::from(spec.bias[c]) - i64::from(fold(kind)) * sum
            })
            .collect()
    };
    if kind == Kind::Sdot && biases(kind).iter().any(|b| i32::try_from(*b).is_err()) {
        (kind, why) = (Kind::Pair, Some("the bias with folded zero point leaves 32 bits".into()));
    }
    let mut bias = biases(kind);
    let mut dyadics: Vec<(i32, u8)> =
        (0..spec.channels).map(|c| (spec.requant.dyadic(c).mult, spec.requant.dyadic(c).shift)).collect();
    let mut weights = if spec.int4 { Weights::Int4Offset } else { Weights::Int8 };
    let largest =
        bounds.iter().chain(&bias.iter().map(|b| b.abs()).collect::<Vec<_>>()).copied().max().unwrap_or(0);
    let times16 = matches!(kind, Kind::Vnni | Kind::Usdot | Kind::Sdot)
        && largest < 1 << 27
        && dyadics.iter().all(|d| d.1 <= 58);
    let mut bounds = bounds;
    if spec.int4 && times16 {
        weights = Weights::Int4Times16;
        bias.iter_mut().for_each(|b| *b *= 16);
        bounds.iter_mut().for_each(|b| *b *= 16);
        dyadics.iter_mut().for_each(|d| d.1 += 4);
    }
    let (scheme, lanes) = rescale::prepare(&dyadics, &bounds);
    if scheme == Scheme::Scalar {
        why.get_or_insert_with(|| {
            "scale ratios above ½ with large accumulators: scalar requantization".into()
        });
    }
    let run = spec.kernel[1] * spec.input[3];
    let direct = run.is_multiple_of(KSTEP)
        && spec.window.groups == 1
        && (spec.window.dilation[1] == 1 || spec.kernel[1] == 1)
        && spec.interior(0).0 < spec.interior(0).1
        && spec.interior(1).0 < spec.interior(1).1;
    if !direct && spec.window.groups == 1 {
        why.get_or_insert_with(|| "kernel rows are not runs of 16 bytes: windows are gathered".into());
    }
    let k = spec.k().next_multiple_of(KSTEP);
    let pixels = spec.out[0] * spec.out[1];
    let panel = (PANEL_BYTES / k / MR * MR).clamp(MR, pixels.next_multiple_of(MR));
    let all_direct = direct && (0..2).all(|axis| spec.interior(axis) == (0, spec.out[axis]));
    let scratch = if all_direct { 0 } else { panel * k };
    let bias = bias.iter().map(|b| *b as i32).collect();
    GemmPlan { kind, weights, scheme, direct, panel, k, scratch, why, lanes, bias }
}

fn choose_kind(spec: &ConvSpec, target: &Target) -> (Kind, Option<String>) {
    if target.has("avxvnni") || (target.has("avx512vnni") && target.has("avx512vl")) {
        return (Kind::Vnni, None);
    }
    if target.has("i8mm") {
        return (Kind::Usdot, None);
    }
    if target.has("dotprod") {
        return (Kind::Sdot, None);
    }
    if !target.has("ssse3") {
        return (Kind::Pair, Some("the target has no 8-bit dot product".into()));
    }
    match saturating_pair(spec) {
        None => (Kind::Maddubs, None),
        Some(c) => (Kind::Pair, Some(format!("two weights of output channel {c} could saturate pmaddubsw"))),
    }
}

/// An output channel with neighbouring weights that could leave i16 in `pmaddubsw`, for inputs up to `input_max`.
fn saturating_pair(spec: &ConvSpec) -> Option<usize> {
    (0..spec.channels).find(|c| {
        (0..spec.k().next_multiple_of(2)).step_by(2).any(|k| {
            let w = [k, k + 1].map(|k| if k < spec.k() { spec.weight(*c, k) } else { 0 });
            let high: i32 = w.iter().map(|w| (*w).max(0)).sum();
            let low: i32 = w.iter().map(|w| (*w).min(0)).sum();
            high * spec.input_max > i32::from(i16::MAX) || low * spec.input_max < i32::from(i16::MIN)
        })
    })
}

/// Kernels of a model, shared by its layers.
pub(crate) type Kernels = BTreeMap<Key, FuncId>;

/// Defines the layer's function: (input, result, scratch).
pub(crate) fn define<M: Module>(
    em: &mut Emitter<M>,
    kernels: &mut Kernels,
    name: &str,
    spec: &ConvSpec,
    plan: &GemmPlan,
) -> Result<FuncId> {
    let mut layer = Layer { em, kernels, name, spec, plan };
    // Callees are defined before their callers.
    let (weights, epilogue) = layer.constants()?;
    let kernels = layer.kernels()?;
    let gather = if plan.scratch > 0 { Some(layer.gather()?) } else { None };
    let em = layer.em;
    let tables = [spec.in_place(plan), spec.in_panel(plan, false), spec.in_panel(plan, true)]
        .map(|g| em.rodata(&format!("{name}_geometry"), g.bytes()));
    let [direct, along, down] = tables;
    let tables = [direct?, along?, down?];
    em.function(name, Linkage::Local, Level::Speed, 3, &[], |em, b, p| {
        let kernels = kernels.map(|row| row.map(|id| em.callee(b, id)));
        let gather = gather.map(|id| em.callee(b, id));
        let (w, e) = (em.address(b, weights), em.address(b, epilogue));
        let [direct, along, down] = tables.map(|t| em.address(b, t));
        let tensors = Tensors { input: p[0], out: p[1], w, e };
        Body { spec, plan, kernels, gather, direct, along, down, scratch: p[2] }.emit(b, tensors);
        b.ins().return_(&[]);
        Ok(())
    })
}

struct Layer<'a, M: Module> {
    em: &'a mut Emitter<M>,
    kernels: &'a mut Kernels,
    name: &'a str,
    spec: &'a ConvSpec,
    plan: &'a GemmPlan,
}

impl<M: Module> Layer<'_, M> {
    /// Packed weights and epilogue constants.
    fn constants(&mut self) -> Result<(DataId, DataId)> {
        let (name, spec, plan) = (self.name, self.spec, self.plan);
        let (mut packed, mut constants) = (Vec::new(), Vec::new());
        let outputs = spec.group_outputs();
        for group in 0..spec.window.groups {
            for first in (0..outputs).step_by(NR) {
                let count = NR.min(outputs - first);
                let channel = group * outputs + first;
                gemm::pack_block(&mut packed, plan.kind, plan.weights, plan.k, |c, k| {
                    if c < count && k < spec.k() { spec.weight(channel + c, k) } else { 0 }
                });
                let range = channel..channel + count;
                pack::epilogue(&mut constants, plan.scheme, &plan.bias[range.clone()], &plan.lanes[range]);
            }
        }
        let weights = self.em.rodata(&format!("{name}_weights"), packed)?;
        Ok((weights, self.em.rodata(&format!("{name}_requant"), constants)?))
    }

    /// The kernels by number of pixels (− 1), for whole blocks and for the last one.
    fn kernels(&mut self) -> Result<[[FuncId; 2]; MR]> {
        let outputs = self.spec.group_outputs();
        let tail = if outputs.is_multiple_of(NR) { NR } else { outputs % NR };
        let whole = if outputs >= NR { NR } else { tail };
        let mut out = [[FuncId::from_u32(0); 2]; MR];
        for mr in 1..=MR {
            for (i, channels) in [whole, tail].into_iter().enumerate() {
                let wide = self.spec.output.dtype != DType::U8;
                let GemmPlan { kind, weights, scheme, .. } = *self.plan;
                let key = Key { kind, weights, scheme, mr, channels, wide };
                out[mr - 1][i] = match self.kernels.get(&key) {
                    Some(id) => *id,
                    None => {
                        let id = gemm::define(self.em, key)?;
                        self.kernels.insert(key, id);
                        id
                    }
                };
            }
        }
        Ok(out)
    }

    /// Defines the function that copies the window of one output: (group's first input channel of the image, row,
    /// column, destination).
    fn gather(&mut self) -> Result<FuncId> {
        let spec = self.spec;
        let [_, h, w, c] = spec.input;
        let ([kh, kw], [sy, sx], [dy, dx]) = (spec.kernel, spec.window.stride, spec.window.dilation);
        let (top, left, cg) = (spec.window.pads[0], spec.window.pads[1], spec.group_inputs());
        let zero = [spec.input_zero_point as u8; 8];
        let tail = self.plan.k - spec.k();
        let contiguous = spec.window.groups == 1 && dx == 1 && kw > 1;
        self.em.function(&format!("{}_gather", self.name), Linkage::Local, Level::Speed, 4, &[], |_, b, p| {
            let (input, to) = (p[0], p[3]);
            let y = b.ins().imul_imm_s(p[1], sy as i64);
            let y = b.offset(y, -(top as i64));
            let x = b.ins().imul_imm_s(p[2], sx as i64);
            let x = b.offset(x, -(left as i64));
            let end = b.repeat(kh, &[y, to], |b, v| {
                let (y, to) = (v[0], v[1]);
                // Unsigned, so that negative rows are outside as well.
                let inside = b.ins().icmp_imm_u(IntCC::UnsignedLessThan, y, h as i64);
                b.branch(
                    inside,
                    |b| {
                        let row = b.index(input, y, (w * c) as i64);
                        let each = |b: &mut Fb<'_>| {
                            b.repeat(kw, &[x, to], |b, v| {
                                let inside = b.ins().icmp_imm_u(IntCC::UnsignedLessThan, v[0], w as i64);
                                b.branch(
                                    inside,
                                    |b| {
                                        let from = b.index(row, v[0], c as i64);
                                        b.copy(from, v[1], cg);
                                        vec![]
                                    },
                                    |b| {
                                        b.fill(v[1], cg, zero);
                                        vec![]
                                    },
                                );
                                vec![b.offset(v[0], dx as i64), b.offset(v[1], cg as i64)]
                            });
                            vec![]
                        };
                        if contiguous && w >= kw {
                            let room = (w - kw + 1) as i64;
                            let inside = b.ins().icmp_imm_u(IntCC::UnsignedLessThan, x, room);
                            b.branch(
                                inside,
                                |b| {
                                    let from = b.index(row, x, c as i64);
                                    b.copy(from, to, kw * cg);
                                    vec![]
                                },
                                each,
                            );
                        } else {
                            each(b);
                        }
                        vec![]
                    },
                    |b| {
                        b.fill(to, kw * cg, zero);
                        vec![]
                    },
                );
                vec![b.offset(y, dy as i64), b.offset(to, (kw * cg) as i64)]
            });
            b.fill(end[1], tail, [0; 8]);
            b.ins().return_(&[]);
            Ok(())
        })
    }
}

impl ConvSpec {
    /// Bytes of one result pixel.
    fn result(&self) -> i64 {
        (self.channels * self.output.dtype.bytes(1)) as i64
    }

    /// Geometry of tiles that read the tensor.
    fn in_place(&self, plan: &GemmPlan) -> Geometry {
        let [_, _, w, c] = self.input;
        let row = (self.window.dilation[0] * w * c) as i64;
        let pixel = (self.window.stride[1] * c) as i64;
        self.geometry(plan, pixel, self.result(), [self.kernel[0], self.kernel[1] * c], row)
    }

    /// Geometry of tiles that read the panel and write along a row or down a column.
    fn in_panel(&self, plan: &GemmPlan, down: bool) -> Geometry {
        let step = if down { self.out[1] as i64 * self.result() } else { self.result() };
        self.geometry(plan, plan.k as i64, step, [1, plan.k], plan.k as i64)
    }

    fn geometry(
        &self,
        plan: &GemmPlan,
        pixel: i64,
        result: i64,
        [rows, run]: [usize; 2],
        row: i64,
    ) -> Geometry {
        // Without a uniform shift the shifts are among the epilogue constants.
        let (shift, round) = match plan.lanes.first() {
            Some(lane) if plan.scheme == Scheme::Uniform => (lane.shift, lane.round),
            _ => (32, 0),
        };
        Geometry { pixel, result, rows, run, row, shift, round, output: self.output }
    }
}

/// What a layer's function refers to.
struct Body<'a> {
    spec: &'a ConvSpec,
    plan: &'a GemmPlan,
    kernels: [[FuncRef; 2]; MR],
    gather: Option<FuncRef>,
    direct: Value,
    along: Value,
    down: Value,
    scratch: Value,
}

/// Pointers into the tensors.
#[derive(Clone, Copy)]
struct Tensors {
    input: Value,
    out: Value,
    w: Value,
    e: Value,
}

/// Pixels in a line: the first, how many, along a row (running on into the next ones) or down a column.
struct Segment {
    y: usize,
    x: usize,
    count: usize,
    down: bool,
}

/// Tiles of one run of pixels: where their activations begin, how they follow each other.
struct Tiles {
    from: Value,
    pixels: usize,
    pixel: i64,
    result: i64,
    geometry: Value,
}

impl Body<'_> {
    fn emit(&self, b: &mut Fb<'_>, t: Tensors) {
        let spec = self.spec;
        let [n, h, w, c] = spec.input;
        let [oh, ow] = spec.out;
        let unit = spec.window.stride == [1, 1] && spec.window.pads == [0; 4];
        if self.plan.direct && spec.kernel == [1, 1] && unit {
            return self.direct(b, t, (0, 1), (0, n * h * w));
        }
        let image = (h * w * c) as i64;
        let result = (oh * ow) as i64 * spec.result();
        b.repeat(n, &[t.input, t.out], |b, v| {
            self.image(b, Tensors { input: v[0], out: v[1], ..t });
            vec![b.offset(v[0], image), b.offset(v[1], result)]
        });
    }

    fn image(&self, b: &mut Fb<'_>, t: Tensors) {
        let [oh, ow] = self.spec.out;
        if !self.plan.direct {
            return self.gathered(b, t, &Segment { y: 0, x: 0, count: oh * ow, down: false });
        }
        let ((y0, y1), (x0, x1)) = (self.spec.interior(0), self.spec.interior(1));
        self.direct(b, t, (y0, y1), (x0, x1));
        let mut segments = vec![
            Segment { y: 0, x: 0, count: y0 * ow, down: false },
            Segment { y: y1, x: 0, count: (oh - y1) * ow, down: false },
        ];
        segments.extend((0..x0).chain(x1..ow).map(|x| Segment { y: y0, x, count: y1 - y0, down: true }));
        for segment in segments.iter().filter(|s| s.count > 0) {
            self.gathered(b, t, segment);
        }
    }

    /// Interior windows, read in place.
    fn direct(&self, b: &mut Fb<'_>, t: Tensors, (y0, y1): (usize, usize), (x0, x1): (usize, usize)) {
        let spec = self.spec;
        let [_, _, w, c] = spec.input;
        let [sy, sx] = spec.window.stride;
        let row = (w * c) as i64;
        let y = (y0 * sy) as i64 - spec.window.pads[0] as i64;
        let x = (x0 * sx) as i64 - spec.window.pads[1] as i64;
        let input = b.offset(t.input, y * row + x * c as i64);
        let out = b.offset(t.out, (y0 * spec.out[1] + x0) as i64 * spec.result());
        let (row_in, row_out) = (sy as i64 * row, spec.out[1] as i64 * spec.result());
        self.blocks(b, Tensors { input, out, ..t }, &mut |b, t, kernels| {
            b.repeat(y1 - y0, &[t.input, t.out], |b, v| {
                let tiles = Tiles {
                    from: v[0],
                    pixels: x1 - x0,
                    pixel: (sx * c) as i64,
                    result: spec.result(),
                    geometry: self.direct,
                };
                tiles.emit(b, Tensors { out: v[1], ..t }, kernels);
                vec![b.offset(v[0], row_in), b.offset(v[1], row_out)]
            });
        });
    }

    /// Windows of a segment, in panels.
    fn gathered(&self, b: &mut Fb<'_>, t: Tensors, segment: &Segment) {
        let spec = self.spec;
        let out = b.offset(t.out, (segment.y * spec.out[1] + segment.x) as i64 * spec.result());
        let (y, x) = (b.int(I64, segment.y as i64), b.int(I64, segment.x as i64));
        let panel = self.plan.panel;
        let end = b.repeat(segment.count / panel, &[y, x, out], |b, v| {
            self.panel(b, Tensors { out: v[2], ..t }, [v[0], v[1]], panel, segment.down)
        });
        if !segment.count.is_multiple_of(panel) {
            self.panel(
                b,
                Tensors { out: end[2], ..t },
                [end[0], end[1]],
                segment.count % panel,
                segment.down,
            );
        }
    }

    /// Gathers `count` windows and multiplies them, group by group; gives the next row, column and result.
    fn panel(&self, b: &mut Fb<'_>, t: Tensors, [y, x]: [Value; 2], count: usize, down: bool) -> Vec<Value> {
        let (spec, plan) = (self.spec, self.plan);
        let Some(gather) = self.gather else { return vec![y, x, t.out] };
        let (k, ow, steps) = (plan.k as i64, spec.out[1] as i64, count as i64);
        let step = if down { ow * spec.result() } else { spec.result() };
        let outputs = spec.group_outputs();
        let blocks = outputs.div_ceil(NR) as i64;
        let strides = [
            spec.group_inputs() as i64,
            (outputs * spec.output.dtype.bytes(1)) as i64,
            blocks * gemm::block_bytes(plan.weights, plan.k) as i64,
            blocks * pack::epilogue_bytes(plan.scheme) as i64,
        ];
        b.repeat(spec.window.groups, &[t.input, t.out, t.w, t.e], |b, g| {
            b.repeat(count, &[y, x, self.scratch], |b, v| {
                b.ins().call(gather, &[g[0], v[0], v[1], v[2]]);
                let to = b.offset(v[2], k);
                let [y, x] = if down { [b.offset(v[0], 1), v[1]] } else { next_pixel(b, v[0], v[1], ow) };
                vec![y, x, to]
            });
            let tiles = Tiles {
                from: self.scratch,
                pixels: count,
                pixel: k,
                result: step,
                geometry: if down { self.down } else { self.along },
            };
            let tensors = Tensors { input: self.scratch, out: g[1], w: g[2], e: g[3] };
            self.blocks(b, tensors, &mut |b, t, kernels| tiles.emit(b, t, kernels));
            g.iter().zip(strides).map(|(p, s)| b.offset(*p, s)).collect()
        });
        let [y, x] = if down {
            [b.offset(y, steps), x]
        } else {
            let flat = b.ins().imul_imm_s(y, ow);
            let flat = b.ins().iadd(flat, x);
            let flat = b.offset(flat, steps);
            let width = b.int(I64, ow);
            [b.ins().udiv(flat, width), b.ins().urem(flat, width)]
        };
        vec![y, x, b.offset(t.out, steps * step)]
    }

    /// Runs `each` for every block of output channels of a group, with its kernels by number of pixels.
    fn blocks(&self, b: &mut Fb<'_>, t: Tensors, each: &mut dyn FnMut(&mut Fb<'_>, Tensors, [FuncRef; MR])) {
        let outputs = self.spec.group_outputs();
        let weight = gemm::block_bytes(self.plan.weights, self.plan.k) as i64;
        let constants = pack::epilogue_bytes(self.plan.scheme) as i64;
        let step = (NR * self.spec.output.dtype.bytes(1)) as i64;
        let end = b.repeat(outputs / NR, &[t.w, t.e, t.out], |b, v| {
            each(b, Tensors { w: v[0], e: v[1], out: v[2], ..t }, self.kernels.map(|k| k[0]));
            vec![b.offset(v[0], weight), b.offset(v[1], constants), b.offset(v[2], step)]
        });
        if !outputs.is_multiple_of(NR) {
            each(b, Tensors { w: end[0], e: end[1], out: end[2], ..t }, self.kernels.map(|k| k[1]));
        }
    }
}

impl Tiles {
    fn emit(&self, b: &mut Fb<'_>, t: Tensors, kernels: [FuncRef; MR]) {
        let (tile, rest) = (MR as i64, self.pixels % MR);
        let end = b.repeat(self.pixels / MR, &[self.from, t.out], |b, v| {
            b.ins().call(kernels[MR - 1], &[v[0], t.w, t.e, v[1], self.geometry]);
            vec![b.offset(v[0], tile * self.pixel), b.offset(v[1], tile * self.result)]
        });
        if rest > 0 {
            b.ins().call(kernels[rest - 1], &[end[0], t.w, t.e, end[1], self.geometry]);
        }
    }
}

/// The pixel to the right, or the first one of the next row.
fn next_pixel(b: &mut Fb<'_>, y: Value, x: Value, width: i64) -> [Value; 2] {
    let x = b.offset(x, 1);
    let wrap = b.ins().icmp_imm_u(IntCC::Equal, x, width);
    let (zero, below) = (b.int(I64, 0), b.offset(y, 1));
    [b.ins().select(wrap, below, y), b.ins().select(wrap, zero, x)]
}
