//! Convolutions and linear layers by assembled tiles (`crate::ukernel`), for x86-64 with AVX2 or AVX-512 VNNI.
//!
//! Direct convolution: for each kernel row a tile reads one contiguous run of NHWC bytes per output pixel, at constant
//! distances. Padding, and runs that are no multiple of 4 bytes, are met by copying the image once into the arena's
//! scratch area, borders as the zero point (their x̂ is 0), up to three bytes behind a run next to zero weights; a copy
//! costs one pass over the input where the convolution makes kernel rows × columns of them. No tensor is read outside its
//! bounds.
//!
//! Output channels are split into blocks ([`super::tile_shape`] says how wide); each block has a leaf for its usual number
//! of pixels and one for the rest of a row. Convolutions of stride 1 and one column, 1×1 above all, see the image as one long
//! row; of narrow images a tile takes several rows.
//!
//! Threads share a layer along its pixels (each reads all weights) or, where the weights are larger than the image, block
//! by block (each reads all pixels). A thread copies the rows that its own tiles read; rows that two of them read are
//! written twice with the same bytes, so that no barrier is needed between copying and multiplying.
mod body;

pub(crate) use body::define;

use super::{conv::ConvSpec, line, rescale::Output, tile_shape::Work, winograd};
use crate::{
    codegen::{
        parallel::Sharing,
        target::Target,
        tuning::{Algorithm, Prefer, TileChoice, Tuning},
    },
    ukernel::{Dot, Grid, Isa, Join, Rescale, Tile, Weights, join::Constants, pack::Channel, rescale},
};
use body::Shared;
use cranelift_module::FuncId;
use goshawk_ir::{DType, Dyadic};
use std::collections::BTreeMap;

/// What the planner decided for a layer of tiles.
#[derive(Clone, Debug)]
pub(crate) struct TilePlan {
    isa: Isa,
    dot: Option<Dot>,
    prefer: Prefer,
    /// What tuning knows the layer by.
    pub shape: String,
    pub blocks: Vec<Block>,
    /// Rows, columns and channels of the image that tiles read.
    image: [usize; 3],
    /// Whether that image is a padded copy in the scratch area.
    copied: bool,
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
    let dot = dot(target).filter(|_| isa == Isa::Avx2);
    let shape = shape(spec, isa, dot);
    let choice = tuning.choice(&shape);
    let choice = choice.filter(|c| c.algorithm == Algorithm::Direct && isa.vectors().contains(&c.vectors));
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
    // Filters of one column read neighbouring pixels at equal distances, across the ends of rows too; those of one row do so
    // across images.
    let narrow = spec.kernel[1] == 1 && spec.window.stride == [1, 1] && spec.out[1] == w;
    let long_row = narrow && (n == 1 || !copied && spec.kernel[0] == 1);
    let (rows, columns) =
        if long_row { (1, n * spec.out[0] * spec.out[1]) } else { (spec.out[0], spec.out[1]) };

    let bounds = spec.bounds();
    let channels = channels(spec, isa, &bounds)?;
    let rescale = choose_rescale(spec, target, &channels, &bounds);
    let mut plan = TilePlan {
        isa,
        dot,
        prefer: tuning.prefer,
        shape,
        blocks: Vec::new(),
        image,
        copied,
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
            .is_ok_and(|channels| choose_rescale(spec, target, &channels, &bounds) == Rescale::Float)
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
        |v: &usize| heights.map(|lines| TileChoice { vectors: *v, lines, algorithm: Algorithm::Direct });
    widths.iter().flat_map(direct).chain(winograd::choices(target)).chain(line::choices(target)).collect()
}

/// What decides the time of a layer.
fn shape(spec: &ConvSpec, isa: Isa, dot: Option<Dot>) -> String {
    let [n, h, w, c] = spec.input;
    let ConvSpec { kernel: [kh, kw], channels, window, .. } = spec;
    let [[sh, sw], [dh, dw]] = [window.stride, window.dilation];
    let pads = window.pads.map(|p| p.to_string()).join(",");
    let weights = if spec.int4 { "i4" } else { "i8" };
    let (isa, result) = (dot.map_or(isa.name(), Dot::name), spec.output.dtype);
    format!(
        "{isa} {n}x{h}x{w}x{c} kernel {kh}x{kw} stride {sh}x{sw} dilation {dh}x{dw} pads {pads} to {channels} {weights} {result}"
    )
}

pub(super) fn choose_isa(target: &Target) -> std::result::Result<Isa, Option<String>> {
    let has = |features: &[&str]| features.iter().all(|f| target.has(f));
    if has(&["avx512vnni", "avx512bw", "avx512dq", "avx512vl"]) {
        Ok(Isa::Vnni512)
    } else if has(&["avx2"]) {
        Ok(Isa::Avx2)
    } else {
        Err(None)
    }
}

/// How the target's dot products of less than 512 bits are encoded, if it has any.
pub(super) fn dot(target: &Target) -> Option<Dot> {
    if target.has("avxvnni") {
        return Some(Dot::Vex);
    }
    (target.has("avx512vnni") && target.has("avx512vl")).then_some(Dot::Evex)
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
            let [start, ..] = spec.accumulators(index);
            let bias =
                i32::try_from(start).map_err(|_| format!("the bias of channel {index} leaves 32 bits"))?;
            Ok(Channel { bias, mult: dyadic.mult, shift: dyadic.shift })
        })
        .collect()
}

/// One fused multiply-add where it is proven for every channel, else 64-bit products.
pub(super) fn choose_rescale(
    spec: &ConvSpec,
    target: &Target,
    channels: &[Channel],
    bounds: &[i64],
) -> Rescale {
    let float = |index: usize| {
        let Channel { mult, shift, .. } = channels[index];
        rescale::as_float(mult, shift, bounds[index], spec.output.limit()).is_some() || {
            let [_, least, most] = spec.accumulators(index);
            rescale::agrees(Dyadic { mult, shift }, [least, most], spec.output.range())
        }
    };
    if target.has("fma") && (0..channels.len()).all(float) {
        Rescale::Float
    } else {
        Rescale::Integer { short_shift: channels.iter().any(|c| c.shift < 32) }
    }
}

/// The same for sums that an algorithm makes larger by 2 to the power of `bits`.
pub(super) fn scaled_channels(
    spec: &ConvSpec,
    target: &Target,
    isa: Isa,
    bounds: &[i64],
    bits: u8,
) -> std::result::Result<(Rescale, Vec<Channel>), String> {
    let mut channels = channels(spec, isa, bounds)?;
    let rescale = choose_rescale(spec, target, &channels, bounds);
    for channel in &mut channels {
        channel.shift += bits;
    }
    if channels.iter().any(|c| c.shift > 62) {
        return Err("a scale is too small for larger sums".into());
    }
    let short_shift = channels.iter().any(|c| c.shift < 32);
    let rescale = match rescale {
        Rescale::Float => Rescale::Float,
        Rescale::Integer { .. } => Rescale::Integer { short_shift },
    };
    Ok((rescale, channels))
}

/// What is stored first: the layer's result, or the sum that it is joined with.
pub(super) fn output(spec: &ConvSpec, join: Option<&Joined>) -> Output {
    join.map_or(spec.output, |j| j.output)
}

/// Bytes from one pixel to the next, and of one channel: of what is stored first, of the residual, of the second result.
pub(super) fn pixels(spec: &ConvSpec, join: Option<&Joined>) -> Vec<[usize; 2]> {
    let joined = join.map(|j| {
        let second = j.join.second.map_or(0, |s| s.stride);
        [[j.join.stride, j.join.residual.bytes()], [second, Grid::U8.bytes()]]
    });
    let first = [spec.pitch, output(spec, join).dtype.bytes(1)];
    std::iter::once(first).chain(joined.into_iter().flatten()).collect()
}

/// What reports say of a join.
pub(super) fn join_name(join: Option<&Joined>) -> &'static str {
    match join {
        None => "",
        Some(j) if j.join.second.is_some() => " + add + requant",
        Some(_) => " + add",
    }
}

/// Tiles of a block from which on its 4-bit weights are unpacked once, by the first one, not by each.
const UNPACKED_TILES: usize = 2;

/// Bytes of results, and of a residual, from which on they are not all in the second-level cache.
const RESULTS: usize = 512 << 10;

/// Bytes behind a copied image that its last run may read.
const SLACK: usize = 4;

/// Leaves of a model, shared by its layers.
pub(crate) type Leaves = BTreeMap<Vec<u8>, FuncId>;

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
                // Of equal costs the wider tiles win, however they were summed.
                if best.as_ref().is_none_or(|b| cost < b.0 * (1.0 - 1e-9)) {
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
            dot: self.dot.is_some(),
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
        pixels(spec, self.join.as_ref()).into_iter().map(|[step, _]| step).collect()
    }

    /// Name of the kernel for reports.
    pub fn name(&self) -> String {
        let widest = self.blocks.iter().max_by_key(|b| b.vectors);
        widest.map_or_else(String::new, |b| {
            let weights = match b.weights {
                Weights::Int8 => "i8".to_owned(),
                Weights::Int16 => "i8 as i16".to_owned(),
                Weights::Int4Times16 => "i4 times 16".to_owned(),
                Weights::Int4Unpacking | Weights::Int4Bytes => "i4 unpacked".to_owned(),
                Weights::Int4Offset { period } => format!("i4 in i16 for {period}"),
            };
            let mode = if self.copied { "padded copy" } else { "in place" };
            let rescale = match self.rescale {
                Rescale::Float => "f32",
                Rescale::Integer { .. } => "i64",
            };
            let isa = self.dot.map_or(self.isa.name(), Dot::name);
            let channels = b.vectors * self.isa.lanes();
            let join = join_name(self.join.as_ref());
            format!("{isa} {}x{channels} {weights} {mode} {rescale}{join}", b.pixels)
        })
    }

    fn tile(&self, spec: &ConvSpec, block: &Block, pixels: usize) -> Tile {
        let [_, width, channels] = self.image;
        let output = output(spec, self.join.as_ref());
        Tile {
            weights: block.weights,
            dot: self.dot,
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
            out_width: pixels,
            out_first: 0,
            zero_point: output.zero_point,
            clamp: (output.lo, output.hi),
            rescale: self.rescale,
            join: self
                .join
                .as_ref()
                .map(|j| Join { ahead: self.ahead(spec, block, pixels), ..j.join.clone() }),
        }
    }

    /// Where the next tile's residual and results are, for layers whose own exceed the second-level cache.
    fn ahead(&self, spec: &ConvSpec, block: &Block, pixels: usize) -> Option<[usize; 3]> {
        let steps = self.pixel_steps(spec);
        if !self.long_row || self.results(spec) <= RESULTS || self.prefetch(spec, block) > 0 {
            return None;
        }
        let joined = self.join.as_ref()?;
        let [result, residual, second] = steps[..] else { return None };
        let ahead = |step: usize, element: usize| match self.interleaved(spec) {
            false => pixels * step,
            true if block.first + block.columns < spec.channels => block.columns * element,
            true => pixels * step - block.first * element,
        };
        let second = if second > 0 { ahead(second, 1) } else { 0 };
        Some([
            ahead(residual, joined.join.residual.bytes()),
            ahead(result, joined.output.dtype.bytes(1)),
            second,
        ])
    }

    /// Bytes of results of all pixels, and of what a join reads.
    fn results(&self, spec: &ConvSpec) -> usize {
        self.pixel_steps(spec).iter().map(|bytes| bytes * self.rows * self.columns).sum()
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
        let fits = |c: usize| self.bounds[c] < 1 << 27 && self.channels[c].shift <= 58;
        match self.isa {
            Isa::Avx2 if self.dot.is_some() => {
                let times16 = paired && self.rescale == Rescale::Float && channels.clone().all(fits);
                if times16 { Weights::Int4Times16 } else { Weights::Int8 }
            }
            Isa::Vnni512 => {
                let few =
                    self.prefer == Prefer::Size || self.rows * self.columns * vectors < UNPACKED_TILES * 28;
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
                    * spec.input_range.1;
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

    /// Bytes of scratch that all threads need.
    pub fn scratch(&self, spec: &ConvSpec, sharing: Sharing) -> usize {
        match self.private(spec) {
            0 => self.scratch_parts(spec)[1],
            bytes => sharing.scratch(self.shared(spec).map_or(0, |s| s.units(self)), bytes),
        }
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
            tile.weights = Weights::Int4Unpacking;
        }
        self.isa.pack(&rows, &tile)
    }

    /// Bytes of the next block's weights that a tile fetches: where few tiles use a block's weights, the next one's are on
    /// their way meanwhile, evenly. Where many use them, fetching them takes little of the time.
    fn prefetch(&self, spec: &ConvSpec, block: &Block) -> usize {
        const FEW: usize = 24;
        const STAYS: usize = 512 << 10;
        // AVX2 keeps the sums of short arithmetic where the address would be.
        let none = matches!(block.weights, Weights::Int4Unpacking | Weights::Int4Offset { .. });
        if none || self.interleaved(spec) {
            return 0;
        }
        let tiles =
            self.items(block) * if self.one_dimensional() { 1 } else { self.columns.div_ceil(block.pixels) };
        // A tile of one pixel prefetches at short range; weights that stay in the second level need no more.
        let all: usize = self.blocks.iter().map(|b| self.stored(spec, b)).sum();
        if tiles > FEW || block.pixels == 1 && all <= STAYS {
            return 0;
        }
        // The tile that unpacks has no register left for it.
        let fetching = if block.weights == Weights::Int4Bytes { tiles - 1 } else { tiles };
        self.stored(spec, block).div_ceil(fetching.max(1))
    }

    /// Bytes of a block's weights as they are stored.
    fn stored(&self, spec: &ConvSpec, block: &Block) -> usize {
        let bits = match block.weights {
            Weights::Int8 => 8,
            Weights::Int16 => 16,
            Weights::Int4Times16
            | Weights::Int4Unpacking
            | Weights::Int4Bytes
            | Weights::Int4Offset { .. } => 4,
        };
        spec.kernel[0] * self.run(spec) * block.vectors * self.isa.lanes() * bits / 8
    }

    /// Whether all blocks of channels are computed for one tile's pixels before the next: results that exceed the second-level
    /// cache are then written (and a residual read) line after line, at the price of reading the weights anew for
    /// each tile, which must be few.
    fn interleaved(&self, spec: &ConvSpec) -> bool {
        const WEIGHTS: usize = 128 << 10;
        let alike = self.blocks.windows(2).all(|b| b[0].pixels == b[1].pixels);
        alike && self.long_row && spec.weights.len() <= WEIGHTS && self.results(spec) > RESULTS
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
}

/// Largest |x₀·w₀ + x₁·w₁| for x in 0..=1.
fn pair_bound(pair: &[i8]) -> i32 {
    let positive: i32 = pair.iter().map(|w| i32::from(*w).max(0)).sum();
    let negative: i32 = pair.iter().map(|w| i32::from(*w).min(0)).sum();
    positive.max(-negative)
}
