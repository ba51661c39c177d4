//! From layers with scores and costs to a [`Problem`]: the candidates of coupled layers are combined.
//!
//! Layers that read one tensor share its quantizer ([`crate::bits::coupling_classes`]) and so its activation bits; their
//! weight bits are free. A class therefore has one candidate for each combination of an activation width and the weight
//! widths that each member may have with it. Where candidates tie the two widths (w8a8 and w4a4 only), that is HAWQ-V3's
//! coupling: equal widths for the whole class.
use super::problem::{Choice, Class, Metric, Problem};
use crate::bits::LayerBits;
use goshawk_ir::{IrError, Result, ensure};
use std::collections::BTreeSet;

/// Most candidates of a class: beyond this, combinations are useless for any search.
const MAX_CHOICES: usize = 1 << 16;

/// Sensitivity of a layer at its widths, those of its weights and of the activations that it reads together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Ω: expected rise of the loss.
    pub omega: f64,
    /// Its standard error.
    pub error: f64,
}

/// A layer with its candidates.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Name.
    pub name: String,
    /// Widths it may get; one for a pinned layer.
    pub candidates: Vec<LayerBits>,
    /// Average Hessian trace of the weights.
    pub trace: f64,
    /// Largest Hessian eigenvalue of the weights over their number.
    pub eigenvalue: f64,
}

/// Builds the problem "least sensitivity", without limits. Each group holds the layers that read one tensor. Metric 0 is
/// the sensitivity, from `score`; `costs` gives the values of the other `metrics` for a layer at given widths.
///
/// # Errors
/// Members of a group that have no activation width in common; too many combinations; whatever `score` and `costs`
/// refuse.
pub fn build(
    metrics: &[Metric],
    base: &[f64],
    groups: &[Vec<Layer>],
    score: &dyn Fn(&str, LayerBits) -> Result<Score>,
    costs: &dyn Fn(&str, LayerBits) -> Result<Vec<f64>>,
) -> Result<Problem> {
    let mut all = vec![Metric::new("sensitivity", "loss")];
    all.extend_from_slice(metrics);
    let mut problem = Problem {
        base: [0.0].iter().chain(base).copied().collect(),
        classes: Vec::with_capacity(groups.len()),
        objective: 0,
        limits: Vec::new(),
        metrics: all,
    };
    for group in groups {
        let class = combine(group, problem.metrics.len(), score, costs)?;
        problem.classes.push(class);
    }
    problem.check()?;
    Ok(problem)
}

fn combine(
    group: &[Layer],
    metrics: usize,
    score: &dyn Fn(&str, LayerBits) -> Result<Score>,
    costs: &dyn Fn(&str, LayerBits) -> Result<Vec<f64>>,
) -> Result<Class> {
    let members: Vec<String> = group.iter().map(|l| l.name.clone()).collect();
    let names = members.join(", ");
    let mut widths: BTreeSet<u8> =
        group.iter().flat_map(|l| l.candidates.iter().map(|b| b.activations)).collect();
    for layer in group {
        widths.retain(|a| layer.candidates.iter().any(|b| b.activations == *a));
    }
    if widths.is_empty() {
        return Err(IrError::new(format!(
            "{names} read the same tensor but have no activation width in common among their candidates and pins"
        )));
    }
    let mut choices = Vec::new();
    for a in widths.iter().rev() {
        let mut partial = vec![Choice { bits: Vec::new(), values: vec![0.0; metrics], variance: 0.0 }];
        for layer in group {
            let mut next = Vec::new();
            for bits in layer.candidates.iter().filter(|b| b.activations == *a) {
                let own = score(&layer.name, *bits)?;
                let cost = costs(&layer.name, *bits).map_err(|e| e.at(&layer.name))?;
                ensure!(
                    cost.len() + 1 == metrics,
                    "{} has {} costs for {metrics} metrics",
                    layer.name,
                    cost.len()
                );
                for before in &partial {
                    let mut choice = before.clone();
                    choice.bits.push(*bits);
                    choice.values[0] += own.omega;
                    choice.values[1..].iter_mut().zip(&cost).for_each(|(v, c)| *v += c);
                    choice.variance += own.error.powi(2);
                    next.push(choice);
                }
            }
            ensure!(
                next.len() + choices.len() <= MAX_CHOICES,
                "{names} read the same tensor and have more than {MAX_CHOICES} combinations of widths: give fewer \
                 candidates, or pin some of them"
            );
            partial = next;
        }
        choices.append(&mut partial);
    }
    let largest = |f: &dyn Fn(&Layer) -> f64| group.iter().map(f).fold(f64::NEG_INFINITY, f64::max);
    Ok(Class { members, choices, trace: largest(&|l| l.trace), eigenvalue: largest(&|l| l.eigenvalue) })
}
