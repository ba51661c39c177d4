//! `goshawk profile-costs`: measures every layer of a model at every width on this machine.
use crate::{
    Outcome,
    args::{ImportArgs, PreprocessArgs, QuantArgs, TargetArgs, WIDTHS, widths},
    output,
    terminal::Terminal,
};
use goshawk_compiler::{
    Result,
    artifact::write_atomic,
    driver::costs::{
        measure::{self, Options},
        roofline::{Fit, Roofline},
        table::{CostTable, Whole},
    },
};
use goshawk_passes::bits::{BitPlan, LayerBits};
use serde::Serialize;
use std::{fmt::Write as _, path::PathBuf};

/// Measure the latency of every layer at every bit width on this machine, for `goshawk allocate`
#[derive(clap::Args)]
pub struct Args {
    /// ONNX model
    model: PathBuf,
    /// Cost table to write; measurements are added to a table that exists
    #[arg(short, long, value_name = "FILE.costs")]
    output: PathBuf,
    /// Widths that layers may get
    #[arg(long, value_name = "wXaY,…", value_delimiter = ',', default_value = WIDTHS, value_parser = widths)]
    widths: Vec<LayerBits>,
    /// Runs of each variant
    #[arg(long, value_name = "N", default_value_t = 40)]
    runs: usize,
    /// MiB of other memory that are walked through before a run with cold caches
    #[arg(long, value_name = "MIB", default_value_t = 32)]
    cold: usize,
    /// Measure again what the table has already
    #[arg(long)]
    again: bool,
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
    isa: String,
    variants: usize,
    measured: usize,
    cold_share: f64,
    base_us: f64,
    wholes: Vec<Whole>,
    rooflines: Vec<(String, Fit)>,
}

pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let preprocess = args.preprocess.spec()?;
    let target = args.target.target()?;
    let mut table = if args.output.exists() { CostTable::load(&args.output)? } else { CostTable::default() };
    let model = args.import.load(&args.model)?;
    let calibration = args.quant.calibration(&model, &preprocess)?;
    let options = Options {
        widths: args.widths.clone(),
        runs: args.runs,
        cold_bytes: args.cold << 20,
        again: args.again,
        lowering: args.quant.lowering(),
    };
    let lowering = args.quant.lowering();
    let ranges = |plan: &BitPlan| calibration.ranges(&model, plan, &lowering);
    let summary = measure::measure(&model, &ranges, &target, &options, &mut table, &Terminal)?;
    write_atomic(&args.output, table.print()?.as_bytes())?;
    let roofline = Roofline::new(table.cpus.get(&summary.isa));
    let mut rooflines = Vec::new();
    for (depthwise, kind) in [(false, "dense"), (true, "depthwise")] {
        for bits in &args.widths {
            let name = format!("{kind} w{}a{}", bits.weights, bits.activations);
            rooflines.push((name, *roofline.fit(depthwise, *bits)));
        }
    }
    let report = Report {
        isa: summary.isa,
        variants: summary.variants,
        measured: summary.measured,
        cold_share: summary.model.cold_share,
        base_us: summary.model.base_us,
        wholes: summary.model.wholes,
        rooflines,
    };
    output::print(json, &report, human)?;
    Ok(Outcome::Done)
}

fn human(r: &Report) -> String {
    let whole = |w: &Whole| {
        let error = 100.0 * (w.predicted_us / w.measured_us - 1.0);
        vec![
            w.bits.clone(),
            format!("{:.1}", w.measured_us),
            format!("{:.1}", w.predicted_us),
            format!("{error:+.1} %"),
        ]
    };
    let rows: Vec<_> = r.wholes.iter().map(whole).collect();
    let mut out = output::table(&["network", "measured us", "sum of layers us", "error"], &rows);
    let fit = |(name, fit): &(String, Fit)| {
        vec![
            name.clone(),
            fit.measurements.to_string(),
            format!("{:.1} %", 100.0 * fit.mean_error),
            format!("{:.1} %", 100.0 * fit.worst_error),
        ]
    };
    let rows: Vec<_> = r.rooflines.iter().map(fit).collect();
    let heading = ["roofline for layers without a measurement", "fitted to", "mean error", "worst"];
    let _ = write!(out, "\n{}", output::table(&heading, &rows));
    let _ = writeln!(
        out,
        "{}: {} variants of layers, {} measured now; layers in the network are {:.0} % cold, what surrounds them {} {:.1} us",
        r.isa,
        r.variants,
        r.measured,
        100.0 * r.cold_share,
        if r.base_us < 0.0 { "saves" } else { "takes" },
        r.base_us.abs()
    );
    out
}
