//! What differs between instruction sets: tile limits, packing, code.
use super::{
    Rescale, Tile, Weights,
    pack::{self, AVX2_EPILOGUE_BYTES, Channel, EPILOGUE_BYTES},
    x64::{avx2, vnni512},
};
use iced_x86::IcedError;

/// Instruction set of a family of tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// AVX-512 with VNNI, BW and DQ.
    Vnni512,
    /// AVX2.
    Avx2,
}

impl Isa {
    /// Name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vnni512 => "vnni512",
            Self::Avx2 => "avx2",
        }
    }

    /// Channels of one vector.
    pub const fn lanes(self) -> usize {
        match self {
            Self::Vnni512 => 16,
            Self::Avx2 => avx2::LANES,
        }
    }

    /// Vectors that a tile can have, widest first.
    pub const fn vectors(self) -> &'static [usize] {
        match self {
            Self::Vnni512 => &[4, 2, 1],
            Self::Avx2 => &[2, 1],
        }
    }

    /// Largest number of rows of a tile.
    pub fn max_rows(self, weights: Weights, vectors: usize) -> usize {
        match self {
            Self::Vnni512 => vnni512::max_rows(weights, vectors),
            Self::Avx2 => avx2::max_rows(weights, vectors),
        }
    }

    /// Bytes of scratch that the tile needs.
    pub fn scratch_bytes(self, tile: &Tile) -> usize {
        match self {
            Self::Vnni512 if tile.weights == Weights::Int4Unpacking => {
                tile.depth() * tile.vectors * self.lanes()
            }
            Self::Vnni512 => 0,
            Self::Avx2 => avx2::scratch_bytes(tile),
        }
    }

    /// Machine code of the tile.
    ///
    /// # Errors
    /// The assembler refuses an instruction, which is a defect of the kernel.
    pub fn assemble(self, tile: &Tile) -> Result<Vec<u8>, IcedError> {
        match self {
            Self::Vnni512 => vnni512::assemble(tile),
            Self::Avx2 => avx2::assemble(tile),
        }
    }

    /// Packs the weights of a tile, one slice of K bytes per channel.
    pub fn pack(self, weights: &[&[i8]], tile: &Tile) -> Vec<u8> {
        let padded = tile.vectors * self.lanes();
        match tile.weights {
            Weights::Int8 => pack::int8(weights, padded),
            Weights::Int16 => pack::int16(weights, padded),
            Weights::Int4Times16 | Weights::Int4Unpacking => pack::int4(weights, padded, self.lanes() * 4, 0),
            Weights::Int4Bytes => pack::int8(weights, padded).into_iter().map(|w| w << 4).collect(),
            Weights::Int4Offset { .. } => pack::int4(weights, padded, self.lanes() * 4, 8),
        }
    }

    /// Bytes of the epilogue constants of one vector of channels.
    pub const fn epilogue_bytes(self, rescale: Rescale) -> usize {
        match (rescale, self) {
            (Rescale::Float, _) => 8 * self.lanes(),
            (Rescale::Integer { .. }, Self::Vnni512) => EPILOGUE_BYTES,
            (Rescale::Integer { .. }, Self::Avx2) => AVX2_EPILOGUE_BYTES,
        }
    }

    /// Epilogue constants of a tile.
    pub fn epilogue(self, channels: &[Channel], tile: &Tile) -> Vec<u8> {
        let times16 =
            matches!(tile.weights, Weights::Int4Times16 | Weights::Int4Unpacking | Weights::Int4Bytes);
        let mut out = self.rescale_constants(channels, tile.rescale, tile.zero_point, times16);
        out.resize(tile.vectors * self.epilogue_bytes(tile.rescale), 0);
        out
    }

    /// Epilogue blocks of as many vectors as `channels` need; `times16` adapts them to [`Weights::Int4Times16`].
    pub(super) fn rescale_constants(
        self,
        channels: &[Channel],
        rescale: Rescale,
        zero_point: i32,
        times16: bool,
    ) -> Vec<u8> {
        match (rescale, self) {
            (Rescale::Float, _) => pack::epilogue_float(channels, times16, self.lanes()),
            (Rescale::Integer { short_shift }, Self::Vnni512) => {
                pack::epilogue(channels, times16, short_shift)
            }
            (Rescale::Integer { short_shift }, Self::Avx2) => {
                pack::epilogue_avx2(channels, zero_point, short_shift)
            }
        }
    }
}
