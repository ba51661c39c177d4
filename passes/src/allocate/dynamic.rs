//! Exact dynamic programme: class after class, all states (costs so far, objective so far) that no other dominates.
//!
//! Nemhauser and Ullmann (1969). With one limit the states are a staircase and merging is linear; with several the
//! dominance check is quadratic in the states, which is fine as an oracle for small problems. States that cannot be
//! finished within the limits are dropped; nothing else is, so this shares no bound with the branch and bound.
use super::{
    Solver, bound,
    core::{Core, ROUNDING},
    problem::Problem,
    solution::{Effort, Failure, Solution},
};
use std::time::Instant;

/// The dynamic programme.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dynamic;

#[derive(Clone, Debug)]
struct State {
    value: f64,
    cost: Vec<f64>,
    /// State of the stage before, and item.
    from: (u32, u32),
}

impl Solver for Dynamic {
    fn name(&self) -> &'static str {
        "dp"
    }

    fn solve(&self, problem: &Problem, effort: &Effort) -> Result<Solution, Failure> {
        let start = Instant::now();
        let core = Core::new(problem)?;
        let root = &core.root;
        // Least costs of the classes still to come.
        let mut ahead = vec![vec![0.0; root.rows]; root.classes() + 1];
        for class in (0..root.classes()).rev() {
            for row in 0..root.rows {
                let own = root.items(class).map(|i| root.costs(i)[row]).fold(f64::INFINITY, f64::min);
                ahead[class][row] = ahead[class + 1][row] + own;
            }
        }
        let mut stages = vec![vec![State { value: root.decided, cost: vec![0.0; root.rows], from: (0, 0) }]];
        let mut looked = 0u64;
        for class in 0..root.classes() {
            let mut next = Vec::new();
            for (s, state) in stages[class].iter().enumerate() {
                for item in root.items(class) {
                    let cost: Vec<f64> =
                        state.cost.iter().zip(root.costs(item)).map(|(a, b)| a + b).collect();
                    let fits =
                        |(row, c): (usize, &f64)| c + ahead[class + 1][row] <= root.room[row] + ROUNDING;
                    if cost.iter().enumerate().all(fits) {
                        next.push(State {
                            value: state.value + root.value[item],
                            cost,
                            from: (s as u32, item as u32),
                        });
                    }
                }
            }
            looked += next.len() as u64;
            if looked > effort.nodes || start.elapsed() > effort.time {
                return Err(Failure::GaveUp(format!(
                    "the dynamic programme has more than {looked} states after {} of {} classes; take the ilp solver",
                    class + 1,
                    root.classes()
                )));
            }
            stages.push(undominated(next, root.rows));
        }
        let last = stages.last().map(Vec::as_slice).unwrap_or_default();
        let best = last.iter().enumerate().min_by(|a, b| a.1.value.total_cmp(&b.1.value));
        let Some((mut at, state)) = best else {
            return Err(Failure::Infeasible(super::ilp::diagnose(problem, effort)?));
        };
        let value = state.value;
        let mut found = Vec::new();
        for class in (0..root.classes()).rev() {
            let (before, item) = stages[class + 1][at].from;
            found.push((root.class[class], root.choice[item as usize]));
            at = before as usize;
        }
        let dual = bound::root(&core, None);
        let choices = core.choices(problem.classes.len(), &found);
        let objective = core.objective(value);
        Ok(Solution::certified(problem, &core, self.name(), choices, objective, &dual, looked, start))
    }
}

/// Keeps the states that no other is at least as good as in value and all costs.
fn undominated(mut states: Vec<State>, rows: usize) -> Vec<State> {
    states.sort_by(|a, b| {
        let key = |s: &State| s.cost.first().copied().unwrap_or(0.0);
        key(a).total_cmp(&key(b)).then(a.value.total_cmp(&b.value))
    });
    let mut kept: Vec<State> = Vec::new();
    for state in states {
        let dominated = match rows {
            // Sorted by the only cost: the last kept has the smallest value so far.
            0 | 1 => kept.last().is_some_and(|k| k.value <= state.value),
            _ => kept
                .iter()
                .any(|k| k.value <= state.value && k.cost.iter().zip(&state.cost).all(|(a, b)| a <= b)),
        };
        if !dominated {
            kept.push(state);
        }
    }
    kept
}
