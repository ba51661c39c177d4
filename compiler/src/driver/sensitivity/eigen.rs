//! Largest eigenvalues of every layer's block, and spectral densities of chosen ones.
//!
//! The solvers of all layers advance together: each pass over the data linearises a batch once and multiplies with the
//! vectors of all of them. Batches stay linearised between passes where memory allows.
use super::{run::Run, traces::differentiation};
use crate::{Code, Error, Result, driver::progress};
use goshawk_passes::{
    gradient::{Keep, Linearisation, random},
    sensitivity::{
        Spectrum,
        krylov::{Lanczos, Solver, Stop},
        probes,
    },
};
use std::ops::Range;

/// Numbers of the estimators in the seeds of start vectors.
const EIGENVALUES: u64 = 3;
const SPECTRA: u64 = 4;

impl Run<'_> {
    pub(super) fn eigenvalues(&mut self) -> Result<()> {
        let settings = self.request.settings;
        let slots: Vec<usize> = (0..self.slots.len()).filter(|i| self.slots[*i].is_weights()).collect();
        let stop = Stop {
            top: settings.top,
            tolerance: settings.eigen_tolerance,
            max_products: settings.eigen_products,
        };
        let start = |i: &usize| {
            let seed = probes::seed(settings.seed, EIGENVALUES, 0, 0, *i as u64);
            Solver::new(settings.eigen_method, random::gaussian(seed, 0, self.slots[*i].elements), stop)
        };
        let mut solvers: Vec<(usize, Solver)> = slots.iter().map(|i| (*i, start(i))).collect();
        self.advance("eigenvalues", &mut solvers)?;
        for (slot, solver) in solvers {
            self.side(slot).eigenvalues = solver.eigenvalues();
        }
        Ok(())
    }

    pub(super) fn spectra(&mut self) -> Result<()> {
        let settings = self.request.settings;
        for name in &settings.spectra {
            let slot = self
                .slots
                .iter()
                .position(|s| s.is_weights() && self.layers[s.layer].name == *name)
                .ok_or_else(|| {
                let some: Vec<_> = self.layers.iter().map(|l| l.name.as_str()).take(5).collect();
                Error::new(Code::DATA, format!("the network has no layer {name}"))
                    .help(format!("its layers are {} …", some.join(", ")))
            })?;
            if self.profile.spectra.contains_key(name) {
                continue;
            }
            let dimension = self.slots[slot].elements;
            let stop =
                Stop { top: usize::MAX, tolerance: f64::MIN_POSITIVE, max_products: settings.spectrum_steps };
            let start = |run: usize| {
                let seed = probes::seed(settings.seed, SPECTRA, slot as u64, 0, run as u64);
                (slot, Solver::Lanczos(Lanczos::new(random::rademacher(seed, 0, dimension), stop)))
            };
            let mut solvers: Vec<(usize, Solver)> = (0..settings.spectrum_runs).map(start).collect();
            self.advance("spectrum", &mut solvers)?;
            let runs = solvers.iter().filter_map(|(_, s)| match s {
                Solver::Lanczos(l) => Some(l.quadrature()),
                Solver::Power(_) => None,
            });
            let spectrum = Spectrum {
                dimension: dimension as u64,
                steps: settings.spectrum_steps.min(dimension) as u64,
                runs: runs.collect(),
            };
            self.profile.spectra.insert(name.clone(), spectrum);
            self.request.progress.end();
        }
        Ok(())
    }

    /// Gives the solvers products until all are done. Progress is told in products with one batch.
    fn advance(&self, stage: &str, solvers: &mut [(usize, Solver)]) -> Result<()> {
        let samples: Vec<usize> = {
            let (n, wanted) =
                (self.samples.len(), self.request.settings.eigen_samples.min(self.samples.len()));
            (0..wanted).map(|i| i * n / wanted).collect()
        };
        let batches: Vec<Range<usize>> = (0..samples.len())
            .step_by(self.batch)
            .map(|start| start..samples.len().min(start + self.batch))
            .collect();
        let fits = self.engine.memory(samples.len(), Keep::Everything) <= self.request.settings.memory;
        let mut kept: Vec<Option<Linearisation<'_, f32>>> = batches.iter().map(|_| None).collect();
        let mut done = 0;
        loop {
            let expected: usize = solvers.iter().map(|(_, s)| s.expected()).sum();
            self.request.progress.resume(stage, done, expected * batches.len());
            let waiting: Vec<usize> =
                (0..solvers.len()).filter(|i| solvers[*i].1.vector().is_some()).collect();
            if waiting.is_empty() {
                return Ok(());
            }
            let mut sums: Vec<Vec<f64>> =
                waiting.iter().map(|i| vec![0.0; self.slots[solvers[*i].0].elements]).collect();
            for (batch, kept) in batches.iter().zip(&mut kept) {
                let lin = match kept.take() {
                    Some(lin) => lin,
                    None => self.linearised(&samples[batch.clone()])?,
                };
                let share = batch.len() as f64 / samples.len() as f64;
                for (i, sum) in waiting.iter().zip(&mut sums) {
                    progress::check(self.request.progress)?;
                    let (slot, solver) = &solvers[*i];
                    if let Some(v) = solver.vector() {
                        probes::multiply(&lin, &self.slots[*slot], v, share, sum, &self.workers)
                            .map_err(differentiation)?;
                    }
                    self.request.progress.step();
                }
                done += waiting.len();
                *kept = fits.then_some(lin);
            }
            for (i, sum) in waiting.into_iter().zip(sums) {
                solvers[i].1.push(sum);
            }
        }
    }

    fn linearised(&self, samples: &[usize]) -> Result<Linearisation<'_, f32>> {
        let inputs: Vec<_> = samples.iter().map(|i| self.samples.inputs[*i].clone()).collect();
        let subset = self.samples.subset(samples);
        self.engine
            .linearise(&inputs, &subset.loss(&(0..samples.len())), Keep::Everything, &self.workers)
            .map_err(differentiation)
    }
}
