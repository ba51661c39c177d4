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
//! (`codegen::ops::winograd::proof`). Transformed data are signed, `vpdpbusd` and `vpmaddubsw` want them unsigned: an offset
//! is added, and what it contributes is subtracted in the sums.
//!
//! With VNNI the offset is 128. It costs next to nothing: data in both of the last two rows and both of
//! the last two columns of a tile are flipped by 128 before they are transformed, and each of the 16 combinations has an odd
//! number of those. A neighbour along the row, whose first columns these are, finds its own share of flipped data there.
//! AVX2 sums in i16, so its values are to be small: it adds the smallest offset that leaves none negative. Where it has dot products
//! ([`Dot`]) it sums in i32.
//!
//! | kernel | reads | writes |
//! |---|---|---|
//! | [`Data`] | four rows of u8 pixels | a row of tiles, u8 |
//! | [`Filters`] | two 4-bit weights a byte | s8, a block of channels |
//! | [`Product`], VNNI | a row of four positions | i32, combined along columns |
//! | [`Product`], AVX2 | all 16 positions of a group of tiles | i32 |
//! | [`Outcome`] | those of a row of tiles, or of a group | u8 or i16 pixels of two rows |
use super::{Dot, Isa, Tile, pack, x64::winograd as x64};
use iced_x86::IcedError;

/// Rows and columns of a tile of data, of a filter, and of results.
pub const DATA: usize = 4;
/// Taps in one dimension.
pub const TAPS: usize = 3;
/// Results in one dimension.
pub const RESULTS: usize = 2;
/// The transforms multiply results by 2 to this power.
pub const SCALE_BITS: u8 = 2;
/// What VNNI adds to transformed data.
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
    /// Instruction set.
    pub isa: Isa,
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
    /// Added at every position: with VNNI [`OFFSET`].
    pub offset: u8,
    /// Added beyond that at position (1, 1), whose values are centred elsewhere; modulo 2⁸.
    pub centre: u8,
    /// Bytes from one tile to the next.
    pub tile: usize,
    /// Bytes from one position to the next.
    pub plane: usize,
}

/// Transforms the filters of a block of channels: (`rdi` = packed weights, `rdx` = transformed ones).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filters {
    /// Instruction set.
    pub isa: Isa,
    /// Vectors of output channels, 1 or 2.
    pub vectors: usize,
    /// Bytes of K.
    pub depth: usize,
}

/// Multiplies tiles by a block of filters: (`rdi` = first tile in the first position, `rsi` = filters, `rdx` = sums).
///
/// With VNNI in the four positions of one row, which are combined along it; `rcx` = where they start. Sums are 2 columns
/// of results × tiles × vectors. With AVX2 in all 16 positions: 16 × tiles × vectors. [`Product::column`] is the distance
/// of columns and positions, tiles and vectors lie one behind the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Product {
    /// Instruction set.
    pub isa: Isa,
    /// Tiles.
    pub tiles: usize,
    /// Vectors of output channels, 1 or 2.
    pub vectors: usize,
    /// Bytes of K.
    pub depth: usize,
    /// As in [`Data`].
    pub tile: usize,
    /// As in [`Data`].
    pub plane: usize,
    /// Bytes from the sums of one column to those of the next.
    pub column: usize,
    /// Dot products of AVX2's kernel.
    pub dot: Option<Dot>,
    /// Steps of four k whose sums fit into i16 (AVX2): that many, aligned, are summed before they are widened. All of them
    /// with dot products.
    pub period: usize,
}

/// Combines sums along columns (with AVX2 along rows before that), requantizes and stores a row of tiles or a part of one:
/// (`rdi` = sums of the first tile, `rdx` = its first pixel, `rcx` = epilogue block; with AVX2 `rsi` = where sums start; of
/// a join `r9` = the first pixel's residual, on the stack that of the second result, which advances there).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Outcome {
    /// Instruction set.
    pub isa: Isa,
    /// Requantization and store of one tile: its grid, vectors and columns, and pixels of a line; its rows are not used.
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
pub const fn max_tiles(isa: Isa, vectors: usize) -> usize {
    match isa {
        Isa::Vnni512 => 14 / vectors,
        Isa::Avx2 => 12 / vectors,
    }
}

impl Data {
    /// Column of the image that is column `i` of the tiles, if there is one.
    pub fn column(&self, i: usize) -> Option<usize> {
        i.checked_sub(self.before).filter(|c| *c < self.columns)
    }

    /// Machine code.
    ///
    /// # Errors
    /// The assembler refuses an instruction, which is a defect of the kernel.
    pub fn assemble(&self) -> Result<Vec<u8>, IcedError> {
        match self.isa {
            Isa::Vnni512 => x64::vnni512::data::assemble(self),
            Isa::Avx2 => x64::avx2::data::assemble(self),
        }
    }
}

impl Filters {
    /// Machine code.
    ///
    /// # Errors
    /// As [`Data::assemble`].
    pub fn assemble(&self) -> Result<Vec<u8>, IcedError> {
        match self.isa {
            Isa::Vnni512 => x64::vnni512::filters::assemble(self),
            Isa::Avx2 => x64::avx2::filters::assemble(self),
        }
    }

    /// Bytes of a vector.
    const fn vector(&self) -> usize {
        self.isa.lanes() * 4
    }

    /// Bytes of the transformed filters.
    pub const fn bytes(&self) -> usize {
        DATA * self.row()
    }

    /// Bytes of those of one row of positions.
    pub const fn row(&self) -> usize {
        match self.isa {
            Isa::Vnni512 => 2 * self.phase(),
            Isa::Avx2 => DATA * self.plane(),
        }
    }

    /// VNNI: bytes of those of one phase, whose two columns take turns.
    const fn phase(&self) -> usize {
        2 * self.depth / 4 * self.vectors * self.vector()
    }

    /// AVX2: bytes of those of one position, and a line, so that positions do not meet in one set of the cache.
    pub const fn plane(&self) -> usize {
        self.depth / 4 * self.vectors * self.vector() + 64
    }

    /// Where those of a position start.
    pub fn position(&self, row: usize, column: usize) -> usize {
        let within = match self.isa {
            Isa::Avx2 => column * self.plane(),
            Isa::Vnni512 => {
                let phase = usize::from(!PHASES[0].contains(&column));
                let half = usize::from(PHASES[phase][1] == column);
                phase * self.phase() + half * self.vectors * self.vector()
            }
        };
        row * self.row() + within
    }

    /// Bytes from those of one step of four k to the next.
    pub const fn step(&self) -> usize {
        let columns = match self.isa {
            Isa::Vnni512 => PHASES[0].len(),
            Isa::Avx2 => 1,
        };
        columns * self.vectors * self.vector()
    }

    /// Bytes of the packed weights.
    pub const fn packed_bytes(&self) -> usize {
        TAPS * TAPS * self.depth / 4 * self.vectors * self.vector() / 2
    }

    /// Packs 4-bit weights, one slice [tap][k] per channel: those of a tap for four k of a vector of channels are a vector;
    /// two vectors, of one step or of two neighbouring ones, share its bytes, plus 8.
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
        pack::int4(&ordered, self.vectors * self.isa.lanes(), self.vector(), 8)
    }

    /// What the kernel makes of [`Filters::pack`]: [position][step][channel][4].
    pub fn transformed(&self, weights: &[&[i8]]) -> Vec<u8> {
        let channels = weights.first().map_or(0, |w| w.len() / (TAPS * TAPS));
        let mut out = vec![0; self.bytes()];
        for (n, w) in weights.iter().enumerate() {
            for k in 0..channels {
                let g = std::array::from_fn(|r| {
                    std::array::from_fn(|c| i64::from(w[(r * TAPS + c) * channels + k]))
                });
                for (row, u) in square(g, filter).into_iter().enumerate() {
                    for (column, u) in u.into_iter().enumerate() {
                        let at = self.position(row, column) + k / 4 * self.step();
                        out[at + n * 4 + k % 4] = u as u8;
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
        match self.isa {
            Isa::Vnni512 => x64::vnni512::product::assemble(self),
            Isa::Avx2 => x64::avx2::product::assemble(self),
        }
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

/// What is added to the sums of a block of channels, as its kernels read it.
///
/// `start` has one entry per channel: bias minus the offset's contribution, for each of the four results, in units of the
/// results themselves.
pub fn starts(isa: Isa, start: &[[[i32; RESULTS]; RESULTS]], vectors: usize) -> Vec<u8> {
    let lanes = vectors * isa.lanes();
    let mut out = match isa {
        Isa::Vnni512 => vec![0i32; DATA * RESULTS * lanes],
        Isa::Avx2 => vec![0i32; RESULTS * RESULTS * lanes],
    };
    for (n, start) in start.iter().enumerate() {
        for (r, row) in PHASES[0].into_iter().enumerate() {
            for c in 0..RESULTS {
                match isa {
                    // [row][column of phase 0][channel]: [`Product`] starts from them. Rows 1 and 2 are added behind the butterfly of
                    // 0 and 3: they start at zero. Through both butterflies of a dimension (x, y) becomes (2x, −2y), which
                    // is why the results' factor of two needs no division.
                    Isa::Vnni512 => {
                        let sign = if r == c { 1 } else { -1 };
                        out[(row * RESULTS + c) * lanes + n] = start[r][c].wrapping_mul(sign);
                    }
                    // [row][column of the results][channel]: [`Outcome`] adds them to the fourfold results.
                    Isa::Avx2 => {
                        out[(r * RESULTS + c) * lanes + n] = start[r][c].wrapping_mul(1 << SCALE_BITS);
                    }
                }
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
        let bytes = starts(Isa::Vnni512, &[start], 1);
        let word = |i: usize| i64::from(i32::from_le_bytes([0, 1, 2, 3].map(|b| bytes[i * 4 + b])));
        let m = std::array::from_fn(|r| [word(r * 2 * 16), 0, 0, word((r * 2 + 1) * 16)]);
        assert_eq!(square(m, results), start.map(|r| r.map(|v| i64::from(v) << SCALE_BITS)));
    }
}
