//! The description of a tile, from which code, packing, reference and tests are made.
use super::Join;

/// Storage of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Weights {
    /// One byte each.
    Int8,
    /// Two bytes each, even and odd k apart: AVX2's exact path for weights that could saturate `vpmaddubsw`.
    Int16,
    /// Two to a byte; unpacked in registers to sixteen times their value, so that no sign extension is needed. The
    /// accumulator is then sixteen times the true one, bias and shift are adjusted to that.
    Int4Times16,
    /// As [`Self::Int4Times16`], and what is unpacked is stored where `r8` points, [`Tile::depth`] × vectors × 16 bytes, for
    /// tiles of other pixels. AVX-512 only.
    Int4Unpacking,
    /// One byte each, sixteen times their value: 4-bit weights that [`Self::Int4Unpacking`] has stored. Else as
    /// [`Self::Int4Times16`].
    Int4Bytes,
    /// Two to a byte, plus 8; unpacked in registers. Sums stay in i16 for at most `period` steps of four k, which the
    /// largest activation and weight allow.
    Int4Offset {
        /// Steps between widenings, at least 2.
        period: usize,
    },
}

/// Encoding of `vpdpbusd ymm`: one instruction, two extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dot {
    /// AVX-VNNI.
    Vex,
    /// AVX-512 with VNNI and VL.
    Evex,
}

impl Dot {
    /// Name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vex => "avxvnni",
            Self::Evex => "vnni256",
        }
    }
}

/// Arithmetic of the requantization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rescale {
    /// One fused multiply-add in f32, for channels that [`super::rescale::as_float`] proves.
    Float,
    /// 64-bit products of even and odd channels.
    Integer {
        /// Whether some channel's shift is below 32: the odd lanes then need one instruction more.
        short_shift: bool,
    },
}

/// Bytes ahead of the weights in use that a tile of one pixel brings into the first-level cache: it reads each weight
/// once, at the speed at which they arrive. With 1 KB a 784 → 512 layer takes 4.9 µs instead of 7.0 (`goshawk profile`).
pub(super) const NEAR: usize = 1024;

/// Output grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Grid {
    /// u8 with a zero point.
    U8,
    /// i16 with zero point 0.
    I16,
}

impl Grid {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::I16 => 2,
        }
    }
}

/// `rows` output pixels × `columns` output channels: for each kernel row, `run` contiguous activation bytes (kernel
/// columns × channels) are multiplied with the packed weights; the sums are requantized and stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Storage of the weights.
    pub weights: Weights,
    /// Whether tiles of AVX2 multiply by 8-bit dot products; those of AVX-512 always do.
    pub dot: Option<Dot>,
    /// Output grid.
    pub grid: Grid,
    /// Output pixels of the tile.
    pub rows: usize,
    /// Vectors of output channels: 1, 2 or 4 of 16 with AVX-512, 1 or 2 of 8 with AVX2.
    pub vectors: usize,
    /// Output channels that exist; the last vector may be partial.
    pub columns: usize,
    /// Kernel rows.
    pub kernel_rows: usize,
    /// Contiguous activation bytes of one kernel row; a multiple of 4.
    pub run: usize,
    /// Activation bytes from one output pixel to the next.
    pub row_stride: usize,
    /// Output pixels of one line of the image; the tile may span several.
    pub line: usize,
    /// Activation bytes from one line's first pixel to the next one's.
    pub line_stride: usize,
    /// Bytes that the tile brings into the second-level cache from where `r8` points, evenly while it multiplies; 0 for
    /// none, as where AVX2's sums are there.
    pub prefetch: usize,
    /// Activation bytes from one kernel row to the next.
    pub kernel_row_stride: usize,
    /// Output bytes from one output pixel to the next.
    pub out_stride: usize,
    /// Output pixels of one line of the tile, which may span several.
    pub out_line: usize,
    /// Pixels of the result from one line's first to the next one's. Where there are fewer than in a line of the tile, the
    /// last ones of that do not exist; tiles of AVX2 have none of these.
    pub out_width: usize,
    /// Where in its line the tile's first pixel is.
    pub out_first: usize,
    /// Zero point of the output.
    pub zero_point: i32,
    /// Clamp of the output.
    pub clamp: (i32, i32),
    /// How accumulators become results.
    pub rescale: Rescale,
    /// A residual to add, which takes [`Rescale::Float`].
    pub join: Option<Join>,
}

impl Tile {
    /// Activation bytes from the first output pixel to pixel `row`.
    pub const fn pixel(&self, row: usize) -> usize {
        row / self.line * self.line_stride + row % self.line * self.row_stride
    }

    /// Where pixel `row` is in the result, counted in pixels from the first.
    pub const fn result(&self, row: usize) -> usize {
        let at = self.out_first + row;
        at / self.out_line * self.out_width + at % self.out_line - self.out_first
    }

    /// Whether pixel `row` is in the result.
    pub const fn exists(&self, row: usize) -> bool {
        (self.out_first + row) % self.out_line < self.out_width
    }

    /// Lines to bring into the second-level cache in each of so many trips through a kernel row.
    pub(super) fn fetched_lines(&self, trips: usize) -> usize {
        self.prefetch.div_ceil(64).div_ceil(self.kernel_rows * trips)
    }

    /// Bytes of K: kernel rows × run.
    pub const fn depth(&self) -> usize {
        self.kernel_rows * self.run
    }
}
