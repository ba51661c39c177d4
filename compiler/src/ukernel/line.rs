//! Winograd's F(2, 3) along the lines of an image, in integers: the algorithm, and the kernels that compute it with VNNI.
//!
//! Two neighbouring results of a line are a *pair*. For each of the filter's rows they take four products instead of six,
//! of data that are at most twice as wide as the pixels and filters of at most three times the weights: 7-bit activations
//! and most weights of 6 bits still fit into bytes, where [`super::winograd`] ends at 6 and 4. Scaled so that nothing is halved:
//!
//! | | 0 | 1 | 2 | 3 |
//! |---|---|---|---|---|
//! | data, v = Bᵀd | d₀ − d₂ | d₁ + d₂ | d₂ − d₁ | d₁ − d₃ |
//! | filter, u | 2g₀ | g₀ + g₁ + g₂ | g₀ − g₁ + g₂ | −2g₂ |
//! | product | c₀ = v₀u₀ | c₁ = v₁u₁ | c₂ = v₂u₂ | c₃ = v₃u₃ |
//!
//! 2y₀ = (c₁ + c₂) + c₀ and 2y₁ = (c₁ − c₂) + c₃: products 1 and 2 of all filter rows and channels are summed, go through one
//! butterfly in registers, and products 0 and 3 are added to what comes out. So a tile of pairs is a tile of a direct
//! convolution with another inner loop: it ends in the same epilogue, with results twice as large.
//!
//! All data are flipped or offset so that they are unsigned: d₂ and d₃ flipped by 128 move each of the four sums by 128.
use super::{Isa, Tile, pack::Channel, winograd::DATA, x64::line as x64};

pub use super::winograd::{OFFSET, TAPS};
use iced_x86::IcedError;

/// Results are twice as large: 2 to this power.
pub const SCALE_BITS: u8 = 1;
/// Positions by phase: those that go through the butterfly, those that are added behind it.
pub const PHASES: [[usize; 2]; 2] = [[1, 2], [0, 3]];

/// The transformed filter.
pub fn filter([a, b, c]: [i64; TAPS]) -> [i64; DATA] {
    [2 * a, a + b + c, a - b + c, -2 * c]
}

/// Twice the results.
pub fn results([a, b, c, d]: [i64; DATA]) -> [i64; 2] {
    [b + c + a, b - c + d]
}

/// Bytes of the channels of one position.
pub const fn depth(channels: usize) -> usize {
    channels.next_multiple_of(4)
}

/// Bytes of a pair: four positions.
pub const fn pair_bytes(channels: usize) -> usize {
    DATA * depth(channels)
}

/// Most pairs of a tile.
pub const fn max_pairs(vectors: usize) -> usize {
    14 / vectors
}

/// Transforms a line: (`rdi` = line of pixels, `rdx` = pairs, one behind the other).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Data {
    /// Columns of the image.
    pub columns: usize,
    /// Channels of a pixel.
    pub channels: usize,
    /// Columns of padding before the image.
    pub before: usize,
    /// Pairs of the line.
    pub pairs: usize,
    /// What columns outside the image hold.
    pub zero_point: u8,
    /// Added at position 1 beyond [`OFFSET`], modulo 2⁸.
    pub centre: u8,
}

impl Data {
    /// Column of the image that is column `i` of the line with its padding, if there is one.
    pub fn column(&self, i: usize) -> Option<usize> {
        i.checked_sub(self.before).filter(|c| *c < self.columns)
    }

    /// Machine code.
    ///
    /// # Errors
    /// The assembler refuses an instruction, which is a defect of the kernel.
    pub fn assemble(&self) -> Result<Vec<u8>, IcedError> {
        x64::data::assemble(self)
    }
}

/// Machine code of a tile of pairs: a [`Tile`] whose rows are results, two a pair; `run` is [`depth`], `row_stride` goes
/// from one pair to the next, and lines of the image follow each other without a gap. In front of the epilogue block is
/// what [`starts`] gives second.
///
/// # Errors
/// As [`Data::assemble`].
pub fn assemble(tile: &Tile) -> Result<Vec<u8>, IcedError> {
    x64::tile::assemble(tile)
}

/// Bytes of the transformed filters of a block.
pub const fn filter_bytes(channels: usize, vectors: usize) -> usize {
    DATA * TAPS * depth(channels) * vectors * 16
}

/// Transformed filters of a block of output channels as tiles read them: by phase, filter row, four input channels, position.
///
/// `filters` holds the 3 × 3 × `channels` weights of each output channel.
pub fn pack(filters: &[&[i8]], channels: usize, vectors: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(filter_bytes(channels, vectors));
    let at = |n: usize, row: usize, k: usize, position: usize| -> i8 {
        let Some(weights) = filters.get(n).filter(|_| k < channels) else { return 0 };
        let tap = |column: usize| i64::from(weights[(row * TAPS + column) * channels + k]);
        filter([tap(0), tap(1), tap(2)])[position] as i8
    };
    for positions in PHASES {
        for row in 0..TAPS {
            for step in (0..depth(channels)).step_by(4) {
                for position in positions {
                    for n in 0..vectors * Isa::Vnni512.lanes() {
                        out.extend((step..step + 4).map(|k| at(n, row, k, position) as u8));
                    }
                }
            }
        }
    }
    out
}

/// Where the two sums of a pair start, so that twice `start` comes out of the butterfly.
pub fn starts(start: [i64; 2]) -> [i32; 2] {
    [(start[0] + start[1]) as i32, (start[0] - start[1]) as i32]
}

/// The constants of a block: second starts, then the epilogue of a tile, to which `rcx` points.
///
/// `channels` start where [`starts`] says first, `second` holds the others.
pub fn epilogue(channels: &[Channel], second: &[i32], tile: &Tile) -> Vec<u8> {
    let mut out: Vec<u8> = second.iter().flat_map(|v| v.to_le_bytes()).collect();
    out.resize(second_bytes(tile.vectors), 0);
    out.extend(Isa::Vnni512.epilogue(channels, tile));
    out
}

/// Bytes in front of the epilogue.
pub const fn second_bytes(vectors: usize) -> usize {
    vectors * 64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ukernel::winograd::data;

    #[test]
    fn two_outputs_of_a_filter() {
        for seed in 0..2000i64 {
            let x = |i: i64| (seed * 31 + i * i * 7).rem_euclid(17) - 8;
            let (d, g) = ([0, 1, 2, 3].map(x), [4, 5, 6].map(x));
            let (v, u) = (data(d), filter(g));
            let y = results(std::array::from_fn(|i| v[i] * u[i]));
            for (i, y) in y.into_iter().enumerate() {
                assert_eq!(y, (0..TAPS).map(|k| d[i + k] * g[k]).sum::<i64>() << SCALE_BITS);
            }
        }
    }

    #[test]
    fn flipped_data_become_offset_data() {
        assert!(data([0, 0, OFFSET, OFFSET]).iter().all(|v| v.rem_euclid(256) == OFFSET));
    }

    #[test]
    fn starts_come_out_as_twice_themselves() {
        let [a, b] = starts([5, -7]);
        assert_eq!([a + b, a - b], [10, -14]);
    }
}
