//! The trade between sensitivity and costs: budgets swept, every point solved to optimality, naive allocations beside it.
use super::{budget, failed};
use crate::{
    Result,
    driver::progress::{self, Progress},
};
use goshawk_passes::{
    allocate::{Budget, Effort, Failure, Limit, Problem, Solution, Solver},
    bits::LayerBits,
};

/// One allocation of the report.
#[derive(Clone, Debug)]
pub struct Point {
    /// `point-07`, `first-3`, `random-2`, `w4a4`.
    pub name: String,
    /// Where it comes from: `frontier`, `uniform`, `first-k`, `random`.
    pub kind: &'static str,
    /// Candidate of each class.
    pub choices: Vec<usize>,
    /// Sum of every metric.
    pub totals: Vec<f64>,
    /// Standard error of the sensitivity.
    pub error: f64,
    /// The budgets with use and price; none for naive points.
    pub budgets: Vec<Budget>,
    /// Whether the solver proved it optimal for its budgets.
    pub proven: bool,
    /// Whether another point is at least as good in sensitivity and in every swept metric.
    pub dominated: bool,
}

impl Point {
    fn solved(name: String, s: Solution) -> Self {
        Self {
            name,
            kind: "frontier",
            choices: s.choices,
            totals: s.totals,
            error: s.error,
            budgets: s.certificate.budgets,
            proven: s.certificate.proven,
            dominated: false,
        }
    }

    pub(super) fn naive(problem: &Problem, name: String, kind: &'static str, choices: Vec<usize>) -> Self {
        Self {
            totals: problem.totals(&choices),
            error: problem.variance(&choices).max(0.0).sqrt(),
            name,
            kind,
            choices,
            budgets: Vec::new(),
            proven: false,
            dominated: false,
        }
    }
}

/// Sweeps each of `metrics` (indices) over `steps` values of α from 0 to 1, the problem's own limits kept, and all of them
/// together as well. Equal allocations are kept once. Sorted by sensitivity, largest first.
///
/// # Errors
/// As the solver, but for steps that are infeasible: they are left out, unless all are.
pub fn sweep(
    problem: &Problem,
    solver: &dyn Solver,
    metrics: &[usize],
    steps: usize,
    effort: &Effort,
    progress: &dyn Progress,
) -> Result<Vec<Point>> {
    let mut sweeps: Vec<Vec<usize>> = metrics.iter().map(|m| vec![*m]).collect();
    if metrics.len() > 1 {
        sweeps.push(metrics.to_vec());
    }
    let steps = steps.max(2);
    progress.begin("allocating", sweeps.len() * steps);
    let mut points: Vec<Point> = Vec::new();
    let mut last = None;
    for swept in &sweeps {
        for step in 0..steps {
            progress::check(progress)?;
            let alpha = step as f64 / (steps - 1) as f64;
            let mut limited = problem.clone();
            for metric in swept {
                limited
                    .limits
                    .push(Limit { metric: *metric, max: budget::relative(problem, *metric, alpha) });
            }
            match solver.solve(&limited, effort) {
                Ok(s) if points.iter().any(|p| p.choices == s.choices) => {}
                Ok(s) => points.push(Point::solved(String::new(), s)),
                Err(Failure::Infeasible(why)) => last = Some(Failure::Infeasible(why)),
                Err(other) => return Err(failed(other)),
            }
            progress.step();
        }
    }
    progress.end();
    if let (true, Some(failure)) = (points.is_empty(), last) {
        return Err(failed(failure));
    }
    points.sort_by(|a, b| b.totals[0].total_cmp(&a.totals[0]));
    for (i, point) in points.iter_mut().enumerate() {
        point.name = format!("point-{:02}", i + 1);
    }
    mark_dominated(&mut points, metrics);
    Ok(points)
}

/// Marks points that another one beats in sensitivity and all of `metrics`.
fn mark_dominated(points: &mut [Point], metrics: &[usize]) {
    let keys: Vec<Vec<f64>> =
        points.iter().map(|p| [0].iter().chain(metrics).map(|m| p.totals[*m]).collect()).collect();
    for (i, point) in points.iter_mut().enumerate() {
        point.dominated = keys.iter().enumerate().any(|(j, other)| {
            let no_worse = other.iter().zip(&keys[i]).all(|(a, b)| a <= b);
            no_worse && (other != &keys[i] || j < i)
        });
    }
}

/// Naive allocations to compare with: uniform widths; the first k classes generous and the rest cheap, for about `count`
/// values of k; `count` random ones.
pub fn naive(problem: &Problem, count: usize, seed: u64) -> Vec<Point> {
    let levels = problem.levels();
    let name = |b: &LayerBits| format!("w{}a{}", b.weights, b.activations);
    let mut points: Vec<Point> =
        levels.iter().map(|l| Point::naive(problem, name(l), "uniform", problem.at_level(*l))).collect();
    let (Some(generous), Some(cheap)) = (levels.first(), levels.last()) else { return points };
    let (high, low) = (problem.at_level(*generous), problem.at_level(*cheap));
    let free: Vec<usize> = (0..high.len()).filter(|j| high[*j] != low[*j]).collect();
    for step in 1..=count {
        let k = step * free.len() / (count + 1);
        let mut choices = low.clone();
        free[..k].iter().for_each(|j| choices[*j] = high[*j]);
        if k > 0 && !points.iter().any(|p| p.choices == choices) {
            points.push(Point::naive(problem, format!("first-{k}"), "first-k", choices));
        }
    }
    let mut random = Random(seed);
    for i in 0..count {
        let choices = problem.classes.iter().map(|c| random.below(c.choices.len())).collect();
        points.push(Point::naive(problem, format!("random-{}", i + 1), "random", choices));
    }
    points
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((u128::from(z) * n as u128) >> 64) as usize
    }
}
