//! `goshawk profile`: where the time of a run goes, layer by layer.
use crate::{
    Outcome,
    args::{ImportArgs, PreprocessArgs, QuantArgs, TargetArgs},
    output,
    terminal::Terminal,
};
use goshawk_compiler::{
    Result, artifact,
    codegen::probe::{Peaks, Probe},
    driver::{
        layers::{self, Layer, Profile, Statistic},
        machine::{self, Disturbance, Watch},
    },
};
use goshawk_runtime::latency;
use serde::Serialize;
use std::{fmt::Write, path::PathBuf};

/// Measure every layer of a model: time, share of the measured peak, bytes moved, kernel and what bounds it
#[derive(clap::Args)]
pub struct Args {
    /// ONNX model
    model: PathBuf,
    #[command(flatten)]
    pub measure: MeasureArgs,
    #[command(flatten)]
    quant: QuantArgs,
    #[command(flatten)]
    preprocess: PreprocessArgs,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    import: ImportArgs,
}

/// How to measure.
#[derive(clap::Args)]
#[command(next_help_heading = "Measurement")]
pub struct MeasureArgs {
    /// Measured runs of each
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub runs: usize,
    /// Unmeasured runs of each before that
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub warm_up: usize,
    /// Stay on these CPUs
    #[arg(long, value_name = "CPU,…", value_delimiter = ',')]
    pub pin: Vec<usize>,
    /// Which time of a layer counts: min (on a busy machine) or median
    #[arg(long, value_name = "NAME", default_value = "median", value_parser = statistic)]
    pub statistic: Statistic,
    /// Also write the table as comma-separated values
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
}

impl MeasureArgs {
    /// Pins, if asked for, and looks at the machine from here on.
    pub fn begin(&self) -> Result<Watch> {
        if !self.pin.is_empty() {
            machine::pin(&self.pin)?;
        }
        Ok(Watch::new())
    }

    pub fn options(&self) -> latency::Options {
        latency::Options { warm_up: self.warm_up, runs: self.runs, burst: 1 }
    }
}

fn statistic(text: &str) -> std::result::Result<Statistic, String> {
    match text {
        "min" => Ok(Statistic::Min),
        "median" => Ok(Statistic::Median),
        _ => Err("expected min or median".into()),
    }
}

#[derive(Serialize)]
struct Report {
    profiles: Vec<Profile>,
    peaks: Peaks,
    machine: Option<Disturbance>,
}

pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let preprocess = args.preprocess.spec()?;
    let target = args.target.target()?;
    let model = args.import.load(&args.model)?;
    let calibration = args.quant.calibration(&model, &preprocess)?;
    let (probe, watch) = (Probe::new()?, args.measure.begin()?);
    let (mut profiles, mut peaks) = (Vec::new(), Peaks::default());
    for (name, plan) in args.quant.settings(&model)? {
        let quantized = args.quant.quantize(&model, &plan, &calibration)?;
        let options = args.measure.options();
        let statistic = args.measure.statistic;
        let (profile, seen) =
            layers::measure(&name, &quantized, &target, options, statistic, &probe, &Terminal)?;
        profiles.push(profile);
        peaks.best(seen);
    }
    let machine = watch.end();
    if let Some(path) = &args.measure.csv {
        artifact::write_atomic(path, csv(&profiles).as_bytes())?;
    }
    output::print(json, &Report { profiles, peaks, machine }, human)?;
    Ok(Outcome::Done)
}

fn human(report: &Report) -> String {
    let mut text = String::new();
    for profile in &report.profiles {
        text.push_str(&table(profile));
        text.push('\n');
    }
    text.push_str(&peaks(&report.peaks));
    text.push_str(&warning(report.machine.as_ref()));
    text
}

/// The layers and their sum.
pub fn table(p: &Profile) -> String {
    let heading = [
        "layer", "op", "result", "us", "share %", "GMAC/s", "peak %", "read", "written", "weights", "GB/s",
        "floor us", "bound", "kernel", "why",
    ];
    let row = |l: &Layer| {
        let bytes = l.step.read_bytes + l.step.written_bytes + l.step.constant_bytes;
        vec![
            l.step.name.clone(),
            l.step.op.clone(),
            l.step.shape.clone(),
            format!("{:.1}", l.us),
            format!("{:.1}", 100.0 * l.share),
            if l.macs > 0 { format!("{:.1}", l.gmacs) } else { String::new() },
            l.of_peak.map_or_else(String::new, |p| format!("{:.0}", 100.0 * p)),
            l.step.read_bytes.to_string(),
            l.step.written_bytes.to_string(),
            l.step.constant_bytes.to_string(),
            format!("{:.1}", bytes as f64 / (l.us.max(1e-3) * 1e3)),
            format!("{:.1}", l.floor_us),
            l.bound.name().to_owned(),
            l.kernel.clone(),
            l.why.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = p.layers.iter().map(row).collect();
    let mut text = output::table(&heading, &rows);
    let which = match p.statistic {
        Statistic::Min => "minima",
        Statistic::Median => "medians",
    };
    let _ = writeln!(
        text,
        "{}: layers {:.1} us, whole run {:.1} us ({which} of {} runs), {} MACs, one thread, {}",
        p.name,
        p.sum_us,
        p.whole_us,
        p.runs,
        output::count(p.macs),
        p.isa
    );
    if let Some(peak) = p.peak.as_ref().filter(|_| p.macs > 0) {
        let _ = writeln!(
            text,
            "  {:.2} × the floor of {:.1} us: all MACs at {:.1} GMAC/s ({}, measured)",
            p.whole_us / p.macs_floor_us.max(1e-9),
            p.macs_floor_us,
            peak.gmacs,
            peak.name
        );
    }
    text
}

/// What the machine can do.
pub fn peaks(p: &Peaks) -> String {
    let compute = p.compute.iter().map(|c| vec![c.name.to_owned(), format!("{:.1} GMAC/s", c.gmacs)]);
    let memory = p
        .memory
        .iter()
        .map(|m| vec![format!("{} read ({} KiB)", m.level, m.bytes >> 10), format!("{:.1} GB/s", m.gbytes)]);
    let rows: Vec<_> = compute.chain(memory).collect();
    let mut text = output::table(&["measured peak, one thread", "rate"], &rows);
    for skipped in &p.skipped {
        let _ =
            writeln!(text, "{}: not measured, the CPU lacks {}", skipped.name, skipped.missing.join(", "));
    }
    text
}

/// The warning about other load, as a line.
pub fn warning(machine: Option<&Disturbance>) -> String {
    machine.and_then(Disturbance::warning).map_or_else(String::new, |w| format!("warning: {w}\n"))
}

fn csv(profiles: &[Profile]) -> String {
    let mut text = output::csv(&[
        "setting",
        "layer",
        "op",
        "result",
        "min_us",
        "median_us",
        "share",
        "macs",
        "gmacs",
        "of_peak",
        "read_bytes",
        "written_bytes",
        "constant_bytes",
        "floor_us",
        "bound",
        "kernel",
        "why",
    ]);
    for (p, l) in profiles.iter().flat_map(|p| p.layers.iter().map(move |l| (p, l))) {
        text.push_str(&output::csv(&[
            p.name.as_str(),
            &l.step.name,
            &l.step.op,
            &l.step.shape,
            &l.min_us.to_string(),
            &l.median_us.to_string(),
            &l.share.to_string(),
            &l.macs.to_string(),
            &l.gmacs.to_string(),
            &l.of_peak.map_or_else(String::new, |p| p.to_string()),
            &l.step.read_bytes.to_string(),
            &l.step.written_bytes.to_string(),
            &l.step.constant_bytes.to_string(),
            &l.floor_us.to_string(),
            l.bound.name(),
            &l.kernel,
            l.why.as_deref().unwrap_or_default(),
        ]));
    }
    text
}
