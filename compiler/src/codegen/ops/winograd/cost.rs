//! Modelled time of a layer, by which loops and blocks are chosen and compared with the direct convolution's
//! ([`super::super::tile_shape`], whose view of the inner loop this is). Constants were measured on Cascade Lake.
use super::{Blocks, ConvSpec, Order, WinogradPlan};
use crate::ukernel::{
    Rescale,
    winograd::{DATA, PHASES, RESULTS, depth},
};

/// Cycles to transform a tile of 64 channels: 16 lines that go to the second-level cache.
const DATA_TILE: f64 = 70.0;
/// Cycles to make 64 transformed bytes of filters, where they go to the second level.
const FILTER_VECTOR: f64 = 6.2;
/// Cycles for the results of a tile and 16 channels, and what more they take from beyond the first-level cache.
const OUTCOME: f64 = 20.0;
const OUTCOME_FAR: f64 = 5.0;
/// Cycles of two loads.
const LOAD: f64 = 1.35;
/// Cycles of a call.
const CALL: f64 = 25.0;
/// Data that stay in the first-level cache, in bytes; bytes a cycle from the second beside the arithmetic.
const FIRST_LEVEL: usize = 24 << 10;
const SECOND_LEVEL_RATE: f64 = 19.0;
/// Bytes that stay in the second level.
const SECOND_LEVEL: usize = 768 << 10;
/// Bytes a cycle from beyond it.
const THIRD_LEVEL_RATE: f64 = 6.0;

impl WinogradPlan {
    /// Cycles for one image.
    pub(super) fn cost(&self, spec: &ConvSpec) -> f64 {
        let sections = self.tiles[0] as f64 / self.rows as f64;
        let tiles = (self.tiles[0] * self.tiles[1]) as f64;
        let data = tiles * spec.input[3].div_ceil(64) as f64 * DATA_TILE + self.tiles[0] as f64 * CALL;
        let filters: f64 = self
            .blocks
            .iter()
            .map(|b| {
                b.count as f64 * (self.filters(spec, b.vectors).bytes() as f64 / 64.0 * FILTER_VECTOR + CALL)
            })
            .sum();
        let blocks = |cost: &dyn Fn(&Blocks) -> f64| -> f64 {
            self.blocks.iter().map(|b| b.count as f64 * cost(b)).sum()
        };
        let products = sections * blocks(&|b| self.products(spec, b.vectors));
        let sums = DATA * self.row(2);
        let outcome = OUTCOME
            + if sums > FIRST_LEVEL { OUTCOME_FAR } else { 0.0 }
            + match self.rescale {
                Rescale::Float => 0.0,
                Rescale::Integer { .. } => 12.0,
            };
        let outcomes = blocks(&|b| tiles * b.vectors as f64 * outcome + self.tiles[0] as f64 * CALL);
        // Filters that do not stay in the second level come again for every section.
        let again = match self.order {
            Order::Rows if self.private(spec) > SECOND_LEVEL => {
                let bytes: usize =
                    self.blocks.iter().map(|b| b.count * self.filters(spec, b.vectors).bytes()).sum();
                sections * bytes as f64 / THIRD_LEVEL_RATE
            }
            _ => 0.0,
        };
        data + filters + products + outcomes + again
    }

    /// Cycles to multiply a section by one block of filters.
    fn products(&self, spec: &ConvSpec, vectors: usize) -> f64 {
        let tiles = self.section();
        let group = self.group(tiles, vectors);
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
}
