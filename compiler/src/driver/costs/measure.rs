//! Times every layer of a model at every candidate width, each compiled alone, on this machine.
//!
//! Variants of one shape and the requantization in front of them run in interleaved rounds, and several passes go over all
//! shapes and over the networks as a whole, so that a change of clock or a noisy neighbour hits them alike; of the passes
//! the quietest counts. *Warm* times have the weights in cache from the round before; *cold* ones follow a walk through a
//! buffer larger than the caches. Inside a network a layer is somewhere between: its weights were last used one run ago.
//! Where, and what the network does besides its layers, is fitted to the network measured as a whole at each uniform
//! width and at some mixed ones.
use super::{
    bench::{Bench, Variant},
    blend::{self, MIXED},
    facts::{self, LayerFacts},
    table::{CostTable, ModelTable, Time},
};
use crate::{
    Code, Error, Result,
    artifact::CName,
    codegen::Target,
    driver::{
        build,
        model::Model,
        progress::{self, Progress},
    },
};
use goshawk_passes::{
    bits::{BitPlan, LayerBits},
    calibrate::Ranges,
    lower,
};
use std::collections::BTreeMap;

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
    let mut shapes: BTreeMap<&str, Vec<Variant<'_>>> = BTreeMap::new();
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
    let mut bench = Bench::new(target, dir.path(), options);
    progress.begin("compiling", shapes.len() + lowered.len() + MIXED);
    let mut groups = Vec::new();
    for group in shapes.values().filter(|g| !g.is_empty()) {
        progress::check(progress)?;
        groups.push(bench.group(group)?);
        progress.step();
    }
    let mut wholes = Vec::new();
    let uniform =
        options.widths.iter().map(|b| (format!("w{}a{}", b.weights, b.activations), everywhere(*b)));
    let mixed = (1..=MIXED).map(|i| (format!("mixed-{i}"), blend::mixed(&layers, &options.widths, i as u64)));
    for (i, (name, plan)) in uniform.chain(mixed).enumerate() {
        progress::check(progress)?;
        let own;
        let quantized = match lowered.get(i) {
            Some((_, quantized)) => quantized,
            None => {
                own = model.lower(&ranges(&plan)?, &plan, &options.lowering)?;
                &own
            }
        };
        let bytes = build::shared_library(model, quantized, target, &CName::from_model_name("whole"))?;
        wholes.push((name, plan, bench.open(&bytes)?));
        progress.step();
    }
    progress.end();
    let times = bench.measure(&groups, &wholes, progress)?;
    let mut measured = 0;
    for (group, times) in shapes.values().filter(|g| !g.is_empty()).zip(times.groups) {
        for ((key, bits, _, _, facts), (warm, cold, spread)) in group.iter().zip(times) {
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
    }
    let sums: Vec<Vec<Time>> = wholes
        .iter()
        .map(|(_, plan, _)| {
            let time =
                |(name, l): (&String, &LayerFacts)| cpu.layers.get(&l.key(blend::bits(plan, name))).copied();
            layers.iter().filter_map(time).collect()
        })
        .collect();
    let names = wholes.into_iter().map(|(name, ..)| name);
    let fitted = blend::fit(&sums, &names.zip(times.wholes).collect::<Vec<_>>());
    cpu.models.insert(model.sha256.clone(), fitted.clone());
    table.models.insert(model.sha256.clone(), layers);
    Ok(Summary { isa, variants, measured, model: fitted })
}

/// Name of this machine's processor, where the operating system tells.
pub fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    name.map_or(String::new(), |(_, name)| name.trim().to_owned())
}
