//! The function of a layer of tiles: constants, leaves, and the loops around them.
use super::{Block, ConvSpec, Leaves, SLACK, TilePlan, pixels};
use crate::{
    Result,
    codegen::{
        builder::Fb,
        emitter::{Emitter, Level, fail},
        parallel::{self, LayerFn},
    },
    ukernel::Weights,
};
use cranelift_codegen::ir::{
    FuncRef, InstBuilder, StackSlotData, StackSlotKind, Value, condcodes::IntCC, types::I64,
};
use cranelift_module::{FuncId, Linkage, Module};

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
    let (mut runs, mut weights, mut epilogues) = (Vec::<Run>::new(), Vec::new(), Vec::new());
    let interleaved = plan.interleaved(spec);
    for block in &plan.blocks {
        let mut leaf = |em: &mut Emitter<M>, weights: Weights, pixels: usize| -> Result<Option<FuncId>> {
            if pixels == 0 {
                return Ok(None);
            }
            let block = Block { weights, ..*block };
            let code = plan.isa.assemble(&plan.tile(spec, &block, pixels)).map_err(|e| fail(name, &e))?;
            if let Some(id) = leaves.get(&code) {
                return Ok(Some(*id));
            }
            let label = format!("tile_{pixels}x{}_{}", block.vectors * plan.isa.lanes(), leaves.len());
            let id = em.leaf(&label, 5 + plan.joined(), &[], &code)?;
            leaves.insert(code, id);
            Ok(Some(id))
        };
        let pixels = [block.pixels, plan.rest(block)];
        let mut tiles = |em: &mut Emitter<M>, weights: Weights| -> Result<Tiles<FuncId>> {
            Ok([leaf(em, weights, pixels[0])?, leaf(em, weights, pixels[1])?])
        };
        let unpacking = match block.weights {
            Weights::Int4Bytes => tiles(em, Weights::Int4Unpacking)?,
            _ => [None; 2],
        };
        let tiles = tiles(em, block.weights)?;
        let channels = &plan.channels[block.first..block.first + block.columns];
        let mut epilogue = plan.isa.epilogue(channels, &plan.tile(spec, block, block.pixels));
        if let Some(joined) = &plan.join {
            epilogue.extend(joined.constants.bytes(&joined.join));
        }
        let packed = plan.packed(spec, block);
        let start = [weights.len(), epilogues.len()];
        let bytes = [packed.len(), epilogue.len()];
        weights.extend(packed);
        epilogues.extend(epilogue);
        match runs.last_mut() {
            Some(run) if run.continues(block) && !interleaved => run.count += 1,
            _ => runs.push(Run { block: *block, count: 1, start, bytes, tiles, unpacking }),
        }
    }
    let weights = em.rodata(&format!("{name}_weights"), weights)?;
    let epilogues = em.rodata(&format!("{name}_requant"), epilogues)?;
    let shared = plan.shared(spec);
    let operands = 3 + plan.joined();
    let params = operands + if shared.is_some() { 2 } else { 0 };
    let id = em.function(name, Linkage::Local, Level::Speed, params, &[], |em, b, p| {
        let constants = [em.address(b, weights), em.address(b, epilogues)];
        let runs: Vec<RunCode> = runs
            .iter()
            .map(|run| RunCode {
                count: run.count,
                bytes: run.bytes.map(|n| n as i64),
                first: BlockCode {
                    block: run.block,
                    tiles: run.tiles.map(|id| id.map(|id| em.callee(b, id))),
                    unpacking: run.unpacking.map(|id| id.map(|id| em.callee(b, id))),
                    weights: b.offset(constants[0], run.start[0] as i64),
                    epilogue: b.offset(constants[1], run.start[1] as i64),
                },
            })
            .collect();
        let sums = plan.sums_on_stack(b);
        // The input, then what tiles read or write by output pixel.
        let images: Vec<Value> = [p[0], p[1]].into_iter().chain(p[3..operands].iter().copied()).collect();
        if let Some(shared) = &shared {
            let parts = shared.parts(b, spec, plan, &runs, [p[operands], p[operands + 1]]);
            plan.image(b, spec, &runs, &parts, &images, [p[2], sums]);
        } else {
            let [n, h, w, c] = spec.input;
            let pixels = plan.rows * plan.columns;
            let steps: Vec<usize> = std::iter::once(h * w * c)
                .chain(plan.pixel_steps(spec).into_iter().map(|bytes| pixels * bytes))
                .collect();
            let parts = plan.whole(b, spec, &runs);
            b.repeat(n, &images, |b, v| {
                plan.image(b, spec, &runs, &parts, v, [p[2], sums]);
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
pub(super) enum Shared {
    /// Every thread computes all channels of its rows (of its tiles of the long row).
    Pixels,
    /// Rows block by block: a thread reads only its blocks' weights.
    Channels,
}

impl Shared {
    pub fn units(self, plan: &TilePlan) -> usize {
        let items = plan.blocks.iter().map(|b| plan.items(b));
        match self {
            Self::Pixels => items.max().unwrap_or(0),
            Self::Channels => items.sum(),
        }
    }

    /// The range of rows to copy, and of rows or tiles of every run.
    fn parts(
        self,
        b: &mut Fb<'_>,
        spec: &ConvSpec,
        plan: &TilePlan,
        runs: &[RunCode],
        range: [Value; 2],
    ) -> Parts {
        let units = self.units(plan);
        let mut first = 0;
        let all = [b.int(I64, 0), b.int(I64, spec.out[0] as i64)];
        let mut rows = [all[1], all[0]];
        let mut of = |b: &mut Fb<'_>, run: &RunCode| {
            let block = &run.first.block;
            let items = plan.items(block);
            first += run.count * items;
            match self {
                Self::Pixels => {
                    let range = parallel::scaled(b, range, units, items);
                    if plan.copied {
                        let [begin, end] = plan.rows_of(b, spec, block, range);
                        rows = [b.ins().smin(rows[0], begin), b.ins().smax(rows[1], end)];
                    }
                    Units::Same(range)
                }
                Self::Channels => Units::Following { range, first: first - run.count * items, items },
            }
        };
        let runs = runs.iter().map(|run| of(b, run)).collect();
        if self == Self::Channels {
            rows = all;
        }
        Parts { rows, runs }
    }
}

/// What a call computes, as ranges.
struct Parts {
    /// Output rows whose windows are copied.
    rows: [Value; 2],
    /// For each run.
    runs: Vec<Units>,
}

/// Rows, or tiles of the long row, of the blocks of a run.
enum Units {
    /// The same of each block.
    Same([Value; 2]),
    /// Those of a range that goes through all blocks, this run's from `first` on.
    Following { range: [Value; 2], first: usize, items: usize },
}

impl Units {
    /// Those of one block.
    fn of(&self, b: &mut Fb<'_>, index: Value) -> [Value; 2] {
        match self {
            Self::Same(range) => *range,
            Self::Following { range, first, items } => {
                let before = b.ins().imul_imm_s(index, *items as i64);
                let range = range.map(|v| b.ins().isub(v, before));
                parallel::within(b, range, *first, *items)
            }
        }
    }
}

/// The leaves of the usual tile, and of the shorter one behind the last: see [`USUAL`].
type Tiles<F> = [Option<F>; 2];
const USUAL: usize = 0;
const REST: usize = 1;

/// Blocks that follow each other and differ in their constants only.
struct Run {
    /// The first of them.
    block: Block,
    count: usize,
    /// Where its weights and epilogue start, and how long they are.
    start: [usize; 2],
    bytes: [usize; 2],
    tiles: Tiles<FuncId>,
    /// The same for the first tile of all, which unpacks the weights for the others.
    unpacking: Tiles<FuncId>,
}

impl Run {
    fn continues(&self, block: &Block) -> bool {
        let next = self.block.first + self.count * self.block.columns;
        *block == Block { first: next, ..self.block }
    }
}

/// [`Run`] inside the function.
struct RunCode {
    first: BlockCode,
    count: usize,
    bytes: [i64; 2],
}

#[derive(Clone, Copy)]
struct BlockCode {
    block: Block,
    tiles: Tiles<FuncRef>,
    unpacking: Tiles<FuncRef>,
    weights: Value,
    epilogue: Value,
}

impl TilePlan {
    /// All of one image.
    fn whole(&self, b: &mut Fb<'_>, spec: &ConvSpec, runs: &[RunCode]) -> Parts {
        let all = |b: &mut Fb<'_>, count: usize| [b.int(I64, 0), b.int(I64, count as i64)];
        let runs = runs.iter().map(|run| Units::Same(all(b, self.items(&run.first.block)))).collect();
        Parts { rows: all(b, spec.out[0]), runs }
    }

    /// Output rows of a range of rows or tiles.
    fn rows_of(
        &self,
        b: &mut Fb<'_>,
        spec: &ConvSpec,
        block: &Block,
        [begin, end]: [Value; 2],
    ) -> [Value; 2] {
        let (each, row) = if self.long_row { (block.pixels, spec.out[1]) } else { (self.lines, 1) };
        let [begin, end] = [begin, end].map(|v| b.ins().imul_imm_s(v, each as i64));
        let behind = b.offset(end, row as i64 - 1);
        let row = b.int(I64, row as i64);
        let [begin, end] = [begin, behind].map(|v| b.ins().udiv(v, row));
        let rows = b.int(I64, spec.out[0] as i64);
        [begin, b.ins().smin(end, rows)]
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
        runs: &[RunCode],
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
        self.multiply(b, spec, runs, parts, &images, [sums, unpacked]);
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

    /// Tiles of a part of one image: block by block, or all blocks for each tile's pixels. `images`: the input, the result,
    /// what a join reads and writes.
    fn multiply(
        &self,
        b: &mut Fb<'_>,
        spec: &ConvSpec,
        runs: &[RunCode],
        parts: &Parts,
        images: &[Value],
        scratch: [Value; 2],
    ) {
        if self.interleaved(spec) {
            let blocks: Vec<BlockCode> = runs.iter().map(|run| run.first).collect();
            if let Some(units) = parts.runs.first() {
                let first = b.int(I64, 0);
                let range = units.of(b, first);
                self.group(b, spec, &blocks, range, images, scratch);
            }
            return;
        }
        for (run, units) in runs.iter().zip(&parts.runs) {
            let images = advance(b, images, &self.block_offsets(spec, run.first.block.first));
            let steps = self.block_offsets(spec, run.first.block.columns);
            let steps: Vec<i64> = [1].into_iter().chain(run.bytes).chain(steps).collect();
            let mut vars = vec![b.int(I64, 0), run.first.weights, run.first.epilogue];
            vars.extend(images);
            b.repeat(run.count, &vars, |b, v| {
                let block = BlockCode { weights: v[1], epilogue: v[2], ..run.first };
                let range = units.of(b, v[0]);
                self.group(b, spec, &[block], range, &v[3..], scratch);
                advance(b, v, &steps)
            });
        }
    }

    /// Tiles of some blocks for a range of rows or tiles; `images` are at the first block's first channel.
    fn group(
        &self,
        b: &mut Fb<'_>,
        spec: &ConvSpec,
        group: &[BlockCode],
        range: [Value; 2],
        images: &[Value],
        [sums, unpacked]: [Value; 2],
    ) {
        let Some(first) = group.first() else { return };
        let [_, width, channels] = self.image;
        let row_in = spec.window.stride[0] * width * channels;
        let pixel_steps = self.pixel_steps(spec);
        let fetched = self.prefetch(spec, &first.block);
        // Bytes from one tile or row to the next: of the input, of what is fetched, of results.
        let by_pixels = |input: usize, pixels: usize, tiles: usize| -> Vec<i64> {
            let results = pixel_steps.iter().map(|bytes| pixels * bytes);
            [input, tiles * fetched].into_iter().chain(results).map(|bytes| bytes as i64).collect()
        };
        let rows = by_pixels(row_in, self.columns, self.columns.div_ceil(first.block.pixels));
        let index = |b: &mut Fb<'_>, at: &[Value], count: Value, steps: &[i64]| -> Vec<Value> {
            at.iter().zip(steps).map(|(v, step)| b.index(*v, count, *step)).collect()
        };
        let pixels = first.block.pixels;
        let unpacked = self.unpacked_blocks(b, spec, group, unpacked);
        let tile_in = match self.lines {
            1 => pixels * spec.window.stride[1] * channels,
            lines => lines * row_in,
        };
        let steps = by_pixels(tile_in, pixels, 1);
        // Where the tile keeps its sums, or fetches from; one that unpacks does not fetch.
        let beside = match fetched {
            0 => sums,
            _ => {
                let before = if first.block.weights == Weights::Int4Bytes { fetched } else { 0 };
                b.offset(first.weights, self.stored(spec, &first.block) as i64 - before as i64)
            }
        };
        let images = &[&[images[0], beside], &images[1..]].concat()[..];
        // `t`: the addresses, then whether it is the first tile.
        let call = |b: &mut Fb<'_>, t: &[Value], which: usize| {
            let (at, fresh) = t.split_at(t.len() - 1);
            for (code, unpacked) in group.iter().zip(&unpacked) {
                let Some(tile) = code.tiles[which] else { continue };
                let offsets = self.block_offsets(spec, code.block.first - first.block.first);
                let results = advance(b, &at[2..], &offsets[1..]);
                let arguments = |weights: Value, beside: Value| -> Vec<Value> {
                    let usual = [at[0], weights, results[0], code.epilogue, beside];
                    usual.into_iter().chain(results[1..].iter().copied()).collect()
                };
                let Some(unpacking) = code.unpacking[which] else {
                    b.ins().call(tile, &arguments(code.weights, at[1]));
                    continue;
                };
                let way = |b: &mut Fb<'_>, leaf: FuncRef, weights: Value, beside: Value| {
                    b.ins().call(leaf, &arguments(weights, beside));
                    vec![]
                };
                b.branch(
                    fresh[0],
                    |b| way(b, unpacking, code.weights, *unpacked),
                    |b| way(b, tile, *unpacked, at[1]),
                );
            }
        };
        let with = |b: &mut Fb<'_>, mut at: Vec<Value>, fresh: bool| {
            at.push(b.int(I64, fresh.into()));
            at
        };
        let usual = |b: &mut Fb<'_>, t: &[Value]| {
            call(b, t, USUAL);
            let next = advance(b, t, &steps);
            with(b, next, false)
        };
        let whole = if self.lines > 1 { self.rows / self.lines } else { self.columns / pixels };
        let [begin, end] = range;
        if self.one_dimensional() {
            let from = index(b, images, begin, &steps);
            let from = with(b, from, true);
            let tiles = b.int(I64, whole as i64);
            let stop = b.ins().smin(end, tiles);
            let t = b.repeat_range([begin, stop], &from, |b, _, t| usual(b, t));
            if first.tiles[REST].is_some() {
                // The shorter tile is the last one: it belongs to the range that ends behind it.
                let some = b.ins().icmp(IntCC::SignedLessThan, begin, end);
                let behind = b.ins().icmp(IntCC::SignedGreaterThan, end, tiles);
                let last = b.ins().band(some, behind);
                let whole: Vec<i64> = steps.iter().map(|step| whole as i64 * step).collect();
                let mut from = advance(b, images, &whole);
                from.extend(t.last());
                b.branch(
                    last,
                    |b| {
                        call(b, &from, REST);
                        vec![]
                    },
                    |_| vec![],
                );
            }
            return;
        }
        let from = index(b, images, begin, &rows);
        let from = with(b, from, true);
        b.repeat_range([begin, end], &from, |b, _, v| {
            let t = b.repeat(whole, v, usual);
            call(b, &t, REST);
            let next = advance(b, v, &rows);
            with(b, next, false)
        });
    }

    /// Where the unpacked weights of some blocks lie in the scratch area.
    fn unpacked_blocks(
        &self,
        b: &mut Fb<'_>,
        spec: &ConvSpec,
        group: &[BlockCode],
        scratch: Value,
    ) -> Vec<Value> {
        let place = |at: &mut usize, code: &BlockCode| {
            let place = b.offset(scratch, *at as i64);
            *at += self.unpacked(spec, &code.block);
            Some(place)
        };
        group.iter().scan(0, place).collect()
    }

    /// Bytes from the first channel to channel `first`, in everything that tiles go through.
    fn block_offsets(&self, spec: &ConvSpec, first: usize) -> Vec<i64> {
        let results = pixels(spec, self.join.as_ref()).into_iter().map(|[_, bytes]| (bytes * first) as i64);
        std::iter::once(0).chain(results).collect()
    }
}

/// Addresses, each some bytes further on.
fn advance(b: &mut Fb<'_>, at: &[Value], steps: &[i64]) -> Vec<Value> {
    at.iter().zip(steps).map(|(v, step)| b.offset(*v, *step)).collect()
}
