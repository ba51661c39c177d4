//! Greedy: everything at its least sensitive width, then the change that mends the broken limits at the smallest loss
//! for what it mends, until they hold; then single changes and exchanges of two while they help.
use super::{
    Solver, bound,
    core::Core,
    improve, nothing_found,
    problem::Problem,
    solution::{Effort, Failure, Solution},
};
use std::time::Instant;

/// The greedy solver.
#[derive(Clone, Copy, Debug, Default)]
pub struct Greedy;

impl Solver for Greedy {
    fn name(&self) -> &'static str {
        "greedy"
    }

    fn solve(&self, problem: &Problem, effort: &Effort) -> Result<Solution, Failure> {
        let start = Instant::now();
        let core = Core::new(problem)?;
        let mut picks = Vec::new();
        bound::lagrangian(&core.root, &vec![0.0; core.root.rows], &mut picks);
        if !improve::repair(&core.root, &mut picks) {
            return Err(nothing_found(
                problem,
                effort,
                "the greedy descent got stuck above the limits; take the ilp solver",
            ));
        }
        improve::polish(&core.root, &mut picks, core.root.choice.len() <= 1500);
        let found: Vec<(u32, u32)> = picks
            .iter()
            .zip(&core.root.class)
            .map(|(i, class)| (*class, core.root.choice[*i as usize]))
            .collect();
        let choices = core.choices(problem.classes.len(), &found);
        Solution::bounded(problem, self.name(), choices, 1, start)
    }
}
