//! `goshawk peak`: what this machine can do at most, as `bench` and `profile` compare with.
use crate::{Outcome, output, profile};
use goshawk_compiler::{
    Result,
    codegen::probe::{Peaks, Probe},
    driver::machine::{self, Disturbance, Watch},
};
use serde::Serialize;

/// Measure the machine's peak: multiply-accumulates from registers by instruction, bandwidth of caches and memory
#[derive(clap::Args)]
pub struct Args {
    /// Measurements, of which the best counts
    #[arg(long, value_name = "N", default_value_t = 3)]
    runs: usize,
    /// Stay on these CPUs
    #[arg(long, value_name = "CPU,…", value_delimiter = ',')]
    pin: Vec<usize>,
}

#[derive(Serialize)]
struct Report {
    peaks: Peaks,
    machine: Option<Disturbance>,
}

pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    if !args.pin.is_empty() {
        machine::pin(&args.pin)?;
    }
    let (probe, watch) = (Probe::new()?, Watch::new());
    let mut peaks = Peaks::default();
    for _ in 0..args.runs.max(1) {
        peaks.best(probe.measure());
    }
    let report = Report { peaks, machine: watch.end() };
    output::print(json, &report, |r| profile::peaks(&r.peaks) + &profile::warning(r.machine.as_ref()))?;
    Ok(Outcome::Done)
}
