//! What is to be decided: classes of layers, their candidate widths, what each candidate costs, and the limits.
use crate::bits::LayerBits;
use goshawk_ir::{Result, ensure};

/// Relative slack within which a limit counts as held: sums of a few hundred f64 are exact to far less.
pub(super) const FEASIBLE: f64 = 1e-9;

/// Something that candidates have a number for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Name, as limits give it: `sensitivity`, `size`, `bops`, `latency`, `energy`.
    pub name: String,
    /// Unit of the numbers.
    pub unit: String,
}

impl Metric {
    /// A metric.
    pub fn new(name: &str, unit: &str) -> Self {
        Self { name: name.into(), unit: unit.into() }
    }
}

/// One candidate of a class.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Widths of each member of the class.
    pub bits: Vec<LayerBits>,
    /// Value of each metric; values of an allocation add up over the classes.
    pub values: Vec<f64>,
    /// Variance of the first metric (the sensitivity), for error bars.
    pub variance: f64,
}

/// Layers whose widths are decided together.
#[derive(Clone, Debug, PartialEq)]
pub struct Class {
    /// Names of the layers.
    pub members: Vec<String>,
    /// Candidates, at least one.
    pub choices: Vec<Choice>,
    /// Average Hessian trace: HAWQ-V2's order.
    pub trace: f64,
    /// Largest Hessian eigenvalue over the number of parameters: HAWQ-V1's order.
    pub eigenvalue: f64,
}

/// A limit on the sum of a metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// Index of the metric.
    pub metric: usize,
    /// Largest allowed sum, the base included.
    pub max: f64,
}

/// Minimise one metric under limits on others.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Metrics; the first is the sensitivity.
    pub metrics: Vec<Metric>,
    /// What the network has of each metric whatever the widths (layers without weights, for example).
    pub base: Vec<f64>,
    /// What is decided.
    pub classes: Vec<Class>,
    /// Index of the metric to minimise: 0 for the usual problem, another one for "the fastest within a sensitivity".
    pub objective: usize,
    /// Limits.
    pub limits: Vec<Limit>,
}

impl Problem {
    /// Checks that the problem is well formed.
    ///
    /// # Errors
    /// A class without candidates, a number that is missing or not finite, a metric that does not exist.
    pub fn check(&self) -> Result<()> {
        let metrics = self.metrics.len();
        ensure!(self.objective < metrics, "the objective is metric {} of {metrics}", self.objective);
        ensure!(self.base.len() == metrics, "{} base values for {metrics} metrics", self.base.len());
        ensure!(self.base.iter().all(|v| v.is_finite()), "a base value is not finite");
        for limit in &self.limits {
            ensure!(limit.metric < metrics, "a limit is on metric {} of {metrics}", limit.metric);
            let name = &self.metrics[limit.metric].name;
            ensure!(!limit.max.is_nan(), "the limit on {name} is not a number");
        }
        for class in &self.classes {
            let name = class.members.join(", ");
            ensure!(!class.choices.is_empty(), "{name} has no candidate widths");
            for choice in &class.choices {
                ensure!(
                    choice.values.len() == metrics,
                    "{name} has values for {} metrics",
                    choice.values.len()
                );
                for (value, metric) in choice.values.iter().zip(&self.metrics) {
                    ensure!(value.is_finite(), "the {} of {name} is {value}", metric.name);
                }
                ensure!(choice.bits.len() == class.members.len(), "{name} lacks widths of a member");
            }
        }
        Ok(())
    }

    /// Sum of every metric for one choice of each class.
    pub fn totals(&self, choices: &[usize]) -> Vec<f64> {
        let mut totals = self.base.clone();
        for (class, c) in self.classes.iter().zip(choices) {
            totals.iter_mut().zip(&class.choices[*c].values).for_each(|(t, v)| *t += v);
        }
        totals
    }

    /// Variance of the sensitivity, the classes taken as independent.
    pub fn variance(&self, choices: &[usize]) -> f64 {
        self.classes.iter().zip(choices).map(|(class, c)| class.choices[*c].variance).sum()
    }

    /// Whether these sums hold all limits.
    pub fn holds(&self, totals: &[f64]) -> bool {
        self.limits.iter().all(|l| totals[l.metric] <= l.max + FEASIBLE * l.max.abs())
    }

    /// Smallest possible sum of a metric, limits aside.
    pub fn smallest(&self, metric: usize) -> f64 {
        let least =
            |class: &Class| class.choices.iter().map(|c| c.values[metric]).fold(f64::INFINITY, f64::min);
        self.base[metric] + self.classes.iter().map(least).sum::<f64>()
    }

    /// Widths of every layer by name.
    pub fn bits(&self, choices: &[usize]) -> std::collections::BTreeMap<String, LayerBits> {
        let pairs =
            self.classes.iter().zip(choices).flat_map(|(class, c)| {
                class.members.iter().cloned().zip(class.choices[*c].bits.iter().copied())
            });
        pairs.collect()
    }

    /// Widths that some class can have in all its members, from the most generous to the cheapest.
    pub fn levels(&self) -> Vec<LayerBits> {
        super::monotone::levels(self)
    }

    /// The candidate of every class that is nearest to a level; pinned classes keep theirs.
    pub fn at_level(&self, level: LayerBits) -> Vec<usize> {
        self.classes.iter().map(|c| super::monotone::at_level(c, level)).collect()
    }

    /// Number of the metric of this name.
    pub fn metric(&self, name: &str) -> Option<usize> {
        self.metrics.iter().position(|m| m.name == name)
    }
}
