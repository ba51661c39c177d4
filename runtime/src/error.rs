//! Errors of loading and running compiled libraries.
use crate::abi;
use std::{fmt, path::PathBuf};

/// A library that cannot be loaded.
#[derive(Debug)]
pub enum LoadError {
    /// The file cannot be read.
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not a 64-bit little-endian ELF shared object.
    NotALibrary {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No `<prefix>_run`, `<prefix>_run_f32`, `<prefix>_info` triple is exported.
    NoModel(PathBuf),
    /// Several networks are exported; the caller must name one.
    SeveralModels {
        /// The file.
        path: PathBuf,
        /// C prefixes of the networks.
        prefixes: Vec<String>,
    },
    /// The system loader refused the library or lacks a symbol.
    Loader {
        /// The file.
        path: PathBuf,
        /// What the loader says.
        source: libloading::Error,
    },
    /// The library was compiled for another version of the C ABI.
    AbiVersion {
        /// Version of the library.
        found: u32,
    },
    /// The library's description of itself makes no sense.
    BadInfo(String),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } => write!(f, "cannot read {}: {source}", path.display()),
            Self::NotALibrary { path, reason } => {
                write!(f, "{} is not a shared library: {reason}", path.display())
            }
            Self::NoModel(path) => {
                write!(f, "{} was not compiled by goshawk: no model in it", path.display())
            }
            Self::SeveralModels { path, prefixes } => {
                write!(f, "{} holds several models, name one of: {}", path.display(), prefixes.join(", "))
            }
            Self::Loader { path, source } => write!(f, "cannot load {}: {source}", path.display()),
            Self::AbiVersion { found } => write!(
                f,
                "the library has version {found} of the interface, this program needs {}: compile the model again",
                abi::ABI_VERSION
            ),
            Self::BadInfo(what) => write!(f, "the library describes itself wrongly: {what}"),
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            Self::Loader { source, .. } => Some(source),
            Self::NotALibrary { .. }
            | Self::NoModel(_)
            | Self::SeveralModels { .. }
            | Self::AbiVersion { .. }
            | Self::BadInfo(_) => None,
        }
    }
}

/// A run that was refused. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunError {
    /// Another number of inputs or outputs than the network has.
    Count {
        /// `"inputs"` or `"outputs"`.
        what: &'static str,
        /// Number that the network has.
        expected: usize,
        /// Number given.
        found: usize,
    },
    /// A buffer of another size than the tensor has.
    Size {
        /// Name of the tensor.
        tensor: String,
        /// `"bytes"` or `"values"`.
        unit: &'static str,
        /// Size of the tensor.
        expected: usize,
        /// Size of the buffer.
        found: usize,
    },
    /// A buffer that is not aligned to the tensor's element type.
    Alignment {
        /// Name of the tensor.
        tensor: String,
        /// Alignment that is needed, in bytes.
        align: usize,
    },
    /// The CPU runs none of the levels of instruction sets that the library has code for.
    Isa(
        /// Triple and instruction sets of the library.
        String,
    ),
    /// The threads that were asked for cannot be had.
    Threads(
        /// What the system says.
        String,
    ),
    /// The library returned another error code.
    Code(i32),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count { what, expected, found } => {
                write!(f, "the model has {expected} {what}, got {found}")
            }
            Self::Size { tensor, unit, expected, found } => {
                write!(f, "tensor {tensor} has {expected} {unit}, the buffer has {found}")
            }
            Self::Alignment { tensor, align } => {
                write!(f, "the buffer of tensor {tensor} must be aligned to {align} bytes")
            }
            Self::Isa(isa) => write!(
                f,
                "this CPU lacks instructions that the library uses ({isa}): compile the model with another --target-cpu"
            ),
            Self::Threads(why) => write!(f, "cannot start threads: {why}"),
            Self::Code(code) => write!(f, "the library returned error {code}"),
        }
    }
}

impl std::error::Error for RunError {}
