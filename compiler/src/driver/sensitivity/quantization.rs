//! The stages that quantize: errors of all widths, and the measured effect of one layer at a time.
use super::run::Run;
use crate::{Code, Error, Result, driver::parallel};
use goshawk_ir::FloatOp;
use goshawk_passes::{
    calibrate::{Calibrator, Ranges},
    lower,
    sensitivity::{
        Estimate, FLOAT, Measured,
        errors::{self, ActivationErrors},
        estimate::Moments,
        measure::{Runner, Score, Variant, score},
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// Layers are measured in so many groups; after each the file is written.
const GROUPS: usize = 4;

fn failed(e: goshawk_ir::IrError) -> Error {
    Error::from_ir(Code::QUANTIZE, e)
}

impl Run<'_> {
    pub(super) fn errors(&mut self) -> Result<()> {
        let ranges = self.ranges(&self.request.settings.widths)?;
        let options = lower::Options::default();
        let (graph, progress) = (self.graph(), self.request.progress);
        let seen = ActivationErrors::new(graph, &self.layers, &ranges).map_err(failed)?;
        progress.begin("errors", self.samples.len());
        let shards = parallel::shards(
            self.samples.len(),
            self.request.threads,
            progress,
            || seen.clone(),
            |sums, sample| {
                let mut problem = Ok(());
                let inputs = &self.samples.inputs[sample];
                goshawk_ir::interp::float::run_with(graph, inputs, &mut |id, value| {
                    for (i, layer) in self.layers.iter().enumerate().filter(|(_, l)| l.operand == id) {
                        if problem.is_ok() {
                            problem = sums.observe(i, value).map_err(|e| e.at(&layer.name));
                        }
                    }
                })
                .and(problem)
                .map_err(failed)?;
                sums.count();
                Ok(())
            },
        )?;
        let mut sums = seen;
        for shard in &shards {
            sums.merge(shard).map_err(|e| Error::internal(&e))?;
        }
        for (i, layer) in self.layers.iter().enumerate() {
            let profile = &mut self.profile.layers[i];
            for (bits, ranges) in &ranges {
                let channels =
                    errors::weight_errors(graph, layer, *bits, ranges, &options).map_err(failed)?;
                profile.weights.errors.insert(*bits, channels.iter().sum());
                profile.weights.channel_errors.insert(*bits, channels);
            }
            for (bits, channels) in sums.finish(i) {
                profile.activations.errors.insert(bits, channels.iter().sum());
                profile.activations.channel_errors.insert(bits, channels);
            }
        }
        Ok(())
    }

    /// Activation ranges for each width.
    fn ranges(&self, widths: &BTreeSet<u8>) -> Result<BTreeMap<u8, Ranges>> {
        let (graph, progress) = (self.graph(), self.request.progress);
        progress.begin("calibrating", self.samples.len());
        let new = || Calibrator::new(graph, self.request.settings.calibration);
        let shards =
            parallel::shards(self.samples.len(), self.request.threads, progress, new, |c, sample| {
                c.observe_batch(graph, &self.samples.inputs[sample])
                    .map_err(|e| failed(e).help(format!("sample {sample} leads to this")))
            });
        progress.end();
        let mut all = new();
        for shard in shards? {
            all.merge(shard).map_err(|e| Error::internal(&e))?;
        }
        widths.iter().map(|b| Ok((*b, all.finish(&|_| *b).map_err(failed)?))).collect()
    }

    pub(super) fn measured(&mut self) -> Result<()> {
        let (graph, settings) = (self.graph(), self.request.settings);
        let widths: BTreeSet<u8> = settings.measure.iter().flat_map(|(w, a)| [*w, *a]).collect();
        // Weight rounding needs the moments of the calibration, which are the same for every width.
        let widths: BTreeSet<u8> = widths.into_iter().map(|b| if b == FLOAT { 8 } else { b }).collect();
        let ranges = self.ranges(&widths)?;
        let layers = std::mem::take(&mut self.layers);
        let runner = Runner::new(graph, &layers).map_err(|e| Error::internal(&e))?;
        let left: Vec<usize> =
            (0..layers.len()).filter(|i| self.profile.layers[*i].measured.is_empty()).collect();
        let result = left.chunks(layers.len().div_ceil(GROUPS).max(1)).try_for_each(|group| {
            let mut variants = Vec::new();
            for i in group {
                for bits in &settings.measure {
                    let at = ranges.get(&if bits.1 == FLOAT { 8 } else { bits.1 });
                    let Some(at) = at.or_else(|| ranges.values().next()) else { continue };
                    let options = lower::Options::default();
                    variants
                        .push(Variant::new(graph, (*i, &layers[*i]), *bits, at, &options).map_err(failed)?);
                }
            }
            self.measure_group(&runner, &variants)
        });
        self.layers = layers;
        result
    }

    fn measure_group(&mut self, runner: &Runner<'_>, variants: &[Variant]) -> Result<()> {
        let graph = self.graph();
        let progress = self.request.progress;
        let softmax =
            graph.outputs.first().is_some_and(|p| matches!(graph.node(p.node).op, FloatOp::Softmax(_)));
        progress.begin("measuring", self.samples.len());
        let shards = parallel::shards(
            self.samples.len(),
            self.request.threads,
            progress,
            || vec![Sums::default(); variants.len() + 1],
            |sums, sample| {
                let target = self.samples.target(sample);
                let base = runner.base(&self.samples.inputs[sample]).map_err(failed)?;
                let reference: Vec<_> =
                    graph.outputs.iter().filter_map(|p| base.get(&p.node).cloned()).collect();
                let own = score(&reference, &reference, target, softmax).map_err(failed)?;
                sums[variants.len()].add(own, Score::default());
                for (variant, sums) in variants.iter().zip(sums.iter_mut()) {
                    let outputs = runner.outputs(&base, variant).map_err(failed)?;
                    sums.add(score(&outputs, &reference, target, softmax).map_err(failed)?, own);
                }
                Ok(())
            },
        )?;
        let mut sums = vec![Sums::default(); variants.len() + 1];
        for shard in &shards {
            sums.iter_mut().zip(shard).for_each(|(a, b)| a.merge(b));
        }
        let labelled = matches!(self.request.settings.loss, super::settings::Loss::Labels);
        for (variant, sums) in variants.iter().zip(&sums) {
            self.profile.layers[variant.layer].measured.insert(variant.bits, sums.measured(labelled));
        }
        self.profile.baseline = sums.last().map(|s| s.measured(labelled));
        self.checkpoint()
    }
}

/// Differences of a variant from the float network, over samples.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    loss: Moments,
    divergence: Moments,
    right: Moments,
}

impl Sums {
    fn add(&mut self, own: Score, reference: Score) {
        self.loss.add(own.loss - reference.loss);
        self.divergence.add(own.divergence - reference.divergence);
        self.right.add(own.right - reference.right);
    }

    fn merge(&mut self, other: &Self) {
        self.loss.merge(other.loss);
        self.divergence.merge(other.divergence);
        self.right.merge(other.right);
    }

    fn measured(&self, labelled: bool) -> Measured {
        let finite = |m: Moments| {
            let e = m.estimate();
            Estimate { std_error: if e.std_error.is_finite() { e.std_error } else { 0.0 }, ..e }
        };
        Measured {
            loss: finite(self.loss),
            divergence: finite(self.divergence),
            accuracy: labelled.then_some(self.right.mean),
        }
    }
}
