//! NumPy's `.npz` format: a zip of `.npy` files.
use super::npy::{self, Header};
use crate::{Code, Error, Result};
use goshawk_ir::Tensor;
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

/// Most bytes that one array may have after decompression: a zip bomb stops here. Larger sets belong into `.npy`, which
/// is read row by row.
const MAX_ARRAY_BYTES: u64 = 4 << 30;

/// An open `.npz` file.
pub struct Archive {
    path: PathBuf,
    zip: npyz::npz::NpzArchive<BufReader<File>>,
}

impl Archive {
    /// Opens a file and reads its directory.
    ///
    /// # Errors
    /// [`Code::FILE`] where the file cannot be opened, [`Code::DATA`] where it is not a zip file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::file(path, "open", &e))?;
        let zip =
            npyz::npz::NpzArchive::new(BufReader::new(file)).map_err(|e| bad(path, None, e.to_string()))?;
        Ok(Self { path: path.to_owned(), zip })
    }

    /// Names of the arrays, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.zip.array_names().map(str::to_owned).collect();
        names.sort();
        names
    }

    /// The header of an array, without its elements.
    ///
    /// # Errors
    /// [`Code::DATA`]: no such array, or it is damaged.
    pub fn header(&mut self, name: &str) -> Result<Header> {
        let path = self.path.clone();
        let entry = self
            .zip
            .zip_archive()
            .by_name(&format!("{name}.npy"))
            .map_err(|e| bad(&path, Some(name), e.to_string()))?;
        let mut start = Vec::new();
        entry.take(70_000).read_to_end(&mut start).map_err(|e| bad(&path, Some(name), e.to_string()))?;
        Header::parse(&start).map_err(|e| bad(&path, Some(name), e))
    }

    /// An array: its header and the bytes of its elements.
    ///
    /// # Errors
    /// [`Code::DATA`]: no such array, it is damaged, or it is larger than 4 GiB.
    pub fn read(&mut self, name: &str) -> Result<(Header, Vec<u8>)> {
        let header = self.header(name)?;
        let path = self.path.clone();
        let damaged = |why: String| bad(&path, Some(name), why);
        let want = header.data_bytes().map_err(damaged)?;
        if want as u64 > MAX_ARRAY_BYTES {
            return Err(damaged(format!("it has {want} bytes, more than {MAX_ARRAY_BYTES}"))
                .help("save it as .npy, which is read row by row"));
        }
        let entry =
            self.zip.zip_archive().by_name(&format!("{name}.npy")).map_err(|e| damaged(e.to_string()))?;
        let mut bytes = Vec::new();
        let limit = (header.offset + want) as u64 + 1;
        entry.take(limit).read_to_end(&mut bytes).map_err(|e| damaged(e.to_string()))?;
        if bytes.len() != header.offset + want {
            return Err(damaged(format!(
                "shape {:?} needs {want} bytes, the file has {}",
                header.dims,
                bytes.len().saturating_sub(header.offset)
            )));
        }
        bytes.drain(..header.offset);
        Ok((header, bytes))
    }
}

fn bad(path: &Path, array: Option<&str>, why: impl Into<String>) -> Error {
    let what = match array {
        Some(name) => format!("cannot read array `{name}` of {}", path.display()),
        None => format!("cannot read {}", path.display()),
    };
    Error::new(Code::DATA, what).because(why)
}

/// The bytes of a `.npz` file with these arrays: stored, without time stamps, so equal arrays give equal bytes.
///
/// # Errors
/// [`Code::DATA`]: 4 GiB or more, which the plain zip format cannot hold.
pub fn encode(arrays: &BTreeMap<String, Tensor>) -> Result<Vec<u8>> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    let too_large = |_| Error::new(Code::DATA, "the arrays are too large for one .npz file (4 GiB)");
    for (name, tensor) in arrays {
        let (name, data) = (format!("{name}.npy"), npy::encode(tensor));
        let start = u32::try_from(out.len()).map_err(too_large)?;
        let size = u32::try_from(data.len()).map_err(too_large)?;
        let length = u16::try_from(name.len()).map_err(too_large)?;
        // Fields that the local header and the directory share (APPNOTE.TXT §4.3.7, §4.3.12).
        let mut shared = [20u16, UTF8, STORED, 0, DOS_EPOCH].map(u16::to_le_bytes).concat();
        shared.extend([crc32fast::hash(&data), size, size].map(u32::to_le_bytes).concat());
        shared.extend([length, 0].map(u16::to_le_bytes).concat());
        out.extend(b"PK\x03\x04");
        out.extend(&shared);
        out.extend(name.bytes());
        out.extend(data);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&shared);
        directory.extend([0u16; 3].map(u16::to_le_bytes).concat());
        directory.extend([0, start].map(u32::to_le_bytes).concat());
        directory.extend(name.bytes());
    }
    let start = u32::try_from(out.len()).map_err(too_large)?;
    let count = u16::try_from(arrays.len()).map_err(too_large)?;
    out.extend(&directory);
    out.extend(b"PK\x05\x06");
    out.extend([0, 0, count, count].map(u16::to_le_bytes).concat());
    out.extend([directory.len() as u32, start].map(u32::to_le_bytes).concat());
    out.extend([0, 0]);
    Ok(out)
}

/// Flag: names are UTF-8.
const UTF8: u16 = 1 << 11;
/// Compression method.
const STORED: u16 = 0;
/// 1980-01-01, the first day that the format knows.
const DOS_EPOCH: u16 = (1 << 5) | 1;
