//! External data: files beside the model that hold initializers.
//!
//! A model file is untrusted, so these are refused unless the user names a directory, and never leave it: the location
//! must consist of normal components, no component may be a symbolic link, the file must be a regular one with a single
//! hard link, and offset and length must lie inside it. Files are copied, not mapped: a truncated mapping would raise
//! SIGBUS. The attacks are those of CVE-2022-25882, CVE-2024-27318, CVE-2026-27489 and CVE-2026-34445…34447.
use super::proto::TensorProto;
use crate::{Code, Error, Result};
use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Component, Path, PathBuf},
};

/// Reads the data of an external tensor.
///
/// `want` is the number of bytes that the tensor's type and shape need.
///
/// # Errors
/// [`Code::EXTERNAL_DATA`]: no directory given, a location outside it, a link, a wrong offset or length;
/// [`Code::FILE`]: the file cannot be read.
pub fn read(tensor: &TensorProto, directory: Option<&Path>, want: u64) -> Result<Vec<u8>> {
    let place = format!("initializer {:?}", tensor.name);
    read_checked(tensor, directory, want).map_err(|e| e.at(place))
}

fn read_checked(tensor: &TensorProto, directory: Option<&Path>, want: u64) -> Result<Vec<u8>> {
    let entry = |key: &str| tensor.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
    let location = entry("location").unwrap_or_default();
    let Some(directory) = directory else {
        return Err(Error::new(
            Code::EXTERNAL_DATA,
            format!("the model keeps weights in another file, {location:?}"),
        )
        .because("external data are read only on request")
        .help("pass --external-data DIR with the folder of that file, or save the model in one file"));
    };
    let path = resolve(directory, location)?;
    let number = |key: &str| match entry(key) {
        None | Some("") => Ok(None),
        Some(v) => v
            .parse::<u64>()
            .map(Some)
            .map_err(|_| refused(format!("{key} {v:?} of the external data is not a number of bytes"))),
    };
    let offset = number("offset")?.unwrap_or(0);
    let length = number("length")?;
    let mut file = File::open(&path).map_err(|e| Error::file(&path, "read", &e))?;
    let meta = file.metadata().map_err(|e| Error::file(&path, "read", &e))?;
    check_plain(&path, &meta)?;
    let length = length.unwrap_or_else(|| meta.len().saturating_sub(offset).min(want));
    if length != want {
        return Err(refused(format!("the external data have {length} bytes, the tensor needs {want}")));
    }
    if offset.checked_add(length).is_none_or(|end| end > meta.len()) {
        return Err(refused(format!(
            "bytes {offset}+{length} are outside {} of {} bytes",
            path.display(),
            meta.len()
        )));
    }
    let len = usize::try_from(length).map_err(|_| refused("the external data are too large"))?;
    let mut bytes = vec![0; len];
    file.seek(SeekFrom::Start(offset))
        .and_then(|_| file.read_exact(&mut bytes))
        .map_err(|e| Error::file(&path, "read", &e))?;
    Ok(bytes)
}

/// The path of a location inside the directory.
fn resolve(directory: &Path, location: &str) -> Result<PathBuf> {
    let relative = Path::new(location);
    let normal = relative.components().all(|c| matches!(c, Component::Normal(_)));
    if location.is_empty() || !normal || location.contains(['\0', '\\']) {
        return Err(refused(format!("the location {location:?} is not a plain relative path"))
            .help("external data must lie inside the folder given with --external-data"));
    }
    let root = directory.canonicalize().map_err(|e| Error::file(directory, "read", &e))?;
    let mut path = root.clone();
    for component in relative.components() {
        path.push(component);
        let meta = fs::symlink_metadata(&path).map_err(|e| Error::file(&path, "read", &e))?;
        if meta.file_type().is_symlink() {
            return Err(refused(format!("{} is a symbolic link", path.display()))
                .help("copy the file into the folder given with --external-data"));
        }
    }
    let real = path.canonicalize().map_err(|e| Error::file(&path, "read", &e))?;
    if !real.starts_with(&root) {
        return Err(refused(format!("{} is outside {}", real.display(), root.display())));
    }
    Ok(real)
}

fn check_plain(path: &Path, meta: &fs::Metadata) -> Result<()> {
    if !meta.is_file() {
        return Err(refused(format!("{} is not a regular file", path.display())));
    }
    #[cfg(unix)]
    if std::os::unix::fs::MetadataExt::nlink(meta) > 1 {
        return Err(refused(format!("{} has several hard links", path.display()))
            .help("copy the file: a hard link may belong to another folder"));
    }
    Ok(())
}

fn refused(what: impl Into<String>) -> Error {
    Error::new(Code::EXTERNAL_DATA, what)
}
