//! Convolutions and linear layers by assembled tiles (`crate::ukernel`), for x86-64 with AVX2 or AVX-512 VNNI.
//!
//! Direct convolution: for each kernel row a tile reads one contiguous run of NHWC bytes per output pixel, at constant
//! distances. Padding, and runs that are no multiple of 4 bytes, are met by copying the image once into the arena's
//! scratch area, borders as the zero point (their x̂ is 0), up to three bytes behind a run next to zero weights; a copy
//! costs one pass over the input where the convolution makes kernel rows × columns of them. No tensor is read outside its
//! bounds.
//!
//! Output channels are split into blocks ([`super::tile_shape`] says how wide); each block has a leaf for its usual number
//! of pixels and one for the rest of a row. 1×1 convolutions of stride 1 see the image as one long row; of narrow images
//! a tile takes several rows.
//!
//! Threads share a layer along its pixels (each reads all weights) or, where the weights are larger than the image, block
//! by block (each reads all pixels). A thread copies the rows that its own tiles read; rows that two of them read are
//! written twice with the same bytes, so that no barrier is needed between copying and multiplying.
use super::{conv::ConvSpec, rescale::Output, tile_shape::Work, winograd};
use crate::{
    Result,
    codegen::{
        builder::Fb,
        emitter::{Emitter, Level, fail},
        parallel::{self, LayerFn},
        target::Target,
        tuning::{TileChoice, Tuning},
    },
    ukernel::{Grid, Isa, Join, Rescale, Tile, Weights, join::Constants, pack::Channel, rescale, x64},
};
use cranelift_codegen::ir::{
    FuncRef, InstBuilder, StackSlotData, StackSlotKind, Value, condcodes::IntCC, types::I64,
};
use cranelift_module::{FuncId, Linkage, Module};
use goshawk_ir::DType;
use std::collections::BTreeMap;

/// What the planner decided for a layer of tiles.
#[derive(Clone, Debug)]
pub(crate) struct TilePlan {
    isa: Isa,
    /// What tuning knows the layer by.
    pub shape: String,
    pub blocks: Vec<Block>,
    /// Rows, columns and channels of the image that tiles read.
    image: [usize; 3],
    /// Whether that image is a padded copy in the scratch area.
    copied: bool,
    pub scratch: usize,
    /// Bytes of stack in which the tiles keep sums.
    sums: usize,
    /// All pixels of all images are one row.
    long_row: bool,
    /// Rows and columns of the loops.
    rows: usize,
    columns: usize,
    /// Rows of a tile: more than one where a tile has room for several whole rows.
    lines: usize,
    rescale: Rescale,
    channels: Vec<Channel>,
    /// |accumulator| of each channel.
    bounds: Vec<i64>,
    /// The residual sum that follows.
    join: Option<Joined>,
    /// Modelled cycles for one image.
    pub cycles: f64,
}

/// A residual sum in the epilogue of a layer's tiles.
#[derive(Clone, Debug)]
pub(crate) struct Joined {
    /// The result of the sum, in place of the convolution's.
    pub output: Output,
    pub join: Join,
    pub constants: Constants,
}

/// A range of output channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    first: usize,
    pub columns: usize,
    pub vectors: usize,
    pub weights: Weights,
    /// Pixels of the usual tile.
    pub pixels: usize,
}

/// Chooses the tiles, or says why the layer cannot have any; nothing where the target has no tiles at all.
pub(crate) fn plan(
    spec: &ConvSpec,
    target: &Target,
    tuning: &Tuning,
    join: Option<Joined>,
) -> std::result::Result<TilePlan, Option<String>> {
    let isa = choose_isa(target)?;
    let shape = shape(spec, isa);
    let choice = tuning.choice(&shape).filter(|c| !c.winograd && isa.vectors().contains(&c.vectors));
    possible(spec)?;
    let [n, h, w, c] = spec.input;
    let copied = spec.window.pads != [0; 4] || !(spec.kernel[1] * c).is_multiple_of(4);
    let image = if copied {
        let need = |axis: usize| {
            (spec.out[axis] - 1) * spec.window.stride[axis]
                + (spec.kernel[axis] - 1) * spec.window.dilation[axis]
                + 1
        };
        [need(0), need(1), c]
    } else {
        [h, w, c]
    };
    let long_row = !copied && spec.kernel == [1, 1] && spec.window.stride == [1, 1];
    let (rows, columns) = if long_row { (1, n * h * w) } else { (spec.out[0], spec.out[1]) };

    let bounds = spec.bounds();
    let channels = channels(spec, isa, &bounds)?;
    let rescale = choose_rescale(target, &channels, &bounds);
    let mut plan = TilePlan {
        isa,
        shape,
        blocks: Vec::new(),
        image,
        copied,
        scratch: 0,
        sums: 0,
        long_row,
        rows,
        columns,
        lines: 1,
        rescale,
        channels,
        bounds,
        join,
        cycles: 0.0,
    };
    plan.choose_blocks(spec, choice);
    plan.scratch = match plan.private(spec) {
        0 => plan.scratch_parts(spec)[1],
        bytes => {
            let units = plan.shared(spec).map_or(1, |s| s.units(&plan));
            bytes * parallel::private_areas(bytes).min(units.max(1))
        }
    };
    plan.sums =
        plan.blocks.iter().map(|b| isa.scratch_bytes(&plan.tile(spec, b, b.pixels))).max().unwrap_or(0);
    Ok(plan)
}

/// Whether the layer has tiles that rescale in f32, as joins need it.
pub(crate) fn rescales_in_float(spec: &ConvSpec, target: &Target) -> bool {
    let Ok(isa) = choose_isa(target) else { return false };
    let bounds = spec.bounds();
    possible(spec).is_ok()
        && channels(spec, isa, &bounds)
            .is_ok_and(|channels| choose_rescale(target, &channels, &bounds) == Rescale::Float)
}

/// Whether tiles can compute the layer, or why not.
fn possible(spec: &ConvSpec) -> std::result::Result<(), String> {
    if spec.window.groups != 1 {
        return Err(format!("{} groups that are not depthwise", spec.window.groups));
    }
    if spec.window.dilation[1] != 1 && spec.kernel[1] != 1 {
        return Err("taps of a kernel row are not neighbours (dilation)".into());
    }
    Ok(())
}

/// Tiles that a layer may be told to have; none where there are no tiles.
pub(crate) fn choices(target: &Target) -> Vec<TileChoice> {
    let widths = choose_isa(target).map_or(&[][..], Isa::vectors);
    // One row, and as many as fit.
    let heights = [1, 1 << 16];
    let direct =
        widths.iter().flat_map(|v| heights.map(|lines| TileChoice { vectors: *v, lines, winograd: false }));
    direct.chain(winograd::choices(target)).collect()
}

/// What decides the time of a layer.
fn shape(spec: &ConvSpec, isa: Isa) -> String {
    let [n, h, w, c] = spec.input;
    let ConvSpec { kernel: [kh, kw], channels, window, .. } = spec;
    let [[sh, sw], [dh, dw]] = [window.stride, window.dilation];
    let pads = window.pads.map(|p| p.to_string()).join(",");
    let weights = if spec.int4 { "i4" } else { "i8" };
    let (isa, result) = (isa.name(), spec.output.dtype);
    format!(
        "{isa} {n}x{h}x{w}x{c} kernel {kh}x{kw} stride {sh}x{sw} dilation {dh}x{dw} pads {pads} to {channels} {weights} {result}"
    )
}

pub(super) fn choose_isa(target: &Target) -> std::result::Result<Isa, Option<String>> {
    let has = |features: &[&str]| features.iter().all(|f| target.has(f));
    if has(&["avx512vnni", "avx512bw", "avx512dq", "avx512vl"]) {
        Ok(Isa::Vnni512)
    } else if has(&["avx2"]) && !has(&["avxvnni"]) {
        Ok(Isa::Avx2)
    } else {
        Err(None)
    }
}

/// Bias with the zero point folded in, multiplier and shift of every channel.
pub(super) fn channels(
    spec: &ConvSpec,
    isa: Isa,
    bounds: &[i64],
) -> std::result::Result<Vec<Channel>, String> {
    // The epilogues keep 32 bits of the rescaled value; AVX2's adds 2⁶² to the product.
    let widest = match isa {
        Isa::Vnni512 => 1i64 << 31,
        Isa::Avx2 => 1 << 30,
    };
    (0..spec.channels)
        .map(|index| {
            let dyadic = spec.requant.dyadic(index);
            let bound = bounds[index];
            if bound >= widest || (i128::from(bound) * i128::from(dyadic.mult)) >> dyadic.shift >= 1 << 30 {
                return Err(format!("output channel {index} may leave 32 bits when rescaled"));
            }
            let sum: i64 = (0..spec.k()).map(|k| i64::from(spec.weight(index, k))).sum();
            let bias = i64::from(spec.bias[index]) - i64::from(spec.input_zero_point) * sum;
            let bias =
                i32::try_from(bias).map_err(|_| format!("the bias of channel {index} leaves 32 bits"))?;
            Ok(Channel { bias, mult: dyadic.mult, shift: dyadic.shift })
        })
        .collect()
}

/// One fused multiply-add where every channel proves it, else 64-bit products.
pub(super) fn choose_rescale(target: &Target, channels: &[Channel], bounds: &[i64]) -> Rescale {
    let float = |(c, bound): (&Channel, &i64)| rescale::as_float(c.mult, c.shift, *bound).is_some();
    if target.has("fma") && channels.iter().zip(bounds).all(float) {
        Rescale::Float
    } else {
        Rescale::Integer { short_shift: channels.iter().any(|c| c.shift < 32) }
    }
}

/// Tiles of a block from which on its 4-bit weights are unpacked once, not by each tile: fewer wait for memory, and the tiles' own
/// prefetch hides more of that.
const UNPACKED_TILES: usize = 8;

/// Bytes behind a copied image that its last run may read.
const SLACK: usize = 4;

/// Leaves of a model, shared by its layers.
pub(crate) type Leaves = BTreeMap<Vec<u8>, FuncId>;

/// Defines the layer's function: (input, result, scratch, residual and second result if it is joined with a sum, and the
/// range of units if it can be split).
pub(crate) fn define<M: Module>(
    em: &mut Emitter<M>,
    leaves: &mut Leaves,
    name: &str,
    spec: &ConvSpec,
    plan: &TilePlan,
) -> Result<LayerFn> {
    // Blocks follow each other in memory, so that a tile can prefetch the next one's weights.
    let (mut blocks, mut weights) = (Vec::new(), Vec::new());
    for block in &plan.blocks {
        let mut leaf = |em: &mut Emitter<M>, pixels: usize| -> Result<Option<FuncId>> {
            if pixels == 0 {
                return Ok(None);
            }
            let code = plan.isa.assemble(&plan.tile(spec, block, pixels)).map_err(|e| fail(name, &e))?;
            if let Some(id) = leaves.get(&code) {
                return Ok(Some(*id));
            }
            let label = format!("tile_{pixels}x{}_{}", block.vectors * plan.isa.lanes(), leaves.len());
            let id = em.leaf(&label, 5 + plan.joined(), &[], &code)?;
            leaves.insert(code, id);
            Ok(Some(id))
        };
        let usual = leaf(em, block.pixels)?;
        let rest = leaf(em, plan.rest(block))?;
        let channels = &plan.channels[block.first..block.first + block.columns];
        let mut epilogue = plan.isa.epilogue(channels, &plan.tile(spec, block, block.pixels));
        if let Some(joined) = &plan.join {
            epilogue.extend(joined.constants.bytes());
        }
        let epilogue = em.rodata(&format!("{name}_requant"), epilogue)?;
        blocks.push((*block, usual, rest, weights.len(), epilogue));
        weights.extend(plan.packed(spec, block));
    }
    let weights = em.rodata(&format!("{name}_weights"), weights)?;
    let unpack = match plan.blocks.iter().any(|block| block.weights == Weights::Int4Bytes) {
        true => Some(em.shared_leaf("unpack", x64::unpack::assemble().map_err(|e| fail(name, &e))?)?),
        false => None,
    };
    let shared = plan.shared(spec);
    let operands = 3 + plan.joined();
    let params = operands + if shared.is_some() { 2 } else { 0 };
    let id = em.function(name, Linkage::Local, Level::Speed, params, &[], |em, b, p| {
        let weights = em.address(b, weights);
        let blocks: Vec<BlockCode> = blocks
            .iter()
            .map(|(block, usual, rest, offset, epilogue)| BlockCode {
                block: *block,
                unpack: unpack.filter(|_| block.weights == Weights::Int4Bytes).map(|id| em.callee(b, id)),
                usual: usual.map(|id| em.callee(b, id)),
                rest: rest.map(|id| em.callee(b, id)),
                weights: b.offset(weights, *offset as i64),
                epilogue: em.address(b, *epilogue),
            })
            .collect();
        let sums = plan.sums_on_stack(b);
        // The input, then what tiles read or write by output pixel.
        let images: Vec<Value> = [p[0], p[1]].into_iter().chain(p[3..operands].iter().copied()).collect();
        if let Some(shared) = &shared {
            let parts = shared.parts(b, plan, [p[operands], p[operands + 1]]);
            plan.image(b, spec, &blocks, &parts, &images, [p[2], sums]);
        } else {
            let [n, h, w, c] = spec.input;
            let pixels = plan.rows * plan.columns;
            let steps: Vec<usize> = std::iter::once(h * w * c)
                .chain(plan.pixel_steps(spec).into_iter().map(|bytes| pixels * bytes))
                .collect();
            let parts = plan.whole(b);
            b.repeat(n, &images, |b, v| {
                plan.image(b, spec, &blocks, &parts, v, [p[2], sums]);
                v.iter().zip(&steps).map(|(v, step)| b.offset(*v, *step as i64)).collect()
            });
        }
        b.ins().return_(&[]);
        Ok(())
    })?;
    Ok(LayerFn { private: plan.private(spec), ..LayerFn::new(id, shared.map_or(0, |s| s.units(plan))) })
}

/// How threads share a layer of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shared {
    /// Every thread computes all channels of its rows (of its tiles of the long row).
    Pixels,
    /// Rows block by block: a thread reads only its blocks' weights.
    Channels,
}

impl Shared {
    fn units(self, plan: &TilePlan) -> usize {
        let items = plan.blocks.iter().map(|b| plan.items(b));
        match self {
            Self::Pixels => items.max().unwrap_or(0),
            Self::Channels => items.sum(),
        }
    }

    /// The range of rows to copy, and of rows or tiles of every block.
    fn parts(self, b: &mut Fb<'_>, plan: &TilePlan, range: [Value; 2]) -> Parts {
        let units = self.units(plan);
        let mut first = 0;
        let blocks = plan.blocks.iter().map(|block| {
            let items = plan.items(block);
            first += items;
            match self {
                Self::Pixels => parallel::scaled(b, range, units, items),
                Self::Channels => parallel::within(b, range, first - items, items),
            }
        });
        let blocks = blocks.collect();
        let rows = match self {
            Self::Pixels if plan.lines > 1 => {
                let lines = plan.lines as i64;
                let [begin, end] = range.map(|v| b.ins().imul_imm_s(v, lines));
                let rows = b.int(I64, plan.rows as i64);
                [begin, b.ins().smin(end, rows)]
            }
            Self::Pixels => range,
            Self::Channels => [b.int(I64, 0), b.int(I64, plan.rows as i64)],
        };
        Parts { rows, blocks }
    }
}

/// What a call computes, as ranges.
struct Parts {
    /// Output rows whose windows are copied.
    rows: [Value; 2],
    /// For each block rows, or tiles of the long row.
    blocks: Vec<[Value; 2]>,
}

struct BlockCode {
    block: Block,
    unpack: Option<FuncRef>,
    usual: Option<FuncRef>,
    rest: Option<FuncRef>,
    weights: Value,
    epilogue: Value,
}

impl TilePlan {
    /// Splits the output channels into blocks and gives the tiles their shape, by the lowest cost.
    fn choose_blocks(&mut self, spec: &ConvSpec, choice: Option<TileChoice>) {
        let mut best: Option<(f64, usize, Vec<Block>)> = None;
        for widest in self.isa.vectors().iter().filter(|v| choice.is_none_or(|c| c.vectors == **v)) {
            let (mut blocks, mut works) = (Vec::new(), Vec::new());
            let mut first = 0;
            while first < spec.channels {
                let left = (spec.channels - first).div_ceil(self.isa.lanes());
                let fits = |v: &usize| *v <= left && v <= widest;
                let vectors = self.isa.vectors().iter().copied().find(fits).unwrap_or(1);
                let count = (vectors * self.isa.lanes()).min(spec.channels - first);
                let weights = self.choose_weights(spec, first..first + count, vectors);
                works.push(self.work(spec, weights, vectors));
                blocks.push(Block { first, columns: count, vectors, weights, pixels: 0 });
                first += count;
            }
            // All blocks have tiles of as many rows, so that threads share them alike.
            let room = works.iter().map(|w| self.isa.max_rows(w.weights, w.vectors) / self.columns).min();
            let most = if self.long_row { 1 } else { room.unwrap_or(1).min(self.rows).max(1) };
            let (least, most) = choice.map_or((1, most), |c| (c.lines.min(most), c.lines.min(most)));
            for lines in least..=most {
                let mut cost = 0.0;
                for (block, work) in blocks.iter_mut().zip(&works) {
                    let (pixels, cycles) = match lines {
                        1 => work.in_row(),
                        _ => (lines * self.columns, work.cycles(lines, lines * self.columns)),
                    };
                    block.pixels = pixels;
                    cost += cycles;
                }
                if best.as_ref().is_none_or(|b| cost < b.0) {
                    best = Some((cost, lines, blocks.clone()));
                }
            }
        }
        if let Some((cycles, lines, blocks)) = best {
            (self.cycles, self.lines, self.blocks) = (cycles, lines, blocks);
        }
    }

    fn work(&self, spec: &ConvSpec, weights: Weights, vectors: usize) -> Work {
        Work {
            isa: self.isa,
            weights,
            rescale: self.rescale,
            vectors,
            depth: spec.kernel[0] * self.run(spec),
            rows: self.rows,
            columns: self.columns,
            image: self.image.iter().product(),
        }
    }

    /// Activation bytes of one kernel row: its taps, then up to three that meet zero weights.
    fn run(&self, spec: &ConvSpec) -> usize {
        (spec.kernel[1] * self.image[2]).next_multiple_of(4)
    }

    /// Whether tiles follow each other in one dimension: along the long row, or down the image by several rows each.
    fn one_dimensional(&self) -> bool {
        self.long_row || self.lines > 1
    }

    /// Pixels of the tile behind the usual ones, 0 for none.
    fn rest(&self, block: &Block) -> usize {
        if self.lines > 1 { self.rows % self.lines * self.columns } else { self.columns % block.pixels }
    }

    /// Operands that the join adds: the residual and the second result.
    fn joined(&self) -> usize {
        if self.join.is_some() { 2 } else { 0 }
    }

    /// Bytes from one output pixel to the next, of the result and of what a join reads and writes.
    fn pixel_steps(&self, spec: &ConvSpec) -> Vec<usize> {
        let joined = self.join.as_ref().map(|j| [j.join.stride, j.join.second.map_or(0, |s| s.stride)]);
        std::iter::once(spec.pitch).chain(joined.into_iter().flatten()).collect()
    }

    /// Name of the kernel for reports.
    pub fn name(&self) -> String {
        let widest = self.blocks.iter().max_by_key(|b| b.vectors);
        widest.map_or_else(String::new, |b| {
            let weights = match b.weights {
                Weights::Int8 => "i8".to_owned(),
                Weights::Int16 => "i8 as i16".to_owned(),
                Weights::Int4Times16 => "i4 times 16".to_owned(),
                Weights::Int4Bytes => "i4 unpacked".to_owned(),
                Weights::Int4Offset { period } => format!("i4 in i16 for {period}"),
            };
            let mode = if self.copied { "padded copy" } else { "in place" };
            let rescale = match self.rescale {
                Rescale::Float => "f32",
                Rescale::Integer { .. } => "i64",
            };
            let (isa, channels) = (self.isa.name(), b.vectors * self.isa.lanes());
            let join = match &self.join {
                None => "",
                Some(j) if j.join.second.is_some() => " + add + requant",
                Some(_) => " + add",
            };
            format!("{isa} {}x{channels} {weights} {mode} {rescale}{join}", b.pixels)
        })
    }

    fn tile(&self, spec: &ConvSpec, block: &Block, pixels: usize) -> Tile {
        let [_, width, channels] = self.image;
        let output = self.join.as_ref().map_or(spec.output, |j| j.output);
        Tile {
            weights: block.weights,
            grid: if output.dtype == DType::U8 { Grid::U8 } else { Grid::I16 },
            rows: pixels,
            vectors: block.vectors,
            columns: block.columns,
            kernel_rows: spec.kernel[0],
            run: self.run(spec),
            row_stride: spec.window.stride[1] * channels,
            line: if self.lines > 1 { self.columns } else { pixels },
            line_stride: spec.window.stride[0] * width * channels,
            prefetch: self.prefetch(spec, block),
            kernel_row_stride: spec.window.dilation[0] * width * channels,
            out_stride: spec.pitch,
            out_line: pixels,
            out_width: 0,
            zero_point: output.zero_point,
            clamp: (output.lo, output.hi),
            rescale: self.rescale,
            join: self.join.as_ref().map(|j| j.join.clone()),
        }
    }

    /// Weights of a channel as tiles read them: zeros behind the taps of a kernel row.
    fn padded_weights(&self, spec: &ConvSpec, channel: usize) -> Vec<i8> {
        let (taps, run) = (spec.kernel[1] * spec.input[3], self.run(spec));
        let weights = &spec.weights[channel * spec.k()..(channel + 1) * spec.k()];
        weights
            .chunks(taps)
            .flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(0, run - taps)))
            .collect()
    }

    /// The fastest exact form of the weights of a block.
    fn choose_weights(&self, spec: &ConvSpec, channels: std::ops::Range<usize>, vectors: usize) -> Weights {
        let steps = self.run(spec) / 4;
        // Where a step has one vector only, two steps of k share a byte.
        let paired = spec.int4 && (vectors > 1 || steps.is_multiple_of(2));
        match self.isa {
            Isa::Vnni512 => {
                let fits = |c: usize| self.bounds[c] < 1 << 27 && self.channels[c].shift <= 58;
                let few = self.rows * self.columns * vectors < UNPACKED_TILES * 28;
                match paired && channels.clone().all(fits) {
                    true if few => Weights::Int4Times16,
                    true => Weights::Int4Bytes,
                    false => Weights::Int8,
                }
            }
            Isa::Avx2 => {
                // Largest |sum| of two neighbouring products.
                let pair = channels
                    .clone()
                    .flat_map(|c| self.padded_weights(spec, c).chunks(2).map(pair_bound).collect::<Vec<_>>())
                    .max()
                    .unwrap_or(0)
                    * spec.input_max;
                let period = i32::from(i16::MAX) / pair.max(1);
                if paired && period >= 2 {
                    Weights::Int4Offset { period: (period as usize).min(12) }
                } else if period >= 1 {
                    Weights::Int8
                } else {
                    Weights::Int16
                }
            }
        }
    }

    /// Bytes of a block's weights as tiles read them, if they are unpacked before.
    fn unpacked(&self, spec: &ConvSpec, block: &Block) -> usize {
        let bytes = spec.kernel[0] * self.run(spec) * block.vectors * self.isa.lanes();
        if block.weights == Weights::Int4Bytes { bytes } else { 0 }
    }

    /// Where unpacked weights lie in the scratch area, and its size: behind the image, of all blocks or of one at a time.
    fn scratch_parts(&self, spec: &ConvSpec) -> [usize; 2] {
        let image = if self.copied { self.image.iter().product::<usize>() + SLACK } else { 0 };
        let image = image.next_multiple_of(64);
        let weights = self.blocks.iter().map(|block| self.unpacked(spec, block));
        let weights: usize = if self.interleaved(spec) { weights.sum() } else { weights.max().unwrap_or(0) };
        [image, image + weights]
    }

    /// Bytes of scratch that each thread needs for itself; 0 where threads share the area.
    fn private(&self, spec: &ConvSpec) -> usize {
        let [image, all] = self.scratch_parts(spec);
        if all > image && self.shared(spec).is_some() { all } else { 0 }
    }

    /// Packed weights of a block, as they are stored.
    fn packed(&self, spec: &ConvSpec, block: &Block) -> Vec<u8> {
        let rows = (block.first..block.first + block.columns).map(|c| self.padded_weights(spec, c));
        let rows: Vec<Vec<i8>> = rows.collect();
        let rows: Vec<&[i8]> = rows.iter().map(Vec::as_slice).collect();
        let mut tile = self.tile(spec, block, block.pixels);
        if tile.weights == Weights::Int4Bytes {
            tile.weights = Weights::Int4Times16;
        }
        self.isa.pack(&rows, &tile)
    }

    /// Distance of the prefetch: the weights of one block, where they are used by few tiles. Where many use them, fetching
    /// them takes little of the time.
    fn prefetch(&self, spec: &ConvSpec, block: &Block) -> usize {
        if block.weights == Weights::Int4Bytes {
            return 0;
        }
        const FEW: usize = 24;
        const STAYS: usize = 512 << 10;
        let tiles =
            self.items(block) * if self.one_dimensional() { 1 } else { self.columns.div_ceil(block.pixels) };
        if tiles > FEW {
            return 0;
        }
        let bits =
            if matches!(block.weights, Weights::Int4Times16 | Weights::Int4Offset { .. }) { 4 } else { 8 };
        let bits = if block.weights == Weights::Int16 { 16 } else { bits };
        // A tile of one pixel prefetches at short range; weights that stay in the second level need no more.
        if block.pixels == 1 && spec.weights.len() * bits / 8 <= STAYS {
            return 0;
        }
        spec.kernel[0] * self.run(spec) * block.vectors * self.isa.lanes() * bits / 8
    }

    /// Whether all blocks of channels are computed for one tile's pixels before the next: results that exceed the second-level
    /// cache are then written (and a residual read) line after line, at the price of reading the weights anew for
    /// each tile, which must be few.
    fn interleaved(&self, spec: &ConvSpec) -> bool {
        const WEIGHTS: usize = 128 << 10;
        const RESULTS: usize = 512 << 10;
        let results: usize =
            self.pixel_steps(spec).iter().map(|bytes| bytes * self.rows * self.columns).sum();
        let alike = self.blocks.windows(2).all(|b| b[0].pixels == b[1].pixels);
        alike && self.long_row && spec.weights.len() <= WEIGHTS && results > RESULTS
    }

    /// How threads share the layer. Several images that go through one scratch area, or in different rows, are not
    /// shared.
    fn shared(&self, spec: &ConvSpec) -> Option<Shared> {
        if spec.input[0] > 1 && !self.long_row {
            return None;
        }
        let image: usize = spec.input.iter().product();
        let weights = spec.weights.len() / if spec.int4 { 2 } else { 1 };
        Some(if weights > image { Shared::Channels } else { Shared::Pixels })
    }

    /// What threads cannot share further: a row, a tile of the long row.
    fn items(&self, block: &Block) -> usize {
        if self.long_row { self.columns.div_ceil(block.pixels) } else { self.rows.div_ceil(self.lines) }
    }

    /// All of one image.
    fn whole(&self, b: &mut Fb<'_>) -> Parts {
        let all = |b: &mut Fb<'_>, count: usize| [b.int(I64, 0), b.int(I64, count as i64)];
        let blocks = self.blocks.iter().map(|block| all(b, self.items(block))).collect();
        Parts { rows: all(b, self.rows), blocks }
    }

    /// Address of the sums: a stack slot, aligned by hand because frames are to 16 bytes only.
    fn sums_on_stack(&self, b: &mut Fb<'_>) -> Value {
        if self.sums == 0 {
            return b.int(I64, 0);
        }
        let size = self.sums as u32 + 48;
        let slot = b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, size, 4));
        let address = b.ins().stack_addr(I64, slot, 63);
        b.ins().band_imm_s(address, -64)
    }

    /// Copies the windows of a part of one image if need be, and computes the part.
    fn image(
        &self,
        b: &mut Fb<'_>,
        spec: &ConvSpec,
        blocks: &[BlockCode],
        parts: &Parts,
        images: &[Value],
        [scratch, sums]: [Value; 2],
    ) {
        let mut images = images.to_vec();
        if self.copied {
            self.copy_padded(b, spec, parts.rows, images[0], scratch);
            images[0] = scratch;
        }
        let unpacked = b.offset(scratch, self.scratch_parts(spec)[0] as i64);
        self.multiply(b, spec, blocks, parts, &images, [sums, unpacked]);
    }

    /// Copies what the windows of the output rows `begin..end` read into the scratch area, with borders and padded
    /// channels.
    fn copy_padded(
        &self,
        b: &mut Fb<'_>,
        spec: &ConvSpec,
        [begin, end]: [Value; 2],
        input: Value,
        scratch: Value,
    ) {
        let [rows, columns, channels] = self.image;
        let [_, h, w, c] = spec.input;
        let [top, left, ..] = spec.window.pads;
        let zero = [spec.input_zero_point as u8; 8];
        let (top, left) = (top.min(rows), left.min(columns));
        // Strides may leave the last rows and columns of the input unread.
        let (inner_rows, inner_columns) = (h.min(rows - top), w.min(columns - left));
        let row_bytes = (columns * channels) as i64;
        let stride = spec.window.stride[0] as i64;
        let window = ((spec.kernel[0] - 1) * spec.window.dilation[0] + 1) as i64;
        let first = b.ins().imul_imm_s(begin, stride);
        let last = b.offset(end, -1);
        let last = b.ins().imul_imm_s(last, stride);
        let range = [first, b.offset(last, window)];

        let border = |b: &mut Fb<'_>, from: usize, count: usize| {
            if count == 0 {
                return;
            }
            let [begin, end] = parallel::within(b, range, from, count);
            let first = b.offset(scratch, from as i64 * row_bytes);
            let to = b.index(first, begin, row_bytes);
            b.repeat_range([begin, end], &[to], |b, _, v| {
                b.fill(v[0], columns * channels, zero);
                vec![b.offset(v[0], row_bytes)]
            });
        };
        border(b, 0, top);
        border(b, top + inner_rows, rows - top - inner_rows);

        let inner = parallel::within(b, range, top, inner_rows);
        let from = b.index(input, inner[0], (w * c) as i64);
        let first = b.offset(scratch, top as i64 * row_bytes);
        let to = b.index(first, inner[0], row_bytes);
        let right = columns - left - inner_columns;
        b.repeat_range(inner, &[from, to], |b, _, v| {
            b.fill(v[1], left * channels, zero);
            let to = b.offset(v[1], (left * channels) as i64);
            b.copy(v[0], to, inner_columns * c);
            let to = b.offset(to, (inner_columns * channels) as i64);
            b.fill(to, right * channels, zero);
            vec![b.offset(v[0], (w * c) as i64), b.offset(v[1], row_bytes)]
        });
        // What the last run reads behind the image meets zero weights, but shall not be undefined.
        let behind = b.offset(scratch, rows as i64 * row_bytes);
        b.fill(behind, SLACK, zero);
    }

    /// Tiles of a part of one image, block by block. `images`: the input, the result, what a join reads and writes.
    fn multiply(
        &self,
        b: &mut Fb<'_>,
        spec: &ConvSpec,
        blocks: &[BlockCode],
        parts: &Parts,
        images: &[Value],
        [sums, unpacked]: [Value; 2],
    ) {
        let [_, width, channels] = self.image;
        let row_in = spec.window.stride[0] * width * channels;
        let pixel_steps = self.pixel_steps(spec);
        let by_pixels = |input: usize, pixels: usize| -> Vec<i64> {
            let results = pixel_steps.iter().map(|bytes| pixels * bytes);
            std::iter::once(input).chain(results).map(|bytes| bytes as i64).collect()
        };
        let rows = by_pixels(row_in, self.columns);
        let advance = |b: &mut Fb<'_>, at: &[Value], steps: &[i64]| -> Vec<Value> {
            at.iter().zip(steps).map(|(v, step)| b.offset(*v, *step)).collect()
        };
        let index = |b: &mut Fb<'_>, at: &[Value], count: Value, steps: &[i64]| -> Vec<Value> {
            at.iter().zip(steps).map(|(v, step)| b.index(*v, count, *step)).collect()
        };
        // Block by block, or all blocks for each tile's pixels.
        let together = if self.interleaved(spec) { blocks.len() } else { 1 };
        for (group, ranges) in blocks.chunks(together).zip(parts.blocks.chunks(together)) {
            let (Some(first), Some(range)) = (group.first(), ranges.first()) else { continue };
            let starts = self.block_offsets(spec, first.block.first);
            let images = advance(b, images, &starts);
            let pixels = first.block.pixels;
            let weights = self.unpack(b, spec, group, *range, unpacked);
            let tile_in = match self.lines {
                1 => pixels * spec.window.stride[1] * channels,
                lines => lines * row_in,
            };
            let steps = by_pixels(tile_in, pixels);
            let call = |b: &mut Fb<'_>, t: &[Value], leaf: fn(&BlockCode) -> Option<FuncRef>| {
                for (code, weights) in group.iter().zip(&weights) {
                    if let Some(leaf) = leaf(code) {
                        let offsets = self.block_offsets(spec, code.block.first - first.block.first);
                        let t = advance(b, t, &offsets);
                        let mut arguments = vec![t[0], *weights, t[1], code.epilogue, sums];
                        arguments.extend(&t[2..]);
                        b.ins().call(leaf, &arguments);
                    }
                }
            };
            let usual = |b: &mut Fb<'_>, t: &[Value]| {
                call(b, t, |code| code.usual);
                advance(b, t, &steps)
            };
            let whole = if self.lines > 1 { self.rows / self.lines } else { self.columns / pixels };
            let [begin, end] = *range;
            if self.one_dimensional() {
                let from = index(b, &images, begin, &steps);
                let tiles = b.int(I64, whole as i64);
                let stop = b.ins().smin(end, tiles);
                b.repeat_range([begin, stop], &from, |b, _, t| usual(b, t));
                if first.rest.is_some() {
                    // The shorter tile is the last one: it belongs to the range that ends behind it.
                    let some = b.ins().icmp(IntCC::SignedLessThan, begin, end);
                    let behind = b.ins().icmp(IntCC::SignedGreaterThan, end, tiles);
                    let last = b.ins().band(some, behind);
                    let whole: Vec<i64> = steps.iter().map(|step| whole as i64 * step).collect();
                    let from = advance(b, &images, &whole);
                    b.branch(
                        last,
                        |b| {
                            call(b, &from, |code| code.rest);
                            vec![]
                        },
                        |_| vec![],
                    );
                }
                continue;
            }
            let from = index(b, &images, begin, &rows);
            b.repeat_range([begin, end], &from, |b, _, v| {
                let t = b.repeat(whole, v, usual);
                call(b, &t, |code| code.rest);
                advance(b, v, &rows)
            });
        }
    }

    /// The weights of some blocks as tiles read them: where they are stored, or unpacked into the scratch area if there is
    /// anything to compute with them.
    fn unpack(
        &self,
        b: &mut Fb<'_>,
        spec: &ConvSpec,
        group: &[BlockCode],
        [begin, end]: [Value; 2],
        scratch: Value,
    ) -> Vec<Value> {
        let mut to = scratch;
        let mut weights = Vec::new();
        for code in group {
            let bytes = self.unpacked(spec, &code.block);
            let Some(unpack) = code.unpack else {
                weights.push(code.weights);
                continue;
            };
            let some = b.ins().icmp(IntCC::SignedLessThan, begin, end);
            b.branch(
                some,
                |b| {
                    let (none, count) = (b.int(I64, 0), b.int(I64, (bytes / 128) as i64));
                    b.ins().call(unpack, &[code.weights, none, to, none, count]);
                    vec![]
                },
                |_| vec![],
            );
            weights.push(to);
            to = b.offset(to, bytes as i64);
        }
        weights
    }

    /// Bytes from the first channel to channel `first`, in everything that tiles go through.
    fn block_offsets(&self, spec: &ConvSpec, first: usize) -> Vec<i64> {
        let output = self.join.as_ref().map_or(spec.output, |j| j.output);
        let joined = self.join.as_ref().map(|j| [j.join.residual.bytes() * first, first]);
        [0, output.dtype.bytes(first)]
            .into_iter()
            .chain(joined.into_iter().flatten())
            .map(|v| v as i64)
            .collect()
    }
}

/// Largest |x₀·w₀ + x₁·w₁| for x in 0..=1.
fn pair_bound(pair: &[i8]) -> i32 {
    let positive: i32 = pair.iter().map(|w| i32::from(*w).max(0)).sum();
    let negative: i32 = pair.iter().map(|w| i32::from(*w).min(0)).sum();
    positive.max(-negative)
}
