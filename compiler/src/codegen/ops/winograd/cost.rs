//! Modelled time of a layer, by which loops and blocks are chosen and compared with the direct convolution's
//! ([`super::super::tile_shape`], whose view of the inner loop this is). Constants were measured on Cascade Lake.
use super::{Blocks, ConvSpec, Order, WinogradPlan};
use crate::ukernel::{
    Isa, Rescale,
    winograd::{DATA, PHASES, RESULTS, depth},
};

/// Cycles of what surrounds the products.
struct Costs {
    /// Bytes of a vector.
    vector: usize,
    /// To transform a vector of channels of a tile: 16 lines that go to the second-level cache.
    data: f64,
    /// To make a vector of transformed filters, where they go to the second level.
    filters: f64,
    /// For the results of a tile and a vector of channels; more where their sums come from beyond the first level, or
    /// where they are rescaled in integers.
    outcome: f64,
    far: f64,
    integer: f64,
}

const VNNI512: Costs = Costs { vector: 64, data: 70.0, filters: 6.2, outcome: 20.0, far: 5.0, integer: 12.0 };
const AVX2: Costs = Costs { vector: 32, data: 45.0, filters: 3.0, outcome: 23.0, far: 0.0, integer: 12.0 };

/// Cycles of two loads.
const LOAD: f64 = 1.35;
/// The same of AVX2's dot products, one position at a time.
const DOT_LOAD: f64 = 0.7;
/// Cycles of a call.
const CALL: f64 = 25.0;
/// Data that stay in the first-level cache, in bytes; bytes a cycle from the second beside the arithmetic.
const FIRST_LEVEL: usize = 24 << 10;
const SECOND_LEVEL_RATE: f64 = 19.0;
/// Bytes of filters a cycle that come from the second level beside AVX2's arithmetic, which takes longer.
const AVX2_RATE: f64 = 100.0;
/// Bytes that stay in the second level.
const SECOND_LEVEL: usize = 768 << 10;
/// Bytes a cycle from beyond it.
const THIRD_LEVEL_RATE: f64 = 6.0;

impl WinogradPlan {
    /// Cycles for one image.
    pub(super) fn cost(&self, spec: &ConvSpec) -> f64 {
        let costs = match self.isa {
            Isa::Vnni512 => VNNI512,
            Isa::Avx2 => AVX2,
        };
        let sections = self.tiles[0] as f64 / self.rows as f64;
        let tiles = (self.tiles[0] * self.tiles[1]) as f64;
        let data =
            tiles * spec.input[3].div_ceil(costs.vector) as f64 * costs.data + self.tiles[0] as f64 * CALL;
        let blocks = |cost: &dyn Fn(&Blocks) -> f64| -> f64 {
            self.blocks.iter().map(|b| b.count as f64 * cost(b)).sum()
        };
        let transformed = |b: &Blocks| self.filters(spec, b.vectors).bytes() as f64;
        let filters = blocks(&|b| transformed(b) / costs.vector as f64 * costs.filters + CALL);
        let products = match self.isa {
            Isa::Vnni512 => sections * blocks(&|b| self.section_products(spec, b.vectors)),
            Isa::Avx2 => blocks(&|b| self.image_products(spec, b.vectors)),
        };
        let outcome = costs.outcome
            + if DATA * self.row(2) > FIRST_LEVEL { costs.far } else { 0.0 }
            + match self.rescale {
                Rescale::Float => 0.0,
                Rescale::Integer { .. } => costs.integer,
            };
        let outcomes = blocks(&|b| tiles * b.vectors as f64 * outcome + self.tiles[0] as f64 * CALL);
        // Filters that do not stay in the second level come again for every section, data for every block.
        let bytes = match self.order {
            Order::Rows => sections * blocks(&transformed),
            Order::Channels => blocks(&|_| self.areas(spec).data as f64),
        };
        let again = if self.private(spec) > SECOND_LEVEL { bytes / THIRD_LEVEL_RATE } else { 0.0 };
        data + filters + products + outcomes + again
    }

    /// Cycles to multiply a section by one block of filters with VNNI.
    fn section_products(&self, spec: &ConvSpec, vectors: usize) -> f64 {
        let tiles = self.section();
        let group = self.group(vectors);
        let slice = self.filters(spec, vectors).row();
        let steps = (depth(spec.input[3]) / 4 * PHASES.len()) as f64;
        let v = vectors as f64;
        let of_group = |tiles: usize, first: bool| {
            let t = tiles as f64;
            let near = !first && slice + DATA * tiles * depth(spec.input[3]) <= FIRST_LEVEL;
            let bytes = if near { 0.0 } else { RESULTS as f64 * v * 64.0 };
            // Dot products of two positions, two a cycle; their loads, of which hardly more than one; latency of an accumulator.
            let step = (t * v * 1.08).max((t + v) * LOAD).max(bytes / SECOND_LEVEL_RATE).max(5.0);
            steps * step + t * v * RESULTS as f64 * 1.8 + CALL
        };
        let rest = tiles % group;
        let groups = tiles / group;
        let all = of_group(group, true)
            + (groups - 1) as f64 * of_group(group, false)
            + if rest > 0 { of_group(rest, false) } else { 0.0 };
        DATA as f64 * all
    }

    /// Cycles to multiply an image by one block of filters with AVX2.
    fn image_products(&self, spec: &ConvSpec, vectors: usize) -> f64 {
        let group = self.group(vectors);
        let steps = depth(spec.input[3]) / 4;
        let widenings = steps.div_ceil(self.proof.period()) as f64;
        let v = vectors as f64;
        let of_group = |tiles: usize| {
            let t = tiles as f64;
            // Two instructions for each product, and the loads; with dot products one, two a cycle.
            let step = match self.dot {
                None => (2.0 * t * v + t + v) / 2.8,
                Some(_) => (t * v / 2.0).max((t + v) * DOT_LOAD),
            };
            (DATA * DATA) as f64 * (steps as f64 * step + widenings * t * v + 4.0) + CALL
        };
        let rows = self.tiles[0];
        let (groups, rest) = (self.tiles[1] / group, self.tiles[1] % group);
        let row = groups as f64 * of_group(group) + if rest > 0 { of_group(rest) } else { 0.0 };
        // Filters come from the second level for the first group of a section, or for each.
        let bytes = self.filters(spec, vectors).bytes();
        let times = match bytes <= FIRST_LEVEL {
            true => rows.div_ceil(self.rows),
            false => rows * self.tiles[1].div_ceil(group),
        };
        rows as f64 * row + (times * bytes) as f64 / AVX2_RATE
    }
}
