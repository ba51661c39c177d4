//! `goshawk diff`: which layer quantization hurts.
use crate::{
    Outcome,
    args::{DataArgs, ImportArgs, PreprocessArgs, QuantArgs},
    output,
    terminal::Terminal,
};
use goshawk_compiler::{
    Result,
    driver::diff::{self, Layer},
};
use serde::Serialize;
use std::path::PathBuf;

/// Compare the float network with the integer network layer by layer: SQNR, cosine, largest error
#[derive(clap::Args)]
pub struct Args {
    /// ONNX model
    model: PathBuf,
    /// How many of the worst layers to name
    #[arg(long, value_name = "N", default_value_t = 5)]
    worst: usize,
    /// Exit with status 1 if the SQNR of a network output, in dB, is below this
    #[arg(long, value_name = "DB")]
    min_sqnr: Option<f64>,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    quant: QuantArgs,
    #[command(flatten)]
    preprocess: PreprocessArgs,
    #[command(flatten)]
    import: ImportArgs,
}

/// Samples that are compared unless the user says how many.
const SAMPLES: usize = 20;

#[derive(Serialize)]
struct Report {
    bits: String,
    samples: usize,
    layers: Vec<Layer>,
    worst: Vec<String>,
    failed: Vec<String>,
}

pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let preprocess = args.preprocess.spec()?;
    let model = args.import.load(&args.model)?;
    let data = args.data.open(&model.inputs(), &preprocess, Some(SAMPLES))?;
    let (bits, plan) = args.quant.setting(&model)?;
    let calibration = args.quant.calibration(&model, &preprocess)?;
    let quantized = args.quant.quantize(&model, &plan, &calibration)?;
    let layers = diff::compare(&model, &quantized, &data, args.quant.threads(), &Terminal)?;
    let outputs: Vec<&str> =
        model.graph.outputs.iter().map(|p| model.graph.node(p.node).name.as_str()).collect();
    let low =
        |l: &&Layer| outputs.contains(&l.name.as_str()) && args.min_sqnr.is_some_and(|min| l.sqnr_db < min);
    let report = Report {
        bits,
        samples: data.len(),
        worst: diff::worst(&layers, args.worst).iter().map(|l| l.name.clone()).collect(),
        failed: layers.iter().filter(low).map(|l| format!("{}: SQNR {:.1} dB", l.name, l.sqnr_db)).collect(),
        layers,
    };
    output::print(json, &report, human)?;
    Ok(if report.failed.is_empty() { Outcome::Done } else { Outcome::CheckFailed })
}

fn human(r: &Report) -> String {
    let row = |l: &Layer| {
        vec![
            l.name.clone(),
            l.op.clone(),
            l.dtype.clone(),
            format!("{:.1}", l.sqnr_db),
            l.loss_db.map_or(String::new(), |d| format!("{d:.1}")),
            format!("{:.5}", l.cosine),
            format!("{:.4}", l.max_error),
            format!("{:.3}", l.max_value),
        ]
    };
    let rows: Vec<_> = r.layers.iter().map(row).collect();
    let heading = ["tensor", "op", "type", "SQNR dB", "own loss", "cosine", "max error", "max value"];
    let mut out = output::table(&heading, &rows);
    out.push_str(&format!("{} at {} samples; worst layers: {}\n", r.bits, r.samples, r.worst.join(", ")));
    r.failed.iter().for_each(|f| out.push_str(&format!("FAILED: {f}\n")));
    out
}
