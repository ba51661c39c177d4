//! The layer's function: constants, kernels, and the loops around them.
use super::{Areas, Blocks, ConvSpec, Order, WinogradPlan, compute::Compute};
use crate::{
    Result,
    codegen::{
        builder::Fb,
        emitter::{Emitter, Level, fail},
        parallel::{self, LayerFn},
    },
    ukernel::winograd::{self, DATA, RESULTS},
};
use cranelift_codegen::ir::{
    FuncRef, InstBuilder, StackSlotData, StackSlotKind, Value, condcodes::IntCC, types::I64,
};
use cranelift_module::{DataId, FuncId, Linkage, Module};
use iced_x86::IcedError;

/// Defines the layer's function: (input, result, scratch, residual and second result if it is joined with a sum, range of
/// units).
pub(crate) fn define<M: Module>(
    em: &mut Emitter<M>,
    name: &str,
    spec: &ConvSpec,
    plan: &WinogradPlan,
) -> Result<LayerFn> {
    let parts = Parts::new(em, name, spec, plan)?;
    let operands = 2 + plan.pixels(spec).len();
    let id = em.function(name, Linkage::Local, Level::Speed, operands + 2, &[], |em, b, p| {
        let table = StackSlotData::new(StackSlotKind::ExplicitSlot, 8 * DATA as u32, 3);
        let table = b.create_sized_stack_slot(table);
        let Areas { data, sums, .. } = plan.areas(spec);
        let body = Body {
            spec,
            plan,
            fill: em.address(b, parts.fill),
            transform: em.callee(b, parts.data),
            blocks: parts.blocks.iter().map(|p| p.refer(em, b)).collect(),
            table: b.ins().stack_addr(I64, table, 0),
            data: p[2],
            sums: b.offset(p[2], data as i64),
            filters: b.offset(p[2], (data + sums) as i64),
        };
        let images: Vec<Value> = [p[0], p[1]].into_iter().chain(p[3..operands].iter().copied()).collect();
        body.emit(b, &images, [p[operands], p[operands + 1]]);
        b.ins().return_(&[]);
        Ok(())
    })?;
    Ok(LayerFn { id, units: plan.units(), private: plan.private(spec) })
}

/// What the function refers to.
struct Parts {
    data: FuncId,
    /// A row of zero points.
    fill: DataId,
    blocks: Vec<BlockParts>,
}

/// Constants and kernels of equal blocks.
struct BlockParts {
    blocks: Blocks,
    weights: DataId,
    starts: DataId,
    epilogue: DataId,
    filters: FuncId,
    compute: Compute<FuncId>,
}

impl Parts {
    fn new<M: Module>(em: &mut Emitter<M>, name: &str, spec: &ConvSpec, plan: &WinogradPlan) -> Result<Self> {
        let data = leaf(em, name, "data", 5, plan.data(spec).assemble())?;
        let fill = vec![spec.input_zero_point as u8; spec.input[2] * spec.input[3]];
        let fill = em.rodata("fill_row", fill)?;
        let blocks = plan
            .blocks
            .iter()
            .map(|blocks| BlockParts::new(em, name, spec, plan, *blocks))
            .collect::<Result<_>>()?;
        Ok(Self { data, fill, blocks })
    }
}

impl BlockParts {
    fn new<M: Module>(
        em: &mut Emitter<M>,
        name: &str,
        spec: &ConvSpec,
        plan: &WinogradPlan,
        blocks: Blocks,
    ) -> Result<Self> {
        let (mut weights, mut starts, mut epilogue) = (Vec::new(), Vec::new(), Vec::new());
        let filters = plan.filters(spec, blocks.vectors);
        let tile = plan.tile(spec, &blocks);
        for block in 0..blocks.count {
            let first = blocks.first + block * blocks.columns;
            let channels = first..first + blocks.columns;
            let of = |c: usize| &spec.weights[c * spec.k()..(c + 1) * spec.k()];
            weights.extend(filters.pack(&channels.clone().map(of).collect::<Vec<_>>()));
            let start = |c: usize| plan.proof.start(spec, c, plan.channels[c].bias);
            let start: Vec<_> = channels.clone().map(start).collect();
            starts.extend(winograd::starts(plan.isa, &start, blocks.vectors));
            epilogue.extend(plan.isa.epilogue(&plan.channels[channels], &tile));
            epilogue.extend(plan.join.iter().flat_map(|j| j.constants.bytes(&j.join)));
        }
        Ok(Self {
            blocks,
            weights: em.rodata(&format!("{name}_weights"), weights)?,
            starts: em.rodata(&format!("{name}_starts"), starts)?,
            epilogue: em.rodata(&format!("{name}_requant"), epilogue)?,
            filters: leaf(em, name, "filters", 5, filters.assemble())?,
            compute: Compute::new(em, name, spec, plan, &blocks)?,
        })
    }

    fn refer<M: Module>(&self, em: &mut Emitter<M>, b: &mut Fb<'_>) -> BlockCode {
        BlockCode {
            blocks: self.blocks,
            weights: em.address(b, self.weights),
            starts: em.address(b, self.starts),
            epilogue: em.address(b, self.epilogue),
            filters: em.callee(b, self.filters),
            compute: self.compute.refer(em, b),
        }
    }
}

/// A kernel.
pub(super) fn leaf<M: Module>(
    em: &mut Emitter<M>,
    name: &str,
    kind: &str,
    params: usize,
    code: std::result::Result<Vec<u8>, IcedError>,
) -> Result<FuncId> {
    em.shared_leaf_of(&format!("winograd_{kind}"), params, code.map_err(|e| fail(name, &e))?)
}

/// [`BlockParts`] inside the function.
pub(super) struct BlockCode {
    pub blocks: Blocks,
    weights: Value,
    starts: Value,
    epilogue: Value,
    filters: FuncRef,
    pub compute: Compute<FuncRef>,
}

pub(super) struct Body<'a> {
    pub spec: &'a ConvSpec,
    pub plan: &'a WinogradPlan,
    fill: Value,
    transform: FuncRef,
    blocks: Vec<BlockCode>,
    table: Value,
    /// The thread's areas.
    pub data: Value,
    pub sums: Value,
    filters: Value,
}

/// Where a block is.
#[derive(Clone)]
pub(super) struct Block {
    pub filters: Value,
    pub starts: Value,
    pub epilogue: Value,
    /// First channel of the first pixel: result, residual, second result.
    pub pixels: Vec<Value>,
}

impl Body<'_> {
    /// `images`: the input, the result, what a join reads and writes.
    fn emit(&self, b: &mut Fb<'_>, images: &[Value], range: [Value; 2]) {
        let (spec, plan) = (self.spec, self.plan);
        let [n, h, w, c] = spec.input;
        let pixels = spec.out[0] * spec.out[1];
        let strides: Vec<usize> =
            std::iter::once(h * w * c).chain(plan.pixels(spec).iter().map(|p| pixels * p[0])).collect();
        if plan.order == Order::Rows {
            let mut to = self.filters;
            for code in &self.blocks {
                to = b.repeat(code.blocks.count, &[code.weights, to], |b, v| {
                    self.transform_filters(b, code, v[0], v[1]);
                    self.next(b, code, v[0], v[1])
                })[1];
            }
        }
        b.repeat(n, images, |b, v| {
            match plan.order {
                Order::Rows => self.sections(b, v, range),
                Order::Channels => {
                    let top = b.int(I64, 0);
                    self.transform_data(b, v[0], top, plan.tiles[0]);
                    self.channels(b, &v[1..], range);
                }
            }
            v.iter().zip(&strides).map(|(p, s)| b.offset(*p, *s as i64)).collect()
        });
    }

    /// Weights and transformed filters of the next block.
    fn next(&self, b: &mut Fb<'_>, code: &BlockCode, weights: Value, filters: Value) -> Vec<Value> {
        let kernel = self.plan.filters(self.spec, code.blocks.vectors);
        vec![b.offset(weights, kernel.packed_bytes() as i64), b.offset(filters, kernel.bytes() as i64)]
    }

    /// Sections of tile rows, all channels of each.
    fn sections(&self, b: &mut Fb<'_>, images: &[Value], [begin, end]: [Value; 2]) {
        let plan = self.plan;
        let whole = plan.tiles[0] / plan.rows;
        let limit = b.int(I64, whole as i64);
        let stop = b.ins().smin(end, limit);
        let rows = plan.rows as i64;
        b.repeat_range([begin, stop], &[], |b, section, _| {
            let top = b.ins().imul_imm_s(section, rows);
            self.section(b, images, top, plan.rows);
            vec![]
        });
        if !plan.tiles[0].is_multiple_of(plan.rows) {
            // The shorter section is the last one: it belongs to the range that ends behind it.
            let some = b.ins().icmp(IntCC::SignedLessThan, begin, end);
            let behind = b.ins().icmp(IntCC::SignedGreaterThan, end, limit);
            let last = b.ins().band(some, behind);
            b.branch(
                last,
                |b| {
                    let top = b.int(I64, whole as i64 * rows);
                    self.section(b, images, top, plan.tiles[0] % plan.rows);
                    vec![]
                },
                |_| vec![],
            );
        }
    }

    /// `rows` rows of tiles from row `top` on.
    fn section(&self, b: &mut Fb<'_>, images: &[Value], top: Value, rows: usize) {
        self.transform_data(b, images[0], top, rows);
        let mut filters = self.filters;
        for code in &self.blocks {
            let first = Block { filters, ..self.first(b, code, &images[1..]) };
            filters = b.repeat(code.blocks.count, &first.values(), |b, v| {
                let block = Block::from(v);
                self.compute(b, code, &block, top, rows);
                let bytes = self.plan.filters(self.spec, code.blocks.vectors).bytes();
                self.following(b, code, &block, bytes as i64)
            })[0];
        }
    }

    /// Blocks of output channels over the whole image.
    fn channels(&self, b: &mut Fb<'_>, images: &[Value], range: [Value; 2]) {
        let plan = self.plan;
        let mut before = 0;
        for code in &self.blocks {
            let range = parallel::within(b, range, before, code.blocks.count);
            before += code.blocks.count;
            let first = self.first(b, code, images);
            let kernel = plan.filters(self.spec, code.blocks.vectors);
            let weights = b.index(code.weights, range[0], kernel.packed_bytes() as i64);
            let strides = self.strides(code, 0);
            let first = first.values().into_iter().zip(strides).map(|(p, s)| b.index(p, range[0], s));
            let vars: Vec<Value> = std::iter::once(weights).chain(first).collect();
            let top = b.int(I64, 0);
            b.repeat_range(range, &vars, |b, _, v| {
                let block = Block::from(&v[1..]);
                self.transform_filters(b, code, v[0], block.filters);
                self.compute(b, code, &block, top, plan.rows);
                let weights = b.offset(v[0], kernel.packed_bytes() as i64);
                std::iter::once(weights).chain(self.following(b, code, &block, 0)).collect()
            });
        }
    }

    fn first(&self, b: &mut Fb<'_>, code: &BlockCode, images: &[Value]) -> Block {
        let kinds = self.plan.pixels(self.spec);
        let channel =
            |(image, [_, bytes]): (&Value, &[usize; 2])| b.offset(*image, (code.blocks.first * bytes) as i64);
        let pixels = images.iter().zip(&kinds).map(channel).collect();
        Block { filters: self.filters, starts: code.starts, epilogue: code.epilogue, pixels }
    }

    /// Bytes from one block to the next of all that [`Block`] names; filters are that far apart.
    fn strides(&self, code: &BlockCode, filters: i64) -> Vec<i64> {
        let Blocks { vectors, columns, .. } = code.blocks;
        let joined = self.plan.join.as_ref().map_or(0, |j| j.constants.bytes(&j.join).len());
        let epilogue = vectors * self.plan.isa.epilogue_bytes(self.plan.rescale) + joined;
        let starts = winograd::starts(self.plan.isa, &[], vectors).len();
        let pixels = self.plan.pixels(self.spec).into_iter().map(|[_, bytes]| (columns * bytes) as i64);
        [filters, starts as i64, epilogue as i64].into_iter().chain(pixels).collect()
    }

    fn following(&self, b: &mut Fb<'_>, code: &BlockCode, block: &Block, filters: i64) -> Vec<Value> {
        let strides = self.strides(code, filters);
        block.values().into_iter().zip(strides).map(|(p, s)| b.offset(p, s)).collect()
    }

    pub fn call(&self, b: &mut Fb<'_>, leaf: FuncRef, [first, second, third, fourth]: [Value; 4]) {
        let none = b.int(I64, 0);
        b.ins().call(leaf, &[first, second, third, fourth, none]);
    }

    fn transform_filters(&self, b: &mut Fb<'_>, code: &BlockCode, weights: Value, to: Value) {
        let none = b.int(I64, 0);
        self.call(b, code.filters, [weights, none, to, none]);
    }

    fn transform_data(&self, b: &mut Fb<'_>, input: Value, top: Value, rows: usize) {
        let [_, height, width, channels] = self.spec.input;
        let row_bytes = (width * channels) as i64;
        let tile_row = (self.plan.tiles[1] * self.plan.tile_pitch(self.spec)) as i64;
        b.repeat(rows, &[top, self.data], |b, v| {
            let y = b.ins().imul_imm_s(v[0], RESULTS as i64);
            let y = b.offset(y, -(self.spec.window.pads[0] as i64));
            for row in 0..DATA {
                let y = b.offset(y, row as i64);
                let address = b.index(input, y, row_bytes);
                let inside = b.ins().icmp_imm_u(IntCC::UnsignedLessThan, y, height as i64);
                let address = b.ins().select(inside, address, self.fill);
                b.store(address, self.table, 8 * row as i32);
            }
            let none = b.int(I64, 0);
            self.call(b, self.transform, [self.table, none, v[1], none]);
            vec![b.offset(v[0], 1), b.offset(v[1], tile_row)]
        });
    }
}

impl Block {
    fn values(&self) -> Vec<Value> {
        [self.filters, self.starts, self.epilogue].into_iter().chain(self.pixels.iter().copied()).collect()
    }
}

impl From<&[Value]> for Block {
    fn from(v: &[Value]) -> Self {
        Self { filters: v[0], starts: v[1], epilogue: v[2], pixels: v[3..].to_vec() }
    }
}

impl WinogradPlan {
    /// What threads share: sections, or blocks of channels.
    pub(super) fn units(&self) -> usize {
        match self.order {
            Order::Rows => self.tiles[0].div_ceil(self.rows),
            Order::Channels => self.blocks.iter().map(|b| b.count).sum(),
        }
    }

    /// Tiles of the last section.
    pub(super) fn last_section(&self) -> usize {
        (self.tiles[0] - (self.tiles[0] - 1) / self.rows * self.rows) * self.tiles[1]
    }
}
