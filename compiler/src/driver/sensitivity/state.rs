//! What an unfinished run has to remember.
use goshawk_passes::sensitivity::sums::Traces;
use std::collections::{BTreeMap, BTreeSet};

/// Progress of a run; the finished parts of the result are in the profile beside it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Stages that are done, by name.
    pub done: BTreeSet<String>,
    /// Running sums of the trace estimators, by name.
    pub traces: BTreeMap<String, Traces>,
}
