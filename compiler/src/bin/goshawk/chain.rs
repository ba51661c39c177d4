//! `goshawk compile --budget`: the chain from data to bit widths, each stage cached.
use crate::{
    allocate::{self, ChooseArgs, Inputs},
    args::QuantArgs,
    terminal::Terminal,
};
use goshawk_compiler::{
    Code, Error, Result,
    codegen::Target,
    data::{Dataset, Preprocess},
    driver::{
        bits_file,
        cache::{Cache, Stage, content_hash},
        costs::{
            measure::{self, Options},
            table::CostTable,
        },
        model::{Calibration, Model},
        profile,
        sensitivity::{self, Estimator, Exact, Loss, Request, Settings, file},
    },
};
use goshawk_passes::{
    bits::{BitPlan, LayerBits},
    calibrate::Ranges,
    sensitivity::{Metric, krylov},
};
use std::{
    cell::{OnceCell, RefCell},
    path::{Path, PathBuf},
};

/// Where results are kept.
#[derive(clap::Args)]
#[command(next_help_heading = "Cache")]
pub struct CacheArgs {
    /// Folder for results of slow stages; the user's cache folder if left out
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Keep nothing and use nothing that was kept
    #[arg(long, conflicts_with = "cache")]
    no_cache: bool,
}

impl CacheArgs {
    fn open(&self) -> Result<Cache> {
        match (&self.cache, self.no_cache) {
            (_, true) => Cache::new(None),
            (Some(folder), _) => Cache::new(Some(folder)),
            (None, _) => Cache::new(Cache::default_folder().as_deref()),
        }
    }
}

/// What the chain gives the compiler.
pub struct Chosen {
    pub plan: BitPlan,
    pub ranges: Ranges,
    pub stages: Vec<Stage>,
    pub arena: Option<f64>,
    pub summary: String,
}

struct Chain<'a> {
    cache: Cache,
    model: &'a Model,
    quant: &'a QuantArgs,
    preprocess: &'a Preprocess,
    data: &'a Path,
    /// What every stage depends on: model, data, preprocessing, calibration.
    key: Vec<String>,
    observed: OnceCell<Calibration>,
    stages: RefCell<Vec<Stage>>,
}

/// Runs calibrate → sensitivity → costs → allocate.
pub fn choose(
    model: &Model,
    quant: &QuantArgs,
    preprocess: &Preprocess,
    choose: &ChooseArgs,
    cache: &CacheArgs,
    target: &Target,
) -> Result<Chosen> {
    let data = quant.calib().ok_or_else(|| {
        Error::new(Code::DATA, "--budget needs calibration data")
            .because("ranges are calibrated and sensitivities measured on it")
            .help("add --calib PATH; labels beside it are used if there are any")
    })?;
    let words = |what: &dyn std::fmt::Debug| format!("{what:?}");
    let key = vec![
        model.sha256.clone(),
        content_hash(data)?,
        words(preprocess),
        words(&quant.lowering()),
        format!("{} samples, {}", quant.samples(), quant.method_name()),
    ];
    let chain = Chain {
        cache: cache.open()?,
        model,
        quant,
        preprocess,
        data,
        key,
        observed: OnceCell::new(),
        stages: RefCell::new(Vec::new()),
    };
    let profile = chain.sensitivity(choose.metric(), choose.widths())?;
    let table = chain.costs(choose, target)?;
    let isa = measure::isa(target);
    let inputs = Inputs::new(profile, table, Some(model))?;
    let known = inputs.table.cpus.contains_key(&isa);
    if !known && !inputs.table.cpus.is_empty() {
        inputs.table.cpu(Some(&isa))?;
    }
    let task = choose.task(&inputs, known.then_some(isa.as_str()))?;
    // Solving takes less time than hashing its input would.
    let (plan, report) = allocate::solve(&task, None)?;
    let plan = bits_file::parse(&bits_file::print(&plan), "allocation", &model.graph)?;
    let ranges = chain.ranges(&plan)?;
    let totals: Vec<String> = report.budgets.iter().map(|b| b.buys.clone()).collect();
    let summary = format!(
        "{} {:.4e}{}; {}",
        report.minimised,
        report.objective,
        if report.proven { ", proven optimal" } else { "" },
        totals.join("; ")
    );
    Ok(Chosen { plan, ranges, stages: chain.stages.into_inner(), arena: task.arena, summary })
}

impl Chain<'_> {
    fn note(&self, stage: Stage) {
        self.stages.borrow_mut().push(stage);
    }

    /// Ranges for the widths of a plan. The data is observed only if the cache lacks one of them.
    fn ranges(&self, plan: &BitPlan) -> Result<Ranges> {
        let text = bits_file::print(&bits_file::listed(plan, &self.model.graph)?);
        let mut key = self.key.clone();
        key.push(text.clone());
        let read = |bytes: &[u8]| {
            let text = std::str::from_utf8(bytes).map_err(|e| Error::new(Code::DATA, e.to_string()))?;
            profile::parse(text, &self.model.sha256).map(|(ranges, _)| ranges)
        };
        let mut make = || {
            if self.observed.get().is_none() {
                let observed = self.quant.calibration(self.model, self.preprocess)?;
                let _ = self.observed.set(observed);
            }
            let calibration =
                self.observed.get().ok_or_else(|| Error::new(Code::INTERNAL, "the calibration is lost"))?;
            let ranges = calibration.ranges(self.model, plan, &self.quant.lowering())?;
            let origin = self.model.origin(&self.quant.method_name(), "allocated", self.quant.samples());
            Ok(profile::print(&ranges, &origin)?.into_bytes())
        };
        let (ranges, stage) = self.cache.get("calibrate", &key, &read, &mut make)?;
        self.note(stage);
        Ok(ranges)
    }

    fn sensitivity(
        &self,
        metric: Metric,
        widths: &[LayerBits],
    ) -> Result<goshawk_passes::sensitivity::Profile> {
        let options = goshawk_compiler::data::Options {
            preprocess: self.preprocess.clone(),
            labels: None,
            samples: Some(self.quant.samples()),
        };
        let data = Dataset::open(self.data, &self.model.inputs(), &options)?;
        let loss = if data.is_labelled() { Loss::Labels } else { Loss::Own };
        let settings = settings(metric, widths, loss, self.quant.calibration_method());
        let mut key = self.key.clone();
        key.push(settings.words(0));
        if loss == Loss::Labels {
            // Labels are found beside the data: a change of them is a change of the data.
            let labels =
                (0..data.len()).map(|i| data.labels(i).map(<[u32]>::to_vec)).collect::<Result<Vec<_>>>()?;
            key.push(format!("{labels:?}"));
        }
        let read = |bytes: &[u8]| {
            let content = file::decode(bytes)?;
            file::check_model(&content.profile, Some(&self.model.sha256))?;
            Ok(content.profile)
        };
        let mut make = || {
            let profile = sensitivity::run(&Request {
                model: self.model,
                data: &data,
                targets: None,
                settings: &settings,
                threads: self.quant.threads(),
                file: None,
                restart: false,
                progress: &Terminal,
            })?;
            Ok(file::encode(&file::Content { profile, state: None }))
        };
        let (profile, stage) = self.cache.get("sensitivity", &key, &read, &mut make)?;
        self.note(stage);
        Ok(profile)
    }

    /// The given table, or measurements on this machine where a latency is asked for; else none is needed.
    fn costs(&self, choose: &ChooseArgs, target: &Target) -> Result<CostTable> {
        if let Some(path) = choose.costs_path() {
            return CostTable::load(path);
        }
        if !choose.needs_latency() {
            return Ok(CostTable::default());
        }
        let options = Options {
            widths: choose.widths().to_vec(),
            runs: 40,
            cold_bytes: 32 << 20,
            again: false,
            lowering: self.quant.lowering(),
        };
        let mut key = self.key.clone();
        key.extend([measure::isa(target), measure::processor(), format!("{:?}", options.widths)]);
        let read = |bytes: &[u8]| {
            let text = std::str::from_utf8(bytes).map_err(|e| Error::new(Code::DATA, e.to_string()))?;
            CostTable::parse(text)
        };
        let mut make = || {
            let mut table = CostTable::default();
            let ranges = |plan: &BitPlan| self.ranges(plan);
            measure::measure(self.model, &ranges, target, &options, &mut table, &Terminal)?;
            Ok(table.print()?.into_bytes())
        };
        let (table, stage) = self.cache.get("costs", &key, &read, &mut make)?;
        self.note(stage);
        Ok(table)
    }
}

/// What the chosen metric needs, and no more.
fn settings(
    metric: Metric,
    widths: &[LayerBits],
    loss: Loss,
    calibration: goshawk_passes::calibrate::Method,
) -> Settings {
    let more = match metric {
        Metric::Trace | Metric::GaussNewton | Metric::ChannelTrace => Some(Estimator::GaussNewton),
        Metric::Hutchinson => Some(Estimator::Hutchinson),
        Metric::Eigenvalue => Some(Estimator::Eigenvalues),
        Metric::Fisher => Some(Estimator::Fisher),
        Metric::Measured => Some(Estimator::Measured),
        Metric::Error => None,
    };
    Settings {
        estimators: [Estimator::Errors].into_iter().chain(more).collect(),
        loss,
        // Pinned layers have 8 bits whatever the candidates are.
        widths: widths.iter().flat_map(|b| [b.weights, b.activations]).chain([8]).collect(),
        tolerance: 0.05,
        max_probes: 64,
        exact: Exact::Auto,
        per_layer: false,
        top: 1,
        eigen_method: krylov::Method::Lanczos,
        eigen_tolerance: 1e-3,
        eigen_products: 60,
        eigen_samples: 64,
        measure: widths.iter().map(|b| (b.weights, b.activations)).chain([(8, 8)]).collect(),
        spectra: Vec::new(),
        spectrum_steps: 64,
        spectrum_runs: 4,
        calibration,
        batch: None,
        memory: 1 << 30,
        seed: 0,
    }
}
