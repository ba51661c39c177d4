//! Results of slow stages, kept by the hash of everything that decides them.
//!
//! An entry is one file: a format line, the hash of the payload, the key in words, the payload. A file that does not fit
//! its hash or its key, or whose payload its own reader refuses, is made again: the cache can only save time. Entries are
//! written whole or not at all, so several processes may share a folder; deleting it is safe at any time.
use crate::{Error, Result, artifact::write_atomic, driver::profile::hex};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    time::Instant,
};

/// First line of every entry.
const FORMAT: &str = "goshawk cache 1";

/// A folder of results; without one everything is made each time.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    folder: Option<PathBuf>,
}

/// What became of a stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stage {
    /// Name.
    pub name: String,
    /// Whether the cache had it.
    pub cached: bool,
    /// Time it took.
    pub seconds: f64,
}

impl Cache {
    /// A cache in this folder, which is created; `None` for none.
    ///
    /// # Errors
    /// [`crate::Code::FILE`]: the folder cannot be created.
    pub fn new(folder: Option<&Path>) -> Result<Self> {
        if let Some(folder) = folder {
            fs::create_dir_all(folder).map_err(|e| Error::file(folder, "create", &e))?;
        }
        Ok(Self { folder: folder.map(Path::to_owned) })
    }

    /// The folder that is used unless the user names one: `goshawk` in the user's cache folder.
    pub fn default_folder() -> Option<PathBuf> {
        let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|h| h.join(".cache"))).map(|c| c.join("goshawk"))
    }

    /// What `make` makes of this `key`, from the cache if it is there and `read` accepts it.
    ///
    /// # Errors
    /// Those of `make`, and of `read` on what `make` made.
    pub fn get<T>(
        &self,
        stage: &str,
        key: &[String],
        read: &dyn Fn(&[u8]) -> Result<T>,
        make: &mut dyn FnMut() -> Result<Vec<u8>>,
    ) -> Result<(T, Stage)> {
        let start = Instant::now();
        let done = |cached| Stage { name: stage.into(), cached, seconds: start.elapsed().as_secs_f64() };
        let words = format!("{stage} of goshawk {}: {}", env!("CARGO_PKG_VERSION"), key.join("; "))
            .replace('\n', " ");
        let path = self
            .folder
            .as_ref()
            .map(|f| f.join(format!("{stage}-{}", hex(&Sha256::digest(words.as_bytes())))));
        let kept = path.as_ref().and_then(|p| fs::read(p).ok());
        if let Some(value) =
            kept.as_deref().and_then(|bytes| payload(bytes, &words)).and_then(|p| read(p).ok())
        {
            return Ok((value, done(true)));
        }
        let made = make()?;
        let value = read(&made)?;
        if let Some(path) = path {
            let mut bytes = format!("{FORMAT}\n{}\n{words}\n", hex(&Sha256::digest(&made))).into_bytes();
            bytes.extend_from_slice(&made);
            // A full disk must not stop the work that the cache is to speed up.
            let _ = write_atomic(&path, &bytes);
        }
        Ok((value, done(false)))
    }
}

/// The payload of an entry for this key, if it is whole.
fn payload<'a>(bytes: &'a [u8], words: &str) -> Option<&'a [u8]> {
    let mut rest = bytes;
    let mut line = || {
        let end = rest.iter().position(|b| *b == b'\n')?;
        let line = std::str::from_utf8(&rest[..end]).ok()?;
        rest = &rest[end + 1..];
        Some(line)
    };
    let (format, sum, key) = (line()?, line()?, line()?);
    (format == FORMAT && key == words && sum == hex(&Sha256::digest(rest))).then_some(rest)
}

/// Hash of a file, or of all files of a folder with their names, in hexadecimal.
///
/// # Errors
/// [`crate::Code::FILE`].
pub fn content_hash(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = fs::read_dir(path).map_err(|e| Error::file(path, "read", &e))?;
        files = entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| p.is_file()).collect();
        files.sort();
    }
    let mut buffer = vec![0; 1 << 16];
    for file in files {
        let failed = |e: &std::io::Error| Error::file(&file, "read", e);
        hash.update(file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default());
        hash.update([0]);
        let mut open = fs::File::open(&file).map_err(|e| failed(&e))?;
        hash.update(open.metadata().map_err(|e| failed(&e))?.len().to_le_bytes());
        loop {
            match open.read(&mut buffer).map_err(|e| failed(&e))? {
                0 => break,
                n => hash.update(&buffer[..n]),
            }
        }
    }
    Ok(hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    #[test]
    fn damaged_and_foreign_entries_are_made_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(Some(dir.path())).expect("writable");
        let read = |bytes: &[u8]| match bytes.starts_with(b"good") {
            true => Ok(bytes.len()),
            false => Err(Error::new(Code::DATA, "bad")),
        };
        let key = ["a\nb".to_owned()];
        let mut made = 0;
        let mut get = |key: &[String]| {
            let mut make = || {
                made += 1;
                Ok(b"good\n1234".to_vec())
            };
            let (value, stage) = cache.get("stage", key, &read, &mut make).expect("made");
            assert_eq!(value, 9);
            stage.cached
        };
        assert!(!get(&key) && get(&key) && !get(&["c".to_owned()]) && get(&key));
        let entry = |content: &dyn Fn(Vec<u8>) -> Vec<u8>| {
            for file in fs::read_dir(dir.path()).expect("readable") {
                let path = file.expect("an entry").path();
                let bytes = fs::read(&path).expect("readable");
                fs::write(&path, content(bytes)).expect("writable");
            }
        };
        entry(&|mut b| {
            let last = b.len() - 1;
            b[last] ^= 1;
            b
        });
        assert!(!get(&key) && get(&key));
        entry(&|b| b[..b.len() / 2].to_vec());
        assert!(!get(&key) && get(&key));
        entry(&|_| Vec::new());
        assert!(!get(&key));
        assert_eq!(made, 5);
        let none = Cache::new(None).expect("nothing to do");
        let stage = none.get("stage", &key, &read, &mut || Ok(b"good\n1234".to_vec())).expect("made").1;
        assert!(!stage.cached);
    }

    #[test]
    fn the_hash_sees_names_and_contents() {
        let dir = tempfile::tempdir().expect("a folder");
        let hash = || content_hash(dir.path()).expect("readable");
        fs::write(dir.path().join("a"), "1").expect("writable");
        let one = hash();
        assert_eq!(one, hash());
        fs::write(dir.path().join("a"), "2").expect("writable");
        assert_ne!(one, hash());
        fs::rename(dir.path().join("a"), dir.path().join("b")).expect("writable");
        assert_ne!(one, hash());
        assert!(content_hash(&dir.path().join("missing")).is_err());
    }
}
