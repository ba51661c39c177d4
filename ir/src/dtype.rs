//! Element types.
use std::fmt;

/// Element type of a tensor. 4-bit types are packed two to a byte, low nibble first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE binary32: the float graph, and nothing of the integer graph.
    F32,
    /// Biases and accumulators.
    I32,
    /// Residual grid of 16 bit and network outputs.
    I16,
    /// Weights of 5 to 8 bit.
    I8,
    /// Activations of 2 to 8 bit, one to a byte.
    U8,
    /// Weights of 2 to 4 bit, packed.
    I4,
    /// Unsigned 4-bit values, packed.
    U4,
}

impl DType {
    /// Every element type.
    pub const ALL: [Self; 7] = [Self::F32, Self::I32, Self::I16, Self::I8, Self::U8, Self::I4, Self::U4];

    /// Width of one element in bits.
    pub const fn bits(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 32,
            Self::I16 => 16,
            Self::I8 | Self::U8 => 8,
            Self::I4 | Self::U4 => 4,
        }
    }

    /// Bytes that `count` elements take, packed.
    pub const fn bytes(self, count: usize) -> usize {
        (count * self.bits()).div_ceil(8)
    }

    /// Name in the text form.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::I32 => "i32",
            Self::I16 => "i16",
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::I4 => "i4",
            Self::U4 => "u4",
        }
    }

    /// The type of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }

    /// Smallest and largest value; `None` for [`DType::F32`].
    pub const fn range(self) -> Option<(i32, i32)> {
        match self {
            Self::F32 => None,
            Self::I32 => Some((i32::MIN, i32::MAX)),
            Self::I16 => Some((i16::MIN as i32, i16::MAX as i32)),
            Self::I8 => Some((-128, 127)),
            Self::U8 => Some((0, 255)),
            Self::I4 => Some((-8, 7)),
            Self::U4 => Some((0, 15)),
        }
    }

    /// Whether the type holds integers.
    pub const fn is_integer(self) -> bool {
        !matches!(self, Self::F32)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
