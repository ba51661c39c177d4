//! NumPy's `.npy` format: a strict reader of the header, conversion of the elements, and a writer.
//!
//! Source: numpy/lib/format.py (versions 1.0 to 3.0). Only what data sets need: C order, little-endian, numbers.
//! Headers come from untrusted files, so sizes are checked before anything is allocated.
use goshawk_ir::{DType, Tensor};

/// Longest header that is read; numpy itself refuses more than 10,000 bytes by default.
const MAX_HEADER: usize = 65_536;

/// Element type of an array in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// IEEE binary32.
    F32,
    /// IEEE binary64.
    F64,
    /// Signed integer of 1, 2, 4 or 8 bytes.
    Int(u8),
    /// Unsigned integer of 1, 2, 4 or 8 bytes.
    Uint(u8),
    /// Text or anything else that is not a number: listed, never read.
    Other,
}

impl Element {
    fn parse(descr: &str) -> Result<Self, String> {
        if descr.starts_with('>') && !descr.ends_with('1') {
            return Err(format!("big-endian elements ({descr}) are not supported; save little-endian"));
        }
        Ok(match descr.trim_start_matches(['<', '|', '=', '>']) {
            "f4" => Self::F32,
            "f8" => Self::F64,
            "b1" | "u1" => Self::Uint(1),
            "u2" => Self::Uint(2),
            "u4" => Self::Uint(4),
            "u8" => Self::Uint(8),
            "i1" => Self::Int(1),
            "i2" => Self::Int(2),
            "i4" => Self::Int(4),
            "i8" => Self::Int(8),
            _ => Self::Other,
        })
    }

    /// Bytes of one element; 0 for [`Element::Other`].
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F64 => 8,
            Self::Int(n) | Self::Uint(n) => n as usize,
            Self::Other => 0,
        }
    }

    /// Whether the elements are integers.
    pub const fn is_integer(self) -> bool {
        matches!(self, Self::Int(_) | Self::Uint(_))
    }
}

/// What the header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Element type.
    pub element: Element,
    /// Dimensions, outermost first.
    pub dims: Vec<usize>,
    /// Where the elements begin.
    pub offset: usize,
}

impl Header {
    /// Reads the header at the beginning of `bytes`; more bytes than the header may follow.
    ///
    /// # Errors
    /// A sentence saying what is wrong with the file.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let Some(rest) = bytes.strip_prefix(b"\x93NUMPY") else {
            return Err("it does not begin as a .npy file does".into());
        };
        let (text_at, length) = match *rest {
            [1, _, a, b, ..] => (10, usize::from(u16::from_le_bytes([a, b]))),
            [2 | 3, _, a, b, c, d, ..] => (12, u32::from_le_bytes([a, b, c, d]) as usize),
            _ => return Err("its .npy version is unknown".into()),
        };
        if length > MAX_HEADER {
            return Err(format!("its header has {length} bytes, more than {MAX_HEADER}"));
        }
        let offset = text_at + length;
        let text = bytes.get(text_at..offset).ok_or("it ends inside the header")?;
        let text = std::str::from_utf8(text).map_err(|_| "its header is not text")?;
        let (element, dims) = parse_dict(text)?;
        Ok(Self { element, dims, offset })
    }

    /// Bytes of the elements.
    ///
    /// # Errors
    /// The product overflows, or the elements are not numbers.
    pub fn data_bytes(&self) -> Result<usize, String> {
        if self.element == Element::Other {
            return Err("its elements are not numbers".into());
        }
        self.dims
            .iter()
            .try_fold(self.element.bytes(), |n, d| n.checked_mul(*d))
            .filter(|n| isize::try_from(*n).is_ok())
            .ok_or_else(|| format!("its shape {:?} overflows", self.dims))
    }
}

/// `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`, keys in any order.
fn parse_dict(text: &str) -> Result<(Element, Vec<usize>), String> {
    let bad = || format!("its header {:?} is malformed", text.trim_end());
    let body = text.trim().strip_prefix('{').and_then(|t| t.strip_suffix('}')).ok_or_else(bad)?;
    let (mut element, mut dims, mut order) = (None, None, None);
    let mut rest = body.trim();
    while !rest.is_empty() {
        let (key, after) = quoted(rest).ok_or_else(bad)?;
        let value = after.trim_start().strip_prefix(':').ok_or_else(bad)?.trim_start();
        rest = match key {
            "descr" => match quoted(value) {
                Some((descr, after)) => {
                    element = Some(Element::parse(descr)?);
                    after
                }
                None => return Err("its elements are records, not numbers".into()),
            },
            "fortran_order" => {
                let (flag, after) = value.split_at(value.find([',', ' ']).unwrap_or(value.len()));
                order = Some(flag);
                after
            }
            "shape" => {
                let inner = value.strip_prefix('(').ok_or_else(bad)?;
                let end = inner.find(')').ok_or_else(bad)?;
                let (list, after) = inner.split_at(end);
                let parts = list.split(',').map(str::trim).filter(|p| !p.is_empty());
                dims =
                    Some(parts.map(str::parse::<usize>).collect::<Result<Vec<_>, _>>().map_err(|_| bad())?);
                &after[1..]
            }
            _ => return Err(bad()),
        };
        rest = rest.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    match (element, dims, order) {
        (Some(_), Some(dims), Some("True")) if dims.len() > 1 => {
            Err("it is in Fortran order; save it with np.ascontiguousarray".into())
        }
        (Some(element), Some(dims), Some("True" | "False")) => Ok((element, dims)),
        _ => Err(bad()),
    }
}

/// A quoted string at the beginning and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote)
}

/// Elements as f32, appended to `out`. `bytes` holds whole elements.
pub fn decode_f32(element: Element, bytes: &[u8], out: &mut Vec<f32>) {
    match element {
        Element::F32 => out.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
        Element::F64 => out.extend(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32)),
        Element::Uint(1) => out.extend(bytes.iter().map(|b| f32::from(*b))),
        Element::Int(1) => out.extend(bytes.iter().map(|b| f32::from(*b as i8))),
        Element::Int(_) | Element::Uint(_) | Element::Other => {
            out.extend(decode_i64(element, bytes).iter().map(|v| *v as f32));
        }
    }
}

/// Integer elements; empty for other types. Values of u64 above i64 wrap, which no label or feature reaches.
pub fn decode_i64(element: Element, bytes: &[u8]) -> Vec<i64> {
    match element {
        Element::Uint(1) => bytes.iter().map(|b| i64::from(*b)).collect(),
        Element::Int(1) => bytes.iter().map(|b| i64::from(*b as i8)).collect(),
        Element::Uint(2) => bytes.as_chunks().0.iter().map(|b| i64::from(u16::from_le_bytes(*b))).collect(),
        Element::Int(2) => bytes.as_chunks().0.iter().map(|b| i64::from(i16::from_le_bytes(*b))).collect(),
        Element::Uint(4) => bytes.as_chunks().0.iter().map(|b| i64::from(u32::from_le_bytes(*b))).collect(),
        Element::Int(4) => bytes.as_chunks().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect(),
        Element::Uint(_) | Element::Int(_) => {
            bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()
        }
        Element::F32 | Element::F64 | Element::Other => Vec::new(),
    }
}

/// A tensor as a `.npy` file, version 1.0; 4-bit tensors are unpacked to bytes, which is what NumPy has.
pub fn encode(tensor: &Tensor) -> Vec<u8> {
    let (descr, data) = match tensor.dtype() {
        DType::F32 => ("<f4", tensor.to_bytes()),
        DType::I32 => ("<i4", tensor.to_bytes()),
        DType::I16 => ("<i2", tensor.to_bytes()),
        DType::I8 => ("|i1", tensor.to_bytes()),
        DType::U8 => ("|u1", tensor.to_bytes()),
        DType::I4 => ("|i1", unpacked(tensor)),
        DType::U4 => ("|u1", unpacked(tensor)),
    };
    let dims: String = tensor.shape().iter().map(|d| format!("{d}, ")).collect();
    let mut header =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}", dims.trim_end());
    while !(10 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((header.len() as u16).to_le_bytes());
    out.extend(header.bytes());
    out.extend(data);
    out
}

fn unpacked(tensor: &Tensor) -> Vec<u8> {
    tensor.to_ints().unwrap_or_default().iter().map(|v| *v as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use goshawk_ir::Shape;

    fn file(header: &str) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.bytes());
        bytes
    }

    #[test]
    fn what_is_written_reads_back() {
        for dims in [vec![3], vec![2, 3, 4], vec![]] {
            let shape = Shape::new(dims.clone()).expect("shape");
            let values: Vec<f32> = (0..shape.count()).map(|i| i as f32 - 1.5).collect();
            let bytes = encode(&Tensor::from_f32(shape, values.clone()).expect("tensor"));
            let header = Header::parse(&bytes).expect("header");
            assert_eq!((header.element, &header.dims), (Element::F32, &dims));
            assert_eq!(header.data_bytes(), Ok(bytes.len() - header.offset));
            let mut back = Vec::new();
            decode_f32(header.element, &bytes[header.offset..], &mut back);
            assert_eq!(back, values);
        }
    }

    #[test]
    fn four_bit_tensors_are_unpacked() {
        let t = Tensor::from_ints(DType::I4, Shape::new([3]).expect("shape"), &[-8, 7, -1]).expect("tensor");
        let bytes = encode(&t);
        let header = Header::parse(&bytes).expect("header");
        assert_eq!(decode_i64(header.element, &bytes[header.offset..]), [-8, 7, -1]);
    }

    #[test]
    fn numpy_headers_are_understood() {
        let h =
            Header::parse(&file("{'descr': '|i1', 'fortran_order': False, 'shape': (1000, 49, 10), }   \n"));
        assert_eq!(h.map(|h| (h.element, h.dims)), Ok((Element::Int(1), vec![1000, 49, 10])));
        let h = Header::parse(&file("{'shape': (7,), 'fortran_order': False, 'descr': '<U25'}"));
        assert_eq!(h.as_ref().map(|h| h.element), Ok(Element::Other));
        assert!(h.is_ok_and(|h| h.data_bytes().is_err()));
    }

    #[test]
    fn damaged_headers_are_refused_with_a_reason() {
        for (header, reason) in [
            ("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", "Fortran order"),
            ("{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }", "big-endian"),
            ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }", "records"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", "malformed"),
            ("{'descr': '<f4', 'fortran_order': False, }", "malformed"),
            ("{'descr': '<f4', 'fortran_order'", "malformed"),
            ("{'é", "malformed"),
        ] {
            let error = Header::parse(&file(header)).expect_err(header);
            assert!(error.contains(reason), "{header}: {error}");
        }
        let huge = file("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999, 9999999999, 9), }");
        assert!(Header::parse(&huge).expect("a header").data_bytes().is_err());
        assert!(Header::parse(b"\x93NUMPY\x02\x00\xff\xff\xff\xff").is_err());
        assert!(Header::parse(b"PK").is_err());
    }
}
