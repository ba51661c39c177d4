//! Bit allocation: which layer gets how many bits.
//!
//! One [`Problem`]: classes of coupled layers, each with its candidate widths; a number for every metric (sensitivity,
//! size, latency …) of every candidate; one metric to minimise and limits on any others. That is a multiple-choice
//! knapsack with several constraints, the general form of HAWQ-V3's integer program. Behind one trait, [`Solver`]:
//!
//! | solver | what it is | optimal |
//! |---|---|---|
//! | [`Ilp`] | branch and bound over Lagrangian and linear relaxations (HAWQ-V3 §3.4) | proven |
//! | [`Dynamic`] | dynamic programme over undominated states | proven |
//! | [`Pareto`] | HAWQ-V2: widths monotone in the order of the average trace | within that order |
//! | [`Ranking`] | HAWQ-V1: the least sensitive layers are lowered first | no |
//! | [`Greedy`] | smallest loss per cost, then exchanges | no |
//! | [`Haq`] | HAQ's actions and budget wall under a cross-entropy search | no |
//!
//! Every solution carries a [`Certificate`]: a lower bound on what any allocation can reach, whoever found it.
mod bound;
mod build;
mod core;
mod dynamic;
mod greedy;
mod haq;
mod ilp;
mod improve;
mod monotone;
mod problem;
mod ranking;
mod relaxation;
mod solution;

pub use build::{Layer, Score, build};
pub use dynamic::Dynamic;
pub use greedy::Greedy;
pub use haq::Haq;
pub use ilp::Ilp;
pub use monotone::Pareto;
pub use problem::{Choice, Class, Limit, Metric, Problem};
pub use ranking::Ranking;
pub use relaxation::{Linear, LinearSolver, Minilp};
pub use solution::{Budget, Certificate, Effort, Failure, Infeasible, Solution};

/// A way to solve a [`Problem`].
pub trait Solver {
    /// Name on the command line and in certificates.
    fn name(&self) -> &'static str;

    /// Finds an allocation within all limits.
    ///
    /// # Errors
    /// [`Failure::Invalid`] for a malformed problem, [`Failure::Infeasible`] where no allocation holds the limits,
    /// [`Failure::GaveUp`] where the solver found none within its effort though there may be one.
    fn solve(&self, problem: &Problem, effort: &Effort) -> Result<Solution, Failure>;
}

/// What a solver that cannot prove infeasibility says when it found nothing: the reason why nothing can be found, or that
/// only this solver found nothing.
fn nothing_found(problem: &Problem, effort: &Effort, what: &str) -> Failure {
    match Ilp::default().solve(problem, effort) {
        Err(failure) => failure,
        Ok(_) => Failure::GaveUp(what.to_owned()),
    }
}
