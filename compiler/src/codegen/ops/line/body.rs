//! The layer's function: constants, kernels, and the loops around them.
use super::{Blocks, ConvSpec, LinePlan, Part, Shared};
use crate::{
    Result,
    codegen::{
        builder::Fb,
        emitter::{Emitter, Level, fail},
        ops::tiles,
        parallel::{self, LayerFn},
    },
    ukernel::{
        Isa,
        line::{self, TAPS},
        pack::Channel,
    },
};
use cranelift_codegen::ir::{FuncRef, InstBuilder, Value, condcodes::IntCC, types::I64};
use cranelift_module::{DataId, FuncId, Linkage, Module};

/// Defines the layer's function: (input, result, scratch, residual and second result if it is joined with a sum, and the
/// range of units if it can be split).
pub(crate) fn define<M: Module>(
    em: &mut Emitter<M>,
    name: &str,
    spec: &ConvSpec,
    plan: &LinePlan,
) -> Result<LayerFn> {
    let data = plan.data(spec).assemble().map_err(|e| fail(name, &e))?;
    let data = em.shared_leaf("line_data", data)?;
    let fill = em.rodata("fill_row", vec![spec.input_zero_point as u8; spec.input[2] * spec.input[3]])?;
    let parts = plan
        .blocks
        .iter()
        .map(|blocks| BlockParts::new(em, name, spec, plan, *blocks))
        .collect::<Result<Vec<_>>>()?;
    let shared = plan.shared(spec);
    let operands = 2 + tiles::pixels(spec, plan.join.as_ref()).len();
    let params = operands + if shared.is_some() { 2 } else { 0 };
    let id = em.function(name, Linkage::Local, Level::Speed, params, &[], |em, b, p| {
        let body = Body {
            spec,
            plan,
            fill: em.address(b, fill),
            transform: em.callee(b, data),
            blocks: parts.iter().map(|p| p.refer(em, b)).collect(),
            data: p[2],
        };
        let images: Vec<Value> = [p[0], p[1]].into_iter().chain(p[3..operands].iter().copied()).collect();
        let all =
            |b: &mut Fb<'_>, shared: Shared| [b.int(I64, 0), b.int(I64, shared.units(spec, plan) as i64)];
        let (mut groups, mut blocks) = (all(b, Shared::Lines), all(b, Shared::Channels));
        match shared {
            Some(Shared::Lines) => groups = [p[operands], p[operands + 1]],
            Some(Shared::Channels) => blocks = [p[operands], p[operands + 1]],
            None => {}
        }
        let [n, h, w, c] = spec.input;
        let pixels = spec.out[0] * spec.out[1];
        let strides: Vec<usize> =
            std::iter::once(h * w * c).chain(body.pixels().iter().map(|p| pixels * p[0])).collect();
        b.repeat(n, &images, |b, v| {
            body.image(b, v, groups, blocks);
            v.iter().zip(&strides).map(|(p, s)| b.offset(*p, *s as i64)).collect()
        });
        b.ins().return_(&[]);
        Ok(())
    })?;
    Ok(LayerFn::new(id, shared.map_or(0, |s| s.units(spec, plan))))
}

/// Tiles of a group, by function or by reference to it.
type Tiles<F> = Vec<(Part, F)>;

/// Constants and kernels of equal blocks.
struct BlockParts {
    blocks: Blocks,
    filters: DataId,
    epilogue: DataId,
    /// Of a whole group, and of the last one if that is shorter.
    tiles: [Tiles<FuncId>; 2],
}

impl BlockParts {
    fn new<M: Module>(
        em: &mut Emitter<M>,
        name: &str,
        spec: &ConvSpec,
        plan: &LinePlan,
        blocks: Blocks,
    ) -> Result<Self> {
        let (mut filters, mut epilogue) = (Vec::new(), Vec::new());
        let tile = plan.tile(spec, &blocks, Part { first: 0, count: 1 });
        for block in 0..blocks.count {
            let first = blocks.first + block * blocks.columns;
            let range = first..first + blocks.columns;
            let weights = range.clone().map(|c| &spec.weights[c * spec.k()..(c + 1) * spec.k()]);
            filters.extend(line::pack(&weights.collect::<Vec<_>>(), spec.input[3], blocks.vectors));
            let (mut channels, mut second) = (Vec::<Channel>::new(), Vec::new());
            for c in range {
                let [a, b] = line::starts(plan.proof.start(spec, c, plan.channels[c].bias));
                channels.push(Channel { bias: a, ..plan.channels[c] });
                second.push(b);
            }
            epilogue.extend(line::epilogue(&channels, &second, &tile));
            epilogue.extend(plan.join.iter().flat_map(|j| j.constants.bytes(&j.join)));
        }
        let params = 3 + tiles::pixels(spec, plan.join.as_ref()).len() + 1;
        let mut tiles = |lines: usize| -> Result<Tiles<FuncId>> {
            let tile = |part: Part| {
                let code = line::assemble(&plan.tile(spec, &blocks, part)).map_err(|e| fail(name, &e))?;
                Ok((part, em.shared_leaf_of("line_tile", params, code)?))
            };
            plan.parts(lines, blocks.vectors).into_iter().map(tile).collect()
        };
        let tiles = [tiles(plan.lines)?, tiles(spec.out[0] % plan.lines)?];
        Ok(Self {
            blocks,
            filters: em.rodata(&format!("{name}_weights"), filters)?,
            epilogue: em.rodata(&format!("{name}_requant"), epilogue)?,
            tiles,
        })
    }

    fn refer<M: Module>(&self, em: &mut Emitter<M>, b: &mut Fb<'_>) -> BlockCode {
        let mut refer =
            |tiles: &Tiles<FuncId>| tiles.iter().map(|(part, id)| (*part, em.callee(b, *id))).collect();
        let tiles = [refer(&self.tiles[0]), refer(&self.tiles[1])];
        BlockCode {
            blocks: self.blocks,
            filters: em.address(b, self.filters),
            epilogue: em.address(b, self.epilogue),
            tiles,
        }
    }
}

/// [`BlockParts`] inside the function.
struct BlockCode {
    blocks: Blocks,
    filters: Value,
    epilogue: Value,
    tiles: [Tiles<FuncRef>; 2],
}

struct Body<'a> {
    spec: &'a ConvSpec,
    plan: &'a LinePlan,
    fill: Value,
    transform: FuncRef,
    blocks: Vec<BlockCode>,
    /// Transformed lines.
    data: Value,
}

/// Addresses of a block: filters, epilogue, first channel of the first pixel of result, residual and second result.
type Block = [Value];

impl Body<'_> {
    /// Bytes of a pixel and of one of its channels: result, residual, second result.
    fn pixels(&self) -> Vec<[usize; 2]> {
        tiles::pixels(self.spec, self.plan.join.as_ref())
    }

    /// Some groups and some blocks of an image. `images`: the input, the result, what a join reads and writes.
    fn image(&self, b: &mut Fb<'_>, images: &[Value], groups: [Value; 2], blocks: [Value; 2]) {
        self.transform(b, images[0], groups);
        let mut before = 0;
        for code in &self.blocks {
            let Blocks { first, count, vectors, columns } = code.blocks;
            let range = parallel::within(b, blocks, before, count);
            before += count;
            let joined = self.plan.join.as_ref().map_or(0, |j| j.constants.bytes(&j.join).len());
            let epilogue = line::second_bytes(vectors)
                + vectors * Isa::Vnni512.epilogue_bytes(self.plan.rescale)
                + joined;
            let pixels = self.pixels();
            let strides: Vec<i64> = [self.plan.filter_bytes(self.spec, vectors), epilogue]
                .into_iter()
                .chain(pixels.iter().map(|[_, bytes]| columns * bytes))
                .map(|s| s as i64)
                .collect();
            let mut start = vec![code.filters, b.offset(code.epilogue, line::second_bytes(vectors) as i64)];
            for (v, [_, bytes]) in images[1..].iter().zip(&pixels) {
                start.push(b.offset(*v, (first * bytes) as i64));
            }
            let start: Vec<Value> =
                start.into_iter().zip(&strides).map(|(v, s)| b.index(v, range[0], *s)).collect();
            b.repeat_range(range, &start, |b, _, block| {
                self.groups(b, code, block, groups);
                block.iter().zip(&strides).map(|(v, s)| b.offset(*v, *s)).collect()
            });
        }
    }

    /// Transforms the lines that some groups read.
    fn transform(&self, b: &mut Fb<'_>, input: Value, [begin, end]: [Value; 2]) {
        let (spec, plan) = (self.spec, self.plan);
        let [_, height, width, channels] = spec.input;
        let first = b.ins().imul_imm_s(begin, plan.lines as i64);
        let last = b.ins().imul_imm_s(end, plan.lines as i64);
        let rows = b.int(I64, spec.out[0] as i64);
        let last = b.ins().smin(last, rows);
        let last = b.offset(last, (TAPS - 1) as i64);
        let to = b.index(self.data, first, plan.line_bytes(spec) as i64);
        b.repeat_range([first, last], &[to], |b, y, v| {
            let y = b.offset(y, -(spec.window.pads[0] as i64));
            let address = b.index(input, y, (width * channels) as i64);
            let inside = b.ins().icmp_imm_u(IntCC::UnsignedLessThan, y, height as i64);
            let address = b.ins().select(inside, address, self.fill);
            let none = b.int(I64, 0);
            b.ins().call(self.transform, &[address, none, v[0], none, none]);
            vec![b.offset(v[0], plan.line_bytes(spec) as i64)]
        });
    }

    /// Some groups of one block.
    fn groups(&self, b: &mut Fb<'_>, code: &BlockCode, block: &Block, [begin, end]: [Value; 2]) {
        let (spec, plan) = (self.spec, self.plan);
        let whole = spec.out[0] / plan.lines;
        let fetched = plan.fetched(spec, code.blocks.vectors) * code.tiles[0].len();
        let strides: Vec<i64> = [plan.lines * plan.line_bytes(spec), fetched]
            .into_iter()
            .chain(self.pixels().iter().map(|[bytes, _]| plan.lines * spec.out[1] * bytes))
            .map(|s| s as i64)
            .collect();
        let next = b.offset(block[0], plan.filter_bytes(spec, code.blocks.vectors) as i64);
        let top: Vec<Value> = [self.data, next].into_iter().chain(block[2..].iter().copied()).collect();
        let from: Vec<Value> = top.iter().zip(&strides).map(|(v, s)| b.index(*v, begin, *s)).collect();
        let limit = b.int(I64, whole as i64);
        let stop = b.ins().smin(end, limit);
        b.repeat_range([begin, stop], &from, |b, _, v| {
            self.tiles(b, code, &code.tiles[0], block, v);
            v.iter().zip(&strides).map(|(v, s)| b.offset(*v, *s)).collect()
        });
        if !code.tiles[1].is_empty() {
            // The shorter group is the last one: it belongs to the range that ends behind it.
            let some = b.ins().icmp(IntCC::SignedLessThan, begin, end);
            let behind = b.ins().icmp(IntCC::SignedGreaterThan, end, limit);
            let last = b.ins().band(some, behind);
            b.branch(
                last,
                |b| {
                    let v: Vec<Value> =
                        top.iter().zip(&strides).map(|(v, s)| b.offset(*v, whole as i64 * s)).collect();
                    self.tiles(b, code, &code.tiles[1], block, &v);
                    vec![]
                },
                |_| vec![],
            );
        }
    }

    /// The tiles of one group. `group`: its transformed lines, what to fetch, its first pixels.
    fn tiles(
        &self,
        b: &mut Fb<'_>,
        code: &BlockCode,
        tiles: &Tiles<FuncRef>,
        block: &Block,
        group: &[Value],
    ) {
        let (spec, plan) = (self.spec, self.plan);
        let fetched = plan.fetched(spec, code.blocks.vectors);
        for (i, (part, tile)) in tiles.iter().enumerate() {
            let pixel = part.first / plan.pairs * spec.out[1] + part.first % plan.pairs * 2;
            let data = b.offset(group[0], (part.first * line::pair_bytes(spec.input[3])) as i64);
            let fetch = b.offset(group[1], (i * fetched) as i64);
            let results: Vec<Value> = group[2..]
                .iter()
                .zip(self.pixels())
                .map(|(v, [bytes, _])| b.offset(*v, (pixel * bytes) as i64))
                .collect();
            let mut arguments = vec![data, block[0], results[0], block[1], fetch];
            arguments.extend(&results[1..]);
            b.ins().call(*tile, &arguments);
        }
    }
}
