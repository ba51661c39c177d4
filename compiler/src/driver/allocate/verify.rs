//! Allocations on the real thing: top-1 of the integer network on labelled data, latency of its code on this machine,
//! bytes of its arena.
use crate::{
    Code, Error, Result,
    artifact::{CName, write_atomic},
    codegen::{self, JitModel, Target},
    data::Dataset,
    driver::{
        build,
        costs::runner,
        engine::Engine,
        eval,
        model::{Calibration, Model, Quantized},
        progress::{self, Progress},
    },
};
use goshawk_passes::{bits::BitPlan, lower};
use goshawk_runtime::Library;
use serde::Serialize;

/// What was measured of an allocation.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Measured {
    /// Rows with a label, and those whose label has the highest score, in percent.
    pub top1_percent: Option<f64>,
    /// Latency in microseconds: of several passes over all networks the smallest median.
    pub latency_us: Option<f64>,
    /// Bytes of the arena.
    pub arena_bytes: usize,
}

/// What is needed to lower and run allocations.
pub struct Bench<'a> {
    /// The model.
    pub model: &'a Model,
    /// Its ranges.
    pub calibration: &'a Calibration,
    /// Choices of the lowering.
    pub lowering: &'a lower::Options,
    /// What to compile for.
    pub target: &'a Target,
    /// Threads for the evaluation.
    pub threads: usize,
}

/// Allocations that are run at once: their code and arenas stay small beside the data.
const CHUNK: usize = 8;

impl Bench<'_> {
    /// Lowers a plan.
    ///
    /// # Errors
    /// Those of the lowering.
    pub fn lower(&self, plan: &BitPlan) -> Result<Quantized> {
        let ranges = self.calibration.ranges(self.model, plan, self.lowering)?;
        self.model.lower(&ranges, plan, self.lowering)
    }

    /// Bytes of the arena of a plan.
    ///
    /// # Errors
    /// Those of lowering and code generation.
    pub fn arena(&self, plan: &BitPlan) -> Result<usize> {
        let q = self.lower(plan)?;
        let options = codegen::Options::new(self.target.clone(), "model");
        Ok(q.plan(&options)?.arena_bytes)
    }

    /// Measures each plan: accuracy on `data` (byte for byte the integer interpreter's, by the contract of the compiler),
    /// and with `runs` the latency, all interleaved.
    ///
    /// # Errors
    /// Those of lowering, compilation, data and execution; [`Code::TARGET`] where the target does not run here.
    pub fn measure(
        &self,
        plans: &[(String, BitPlan)],
        data: Option<&Dataset>,
        runs: Option<usize>,
        progress: &dyn Progress,
    ) -> Result<Vec<Measured>> {
        let mut all = vec![Measured::default(); plans.len()];
        let dir = tempfile::Builder::new()
            .prefix("goshawk-verify-")
            .tempdir()
            .map_err(|e| Error::new(Code::FILE, "cannot create a temporary folder").because(e.to_string()))?;
        let mut libraries = Vec::new();
        for (at, chunk) in plans.chunks(CHUNK).enumerate() {
            let measured = &mut all[at * CHUNK..];
            let mut native: Vec<(String, JitModel)> = Vec::new();
            for ((name, plan), measured) in chunk.iter().zip(measured.iter_mut()) {
                progress::check(progress)?;
                let q = self.lower(plan)?;
                let options = codegen::Options::new(self.target.clone(), "model");
                let jit = q.jit(&options)?;
                measured.arena_bytes = jit.arena_bytes();
                native.push((name.clone(), jit));
                if runs.is_some() {
                    let prefix = CName::from_model_name("model");
                    let bytes = build::shared_library(self.model, &q, self.target, &prefix)?;
                    let path = dir.path().join(format!("lib{}.so", libraries.len()));
                    write_atomic(&path, &bytes)?;
                    let library = Library::open(&path).map_err(|e| Error::new(Code::RUN, e.to_string()))?;
                    libraries.push(library);
                }
            }
            if let Some(data) = data {
                let engines: Vec<(String, Engine<'_>)> =
                    native.iter().map(|(n, j)| (n.clone(), Engine::Jit(j))).collect();
                let results = eval::evaluate(&engines, data, self.threads, progress)?;
                for (m, r) in measured.iter_mut().zip(results) {
                    m.top1_percent = Some(r.top1_percent());
                }
            }
        }
        if let Some(runs) = runs {
            for (m, latency) in all.iter_mut().zip(runner::latencies(&libraries, runs, progress)?) {
                m.latency_us = Some(latency);
            }
        }
        Ok(all)
    }

    /// Refuses a plan whose arena is above `max` bytes. The arena is a maximum over time that the memory planner decides,
    /// no sum over layers, so it is no constraint of the integer program: the solution is lowered and looked at. Since
    /// activations of all widths take a byte each, widths hardly change it; `cheapest` is measured to say what is possible.
    ///
    /// # Errors
    /// [`Code::BITS`] with both figures.
    pub fn check_arena(&self, plan: &BitPlan, cheapest: &BitPlan, max: f64) -> Result<usize> {
        let arena = self.arena(plan)?;
        if arena as f64 <= max {
            return Ok(arena);
        }
        let least = self.arena(cheapest)?.min(arena);
        Err(Error::new(Code::BITS, format!("the arena takes {arena} bytes, more than the {max:.0} allowed"))
            .because("activations of up to 8 bits take a byte each, so bit widths hardly change the arena")
            .help(format!("at the cheapest widths it is {least} bytes; a smaller input or batch needs less")))
    }
}
