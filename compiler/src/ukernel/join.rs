//! What a tile may do between rescaling and storing: add a residual of the result's shape, and store the sum a second
//! time on another grid. The tile's own grid, zero point, clamp and stride are those of the sum; the convolution's result
//! stays in registers.
//!
//! All steps are the fused multiply-adds of [`super::edge::Map`], whose proofs hold here too: MAGIC + n is f32 arithmetic on
//! integers, so n̂ = (MAGIC + n) − MAGIC is exact, and MAGIC + a less MAGIC − b leaves a + b in the low bits. What needs no
//! rescaling is added as it is, to the bits of MAGIC + a: these are the bits of MAGIC + a + b, whose order as floats is
//! that of the sums, so that they are clamped as floats, on more ports than integers.
use super::{Grid, rescale::MAGIC};
use goshawk_ir::Dyadic;

/// The shape of the code: what depends on scales and bounds is in the [`Constants`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Join {
    /// Type of the residual, which lies as the result does.
    pub residual: Grid,
    /// Bytes from one pixel of the residual to the next.
    pub stride: usize,
    /// Whether the convolution's result must be clamped: nothing proves that it stays inside its bounds.
    pub clamps: bool,
    /// Whether the convolution's result is added as it is: it is rescaled by 1.
    pub own_unit: bool,
    /// Whether the residual is: it is rescaled by 1, and its zero point is 0.
    pub residual_unit: bool,
    /// The sum's second result, as u8; the first is then i16.
    pub second: Option<Second>,
    /// Bytes from the residual, the result and the second result to those of the tile behind, which a tile of AVX-512
    /// brings into the first-level cache while it multiplies, if they may be further away than the second level.
    pub ahead: Option<[usize; 3]>,
}

/// The second result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Second {
    /// Bytes from one pixel to the next.
    pub stride: usize,
    /// Its clamp.
    pub clamp: (i32, i32),
    /// Whether the sum must be clamped below and above before it is rescaled: nothing proves that the second result's
    /// own clamp does as much.
    pub clamps_sum: (bool, bool),
}

/// Constants of a layer, behind the vectors' epilogue blocks.
#[derive(Clone, Copy, Debug)]
pub struct Constants {
    /// Rescales the convolution's result.
    pub own: Dyadic,
    /// Its bounds, less its zero point.
    pub bounds: (i32, i32),
    /// Rescales the residual.
    pub residual: Dyadic,
    /// Zero point of the residual.
    pub residual_zero_point: i32,
    /// Clamp of the sum, where there is a second result.
    pub clamp: (i32, i32),
    /// Rescales the sum to the second result, and its zero point.
    pub second: Option<(Dyadic, i32)>,
}

/// Places of the constants: each fills 32 bytes.
pub(super) const OWN_SCALE: usize = 0;
pub(super) const OWN_LO: usize = 32;
pub(super) const OWN_HI: usize = 64;
pub(super) const RESIDUAL_SCALE: usize = 96;
pub(super) const RESIDUAL_ZERO: usize = 128;
pub(super) const LO: usize = 160;
pub(super) const HI: usize = 192;
pub(super) const SECOND_SCALE: usize = 224;
pub(super) const SECOND_MAGIC: usize = 256;
pub(super) const MAGIC_BITS: usize = 288;

impl Constants {
    /// As the kernels of that join read them.
    pub fn bytes(&self, join: &Join) -> Vec<u8> {
        let float = |v: f32| v.to_bits();
        // Bounds are those of what is in the registers.
        let own = |v: i32| if join.own_unit { MAGIC + v as f32 } else { v as f32 };
        let sum = |v: i32| if join.residual_unit { (MAGIC + v as f32).to_bits() } else { v as u32 };
        let (second, zero_point) = self.second.map_or((0.0, 0), |(d, z)| (d.value() as f32, z));
        [
            float(self.own.value() as f32),
            float(own(self.bounds.0)),
            float(own(self.bounds.1)),
            float(self.residual.value() as f32),
            float(self.residual_zero_point as f32),
            sum(self.clamp.0),
            sum(self.clamp.1),
            float(second),
            float(MAGIC + zero_point as f32),
            float(MAGIC),
        ]
        .iter()
        .flat_map(|v| v.to_le_bytes().repeat(8))
        .collect()
    }
}
