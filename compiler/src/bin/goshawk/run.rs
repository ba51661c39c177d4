//! `goshawk run`: runs a model, an integer network or a compiled library on data, npz out.
use crate::{
    Outcome,
    args::{DataArgs, ImportArgs, PreprocessArgs, QuantArgs, TargetArgs},
    output,
    terminal::Terminal,
};
use goshawk_compiler::{
    Code, Error, Result, artifact, codegen,
    data::{InputSpec, Preprocess, npz},
    driver::{engine::Engine, run},
};
use goshawk_ir::{IntGraph, IntOp, Shape, interp::boundary, text, verify};
use goshawk_runtime::{Library, Pool};
use serde::Serialize;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Run a model (.onnx), an integer network (.gir) or a compiled library (.so) on data and save its outputs
#[derive(clap::Args)]
pub struct Args {
    /// .onnx, .gir or .so
    file: PathBuf,
    /// Where to save the outputs, stacked over the samples
    #[arg(short, long, value_name = "FILE.npz")]
    output: PathBuf,
    /// What runs a .onnx: float, int or native (those two need --calib or --ranges)
    #[arg(long, value_name = "NAME", default_value = "float", value_parser = ["float", "int", "native"])]
    engine: String,
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
    output: PathBuf,
    samples: usize,
    arrays: Vec<(String, Vec<usize>)>,
}

pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    if args.output.extension().is_none_or(|e| e != "npz") {
        return Err(Error::new(Code::FILE, format!("{} does not end in .npz", args.output.display())));
    }
    let preprocess = args.preprocess.spec()?;
    match args.file.extension().and_then(|e| e.to_str()) {
        Some("so") => library(args, &preprocess, json),
        Some("gir") => network(args, &preprocess, json),
        _ => model(args, &preprocess, json),
    }
}

fn library(args: &Args, preprocess: &Preprocess, json: bool) -> Result<Outcome> {
    let mut library = Library::open(&args.file).map_err(|e| Error::new(Code::RUN, e.to_string()))?;
    library.set_pool(pool(args)?);
    let spec = |t: &goshawk_runtime::TensorInfo| {
        let shape = Shape::new(t.f32_dims.clone()).map_err(|e| Error::from_ir(Code::RUN, e))?;
        Ok(InputSpec { name: t.name.clone(), shape })
    };
    let inputs = library.info().inputs.iter().map(spec).collect::<Result<Vec<_>>>()?;
    let outputs: Vec<_> = library.info().outputs.iter().map(|t| t.name.clone()).collect();
    finish(args, Engine::Library(&library), &inputs, &outputs, preprocess, json)
}

fn network(args: &Args, preprocess: &Preprocess, json: bool) -> Result<Outcome> {
    let bad = |e: goshawk_ir::IrError| Error::from_ir(Code::GRAPH, e).at(args.file.display().to_string());
    let text = std::fs::read_to_string(&args.file).map_err(|e| Error::file(&args.file, "read", &e))?;
    let graph: IntGraph = text::parse::<IntOp>(&text).map_err(bad)?;
    if let Err(errors) = verify::int(&graph)
        && let Some(first) = errors.into_iter().next()
    {
        return Err(bad(first));
    }
    let spec = |p: &goshawk_ir::Port| {
        let shape = boundary::f32_shape(&graph, p).map_err(bad)?;
        Ok(InputSpec { name: p.name.clone(), shape })
    };
    let inputs = graph.inputs.iter().map(spec).collect::<Result<Vec<_>>>()?;
    finish(args, Engine::Int(&graph), &inputs, &names(&graph.outputs), preprocess, json)
}

fn model(args: &Args, preprocess: &Preprocess, json: bool) -> Result<Outcome> {
    let model = args.import.load(&args.file)?;
    let (inputs, outputs) = (model.inputs(), names(&model.graph.outputs));
    if args.engine == "float" {
        return finish(args, Engine::Float(&model.graph), &inputs, &outputs, preprocess, json);
    }
    let (_, plan) = args.quant.setting(&model)?;
    let calibration = args.quant.calibration(&model, preprocess)?;
    let quantized = args.quant.quantize(&model, &plan, &calibration)?;
    if args.engine == "int" {
        return finish(args, Engine::Int(&quantized.graph), &inputs, &outputs, preprocess, json);
    }
    let options = codegen::Options::for_levels(&args.target.levels()?, "model")?;
    let mut jit = quantized.jit(&options)?;
    jit.set_pool(pool(args)?);
    finish(args, Engine::Jit(&jit), &inputs, &outputs, preprocess, json)
}

/// The threads that machine code runs on: samples follow each other, so they share the layers of each.
fn pool(args: &Args) -> Result<Option<Arc<Pool>>> {
    match args.quant.threads() {
        1 => Ok(None),
        threads => Pool::new(threads)
            .map(|pool| Some(Arc::new(pool)))
            .map_err(|e| Error::new(Code::RUN, "cannot start threads").because(e.to_string())),
    }
}

fn names(ports: &[goshawk_ir::Port]) -> Vec<String> {
    ports.iter().map(|p| p.name.clone()).collect()
}

fn finish(
    args: &Args,
    engine: Engine<'_>,
    inputs: &[InputSpec],
    outputs: &[String],
    preprocess: &Preprocess,
    json: bool,
) -> Result<Outcome> {
    let data = args.data.open(inputs, preprocess, None)?;
    let arrays = run::run(engine, outputs, &data, &Terminal)?;
    artifact::write_atomic(&args.output, &npz::encode(&arrays)?)?;
    let report = Report {
        output: args.output.clone(),
        samples: data.len(),
        arrays: arrays.iter().map(|(n, t)| (n.clone(), t.shape().to_vec())).collect(),
    };
    output::print(json, &report, |r| human(r, &args.file))?;
    Ok(Outcome::Done)
}

fn human(r: &Report, file: &Path) -> String {
    let arrays: Vec<_> = r.arrays.iter().map(|(name, dims)| format!("{name} {dims:?}")).collect();
    format!("{} on {} samples → {}: {}", file.display(), r.samples, r.output.display(), arrays.join(", "))
}
