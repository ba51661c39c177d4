//! `goshawk eval`: accuracy on a labelled set, of the float network and of quantized ones.
use crate::{
    Outcome,
    args::{DataArgs, ImportArgs, PreprocessArgs, QuantArgs, TargetArgs},
    output,
    terminal::Terminal,
};
use goshawk_compiler::{
    Code, Error, Result,
    codegen::{self, JitModel},
    driver::{engine::Engine, eval, model::Quantized},
};
use goshawk_runtime::Library;
use serde::Serialize;
use std::{
    path::{Path, PathBuf},
    time::Instant,
};

/// Measure top-1 and top-5 of the float network, the integer interpreter and native code on labelled data
#[derive(clap::Args)]
pub struct Args {
    /// ONNX model
    model: PathBuf,
    /// What to run: float, int (the interpreter), native
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_values = ["float", "int", "native"],
          value_parser = ["float", "int", "native"])]
    engine: Vec<String>,
    /// Compiled libraries of the same model to run as well
    #[arg(long, value_name = "FILE.so,…", value_delimiter = ',')]
    library: Vec<PathBuf>,
    /// Exit with status 1 if the top-1 of an engine, in percent, is below this
    #[arg(long, value_name = "PERCENT")]
    min_top1: Option<f64>,
    /// Exit with status 1 if the top-1 of a quantized engine is more than this many points below float
    #[arg(long, value_name = "POINTS")]
    max_drop: Option<f64>,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    quant: QuantArgs,
    #[command(flatten)]
    preprocess: PreprocessArgs,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    import: ImportArgs,
}

#[derive(Serialize)]
struct Report {
    samples: usize,
    seconds: f64,
    results: Vec<Line>,
    failed: Vec<String>,
}

#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    accuracy: eval::Accuracy,
    top1_percent: f64,
    top5_percent: f64,
}

pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let preprocess = args.preprocess.spec()?;
    let model = args.import.load(&args.model)?;
    let data = args.data.open(&model.inputs(), &preprocess, None)?;
    data.labels(0)?;
    let wants = |name: &str| args.engine.iter().any(|e| e == name);
    let (int, native) = (wants("int"), wants("native"));
    let mut quantized: Vec<(String, Quantized, Option<JitModel>)> = Vec::new();
    if int || native {
        let options = codegen::Options::for_levels(&args.target.levels()?, "model")?;
        let calibration = args.quant.calibration(&model, &preprocess)?;
        for (name, plan) in args.quant.settings(&model)? {
            let q = args.quant.quantize(&model, &plan, &calibration)?;
            let jit = match native {
                true => Some(q.jit(&options)?),
                false => None,
            };
            quantized.push((name, q, jit));
        }
    }
    let libraries = args.library.iter().map(|p| open(p)).collect::<Result<Vec<_>>>()?;
    let mut engines = Vec::new();
    if wants("float") {
        engines.push(("float".to_owned(), Engine::Float(&model.graph)));
    }
    for (name, q, jit) in &quantized {
        if int {
            engines.push((format!("{name} int"), Engine::Int(&q.graph)));
        }
        if let Some(jit) = jit {
            engines.push((format!("{name} native"), Engine::Jit(jit)));
        }
    }
    engines.extend(libraries.iter().map(|(name, l)| (name.clone(), Engine::Library(l))));
    let start = Instant::now();
    let results = eval::evaluate(&engines, &data, args.quant.threads(), &Terminal)?;
    let mut failed = thresholds(args, &results);
    for (pair, names) in results.windows(2).zip(engines.windows(2)) {
        if let ([_, native], [(_, Engine::Int(_)), (_, Engine::Jit(_))]) = (pair, names)
            && native.same_as_previous != native.samples
        {
            failed.push(format!(
                "{} differs from the interpreter on {} of {} samples",
                native.name,
                native.samples - native.same_as_previous,
                native.samples
            ));
        }
    }
    let line = |a: &eval::Accuracy| Line {
        top1_percent: a.top1_percent(),
        top5_percent: a.top5_percent(),
        accuracy: a.clone(),
    };
    let report = Report {
        samples: data.len(),
        seconds: start.elapsed().as_secs_f64(),
        results: results.iter().map(line).collect(),
        failed,
    };
    output::print(json, &report, human)?;
    Ok(if report.failed.is_empty() { Outcome::Done } else { Outcome::CheckFailed })
}

fn open(path: &Path) -> Result<(String, Library)> {
    let library = Library::open(path).map_err(|e| Error::new(Code::RUN, e.to_string()))?;
    Ok((path.display().to_string(), library))
}

fn thresholds(args: &Args, results: &[eval::Accuracy]) -> Vec<String> {
    let mut failed = Vec::new();
    let float = results.iter().find(|r| r.name == "float").map(eval::Accuracy::top1_percent);
    for r in results {
        let top1 = r.top1_percent();
        if let Some(min) = args.min_top1.filter(|min| top1 < *min) {
            failed.push(format!("{}: top-1 {top1:.2} % is below {min} %", r.name));
        }
        if let (Some(max), Some(float)) = (args.max_drop, float)
            && float - top1 > max
        {
            failed.push(format!(
                "{}: top-1 is {:.2} points below float, more than {max}",
                r.name,
                float - top1
            ));
        }
    }
    failed
}

fn human(r: &Report) -> String {
    let rows: Vec<_> = r
        .results
        .iter()
        .map(|l| {
            vec![
                l.accuracy.name.clone(),
                format!("{:.2} %", l.top1_percent),
                format!("{:.2} %", l.top5_percent),
                format!("{:.2} %", 100.0 * l.accuracy.agree as f64 / l.accuracy.rows.max(1) as f64),
            ]
        })
        .collect();
    let mut out = output::table(&["network", "top-1", "top-5", "same class as the first"], &rows);
    out.push_str(&format!("{} samples, {:.1} s\n", r.samples, r.seconds));
    r.failed.iter().for_each(|f| out.push_str(&format!("FAILED: {f}\n")));
    out
}
