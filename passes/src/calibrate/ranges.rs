//! The result of calibration.
use super::moments::Moment;
use std::collections::BTreeMap;

/// The range of real values that each tensor's quantizer must cover.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ranges {
    /// (minimum, maximum) by name of the node that makes the value.
    pub map: BTreeMap<String, (f32, f32)>,
    /// Moments of every channel of the tensors that layers read, by name. They decide the scales of narrow weights and
    /// correct biases, so whoever stores ranges stores them too; without them both are skipped.
    pub moments: BTreeMap<String, Vec<Moment>>,
}

impl Ranges {
    /// The range of the value made by the node of that name.
    pub fn get(&self, name: &str) -> Option<(f32, f32)> {
        self.map.get(name).copied()
    }
}
