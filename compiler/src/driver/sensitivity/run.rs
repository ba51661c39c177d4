//! A sensitivity run: stages that fill a profile, each of which can stop and go on.
use super::{
    file::{self, Content},
    samples::Samples,
    settings::{Estimator, Settings},
    state::State,
};
use crate::{
    Code, Error, Result,
    data::Dataset,
    driver::{
        model::Model,
        parallel::Threads,
        progress::{self, Progress},
    },
    import,
};
use goshawk_ir::FloatGraph;
use goshawk_passes::{
    gradient::{Engine, Keep},
    sensitivity::{
        LayerProfile, Origin, Profile,
        layers::{self, Layer},
        probes::{self, Slot},
        profile::VERSION,
    },
};
use std::{
    ops::Range,
    path::Path,
    time::{Duration, Instant},
};

/// Unless the user chooses: what fits into caches and pays for the threads.
const MAX_BATCH: usize = 128;
/// At least so much time between two writes of the file.
const WRITE_EVERY: Duration = Duration::from_secs(5);

/// What a run is about.
pub struct Request<'a> {
    /// The network.
    pub model: &'a Model,
    /// Samples.
    pub data: &'a Dataset,
    /// Targets of the loss `mse`.
    pub targets: Option<&'a Dataset>,
    /// What to compute.
    pub settings: &'a Settings,
    /// Threads.
    pub threads: usize,
    /// File in which the run keeps its progress and leaves its result.
    pub file: Option<&'a Path>,
    /// Forget an unfinished run of other settings in that file.
    pub restart: bool,
    /// Shown to the user.
    pub progress: &'a dyn Progress,
}

/// A run at work.
pub struct Run<'a> {
    pub(super) request: &'a Request<'a>,
    pub(super) samples: Samples,
    pub(super) layers: Vec<Layer>,
    pub(super) engine: Engine<f32>,
    pub(super) slots: Vec<Slot>,
    pub(super) batch: usize,
    pub(super) profile: Profile,
    pub(super) state: State,
    pub(super) workers: Threads,
    written: Instant,
}

/// Runs, or goes on with what the file holds.
///
/// # Errors
/// [`Code::DATA`], [`Code::QUANTIZE`], [`Code::UNSUPPORTED`] where an operator has no derivative, [`Code::FILE`];
/// [`Code::INTERRUPTED`] with a file that the same command goes on from.
pub fn run(request: &Request<'_>) -> Result<Profile> {
    request.settings.check()?;
    let mut run = Run::new(request)?;
    if run.resume()? {
        return Ok(run.profile);
    }
    let result = run.stages();
    if let Err(error) = result {
        if error.code != Code::INTERRUPTED {
            return Err(error);
        }
        run.write()?;
        return Err(match request.file {
            Some(path) => error
                .help(format!("{} holds what is done: the same command goes on from there", path.display())),
            None => error,
        });
    }
    if let Some(path) = request.file {
        file::save(path, &run.profile)?;
    }
    Ok(run.profile)
}

impl<'a> Run<'a> {
    fn new(request: &'a Request<'a>) -> Result<Self> {
        let Request { model, settings, .. } = request;
        let samples =
            Samples::load(request.data, request.targets, settings.loss, request.threads, request.progress)?;
        let layers = layers::all(&model.graph).map_err(|e| Error::internal(&e))?;
        if layers.is_empty() {
            return Err(Error::new(Code::DATA, "the network has no layers with constant weights")
                .because("sensitivity is a property of layers whose width can be chosen"));
        }
        let tapped = layers::tapped(&model.graph).map_err(|e| Error::internal(&e))?;
        let engine = Engine::new(&tapped).map_err(|e| {
            Error::from_ir(Code::UNSUPPORTED, e)
                .help("only differentiable networks have second-order information; `--methods errors,measured` works without")
        })?;
        let slots = probes::slots(&engine, &layers);
        let fit = (1..=MAX_BATCH.min(samples.len()))
            .rev()
            .find(|n| engine.memory(*n, Keep::Everything) <= settings.memory);
        let batch = settings.batch.unwrap_or(fit.unwrap_or(1)).clamp(1, samples.len().max(1));
        let origin = Origin {
            tool: "goshawk".into(),
            data_sha256: samples.sha256.clone(),
            samples: samples.len() as u64,
            loss: settings.loss.to_string(),
            calibration: settings.calibration.to_string(),
            seed: settings.seed,
            settings: settings.words(batch),
        };
        let profile = Profile {
            version: VERSION,
            model_sha256: model.sha256.clone(),
            origin,
            layers: describe(&model.graph, &layers),
            ..Profile::default()
        };
        let workers = Threads(request.threads);
        let (state, written) = (State::default(), Instant::now());
        let mut run =
            Self { request, samples, layers, engine, slots, batch, profile, state, workers, written };
        run.name_curvature();
        Ok(run)
    }

    /// Takes over what the file holds; whether nothing is left to do.
    fn resume(&mut self) -> Result<bool> {
        let Some(path) = self.request.file.filter(|p| p.is_file()) else { return Ok(false) };
        // What is not one of ours is not ours to replace.
        let Content { profile, state } = file::read(path, None).map_err(|e| {
            e.help(format!("{} is not overwritten: give another -o, or remove it", path.display()))
        })?;
        let same = profile.model_sha256 == self.profile.model_sha256 && profile.origin == self.profile.origin;
        match state {
            _ if self.request.restart => Ok(false),
            None if same => {
                self.profile = profile;
                Ok(true)
            }
            None => Ok(false),
            Some(state) if same => {
                (self.profile, self.state) = (profile, state);
                Ok(false)
            }
            Some(_) => {
                let (then, now) = (&profile.origin, &self.profile.origin);
                let difference = match () {
                    () if profile.model_sha256 != self.profile.model_sha256 => {
                        "it is of another model".into()
                    }
                    () if then.data_sha256 != now.data_sha256 => "it is of other data".into(),
                    () => format!(
                        "it has other settings:\n    then: {}\n    now:  {}",
                        then.settings, now.settings
                    ),
                };
                Err(Error::new(Code::DATA, format!("{} holds another, unfinished run", path.display()))
                    .because(difference)
                    .help("add --restart to replace it, or give another -o"))
            }
        }
    }

    fn stages(&mut self) -> Result<()> {
        type Stage<T> = fn(&mut T) -> Result<()>;
        let stages: [(Estimator, Stage<Self>); 6] = [
            (Estimator::Errors, Self::errors),
            (Estimator::GaussNewton, Self::gauss_newton),
            (Estimator::Fisher, Self::fisher),
            (Estimator::Hutchinson, Self::hutchinson),
            (Estimator::Eigenvalues, Self::eigenvalues),
            (Estimator::Measured, Self::measured),
        ];
        for (estimator, stage) in stages {
            if self.request.settings.estimators.contains(&estimator) {
                self.stage(estimator.name(), stage)?;
            }
        }
        self.stage("spectra", Self::spectra)
    }

    fn stage(&mut self, name: &str, stage: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if self.state.done.contains(name) {
            return Ok(());
        }
        let result = stage(self);
        self.request.progress.end();
        result?;
        self.state.done.insert(name.to_owned());
        self.state.traces.remove(name);
        self.write()
    }

    /// After each piece of work: writes the file if it is time, and stops if the user wants to.
    pub(super) fn checkpoint(&mut self) -> Result<()> {
        self.request.progress.step();
        progress::check(self.request.progress)?;
        if self.written.elapsed() >= WRITE_EVERY { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        let Some(path) = self.request.file else { return Ok(()) };
        file::write(path, &Content { profile: self.profile.clone(), state: Some(self.state.clone()) })?;
        self.written = Instant::now();
        Ok(())
    }

    /// Consecutive samples that are differentiated together, of the first `count` of `every`-th samples.
    pub(super) fn batches(&self) -> Vec<Range<usize>> {
        let n = self.samples.len();
        (0..n).step_by(self.batch).map(|start| start..n.min(start + self.batch)).collect()
    }

    /// The network itself.
    pub(super) fn graph(&self) -> &'a FloatGraph {
        &self.request.model.graph
    }

    /// A layer's side of the profile.
    pub(super) fn side(&mut self, slot: usize) -> &mut goshawk_passes::sensitivity::Curvature {
        let Slot { layer, .. } = self.slots[slot];
        let weights = self.slots[slot].is_weights();
        let layer = &mut self.profile.layers[layer];
        if weights { &mut layer.weights } else { &mut layer.activations }
    }

    /// Notes for every layer whether its Gauss–Newton block is its Hessian block.
    fn name_curvature(&mut self) {
        if self.request.settings.loss.is_stationary() {
            return;
        }
        for slot in self.slots.clone().iter().filter(|s| !s.exact) {
            let reason = layers::curved_by(self.graph(), self.layers[slot.layer].node);
            self.profile.layers[slot.layer].curved_by.get_or_insert(reason);
        }
    }
}

/// Layers with what is known without data.
pub fn describe(graph: &FloatGraph, layers: &[Layer]) -> Vec<LayerProfile> {
    let describe = |l: &Layer| LayerProfile {
        name: l.name.clone(),
        parameters: l.parameters as u64,
        macs: import::macs(graph, l.node),
        input: l.input.clone(),
        input_elements: l.input_elements as u64,
        ..LayerProfile::default()
    };
    layers.iter().map(describe).collect()
}
