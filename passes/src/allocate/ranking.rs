//! HAWQ-V1's ranking: S = λ_max / n orders the layers, and a larger S means more bits.
//!
//! The paper leaves the widths themselves to the user. Here they follow from the limits: all layers start at the most
//! generous width; in rising order of S they go down one level, then from the start again the next level, until the
//! limits hold. The sensitivity values are not looked at, which is the point of the baseline.
use super::{
    Solver, monotone, nothing_found,
    problem::Problem,
    solution::{Effort, Failure, Solution},
};
use std::time::Instant;

/// The ranking of HAWQ-V1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ranking;

impl Solver for Ranking {
    fn name(&self) -> &'static str {
        "ranking"
    }

    fn solve(&self, problem: &Problem, effort: &Effort) -> Result<Solution, Failure> {
        let start = Instant::now();
        problem.check()?;
        let mut order: Vec<usize> = (0..problem.classes.len()).collect();
        order.sort_by(|a, b| problem.classes[*a].eigenvalue.total_cmp(&problem.classes[*b].eigenvalue));
        let levels = monotone::levels(problem);
        let at = |j: usize, level: usize| {
            levels.get(level).map_or(0, |bits| monotone::at_level(&problem.classes[j], *bits))
        };
        let mut choices: Vec<usize> = (0..problem.classes.len()).map(|j| at(j, 0)).collect();
        let mut steps = 1;
        if problem.holds(&problem.totals(&choices)) {
            return Solution::bounded(problem, self.name(), choices, steps, start);
        }
        for level in 1..levels.len() {
            for j in &order {
                choices[*j] = at(*j, level);
                steps += 1;
                if problem.holds(&problem.totals(&choices)) {
                    return Solution::bounded(problem, self.name(), choices, steps, start);
                }
            }
        }
        Err(nothing_found(
            problem,
            effort,
            "not even the cheapest widths everywhere hold the limits, though others do",
        ))
    }
}
