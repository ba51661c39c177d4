//! What quantizing one layer alone does to the outputs of the float network.
//!
//! A sample runs through the float interpreter once; then for every variant only what depends on the changed layer runs
//! again. All other layers stay in float, so that the effect is that of the layer alone, which is what the second-order
//! metrics predict.
use super::{
    errors::{self, Rounded},
    layers::Layer,
    profile::FLOAT,
};
use crate::{calibrate::Ranges, lower::Options};
use goshawk_ir::{FloatGraph, NodeId, QParams, Result, Shape, Tensor, bail, ensure, interp};
use std::collections::{BTreeMap, BTreeSet};

/// One layer at some widths.
#[derive(Clone, Debug)]
pub struct Variant {
    /// Index of the layer.
    pub layer: usize,
    /// Weight and activation bits, [`FLOAT`] for a side that stays.
    pub bits: (u8, u8),
    weight: Option<(Tensor, Option<Tensor>)>,
    activation: Option<QParams>,
}

impl Variant {
    /// Prepares a variant; `ranges` are those for its activation bits.
    ///
    /// # Errors
    /// A width outside 2..=8, weights that are not finite, a value without range.
    pub fn new(
        graph: &FloatGraph,
        (index, layer): (usize, &Layer),
        bits: (u8, u8),
        ranges: &Ranges,
        options: &Options,
    ) -> Result<Self> {
        let weight = match bits.0 {
            FLOAT => None,
            b => {
                let Rounded { rows, bias } = errors::round_weight(graph, layer, b, ranges, options)?;
                let bias = match bias {
                    Some(b) => Some(Tensor::from_f32(Shape::new([b.len()])?, b)?),
                    None => None,
                };
                Some((layer.tensor(graph, rows)?, bias))
            }
        };
        let activation = match bits.1 {
            FLOAT => None,
            b => Some(errors::activation_quantizer(layer, b, ranges)?),
        };
        Ok(Self { layer: index, bits, weight, activation })
    }
}

/// Runs variants of one network.
pub struct Runner<'g> {
    graph: &'g FloatGraph,
    layers: &'g [Layer],
    order: Vec<NodeId>,
    /// For each layer, what depends on it, in execution order.
    behind: Vec<Vec<NodeId>>,
}

impl<'g> Runner<'g> {
    /// Prepares a verified graph.
    ///
    /// # Errors
    /// The graph has a cycle.
    pub fn new(graph: &'g FloatGraph, layers: &'g [Layer]) -> Result<Self> {
        let order = graph.topo_order()?;
        let behind = layers.iter().map(|l| {
            let mut reached = BTreeSet::from([l.node]);
            let depends = |id: &NodeId| {
                let hit = graph.node(*id).operands().iter().any(|o| reached.contains(o));
                if hit {
                    reached.insert(*id);
                }
                hit
            };
            order.iter().copied().filter(depends).collect()
        });
        let behind = behind.collect();
        Ok(Self { graph, layers, order, behind })
    }

    /// All values of the float network for one sample.
    ///
    /// # Errors
    /// The inputs do not fit the network.
    pub fn base(&self, inputs: &[Tensor]) -> Result<BTreeMap<NodeId, Tensor>> {
        let mut values = BTreeMap::new();
        interp::float::run_with(self.graph, inputs, &mut |id, t| {
            values.insert(id, t.clone());
        })?;
        for id in &self.order {
            if let Some(constant) = self.graph.constant(*id) {
                values.insert(*id, constant.clone());
            }
        }
        Ok(values)
    }

    /// The outputs of a variant, given the values of the float network.
    ///
    /// # Errors
    /// The values are not those of this network.
    pub fn outputs(&self, base: &BTreeMap<NodeId, Tensor>, variant: &Variant) -> Result<Vec<Tensor>> {
        let layer = &self.layers[variant.layer];
        let mut changed = BTreeMap::new();
        let mut operands = self.operands(base, &changed, layer.node)?;
        if let Some(q) = &variant.activation {
            operands[0] = errors::round_activation(&operands[0], q)?;
        }
        if let Some((weight, bias)) = &variant.weight {
            operands[1] = weight.clone();
            operands.truncate(2);
            operands.extend(bias.clone());
        }
        changed.insert(layer.node, self.evaluate(layer.node, &operands)?);
        for id in &self.behind[variant.layer] {
            let operands = self.operands(base, &changed, *id)?;
            changed.insert(*id, self.evaluate(*id, &operands)?);
        }
        self.graph.outputs.iter().map(|p| value(base, &changed, p.node).cloned()).collect()
    }

    fn operands(
        &self,
        base: &BTreeMap<NodeId, Tensor>,
        changed: &BTreeMap<NodeId, Tensor>,
        id: NodeId,
    ) -> Result<Vec<Tensor>> {
        self.graph.node(id).operands().iter().map(|o| value(base, changed, *o).cloned()).collect()
    }

    fn evaluate(&self, id: NodeId, operands: &[Tensor]) -> Result<Tensor> {
        let node = self.graph.node(id);
        let operands: Vec<&Tensor> = operands.iter().collect();
        interp::float::evaluate(&node.op, &operands).map_err(|e| e.at(&node.name))
    }
}

fn value<'v>(
    base: &'v BTreeMap<NodeId, Tensor>,
    changed: &'v BTreeMap<NodeId, Tensor>,
    id: NodeId,
) -> Result<&'v Tensor> {
    let found = changed.get(&id).or_else(|| base.get(&id));
    ensure!(found.is_some(), "a value is missing: the sample was not run through this network");
    Ok(found.expect("checked above"))
}

/// Loss, divergence from a reference, and rows classified right, of one sample.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Loss.
    pub loss: f64,
    /// KL(reference ‖ this), or mean squared distance.
    pub divergence: f64,
    /// Share of the sample's rows whose label wins.
    pub right: f64,
}

/// What the outputs are compared with.
#[derive(Clone, Copy, Debug)]
pub enum Target<'t> {
    /// Classes of the rows: cross-entropy.
    Labels(&'t [usize]),
    /// The reference's own prediction: cross-entropy against its softmax.
    OwnClasses,
    /// Values of every output: mean squared error.
    Values(&'t [Tensor]),
    /// The reference's own outputs.
    OwnValues,
}

/// Scores outputs against `reference`, those of the float network. For classes the first output holds logits, or
/// probabilities if `probabilities`, one row for each label.
///
/// # Errors
/// Outputs that are not f32 or do not fit the target.
pub fn score(
    outputs: &[Tensor],
    reference: &[Tensor],
    target: Target<'_>,
    probabilities: bool,
) -> Result<Score> {
    match target {
        Target::Labels(labels) => classes(outputs, reference, Some(labels), probabilities),
        Target::OwnClasses => classes(outputs, reference, None, probabilities),
        Target::Values(values) => squares(outputs, reference, values),
        Target::OwnValues => squares(outputs, reference, reference),
    }
}

fn squares(outputs: &[Tensor], reference: &[Tensor], target: &[Tensor]) -> Result<Score> {
    let distance = |a: &[Tensor], b: &[Tensor]| -> Result<f64> {
        ensure!(a.len() == b.len(), "{} targets for {} outputs", b.len(), a.len());
        let (mut sum, mut count) = (0.0, 0usize);
        for (a, b) in a.iter().zip(b) {
            let (a, b) = (a.as_f32()?, b.as_f32()?);
            ensure!(a.len() == b.len(), "a target of {} values for an output of {}", b.len(), a.len());
            sum += a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>();
            count += a.len();
        }
        Ok(sum / count.max(1) as f64)
    };
    Ok(Score { loss: distance(outputs, target)?, divergence: distance(outputs, reference)?, right: 0.0 })
}

fn classes(
    outputs: &[Tensor],
    reference: &[Tensor],
    labels: Option<&[usize]>,
    probabilities: bool,
) -> Result<Score> {
    let ([y, ..], [r, ..]) = (outputs, reference) else { bail!("the network has no output") };
    let (y_rows, r_rows) = (rows(y)?, rows(r)?);
    ensure!(
        y_rows.len() == r_rows.len() && labels.is_none_or(|l| l.len() == y_rows.len()),
        "{} rows of scores for {} labels",
        y_rows.len(),
        labels.map_or(r_rows.len(), <[usize]>::len)
    );
    let mut score = Score::default();
    for (i, (y, r)) in y_rows.iter().zip(&r_rows).enumerate() {
        let (log_y, log_r) = (log_softmax(y, probabilities), log_softmax(r, probabilities));
        let expected = |log: &[f64]| log_r.iter().zip(log).map(|(p, l)| p.exp() * l).sum::<f64>();
        score.divergence += expected(&log_r) - expected(&log_y);
        score.loss -= match labels {
            Some(labels) => {
                let label = labels[i];
                ensure!(label < y.len(), "label {label}, but the network has {} classes", y.len());
                // Of equal scores the first class wins, as in numpy.argmax.
                let beaten = |(j, v): (usize, &f32)| *v > y[label] || (*v == y[label] && j < label);
                score.right += f64::from(u8::from(!y.iter().enumerate().any(beaten)));
                log_y[label]
            }
            None => expected(&log_y),
        };
    }
    let n = y_rows.len().max(1) as f64;
    Ok(Score { loss: score.loss / n, divergence: score.divergence / n, right: score.right / n })
}

/// Scores of each row: classes are dimension 1.
fn rows(t: &Tensor) -> Result<Vec<Vec<f32>>> {
    let (values, dims) = (t.as_f32()?, &t.shape()[..]);
    ensure!(dims.len() >= 2 && dims[1] > 0, "scores of classes have a dimension of classes behind the batch");
    let inner: usize = dims[2..].iter().product();
    let image = |x: &[f32]| {
        (0..inner)
            .map(|i| x.iter().skip(i).step_by(inner.max(1)).copied().collect())
            .collect::<Vec<Vec<f32>>>()
    };
    Ok(values.chunks((dims[1] * inner).max(1)).flat_map(image).collect())
}

/// log softmax; probabilities are only taken to logarithms.
fn log_softmax(row: &[f32], probabilities: bool) -> Vec<f64> {
    if probabilities {
        return row.iter().map(|p| f64::from(*p).max(1e-30).ln()).collect();
    }
    let max = row.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
    let sum: f64 = row.iter().map(|v| f64::from(v - max).exp()).sum();
    row.iter().map(|v| f64::from(v - max) - sum.ln()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(dims: &[usize], values: &[f32]) -> Tensor {
        Tensor::from_f32(Shape::new(dims).expect("shape"), values.to_vec()).expect("tensor")
    }

    #[test]
    fn scores_of_classes() {
        let (y, r) = ([tensor(&[1, 2], &[0.0, 3f32.ln()])], [tensor(&[1, 2], &[0.0, 0.0])]);
        let s = score(&y, &r, Target::Labels(&[1]), false).expect("fits");
        assert!((s.loss - (4.0f64 / 3.0).ln()).abs() < 1e-6 && s.right == 1.0);
        let kl = 0.5 * (0.5f64 / 0.25).ln() + 0.5 * (0.5f64 / 0.75).ln();
        assert!((s.divergence - kl).abs() < 1e-6);
        // Against the own prediction the loss is the entropy plus the divergence.
        let own = score(&y, &r, Target::OwnClasses, false).expect("fits");
        assert!((own.loss - kl - 2f64.ln()).abs() < 1e-6);
        let p = tensor(&[1, 2], &[0.25, 0.75]);
        let same = score(&[p], &[tensor(&[1, 2], &[0.5, 0.5])], Target::Labels(&[0]), true).expect("fits");
        assert!((same.loss - 4f64.ln()).abs() < 1e-6 && same.right == 0.0);
        assert!(score(&y, &r, Target::Labels(&[2]), false).is_err());
    }

    #[test]
    fn scores_of_values() {
        let (y, r) = ([tensor(&[2], &[1.0, 2.0])], [tensor(&[2], &[0.0, 0.0])]);
        let s = score(&y, &r, Target::Values(&[tensor(&[2], &[1.0, 0.0])]), false);
        assert_eq!(s.expect("fits"), Score { loss: 2.0, divergence: 2.5, right: 0.0 });
        assert_eq!(score(&y, &r, Target::OwnValues, false).expect("fits").loss, 2.5);
    }
}
