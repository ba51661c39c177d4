//! Latency measurement: warm-up, many runs, order statistics; candidates compared in interleaved rounds.
//!
//! Interleaving gives every candidate the same share of frequency changes and noisy neighbours, so that their ratio is
//! meaningful where absolute times drift; the order is reversed in every other round, so that no candidate always
//! follows the same one.
use std::time::{Duration, Instant};

/// How long to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Unmeasured runs of each candidate, to fill caches and raise the clock.
    pub warm_up: usize,
    /// Measured runs of each candidate, at least 1.
    pub runs: usize,
    /// Runs in a row before the next candidate's turn; above 1, one more goes before them unmeasured, so that a
    /// candidate finds its weights where its last run left them and not where another candidate's put them.
    pub burst: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { warm_up: 10, runs: 100, burst: 1 }
    }
}

/// Order statistics of a latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Measured runs.
    pub runs: usize,
    /// Fastest run: the least disturbed one.
    pub min: Duration,
    /// Half of the runs are at most this slow.
    pub median: Duration,
    /// Average.
    pub mean: Duration,
    /// 95 of 100 runs are at most this slow.
    pub p95: Duration,
    /// 99 of 100 runs are at most this slow.
    pub p99: Duration,
    /// Slowest run.
    pub max: Duration,
}

impl Summary {
    /// Statistics of the samples; `None` if there are none. Percentiles are by nearest rank.
    pub fn of(samples: &[Duration]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable();
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let rank = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1];
        let total: u128 = sorted.iter().map(Duration::as_nanos).sum();
        let mean = Duration::from_nanos((total / sorted.len() as u128) as u64);
        Some(Self { runs: sorted.len(), min, median: rank(50), mean, p95: rank(95), p99: rank(99), max })
    }
}

/// Measures one closure.
///
/// # Errors
/// The closure's first error.
pub fn measure<E>(options: Options, mut run: impl FnMut() -> Result<(), E>) -> Result<Summary, E> {
    let summaries = compare(options, &mut [&mut run])?;
    Ok(summaries[0])
}

/// Measures several closures in interleaved rounds; summaries in their order.
///
/// # Errors
/// The first error of a closure.
pub fn compare<E>(
    options: Options,
    candidates: &mut [&mut dyn FnMut() -> Result<(), E>],
) -> Result<Vec<Summary>, E> {
    Ok(sample(options, candidates)?.iter().filter_map(|s| Summary::of(s)).collect())
}

/// As [`compare`], the single times: callers that measure in several portions put them together before [`Summary::of`].
///
/// # Errors
/// The first error of a closure.
pub fn sample<E>(
    options: Options,
    candidates: &mut [&mut dyn FnMut() -> Result<(), E>],
) -> Result<Vec<Vec<Duration>>, E> {
    for run in candidates.iter_mut() {
        for _ in 0..options.warm_up {
            run()?;
        }
    }
    let (runs, burst) = (options.runs.max(1), options.burst.max(1));
    let mut samples = vec![Vec::with_capacity(runs); candidates.len()];
    for round in 0..runs.div_ceil(burst) {
        for i in 0..candidates.len() {
            let i = if round % 2 == 0 { i } else { candidates.len() - 1 - i };
            if burst > 1 {
                candidates[i]()?;
            }
            for _ in 0..burst.min(runs - round * burst) {
                let start = Instant::now();
                candidates[i]()?;
                samples[i].push(start.elapsed());
            }
        }
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let samples: Vec<_> = (1..=200).rev().map(Duration::from_micros).collect();
        let s = Summary::of(&samples).expect("there are samples");
        let micros = |n| Duration::from_micros(n);
        assert_eq!(
            (s.min, s.median, s.p95, s.p99, s.max),
            (micros(1), micros(100), micros(190), micros(198), micros(200))
        );
        assert_eq!(s.mean, Duration::from_nanos(100_500));
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn rounds_interleave_and_alternate() {
        let log = std::cell::RefCell::new(String::new());
        let mut a = || -> Result<(), ()> {
            log.borrow_mut().push('a');
            Ok(())
        };
        let mut b = || -> Result<(), ()> {
            log.borrow_mut().push('b');
            Ok(())
        };
        let summaries =
            compare(Options { warm_up: 1, runs: 3, burst: 1 }, &mut [&mut a, &mut b]).expect("no errors");
        assert_eq!(summaries.len(), 2);
        assert_eq!(log.into_inner(), "ababbaab");
        let log = std::cell::RefCell::new(String::new());
        let run = |name| {
            let log = &log;
            move || -> Result<(), ()> {
                log.borrow_mut().push(name);
                Ok(())
            }
        };
        let (mut a, mut b) = (run('a'), run('b'));
        let samples =
            sample(Options { warm_up: 0, runs: 3, burst: 2 }, &mut [&mut a, &mut b]).expect("no errors");
        assert_eq!(samples.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3]);
        assert_eq!(log.into_inner(), "aaabbbbbaa", "one more at the start of each burst");
    }

    #[test]
    fn the_first_error_ends_the_measurement() {
        let mut calls = 0;
        let result = measure(Options { warm_up: 0, runs: 9, burst: 1 }, || {
            calls += 1;
            if calls == 3 { Err("stop") } else { Ok(()) }
        });
        assert_eq!((result, calls), (Err("stop"), 3));
    }
}
