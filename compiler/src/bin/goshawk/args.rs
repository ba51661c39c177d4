//! Options that several commands share.
use crate::terminal::Terminal;
use clap::Args;
use goshawk_compiler::{
    Code, Error, Result,
    codegen::Target,
    data::{
        self, Dataset, InputSpec, Preprocess,
        spec::{Affine, Channels, DataLayout, PerChannel, Size},
    },
    driver::{
        bits_file,
        model::{Calibration, DEFAULT_METHOD, Model, Quantized},
    },
    import,
};
use goshawk_passes::{
    bits::{BitPlan, LayerBits},
    calibrate::Method,
    lower,
};
use std::path::{Path, PathBuf};

/// How to import a model.
#[derive(Args)]
#[command(next_help_heading = "Import")]
pub struct ImportArgs {
    /// Fix a symbolic dimension, for example N=1
    #[arg(long, value_name = "NAME=N", value_parser = dimension)]
    set_dim: Vec<(String, usize)>,
    /// Folder from which weights outside of the model file may be read
    #[arg(long, value_name = "DIR")]
    external_data: Option<PathBuf>,
}

impl ImportArgs {
    pub fn options(&self) -> import::Options {
        import::Options {
            set_dims: self.set_dim.iter().cloned().collect(),
            external_data: self.external_data.clone(),
            ..import::Options::default()
        }
    }

    pub fn load(&self, model: &Path) -> Result<Model> {
        Model::load(model, &self.options(), &mut |_, _| {})
    }
}

/// What happens to data on its way into the network.
#[derive(Args)]
#[command(next_help_heading = "Preprocessing (value = (pixel * scale - mean) / std)")]
pub struct PreprocessArgs {
    /// Preset `imagenet`, or a TOML file with the keys below; flags override it
    #[arg(long, value_name = "SPEC")]
    preprocess: Option<String>,
    /// Resize images first, bilinear: shortest side, or H,W
    #[arg(long, value_name = "N|H,W", value_parser = size)]
    resize: Option<Size>,
    /// Then cut out the centre: one side, or H,W
    #[arg(long, value_name = "N|H,W", value_parser = size)]
    crop: Option<Size>,
    /// Factor of the pixels
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    scale: Option<f32>,
    /// Subtracted after scaling: one value, or one for each channel
    #[arg(long, value_name = "X,…", value_parser = per_channel, allow_hyphen_values = true)]
    mean: Option<PerChannel>,
    /// Divisor after that: one value, or one for each channel
    #[arg(long, value_name = "X,…", value_parser = per_channel)]
    std: Option<PerChannel>,
    /// Channel order that the network expects
    #[arg(long, value_name = "rgb|bgr", value_parser = channels)]
    channels: Option<Channels>,
    /// Layout of arrays in files
    #[arg(long, value_name = "nchw|nhwc", value_parser = layout)]
    layout: Option<DataLayout>,
    /// The data is a PNG whose row i holds image i
    #[arg(long, value_name = "H,W,C", value_parser = rows)]
    rows: Option<[usize; 3]>,
    /// Integer features: value = SCALE * (q - ZERO_POINT)
    #[arg(long, value_name = "SCALE,ZERO_POINT", value_parser = affine)]
    affine: Option<Affine>,
}

impl PreprocessArgs {
    pub fn spec(&self) -> Result<Preprocess> {
        let base = self.preprocess.as_deref().map_or_else(|| Ok(Preprocess::default()), Preprocess::load)?;
        let spec = base.overridden(Preprocess {
            resize: self.resize,
            crop: self.crop,
            scale: self.scale,
            mean: self.mean.clone(),
            std: self.std.clone(),
            channels: self.channels,
            layout: self.layout,
            rows: self.rows,
            affine: self.affine,
        });
        spec.validate()?;
        Ok(spec)
    }
}

/// How to quantize.
#[derive(Args)]
#[command(next_help_heading = "Quantization")]
pub struct QuantArgs {
    /// Calibration data: .npy, .npz, idx, a folder of images, a PNG with --rows
    #[arg(long, value_name = "PATH", conflicts_with = "ranges")]
    calib: Option<PathBuf>,
    /// Calibration profile made by `goshawk calibrate`
    #[arg(long, value_name = "FILE")]
    ranges: Option<PathBuf>,
    /// Calibration samples, evenly spread over the set
    #[arg(long, value_name = "N", default_value_t = 100)]
    samples: usize,
    /// Calibration: min-max, moving-average, percentile[:P] (default, P = 99.99), mse, kl
    #[arg(long, value_name = "NAME", value_parser = method)]
    method: Option<Method>,
    /// Bit widths of the layers: TOML file
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    bits: Vec<PathBuf>,
    /// The same widths in every layer but the first and last: w8a8, w4a8, w4a4
    #[arg(long, value_name = "wXaY", value_delimiter = ',')]
    uniform: Vec<String>,
    /// Width of the grid of residual sums: 8 or 16
    #[arg(long, value_name = "BITS", default_value_t = 16)]
    residual_bits: u8,
    /// Width of the network outputs: 8 or 16
    #[arg(long, value_name = "BITS", default_value_t = 16)]
    output_bits: u8,
    /// Threads; 0 for all cores
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

impl QuantArgs {
    pub fn threads(&self) -> usize {
        goshawk_compiler::driver::parallel::threads(self.threads)
    }

    pub fn lowering(&self) -> lower::Options {
        lower::Options {
            residual_bits: self.residual_bits,
            output_bits: self.output_bits,
            ..lower::Options::default()
        }
    }

    /// Settings by name, at least one: those of `--uniform`, then those of `--bits`; w8a8 without either.
    pub fn settings(&self, model: &Model) -> Result<Vec<(String, BitPlan)>> {
        let mut settings = Vec::new();
        for text in &self.uniform {
            let plan = BitPlan::uniform(text)
                .map_err(|e| Error::from_ir(Code::BITS, e).at(format!("--uniform {text}")))?;
            settings.push((text.clone(), plan));
        }
        for path in &self.bits {
            settings.push((path.display().to_string(), bits_file::load(path, &model.graph)?));
        }
        if settings.is_empty() {
            let plan = BitPlan::uniform("w8a8").map_err(|e| Error::internal(&e))?;
            settings.push(("w8a8".to_owned(), plan));
        }
        Ok(settings)
    }

    /// The only setting.
    pub fn setting(&self, model: &Model) -> Result<(String, BitPlan)> {
        let mut settings = self.settings(model)?;
        match (settings.pop(), settings.is_empty()) {
            (Some(one), true) => Ok(one),
            _ => Err(Error::new(Code::BITS, "this command takes one setting of bit widths")
                .help("give either one --uniform or one --bits")),
        }
    }

    /// The data, or the profile.
    pub fn calibration(&self, model: &Model, preprocess: &Preprocess) -> Result<Calibration> {
        match (&self.calib, &self.ranges) {
            (Some(path), None) => {
                let options = data::Options {
                    preprocess: preprocess.clone(),
                    labels: None,
                    samples: Some(self.samples),
                };
                let data = Dataset::open(path, &model.inputs(), &options)?;
                let method = self.method.unwrap_or(DEFAULT_METHOD);
                model.observe(&data, method, self.threads(), &Terminal).map(Calibration::Observed)
            }
            (None, Some(path)) => model.load_ranges(path).map(Calibration::Fixed),
            _ => Err(Error::new(Code::DATA, "no calibration data")
                .because("activations are quantized by ranges that are measured on data")
                .help("add --calib PATH (a hundred typical inputs do), or --ranges FILE made by `goshawk calibrate`")),
        }
    }

    /// Quantizes the model with one setting.
    pub fn quantize(&self, model: &Model, plan: &BitPlan, calibration: &Calibration) -> Result<Quantized> {
        let options = self.lowering();
        let ranges = calibration.ranges(model, plan, &options)?;
        model.lower(&ranges, plan, &options)
    }

    /// Name of the calibration method, for profiles.
    pub fn method_name(&self) -> String {
        self.method.unwrap_or(DEFAULT_METHOD).to_string()
    }

    /// The calibration data.
    pub fn calib(&self) -> Option<&Path> {
        self.calib.as_deref()
    }

    /// Whether bit widths were given.
    pub fn has_setting(&self) -> bool {
        !self.bits.is_empty() || !self.uniform.is_empty()
    }

    /// The calibration method.
    pub fn calibration_method(&self) -> Method {
        self.method.unwrap_or(DEFAULT_METHOD)
    }

    pub fn samples(&self) -> usize {
        self.samples
    }
}

/// A labelled or unlabelled set to run the network on.
#[derive(Args)]
#[command(next_help_heading = "Data")]
pub struct DataArgs {
    /// Data: .npy, .npz, idx, a folder of images, a PNG with --rows
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// Labels: .json, .txt, .csv, .npy or idx; found by itself as labels.* in the folder or NAME_labels.* beside the file
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Use only this many samples, evenly spread over the set
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

impl DataArgs {
    pub fn open(
        &self,
        inputs: &[InputSpec],
        preprocess: &Preprocess,
        limit: Option<usize>,
    ) -> Result<Dataset> {
        let options = data::Options {
            preprocess: preprocess.clone(),
            labels: self.labels.clone(),
            samples: self.limit.or(limit),
        };
        Dataset::open(&self.data, inputs, &options)
    }
}

/// What to generate code for.
#[derive(Args)]
#[command(next_help_heading = "Target")]
pub struct TargetArgs {
    /// Triple, for example aarch64-unknown-linux-gnu; this machine's if left out
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
    /// CPU: native, x86-64, x86-64-v3, x86-64-v4, avx512vnni …, with +feature and -feature behind; several between commas give
    /// code for each, and the CPU's best is chosen at run time
    #[arg(long, value_name = "CPU,…")]
    target_cpu: Option<String>,
}

impl TargetArgs {
    /// The only CPU that was named.
    pub fn target(&self) -> Result<Target> {
        let mut levels = self.levels()?;
        match levels.len() {
            1 => Ok(levels.remove(0)),
            n => Err(Error::new(Code::TARGET, format!("{n} CPUs in --target-cpu, this command takes one"))
                .help("name one; `goshawk compile` makes libraries for several")),
        }
    }

    /// All CPUs that were named, best first.
    pub fn levels(&self) -> Result<Vec<Target>> {
        let default = if self.target.is_none() { "native" } else { "" };
        Target::parse_levels(self.target.as_deref(), self.target_cpu.as_deref().unwrap_or(default))
    }
}

/// Numbers between commas.
fn numbers<T: std::str::FromStr>(text: &str) -> std::result::Result<Vec<T>, String> {
    text.split(',').map(|t| t.trim().parse().map_err(|_| format!("{t:?} is not a number"))).collect()
}

fn dimension(text: &str) -> std::result::Result<(String, usize), String> {
    let (name, n) = text.split_once('=').ok_or("expected NAME=N")?;
    match n.parse() {
        Ok(n) if n > 0 && !name.is_empty() => Ok((name.to_owned(), n)),
        _ => Err("expected NAME=N with N of at least 1".into()),
    }
}

fn size(text: &str) -> std::result::Result<Size, String> {
    match numbers(text)?.as_slice() {
        [n] => Ok(Size::One(*n)),
        [h, w] => Ok(Size::Both([*h, *w])),
        _ => Err("expected N or H,W".into()),
    }
}

fn per_channel(text: &str) -> std::result::Result<PerChannel, String> {
    let values = numbers(text)?;
    Ok(if let [one] = values[..] { PerChannel::One(one) } else { PerChannel::Each(values) })
}

fn channels(text: &str) -> std::result::Result<Channels, String> {
    match text {
        "rgb" => Ok(Channels::Rgb),
        "bgr" => Ok(Channels::Bgr),
        _ => Err("expected rgb or bgr".into()),
    }
}

fn layout(text: &str) -> std::result::Result<DataLayout, String> {
    match text {
        "nchw" => Ok(DataLayout::Nchw),
        "nhwc" => Ok(DataLayout::Nhwc),
        _ => Err("expected nchw or nhwc".into()),
    }
}

fn rows(text: &str) -> std::result::Result<[usize; 3], String> {
    <[usize; 3]>::try_from(numbers(text)?).map_err(|_| "expected H,W,C".into())
}

fn affine(text: &str) -> std::result::Result<Affine, String> {
    let (scale, zero_point) = text.split_once(',').ok_or("expected SCALE,ZERO_POINT")?;
    match (scale.trim().parse(), zero_point.trim().parse()) {
        (Ok(scale), Ok(zero_point)) => Ok(Affine { scale, zero_point }),
        _ => Err("expected SCALE,ZERO_POINT".into()),
    }
}

/// Candidate widths of allocations, and so of the cost tables that they read.
pub const WIDTHS: &str = "w8a8,w8a6,w6a7,w4a8,w4a6,w4a4";

/// One pair of widths, `w4a8`.
pub fn widths(text: &str) -> std::result::Result<LayerBits, String> {
    LayerBits::parse(text).map_err(|e| e.to_string())
}

/// A layer and its widths, `conv1=w8a8`; names may hold `=`.
pub fn pin(text: &str) -> std::result::Result<(String, LayerBits), String> {
    let (name, bits) = text.rsplit_once('=').ok_or("expected LAYER=wXaY")?;
    Ok((name.to_owned(), widths(bits)?))
}

fn method(text: &str) -> std::result::Result<Method, String> {
    text.parse::<Method>().map_err(|e| e.to_string())
}
