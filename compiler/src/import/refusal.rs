//! Why one node cannot be imported. Unlike [`crate::Error`] it is collected: all of a model's problems are reported
//! together.
use crate::{Code, Error};
use goshawk_ir::IrError;

/// Shorthand for results of operator importers.
pub type Result<T> = std::result::Result<T, Refusal>;

/// A reason and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// [`Code::UNSUPPORTED`] where goshawk lacks something, another code where the model is wrong.
    pub code: Code,
    /// The tensor concerned, if it is not simply the node's result.
    pub tensor: Option<String>,
    /// Why.
    pub reason: String,
    /// What to do.
    pub remedy: Option<String>,
}

impl Refusal {
    /// Names the tensor, unless a more precise one is known.
    #[must_use]
    pub fn of(mut self, tensor: impl Into<String>) -> Self {
        self.tensor.get_or_insert_with(|| tensor.into());
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn help(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// goshawk lacks something.
pub fn unsupported(reason: impl Into<String>) -> Refusal {
    Refusal { code: Code::UNSUPPORTED, tensor: None, reason: reason.into(), remedy: None }
}

/// The model is wrong.
pub fn malformed(reason: impl Into<String>) -> Refusal {
    Refusal { code: Code::GRAPH, tensor: None, reason: reason.into(), remedy: None }
}

impl From<IrError> for Refusal {
    /// Shape inference found operands that do not fit.
    fn from(e: IrError) -> Self {
        malformed(e.message)
    }
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        malformed(reason)
    }
}

impl From<Error> for Refusal {
    fn from(e: Error) -> Self {
        let reason = match e.reason {
            Some(why) => format!("{} ({why})", e.what),
            None => e.what,
        };
        let tensor = e.place.map(|p| p.trim_start_matches("initializer ").trim_matches('"').to_owned());
        Self { code: e.code, tensor: tensor.filter(|t| !t.is_empty()), reason, remedy: e.remedy }
    }
}
