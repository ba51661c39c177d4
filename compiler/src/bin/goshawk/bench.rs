//! `goshawk bench`: latency of compiled libraries, or of one model at several bit settings.
use crate::{
    Outcome,
    args::{ImportArgs, PreprocessArgs, QuantArgs, TargetArgs},
    output,
    terminal::Terminal,
};
use goshawk_compiler::{
    Code, Error, Result,
    artifact::{self, CName},
    driver::{bench, build, progress},
};
use goshawk_runtime::{Library, latency};
use std::path::{Path, PathBuf};

/// Measure latency, interleaved so that the figures compare: of libraries, or of a model at several bit settings
#[derive(clap::Args)]
pub struct Args {
    /// Compiled libraries (.so), or an ONNX model to compile at every --uniform and --bits
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Measured runs of each
    #[arg(long, value_name = "N", default_value_t = 100)]
    runs: usize,
    /// Unmeasured runs of each before that
    #[arg(long, value_name = "N", default_value_t = 10)]
    warm_up: usize,
    #[command(flatten)]
    quant: QuantArgs,
    #[command(flatten)]
    preprocess: PreprocessArgs,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    import: ImportArgs,
}

pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let mut libraries = Vec::new();
    let dir = tempfile::Builder::new()
        .prefix("goshawk-bench-")
        .tempdir()
        .map_err(|e| Error::new(Code::FILE, "cannot create a temporary folder").because(e.to_string()))?;
    for file in &args.files {
        if file.extension().is_some_and(|e| e == "so") {
            libraries.push((file.display().to_string(), open(file)?));
            continue;
        }
        let preprocess = args.preprocess.spec()?;
        let target = args.target.target()?;
        let model = args.import.load(file)?;
        let calibration = args.quant.calibration(&model, &preprocess)?;
        let prefix = CName::from_model_name(&model.graph.name);
        for (name, plan) in args.quant.settings(&model)? {
            progress::check(&Terminal)?;
            let quantized = args.quant.quantize(&model, &plan, &calibration)?;
            let bytes = build::shared_library(&model, &quantized, &target, &prefix)?;
            let path = dir.path().join(format!("lib{}.so", libraries.len()));
            artifact::write_atomic(&path, &bytes)?;
            let label = if args.files.len() > 1 { format!("{} {name}", file.display()) } else { name };
            libraries.push((label, open(&path)?));
        }
    }
    let options = latency::Options { warm_up: args.warm_up, runs: args.runs };
    let results = bench::measure(&libraries, options, &Terminal)?;
    output::print(json, &results, |results| {
        let micros = |us: f64| format!("{us:.1}");
        let row = |r: &bench::Latency| {
            vec![
                r.name.clone(),
                micros(r.min_us),
                micros(r.median_us),
                micros(r.p95_us),
                micros(r.p99_us),
                r.arena_bytes.to_string(),
            ]
        };
        let rows: Vec<_> = results.iter().map(row).collect();
        let heading = ["network", "min us", "median us", "p95 us", "p99 us", "arena bytes"];
        let isa = results.first().map_or("", |r| r.isa.as_str());
        format!("{}{} runs each, one thread, {isa}", output::table(&heading, &rows), args.runs.max(1))
    })?;
    Ok(Outcome::Done)
}

fn open(path: &Path) -> Result<Library> {
    Library::open(path).map_err(|e| Error::new(Code::RUN, e.to_string()))
}
