//! Pools of u8, and maximum pools of i16, by assembled row kernels, for x86-64 with AVX2 or AVX-512 VNNI. Other pools are in [`super::window`].
//!
//! An average is a depthwise convolution with weights of one, whose requantization divides. Where padding does not
//! count, cells at the border have divisors of their own: the result is divided into rows and columns of equal divisors.
use super::{
    rescale::Output,
    rows::{self, Range, Rows},
    tiles::Leaves,
    window::{self, Run},
};
use crate::{
    Result,
    codegen::{
        emitter::{Emitter, fail},
        parallel::LayerFn,
        target::Target,
    },
    ukernel::{
        Depthwise, Isa, MaxPool, Rescale,
        depthwise::Values,
        pack::Channel,
        rescale::as_float,
        row::{MAX_KERNEL, Row},
    },
};
use cranelift_module::Module;
use goshawk_ir::{DType, Requant, op::window::PoolWindow};

/// A pool's shapes.
#[derive(Clone, Debug)]
pub(crate) struct PoolSpec<'a> {
    pub window: &'a PoolWindow,
    /// N, H, W, bytes of a pixel.
    pub input: [usize; 4],
    pub out: [usize; 2],
}

/// What the planner decided for a pool of row kernels.
#[derive(Clone, Debug)]
pub(crate) struct PoolPlan {
    isa: Isa,
    rows: Rows,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Max(MaxPool),
    Average(Average),
}

#[derive(Clone, Debug)]
struct Average {
    /// First column and leaf of each range of columns.
    leaves: Vec<(usize, Depthwise)>,
    /// For each range the requantization of each class of rows.
    channels: Vec<Vec<Channel>>,
}

impl PoolSpec<'_> {
    fn isa(&self, target: &Target) -> Option<Isa> {
        let w = self.window;
        let fits = w.kernel.iter().all(|k| *k <= MAX_KERNEL) && (w.dilation[1] == 1 || w.kernel[1] == 1);
        rows::isa(target).filter(|_| fits)
    }

    fn rows(&self, fill: [u8; 2], classes: Vec<usize>) -> Rows {
        let w = self.window;
        Rows {
            input: self.input,
            out: self.out,
            kernel: w.kernel[0],
            dilation: w.dilation[0],
            stride: w.stride[0],
            pad: w.pads[0],
            fill,
            classes,
        }
    }

    /// Geometry of the output columns of a range.
    fn row(&self, start: usize, count: usize) -> Row {
        let w = self.window;
        Row {
            channels: self.input[3],
            kernel: w.kernel,
            stride: w.stride[1],
            pad: w.pads[1] as isize - (start * w.stride[1]) as isize,
            width: self.input[2],
            out_width: count,
        }
    }

    /// Row kernels for a maximum pool of u8 or i16, where the target has them.
    pub fn max(&self, target: &Target, dtype: DType) -> Option<PoolPlan> {
        let isa = self.isa(target)?;
        let words = dtype == DType::I16;
        let pool = MaxPool { row: self.row(0, self.out[1]), words };
        let least = if words { i16::MIN.to_le_bytes() } else { [0; 2] };
        pool.exists(isa).then(|| PoolPlan { isa, rows: self.rows(least, vec![0]), kind: Kind::Max(pool) })
    }

    /// Row kernels for an average of u8, where the target has them and the divisors can be applied.
    pub fn average(
        &self,
        target: &Target,
        requant: &Requant,
        zero_point: i32,
        output: Output,
    ) -> Option<PoolPlan> {
        let isa = self.isa(target)?;
        if output.dtype != DType::U8 || !(0..=255).contains(&zero_point) {
            return None;
        }
        let [_, height, width, _] = self.input;
        let row_runs = window::runs(self.window, 0, height, self.out[0]);
        let column_runs = merge(window::runs(self.window, 1, width, self.out[1]));
        let taps = self.window.kernel.iter().product::<usize>();
        let bias = -zero_point * taps as i32;
        let bound = 255 * taps as i64;
        let channel = |rows: &Run, columns: &Run| {
            let count = (rows.counted * columns.counted).clamp(1, requant.mult.len());
            let dyadic = requant.mult[count - 1];
            Channel { bias, mult: dyadic.mult, shift: dyadic.shift }
        };
        let row_runs = merge(row_runs);
        let channels: Vec<Vec<Channel>> =
            column_runs.iter().map(|c| row_runs.iter().map(|r| channel(r, c)).collect()).collect();
        let all = || channels.iter().flatten();
        let fits = |c: &Channel| (i128::from(bound) * i128::from(c.mult)) >> c.shift < 1 << 30;
        if !all().all(fits) {
            return None;
        }
        let float =
            target.has("fma") && all().all(|c| as_float(c.mult, c.shift, bound, output.limit()).is_some());
        let rescale = if float {
            Rescale::Float
        } else {
            Rescale::Integer { short_shift: all().any(|c| c.shift < 32) }
        };
        let leaf = |run: &Run| Depthwise {
            row: self.row(run.start, run.count),
            alike: true,
            input_zero_point: zero_point as u8,
            zero_point: output.zero_point,
            clamp: (output.lo, output.hi),
            rescale,
        };
        let leaves = column_runs.iter().map(|run| (run.start, leaf(run))).collect();
        let rows = self.rows([zero_point as u8; 2], row_runs.iter().map(|r| r.start).collect());
        Some(PoolPlan { isa, rows, kind: Kind::Average(Average { leaves, channels }) })
    }
}

/// Neighbouring outputs with the same divisor; which taps are inside does not matter, those outside are zero.
fn merge(runs: Vec<Run>) -> Vec<Run> {
    let mut merged: Vec<Run> = Vec::new();
    for run in runs {
        match merged.last_mut() {
            Some(last) if last.counted == run.counted => last.count += run.count,
            _ => merged.push(run),
        }
    }
    merged
}

impl PoolPlan {
    /// Name of the kernel for reports.
    pub fn name(&self) -> String {
        let (kind, row, rescale) = match &self.kind {
            Kind::Max(pool) => ("max", Some(&pool.row), if pool.words { " i16" } else { "" }),
            Kind::Average(average) => {
                let leaf = average.leaves.first().map(|l| &l.1);
                let float = leaf.is_some_and(|l| l.rescale == Rescale::Float);
                ("average", leaf.map(|l| &l.row), if float { " f32" } else { " i64" })
            }
        };
        let [rows, columns] = row.map_or([0, 0], |r| r.kernel);
        format!("{} {kind} {rows}x{columns} s{}{rescale}", self.isa.name(), self.rows.stride)
    }

    /// Defines the layer's function: (input, result, range of output rows).
    pub fn define<M: Module>(&self, em: &mut Emitter<M>, leaves: &mut Leaves, name: &str) -> Result<LayerFn> {
        let mut ranges = Vec::new();
        match &self.kind {
            Kind::Max(pool) => {
                let code = pool.assemble(self.isa).map_err(|e| fail(name, &e))?;
                let leaf = rows::leaf(em, leaves, "max_pool", code)?;
                let constants = em.rodata("no_constants", vec![0])?;
                ranges.push(Range { leaf, start: 0, constants, class_bytes: 0 });
            }
            Kind::Average(average) => {
                for ((start, leaf), classes) in average.leaves.iter().zip(&average.channels) {
                    let code = leaf.assemble(self.isa).map_err(|e| fail(name, &e))?;
                    let taps = leaf.row.kernel.iter().product::<usize>();
                    let weights = vec![1; leaf.row.channels * taps];
                    let constants: Vec<Vec<u8>> = classes
                        .iter()
                        .map(|c| {
                            let channels = vec![*c; leaf.row.channels];
                            leaf.constants(self.isa, &Values { weights: &weights, channels: &channels })
                        })
                        .collect();
                    let class_bytes = constants.first().map_or(0, Vec::len);
                    let constants = em.rodata(&format!("{name}_divisors"), constants.concat())?;
                    let leaf = rows::leaf(em, leaves, "average_pool", code)?;
                    ranges.push(Range { leaf, start: *start, constants, class_bytes });
                }
            }
        }
        self.rows.define(em, name, &ranges)
    }
}
