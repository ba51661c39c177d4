//! The trace stages: probes until every layer's standard error is small enough.
use super::{
    run::Run,
    settings::{EXACT_CLASSES, Exact, Loss},
};
use crate::{Code, Error, Result};
use goshawk_passes::{
    gradient::{Keep, Linearisation, Noise},
    sensitivity::{
        Estimate, probes,
        sums::{Draws, Traces},
    },
};

/// Numbers of the estimators in the seeds of probes.
const GAUSS_NEWTON: u64 = 1;
const HUTCHINSON: u64 = 2;
/// Rounds of a block: enough to estimate a variance, few enough to stop soon.
const ROUNDS: u64 = 4;

/// One stage.
struct Stage<'s> {
    name: &'s str,
    keep: Keep,
    /// Rounds of a block, 0 for an exact computation that one block finishes.
    rounds: u64,
    /// Blocks at most.
    blocks: u64,
    true_loss: bool,
    /// Whether tensors that are good enough are left out of later blocks.
    selective: bool,
}

/// What a stage does with a linearised batch: block, batch, and the slots that still need probes.
type Probe<'p> =
    dyn Fn(&Run<'_>, &Linearisation<'_, f32>, u64, u64, &dyn Fn(usize) -> bool) -> Result<Draws> + 'p;

pub(super) fn differentiation(e: goshawk_ir::IrError) -> Error {
    Error::from_ir(Code::DATA, e).help(
        "the loss must fit the network: --loss labels or own for classifiers, mse or own-mse for anything else",
    )
}

impl Run<'_> {
    pub(super) fn gauss_newton(&mut self) -> Result<()> {
        let settings = self.request.settings;
        let classes = self.graph().outputs.first().map_or(0, |p| {
            let shape = &self.graph().ty(p.node).shape;
            shape.get(1).copied().unwrap_or(usize::MAX)
        });
        let entropy = matches!(settings.loss, Loss::Labels | Loss::Own);
        let exact = match settings.exact {
            Exact::Always => true,
            Exact::Never => false,
            Exact::Auto => entropy && classes <= EXACT_CLASSES,
        };
        let stage = Stage {
            name: "gauss-newton",
            keep: Keep::Values,
            rounds: if exact { 0 } else { ROUNDS },
            blocks: settings.max_probes.div_ceil(ROUNDS),
            true_loss: false,
            selective: false,
        };
        let seed = settings.seed;
        let traces = self.traces(&stage, &|run, lin, block, batch, _| {
            let noise = |round| match exact {
                true => Noise::Exact,
                false => Noise::Rademacher(probes::seed(seed, GAUSS_NEWTON, block, batch, round)),
            };
            let rounds = if exact { 1 } else { ROUNDS };
            probes::squares(lin, &run.slots, rounds, &noise, &run.workers).map_err(differentiation)
        })?;
        for i in 0..self.slots.len() {
            let (per_element, channels) = averages(self, &traces, i);
            let data_error = traces.data_error(i);
            let side = self.side(i);
            side.gauss_newton = per_element;
            side.channels = channels;
            side.data_error = data_error;
        }
        Ok(())
    }

    pub(super) fn fisher(&mut self) -> Result<()> {
        if !self.samples.has_true_loss() {
            // Against its own output a network has no gradient, and so no Fisher information of this kind.
            return Ok(());
        }
        let stage = Stage {
            name: "fisher",
            keep: Keep::Values,
            rounds: 0,
            blocks: 1,
            true_loss: true,
            selective: false,
        };
        let traces = self.traces(&stage, &|run, lin, _, _, _| {
            probes::squares(lin, &run.slots, 1, &|_| Noise::Fisher, &run.workers).map_err(differentiation)
        })?;
        for i in 0..self.slots.len() {
            self.side(i).fisher = averages(self, &traces, i).0;
        }
        Ok(())
    }

    pub(super) fn hutchinson(&mut self) -> Result<()> {
        let settings = self.request.settings;
        let stage = Stage {
            name: "hutchinson",
            keep: Keep::Everything,
            rounds: ROUNDS,
            blocks: settings.max_probes.div_ceil(ROUNDS),
            true_loss: false,
            selective: settings.per_layer,
        };
        let master = settings.seed;
        let traces = self.traces(&stage, &|run, lin, block, batch, wanted| {
            let seed = |round| probes::seed(master, HUTCHINSON, block, batch, round);
            let draws = match stage.selective {
                true => probes::per_layer(lin, &run.slots, ROUNDS, &seed, wanted, &run.workers),
                false => probes::global(lin, &run.slots, ROUNDS, &seed, &run.workers),
            };
            draws.map_err(differentiation)
        })?;
        for i in 0..self.slots.len() {
            let (per_element, channels) = averages(self, &traces, i);
            let curved = self.profile.layers[self.slots[i].layer].is_curved();
            let side = self.side(i);
            side.hutchinson = per_element;
            if curved || side.channels.is_empty() {
                side.channels = channels;
            }
        }
        Ok(())
    }

    fn traces(&mut self, stage: &Stage<'_>, probe: &Probe<'_>) -> Result<Traces> {
        let channels: Vec<usize> = self.slots.iter().map(|s| s.channels).collect();
        let mut traces = match self.state.traces.remove(stage.name) {
            Some(t) if t.finished.len() == channels.len() => t,
            _ => Traces::new(&channels, stage.rounds),
        };
        let (tolerance, batches) = (self.request.settings.tolerance, self.batches());
        let total = self.samples.len() as f64;
        while traces.block < stage.blocks && !(traces.block > 0 && traces.worst() <= tolerance) {
            let needs: Vec<bool> = (0..channels.len())
                .map(|i| !stage.selective || traces.total(i).is_none_or(|e| e.relative_error() > tolerance))
                .collect();
            self.announce(stage, &traces, batches.len());
            for b in traces.batches as usize..batches.len() {
                let range = &batches[b];
                let loss =
                    if stage.true_loss { self.samples.true_loss(range) } else { self.samples.loss(range) };
                let lin = self
                    .engine
                    .linearise(&self.samples.inputs[range.clone()], &loss, stage.keep, &self.workers)
                    .map_err(differentiation)?;
                let draws = probe(self, &lin, traces.block, b as u64, &|i| needs[i])?;
                drop(lin);
                traces.add(&draws, range.len() as f64 / total).map_err(|e| Error::internal(&e))?;
                self.state.traces.insert(stage.name.to_owned(), traces.clone());
                self.checkpoint()?;
            }
            traces.end_block(&|i| needs[i]);
            self.state.traces.insert(stage.name.to_owned(), traces.clone());
            if stage.rounds == 0 {
                break;
            }
        }
        Ok(traces)
    }

    /// Tells the progress bar how many batches this stage may take: by the variance so far, errors fall like 1/√n.
    fn announce(&self, stage: &Stage<'_>, traces: &Traces, batches: usize) {
        let blocks = match (stage.rounds, traces.block) {
            (0, _) => 1,
            (_, 0) => stage.blocks.min(2),
            (_, n) => {
                let more = (traces.worst() / self.request.settings.tolerance).powi(2) * n as f64;
                stage.blocks.min(more.ceil().clamp(n as f64 + 1.0, 1e6) as u64)
            }
        };
        let done = traces.block as usize * batches + traces.batches as usize;
        self.request.progress.resume(stage.name, done, blocks as usize * batches);
    }
}

/// Traces per element: of the whole tensor and of every channel.
fn averages(run: &Run<'_>, traces: &Traces, slot: usize) -> (Option<Estimate>, Vec<Estimate>) {
    let s = &run.slots[slot];
    let (elements, channels) = (s.elements.max(1) as f64, s.channels.max(1) as f64);
    let per_channel = traces.channels(slot).into_iter().map(|e| e.scaled(channels / elements)).collect();
    (traces.total(slot).map(|e| e.scaled(1.0 / elements)), per_channel)
}
