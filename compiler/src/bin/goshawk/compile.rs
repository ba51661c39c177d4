//! `goshawk compile`: model and calibration in, library, header and manifest out.
use crate::{
    Outcome,
    allocate::ChooseArgs,
    args::{ImportArgs, PreprocessArgs, QuantArgs, TargetArgs},
    chain::{self, CacheArgs},
    output,
    terminal::Terminal,
};
use goshawk_compiler::{
    Code, Error, Result, artifact,
    codegen::{LayerReport, Prefer, Target},
    data::Preprocess,
    driver::{
        bits_file,
        build::{self, Kind, Outputs},
        cache::Stage,
        model::Model,
        profile, progress,
        tune::Cache,
    },
};
use goshawk_ir::text;
use goshawk_passes::{bits::BitPlan, calibrate::Ranges};
use serde::Serialize;
use std::{
    ffi::OsString,
    fmt::Write,
    path::{Path, PathBuf},
    time::Instant,
};

/// Compile a model to a library with C header and manifest
#[derive(clap::Args)]
pub struct Args {
    /// ONNX model
    model: PathBuf,
    /// Output; the ending decides: .so, .a, .o (with header and manifest), .h, .json, .gir (text), .s (assembly)
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// More kinds to write beside it: so, a, o, h, json, gir, asm
    #[arg(long, value_name = "KIND,…", value_delimiter = ',', value_parser = kind)]
    emit: Vec<Kind>,
    /// C prefix of all names; from the output's name if left out
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Link .so with this compiler driver (for example cc) instead of goshawk's own writer
    #[arg(long, value_name = "PROGRAM")]
    linker: Option<OsString>,
    /// Print the network after a pass: import, the passes' names, lower, or all
    #[arg(long, value_name = "PASS")]
    print_after: Option<String>,
    /// Print the kernel of every layer, and why it is off the fast path
    #[arg(long)]
    explain: bool,
    /// Choose the tiles of layers by measuring them; FILE keeps the results, and what it holds is not measured again
    #[arg(long, value_name = "FILE")]
    tune: Option<PathBuf>,
    /// What counts where speed costs memory: with size layers are not computed by Winograd's algorithm, and 4-bit weights are
    /// not kept unpacked, which makes the arena smaller, and the file where filters would be stored transformed
    #[arg(long, value_name = "WHAT", default_value = "speed", value_parser = ["speed", "size"])]
    prefer: String,
    /// Also write the calibrated ranges
    #[arg(long, value_name = "FILE")]
    save_ranges: Option<PathBuf>,
    /// Also write the bit widths of all layers
    #[arg(long, value_name = "FILE.toml")]
    save_bits: Option<PathBuf>,
    #[command(flatten)]
    choose: ChooseArgs,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    quant: QuantArgs,
    #[command(flatten)]
    preprocess: PreprocessArgs,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    import: ImportArgs,
}

fn kind(text: &str) -> std::result::Result<Kind, String> {
    Kind::from_ending(text).ok_or_else(|| "expected so, a, o, h, json, gir or asm".into())
}

#[derive(Serialize)]
struct Report {
    name: String,
    bits: String,
    isa: Vec<String>,
    files: Vec<File>,
    arena_bytes: usize,
    arena_lower_bound: usize,
    stack_bytes: u32,
    macs: u64,
    seconds: f64,
    layers: Vec<LayerReport>,
    /// With `--budget`: what was chosen, and what the cache had.
    #[serde(skip_serializing_if = "Option::is_none")]
    allocation: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stages: Vec<Stage>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fallbacks: Vec<Vec<LayerReport>>,
}

#[derive(Serialize)]
struct File {
    path: PathBuf,
    bytes: usize,
}

pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let start = Instant::now();
    // What can be wrong without looking at the model comes first.
    let outputs = Outputs::new(&args.output, &args.emit, args.name.as_deref())?;
    let levels = args.target.levels()?;
    let target = &levels[0];
    let preprocess = args.preprocess.spec()?;
    let mut printer = Printer::new(args.print_after.as_deref())?;
    let model = Model::load(&args.model, &args.import.options(), &mut |pass, graph| {
        if printer.wants(pass) {
            printer.add(pass, &text::print(graph));
        }
    })?;
    let options = args.quant.lowering();
    let setting = setting(args, &model, &preprocess, target)?;
    let Setting { bits, plan, ranges, .. } = &setting;
    let (bits, ranges) = (bits.clone(), ranges.clone());
    let mut quantized = model.lower(&ranges, plan, &options)?;
    if printer.wants(LOWER) {
        printer.add(LOWER, &text::print(&quantized.graph));
    }
    if let Some(path) = &args.tune {
        let mut cache = Cache::load(path)?;
        let mut measured = 0;
        for target in &levels {
            measured += cache.fill(&quantized, target, &Terminal)?;
        }
        if measured > 0 {
            cache.save(path)?;
        }
        quantized.tuning = cache.tuning();
    }
    if args.prefer == "size" {
        quantized.tuning.prefer = Prefer::Size;
    }
    progress::check(&Terminal)?;
    let mut built = build::build(&model, &quantized, &levels, &outputs, args.linker.as_deref())?;
    check_arena(setting.arena, built.arena_bytes)?;
    if let Some(path) = &args.save_bits {
        built
            .files
            .push((path.clone(), bits_file::print(&bits_file::listed(plan, &model.graph)?).into_bytes()));
    }
    if let Some(path) = &args.save_ranges {
        let origin = model.origin(&args.quant.method_name(), &bits, args.quant.samples());
        built.files.push((path.clone(), profile::print(&ranges, &origin)?.into_bytes()));
    }
    progress::check(&Terminal)?;
    artifact::write_all_atomic(&built.files)?;
    let report = Report {
        name: outputs.name.as_str().to_owned(),
        bits,
        isa: levels.iter().map(Target::isa).collect(),
        files: built.files.iter().map(|(path, b)| File { path: path.clone(), bytes: b.len() }).collect(),
        arena_bytes: built.arena_bytes,
        arena_lower_bound: built.arena_lower_bound,
        stack_bytes: built.stack_bytes,
        macs: built.layers.iter().map(|l| l.macs).sum(),
        seconds: start.elapsed().as_secs_f64(),
        layers: built.layers,
        allocation: setting.allocation,
        stages: setting.stages,
        fallbacks: built.fallbacks,
    };
    output::print(json, &report, |r| format!("{}{}", printer.text, human(r, args.explain)))?;
    Ok(Outcome::Done)
}

/// Widths and ranges to compile with.
struct Setting {
    bits: String,
    plan: BitPlan,
    ranges: Ranges,
    arena: Option<f64>,
    allocation: Option<String>,
    stages: Vec<Stage>,
}

/// Those that the user gives, or those that the budgets lead to.
fn setting(args: &Args, model: &Model, preprocess: &Preprocess, target: &Target) -> Result<Setting> {
    if !args.choose.is_asked() {
        let (bits, plan) = args.quant.setting(model)?;
        let calibration = args.quant.calibration(model, preprocess)?;
        let ranges = calibration.ranges(model, &plan, &args.quant.lowering())?;
        return Ok(Setting { bits, plan, ranges, arena: None, allocation: None, stages: Vec::new() });
    }
    if args.quant.has_setting() {
        return Err(Error::new(
            Code::BITS,
            "--budget chooses the bit widths, so --bits and --uniform have no place",
        )
        .help("fix single layers with --pin LAYER=wXaY"));
    }
    let chosen = chain::choose(model, &args.quant, preprocess, &args.choose, &args.cache, target)?;
    Ok(Setting {
        bits: "allocated widths".to_owned(),
        plan: chosen.plan,
        ranges: chosen.ranges,
        arena: chosen.arena,
        allocation: Some(chosen.summary),
        stages: chosen.stages,
    })
}

/// The arena is no sum over layers and hardly depends on the widths: its budget is checked on what was made.
fn check_arena(max: Option<f64>, bytes: usize) -> Result<()> {
    match max.filter(|max| bytes as f64 > *max) {
        Some(max) => Err(Error::new(
            Code::BITS,
            format!("the arena takes {bytes} bytes, more than the {max:.0} allowed"),
        )
        .because("activations of up to 8 bits take a byte each, so bit widths hardly change the arena")
        .help("a smaller input or batch needs less")),
        None => Ok(()),
    }
}

fn human(r: &Report, explain: bool) -> String {
    let mut out = String::new();
    if explain {
        let bits = |b: Option<u8>| b.map_or("-".to_owned(), |b| b.to_string());
        let row = |l: &LayerReport| {
            vec![
                l.name.clone(),
                l.op.clone(),
                bits(l.weights_bits),
                bits(l.activation_bits),
                output::count(l.macs),
                l.kernel.clone(),
                l.remark(),
            ]
        };
        for (isa, layers) in r.isa.iter().zip(std::iter::once(&r.layers).chain(&r.fallbacks)) {
            if r.isa.len() > 1 {
                let _ = writeln!(out, "{isa}");
            }
            let rows: Vec<_> = layers.iter().map(row).collect();
            out.push_str(&output::table(&["layer", "op", "w", "a", "MACs", "kernel", "why"], &rows));
            out.push('\n');
        }
    }
    let _ = writeln!(
        out,
        "{} at {} for {}: {} MACs, arena {} bytes ({:.2} × the lower bound), stack {} bytes, {:.2} s",
        r.name,
        r.bits,
        r.isa.join(", "),
        output::count(r.macs),
        r.arena_bytes,
        r.arena_bytes as f64 / r.arena_lower_bound.max(1) as f64,
        r.stack_bytes,
        r.seconds
    );
    if let Some(allocation) = &r.allocation {
        let _ = writeln!(out, "  {allocation}");
    }
    for stage in &r.stages {
        let from = if stage.cached { "from the cache" } else { "made" };
        let _ = writeln!(out, "  {} {from}, {:.2} s", stage.name, stage.seconds);
    }
    for file in &r.files {
        let _ = writeln!(out, "  {}  {} bytes", Path::display(&file.path), file.bytes);
    }
    out
}

/// Name that `--print-after` gives the lowering.
const LOWER: &str = "lower";

/// Collects the networks that `--print-after` asks for.
struct Printer {
    wanted: Option<String>,
    text: String,
}

impl Printer {
    fn new(wanted: Option<&str>) -> Result<Self> {
        let names: Vec<&str> = ["import", LOWER, "all"]
            .into_iter()
            .chain(goshawk_passes::pipeline::float_passes().iter().map(|(name, _)| *name))
            .collect();
        match wanted.filter(|w| !names.contains(w)) {
            Some(unknown) => Err(Error::new(Code::BITS, format!("there is no pass {unknown}"))
                .help(format!("passes: {}", names.join(", ")))),
            None => Ok(Self { wanted: wanted.map(str::to_owned), text: String::new() }),
        }
    }

    fn wants(&self, pass: &str) -> bool {
        self.wanted.as_deref().is_some_and(|w| w == pass || w == "all")
    }

    fn add(&mut self, pass: &str, graph: &str) {
        let _ = writeln!(self.text, "# after {pass}\n{graph}");
    }
}
