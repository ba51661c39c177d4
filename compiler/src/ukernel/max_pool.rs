//! Maximum pools of u8 or i16, one output row at a time. Windows over the border take the taps that exist: the least value
//! never wins, so the caller passes a row of it for rows outside, and the kernel leaves out columns.
use super::{
    Isa,
    row::{Events, Part, Row},
};
use iced_x86::IcedError;

/// A maximum pool along a row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MaxPool {
    /// Geometry; its channels are bytes.
    pub row: Row,
    /// Whether elements are i16, not u8.
    pub words: bool,
}

/// Outputs of one round of the loop.
const UNROLL: usize = 4;

impl MaxPool {
    /// Whether the instruction set can access so few bytes: AVX2 has no masks.
    pub const fn exists(&self, isa: Isa) -> bool {
        match isa {
            Isa::Vnni512 => true,
            Isa::Avx2 => self.row.channels >= 16,
        }
    }

    /// Machine code: (`rdi` = addresses of the input rows, `rsi` unused, `rdx` = output row).
    ///
    /// # Errors
    /// The assembler refuses an instruction, which is a defect of the kernel.
    pub fn assemble(&self, isa: Isa) -> Result<Vec<u8>, IcedError> {
        super::x64::max_pool::assemble(self, isa)
    }

    /// Vectors of 64 bytes and a masked rest, or of 32 or 16 of which the last two overlap.
    pub(super) fn parts(&self, isa: Isa) -> Vec<Part> {
        let channels = self.row.channels;
        let whole = match isa {
            Isa::Vnni512 => 64,
            Isa::Avx2 if channels >= 32 => 32,
            Isa::Avx2 => 16,
        };
        let part = |first, channels, blocks| Part { first, channels, blocks, pixels: 1 };
        let (blocks, rest) = (channels / whole, channels % whole);
        let mut parts = Vec::new();
        if blocks > 0 {
            parts.push(part(0, whole, blocks));
        }
        match isa {
            _ if rest == 0 => {}
            Isa::Vnni512 => parts.push(part(channels - rest, rest, 1)),
            Isa::Avx2 => parts.push(part(channels - whole, whole, 1)),
        }
        parts
    }

    /// First input column of an output's window.
    pub(super) fn first_column(&self, pixel: usize) -> isize {
        (pixel * self.row.stride) as isize - self.row.pad
    }

    /// An event for each output.
    pub(super) fn events(&self) -> Events {
        let last = self.row.kernel[1] as isize - 1;
        let inside = |pixel: usize| {
            let first = self.first_column(pixel);
            self.row.inside(first) && self.row.inside(first + last)
        };
        let count = self.row.out_width;
        let start = (0..count).find(|p| inside(*p)).unwrap_or(count);
        let end = (start..count).find(|p| !inside(*p)).unwrap_or(count);
        Events { count, pixels: 1, uniform: start..end, period: UNROLL }
    }
}
