//! From transformed data and filters to pixels, for one block of output channels: the kernels, and the loops around them.
use super::{
    Blocks, ConvSpec, WinogradPlan,
    body::{Block, BlockCode, Body, leaf},
};
use crate::{
    Result,
    codegen::{builder::Fb, emitter::Emitter},
    ukernel::{
        Isa,
        winograd::{DATA, RESULTS},
    },
};
use cranelift_codegen::ir::{FuncRef, InstBuilder, Value, condcodes::IntCC, types::I64};
use cranelift_module::{FuncId, Module};

/// Kernels, by function or by reference to it.
#[derive(Clone, Debug)]
pub(super) enum Compute<F> {
    /// VNNI: the products of a section, row by row of positions; then the pixels, row by row of tiles.
    Section {
        /// Of the usual group of tiles, and of what is left of a section and of the last section.
        products: Vec<(usize, F)>,
        outcome: Outcomes<F>,
    },
    /// AVX2: products and pixels of one group of tiles after the other, whose sums stay in the first-level cache.
    Groups {
        /// So many of them in a row of tiles.
        usual: (usize, Group<F>),
        rest: Option<Group<F>>,
    },
}

/// Rows of tiles with both rows of pixels, and with one.
type Outcomes<F> = [F; 2];

/// Neighbouring tiles.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group<F> {
    tiles: usize,
    /// Columns of pixels.
    columns: usize,
    product: F,
    outcomes: Outcomes<F>,
}

impl Compute<FuncId> {
    pub fn new<M: Module>(
        em: &mut Emitter<M>,
        name: &str,
        spec: &ConvSpec,
        plan: &WinogradPlan,
        blocks: &Blocks,
    ) -> Result<Self> {
        let product = |em: &mut Emitter<M>, tiles: usize| {
            leaf(em, name, "product", 5, plan.product(spec, blocks.vectors, tiles).assemble())
        };
        let params = 4 + plan.pixels(spec).len();
        let outcomes = |em: &mut Emitter<M>, columns: usize| -> Result<Outcomes<FuncId>> {
            let mut of = |rows: usize| {
                let outcome = plan.outcome(spec, blocks, [rows, columns]);
                leaf(em, name, "outcome", params, outcome.assemble())
            };
            Ok([of(2)?, of(1)?])
        };
        let usual = plan.group(blocks.vectors);
        if plan.isa == Isa::Vnni512 {
            let mut counts = vec![usual];
            for tiles in [plan.section(), plan.last_section()] {
                counts.extend(Some(tiles % usual).filter(|rest| *rest > 0));
            }
            counts.dedup();
            let products = counts.into_iter().map(|tiles| Ok((tiles, product(em, tiles)?)));
            let products = products.collect::<Result<_>>()?;
            return Ok(Self::Section { products, outcome: outcomes(em, spec.out[1])? });
        }
        let mut group = |columns: usize| -> Result<Group<FuncId>> {
            let tiles = columns.div_ceil(RESULTS);
            Ok(Group { tiles, columns, product: product(em, tiles)?, outcomes: outcomes(em, columns)? })
        };
        // The last tile of a row may have one column.
        let columns = (usual * RESULTS).min(spec.out[1]);
        let (count, rest) = (spec.out[1] / columns, spec.out[1] % columns);
        let usual = (count, group(columns)?);
        Ok(Self::Groups { usual, rest: if rest > 0 { Some(group(rest)?) } else { None } })
    }

    pub fn refer<M: Module>(&self, em: &mut Emitter<M>, b: &mut Fb<'_>) -> Compute<FuncRef> {
        match self {
            Self::Section { products, outcome } => Compute::Section {
                products: products.iter().map(|(tiles, id)| (*tiles, em.callee(b, *id))).collect(),
                outcome: outcome.map(|id| em.callee(b, id)),
            },
            Self::Groups { usual: (count, usual), rest } => Compute::Groups {
                usual: (*count, usual.refer(em, b)),
                rest: rest.map(|group| group.refer(em, b)),
            },
        }
    }
}

impl Group<FuncId> {
    fn refer<M: Module>(self, em: &mut Emitter<M>, b: &mut Fb<'_>) -> Group<FuncRef> {
        let Self { tiles, columns, product, outcomes } = self;
        let product = em.callee(b, product);
        Group { tiles, columns, product, outcomes: outcomes.map(|id| em.callee(b, id)) }
    }
}

impl Body<'_> {
    /// The pixels of one block for `rows` rows of tiles from row `top` on, which begin the section.
    pub fn compute(&self, b: &mut Fb<'_>, code: &BlockCode, block: &Block, top: Value, rows: usize) {
        match &code.compute {
            Compute::Section { products, outcome } => {
                self.multiply(b, code, products, block, rows * self.plan.tiles[1]);
                self.store(b, code, outcome, block, top, rows);
            }
            Compute::Groups { usual, rest } => {
                self.groups(b, *usual, *rest, block, (top, rows));
            }
        }
    }

    /// The sums of one block for the section's first `tiles` tiles.
    fn multiply(
        &self,
        b: &mut Fb<'_>,
        code: &BlockCode,
        products: &[(usize, FuncRef)],
        block: &Block,
        tiles: usize,
    ) {
        let (spec, plan) = (self.spec, self.plan);
        let vectors = code.blocks.vectors;
        let (usual, product) = products[0];
        let tile_bytes = [plan.tile_pitch(spec) as i64, plan.sum_bytes(vectors) as i64];
        let strides = [
            (DATA * plan.plane(spec)) as i64,
            plan.filters(spec, vectors).row() as i64,
            plan.row(vectors) as i64,
            (RESULTS * plan.sum_bytes(vectors)) as i64,
        ];
        b.repeat(DATA, &[self.data, block.filters, self.sums, block.starts], |b, v| {
            let end = b.repeat(tiles / usual, &[v[0], v[2]], |b, t| {
                self.call(b, product, [t[0], v[1], t[1], v[3]]);
                t.iter().zip(tile_bytes).map(|(p, s)| b.offset(*p, usual as i64 * s)).collect()
            });
            let rest = products.iter().find(|(count, _)| *count == tiles % usual);
            if let Some((_, product)) = rest {
                self.call(b, *product, [end[0], v[1], end[1], v[3]]);
            }
            v.iter().zip(strides).map(|(p, s)| b.offset(*p, s)).collect()
        });
    }

    /// The pixels of one block for `rows` rows of tiles, whose sums are there.
    fn store(
        &self,
        b: &mut Fb<'_>,
        code: &BlockCode,
        outcomes: &Outcomes<FuncRef>,
        block: &Block,
        top: Value,
        rows: usize,
    ) {
        let step = self.plan.tiles[1] * self.plan.sum_bytes(code.blocks.vectors);
        self.lines(b, block, [top, self.sums], rows, step, |b, y, sums, pixels| {
            self.outcome(b, outcomes, block, [y, sums], pixels);
        });
    }

    /// The same from transformed data, group after group.
    fn groups(
        &self,
        b: &mut Fb<'_>,
        (count, usual): (usize, Group<FuncRef>),
        rest: Option<Group<FuncRef>>,
        block: &Block,
        (top, rows): (Value, usize),
    ) {
        let (spec, plan) = (self.spec, self.plan);
        let pitch = plan.tile_pitch(spec);
        let pixels: Vec<usize> = plan.pixels(spec).iter().map(|[bytes, _]| *bytes).collect();
        let group = |b: &mut Fb<'_>, group: &Group<FuncRef>, y: Value, v: &[Value]| {
            let none = b.int(I64, 0);
            self.call(b, group.product, [v[0], block.filters, self.sums, none]);
            self.outcome(b, &group.outcomes, block, [y, self.sums], &v[1..]);
        };
        self.lines(b, block, [top, self.data], rows, plan.tiles[1] * pitch, |b, y, data, first| {
            let vars: Vec<Value> = std::iter::once(data).chain(first.iter().copied()).collect();
            let end = b.repeat(count, &vars, |b, v| {
                group(b, &usual, y, v);
                let steps =
                    std::iter::once(usual.tiles * pitch).chain(pixels.iter().map(|p| usual.columns * p));
                v.iter().zip(steps).map(|(p, s)| b.offset(*p, s as i64)).collect()
            });
            if let Some(rest) = &rest {
                group(b, rest, y, &end);
            }
        });
    }

    /// Calls `body` for rows of tiles from `top` on, with the row, an address that moves by `step`, and the first pixels of
    /// result, residual and second result.
    fn lines(
        &self,
        b: &mut Fb<'_>,
        block: &Block,
        [top, address]: [Value; 2],
        rows: usize,
        step: usize,
        body: impl Fn(&mut Fb<'_>, Value, Value, &[Value]),
    ) {
        let (spec, plan) = (self.spec, self.plan);
        let lines: Vec<i64> =
            plan.pixels(spec).iter().map(|[bytes, _]| (RESULTS * spec.out[1] * bytes) as i64).collect();
        let first = block.pixels.iter().zip(&lines).map(|(p, line)| b.index(*p, top, *line));
        let pixels: Vec<Value> = first.collect();
        let vars: Vec<Value> = [top, address].into_iter().chain(pixels).collect();
        b.repeat(rows, &vars, |b, v| {
            body(b, v[0], v[1], &v[2..]);
            let steps = [1, step as i64].into_iter().chain(lines.iter().copied());
            v.iter().zip(steps).map(|(p, s)| b.offset(*p, s)).collect()
        });
    }

    /// Pixels of tiles in row `y`, from their sums.
    fn outcome(
        &self,
        b: &mut Fb<'_>,
        outcomes: &Outcomes<FuncRef>,
        block: &Block,
        [y, sums]: [Value; 2],
        pixels: &[Value],
    ) {
        let none = b.int(I64, 0);
        // Leaves take the scratch area that tiles have fifth.
        let mut arguments = vec![sums, block.starts, pixels[0], block.epilogue, none];
        arguments.extend(&pixels[1..]);
        if self.spec.out[0].is_multiple_of(RESULTS) {
            b.ins().call(outcomes[0], &arguments);
            return;
        }
        let last = b.ins().icmp_imm_s(IntCC::Equal, y, self.plan.tiles[0] as i64 - 1);
        let side = |b: &mut Fb<'_>, kernel: usize| {
            b.ins().call(outcomes[kernel], &arguments);
            vec![]
        };
        b.branch(last, |b| side(b, 1), |b| side(b, 0));
    }
}
