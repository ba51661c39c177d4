//! `goshawk bench`: latency of compiled libraries, or of one model at several bit settings and for several CPUs.
use crate::{
    Outcome,
    args::{ImportArgs, PreprocessArgs, QuantArgs},
    output,
    profile::{self, MeasureArgs},
    terminal::Terminal,
};
use goshawk_compiler::{
    Code, Error, Result,
    artifact::{self, CName},
    codegen::{
        Target,
        probe::{Peaks, Probe},
    },
    driver::{
        bench::{self, Entry, Latency, Variant},
        build,
        layers::{self, Profile},
        machine::Disturbance,
        model::Quantized,
        progress,
    },
};
use goshawk_runtime::Library;
use serde::Serialize;
use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

/// Measure latency, interleaved so that the figures compare: of libraries, or of a model at several bit settings
#[derive(clap::Args)]
pub struct Args {
    /// Compiled libraries (.so), or ONNX models to compile at every --uniform and --bits for every --target-cpu
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// CPUs to compile for, each measured: native, x86-64-v3, avx512vnni …
    #[arg(
        long,
        value_name = "CPU,…",
        value_delimiter = ',',
        default_value = "native",
        help_heading = "Target"
    )]
    target_cpu: Vec<String>,
    /// Numbers of threads, each measured
    #[arg(
        long = "run-threads",
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "1",
        help_heading = "Measurement"
    )]
    run_threads: Vec<usize>,
    /// Measure the integer entry point, without the conversions from and to f32
    #[arg(long, help_heading = "Measurement")]
    integer: bool,
    /// Empty the caches before every run, so that weights come from memory
    #[arg(long, help_heading = "Measurement")]
    cold: bool,
    /// Also measure every layer of the models
    #[arg(long, help_heading = "Measurement")]
    layers: bool,
    #[command(flatten)]
    measure: MeasureArgs,
    #[command(flatten)]
    quant: QuantArgs,
    #[command(flatten)]
    preprocess: PreprocessArgs,
    #[command(flatten)]
    import: ImportArgs,
}

#[derive(Serialize)]
struct Report {
    latencies: Vec<Latency>,
    /// Whether the caches were emptied before every run.
    cold: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    profiles: Vec<Profile>,
    peaks: Peaks,
    machine: Option<Disturbance>,
}

/// A library to measure, and what its layers are measured from.
struct Compiled {
    name: String,
    library: Library,
    source: Option<(Quantized, Target)>,
}

pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let dir = tempfile::Builder::new()
        .prefix("goshawk-bench-")
        .tempdir()
        .map_err(|e| Error::new(Code::FILE, "cannot create a temporary folder").because(e.to_string()))?;
    let compiled = compile(args, dir.path())?;
    let entry = if args.integer { Entry::Integer } else { Entry::F32 };
    let variants: Vec<Variant<'_>> = compiled
        .iter()
        .flat_map(|c| {
            args.run_threads.iter().map(|threads| Variant {
                name: c.name.clone(),
                library: &c.library,
                threads: *threads,
            })
        })
        .collect();
    let (probe, watch) = (Probe::new()?, args.measure.begin()?);
    let mut peaks = probe.measure();
    let latencies =
        bench::measure(&variants, entry, args.measure.options(), args.cold.then_some(&probe), &Terminal)?;
    let mut profiles = Vec::new();
    for c in compiled.iter().filter(|_| args.layers) {
        let Some((quantized, target)) = &c.source else { continue };
        let (options, statistic) = (args.measure.options(), args.measure.statistic);
        let (profile, seen) =
            layers::measure(&c.name, quantized, target, options, statistic, &probe, &Terminal)?;
        profiles.push(profile);
        peaks.best(seen);
    }
    peaks.best(probe.measure());
    let report = Report { latencies, cold: args.cold, profiles, peaks, machine: watch.end() };
    if let Some(path) = &args.measure.csv {
        artifact::write_atomic(path, csv(&report.latencies).as_bytes())?;
    }
    output::print(json, &report, human)?;
    Ok(Outcome::Done)
}

/// Opens the libraries and compiles the models.
fn compile(args: &Args, dir: &Path) -> Result<Vec<Compiled>> {
    let mut all = Vec::new();
    for file in &args.files {
        if file.extension().is_some_and(|e| e == "so") {
            all.push(Compiled { name: file.display().to_string(), library: open(file)?, source: None });
            continue;
        }
        let preprocess = args.preprocess.spec()?;
        let targets = args
            .target_cpu
            .iter()
            .map(|cpu| Ok((cpu, Target::parse(None, cpu)?)))
            .collect::<Result<Vec<(&String, Target)>>>()?;
        if let Some((cpu, _)) = targets.iter().find(|(_, t)| !t.runs_here()) {
            return Err(Error::new(Code::TARGET, format!("code for {cpu} does not run on this machine"))
                .help("leave it out of --target-cpu"));
        }
        let model = args.import.load(file)?;
        let calibration = args.quant.calibration(&model, &preprocess)?;
        let prefix = CName::from_model_name(&model.graph.name);
        for (setting, plan) in args.quant.settings(&model)? {
            let quantized = args.quant.quantize(&model, &plan, &calibration)?;
            for (cpu, target) in &targets {
                progress::check(&Terminal)?;
                let bytes = build::shared_library(&model, &quantized, target, &prefix)?;
                let path = dir.join(format!("lib{}.so", all.len()));
                artifact::write_atomic(&path, &bytes)?;
                let mut words = vec![setting.clone()];
                if args.files.len() > 1 {
                    words.insert(0, file.display().to_string());
                }
                if targets.len() > 1 {
                    words.push((*cpu).clone());
                }
                let source = args.layers.then(|| (quantized.clone(), target.clone()));
                all.push(Compiled { name: words.join(" "), library: open(&path)?, source });
            }
        }
    }
    if args.layers && all.iter().all(|c| c.source.is_none()) {
        return Err(Error::new(Code::FILE, "--layers needs an ONNX model")
            .because("a compiled library has no time stamps between its layers"));
    }
    Ok(all)
}

fn human(report: &Report) -> String {
    let micros = |us: f64| format!("{us:.1}");
    let row = |r: &Latency| {
        vec![
            r.name.clone(),
            r.threads.to_string(),
            micros(r.min_us),
            micros(r.median_us),
            micros(r.p95_us),
            micros(r.p99_us),
            r.arena_bytes.to_string(),
        ]
    };
    let rows: Vec<_> = report.latencies.iter().map(row).collect();
    let heading = ["network", "threads", "min us", "median us", "p95 us", "p99 us", "arena bytes"];
    let mut text = output::table(&heading, &rows);
    if let Some(first) = report.latencies.first() {
        let entry = match first.entry {
            Entry::F32 => "f32 in and out",
            Entry::Integer => "integers in and out",
        };
        let isas: std::collections::BTreeSet<&str> =
            report.latencies.iter().map(|l| l.isa.as_str()).collect();
        let isas: Vec<&str> = isas.into_iter().collect();
        let caches = if report.cold { ", caches emptied before each" } else { "" };
        let _ = writeln!(text, "{} runs each{caches}, {entry}, {}", first.runs, isas.join("; "));
    }
    for profile in &report.profiles {
        let _ = write!(text, "\n{}", profile::table(profile));
    }
    let _ = write!(text, "\n{}", profile::peaks(&report.peaks));
    text + &profile::warning(report.machine.as_ref())
}

fn csv(latencies: &[Latency]) -> String {
    let mut text = output::csv(&[
        "network",
        "threads",
        "entry",
        "runs",
        "min_us",
        "median_us",
        "mean_us",
        "p95_us",
        "p99_us",
        "arena_bytes",
        "isa",
    ]);
    for l in latencies {
        let entry = if l.entry == Entry::F32 { "f32" } else { "integer" };
        text.push_str(&output::csv(&[
            l.name.as_str(),
            &l.threads.to_string(),
            entry,
            &l.runs.to_string(),
            &l.min_us.to_string(),
            &l.median_us.to_string(),
            &l.mean_us.to_string(),
            &l.p95_us.to_string(),
            &l.p99_us.to_string(),
            &l.arena_bytes.to_string(),
            &l.isa,
        ]));
    }
    text
}

fn open(path: &Path) -> Result<Library> {
    Library::open(path).map_err(|e| Error::new(Code::RUN, e.to_string()))
}
