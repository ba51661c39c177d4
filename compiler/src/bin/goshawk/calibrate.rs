//! `goshawk calibrate`: measures activation ranges once, for many compilations.
use crate::{
    Outcome,
    args::{ImportArgs, PreprocessArgs, QuantArgs},
    output,
};
use goshawk_compiler::{Result, artifact, driver::profile};
use serde::Serialize;
use std::{collections::BTreeMap, path::PathBuf};

/// Measure activation ranges on data and save them as a profile
#[derive(clap::Args)]
pub struct Args {
    /// ONNX model
    model: PathBuf,
    /// Profile to write
    #[arg(short = 'o', long = "save-ranges", value_name = "FILE")]
    save_ranges: PathBuf,
    #[command(flatten)]
    quant: QuantArgs,
    #[command(flatten)]
    preprocess: PreprocessArgs,
    #[command(flatten)]
    import: ImportArgs,
}

#[derive(Serialize)]
struct Report {
    profile: PathBuf,
    method: String,
    bits: String,
    ranges: BTreeMap<String, (f32, f32)>,
}

pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let preprocess = args.preprocess.spec()?;
    let model = args.import.load(&args.model)?;
    let (bits, plan) = args.quant.setting(&model)?;
    let calibration = args.quant.calibration(&model, &preprocess)?;
    let ranges = calibration.ranges(&model, &plan, &args.quant.lowering())?;
    let origin = model.origin(&args.quant.method_name(), &bits, args.quant.samples());
    artifact::write_atomic(&args.save_ranges, profile::print(&ranges, &origin)?.as_bytes())?;
    let report =
        Report { profile: args.save_ranges.clone(), method: origin.method, bits, ranges: ranges.map };
    output::print(json, &report, |r| {
        let rows: Vec<_> = r
            .ranges
            .iter()
            .map(|(name, (min, max))| vec![name.clone(), format!("{min:.5}"), format!("{max:.5}")])
            .collect();
        let table = output::table(&["tensor", "min", "max"], &rows);
        format!("{table}{} ranges by {} for {} in {}", r.ranges.len(), r.method, r.bits, r.profile.display())
    })?;
    Ok(Outcome::Done)
}
