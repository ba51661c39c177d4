//! The error of this crate: what is wrong, and at which node.
use std::fmt;

/// Shorthand for results of this crate.
pub type Result<T, E = IrError> = std::result::Result<T, E>;

/// A rule of the IR that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IrError {
    /// Name of the node (or `line N` of a text file) where the rule is broken, when known.
    pub location: Option<String>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl IrError {
    /// An error without a location; [`IrError::at`] adds it where it is known.
    pub fn new(message: impl Into<String>) -> Self {
        Self { location: None, message: message.into() }
    }

    /// Adds the location unless a more precise one is already there.
    #[must_use]
    pub fn at(mut self, location: impl Into<String>) -> Self {
        self.location.get_or_insert_with(|| location.into());
        self
    }
}

impl fmt::Display for IrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.location {
            Some(at) => write!(f, "{at}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for IrError {}

/// Returns an [`IrError`] built from a format string.
#[macro_export]
macro_rules! bail {
    ($($arg:tt)*) => { return Err($crate::IrError::new(format!($($arg)*))) };
}

/// Returns an [`IrError`] unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($cond:expr, $($arg:tt)*) => { if !$cond { $crate::bail!($($arg)*) } };
}
