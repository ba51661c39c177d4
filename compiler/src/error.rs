//! The error a user sees: a stable code, what is wrong, where, why, and what to do about it.
use std::{fmt, path::Path};

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Stable code of a class of errors; printed as `E0101` and listed by `goshawk explain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub u16);

/// Codes, grouped by stage: 01xx model file, 02xx operators, 03xx data, 04xx bits and quantization, 05xx code
/// generation, 06xx artefacts and files, 07xx running compiled models, 09xx defects of goshawk itself.
impl Code {
    /// The model file cannot be decoded or breaks a limit.
    pub const MODEL: Self = Self(101);
    /// The graph of the model is not well formed (cycle, undefined or duplicate tensor, wrong shape).
    pub const GRAPH: Self = Self(102);
    /// The model refers to external data that may not be read.
    pub const EXTERNAL_DATA: Self = Self(103);
    /// A dimension is symbolic or unknown.
    pub const SYMBOLIC_DIM: Self = Self(104);
    /// Weights hold NaN or infinity.
    pub const NON_FINITE: Self = Self(105);
    /// Operators that goshawk does not support.
    pub const UNSUPPORTED: Self = Self(201);
    /// Calibration or test data cannot be read or does not fit the model.
    pub const DATA: Self = Self(301);
    /// A bits file is malformed or names layers that the model does not have.
    pub const BITS: Self = Self(401);
    /// The network cannot be quantized as asked (overflow, degenerate range).
    pub const QUANTIZE: Self = Self(402);
    /// The target or its features are unknown or unsupported.
    pub const TARGET: Self = Self(501);
    /// A file cannot be read or written.
    pub const FILE: Self = Self(601);
    /// The system linker is missing or failed.
    pub const LINKER: Self = Self(602);
    /// A compiled library cannot be loaded or refused to run.
    pub const RUN: Self = Self(701);
    /// The user stopped the command.
    pub const INTERRUPTED: Self = Self(702);
    /// A defect of goshawk.
    pub const INTERNAL: Self = Self(901);
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "E{:04}", self.0)
    }
}

/// An error with everything a user needs to act on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Class of the error.
    pub code: Code,
    /// What is wrong.
    pub what: String,
    /// Where: file, ONNX node and tensor, line.
    pub place: Option<String>,
    /// Why it is wrong.
    pub reason: Option<String>,
    /// What to do.
    pub remedy: Option<String>,
}

impl Error {
    /// An error that says what is wrong; add the rest with the other methods.
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), place: None, reason: None, remedy: None }
    }

    /// Says where, unless a more precise place is already known.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place.get_or_insert_with(|| place.into());
        self
    }

    /// Puts the name of a file before the place.
    #[must_use]
    pub fn in_file(mut self, path: &Path) -> Self {
        let file = path.display();
        self.place = Some(self.place.map_or_else(|| file.to_string(), |place| format!("{file}: {place}")));
        self
    }

    /// Says why.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn help(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// A file that cannot be read or written.
    pub fn file(path: &Path, doing: &str, source: &std::io::Error) -> Self {
        Self::new(Code::FILE, format!("cannot {doing} {}", path.display())).because(source.to_string())
    }

    /// A rule of the IR that does not hold where a user cannot have caused it: a defect of goshawk.
    pub fn internal(source: &goshawk_ir::IrError) -> Self {
        Self::new(Code::INTERNAL, source.to_string())
            .help("this is a defect of goshawk: please report it with the model and the command")
    }

    /// A rule of the IR that the user's input breaks.
    pub fn from_ir(code: Code, source: goshawk_ir::IrError) -> Self {
        let error = Self::new(code, source.message);
        match source.location {
            Some(place) => error.at(place),
            None => error,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.what)?;
        for (label, text) in [("at", &self.place), ("because", &self.reason), ("help", &self.remedy)] {
            if let Some(text) = text {
                write!(f, "\n  {label}: {text}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
