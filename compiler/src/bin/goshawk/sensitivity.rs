//! `goshawk sensitivity`: how much the loss depends on the precision of each layer.
use crate::{
    Outcome,
    args::{ImportArgs, PreprocessArgs},
    output,
    terminal::Terminal,
};
use goshawk_compiler::{
    Code, Error, Result, artifact,
    data::{self, Dataset, InputSpec},
    driver::{
        model::{DEFAULT_METHOD, Model},
        parallel,
        sensitivity::{self, Estimator, Exact, Loss, Request, Settings, file, html, import, json},
    },
};
use goshawk_passes::{
    calibrate::Method,
    sensitivity::{
        Estimate, FLOAT, LayerProfile, Metric, Profile,
        agreement::{self, Agreement},
        krylov,
    },
};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Instant,
};

/// Measure how sensitive the loss is to the precision of each layer: Hessian traces and eigenvalues, Fisher information,
/// quantization errors, and layers quantized one at a time
#[derive(clap::Args)]
pub struct Args {
    /// ONNX model
    model: PathBuf,
    /// Samples: .npy, .npz, idx, a folder of images, a PNG with --rows
    #[arg(long, alias = "calib", value_name = "PATH")]
    data: Option<PathBuf>,
    /// Labels: .json, .txt, .csv, .npy or idx; found by itself as labels.* in the folder or NAME_labels.* beside the file
    #[arg(long, value_name = "FILE", requires = "data")]
    labels: Option<PathBuf>,
    /// Targets of `--loss mse`: one array for each network output
    #[arg(long, value_name = "FILE.npz", requires = "data")]
    targets: Option<PathBuf>,
    /// Profile to write; an interrupted run continues from it
    #[arg(short = 'o', long = "output", value_name = "FILE.sens")]
    output: Option<PathBuf>,
    /// Samples, evenly spread over the set
    #[arg(long, value_name = "N", default_value_t = 256)]
    samples: usize,
    /// What to compute: errors, gauss-newton, fisher, hutchinson, eigenvalues, measured
    #[arg(long, value_name = "NAME,…", value_delimiter = ',',
          default_values = ["errors", "gauss-newton", "fisher", "eigenvalues"])]
    methods: Vec<Estimator>,
    /// labels, own (the network's own prediction; the default without labels), mse, own-mse
    #[arg(long, value_name = "NAME")]
    loss: Option<Loss>,
    /// Metric of the Omega columns: trace, channel-trace, eigenvalue, fisher …
    #[arg(long, value_name = "NAME", default_value = "trace")]
    metric: Metric,
    /// Widths of the quantization errors
    #[arg(long, value_name = "BITS,…", value_delimiter = ',', default_values_t = [2, 3, 4, 5, 6, 7, 8])]
    widths: Vec<u8>,
    #[command(flatten)]
    probes: ProbeArgs,
    /// Calibration: min-max, moving-average, percentile[:P] (default, P = 99.99), mse, kl
    #[arg(long, value_name = "NAME", value_parser = |t: &str| t.parse::<Method>().map_err(|e| e.to_string()))]
    method: Option<Method>,
    /// Threads; 0 for all cores
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Replace an unfinished run of other settings
    #[arg(long)]
    restart: bool,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    preprocess: PreprocessArgs,
    #[command(flatten)]
    import: ImportArgs,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Estimators")]
struct ProbeArgs {
    /// Probe until the standard error of every layer's trace is below this share of it
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    tolerance: f64,
    /// Probes at most
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_probes: u64,
    /// Gauss-Newton traces by one pass for each class instead of noise: auto (up to 16 classes), always, never
    #[arg(long, value_name = "WHEN", default_value = "auto", value_parser = exact)]
    exact: Exact,
    /// Hutchinson probes of one layer at a time, as in HAWQ-V2, instead of all at once
    #[arg(long)]
    per_layer: bool,
    /// Eigenvalues of each layer
    #[arg(long, value_name = "K", default_value_t = 1)]
    top: usize,
    /// How they are found: lanczos, or power (iteration with deflation, as in HAWQ)
    #[arg(long, value_name = "NAME", default_value = "lanczos", value_parser = eigen)]
    eigen: krylov::Method,
    /// Their relative error
    #[arg(long, value_name = "SHARE", default_value_t = 1e-3)]
    eigen_tolerance: f64,
    /// Hessian-vector products at most (for each eigenvalue, with power iteration)
    #[arg(long, value_name = "N", default_value_t = 60)]
    eigen_products: usize,
    /// Samples for eigenvalues and spectra
    #[arg(long, value_name = "N", default_value_t = 64)]
    eigen_samples: usize,
    /// Widths at which each layer alone is quantized and the loss measured: w4a32 (weights only), w32a4, w4a4 …
    #[arg(long, value_name = "wXaY,…", value_delimiter = ',', value_parser = json::widths)]
    measure: Vec<(u8, u8)>,
    /// Layers whose spectral density to compute, by stochastic Lanczos quadrature
    #[arg(long, value_name = "LAYER,…", value_delimiter = ',')]
    spectrum: Vec<String>,
    /// Lanczos steps of a spectrum
    #[arg(long, value_name = "N", default_value_t = 64)]
    spectrum_steps: usize,
    /// Random start vectors of a spectrum
    #[arg(long, value_name = "N", default_value_t = 4)]
    spectrum_runs: usize,
    /// Samples that are differentiated at once; as many as fit into --memory, at most 128, if left out
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// MiB that linearised batches may take
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory: usize,
    /// Seed of all probes
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Files")]
struct FileArgs {
    /// Write a report that any browser shows
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
    /// Write the profile as JSON
    #[arg(long, value_name = "FILE.json")]
    export: Option<PathBuf>,
    /// Read a profile from JSON, for example figures of another tool
    #[arg(long, value_name = "FILE.json", value_delimiter = ',')]
    import: Vec<PathBuf>,
    /// Read profiles and merge them
    #[arg(long, value_name = "FILE.sens", value_delimiter = ',')]
    merge: Vec<PathBuf>,
}

fn exact(text: &str) -> std::result::Result<Exact, String> {
    match text {
        "auto" => Ok(Exact::Auto),
        "always" => Ok(Exact::Always),
        "never" => Ok(Exact::Never),
        _ => Err("expected auto, always or never".into()),
    }
}

fn eigen(text: &str) -> std::result::Result<krylov::Method, String> {
    match text {
        "lanczos" => Ok(krylov::Method::Lanczos),
        "power" => Ok(krylov::Method::Power),
        _ => Err("expected lanczos or power".into()),
    }
}

#[derive(Serialize)]
struct Report {
    seconds: f64,
    file: Option<PathBuf>,
    agreement: Vec<AgreementLine>,
    /// As `--export` writes it.
    profile: serde_json::Value,
}

#[derive(Serialize)]
struct AgreementLine {
    metric: &'static str,
    widths: String,
    layers: usize,
    spearman: f64,
    kendall: f64,
    spearman_divergence: f64,
    log_pearson: Option<f64>,
}

impl From<&Agreement> for AgreementLine {
    fn from(a: &Agreement) -> Self {
        Self {
            metric: a.metric.name(),
            widths: html::pair(a.bits.0, a.bits.1),
            layers: a.layers,
            spearman: a.spearman,
            kendall: a.kendall,
            spearman_divergence: a.divergence,
            log_pearson: a.log_pearson,
        }
    }
}

pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let start = Instant::now();
    let model = args.import.load(&args.model)?;
    let profile = profile(args, &model)?;
    let title = args.model.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let text = json::print(&profile)?;
    let mut files: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    if let Some(path) = &args.output {
        files.push((path.clone(), file::encode(&file::Content { profile: profile.clone(), state: None })));
    }
    if let Some(path) = &args.files.export {
        files.push((path.clone(), text.clone().into_bytes()));
    }
    if let Some(path) = &args.files.html {
        files.push((path.clone(), html::page(&profile, &title).into_bytes()));
    }
    artifact::write_all_atomic(&files)?;
    let agreements = agreement::agreements(&profile);
    let report = Report {
        seconds: start.elapsed().as_secs_f64(),
        file: args.output.clone(),
        agreement: agreements.iter().map(Into::into).collect(),
        profile: serde_json::from_str(&text).map_err(|e| {
            Error::new(Code::INTERNAL, "the profile's JSON does not read back").because(e.to_string())
        })?,
    };
    output::print(json, &report, |r| human(&profile, args.metric, &agreements, r))?;
    Ok(Outcome::Done)
}

/// What the run gives, with what was imported and merged.
fn profile(args: &Args, model: &Model) -> Result<Profile> {
    let mut parts = Vec::new();
    if let Some(path) = &args.data {
        parts.push(measure(args, model, path)?);
    }
    for path in &args.files.merge {
        parts.push(file::load(path, Some(&model.sha256))?);
    }
    for path in &args.files.import {
        parts.push(import::load(path, model)?);
    }
    let mut parts = parts.into_iter();
    let Some(first) = parts.next() else {
        return Err(Error::new(Code::DATA, "nothing to do").because("no data and no profile was given").help(
            "add --data PATH to measure; --merge FILE.sens or --import FILE.json to work on what was measured before",
        ));
    };
    parts.try_fold(first, |a, b| a.merge(b).map_err(|e| Error::from_ir(Code::DATA, e)))
}

fn measure(args: &Args, model: &Model, path: &Path) -> Result<Profile> {
    let preprocess = args.preprocess.spec()?;
    let options = data::Options { preprocess, labels: args.labels.clone(), samples: Some(args.samples) };
    let set = Dataset::open(path, &model.inputs(), &options)?;
    let outputs: Vec<InputSpec> = model
        .graph
        .outputs
        .iter()
        .map(|p| InputSpec { name: p.name.clone(), shape: model.graph.ty(p.node).shape.clone() })
        .collect();
    let targets = match &args.targets {
        Some(path) => {
            let options = data::Options { samples: Some(args.samples), ..data::Options::default() };
            Some(Dataset::open(path, &outputs, &options)?)
        }
        None => None,
    };
    let loss = args.loss.unwrap_or(match (&targets, set.is_labelled()) {
        (Some(_), _) => Loss::Mse,
        (None, true) => Loss::Labels,
        (None, false) => Loss::Own,
    });
    let settings = settings(args, loss);
    let threads = parallel::threads(args.threads);
    sensitivity::run(&Request {
        model,
        data: &set,
        targets: targets.as_ref(),
        settings: &settings,
        threads,
        file: args.output.as_deref(),
        restart: args.restart,
        progress: &Terminal,
    })
}

fn settings(args: &Args, loss: Loss) -> Settings {
    let p = &args.probes;
    let mut estimators: BTreeSet<Estimator> = args.methods.iter().copied().collect();
    if !p.measure.is_empty() {
        estimators.insert(Estimator::Measured);
    }
    let measure = match p.measure.is_empty() {
        true => vec![(4, FLOAT), (FLOAT, 4), (4, 4)],
        false => p.measure.clone(),
    };
    Settings {
        estimators,
        loss,
        widths: args.widths.iter().copied().collect(),
        tolerance: p.tolerance,
        max_probes: p.max_probes,
        exact: p.exact,
        per_layer: p.per_layer,
        top: p.top,
        eigen_method: p.eigen,
        eigen_tolerance: p.eigen_tolerance,
        eigen_products: p.eigen_products,
        eigen_samples: p.eigen_samples,
        measure,
        spectra: p.spectrum.clone(),
        spectrum_steps: p.spectrum_steps,
        spectrum_runs: p.spectrum_runs,
        calibration: args.method.unwrap_or(DEFAULT_METHOD),
        batch: p.batch,
        memory: p.memory << 20,
        seed: p.seed,
    }
}

fn human(profile: &Profile, metric: Metric, agreements: &[Agreement], report: &Report) -> String {
    let cell = |v: Option<f64>| v.map(|v| format!("{v:.3e}")).unwrap_or_default();
    let error =
        |e: Option<Estimate>| e.map(|e| format!("{:.1}", 100.0 * e.relative_error())).unwrap_or_default();
    let row = |l: &LayerProfile| {
        vec![
            l.name.clone(),
            output::count(l.parameters),
            cell(l.weight_trace().map(|e| e.mean)),
            error(l.weight_trace()),
            cell(l.activation_trace().map(|e| e.mean)),
            error(l.activation_trace()),
            cell(l.weights.eigenvalues.first().map(|e| e.value)),
            cell(l.weights.fisher.map(|e| e.mean)),
            cell(l.omega(metric, 4, FLOAT).ok().map(|e| e.mean)),
            cell(l.omega(metric, FLOAT, 4).ok().map(|e| e.mean)),
        ]
    };
    let rows: Vec<_> = profile.layers.iter().map(row).collect();
    let heading = [
        "layer",
        "weights",
        "trace/n",
        "±%",
        "activations",
        "±%",
        "eigenvalue",
        "Fisher/n",
        "Omega w4",
        "Omega a4",
    ];
    let mut out = output::table(&heading, &rows);
    let curved = profile.layers.iter().filter(|l| l.is_curved()).count();
    let first = profile.layers.iter().find_map(|l| l.curved_by.as_deref());
    out.push_str(&match first {
        None => "Gauss-Newton traces are exact Hessian traces: piecewise linear network, or a loss without gradient.\n".to_owned(),
        Some(by) => format!(
            "Gauss-Newton traces are an approximation in {curved} of {} layers (smooth activations: {by}); \
             --methods hutchinson estimates the Hessian's own.\n",
            profile.layers.len()
        ),
    });
    if !agreements.is_empty() {
        let rows: Vec<_> = agreements
            .iter()
            .map(|a| {
                vec![
                    a.metric.name().to_owned(),
                    html::pair(a.bits.0, a.bits.1),
                    a.layers.to_string(),
                    format!("{:.3}", a.spearman),
                    format!("{:.3}", a.kendall),
                    format!("{:.3}", a.divergence),
                ]
            })
            .collect();
        out.push_str(
            "\nRank correlation with the measured rise of the loss, one layer quantized at a time:\n",
        );
        out.push_str(&output::table(
            &["metric", "widths", "layers", "Spearman", "Kendall", "Spearman, divergence"],
            &rows,
        ));
    }
    let order = profile.fine_tuning_order(&|_| 4);
    if !order.is_empty() {
        let names = |list: &[(String, f64)]| {
            list.iter().take(8).map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", ")
        };
        out.push_str(&format!("\nHAWQ, most sensitive first (λ/n): {}\n", names(&profile.bit_ranking())));
        out.push_str(&format!("HAWQ, fine-tune first (λ·‖ΔW‖² at 4 bits): {}\n", names(&order)));
    }
    out.push_str(&format!(
        "\n{} samples, loss {}, {:.1} s{}\n",
        profile.origin.samples,
        profile.origin.loss,
        report.seconds,
        report.file.as_ref().map_or_else(String::new, |f| format!(", in {}", f.display()))
    ));
    out
}
