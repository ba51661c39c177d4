//! Runs a library again and again on the same bytes, with as little around the call as possible.
use crate::{
    Code, Error, Result,
    driver::progress::{self, Progress},
};
use goshawk_runtime::{Library, Session, latency};
use std::time::{Duration, Instant};

/// A library with everything that a run needs.
pub(crate) struct Runner<'l> {
    session: Session<'l>,
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
}

impl<'l> Runner<'l> {
    pub(crate) fn new(library: &'l Library) -> Self {
        let info = library.info();
        // Values that differ, within what the input may hold: 8 bits at most matter for the choice of branches.
        let fill = |bytes: usize, mask: u8| (0..bytes).map(|i| (i as u8).wrapping_mul(89) & mask).collect();
        let inputs =
            info.inputs.iter().map(|t| fill(t.bytes(), ((1u32 << t.bits.min(8)) - 1) as u8)).collect();
        let outputs = info.outputs.iter().map(|t| vec![0; t.bytes()]).collect();
        Self { session: library.session(), inputs, outputs }
    }

    pub(crate) fn run(&mut self) -> Result<()> {
        let inputs: Vec<&[u8]> = self.inputs.iter().map(Vec::as_slice).collect();
        let mut outputs: Vec<&mut [u8]> = self.outputs.iter_mut().map(Vec::as_mut_slice).collect();
        self.session.run(&inputs, &mut outputs).map_err(|e| Error::new(Code::RUN, e.to_string()))
    }
}

/// Times of each runner in interleaved rounds, in reverse order every other round. Before each timed run `before` is
/// called with the runner and the number of the round.
///
/// # Errors
/// The first error of a run.
pub(crate) fn sample(
    runners: &mut [Runner<'_>],
    rounds: usize,
    before: &mut dyn FnMut(&mut Runner<'_>, usize) -> Result<()>,
) -> Result<Vec<Vec<Duration>>> {
    let mut samples = vec![Vec::with_capacity(rounds); runners.len()];
    for round in 0..rounds {
        for i in 0..runners.len() {
            let i = if round % 2 == 0 { i } else { runners.len() - 1 - i };
            before(&mut runners[i], round)?;
            let start = Instant::now();
            runners[i].run()?;
            samples[i].push(start.elapsed());
        }
    }
    Ok(samples)
}

/// Median in microseconds.
pub(crate) fn median(times: &[Duration]) -> f64 {
    latency::Summary::of(times).map_or(0.0, |s| s.median.as_secs_f64() * 1e6)
}

/// Passes over everything that is measured. A neighbour on the same core or host slows a processor down by a factor for
/// seconds at a time, and not all passes alike.
pub(crate) const PASSES: usize = 8;

/// Undisturbed times, one pass at a time: the smallest of the passes' medians.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quiet(Vec<f64>);

impl Quiet {
    /// Adds a pass; `samples` holds the times of each runner.
    pub(crate) fn add(&mut self, samples: &[Vec<Duration>]) {
        self.0.resize(samples.len(), f64::INFINITY);
        for (best, times) in self.0.iter_mut().zip(samples) {
            *best = best.min(median(times));
        }
    }

    /// Microseconds of each runner.
    pub(crate) fn microseconds(&self) -> &[f64] {
        &self.0
    }
}

/// Latency of each library in microseconds ([`Quiet`]), in interleaved rounds; each timed run follows one of the same
/// library, so that its weights are where they are in a loop over images.
///
/// # Errors
/// [`Code::RUN`] where a library refuses to run, [`Code::INTERRUPTED`].
pub(crate) fn latencies(libraries: &[Library], runs: usize, progress: &dyn Progress) -> Result<Vec<f64>> {
    let mut runners: Vec<Runner<'_>> = libraries.iter().map(Runner::new).collect();
    let mut quiet = Quiet::default();
    progress.begin("measuring", PASSES);
    for _ in 0..PASSES {
        progress::check(progress)?;
        quiet.add(&sample(&mut runners, runs.div_ceil(PASSES).max(3), &mut |runner, _| runner.run())?);
        progress.step();
    }
    progress.end();
    Ok(quiet.microseconds().to_vec())
}
