//! Where the time goes: every layer's share of a run, compared with what the machine can do.
//!
//! A layer's floor is what it would take if only its multiply-accumulates at the measured peak, or only its bytes at
//! the measured bandwidth, cost anything (the roofline model: Williams, Waterman and Patterson, CACM 52(4), 2009);
//! the larger of both says what bounds it.
use super::{
    model::Quantized,
    progress::{self, Progress},
};
use crate::{
    Code, Error, Result,
    codegen::{
        JitModel, LayerReport, Options, Step, Target,
        probe::{Compute, Peaks, Probe},
    },
};
use goshawk_ir::{IntGraph, Layout, Shape, Tensor};
use goshawk_runtime::latency;
use serde::Serialize;
use std::{collections::BTreeMap, time::Instant};

/// Runs in a row of either the stamped or the plain network; the first of them is not counted, since the other one's
/// weights are still in the caches.
const BLOCK: usize = 5;

/// Which of a layer's times counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Statistic {
    /// The fastest: what the code can do, on a machine that is not quiet.
    Min,
    /// The median: what a user sees.
    #[default]
    Median,
}

/// What bounds a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Multiply-accumulates.
    Compute,
    /// Bytes.
    Memory,
}

impl Bound {
    /// Name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Memory => "memory",
        }
    }
}

/// One layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layer {
    /// What it is, and its bytes.
    #[serde(flatten)]
    pub step: Step,
    /// Kernel that computes it.
    pub kernel: String,
    /// Why no faster kernel.
    pub why: Option<String>,
    /// Multiply-accumulates.
    pub macs: u64,
    /// Time in microseconds: the statistic that was asked for.
    pub us: f64,
    /// Fastest.
    pub min_us: f64,
    /// Median.
    pub median_us: f64,
    /// Share of all layers' time.
    pub share: f64,
    /// 10⁹ multiply-accumulates a second.
    pub gmacs: f64,
    /// Share of the measured peak; nothing for layers without multiply-accumulates.
    pub of_peak: Option<f64>,
    /// Least time that the roofline model allows, in microseconds.
    pub floor_us: f64,
    /// What that is.
    pub bound: Bound,
}

/// All layers of a network.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// What was measured, as the caller calls it.
    pub name: String,
    /// Instruction sets.
    pub isa: String,
    /// Runs.
    pub runs: usize,
    /// Which times these are.
    pub statistic: Statistic,
    /// Layers in execution order, conversions of inputs and outputs included.
    pub layers: Vec<Layer>,
    /// Sum of their times in microseconds.
    pub sum_us: f64,
    /// The same statistic of ordinary runs in the same rounds, in microseconds.
    pub whole_us: f64,
    /// All multiply-accumulates.
    pub macs: u64,
    /// All multiply-accumulates at the peak, in microseconds.
    pub macs_floor_us: f64,
    /// Instructions whose peak that is.
    pub peak: Option<Compute>,
}

/// Measures every layer of a network, on inputs from a fixed generator.
///
/// # Errors
/// [`Code::TARGET`] where the target does not run here, [`Code::RUN`], [`Code::INTERRUPTED`].
pub fn measure(
    name: &str,
    quantized: &Quantized,
    target: &Target,
    options: latency::Options,
    statistic: Statistic,
    probe: &Probe,
    progress: &dyn Progress,
) -> Result<(Profile, Peaks)> {
    let jit = |profile: bool| {
        let tuning = quantized.tuning.clone();
        let options = Options { profile, tuning, ..Options::new(target.clone(), "model") };
        quantized.jit(&options)
    };
    let (plain, stamped) = (jit(false)?, jit(true)?);
    let inputs = noise(&quantized.graph)?;
    let (mut plain_session, mut session) = (plain.session(&inputs)?, stamped.session(&inputs)?);
    let mut peaks = probe.measure();
    let blocks = options.runs.max(1).div_ceil(BLOCK - 1);
    progress.begin("measuring", blocks);
    for _ in 0..options.warm_up {
        plain_session.run()?;
        session.run()?;
    }
    let mut ticks: Vec<Vec<u64>> = vec![Vec::new(); stamped.steps.len()];
    let mut whole = Vec::new();
    let (start, first_tick) = (Instant::now(), stamped.ticks());
    for block in 0..blocks {
        progress::check(progress)?;
        for run in 0..BLOCK {
            session.run()?;
            if run > 0 {
                ticks.iter_mut().zip(session.step_ticks()).for_each(|(all, t)| all.push(t));
            }
        }
        for run in 0..BLOCK {
            let start = Instant::now();
            plain_session.run()?;
            if run > 0 {
                whole.push(start.elapsed());
            }
        }
        if block % 10 == 9 {
            peaks.best(probe.measure());
        }
        progress.step();
    }
    let seconds = start.elapsed().as_secs_f64();
    let passed = first_tick.zip(stamped.ticks()).map_or(0, |(a, b)| b.saturating_sub(a));
    peaks.best(probe.measure());
    progress.end();
    let us_of_tick = seconds * 1e6 / passed.max(1) as f64;
    let times: Vec<[f64; 2]> = ticks
        .into_iter()
        .map(|mut t| {
            t.sort_unstable();
            let us = |i: usize| t.get(i).map_or(0.0, |t| *t as f64 * us_of_tick);
            [us(0), us(t.len() / 2)]
        })
        .collect();
    let Some(whole) = latency::Summary::of(&whole) else {
        return Err(Error::new(Code::INTERNAL, "no run was measured"));
    };
    let layers = layers(&stamped, &times, statistic, &peaks, target);
    let macs = layers.iter().map(|l| l.macs).sum();
    let peak = peaks.for_layer(target, Some(8)).cloned();
    let profile = Profile {
        name: name.to_owned(),
        isa: target.isa(),
        runs: blocks * (BLOCK - 1),
        statistic,
        sum_us: layers.iter().map(|l| l.us).sum(),
        whole_us: 1e6
            * match statistic {
                Statistic::Min => whole.min.as_secs_f64(),
                Statistic::Median => whole.median.as_secs_f64(),
            },
        macs,
        macs_floor_us: peak.as_ref().map_or(0.0, |p| macs as f64 / (p.gmacs * 1e3)),
        peak,
        layers,
    };
    Ok((profile, peaks))
}

/// `times`: fastest and median of each step.
fn layers(
    model: &JitModel,
    times: &[[f64; 2]],
    statistic: Statistic,
    peaks: &Peaks,
    target: &Target,
) -> Vec<Layer> {
    let chosen = |[min, median]: &[f64; 2]| match statistic {
        Statistic::Min => *min,
        Statistic::Median => *median,
    };
    let reports: BTreeMap<&str, &LayerReport> = model.layers.iter().map(|r| (r.name.as_str(), r)).collect();
    let total: f64 = times.iter().map(chosen).sum();
    // Weights of the whole network pass through the caches once a run.
    let constants: usize = model.steps.iter().map(|s| s.constant_bytes).sum();
    let seconds = |bytes: usize, live: usize| {
        peaks.for_bytes(live).map_or(0.0, |m| bytes as f64 / (m.gbytes.max(1e-3) * 1e9))
    };
    let row = |(step, times): (&Step, &[f64; 2])| {
        let us = chosen(times);
        let boundary = matches!(step.op.as_str(), "quantize" | "dequantize" | "copy");
        let report = (!boundary).then(|| reports.get(step.name.as_str())).flatten();
        let macs = report.map_or(0, |r| r.macs);
        let peak = peaks.for_layer(target, report.and_then(|r| r.weights_bits)).filter(|_| macs > 0);
        let activations = step.read_bytes + step.written_bytes;
        let memory = 1e6 * (seconds(activations, activations) + seconds(step.constant_bytes, constants));
        let compute = peak.map_or(0.0, |p| macs as f64 / (p.gmacs * 1e3));
        let gmacs = macs as f64 / (us.max(1e-3) * 1e3);
        Layer {
            kernel: report.map_or_else(|| step.op.clone(), |r| r.kernel.clone()),
            why: report.map(|r| r.remark()).filter(|r| !r.is_empty()),
            macs,
            us,
            min_us: times[0],
            median_us: times[1],
            share: us / total.max(1e-9),
            gmacs,
            of_peak: peak.map(|p| gmacs / p.gmacs),
            floor_us: compute.max(memory),
            bound: if compute >= memory { Bound::Compute } else { Bound::Memory },
            step: step.clone(),
        }
    };
    model.steps.iter().zip(times).map(row).collect()
}

/// Inputs for the f32 entry point: every value that an input may hold is equally likely.
///
/// # Errors
/// [`Code::INTERNAL`] where the graph is not a verified one.
pub fn noise(graph: &IntGraph) -> Result<Vec<Tensor>> {
    let internal = |e| Error::internal(&e);
    let mut state = 0x9e37_79b9u32;
    let mut next = || {
        // Marsaglia's xorshift32.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state >> 8
    };
    let tensor = |port: &goshawk_ir::Port| {
        let ty = graph.ty(port.node);
        let shape = match port.layout {
            Layout::Same => ty.shape.clone(),
            Layout::Nchw => {
                let [n, h, w, c] = ty.shape.dims4().map_err(internal)?;
                Shape::new([n, c, h, w]).map_err(internal)?
            }
        };
        let (scale, zero_point, low, high) = match &ty.quant {
            Some(q) => {
                let (low, high) = q.range(ty.dtype);
                (q.tensor_scale().map_err(internal)?, q.zero_point, low, high)
            }
            None => (1.0, 0, -128, 127),
        };
        let span = (i64::from(high) - i64::from(low) + 1) as u32;
        let values =
            (0..shape.count()).map(|_| scale * ((next() % span.max(1)) as i32 + low - zero_point) as f32);
        Tensor::from_f32(shape, values.collect::<Vec<_>>()).map_err(internal)
    };
    graph.inputs.iter().map(tensor).collect()
}
