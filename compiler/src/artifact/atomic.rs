//! Writes files so that a reader sees the old content or the new one, never a half.
//!
//! The bytes go to a temporary file in the same folder, are flushed to disk, and take the name by a rename. A full disk,
//! an unwritable folder or a killed process leaves the old file as it was.
use crate::{Code, Error, Result};
use std::{
    fs::{File, Permissions},
    io::Write,
    path::{Path, PathBuf},
};
use tempfile::{Builder, NamedTempFile};

/// Writes one file.
///
/// # Errors
/// The folder is missing or not writable, the disk is full, or the path is a folder.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_all_atomic(&[(path.to_owned(), bytes)])
}

/// Writes several files: none is renamed before all are on the disk.
///
/// # Errors
/// As [`write_atomic`], and two paths that are the same.
pub fn write_all_atomic<B: AsRef<[u8]>>(files: &[(PathBuf, B)]) -> Result<()> {
    for (i, (path, _)) in files.iter().enumerate() {
        if files[..i].iter().any(|(p, _)| p == path) {
            return Err(Error::new(Code::FILE, format!("{} would be written twice", path.display()))
                .help("give the outputs different names"));
        }
    }
    let staged: Vec<_> =
        files.iter().map(|(path, bytes)| stage(path, bytes.as_ref())).collect::<Result<_>>()?;
    for ((path, bytes), staged) in files.iter().zip(staged) {
        match staged {
            Some(file) => {
                file.persist(path).map_err(|e| failed(path, &e.error))?;
                // The rename itself reaches the disk with the folder; not all file systems can do that.
                let _ = File::open(folder(path)).and_then(|f| f.sync_all());
            }
            None => std::fs::write(path, bytes).map_err(|e| failed(path, &e))?,
        }
    }
    Ok(())
}

/// Puts the bytes into a temporary file beside `path`. Devices and pipes, such as `/dev/stdout`, cannot be replaced by
/// a rename: `None`.
fn stage(path: &Path, bytes: &[u8]) -> Result<Option<NamedTempFile>> {
    if let Ok(existing) = std::fs::metadata(path) {
        if existing.is_dir() {
            return Err(Error::new(Code::FILE, format!("cannot write {}: it is a folder", path.display()))
                .help("name a file in it"));
        }
        if !existing.is_file() {
            return Ok(None);
        }
    }
    let mut builder = Builder::new();
    builder.prefix(".goshawk-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(<Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666));
    let mut file = builder.tempfile_in(folder(path)).map_err(|e| failed(path, &e))?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(|e| failed(path, &e))?;
    Ok(Some(file))
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn failed(path: &Path, source: &std::io::Error) -> Error {
    Error::file(path, "write", source)
        .help("check that the folder exists, that you may write to it, and that the disk has room")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .expect("readable")
            .map(|e| e.expect("readable").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_whole_files() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a");
        write_atomic(&path, b"old").expect("writable");
        write_atomic(&path, b"new").expect("writable");
        assert_eq!(std::fs::read(&path).expect("written"), b"new");
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn nothing_is_written_if_one_file_cannot_be() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let good = dir.path().join("good");
        for bad in [dir.path().join("missing/file"), dir.path().to_owned(), good.clone()] {
            let error =
                write_all_atomic(&[(good.clone(), b"x"), (bad, b"y")]).expect_err("cannot be written");
            assert_eq!(error.code, Code::FILE);
            assert!(error.remedy.is_some());
            assert_eq!(names(dir.path()), [""; 0]);
        }
    }

    #[test]
    #[cfg(unix)]
    fn permissions_follow_the_umask_and_devices_stay_devices() {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt};
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (ours, plain) = (dir.path().join("ours"), dir.path().join("plain"));
        write_atomic(&ours, b"x").expect("writable");
        std::fs::write(&plain, b"x").expect("writable");
        let mode = |p: &Path| p.metadata().expect("exists").permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
        write_atomic(Path::new("/dev/null"), b"x").expect("a device takes bytes");
        assert!(Path::new("/dev/null").metadata().expect("exists").file_type().is_char_device());
    }
}
