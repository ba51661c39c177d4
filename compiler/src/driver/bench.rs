//! Latency of compiled libraries, measured in interleaved rounds so that drift hits all of them alike.
use super::progress::{self, Progress};
use crate::{Code, Error, Result, codegen::probe::Probe};
use goshawk_runtime::{Library, Session, TensorInfo, latency};
use serde::Serialize;
use std::time::{Duration, Instant};

/// A candidate's turn takes at least this long: networks of microseconds run many times in a row, which is also how
/// they are used.
const TURN: Duration = Duration::from_millis(2);
/// Fewest and most runs in a row.
const BURST: (usize, usize) = (4, 200);

/// Entry point of a library.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Entry {
    /// f32 in the layout of the ONNX model, as users call it.
    #[default]
    F32,
    /// Integers, without the conversions at both ends.
    Integer,
}

/// What to measure.
pub struct Variant<'l> {
    /// Name in reports.
    pub name: String,
    /// The code.
    pub library: &'l Library,
    /// Threads that it may use.
    pub threads: usize,
}

/// Latency of one library in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// What was measured, as the caller calls it.
    pub name: String,
    /// Instruction sets that it was compiled for.
    pub isa: String,
    /// Threads.
    pub threads: usize,
    /// Entry point.
    pub entry: Entry,
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

/// Measures all variants on the same kind of input: values from a fixed generator, within what each input may hold.
/// With a probe, the caches are emptied before every run.
///
/// # Errors
/// [`Code::RUN`] where a library refuses to run, [`Code::INTERRUPTED`].
pub fn measure(
    variants: &[Variant<'_>],
    entry: Entry,
    options: latency::Options,
    cold: Option<&Probe>,
    progress: &dyn Progress,
) -> Result<Vec<Latency>> {
    let mut candidates =
        variants.iter().map(|v| Candidate::new(v, entry)).collect::<Result<Vec<Candidate<'_>>>>()?;
    progress.begin("measuring", options.runs.max(1));
    let samples = match cold {
        Some(probe) => sample_cold(&mut candidates, options, probe, progress)?,
        None => sample_warm(&mut candidates, options, progress)?,
    };
    progress.end();
    let micros = |d: Duration| d.as_secs_f64() * 1e6;
    let report = |(variant, samples): (&Variant<'_>, &Vec<Duration>)| {
        let s = latency::Summary::of(samples)?;
        Some(Latency {
            name: variant.name.clone(),
            isa: variant.library.info().isa.clone(),
            threads: variant.threads,
            entry,
            runs: s.runs,
            min_us: micros(s.min),
            median_us: micros(s.median),
            mean_us: micros(s.mean),
            p95_us: micros(s.p95),
            p99_us: micros(s.p99),
            arena_bytes: variant.library.info().arena_bytes,
        })
    };
    Ok(variants.iter().zip(&samples).filter_map(report).collect())
}

/// Bursts of each candidate in turn.
fn sample_warm(
    candidates: &mut [Candidate<'_>],
    options: latency::Options,
    progress: &dyn Progress,
) -> Result<Vec<Vec<Duration>>> {
    let burst = burst(candidates)?.max(options.burst);
    let mut samples: Vec<Vec<Duration>> = vec![Vec::new(); candidates.len()];
    // Some rounds at a time, so that the user can stop and see the progress between them.
    let mut left = options.runs.max(1);
    let mut warm_up = options.warm_up;
    while left > 0 {
        progress::check(progress)?;
        let runs = left.min(2 * burst);
        let group = latency::Options { warm_up, runs, burst };
        let mut runners: Vec<_> = candidates.iter_mut().map(|c| || c.run()).collect();
        let mut runners: Vec<&mut dyn FnMut() -> Result<()>> =
            runners.iter_mut().map(|r| r as &mut dyn FnMut() -> Result<()>).collect();
        let times = latency::sample(group, &mut runners)?;
        samples.iter_mut().zip(times).for_each(|(all, new)| all.extend(new));
        (0..runs).for_each(|_| progress.step());
        (left, warm_up) = (left - runs, 0);
    }
    Ok(samples)
}

/// One run of each candidate in turn, with nothing of it in the caches.
fn sample_cold(
    candidates: &mut [Candidate<'_>],
    options: latency::Options,
    probe: &Probe,
    progress: &dyn Progress,
) -> Result<Vec<Vec<Duration>>> {
    let mut samples: Vec<Vec<Duration>> = vec![Vec::new(); candidates.len()];
    for _ in 0..options.runs.max(1) {
        progress::check(progress)?;
        for (candidate, samples) in candidates.iter_mut().zip(&mut samples) {
            probe.evict();
            let start = Instant::now();
            candidate.run()?;
            samples.push(start.elapsed());
        }
        progress.step();
    }
    Ok(samples)
}

/// Runs in a row with which the fastest candidate's turn is long enough.
fn burst(candidates: &mut [Candidate<'_>]) -> Result<usize> {
    let mut fastest = TURN;
    for candidate in candidates {
        candidate.run()?;
        let start = Instant::now();
        candidate.run()?;
        fastest = fastest.min(start.elapsed().max(Duration::from_nanos(100)));
    }
    Ok((TURN.as_nanos() / fastest.as_nanos()).clamp(BURST.0 as u128, BURST.1 as u128) as usize)
}

/// Buffers of one entry point.
enum Buffers {
    F32 { inputs: Vec<Vec<f32>>, outputs: Vec<Vec<f32>> },
    Integer { inputs: Vec<Vec<u8>>, outputs: Vec<Vec<u8>> },
}

/// A library with everything that a run needs.
struct Candidate<'l> {
    session: Session<'l>,
    buffers: Buffers,
}

impl<'l> Candidate<'l> {
    fn new(variant: &Variant<'l>, entry: Entry) -> Result<Self> {
        let info = variant.library.info();
        let buffers = match entry {
            Entry::F32 => Buffers::F32 {
                inputs: info.inputs.iter().map(reals).collect(),
                outputs: info.outputs.iter().map(|t| vec![0.0; t.elements()]).collect(),
            },
            Entry::Integer => Buffers::Integer {
                inputs: info.inputs.iter().map(|t| noise(t.bytes(), mask(t)).collect()).collect(),
                outputs: info.outputs.iter().map(|t| vec![0; t.bytes()]).collect(),
            },
        };
        let session = variant.library.session().threads(variant.threads);
        Ok(Self { session: session.map_err(|e| Error::new(Code::RUN, e.to_string()))?, buffers })
    }

    fn run(&mut self) -> Result<()> {
        let done = match &mut self.buffers {
            Buffers::F32 { inputs, outputs } => {
                let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
                let mut outputs: Vec<&mut [f32]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
                self.session.run_f32(&inputs, &mut outputs)
            }
            Buffers::Integer { inputs, outputs } => {
                let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
                let mut outputs: Vec<&mut [u8]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
                self.session.run(&inputs, &mut outputs)
            }
        };
        done.map_err(|e| Error::new(Code::RUN, e.to_string()))
    }
}

/// The values that an activation of that many bits may hold.
fn mask(t: &TensorInfo) -> u8 {
    ((1u32 << t.bits.min(8)) - 1) as u8
}

/// What the integers of [`noise`] mean.
fn reals(t: &TensorInfo) -> Vec<f32> {
    noise(t.elements(), mask(t)).map(|q| t.scale * (i32::from(q) - t.zero_point) as f32).collect()
}

/// Bytes of Marsaglia's xorshift32, masked to the values that an activation may hold.
fn noise(count: usize, mask: u8) -> impl Iterator<Item = u8> {
    let mut state = 0x9e37_79b9u32;
    (0..count).map(move |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 24) as u8 & mask
    })
}
