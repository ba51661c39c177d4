//! Times every layer of a model at every candidate width, each compiled alone, on this machine.
//!
//! Variants of one shape and the requantization in front of them run in interleaved rounds, so that a change of clock or
//! a noisy neighbour hits them alike. *Warm* times have the weights in cache from the round before; *cold* ones follow a
//! walk through a buffer larger than the caches. Inside a network a layer is somewhere between: its weights were last used
//! one run ago. Where, and what the network does besides its layers, is fitted to the network measured as a whole at each
//! uniform width.
use super::{
    facts::{self, LayerFacts},
    runner::{self, Runner},
    table::{CostTable, ModelTable, Time, Whole},
    variant::{self, Alone},
};
use crate::{
    Code, Error, Result,
    artifact::{
        CName,
        bundle::{self, Request},
        write_atomic,
    },
    codegen::{self, Target},
    driver::{
        build,
        model::{Model, Quantized},
        progress::{self, Progress},
    },
};
use goshawk_ir::{NodeId, TensorType};
use goshawk_passes::{
    bits::{BitPlan, LayerBits},
    calibrate::Ranges,
    lower,
};
use goshawk_runtime::Library;
use std::{collections::BTreeMap, path::Path, time::Duration};

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Widths that layers may get.
    pub widths: Vec<LayerBits>,
    /// Warm runs of each variant; cold ones are a quarter of that.
    pub runs: usize,
    /// Bytes that are walked through before a cold run.
    pub cold_bytes: usize,
    /// Whether to measure again what the table has already.
    pub again: bool,
    /// Choices of the lowering.
    pub lowering: lower::Options,
}

/// What a measurement added.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Instruction sets that were measured.
    pub isa: String,
    /// Variants that the model has.
    pub variants: usize,
    /// Variants that were measured now.
    pub measured: usize,
    /// How the model adds up.
    pub model: ModelTable,
}

/// A plan that gives all layers, the first and last included, these widths.
pub fn everywhere(bits: LayerBits) -> BitPlan {
    BitPlan { default: bits, layers: BTreeMap::new(), pin_first: false, pin_last: false }
}

/// Name of the code for a target in cost tables.
pub fn isa(target: &Target) -> String {
    format!("{} {}", target.triple(), target.isa())
}

/// Measures the model and adds the times to the table; `ranges` gives the calibrated ranges for a plan.
///
/// # Errors
/// [`Code::TARGET`] where the target does not run here; those of quantization and compilation; [`Code::INTERRUPTED`].
pub fn measure(
    model: &Model,
    ranges: &dyn Fn(&BitPlan) -> Result<Ranges>,
    target: &Target,
    options: &Options,
    table: &mut CostTable,
    progress: &dyn Progress,
) -> Result<Summary> {
    if !target.runs_here() {
        return Err(Error::new(Code::TARGET, format!("{} does not run on this machine", target.isa())).help(
            "run `goshawk profile-costs` on the board and bring its file here, or choose --target-cpu native",
        ));
    }
    let dir = tempfile::Builder::new()
        .prefix("goshawk-costs-")
        .tempdir()
        .map_err(|e| Error::new(Code::FILE, "cannot create a temporary folder").because(e.to_string()))?;
    let mut lowered = Vec::new();
    for bits in &options.widths {
        let plan = everywhere(*bits);
        lowered.push((*bits, model.lower(&ranges(&plan)?, &plan, &options.lowering)?));
    }
    let Some((_, first)) = lowered.first() else {
        return Err(Error::new(Code::BITS, "there are no widths to measure").help("add --widths w8a8,w4a8"));
    };
    let layers = facts::of(model, first)?;
    let isa = isa(target);
    let cpu = table.cpus.entry(isa.clone()).or_default();
    cpu.processor = processor();
    // Variants by shape, each with one layer that has it.
    type Candidate<'a> = (String, LayerBits, &'a Quantized, NodeId, &'a LayerFacts);
    let mut shapes: BTreeMap<&str, Vec<Candidate<'_>>> = BTreeMap::new();
    let mut variants = 0;
    for (name, layer) in &layers {
        for (bits, quantized) in &lowered {
            let key = layer.key(*bits);
            let same = shapes.entry(&layer.shape).or_default();
            if !same.iter().any(|(k, ..)| *k == key) {
                variants += 1;
                if options.again || !cpu.layers.contains_key(&key) {
                    same.push((key, *bits, quantized, facts::find(&quantized.graph, name)?, layer));
                }
            }
        }
    }
    let mut bench = Bench { target, dir: dir.path(), options, libraries: 0 };
    progress.begin("measuring", shapes.len());
    let mut measured = 0;
    for group in shapes.values().filter(|g| !g.is_empty()) {
        progress::check(progress)?;
        for ((key, bits, _, _, facts), (warm, cold, spread)) in group.iter().zip(bench.group(group)?) {
            measured += 1;
            let time = Time {
                warm_us: warm,
                cold_us: cold.max(warm),
                spread,
                macs: facts.macs,
                weight_bytes: facts.bytes(bits.weights),
                activation_bytes: facts.input + facts.output_bytes,
                weight_bits: bits.weights,
                activation_bits: bits.activations,
                depthwise: facts.depthwise,
            };
            cpu.layers.insert(key.clone(), time);
        }
        progress.step();
    }
    progress.end();
    let mut wholes = Vec::new();
    for (bits, quantized) in &lowered {
        let name = CName::from_model_name("whole");
        let bytes = build::shared_library(model, quantized, target, &name)?;
        wholes.push((*bits, bench.open(&bytes)?));
    }
    let (names, libraries): (Vec<String>, Vec<Library>) =
        wholes.into_iter().map(|(b, l)| (format!("w{}a{}", b.weights, b.activations), l)).unzip();
    let medians = runner::medians(&libraries, options.runs.max(20), progress)?;
    let times: Vec<Vec<Time>> = lowered
        .iter()
        .map(|(bits, _)| layers.values().filter_map(|l| cpu.layers.get(&l.key(*bits)).copied()).collect())
        .collect();
    let fitted = fit(&times, &names.into_iter().zip(medians).collect::<Vec<_>>());
    cpu.models.insert(model.sha256.clone(), fitted.clone());
    table.models.insert(model.sha256.clone(), layers);
    Ok(Summary { isa, variants, measured, model: fitted })
}

/// Finds the share of coldness and the base that explain the whole networks best: for each share the base is the mean of
/// what is left over, and the share with the smallest largest relative error wins.
fn fit(layers: &[Vec<Time>], measured: &[(String, f64)]) -> ModelTable {
    let sums = |share: f64| -> Vec<f64> {
        layers.iter().map(|times| times.iter().map(|t| t.blended(share)).sum()).collect()
    };
    let mut best: Option<(f64, ModelTable)> = None;
    for step in 0..=20 {
        let cold_share = f64::from(step) / 20.0;
        let sums = sums(cold_share);
        let left: f64 = measured.iter().zip(&sums).map(|((_, m), s)| m - s).sum();
        let base_us = left / measured.len().max(1) as f64;
        let wholes: Vec<Whole> = measured
            .iter()
            .zip(&sums)
            .map(|((bits, m), s)| Whole { bits: bits.clone(), measured_us: *m, predicted_us: s + base_us })
            .collect();
        let error = wholes.iter().map(|w| (w.predicted_us / w.measured_us - 1.0).abs()).fold(0.0, f64::max);
        if best.as_ref().is_none_or(|(e, _)| error < *e) {
            best = Some((error, ModelTable { cold_share, base_us, wholes }));
        }
    }
    best.map(|(_, t)| t).unwrap_or_default()
}

/// Name of this machine's processor, where the operating system tells.
pub fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    name.map_or(String::new(), |(_, name)| name.trim().to_owned())
}

type Variant<'a> = (String, LayerBits, &'a Quantized, NodeId, &'a LayerFacts);

struct Bench<'a> {
    target: &'a Target,
    dir: &'a Path,
    options: &'a Options,
    libraries: usize,
}

impl Bench<'_> {
    fn open(&mut self, bytes: &[u8]) -> Result<Library> {
        self.libraries += 1;
        let path = self.dir.join(format!("lib{}.so", self.libraries));
        write_atomic(&path, bytes)?;
        Library::open(&path).map_err(|e| Error::new(Code::RUN, e.to_string()))
    }

    fn compile(&mut self, alone: &Alone) -> Result<Library> {
        let bundle = bundle::compile(Request {
            graph: &alone.graph,
            levels: std::slice::from_ref(self.target),
            prefix: CName::from_model_name("layer"),
            model_sha256: String::new(),
            listing: false,
            any_width: false,
            tuning: codegen::Tuning::default(),
        })?;
        let bytes = bundle.shared("liblayer.so", None)?;
        self.open(&bytes)
    }

    /// (warm, cold, spread) in microseconds of each variant.
    fn group(&mut self, group: &[Variant<'_>]) -> Result<Vec<(f64, f64, f64)>> {
        let mut libraries = Vec::new();
        let mut preludes: Vec<(TensorType, usize)> = Vec::new();
        let mut members = Vec::new();
        for (_, _, quantized, id, _) in group {
            let (alone, made) = variant::layer(&quantized.graph, *id)?;
            libraries.push(self.compile(&alone)?);
            let own = libraries.len() - 1;
            let prelude = match made {
                None => None,
                Some(ty) => Some(match preludes.iter().find(|(t, _)| *t == ty) {
                    Some((_, at)) => *at,
                    None => {
                        libraries.push(self.compile(&variant::prelude(&ty)?)?);
                        preludes.push((ty, libraries.len() - 1));
                        libraries.len() - 1
                    }
                }),
            };
            members.push((own, prelude));
        }
        let mut runners: Vec<Runner<'_>> = libraries.iter().map(Runner::new).collect();
        let runs = self.options.runs.max(4);
        runners.iter_mut().try_for_each(|r| (0..3).try_for_each(|_| r.run()))?;
        // The run before the measured one loads weights and code again, whatever the other variants evicted.
        let warm = runner::sample(&mut runners, runs, &mut |r, _| r.run())?;
        let mut walk = Walk(vec![0; self.options.cold_bytes]);
        let cold = runner::sample(&mut runners, (runs / 4).max(3), &mut |_, round| {
            walk.go(round as u8);
            Ok(())
        })?;
        let median = |times: &[Duration]| runner::median(times);
        let of = |(own, prelude): &(usize, Option<usize>)| {
            let alone = |times: &[Vec<Duration>]| {
                let less = prelude.map_or(0.0, |p| median(&times[p]));
                // Differences below the clock's resolution are not zero cost.
                (median(&times[*own]) - less).max(0.05)
            };
            (alone(&warm), alone(&cold), spread(&warm[*own]))
        };
        Ok(members.iter().map(of).collect())
    }
}

/// Memory to walk through.
struct Walk(Vec<u8>);

impl Walk {
    fn go(&mut self, round: u8) {
        // One write for each cache line.
        self.0.iter_mut().step_by(64).for_each(|b| *b = b.wrapping_add(round | 1));
        std::hint::black_box(&self.0);
    }
}

/// Half the distance of the quartiles over the median.
fn spread(times: &[Duration]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = |percent: usize| sorted.get(sorted.len() * percent / 100).map_or(0.0, Duration::as_secs_f64);
    (at(75) - at(25)) / 2.0 / at(50).max(1e-12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_and_base_are_found_again() {
        let time = |warm_us: f64, cold_us: f64| Time {
            warm_us,
            cold_us,
            spread: 0.0,
            macs: 1,
            weight_bytes: 1,
            activation_bytes: 1,
            weight_bits: 8,
            activation_bits: 8,
            depthwise: false,
        };
        let layers = [vec![time(10.0, 30.0), time(5.0, 6.0)], vec![time(8.0, 12.0), time(4.0, 4.5)]];
        let whole = |times: &[Time]| 7.0 + times.iter().map(|t| t.blended(0.35)).sum::<f64>();
        let measured: Vec<_> = layers.iter().map(|l| ("w".to_owned(), whole(l))).collect();
        let fitted = fit(&layers, &measured);
        assert!((fitted.cold_share - 0.35).abs() < 1e-9 && (fitted.base_us - 7.0).abs() < 1e-9, "{fitted:?}");
    }
}
