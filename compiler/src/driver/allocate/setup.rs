//! The allocation problem of a model.
use crate::{
    Code, Error, Result,
    driver::costs::{self, Costs, facts::LayerFacts},
};
use goshawk_ir::{FloatGraph, IrError};
use goshawk_passes::{
    allocate::{self, Layer, Problem, Score},
    bits::{BitPlan, LayerBits},
    lower::layers,
    sensitivity::{Metric, Profile},
};
use std::collections::BTreeMap;

/// What the user chose.
#[derive(Clone, Debug)]
pub struct Choices {
    /// Widths that layers may get.
    pub widths: Vec<LayerBits>,
    /// Layers whose widths are given.
    pub pins: BTreeMap<String, LayerBits>,
    /// Whether first and last layers may leave 8 bits.
    pub free_ends: bool,
    /// What the sensitivity is made of.
    pub metric: Metric,
}

/// Facts of layers from the profile alone, where neither cost table nor model tells: no shapes, so latencies are rough.
/// With the network its ends are known; without it the first and the last layer of the profile are taken for them.
///
/// # Errors
/// The network has a cycle.
pub fn facts(profile: &Profile, graph: Option<&FloatGraph>) -> Result<BTreeMap<String, LayerFacts>> {
    let last = profile.layers.len().saturating_sub(1);
    let ends = graph.map(layers::ends).transpose().map_err(|e| Error::internal(&e))?;
    let fact = |(position, layer): (usize, &goshawk_passes::sensitivity::LayerProfile)| {
        let node = graph.and_then(|g| g.find(&layer.name));
        let (at_first, at_last) = match (&ends, node) {
            (Some(ends), Some(id)) => (ends.first.contains(&id), ends.last.contains(&id)),
            _ => (position == 0, position == last),
        };
        let output = graph.zip(node).map_or(0, |(g, id)| g.ty(id).shape.count() as u64);
        let channels = layer.weights.channels.len() as u64;
        let facts = LayerFacts {
            position,
            shape: String::new(),
            weights: layer.parameters,
            channels,
            macs: layer.macs,
            input: layer.input_elements,
            output_bytes: output,
            // A depthwise layer has one product for each weight and output position, so far fewer weights than inputs.
            depthwise: false,
            reads: layer.input.clone(),
            first: at_first,
            last: at_last,
        };
        (layer.name.clone(), facts)
    };
    Ok(profile.layers.iter().enumerate().map(fact).collect())
}

/// The problem without limits.
///
/// # Errors
/// [`Code::BITS`]: a pin on a layer that does not exist, candidates or pins of coupled layers that exclude each other,
/// a score that the profile lacks.
pub fn problem(profile: &Profile, costs: &Costs<'_>, choices: &Choices) -> Result<Problem> {
    let bits = |e: IrError| Error::from_ir(Code::BITS, e);
    if let Some(unknown) = choices.pins.keys().find(|name| !costs.facts.contains_key(*name)) {
        let some: Vec<&str> = costs.facts.keys().take(5).map(String::as_str).collect();
        return Err(Error::new(Code::BITS, format!("there is no layer {unknown} to pin"))
            .help(format!("layers are named by their result tensor, for example {}", some.join(", "))));
    }
    let mut order: Vec<(&String, &LayerFacts)> = costs.facts.iter().collect();
    order.sort_by_key(|(_, f)| f.position);
    let mut groups: Vec<(&str, Vec<Layer>)> = Vec::new();
    for (name, facts) in order {
        let profiled = profile.layer(name).ok_or_else(|| {
            Error::new(Code::BITS, "the sensitivity profile does not know this layer")
                .at(name.clone())
                .because("profile and costs are of different models")
                .help("make the profile again: goshawk sensitivity MODEL")
        })?;
        let pinned = !choices.free_ends && (facts.first || facts.last);
        let candidates = match choices.pins.get(name) {
            Some(pin) => vec![*pin],
            None if pinned => vec![LayerBits::W8A8],
            None => choices.widths.clone(),
        };
        let eigenvalue = profiled.weights.eigenvalues.first().map_or(0.0, |e| e.value);
        let layer = Layer {
            name: name.clone(),
            candidates,
            trace: profiled.weight_trace().map_or(0.0, |t| t.mean),
            eigenvalue: eigenvalue / profiled.parameters.max(1) as f64,
        };
        match groups.iter_mut().find(|(reads, _)| *reads == facts.reads && !reads.is_empty()) {
            Some((_, group)) => group.push(layer),
            None => groups.push((&facts.reads, vec![layer])),
        }
    }
    let mut groups: Vec<Vec<Layer>> = groups.into_iter().map(|(_, g)| g).collect();
    groups.iter_mut().for_each(|g| follow_pins(g, &choices.pins));
    let score = |name: &str, b: LayerBits| {
        let layer = profile.layer(name).ok_or_else(|| IrError::new("not in the profile").at(name))?;
        let omega = layer.omega(choices.metric, b.weights, b.activations)?;
        Ok(Score { omega: omega.mean, error: omega.std_error })
    };
    let cost = |name: &str, b: LayerBits| costs.of(name, b).map_err(|e| IrError::new(e.what).at(name));
    allocate::build(&costs::metrics(), &costs.base(), &groups, &score, &cost).map_err(bits)
}

/// Layers that read one tensor share its activation bits: where one of them is bound (pinned, or first or last), the free
/// ones follow it, with the weights that they may have.
fn follow_pins(group: &mut [Layer], pins: &BTreeMap<String, LayerBits>) {
    let bound = group.iter().filter(|l| l.candidates.len() == 1);
    // A user's pin decides over the default one of an end.
    let Some(leader) = bound.clone().find(|l| pins.contains_key(&l.name)).or_else(|| bound.clone().next())
    else {
        return;
    };
    let Some(activations) = leader.candidates.first().map(|b| b.activations) else { return };
    for layer in group {
        let user = pins.contains_key(&layer.name);
        let has = layer.candidates.iter().any(|b| b.activations == activations);
        if !has && !user {
            layer.candidates.iter_mut().for_each(|b| b.activations = activations);
            layer.candidates.sort_unstable();
            layer.candidates.dedup();
        }
    }
}

/// The plan of an allocation: every layer listed.
pub fn plan(problem: &Problem, choices: &[usize]) -> BitPlan {
    BitPlan { default: LayerBits::W8A8, layers: problem.bits(choices), pin_first: true, pin_last: true }
}
