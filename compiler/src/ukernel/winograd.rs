//! Winograd's F(2×2, 3×3) in integers, without a division: the algorithm, and the kernels that compute it.
//!
//! Two outputs of a filter of three taps take four products instead of six (Winograd 1980; Lavin and Gray 2016). Scaled so
//! that nothing is halved, in one dimension:
//!
//! | | 0 | 1 | 2 | 3 |
//! |---|---|---|---|---|
//! | data, v = Bᵀd | d₀ − d₂ | d₁ + d₂ | d₂ − d₁ | d₁ − d₃ |
//! | filter, u = Gg | g₀ | g₀ + g₁ + g₂ | g₀ − g₁ + g₂ | g₂ |
//! | product | c₀ = v₀u₀ | c₁ = v₁u₁ | c₂ = v₂u₂ | c₃ = v₃u₃ |
//!
//! p = c₀ − c₃ + c₁, q = c₀ + c₃ + c₂; then p + q is *twice* the first output and p − q twice the second. Products 0 and 3
//! go through one butterfly, 1 and 2 are added, a second butterfly gives the results: sums that live in registers may go
//! through it while they grow ([`Product`]). In two dimensions both steps are done along rows and columns, 16 products make
//! four times the four outputs, and the factor goes into the requantization, two bits more of shift.
//!
//! All sums are modulo 2⁸ or 2³² and exact where the value that is meant fits: only the *ends* need a proof
//! (`codegen::ops::winograd::proof`). Transformed data are signed, `vpdpbusd` wants them unsigned: 128 is added, and what it
//! contributes is subtracted where sums start. It costs next to nothing: data in both of the last two rows and both of
//! the last two columns of a tile are flipped by 128 before they are transformed, and each of the 16 combinations has an odd
//! number of those. A neighbour along the row, whose first columns these are, finds its own share of flipped data there.
//!
//! | kernel | reads | writes |
//! |---|---|---|
//! | [`Data`] | four rows of u8 pixels | a row of tiles, u8, one plane for each of the 16 positions |
//! | [`Filters`] | two 4-bit weights a byte | s8, a block of channels |
//! | [`Product`] | four planes, a quarter of a block | i32, combined along columns |
//! | [`Outcome`] | those of a row of tiles | u8 or i16 pixels of two rows |
use super::{Tile, pack, x64::winograd as x64};
use iced_x86::IcedError;

/// Rows and columns of a tile of data, of a filter, and of results.
pub const DATA: usize = 4;
/// Taps in one dimension.
pub const TAPS: usize = 3;
/// Results in one dimension.
pub const RESULTS: usize = 2;
/// The transforms multiply results by 2 to this power.
pub const SCALE_BITS: u8 = 2;
/// What is added to transformed data.
pub const OFFSET: i64 = 128;
/// Products of one dimension by phase: those that meet in a butterfly, those that are added behind it.
pub const PHASES: [[usize; 2]; 2] = [[0, 3], [1, 2]];

/// Bᵀd.
pub fn data([a, b, c, d]: [i64; DATA]) -> [i64; DATA] {
    [a - c, b + c, c - b, b - d]
}

/// Gg.
pub fn filter([a, b, c]: [i64; TAPS]) -> [i64; DATA] {
    [a, a + b + c, a - b + c, c]
}

/// Twice the results.
pub fn results([a, b, c, d]: [i64; DATA]) -> [i64; RESULTS] {
    let (p, q) = (a - d + b, a + d + c);
    [p + q, p - q]
}

/// A transform along rows, then along columns.
pub fn square<const N: usize, const M: usize>(
    x: [[i64; N]; N],
    transform: impl Fn([i64; N]) -> [i64; M],
) -> [[i64; M]; M] {
    let rows = x.map(&transform);
    let columns: [[i64; M]; M] = std::array::from_fn(|c| transform(std::array::from_fn(|r| rows[r][c])));
    std::array::from_fn(|r| std::array::from_fn(|c| columns[c][r]))
}

/// Bytes of K as the kernels lay it out: steps of four, an even number of them.
pub const fn depth(channels: usize) -> usize {
    channels.next_multiple_of(8)
}

/// Transforms a row of tiles: (`rdi` = addresses of four rows of pixels, `rdx` = first tile in the first plane).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Data {
    /// Columns of the image.
    pub columns: usize,
    /// Channels of a pixel.
    pub channels: usize,
    /// Columns of padding before the image, at most two.
    pub before: usize,
    /// Tiles of the row.
    pub tiles: usize,
    /// What columns outside the image hold.
    pub zero_point: u8,
    /// Added at position (1, 1), whose values are centred elsewhere.
    pub centre: u8,
    /// Bytes from one position's plane to the next.
    pub plane: usize,
}

/// Transforms the filters of a block of channels: (`rdi` = packed weights, `rdx` = transformed ones).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filters {
    /// Vectors of output channels, 1 or 2.
    pub vectors: usize,
    /// Bytes of K.
    pub depth: usize,
}

/// Multiplies tiles by a block of filters in the four positions of one row, and combines them along it: (`rdi` = first
/// tile in the row's first plane, `rsi` = filters, `rdx` = sums, `rcx` = where they start).
///
/// Sums are 2 columns × tiles × vectors; [`Product::column`] is the distance of the former, tiles and vectors lie one
/// behind the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Product {
    /// Tiles.
    pub tiles: usize,
    /// Vectors of output channels, 1 or 2.
    pub vectors: usize,
    /// Bytes of K.
    pub depth: usize,
    /// Bytes from one position's plane to the next.
    pub plane: usize,
    /// Bytes from the sums of the first column to those of the second.
    pub column: usize,
}

/// Combines sums along columns, requantizes and stores a row of tiles: (`rdi` = sums of the first tile, `rdx` = its
/// first pixel, `rcx` = epilogue block; of a join `r9` = its first pixel's residual, on the stack that of the second
/// result, which advances there).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Outcome {
    /// Requantization and store of one tile: its grid, vectors and columns; its rows are not used.
    pub tile: Tile,
    /// Columns of pixels; where they are odd, the last tile gives one.
    pub columns: usize,
    /// Rows of pixels, 2 or 1.
    pub rows: usize,
    /// As in [`Product`].
    pub column: usize,
    /// Bytes from the sums of one row of positions to the next.
    pub row: usize,
}

/// Largest number of tiles of a [`Product`].
pub const fn max_tiles(vectors: usize) -> usize {
    14 / vectors
}

impl Data {
    /// Machine code.
    ///
    /// # Errors
    /// The assembler refuses an instruction, which is a defect of the kernel.
    pub fn assemble(&self) -> Result<Vec<u8>, IcedError> {
        x64::data::assemble(self)
    }
}

impl Filters {
    /// Machine code.
    ///
    /// # Errors
    /// As [`Data::assemble`].
    pub fn assemble(&self) -> Result<Vec<u8>, IcedError> {
        x64::filters::assemble(self)
    }

    /// Bytes of the transformed filters.
    pub const fn bytes(&self) -> usize {
        DATA * self.row()
    }

    /// Bytes of those of one row of positions.
    pub const fn row(&self) -> usize {
        2 * self.phase()
    }

    /// Bytes of those of one phase.
    pub const fn phase(&self) -> usize {
        2 * self.depth * 16 * self.vectors
    }

    /// Bytes of the packed weights.
    pub const fn packed_bytes(&self) -> usize {
        TAPS * TAPS * self.depth * 16 * self.vectors / 2
    }

    /// Packs 4-bit weights, one slice [tap][k] per channel: those of a tap for four k of 16 channels are a vector; two
    /// vectors, of one step or of two neighbouring ones, share 64 bytes, plus 8.
    pub fn pack(&self, weights: &[&[i8]]) -> Vec<u8> {
        let channels = weights.first().map_or(0, |w| w.len() / (TAPS * TAPS));
        // Steps that share bytes.
        let steps = 2 / self.vectors;
        let ordered: Vec<Vec<i8>> = weights
            .iter()
            .map(|w| {
                let value = |tap: usize, k: usize| if k < channels { w[tap * channels + k] } else { 0 };
                (0..self.depth / (4 * steps))
                    .flat_map(|s| (0..TAPS * TAPS).map(move |tap| (s, tap)))
                    .flat_map(|(s, tap)| (0..4 * steps).map(move |k| value(tap, s * 4 * steps + k)))
                    .collect()
            })
            .collect();
        let ordered: Vec<&[i8]> = ordered.iter().map(Vec::as_slice).collect();
        pack::int4(&ordered, self.vectors * 16, 64, 8)
    }

    /// What the kernel makes of [`Filters::pack`]: [row][phase][step][column of the phase][channel][4].
    pub fn transformed(&self, weights: &[&[i8]]) -> Vec<u8> {
        let channels = weights.first().map_or(0, |w| w.len() / (TAPS * TAPS));
        let mut out = vec![0; self.bytes()];
        for (n, w) in weights.iter().enumerate() {
            for k in 0..channels {
                let g = std::array::from_fn(|r| {
                    std::array::from_fn(|c| i64::from(w[(r * TAPS + c) * channels + k]))
                });
                let u = square(g, filter);
                for (row, u) in u.iter().enumerate() {
                    for (phase, columns) in PHASES.iter().enumerate() {
                        for (half, column) in columns.iter().enumerate() {
                            let at = row * self.row() + phase * self.phase();
                            let at = at + (k / 4 * 2 + half) * self.vectors * 64 + n * 4 + k % 4;
                            out[at] = u[*column] as u8;
                        }
                    }
                }
            }
        }
        out
    }
}

impl Product {
    /// Machine code.
    ///
    /// # Errors
    /// As [`Data::assemble`].
    pub fn assemble(&self) -> Result<Vec<u8>, IcedError> {
        x64::product::assemble(self)
    }
}

impl Outcome {
    /// Machine code.
    ///
    /// # Errors
    /// As [`Data::assemble`].
    pub fn assemble(&self) -> Result<Vec<u8>, IcedError> {
        x64::outcome::assemble(self)
    }
}

/// Where the sums of the four tiles' results start, by row and column of the phase's first positions: the compensation
/// of a block of channels as the kernel reads it, [row][column of phase 0][channel].
///
/// `start` has one entry per channel: bias minus the offset's contribution, for each of the four results, in units of the
/// results themselves.
pub fn starts(start: &[[[i32; RESULTS]; RESULTS]], vectors: usize) -> Vec<u8> {
    let lanes = vectors * 16;
    let mut out = vec![0i32; DATA * 2 * lanes];
    // Rows 1 and 2 are added behind the butterfly of 0 and 3: they start at zero. Through both butterflies of a dimension
    // (x, y) becomes (2x, −2y), which is why the results' factor of two needs no division.
    for (n, start) in start.iter().enumerate() {
        for (r, row) in PHASES[0].into_iter().enumerate() {
            for c in 0..RESULTS {
                let sign = if r == c { 1 } else { -1 };
                out[(row * 2 + c) * lanes + n] = start[r][c].wrapping_mul(sign);
            }
        }
    }
    out.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_outputs_of_a_filter() {
        for seed in 0..2000i64 {
            let x = |i: i64| (seed * 31 + i * i * 7).rem_euclid(17) - 8;
            let (d, g) = ([0, 1, 2, 3].map(x), [4, 5, 6].map(x));
            let (v, u) = (data(d), filter(g));
            let y = results(std::array::from_fn(|i| v[i] * u[i]));
            for (i, y) in y.into_iter().enumerate() {
                assert_eq!(y, 2 * (0..TAPS).map(|k| d[i + k] * g[k]).sum::<i64>());
            }
        }
    }

    #[test]
    fn four_outputs_of_a_filter() {
        for seed in 0..500i64 {
            let x = |i: i64| (seed * 37 + i * i * 11 + i).rem_euclid(31) - 15;
            let d = std::array::from_fn(|r| std::array::from_fn(|c| x((4 * r + c) as i64)));
            let g = std::array::from_fn(|r| std::array::from_fn(|c| x((16 + 3 * r + c) as i64)));
            let (v, u) = (square(d, data), square(g, filter));
            let m = std::array::from_fn(|r| std::array::from_fn(|c| v[r][c] * u[r][c]));
            for (r, row) in square(m, results).into_iter().enumerate() {
                for (c, y) in row.into_iter().enumerate() {
                    let taps = (0..TAPS).flat_map(|i| (0..TAPS).map(move |j| (i, j)));
                    let sum: i64 = taps.map(|(i, j)| d[r + i][c + j] * g[i][j]).sum();
                    assert_eq!(y, sum << SCALE_BITS);
                }
            }
        }
    }

    /// Flipping the last two rows and columns by 128 moves every transformed value by 128, wherever the pairs lie.
    #[test]
    fn flipped_data_become_offset_data() {
        for (rows, columns) in [([2, 3], [2, 3]), ([2, 3], [0, 1]), ([0, 1], [0, 1])] {
            let d: [[i64; DATA]; DATA] = std::array::from_fn(|r| {
                std::array::from_fn(|c| if rows.contains(&r) && columns.contains(&c) { OFFSET } else { 0 })
            });
            assert!(square(d, data).iter().flatten().all(|v| v.rem_euclid(256) == OFFSET));
        }
    }

    #[test]
    fn starts_come_out_as_four_times_themselves() {
        let start = [[5, -7], [11, 1 << 20]];
        let bytes = starts(&[start], 1);
        let word = |i: usize| i64::from(i32::from_le_bytes([0, 1, 2, 3].map(|b| bytes[i * 4 + b])));
        let m = std::array::from_fn(|r| [word(r * 2 * 16), 0, 0, word((r * 2 + 1) * 16)]);
        assert_eq!(square(m, results), start.map(|r| r.map(|v| i64::from(v) << SCALE_BITS)));
    }
}
