//! Kernels around the convolutions: quantization and dequantization with the change between planes and pixels,
//! element-wise arithmetic, look-up tables, copies of rows. Descriptions, from which code, constants and tests are made.
//!
//! Leaves as the tiles are, but their sizes along the walked dimension are arguments, so that layers share them and a
//! layer can be cut into parts: `(rdi = first operand, rsi = second, rdx = result, rcx = constants, r8 = count)`.
use super::{
    Grid,
    rescale::{MAGIC, as_float},
    x64,
};
use goshawk_ir::Dyadic;
use iced_x86::IcedError;

/// Vector instructions of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Simd {
    /// As [`Simd::Avx512`], with permutations of bytes: AVX-512 VBMI. Only tables differ.
    Vbmi,
    /// 64-byte vectors and masks: AVX-512 F and BW.
    Avx512,
    /// 32-byte vectors: AVX2 and FMA.
    Avx2,
}

/// Pixels of `planes` channels, each a plane of f32, to bytes. Count: pixels.
///
/// The arithmetic is [`goshawk_ir::quant::quantize`]: product, clamp and rounding are single IEEE instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quantize {
    /// Channels that are written together: 1 to 4; 1 for i16.
    pub planes: usize,
    /// Bytes from one plane of f32 to the next.
    pub plane_stride: usize,
    /// Bytes from one pixel of the result to the next: `planes` elements, 4 behind three (the fourth byte becomes the
    /// zero point), or any distance above 4 behind four.
    pub pixel: usize,
    /// Result type.
    pub grid: Grid,
}

impl Quantize {
    /// Whether there is a kernel of this shape.
    pub fn exists(&self) -> bool {
        let shape = match self.grid {
            Grid::U8 => match self.planes {
                1 | 2 => self.pixel == self.planes,
                3 => matches!(self.pixel, 3 | 4),
                4 => self.pixel >= 4,
                _ => false,
            },
            Grid::I16 => self.planes == 1 && self.pixel == 2,
        };
        shape && fits(self.planes * self.plane_stride) && fits(16 * self.pixel)
    }

    /// Constants: reciprocal of the scale, lower and upper bound less the zero point, zero point in each byte.
    pub fn constants(&self, scale: f32, zero_point: i32, (lo, hi): (i32, i32)) -> Vec<u8> {
        let zero_points = match (self.grid, self.planes) {
            (Grid::I16, _) | (_, 1) => zero_point as u32,
            (_, 2) => zero_point as u32 * 0x101,
            (_, 3) if self.pixel == 3 => zero_point as u32 * 0x1_0101,
            _ => zero_point as u32 * 0x0101_0101,
        };
        let floats = [1.0 / scale, (lo - zero_point) as f32, (hi - zero_point) as f32];
        floats.iter().map(|f| f.to_bits()).chain([zero_points]).flat_map(u32::to_le_bytes).collect()
    }

    /// Machine code.
    ///
    /// # Errors
    /// The assembler refuses an instruction, which is a defect of the kernel.
    pub fn assemble(&self, simd: Simd) -> Result<Vec<u8>, IcedError> {
        x64::border::quantize(self, simd)
    }
}

/// The inverse of [`Quantize`]: pixels of integers to planes of f32. Count: pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dequantize {
    /// Channels that are read together: 1 to 4 bytes, 1 or 2 words.
    pub planes: usize,
    /// Bytes from one plane of f32 to the next.
    pub plane_stride: usize,
    /// Bytes from one pixel of the operand to the next: `planes` elements, or more where these take four bytes.
    pub pixel: usize,
    /// Operand type.
    pub grid: Grid,
}

impl Dequantize {
    /// Whether there is a kernel of this shape.
    pub fn exists(&self) -> bool {
        let bytes = self.planes * self.grid.bytes();
        let shape = self.pixel == bytes || (bytes == 4 && self.pixel > 4);
        shape && (1..=4).contains(&bytes) && fits(self.planes * self.plane_stride) && fits(16 * self.pixel)
    }

    /// Constants: zero point, scale.
    pub fn constants(&self, scale: f32, zero_point: i32) -> Vec<u8> {
        [zero_point as u32, scale.to_bits()].iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    /// Machine code.
    ///
    /// # Errors
    /// As [`Quantize::assemble`].
    pub fn assemble(&self, simd: Simd) -> Result<Vec<u8>, IcedError> {
        x64::border::dequantize(self, simd)
    }
}

fn fits(bytes: usize) -> bool {
    i32::try_from(bytes).is_ok()
}

/// What is computed from the operands' x̂.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Formula {
    /// rescale(â).
    Requant(Dyadic),
    /// rescale(â·b̂).
    Mul(Dyadic),
    /// rescale(â) + rescale(b̂).
    Add(Dyadic, Dyadic),
    /// rescale(â) − rescale(b̂).
    Subtract(Dyadic, Dyadic),
}

/// An operand of [`Map`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Operand {
    /// Its type.
    pub grid: Grid,
    /// Its zero point.
    pub zero_point: i32,
    /// One element for all.
    pub splat: bool,
}

impl Operand {
    /// Smallest and largest x̂ of any element of the type: callers may hand in any byte.
    const fn range(&self) -> (i32, i32) {
        match self.grid {
            Grid::U8 => (-self.zero_point, 255 - self.zero_point),
            Grid::I16 => (i16::MIN as i32 - self.zero_point, i16::MAX as i32 - self.zero_point),
        }
    }
}

/// Element-wise arithmetic in f32, exact by proof. Count: elements. The result may lie on an operand of its size.
///
/// x̂ is exact in f32, and one fused multiply-add of s·x̂ + [`MAGIC`] rounds to an integer. [`Map::exact`] proves for all x̂
/// that the types allow that every result is that of the normative rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Map {
    /// What is computed.
    pub formula: Formula,
    /// One or two operands.
    pub operands: Vec<Operand>,
    /// Result type.
    pub grid: Grid,
    /// Zero point of the result.
    pub zero_point: i32,
    /// Clamp of the result.
    pub clamp: (i32, i32),
}

impl Map {
    /// Whether the kernel gives the normative bytes for all values of its operands.
    pub fn exact(&self) -> bool {
        let range = |i: usize| self.operands.get(i).map_or((0, 0), Operand::range);
        match self.formula {
            Formula::Requant(d) => rounds_alike(d, range(0), false),
            Formula::Mul(d) => {
                let (a, b) = (range(0), range(1));
                let corners = [a.0 * b.0, a.0 * b.1, a.1 * b.0, a.1 * b.1];
                let lo = corners.iter().min().copied().unwrap_or(0);
                rounds_alike(d, (lo, corners.iter().max().copied().unwrap_or(0)), false)
            }
            Formula::Add(a, b) => rounds_alike(a, range(0), false) && rounds_alike(b, range(1), true),
            Formula::Subtract(a, b) => rounds_alike(a, range(0), false) && rounds_alike(b, range(1), false),
        }
    }

    /// Constants of the kernel, in the order of [`x64::map`].
    pub fn constants(&self) -> Vec<u8> {
        let scales = match self.formula {
            Formula::Requant(d) | Formula::Mul(d) => [d, d],
            Formula::Add(a, b) | Formula::Subtract(a, b) => [a, b],
        };
        let bias = |i: usize| {
            self.operands.get(i).map_or(0.0, |o| match o.grid {
                // Elements enter as the low bits of 2²³, i16 with their sign bit flipped.
                Grid::U8 => 8_388_608.0 + o.zero_point as f32,
                Grid::I16 => 8_388_608.0 + 32768.0 + o.zero_point as f32,
            })
        };
        let words = |v: i32| u32::from(v as u16) * 0x1_0001;
        [
            bias(0).to_bits(),
            (scales[0].value() as f32).to_bits(),
            bias(1).to_bits(),
            (scales[1].value() as f32).to_bits(),
            words(self.zero_point),
            words(self.clamp.0),
            words(self.clamp.1),
            MAGIC.to_bits(),
            0x4B00_4B00,
            0x8000_8000,
        ]
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect()
    }

    /// Machine code, which does not depend on scales, zero points and clamp.
    ///
    /// # Errors
    /// As [`Quantize::assemble`].
    pub fn assemble(&self, simd: Simd) -> Result<Vec<u8>, IcedError> {
        x64::map::assemble(self, simd)
    }
}

/// Whether the fused form rounds every integer of the range as the dyadic number does; `negated` where it computes
/// MAGIC − s·x, whose ties fall to the other side. Multipliers with too many bits to be proven at once
/// are tried on every value.
fn rounds_alike(d: Dyadic, (lo, hi): (i32, i32), negated: bool) -> bool {
    let bound = i64::from(lo.abs().max(hi.abs()));
    if as_float(d.mult, d.shift, bound, i64::MAX).is_some() {
        return true;
    }
    let scale = d.value() as f32;
    (lo..=hi).all(|x| {
        let want = d.apply(x);
        let sum = (if negated { -scale } else { scale }).mul_add(x as f32, MAGIC);
        let got = i64::from(sum.to_bits() as i32) - i64::from(MAGIC.to_bits());
        want.abs() < 1 << 22 && got == if negated { -want } else { want }
    })
}

/// A table of 256 entries: result[i] = table[x[i]]. Count: elements; the table is the second operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lut {
    /// Type of the entries.
    pub grid: Grid,
}

impl Lut {
    /// Whether the level has a kernel: AVX2 has one for bytes only.
    pub fn exists(&self, simd: Simd) -> bool {
        simd != Simd::Avx2 || self.grid == Grid::U8
    }

    /// Machine code.
    ///
    /// # Errors
    /// As [`Quantize::assemble`].
    pub fn assemble(&self, simd: Simd) -> Result<Vec<u8>, IcedError> {
        x64::lut::assemble(*self, simd)
    }
}

/// Rows of bytes from one stride to another. Count: rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Copy {
    /// Bytes of a row.
    pub bytes: usize,
    /// Bytes from one row to the next where they come from.
    pub from: usize,
    /// Bytes from one row to the next where they go.
    pub to: usize,
}

impl Copy {
    /// Machine code.
    ///
    /// # Errors
    /// As [`Quantize::assemble`].
    pub fn assemble(&self, simd: Simd) -> Result<Vec<u8>, IcedError> {
        x64::copy::assemble(*self, simd)
    }
}
