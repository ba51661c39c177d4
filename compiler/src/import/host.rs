//! Constants during import: initializers, `Constant` nodes and what is computed from them.
//!
//! Unlike [`goshawk_ir::Tensor`] they may have dimensions of 0 (an empty `roi`) and hold int64 (shapes). Floats of any
//! width become f32, integers of any width i64.
use super::{
    limits::Limits,
    proto::{DataType, TensorProto},
};
use crate::{Code, Error, Result};
use std::{path::Path, sync::Arc};

/// What the values of a tensor mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elem {
    /// Any floating-point type, held as f32.
    Float,
    /// Any integer type, held as i64.
    Int,
    /// Truth values, held as 0 and 1.
    Bool,
}

/// Values in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Floats.
    Float(Arc<[f32]>),
    /// Integers and truth values.
    Int(Arc<[i64]>),
}

/// A constant tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// Kind of the values.
    pub elem: Elem,
    /// Dimensions, 0 allowed.
    pub dims: Vec<usize>,
    /// Values.
    pub data: Data,
}

impl Host {
    /// A float tensor. The caller vouches for the count.
    pub fn floats(dims: Vec<usize>, values: impl Into<Arc<[f32]>>) -> Self {
        Self { elem: Elem::Float, dims, data: Data::Float(values.into()) }
    }

    /// An integer tensor. The caller vouches for the count.
    pub fn ints(dims: Vec<usize>, values: impl Into<Arc<[i64]>>) -> Self {
        Self { elem: Elem::Int, dims, data: Data::Int(values.into()) }
    }

    /// A vector of integers.
    pub fn vector(values: Vec<i64>) -> Self {
        Self::ints(vec![values.len()], values)
    }

    /// Number of values.
    pub fn count(&self) -> usize {
        match &self.data {
            Data::Float(v) => v.len(),
            Data::Int(v) => v.len(),
        }
    }

    /// The floats, if it is a float tensor.
    pub fn as_floats(&self) -> Option<&Arc<[f32]>> {
        match &self.data {
            Data::Float(v) => Some(v),
            Data::Int(_) => None,
        }
    }

    /// The integers, if it is an integer tensor.
    pub fn as_ints(&self) -> Option<&[i64]> {
        match &self.data {
            Data::Float(_) => None,
            Data::Int(v) => Some(v),
        }
    }
}

/// Bytes of a tensor's `raw_data`.
pub fn raw_bytes(elem: DataType, count: u64) -> Option<u64> {
    let bits: u64 = match elem {
        DataType::Float | DataType::Int32 | DataType::Uint32 => 32,
        DataType::Double | DataType::Int64 | DataType::Uint64 => 64,
        DataType::Uint8 | DataType::Int8 | DataType::Bool => 8,
        DataType::Uint16 | DataType::Int16 | DataType::Float16 | DataType::Bfloat16 => 16,
        DataType::Uint4 | DataType::Int4 => 4,
        DataType::Undefined
        | DataType::String
        | DataType::Complex64
        | DataType::Complex128
        | DataType::Float8E4m3fn
        | DataType::Float8E4m3fnuz
        | DataType::Float8E5m2
        | DataType::Float8E5m2fnuz
        | DataType::Float4E2m1
        | DataType::Float8E8m0
        | DataType::Uint2
        | DataType::Int2 => return None,
    };
    count.checked_mul(bits).map(|b| b.div_ceil(8))
}

/// The element type of a code that a model states.
///
/// # Errors
/// [`Code::UNSUPPORTED`] for types that have no meaning in a CNN, [`Code::GRAPH`] for unknown codes.
pub fn data_type(code: i32) -> Result<DataType> {
    let elem = DataType::try_from(code)
        .map_err(|_| Error::new(Code::GRAPH, format!("element type {code} does not exist in ONNX")))?;
    match raw_bytes(elem, 1) {
        Some(_) => Ok(elem),
        None => Err(Error::new(Code::UNSUPPORTED, format!("tensors of type {elem:?} are not supported"))
            .help("export the model with float tensors")),
    }
}

/// Whether values of the type are floats, integers or truth values.
pub fn elem(elem: DataType) -> Elem {
    match elem {
        DataType::Float | DataType::Double | DataType::Float16 | DataType::Bfloat16 => Elem::Float,
        DataType::Bool => Elem::Bool,
        DataType::Undefined
        | DataType::Uint8
        | DataType::Int8
        | DataType::Uint16
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::String
        | DataType::Uint32
        | DataType::Uint64
        | DataType::Complex64
        | DataType::Complex128
        | DataType::Float8E4m3fn
        | DataType::Float8E4m3fnuz
        | DataType::Float8E5m2
        | DataType::Float8E5m2fnuz
        | DataType::Uint4
        | DataType::Int4
        | DataType::Float4E2m1
        | DataType::Float8E8m0
        | DataType::Uint2
        | DataType::Int2 => Elem::Int,
    }
}

/// Smallest and largest value of an integer type; `None` for other types and those as wide as i64.
pub fn int_range(elem: DataType) -> Option<(i64, i64)> {
    Some(match elem {
        DataType::Uint4 => (0, 15),
        DataType::Int4 => (-8, 7),
        DataType::Uint8 => (0, 255),
        DataType::Int8 => (-128, 127),
        DataType::Uint16 => (0, i64::from(u16::MAX)),
        DataType::Int16 => (i64::from(i16::MIN), i64::from(i16::MAX)),
        DataType::Uint32 => (0, i64::from(u32::MAX)),
        DataType::Int32 => (i64::from(i32::MIN), i64::from(i32::MAX)),
        DataType::Uint64 => (0, i64::MAX),
        _ => return None,
    })
}

/// Decodes a constant.
///
/// # Errors
/// [`Code::GRAPH`] where the number of values is not that of the shape; the codes of [`super::external::read`].
pub fn decode(tensor: &TensorProto, limits: &Limits, external: Option<&Path>) -> Result<Host> {
    let place = || format!("initializer {:?}", tensor.name);
    let elem_type = data_type(tensor.data_type).map_err(|e| e.at(place()))?;
    let count = limits.elements(&tensor.dims).map_err(|e| e.at(place()))?;
    // Within `Limits::elements` every dimension fits in usize.
    let dims: Vec<usize> = tensor.dims.iter().map(|d| *d as usize).collect();
    let want =
        raw_bytes(elem_type, count).ok_or_else(|| Error::new(Code::MODEL, "tensor too large").at(place()))?;
    let data = if tensor.data_location == 1 || !tensor.external_data.is_empty() {
        from_raw(elem_type, &super::external::read(tensor, external, want)?, count as usize)
    } else if !tensor.raw_data.is_empty() {
        if tensor.raw_data.len() as u64 != want {
            return Err(wrong_size(tensor.raw_data.len() as u64, "bytes", want, &dims).at(place()));
        }
        from_raw(elem_type, &tensor.raw_data, count as usize)
    } else {
        typed(tensor, elem_type, count, &dims).map_err(|e| e.at(place()))?
    };
    Ok(Host { elem: elem(elem_type), dims, data })
}

fn wrong_size(is: u64, unit: &str, want: u64, dims: &[usize]) -> Error {
    Error::new(Code::GRAPH, format!("a tensor of shape {dims:?} holds {is} {unit}, expected {want}"))
        .help("the file is damaged or was written by a defective exporter")
}

/// Values of little-endian bytes whose number has been checked.
fn from_raw(elem: DataType, bytes: &[u8], count: usize) -> Data {
    macro_rules! int {
        ($t:ty) => {
            Data::Int(bytes.as_chunks().0.iter().map(|b| <$t>::from_le_bytes(*b) as i64).collect())
        };
    }
    macro_rules! half {
        ($f:ident) => {
            Data::Float(bytes.as_chunks().0.iter().map(|b| $f(u16::from_le_bytes(*b))).collect())
        };
    }
    match elem {
        DataType::Float => Data::Float(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        DataType::Double => {
            Data::Float(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect())
        }
        DataType::Float16 => half!(f16_to_f32),
        DataType::Bfloat16 => half!(bf16_to_f32),
        DataType::Int64 => int!(i64),
        // Values above i64::MAX do not occur in shapes and weights; they would be caught as negative dimensions.
        DataType::Uint64 => int!(u64),
        DataType::Int32 => int!(i32),
        DataType::Uint32 => int!(u32),
        DataType::Int16 => int!(i16),
        DataType::Uint16 => int!(u16),
        DataType::Int8 => int!(i8),
        DataType::Uint8 => int!(u8),
        DataType::Bool => Data::Int(bytes.iter().map(|b| i64::from(*b != 0)).collect()),
        DataType::Int4 => Data::Int(nibbles(bytes, count).map(|n| i64::from((n << 4) as i8 >> 4)).collect()),
        DataType::Uint4 => Data::Int(nibbles(bytes, count).map(i64::from).collect()),
        // `raw_bytes` has refused the rest.
        DataType::Undefined
        | DataType::String
        | DataType::Complex64
        | DataType::Complex128
        | DataType::Float8E4m3fn
        | DataType::Float8E4m3fnuz
        | DataType::Float8E5m2
        | DataType::Float8E5m2fnuz
        | DataType::Float4E2m1
        | DataType::Float8E8m0
        | DataType::Uint2
        | DataType::Int2 => Data::Int(Arc::new([])),
    }
}

/// 4-bit values, the first of a pair in the low half of the byte.
fn nibbles(bytes: &[u8], count: usize) -> impl Iterator<Item = u8> {
    bytes.iter().flat_map(|b| [b & 15, b >> 4]).take(count)
}

/// Values from the field of their type.
fn typed(t: &TensorProto, elem: DataType, count: u64, dims: &[usize]) -> Result<Data> {
    let check = |is: usize, want: u64| match is as u64 == want {
        true => Ok(()),
        false => Err(wrong_size(is as u64, "values", want, dims)),
    };
    let n = count as usize;
    let ints = |convert: &dyn Fn(i32) -> i64| -> Result<Data> {
        check(t.int32_data.len(), count)?;
        Ok(Data::Int(t.int32_data.iter().map(|v| convert(*v)).collect()))
    };
    Ok(match elem {
        DataType::Float => {
            check(t.float_data.len(), count)?;
            Data::Float(t.float_data.as_slice().into())
        }
        DataType::Double => {
            check(t.double_data.len(), count)?;
            Data::Float(t.double_data.iter().map(|v| *v as f32).collect())
        }
        DataType::Float16 | DataType::Bfloat16 => {
            check(t.int32_data.len(), count)?;
            let convert = if elem == DataType::Float16 { f16_to_f32 } else { bf16_to_f32 };
            Data::Float(t.int32_data.iter().map(|v| convert(*v as u16)).collect())
        }
        DataType::Int64 => {
            check(t.int64_data.len(), count)?;
            Data::Int(t.int64_data.as_slice().into())
        }
        DataType::Uint32 | DataType::Uint64 => {
            check(t.uint64_data.len(), count)?;
            Data::Int(t.uint64_data.iter().map(|v| *v as i64).collect())
        }
        DataType::Int32 => ints(&|v| i64::from(v))?,
        DataType::Int16 => ints(&|v| i64::from(v as i16))?,
        DataType::Uint16 => ints(&|v| i64::from(v as u16))?,
        DataType::Int8 => ints(&|v| i64::from(v as i8))?,
        DataType::Uint8 => ints(&|v| i64::from(v as u8))?,
        DataType::Bool => ints(&|v| i64::from(v != 0))?,
        DataType::Int4 | DataType::Uint4 => {
            // Each entry carries one byte, so two values.
            check(t.int32_data.len(), count.div_ceil(2))?;
            let bytes: Vec<u8> = t.int32_data.iter().map(|v| *v as u8).collect();
            from_raw(elem, &bytes, n)
        }
        DataType::Undefined
        | DataType::String
        | DataType::Complex64
        | DataType::Complex128
        | DataType::Float8E4m3fn
        | DataType::Float8E4m3fnuz
        | DataType::Float8E5m2
        | DataType::Float8E5m2fnuz
        | DataType::Float4E2m1
        | DataType::Float8E8m0
        | DataType::Uint2
        | DataType::Int2 => Data::Int(Arc::new([])),
    })
}

fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// IEEE half precision: exact, subnormals included.
fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let (exponent, fraction) = (u32::from(bits >> 10) & 31, u32::from(bits) & 0x3ff);
    let magnitude = match exponent {
        // 2^-24 is the weight of the last bit of a subnormal.
        0 => (fraction as f32 * f32::from_bits(0x3380_0000)).to_bits(),
        31 => 0x7f80_0000 | (fraction << 13),
        _ => ((exponent + 112) << 23) | (fraction << 13),
    };
    f32::from_bits(sign | magnitude)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_is_exact() {
        for (bits, want) in [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, 5.960_464_5e-8),
            (0x0400, 6.103_515_6e-5),
            (0x8000, -0.0),
            (0x7c00, f32::INFINITY),
        ] {
            assert_eq!(f16_to_f32(bits).to_bits(), f32::to_bits(want), "{bits:#x}");
        }
        assert!(f16_to_f32(0x7e00).is_nan());
        assert_eq!(bf16_to_f32(0xbf80), -1.0);
    }

    #[test]
    fn four_bit_values_unpack_low_half_first() {
        let raw = [0x8f, 0x07];
        assert_eq!(from_raw(DataType::Int4, &raw, 3), Data::Int(vec![-1, -8, 7].into()));
        assert_eq!(from_raw(DataType::Uint4, &raw, 3), Data::Int(vec![15, 8, 7].into()));
    }

    #[test]
    fn sizes_are_checked() {
        let mut t = TensorProto::f32("w", &[2, 2], &[1.0; 4]);
        assert!(decode(&t, &Limits::default(), None).is_ok());
        t.dims = vec![2, 3];
        let e = decode(&t, &Limits::default(), None).unwrap_err();
        assert_eq!(e.code, Code::GRAPH);
        assert!(e.place.unwrap().contains("\"w\""));
    }
}
