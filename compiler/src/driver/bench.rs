//! Latency of compiled libraries, measured in interleaved rounds so that drift hits all of them alike.
use super::progress::{self, Progress};
use crate::{Code, Error, Result};
use goshawk_runtime::{Library, Session, latency};
use serde::Serialize;
use std::time::Duration;

/// Latency of one library in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// What was measured, as the caller calls it.
    pub name: String,
    /// Instruction sets that it was compiled for.
    pub isa: String,
    /// Measured runs.
    pub runs: usize,
    /// Fastest run.
    pub min_us: f64,
    /// Median.
    pub median_us: f64,
    /// Average.
    pub mean_us: f64,
    /// 95 of 100 runs are at most this slow.
    pub p95_us: f64,
    /// 99 of 100 runs are at most this slow.
    pub p99_us: f64,
    /// Arena in bytes.
    pub arena_bytes: usize,
}

/// Measures the integer entry points on the same kind of input: bytes from a fixed generator, within the values that
/// each input may hold.
///
/// # Errors
/// [`Code::RUN`] where a library refuses to run, [`Code::INTERRUPTED`].
pub fn measure(
    libraries: &[(String, Library)],
    options: latency::Options,
    progress: &dyn Progress,
) -> Result<Vec<Latency>> {
    let mut candidates: Vec<Candidate<'_>> = libraries.iter().map(|(_, l)| Candidate::new(l)).collect();
    progress.begin("measuring", options.warm_up + options.runs.max(1));
    let mut samples: Vec<Vec<Duration>> = vec![Vec::new(); candidates.len()];
    // Rounds in small groups, so that the user can stop and see the progress between them.
    let mut left = options.runs.max(1);
    let mut warm_up = options.warm_up;
    while left > 0 {
        progress::check(progress)?;
        let runs = left.min(10);
        let group = latency::Options { warm_up, runs };
        let mut runners: Vec<_> = candidates.iter_mut().map(|c| || c.run()).collect();
        let mut runners: Vec<&mut dyn FnMut() -> Result<()>> =
            runners.iter_mut().map(|r| r as &mut dyn FnMut() -> Result<()>).collect();
        let times = latency::sample(group, &mut runners)?;
        samples.iter_mut().zip(times).for_each(|(all, new)| all.extend(new));
        (0..warm_up + runs).for_each(|_| progress.step());
        (left, warm_up) = (left - runs, 0);
    }
    progress.end();
    let micros = |d: Duration| d.as_secs_f64() * 1e6;
    let report = |((name, library), samples): (&(String, Library), &Vec<Duration>)| {
        let s = latency::Summary::of(samples)?;
        Some(Latency {
            name: name.clone(),
            isa: library.info().isa.clone(),
            runs: s.runs,
            min_us: micros(s.min),
            median_us: micros(s.median),
            mean_us: micros(s.mean),
            p95_us: micros(s.p95),
            p99_us: micros(s.p99),
            arena_bytes: library.info().arena_bytes,
        })
    };
    Ok(libraries.iter().zip(&samples).filter_map(report).collect())
}

/// A library with everything that a run needs.
struct Candidate<'l> {
    session: Session<'l>,
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
}

impl<'l> Candidate<'l> {
    fn new(library: &'l Library) -> Self {
        let info = library.info();
        let inputs =
            info.inputs.iter().map(|t| noise(t.bytes(), ((1u32 << t.bits.min(8)) - 1) as u8)).collect();
        let outputs = info.outputs.iter().map(|t| vec![0; t.bytes()]).collect();
        Self { session: library.session(), inputs, outputs }
    }

    fn run(&mut self) -> Result<()> {
        let inputs: Vec<&[u8]> = self.inputs.iter().map(Vec::as_slice).collect();
        let mut outputs: Vec<&mut [u8]> = self.outputs.iter_mut().map(Vec::as_mut_slice).collect();
        self.session.run(&inputs, &mut outputs).map_err(|e| Error::new(Code::RUN, e.to_string()))
    }
}

/// Bytes of Marsaglia's xorshift32, masked to the values that an activation may hold.
fn noise(count: usize, mask: u8) -> Vec<u8> {
    let mut state = 0x9e37_79b9u32;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 24) as u8 & mask
        })
        .collect()
}
