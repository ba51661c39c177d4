//! HAWQ-V2's Pareto frontier method: layers in the order of their average Hessian trace, and only allocations in which a
//! more sensitive layer never gets fewer bits than a less sensitive one (§3.2 there). That leaves C(L + m − 1, m − 1) of
//! m^L allocations, and all of them are looked at. On the published ResNet arrays the restriction costs up to twice the
//! sensitivity of the true optimum; it is here for fidelity and as a cheap, explainable baseline.
use super::{
    Solver, nothing_found,
    problem::{Class, Problem},
    solution::{Effort, Failure, Solution},
};
use crate::bits::LayerBits;
use std::{cmp::Reverse, collections::BTreeSet, time::Instant};

/// The method of HAWQ-V2.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pareto;

/// Widths that some class can have in all its members, from the most generous to the cheapest.
pub(super) fn levels(problem: &Problem) -> Vec<LayerBits> {
    let uniform = |class: &Class| -> Vec<LayerBits> {
        let same = class.choices.iter().filter(|c| c.bits.windows(2).all(|p| p[0] == p[1]));
        same.filter_map(|c| c.bits.first().copied()).collect()
    };
    let all: BTreeSet<LayerBits> = problem.classes.iter().flat_map(uniform).collect();
    let mut levels: Vec<LayerBits> = all.into_iter().collect();
    levels.sort_by_key(|b| Reverse((u32::from(b.weights) * u32::from(b.activations), b.weights)));
    levels
}

/// The candidate of a class that is nearest to a level; a pinned class has only one.
pub(super) fn at_level(class: &Class, level: LayerBits) -> usize {
    let distance = |bits: &[LayerBits]| -> u32 {
        bits.iter()
            .map(|b| {
                u32::from(b.weights.abs_diff(level.weights))
                    + u32::from(b.activations.abs_diff(level.activations))
            })
            .sum()
    };
    (0..class.choices.len()).min_by_key(|c| distance(&class.choices[*c].bits)).unwrap_or(0)
}

impl Solver for Pareto {
    fn name(&self) -> &'static str {
        "pareto"
    }

    fn solve(&self, problem: &Problem, effort: &Effort) -> Result<Solution, Failure> {
        let start = Instant::now();
        problem.check()?;
        let levels = levels(problem);
        let mut order: Vec<usize> = (0..problem.classes.len()).collect();
        order.sort_by(|a, b| problem.classes[*b].trace.total_cmp(&problem.classes[*a].trace));
        // sums[level][i]: totals of the first i classes of the order, all at this level.
        let metrics = problem.metrics.len();
        let sums: Vec<Vec<Vec<f64>>> = levels
            .iter()
            .map(|level| {
                let mut sums = vec![vec![0.0; metrics]];
                for j in &order {
                    let class = &problem.classes[*j];
                    let values = &class.choices[at_level(class, *level)].values;
                    let last = sums.last().map(Vec::as_slice).unwrap_or_default();
                    sums.push(last.iter().zip(values).map(|(a, b)| a + b).collect());
                }
                sums
            })
            .collect();
        let mut walk = Walk {
            problem,
            sums: &sums,
            cuts: Vec::new(),
            best: None,
            looked: 0,
            effort,
            start,
            stopped: false,
        };
        walk.next(0, problem.base.clone());
        if walk.stopped {
            return Err(Failure::GaveUp(format!(
                "there are too many monotone allocations of {} classes at {} levels; give fewer candidate widths",
                order.len(),
                levels.len()
            )));
        }
        let looked = walk.looked;
        let Some((_, cuts)) = walk.best else {
            return Err(nothing_found(
                problem,
                effort,
                "no allocation that is monotone in the trace holds the limits",
            ));
        };
        let mut choices = vec![0; order.len()];
        let mut from = 0;
        for (level, to) in levels.iter().zip(cuts) {
            for j in &order[from..to] {
                choices[*j] = at_level(&problem.classes[*j], *level);
            }
            from = to;
        }
        Solution::bounded(problem, self.name(), choices, looked, start)
    }
}

struct Walk<'a> {
    problem: &'a Problem,
    sums: &'a [Vec<Vec<f64>>],
    /// End of each level so far.
    cuts: Vec<usize>,
    best: Option<(f64, Vec<usize>)>,
    looked: u64,
    effort: &'a Effort,
    start: Instant,
    stopped: bool,
}

impl Walk<'_> {
    /// Chooses where the next level ends; `totals` are those of the classes before `from`.
    fn next(&mut self, from: usize, totals: Vec<f64>) {
        let level = self.cuts.len();
        let Some(sums) = self.sums.get(level) else { return };
        let classes = sums.len() - 1;
        let last = level + 1 == self.sums.len();
        for to in if last { classes..classes + 1 } else { from..classes + 1 } {
            let mut sum = totals.clone();
            for (s, (a, b)) in sum.iter_mut().zip(sums[to].iter().zip(&sums[from])) {
                *s += a - b;
            }
            if last {
                self.looked += 1;
                if self.looked.is_multiple_of(4096) {
                    self.stopped |=
                        self.start.elapsed() > self.effort.time || self.looked > self.effort.nodes;
                }
                let objective = sum[self.problem.objective];
                if self.problem.holds(&sum) && self.best.as_ref().is_none_or(|(b, _)| objective < *b) {
                    let cuts = self.cuts.iter().copied().chain([to]).collect();
                    self.best = Some((objective, cuts));
                }
            } else {
                self.cuts.push(to);
                self.next(to, sum);
                self.cuts.pop();
            }
            if self.stopped {
                return;
            }
        }
    }
}
