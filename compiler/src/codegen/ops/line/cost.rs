//! Modelled time of a layer, for comparison with other ways to compute it ([`super::super::tile_shape`], whose view of the
//! inner loop this is). Constants were measured on Cascade Lake.
use super::{ConvSpec, LinePlan, Part};
use crate::ukernel::{
    Rescale,
    line::{self, TAPS},
    winograd::DATA,
};

/// Cycles to transform 64 channels of a pair, whose four lines go to the second level.
const PAIR: f64 = 30.0;
/// Cycles of a call.
const CALL: f64 = 25.0;
/// Cycles of two loads.
const LOAD: f64 = 1.0 / 1.7;
/// Data that stay in the first-level cache, in bytes; bytes a cycle from the second, beside the arithmetic.
const FIRST_LEVEL: usize = 24 << 10;
const SECOND_LEVEL_RATE: f64 = 19.0;
/// Bytes that stay in the second level, and bytes a cycle from beyond it.
const SECOND_LEVEL: usize = 768 << 10;
const THIRD_LEVEL_RATE: f64 = 6.0;
/// Bytes a cycle of filters, each of which is read once, from wherever the last run has left them.
const FILTER_RATE: f64 = 2.8;

impl LinePlan {
    /// Cycles for one image.
    pub(super) fn cost(&self, spec: &ConvSpec) -> f64 {
        let channels = spec.input[3];
        let lines = (spec.out[0] + TAPS - 1) as f64;
        let data = lines * (CALL + (self.pairs * channels.div_ceil(64)) as f64 * PAIR);
        let (groups, rest) = (spec.out[0] / self.lines, spec.out[0] % self.lines);
        let mut blocks = 0.0;
        for b in &self.blocks {
            let of = |lines: usize| -> f64 {
                self.parts(lines, b.vectors)
                    .into_iter()
                    .map(|part| self.tile_cycles(spec, b.vectors, part))
                    .sum()
            };
            let filters = self.filter_bytes(spec, b.vectors) as f64 / FILTER_RATE;
            let tiles = groups as f64 * of(self.lines) + of(rest);
            // What does not stay in the second level comes from beyond it: filters while the block before is computed, data for
            // every block.
            let again = if self.scratch(spec) > SECOND_LEVEL { self.scratch(spec) as f64 } else { 0.0 };
            blocks += b.count as f64 * (tiles.max(filters) + again / THIRD_LEVEL_RATE);
        }
        data + blocks
    }

    fn tile_cycles(&self, spec: &ConvSpec, vectors: usize, part: Part) -> f64 {
        let (p, v) = (part.count as f64, vectors as f64);
        let steps = (DATA * TAPS * line::depth(spec.input[3]) / 4) as f64;
        let mut bytes = 0.0;
        if self.filter_bytes(spec, vectors) > FIRST_LEVEL {
            bytes += v * 64.0;
        }
        if self.scratch(spec) > FIRST_LEVEL {
            bytes += p * 4.0;
        }
        // Dot products, two a cycle; loads; the second level; the latency of the accumulators of two positions.
        let step = (p * v / 2.0).max((p + v) * LOAD).max(bytes / SECOND_LEVEL_RATE).max(2.5);
        let epilogue = match self.rescale {
            Rescale::Float => 2.2,
            Rescale::Integer { .. } => 5.0,
        };
        steps * step + 2.0 * p * v * epilogue + CALL
    }
}
