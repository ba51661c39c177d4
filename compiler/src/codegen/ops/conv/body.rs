//! The loops of a layer's function: images, runs of pixels, panels, groups, blocks of output channels, tiles.
use super::{ConvSpec, GemmPlan};
use crate::codegen::{
    builder::Fb,
    ops::{
        gemm::{self, MR},
        pack::{self, NR},
    },
    parallel,
};
use cranelift_codegen::ir::{FuncRef, InstBuilder, Value, condcodes::IntCC, types::*};

/// What a layer's function refers to.
pub(super) struct Body<'a> {
    pub spec: &'a ConvSpec,
    pub plan: &'a GemmPlan,
    pub kernels: [[FuncRef; 2]; MR],
    pub gather: Option<FuncRef>,
    pub direct: Value,
    pub along: Value,
    pub down: Value,
    pub scratch: Value,
    /// Blocks of output channels of every group to compute.
    pub range: [Value; 2],
}

/// Pointers into the tensors.
#[derive(Clone, Copy)]
pub(super) struct Tensors {
    pub input: Value,
    pub out: Value,
    pub w: Value,
    pub e: Value,
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
    pub fn emit(&self, b: &mut Fb<'_>, t: Tensors) {
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
        let whole = outputs / NR;
        let part = parallel::within(b, self.range, 0, whole);
        let first = [(t.w, weight), (t.e, constants), (t.out, step)].map(|(p, s)| b.index(p, part[0], s));
        b.repeat_range(part, &first, |b, _, v| {
            each(b, Tensors { w: v[0], e: v[1], out: v[2], ..t }, self.kernels.map(|k| k[0]));
            vec![b.offset(v[0], weight), b.offset(v[1], constants), b.offset(v[2], step)]
        });
        if !outputs.is_multiple_of(NR) {
            let n = whole as i64;
            let from = b.ins().icmp_imm_s(IntCC::SignedLessThanOrEqual, self.range[0], n);
            let to = b.ins().icmp_imm_s(IntCC::SignedGreaterThan, self.range[1], n);
            let mine = b.ins().band(from, to);
            b.branch(
                mine,
                |b| {
                    let [w, e, out] =
                        [(t.w, weight), (t.e, constants), (t.out, step)].map(|(p, s)| b.offset(p, n * s));
                    each(b, Tensors { w, e, out, ..t }, self.kernels.map(|k| k[1]));
                    vec![]
                },
                |_| vec![],
            );
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
