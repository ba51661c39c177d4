//! The samples of a run, in memory: every estimator passes over them many times.
use super::settings::Loss;
use crate::{
    Code, Error, Result,
    data::Dataset,
    driver::{parallel, profile, progress::Progress},
};
use goshawk_ir::Tensor;
use goshawk_passes::{gradient, sensitivity::measure};
use sha2::{Digest, Sha256};
use std::ops::Range;

/// All samples, with what the loss compares with.
pub struct Samples {
    /// For each sample one tensor for each network input.
    pub inputs: Vec<Vec<Tensor>>,
    /// Classes of all rows, sample after sample.
    labels: Option<Vec<usize>>,
    /// Classes of one sample.
    rows: usize,
    targets: Option<Vec<Vec<Tensor>>>,
    loss: Loss,
    /// Hash of all of it.
    pub sha256: String,
}

impl Samples {
    /// Reads everything.
    ///
    /// # Errors
    /// [`Code::DATA`] where a sample cannot be read, or the loss needs labels or targets that are not there.
    pub fn load(
        data: &Dataset,
        targets: Option<&Dataset>,
        loss: Loss,
        threads: usize,
        progress: &dyn Progress,
    ) -> Result<Self> {
        progress.begin("reading", data.len());
        let shards = parallel::shards(data.len(), threads, progress, Vec::new, |list: &mut Vec<_>, i| {
            list.push(data.sample(i)?);
            Ok(())
        });
        progress.end();
        let inputs: Vec<Vec<Tensor>> = shards?.into_iter().flatten().collect();
        let labels = match (loss, data.is_labelled()) {
            // Without labels this names what is missing.
            (Loss::Labels, _) | (_, true) => {
                let mut all = Vec::new();
                for i in 0..data.len() {
                    all.extend(data.labels(i)?.iter().map(|l| *l as usize));
                }
                Some(all)
            }
            _ => None,
        };
        let targets = match (loss, targets) {
            (Loss::Mse, None) => {
                return Err(Error::new(Code::DATA, "the loss `mse` needs targets").help(
                    "give --targets FILE.npz with one array for each network output, or use --loss own-mse",
                ));
            }
            (Loss::Mse, Some(set)) if set.len() != data.len() => {
                return Err(Error::new(
                    Code::DATA,
                    format!("{} targets in {} for {} samples", set.len(), set.origin(), data.len()),
                ));
            }
            (Loss::Mse, Some(set)) => {
                Some((0..set.len()).map(|i| set.sample(i)).collect::<Result<Vec<_>>>()?)
            }
            _ => None,
        };
        let mut hash = Sha256::new();
        for tensor in inputs.iter().chain(targets.iter().flatten()).flatten() {
            hash.update(tensor.to_bytes());
        }
        for label in labels.iter().flatten() {
            hash.update((*label as u64).to_le_bytes());
        }
        let rows = labels.as_ref().map_or(0, |l| l.len() / inputs.len().max(1));
        let sha256 = profile::hex(&hash.finalize());
        Ok(Self { inputs, labels, rows, targets, loss, sha256 })
    }

    /// What the loss compares with, of these samples only; without their inputs.
    pub fn subset(&self, samples: &[usize]) -> Self {
        let labels = self.labels.is_some().then(|| {
            samples.iter().flat_map(|i| self.labels(&(*i..*i + 1)).iter().copied()).collect::<Vec<usize>>()
        });
        let targets = self.targets.as_ref();
        let targets = targets.map(|t| samples.iter().filter_map(|i| t.get(*i).cloned()).collect());
        let (rows, loss) = (self.rows, self.loss);
        Self { inputs: Vec::new(), labels, rows, targets, loss, sha256: String::new() }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.inputs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }

    /// Whether labels are known, whatever the loss.
    pub const fn is_labelled(&self) -> bool {
        self.labels.is_some()
    }

    /// The loss on a range of samples.
    pub fn loss(&self, range: &Range<usize>) -> gradient::Loss<'_> {
        match self.loss {
            Loss::Labels => gradient::Loss::CrossEntropy(self.labels(range)),
            Loss::Own => gradient::Loss::CrossEntropyOwn,
            Loss::Mse => gradient::Loss::SquaredError(
                self.targets.as_deref().and_then(|t| t.get(range.clone())).unwrap_or_default(),
            ),
            Loss::OwnMse => gradient::Loss::SquaredErrorOwn,
        }
    }

    /// The samples' true loss, for Fisher information: labels if there are any.
    pub fn true_loss(&self, range: &Range<usize>) -> gradient::Loss<'_> {
        match self.loss {
            Loss::Own if self.is_labelled() => gradient::Loss::CrossEntropy(self.labels(range)),
            _ => self.loss(range),
        }
    }

    /// Whether the true loss has a gradient.
    pub fn has_true_loss(&self) -> bool {
        match self.loss {
            Loss::Labels | Loss::Mse => true,
            Loss::Own => self.is_labelled(),
            Loss::OwnMse => false,
        }
    }

    /// What one sample's outputs are scored against.
    pub fn target(&self, sample: usize) -> measure::Target<'_> {
        match self.loss {
            Loss::Labels => measure::Target::Labels(self.labels(&(sample..sample + 1))),
            Loss::Own => measure::Target::OwnClasses,
            Loss::Mse => measure::Target::Values(
                self.targets.as_ref().and_then(|t| t.get(sample)).map(Vec::as_slice).unwrap_or_default(),
            ),
            Loss::OwnMse => measure::Target::OwnValues,
        }
    }

    fn labels(&self, range: &Range<usize>) -> &[usize] {
        let labels = self.labels.as_deref().unwrap_or_default();
        labels.get(range.start * self.rows..range.end * self.rows).unwrap_or_default()
    }
}
