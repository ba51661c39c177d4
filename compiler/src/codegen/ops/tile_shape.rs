//! Shape of a layer's tiles, pixels by vectors of output channels, by a model of what bounds the inner loop.
//!
//! A step multiplies four k of every pixel and vector. It takes as long as the slowest of: the dot products (two a
//! cycle), the loads (one broadcast for each pixel, one for each vector of weights; nearly two a cycle), the latency of an accumulator, and
//! the bytes from beyond the first-level cache. Wide tiles read each activation less often, tall ones each weight: where
//! a block's weights exceed the first level, 14 × 32 beats 7 × 64, and images narrower than that lend whole rows to one tile.
//! Constants were measured on Cascade Lake (`goshawk profile` prints the machine's own).
use crate::ukernel::{Isa, Rescale, Weights};

/// A block of output channels of a layer, as the model sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub isa: Isa,
    /// Whether AVX2 has dot products.
    pub dot: bool,
    pub weights: Weights,
    pub rescale: Rescale,
    /// Vectors of output channels.
    pub vectors: usize,
    /// Bytes of K, padding included.
    pub depth: usize,
    /// Rows and columns of the result.
    pub rows: usize,
    pub columns: usize,
    /// Bytes of the image that tiles read.
    pub image: usize,
}

/// Data that stays in the first-level cache beside everything else, in bytes.
const FIRST_LEVEL: usize = 24 << 10;
/// Loads a cycle: 28 broadcasts a step, for which two a cycle would do, take 17 cycles.
const LOAD_RATE: f64 = 1.7;
/// Cycles to unpack 64 bytes of weights beside the products of a tile.
const UNPACK: f64 = 0.8;
/// Bytes a cycle from the second level, beside the arithmetic.
const SECOND_LEVEL_RATE: f64 = 19.0;

impl Work {
    /// Cycles for the whole image with tiles of `lines` rows, `pixels` in all.
    pub fn cycles(&self, lines: usize, pixels: usize) -> f64 {
        let tiles = |pixels: usize, count: usize| count as f64 * self.tile(pixels);
        let unpacking = match self.weights {
            Weights::Int4Bytes => (self.depth * self.vectors * self.isa.lanes() / 64) as f64 * UNPACK,
            _ => 0.0,
        };
        unpacking
            + if lines > 1 {
                let rest = self.rows % lines * self.columns;
                tiles(pixels, self.rows / lines) + if rest > 0 { self.tile(rest) } else { 0.0 }
            } else {
                let rest = self.columns % pixels;
                let row = tiles(pixels, self.columns / pixels) + if rest > 0 { self.tile(rest) } else { 0.0 };
                self.rows as f64 * row
            }
    }

    /// Cycles of one tile.
    fn tile(&self, pixels: usize) -> f64 {
        let (p, v) = (pixels as f64, self.vectors as f64);
        let lanes = self.isa.lanes() as f64;
        // Micro-operations per product of one pixel and one vector, ports for them, bytes of a vector of weights.
        let (operations, ports, weight_bytes) = match (self.isa, self.weights) {
            (Isa::Vnni512, Weights::Int4Times16) => (1.0 + 1.5 / p, 2.0, lanes * 2.0),
            (Isa::Vnni512, _) => (1.0, 2.0, lanes * 4.0),
            (Isa::Avx2, Weights::Int4Times16) if self.dot => (1.0 + 1.5 / p, 2.0, lanes * 2.0),
            (Isa::Avx2, _) if self.dot => (1.0, 2.0, lanes * 4.0),
            (Isa::Avx2, Weights::Int4Offset { .. }) => (2.0 + 5.0 / p, 2.5, lanes * 2.0),
            (Isa::Avx2, Weights::Int16) => (4.0 + 2.0 / v, 2.5, lanes * 8.0),
            (Isa::Avx2, _) => (3.0, 2.5, lanes * 4.0),
        };
        let compute = p * v * operations / ports;
        let loads = match self.isa {
            Isa::Vnni512 => (p + v) / LOAD_RATE,
            Isa::Avx2 if self.dot => (p + v) / LOAD_RATE,
            Isa::Avx2 => (p + p * v) / 2.0,
        };
        let slab = self.depth as f64 / 4.0 * v * weight_bytes;
        let mut bytes = 0.0;
        if slab > FIRST_LEVEL as f64 {
            bytes += v * weight_bytes;
        }
        if self.image > FIRST_LEVEL {
            bytes += p * 4.0;
        }
        let step = compute.max(loads).max(bytes / SECOND_LEVEL_RATE).max(5.0);
        let epilogue = match self.rescale {
            Rescale::Float => 2.2,
            Rescale::Integer { .. } => 5.0,
        };
        self.depth as f64 / 4.0 * step + p * v * epilogue + 30.0
    }

    /// Pixels of a tile inside one row and its cycles: tiles of a row are as equal as can be, or as large.
    pub fn in_row(&self) -> (usize, f64) {
        let most = self.isa.max_rows(self.weights, self.vectors);
        let equal = self.columns.div_ceil(self.columns.div_ceil(most));
        let cost = |pixels: usize| (pixels, self.cycles(1, pixels));
        let (equal, largest) = (cost(equal), cost(most.min(self.columns)));
        if largest.1 < equal.1 { largest } else { equal }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(vectors: usize, depth: usize, rows: usize, columns: usize) -> Work {
        Work {
            isa: Isa::Vnni512,
            dot: false,
            weights: Weights::Int8,
            rescale: Rescale::Float,
            vectors,
            depth,
            rows,
            columns,
            image: 1 << 18,
        }
    }

    #[test]
    fn tall_tiles_where_weights_exceed_the_first_level() {
        let (wide, tall) = (work(4, 2304, 14, 14), work(2, 2304, 14, 14));
        // Two blocks of 32 channels do the work of one of 64.
        assert!(2.0 * tall.in_row().1 < wide.in_row().1);
        let (one, two) = (work(2, 4608, 7, 7), work(2, 4608, 7, 7).cycles(2, 14));
        assert!(two < one.in_row().1, "two rows of seven pixels beat one");
    }

    #[test]
    fn rows_are_cut_evenly() {
        assert_eq!(work(4, 576, 56, 56).in_row().0, 7);
        assert_eq!(work(2, 576, 10, 15).in_row().0, 8);
    }
}
