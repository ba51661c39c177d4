//! The idx format of MNIST and its relatives, plain or gzipped: u8 elements, big-endian dimensions.
//!
//! Source: <http://yann.lecun.com/exdb/mnist/>: two zero bytes, element type (8 = u8), rank, the dimensions as u32.
use super::npy::{Element, Header};
use std::io::Read;

/// Most bytes after decompression.
const MAX_BYTES: u64 = 4 << 30;

/// Header and elements of an idx file.
///
/// # Errors
/// A sentence saying what is wrong with the file.
pub fn parse(file: &[u8]) -> Result<(Header, Vec<u8>), String> {
    let mut bytes = Vec::new();
    if file.starts_with(&[0x1f, 0x8b]) {
        flate2::read::GzDecoder::new(file)
            .take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| format!("it cannot be decompressed: {e}"))?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(format!("it decompresses to more than {MAX_BYTES} bytes"));
        }
    } else {
        bytes.extend_from_slice(file);
    }
    let rank = match *bytes {
        [0, 0, 8, rank @ 1..=4, ..] => usize::from(rank),
        [0, 0, kind, ..] if kind != 8 => return Err(format!("element type {kind} is not u8")),
        _ => return Err("it does not begin as an idx file does".into()),
    };
    let offset = 4 + 4 * rank;
    let dims = bytes.get(4..offset).ok_or("it ends inside the header")?;
    let dims: Vec<usize> = dims.as_chunks().0.iter().map(|d| u32::from_be_bytes(*d) as usize).collect();
    let header = Header { element: Element::Uint(1), dims, offset: 0 };
    let want = header.data_bytes()?;
    bytes.drain(..offset);
    if bytes.len() != want {
        return Err(format!("shape {:?} needs {want} bytes, the file has {}", header.dims, bytes.len()));
    }
    Ok((header, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_should_and_refuses_the_rest() {
        let good = [0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6];
        let (header, bytes) = parse(&good).expect("idx");
        assert_eq!((header.dims, bytes), (vec![2, 3], vec![1, 2, 3, 4, 5, 6]));
        assert!(parse(&good[..17]).is_err_and(|e| e.contains("needs 6 bytes")));
        assert!(parse(&good[..7]).is_err_and(|e| e.contains("header")));
        assert!(parse(&[0, 0, 9, 1, 0, 0, 0, 1, 0]).is_err_and(|e| e.contains("element type")));
        assert!(parse(&[0x1f, 0x8b, 0, 0]).is_err_and(|e| e.contains("decompressed")));
    }
}
