//! Accuracy on a labelled set: top-1 and top-5 of several engines over the same samples.
use super::{engine::Engine, parallel, progress::Progress};
use crate::{Code, Error, Result, data::Dataset};
use goshawk_ir::Tensor;
use serde::Serialize;

/// Accuracy of one engine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Accuracy {
    /// What was run, as the caller calls it.
    pub name: String,
    /// Rows with a label.
    pub rows: usize,
    /// Rows whose label has the highest score.
    pub top1: usize,
    /// Rows whose label is among the five highest scores.
    pub top5: usize,
    /// Rows on which this engine and the first one have the same highest score.
    pub agree: usize,
    /// Samples whose outputs are the same bytes as those of the engine before: the test of the promise that native code
    /// and the integer interpreter agree.
    pub same_as_previous: usize,
    /// Samples.
    pub samples: usize,
}

impl Accuracy {
    /// Top-1 in percent.
    pub fn top1_percent(&self) -> f64 {
        100.0 * self.top1 as f64 / self.rows.max(1) as f64
    }

    /// Top-5 in percent.
    pub fn top5_percent(&self) -> f64 {
        100.0 * self.top5 as f64 / self.rows.max(1) as f64
    }

    fn new(name: &str) -> Self {
        Self { name: name.into(), rows: 0, top1: 0, top5: 0, agree: 0, same_as_previous: 0, samples: 0 }
    }

    fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.top1 += other.top1;
        self.top5 += other.top5;
        self.agree += other.agree;
        self.same_as_previous += other.same_as_previous;
        self.samples += other.samples;
    }
}

/// Runs every engine on every sample. The scores are the first output of the network.
///
/// # Errors
/// [`Code::DATA`]: no labels, unreadable samples, labels that the network has no score for.
pub fn evaluate(
    engines: &[(String, Engine<'_>)],
    data: &Dataset,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Vec<Accuracy>> {
    let new = || engines.iter().map(|(name, _)| Accuracy::new(name)).collect::<Vec<_>>();
    data.labels(0)?;
    progress.begin("evaluating", data.len());
    let shards = parallel::shards(data.len(), threads, progress, new, |totals, sample| {
        let (labels, inputs) = (data.labels(sample)?, data.sample(sample)?);
        let mut first: Vec<usize> = Vec::new();
        let mut previous: Option<Vec<Tensor>> = None;
        for ((_, engine), total) in engines.iter().zip(totals.iter_mut()) {
            let outputs = engine.run(&inputs)?;
            let winners = score(&outputs, labels, total)?;
            if first.is_empty() {
                first.clone_from(&winners);
            }
            total.samples += 1;
            total.agree += winners.iter().zip(&first).filter(|(a, b)| a == b).count();
            total.same_as_previous += usize::from(previous.is_some_and(|p| same_bytes(&p, &outputs)));
            previous = Some(outputs);
        }
        Ok(())
    });
    progress.end();
    let mut totals = new();
    for shard in shards? {
        totals.iter_mut().zip(&shard).for_each(|(t, s)| t.add(s));
    }
    Ok(totals)
}

/// Adds the rows of a sample to the total; the winning class of each row.
fn score(outputs: &[Tensor], labels: &[u32], total: &mut Accuracy) -> Result<Vec<usize>> {
    let scores = match outputs.first() {
        Some(t) => t.as_f32().map_err(|e| Error::internal(&e))?,
        None => return Err(Error::new(Code::DATA, "the network has no output")),
    };
    let classes = scores.len() / labels.len().max(1);
    if classes == 0 || classes * labels.len() != scores.len() {
        return Err(Error::new(
            Code::DATA,
            format!("{} labels do not fit an output of {} values", labels.len(), scores.len()),
        )
        .help("top-1 needs a network whose first output has one score for each class"));
    }
    let mut winners = Vec::new();
    for (row, label) in scores.chunks(classes).zip(labels) {
        let label = *label as usize;
        let Some(rank) = rank(row, label) else {
            return Err(Error::new(
                Code::DATA,
                format!("label {label}, but the network has {classes} classes"),
            )
            .help("classes are counted from 0"));
        };
        total.rows += 1;
        total.top1 += usize::from(rank == 0);
        total.top5 += usize::from(rank < 5);
        winners.push(winner(row));
    }
    Ok(winners)
}

/// The class with the highest score, the first of equal ones.
fn winner(scores: &[f32]) -> usize {
    let mut best = 0;
    for (class, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = class;
        }
    }
    best
}

/// How many classes come before `class`; of equal scores the first class wins, as in `numpy.argmax`.
fn rank(scores: &[f32], class: usize) -> Option<usize> {
    let own = *scores.get(class)?;
    Some(scores.iter().enumerate().filter(|(i, s)| **s > own || **s == own && *i < class).count())
}

fn same_bytes(a: &[Tensor], b: &[Tensor]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bytes() == b.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use goshawk_ir::Shape;

    #[test]
    fn ranks_and_ties() {
        let scores = [0.5, 2.0, 2.0, -1.0];
        let ranks: Vec<_> = (0..5).map(|c| rank(&scores, c)).collect();
        assert_eq!(ranks, [Some(2), Some(0), Some(1), Some(3), None]);
    }

    #[test]
    fn rows_are_counted() {
        let shape = Shape::new([2, 6]).expect("shape");
        let t =
            Tensor::from_f32(shape, vec![9., 1., 2., 3., 4., 5., 0., 1., 2., 3., 4., 5.]).expect("tensor");
        let mut total = Accuracy::new("x");
        assert_eq!(score(std::slice::from_ref(&t), &[0, 0], &mut total).expect("scores"), [0, 5]);
        assert_eq!((total.rows, total.top1, total.top5), (2, 1, 1));
        assert!(
            score(std::slice::from_ref(&t), &[6, 0], &mut total).is_err_and(|e| e.what.contains("6 classes"))
        );
        assert!(score(&[t], &[0; 5], &mut total).is_err());
    }
}
