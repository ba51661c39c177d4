//! What solvers answer: an allocation with a certificate, or why there is none.
use super::{
    bound::{self, Dual},
    core::Core,
    problem::Problem,
};
use goshawk_ir::IrError;
use std::{
    fmt,
    time::{Duration, Instant},
};

/// How much work a solver may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Nodes of the search tree (states of the dynamic programme, episodes of HAQ are limited by it too).
    pub nodes: u64,
    /// Time; a search that it cuts short may end differently on another run.
    pub time: Duration,
}

impl Default for Effort {
    fn default() -> Self {
        Self { nodes: 50_000_000, time: Duration::from_secs(60) }
    }
}

/// One limit as the solution meets it.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    /// Index of the metric.
    pub metric: usize,
    /// The limit.
    pub max: f64,
    /// What the allocation uses of it.
    pub used: f64,
    /// Shadow price: by how much the objective falls for each unit more of this budget, at the optimum of the linear
    /// relaxation. 0 for a budget that does not bind.
    pub price: f64,
}

/// What is known about a solution.
#[derive(Clone, Debug, PartialEq)]
pub struct Certificate {
    /// Name of the solver.
    pub solver: &'static str,
    /// Objective of the solution.
    pub objective: f64,
    /// No allocation within the limits has a smaller objective.
    pub bound: f64,
    /// (objective − bound) / |objective|, 0 where the solution is proven optimal.
    pub gap: f64,
    /// Whether the solution is proven optimal.
    pub proven: bool,
    /// The limits with use and shadow price.
    pub budgets: Vec<Budget>,
    /// Nodes, states, candidates or episodes that the solver looked at.
    pub nodes: u64,
    /// Who solved the linear relaxation at the root.
    pub relaxation: &'static str,
    /// Time taken.
    pub time: Duration,
}

/// An allocation.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// Index of the candidate of each class.
    pub choices: Vec<usize>,
    /// Sum of every metric.
    pub totals: Vec<f64>,
    /// Standard error of the sensitivity.
    pub error: f64,
    /// What is known about it.
    pub certificate: Certificate,
}

impl Solution {
    /// A solution of a solver that proves nothing by itself: the bound is that of the Lagrangian relaxation.
    pub(super) fn bounded(
        problem: &Problem,
        solver: &'static str,
        choices: Vec<usize>,
        nodes: u64,
        start: Instant,
    ) -> Result<Self, Failure> {
        let core = Core::new(problem)?;
        let dual = bound::root(&core, None);
        let bound = core.objective(dual.value);
        Ok(Self::certified(problem, &core, solver, choices, bound, &dual, nodes, start))
    }

    /// A solution with a lower bound on the objective and the prices of a dual solution.
    pub(super) fn certified(
        problem: &Problem,
        core: &Core,
        solver: &'static str,
        choices: Vec<usize>,
        bound: f64,
        dual: &Dual,
        nodes: u64,
        start: Instant,
    ) -> Self {
        let totals = problem.totals(&choices);
        let objective = totals[problem.objective];
        let bound = bound.min(objective);
        let scale = objective.abs().max(f64::MIN_POSITIVE);
        // The tolerance of the search: differences below it are rounding.
        let proven = objective - bound <= core.tolerance(objective);
        let price = |l: usize| core.price(l, &dual.prices);
        let budgets = problem.limits.iter().enumerate().map(|(i, l)| Budget {
            metric: l.metric,
            max: l.max,
            used: totals[l.metric],
            price: price(i),
        });
        let certificate = Certificate {
            solver,
            objective,
            bound,
            gap: if proven { 0.0 } else { (objective - bound) / scale },
            proven,
            budgets: budgets.collect(),
            nodes,
            relaxation: dual.by,
            time: start.elapsed(),
        };
        Self { error: problem.variance(&choices).max(0.0).sqrt(), choices, totals, certificate }
    }
}

/// A limit that cannot be held.
#[derive(Clone, Debug, PartialEq)]
pub struct Infeasible {
    /// Name of the metric.
    pub metric: String,
    /// Its unit.
    pub unit: String,
    /// The limit.
    pub max: f64,
    /// Smallest value that can be had while the other limits hold; `None` where they cannot be held either.
    pub smallest: Option<f64>,
}

/// Why there is no solution.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// The problem is malformed or beyond what the solver can take.
    Invalid(IrError),
    /// No allocation holds all limits: each of these would have to give way, alone.
    Infeasible(Vec<Infeasible>),
    /// The solver found no allocation within its effort.
    GaveUp(String),
}

impl From<IrError> for Failure {
    fn from(e: IrError) -> Self {
        Self::Invalid(e)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(e) => e.fmt(f),
            Self::GaveUp(why) => f.write_str(why),
            Self::Infeasible(limits) => {
                f.write_str("no allocation holds ")?;
                f.write_str(if limits.len() > 1 { "these limits together" } else { "this limit" })?;
                for (i, l) in limits.iter().enumerate() {
                    let Infeasible { metric, unit, max, smallest } = l;
                    f.write_str(if i == 0 { ": " } else { "; " })?;
                    write!(f, "{metric} of at most {max:.6} {unit}")?;
                    match smallest {
                        Some(s) if limits.len() > 1 => {
                            write!(f, " (smallest with the others held: {s:.6} {unit})")?;
                        }
                        Some(s) => write!(f, " (smallest possible: {s:.6} {unit})")?,
                        None => f.write_str(" (the others cannot be held without it either)")?,
                    }
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for Failure {}
