//! Running sums of random probes over batches of data, such that a run can stop after any batch and go on later with the
//! same result.
//!
//! Work comes in *blocks*: every block probes every batch several times with fresh probes. From one batch come the mean of
//! its probes and the variance of that mean; with the batch's share w of the data, Σ w·mean estimates the quantity on all
//! of the data and Σ w²·variance is the variance of that. Batches are strata: what distinguishes them is not noise.
use super::estimate::{Estimate, Moments};
use goshawk_ir::{Result, ensure};

/// A mean and the variance of that mean.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cell {
    /// Mean.
    pub mean: f64,
    /// Variance of the mean.
    pub variance: f64,
}

impl Cell {
    fn add(&mut self, share: f64, other: Self) {
        self.mean += share * other.mean;
        self.variance += share * share * other.variance;
    }
}

/// Sums for one tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sums {
    /// The trace of the whole block.
    pub total: Cell,
    /// The traces of its channels.
    pub channels: Vec<Cell>,
    /// Moments of the traces of single samples, where the estimator knows them.
    pub samples: Moments,
}

impl Sums {
    fn sized(channels: usize) -> Self {
        Self { channels: vec![Cell::default(); channels], ..Self::default() }
    }

    fn add(&mut self, share: f64, other: &Self) {
        self.total.add(share, other.total);
        self.channels.iter_mut().zip(&other.channels).for_each(|(a, b)| a.add(share, *b));
        self.samples.merge(other.samples);
    }
}

/// The probes of one batch: for each tensor, for each round, the trace of every channel.
#[derive(Clone, Debug, Default)]
pub struct Draws {
    /// By tensor, round and channel; a tensor without rounds was not probed.
    pub channels: Vec<Vec<Vec<f64>>>,
    /// By tensor and sample: mean over rounds; empty where unknown.
    pub samples: Vec<Vec<f64>>,
}

impl Draws {
    /// No draws yet of so many tensors.
    pub fn new(tensors: usize) -> Self {
        Self { channels: vec![Vec::new(); tensors], samples: vec![Vec::new(); tensors] }
    }

    /// Takes in one round of one tensor; `samples` may be empty.
    pub fn push(&mut self, tensor: usize, channels: Vec<f64>, samples: &[f64]) {
        let rounds = self.channels[tensor].len() as f64;
        let own = &mut self.samples[tensor];
        own.resize(samples.len(), 0.0);
        own.iter_mut().zip(samples).for_each(|(mean, x)| *mean += (x - *mean) / (rounds + 1.0));
        self.channels[tensor].push(channels);
    }

    /// Mean and variance of the mean of every tensor.
    fn summary(&self) -> Vec<Sums> {
        let of = |rounds: &[Vec<f64>], samples: &[f64]| {
            let cell = |values: &mut dyn Iterator<Item = f64>| {
                let mut m = Moments::default();
                values.for_each(|v| m.add(v));
                let n = m.count as f64;
                let variance = if m.count < 2 { 0.0 } else { m.m2 / (n - 1.0) / n };
                Cell { mean: m.mean, variance }
            };
            let mut moments = Moments::default();
            samples.iter().for_each(|v| moments.add(*v));
            let channels = rounds.first().map_or(0, Vec::len);
            Sums {
                total: cell(&mut rounds.iter().map(|r| r.iter().sum())),
                channels: (0..channels).map(|c| cell(&mut rounds.iter().map(|r| r[c]))).collect(),
                samples: moments,
            }
        };
        self.channels.iter().zip(&self.samples).map(|(rounds, samples)| of(rounds, samples)).collect()
    }
}

/// One estimator's progress through the data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traces {
    /// Finished blocks of each tensor. Tensors that are good enough are not probed further where that saves time.
    pub blocks: Vec<u64>,
    /// The block at work.
    pub block: u64,
    /// Batches of it that are done.
    pub batches: u64,
    /// Sums over finished blocks.
    pub finished: Vec<Sums>,
    /// Sums over the batches of the block at work.
    pub current: Vec<Sums>,
    /// Rounds of a block; 0 for an exact computation.
    pub rounds: u64,
}

impl Traces {
    /// For tensors with these numbers of channels.
    pub fn new(channels: &[usize], rounds: u64) -> Self {
        let sums: Vec<Sums> = channels.iter().map(|c| Sums::sized(*c)).collect();
        let blocks = vec![0; channels.len()];
        Self { blocks, block: 0, batches: 0, finished: sums.clone(), current: sums, rounds }
    }

    /// Takes in the probes of the next batch, whose share of the data is `share`.
    ///
    /// # Errors
    /// The draws are of other tensors.
    pub fn add(&mut self, draws: &Draws, share: f64) -> Result<()> {
        ensure!(draws.channels.len() == self.current.len(), "draws of other tensors");
        for (sums, new) in self.current.iter_mut().zip(&draws.summary()) {
            ensure!(
                new.channels.is_empty() || new.channels.len() == sums.channels.len(),
                "draws with another number of channels"
            );
            sums.add(share, new);
        }
        self.batches += 1;
        Ok(())
    }

    /// Ends the block at work; `probed` says which tensors it was about.
    pub fn end_block(&mut self, probed: &dyn Fn(usize) -> bool) {
        for i in 0..self.current.len() {
            let sized = Sums::sized(self.current[i].channels.len());
            let current = std::mem::replace(&mut self.current[i], sized);
            if probed(i) {
                self.finished[i].add(1.0, &current);
                self.blocks[i] += 1;
            }
        }
        self.block += 1;
        self.batches = 0;
    }

    /// The trace of a tensor; `None` before the first block.
    pub fn total(&self, tensor: usize) -> Option<Estimate> {
        self.estimate(tensor, self.finished.get(tensor)?.total)
    }

    /// The traces of its channels.
    pub fn channels(&self, tensor: usize) -> Vec<Estimate> {
        let cells = self.finished.get(tensor).map(|s| &s.channels[..]).unwrap_or_default();
        cells.iter().filter_map(|c| self.estimate(tensor, *c)).collect()
    }

    /// Relative error of the trace that another choice of as many samples would make; it contains the probes' error.
    pub fn data_error(&self, tensor: usize) -> Option<f64> {
        let m = self.finished.get(tensor)?.samples;
        let blocks = self.blocks.get(tensor).copied().unwrap_or(0).max(1);
        // The same samples come again in every block: they count once.
        let n = (m.count / blocks) as f64;
        (n > 1.0 && m.mean != 0.0).then(|| (m.m2 / (m.count as f64 - 1.0) / n).sqrt() / m.mean.abs())
    }

    /// Largest relative standard error over tensors; infinite before the first block. A trace of exactly 0 is exact.
    pub fn worst(&self) -> f64 {
        let error = |i: usize| self.total(i).map_or(f64::INFINITY, Estimate::relative_error);
        (0..self.finished.len()).map(error).fold(0.0, f64::max)
    }

    fn estimate(&self, tensor: usize, cell: Cell) -> Option<Estimate> {
        let blocks = *self.blocks.get(tensor).filter(|b| **b > 0)?;
        let n = blocks as f64;
        Some(Estimate {
            mean: cell.mean / n,
            std_error: cell.variance.sqrt() / n,
            samples: blocks * self.rounds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deterministic noise in −1..1.
    fn noise(i: u64) -> f64 {
        (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    fn run(blocks: u64, stop_at: Option<(u64, u64)>) -> (Traces, bool) {
        let mut t = Traces::new(&[2], 4);
        for block in 0..blocks {
            for batch in 0..3 {
                if stop_at == Some((block, batch)) {
                    return (t, false);
                }
                step(&mut t, block, batch);
            }
            t.end_block(&|_| true);
        }
        (t, true)
    }

    fn step(t: &mut Traces, block: u64, batch: u64) {
        let mut d = Draws::new(1);
        for round in 0..4 {
            let at = ((block * 3 + batch) * 4 + round) * 2;
            let base = 10.0 * batch as f64;
            d.push(0, vec![base + noise(at), 1.0 + noise(at + 1)], &[base, base + 1.0]);
        }
        t.add(&d, 1.0 / 3.0).expect("fits");
    }

    #[test]
    fn the_error_is_that_of_the_probes() {
        let (t, _) = run(50, None);
        let e = t.total(0).expect("blocks");
        // Uniform noise in −1..1 has variance 1/3; two channels; 600 draws.
        let want = (2.0 / 3.0 / 600.0f64).sqrt();
        assert!((e.std_error / want - 1.0).abs() < 0.15, "{} {want}", e.std_error);
        assert!((e.mean - 11.0).abs() < 3.0 * want && e.samples == 200);
        let c = t.channels(0);
        assert!((c[0].mean - 10.0).abs() < 4.0 * c[0].std_error);
        assert!(t.worst() < 0.01);
        assert!(t.data_error(0).expect("samples") > 0.2, "batches differ by 10");
    }

    #[test]
    fn stopping_and_going_on_gives_the_same_bits() {
        let (whole, _) = run(3, None);
        for at in [(0, 1), (1, 0), (2, 2)] {
            let (mut t, done) = run(3, Some(at));
            assert!(!done);
            let mut block = at.0;
            while block < 3 {
                for batch in t.batches..3 {
                    step(&mut t, block, batch);
                }
                t.end_block(&|_| true);
                block += 1;
            }
            assert_eq!(t, whole);
        }
    }

    #[test]
    fn nothing_is_known_before_the_first_block() {
        let mut t = Traces::new(&[2, 1], 4);
        assert_eq!((t.total(0), t.worst()), (None, f64::INFINITY));
        let mut d = Draws::new(2);
        d.push(0, vec![0.0, 0.0], &[]);
        t.add(&d, 1.0).expect("fits");
        t.end_block(&|i| i == 0);
        assert_eq!((t.total(0).map(|e| e.mean), t.total(1)), (Some(0.0), None));
        assert!(t.add(&Draws::new(1), 1.0).is_err());
    }
}
