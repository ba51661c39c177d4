//! Host tensors: dense, row-major, cheap to clone.
use crate::{DType, Result, Shape, bail, ensure};
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq)]
enum Data {
    F32(Arc<[f32]>),
    I32(Arc<[i32]>),
    I16(Arc<[i16]>),
    I8(Arc<[i8]>),
    U8(Arc<[u8]>),
    /// Both 4-bit types: element `2i` in the low nibble of byte `i`, `2i+1` in the high one; an odd tail is 0.
    Packed4(Arc<[u8]>),
}

/// A dense row-major tensor. Equality is by bits of the type's values (f32: IEEE `==`).
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    dtype: DType,
    shape: Shape,
    data: Data,
}

macro_rules! typed {
    ($new:ident, $get:ident, $variant:ident, $t:ty, $name:literal) => {
        #[doc = concat!("A tensor of ", $name, " values in row-major order.\n\n# Errors\nThe count is not that of the shape.")]
        pub fn $new(shape: Shape, values: impl Into<Arc<[$t]>>) -> Result<Self> {
            let values = values.into();
            ensure!(values.len() == shape.count(), "{} values for shape {shape}", values.len());
            Ok(Self { dtype: DType::$variant, shape, data: Data::$variant(values) })
        }
        #[doc = concat!("The values of a tensor of ", $name, ".\n\n# Errors\nAnother element type.")]
        pub fn $get(&self) -> Result<&[$t]> {
            match &self.data {
                Data::$variant(v) => Ok(v),
                _ => bail!(concat!("expected a tensor of ", $name, ", got {}"), self.dtype),
            }
        }
    };
}

impl Tensor {
    typed!(from_f32, as_f32, F32, f32, "f32");
    typed!(from_i32, as_i32, I32, i32, "i32");
    typed!(from_i16, as_i16, I16, i16, "i16");
    typed!(from_i8, as_i8, I8, i8, "i8");
    typed!(from_u8, as_u8, U8, u8, "u8");

    /// A tensor of any integer type from values in row-major order.
    ///
    /// # Errors
    /// The count is not that of the shape, a value is outside the type's range, or the type is f32.
    pub fn from_ints(dtype: DType, shape: Shape, values: &[i32]) -> Result<Self> {
        let Some((lo, hi)) = dtype.range() else { bail!("{dtype} is not an integer type") };
        ensure!(values.len() == shape.count(), "{} values for shape {shape}", values.len());
        if let Some(v) = values.iter().find(|v| **v < lo || **v > hi) {
            bail!("value {v} does not fit in {dtype}");
        }
        let data = match dtype {
            DType::F32 => bail!("{dtype} is not an integer type"),
            DType::I32 => Data::I32(values.into()),
            DType::I16 => Data::I16(values.iter().map(|v| *v as i16).collect()),
            DType::I8 => Data::I8(values.iter().map(|v| *v as i8).collect()),
            DType::U8 => Data::U8(values.iter().map(|v| *v as u8).collect()),
            DType::I4 | DType::U4 => Data::Packed4(
                values
                    .chunks(2)
                    .map(|p| (p[0] as u8 & 15) | (p.get(1).map_or(0, |v| *v as u8 & 15) << 4))
                    .collect(),
            ),
        };
        Ok(Self { dtype, shape, data })
    }

    /// A tensor from its little-endian bytes, packed as [`Tensor::to_bytes`] gives them.
    ///
    /// # Errors
    /// The byte count is not that of the type and shape.
    pub fn from_bytes(dtype: DType, shape: Shape, bytes: &[u8]) -> Result<Self> {
        let want = dtype.bytes(shape.count());
        ensure!(bytes.len() == want, "{} bytes for {dtype}{shape}, expected {want}", bytes.len());
        let data = match dtype {
            DType::F32 => Data::F32(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
            DType::I32 => Data::I32(bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect()),
            DType::I16 => Data::I16(bytes.as_chunks().0.iter().map(|b| i16::from_le_bytes(*b)).collect()),
            DType::I8 => Data::I8(bytes.iter().map(|b| *b as i8).collect()),
            DType::U8 => Data::U8(bytes.into()),
            DType::I4 | DType::U4 => Data::Packed4(bytes.into()),
        };
        Ok(Self { dtype, shape, data })
    }

    /// Element type.
    pub const fn dtype(&self) -> DType {
        self.dtype
    }

    /// Shape.
    pub const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The values of any integer tensor, unpacked. f32 tensors give an error.
    ///
    /// # Errors
    /// The tensor is f32.
    pub fn to_ints(&self) -> Result<Vec<i32>> {
        Ok(match &self.data {
            Data::F32(_) => bail!("expected an integer tensor, got f32"),
            Data::I32(v) => v.to_vec(),
            Data::I16(v) => v.iter().map(|x| i32::from(*x)).collect(),
            Data::I8(v) => v.iter().map(|x| i32::from(*x)).collect(),
            Data::U8(v) => v.iter().map(|x| i32::from(*x)).collect(),
            Data::Packed4(v) => (0..self.shape.count())
                .map(|i| {
                    let nibble = (v[i / 2] >> (4 * (i % 2))) & 15;
                    if self.dtype == DType::I4 {
                        i32::from((nibble << 4) as i8 >> 4)
                    } else {
                        i32::from(nibble)
                    }
                })
                .collect(),
        })
    }

    /// Little-endian bytes, 4-bit types packed.
    pub fn to_bytes(&self) -> Vec<u8> {
        match &self.data {
            Data::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::I32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::I16(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::I8(v) => v.iter().map(|x| *x as u8).collect(),
            Data::U8(v) | Data::Packed4(v) => v.to_vec(),
        }
    }

    /// The same values under another shape of the same count.
    ///
    /// # Errors
    /// The counts differ.
    pub fn reshaped(&self, shape: Shape) -> Result<Self> {
        ensure!(shape.count() == self.shape.count(), "cannot reshape {} to {shape}", self.shape);
        Ok(Self { shape, ..self.clone() })
    }
}
