//! HAQ (Wang et al., CVPR 2019): actions, budget wall and exploration of its environment, under another learner.
//!
//! As in HAQ an episode takes one continuous action in [0, 1] for each decision, which is rounded to a candidate by its
//! linear map; when the episode's policy exceeds a limit, the *wall* lowers one decision after the other by one step, from
//! the last to the first and around again, until the limits hold; the first episodes are random, later ones explore by a
//! truncated normal whose σ decays as 0.5·0.99^episode; the reward comes once, at the end.
//!
//! What differs, and why: the reward is the negative objective (HAQ fine-tunes for an epoch in each of 600 episodes, GPU
//! days), and the actor is not a DDPG network over layer features but the mean of the elite episodes' actions per decision
//! (cross-entropy method, Rubinstein 1999), which needs no training set of layers. Decisions are classes of coupled
//! layers, whose candidates are ordered by their cost, instead of weight and activation steps per layer.
use super::{
    Solver, nothing_found,
    problem::{Class, Problem},
    solution::{Effort, Failure, Solution},
};
use std::time::Instant;

/// HAQ's search.
#[derive(Clone, Copy, Debug)]
pub struct Haq {
    /// Episodes, random ones included.
    pub episodes: usize,
    /// Random episodes at the start.
    pub warm_up: usize,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Default for Haq {
    /// The settings of HAQ's scripts.
    fn default() -> Self {
        Self { episodes: 600, warm_up: 20, seed: 234 }
    }
}

/// Number of best episodes whose actions the next ones follow.
const ELITE: usize = 10;

impl Solver for Haq {
    fn name(&self) -> &'static str {
        "haq"
    }

    fn solve(&self, problem: &Problem, effort: &Effort) -> Result<Solution, Failure> {
        let start = Instant::now();
        problem.check()?;
        let ladders: Vec<Vec<usize>> = problem.classes.iter().map(|c| ladder(problem, c)).collect();
        let mut random = Random(self.seed);
        // Best episodes: objective, actions after the wall, choices.
        let mut elite: Vec<(f64, Vec<f64>, Vec<usize>)> = Vec::new();
        let mut looked = 0u64;
        for episode in 0..self.episodes.min(effort.nodes as usize) {
            if start.elapsed() > effort.time {
                break;
            }
            looked += 1;
            let sigma = 0.5 * 0.99f64.powi(episode.saturating_sub(self.warm_up) as i32);
            let mean = |j: usize| elite.iter().map(|e| e.1[j]).sum::<f64>() / elite.len() as f64;
            let mut steps: Vec<usize> = (0..ladders.len())
                .map(|j| {
                    let action = match episode < self.warm_up || elite.is_empty() {
                        true => random.unit(),
                        false => random.truncated_normal(mean(j), sigma),
                    };
                    rung(action, ladders[j].len())
                })
                .collect();
            if !wall(problem, &ladders, &mut steps) {
                continue;
            }
            // As in NNCF's port, what is learnt from is the action after the wall.
            let actions =
                steps.iter().zip(&ladders).map(|(s, l)| (*s as f64 + 0.5) / l.len() as f64).collect();
            let choices: Vec<usize> = steps.iter().zip(&ladders).map(|(s, l)| l[*s]).collect();
            let objective = problem.totals(&choices)[problem.objective];
            if !elite.iter().any(|e| e.2 == choices) {
                elite.push((objective, actions, choices));
                elite.sort_by(|a, b| a.0.total_cmp(&b.0));
                elite.truncate(ELITE);
            }
        }
        match elite.into_iter().next() {
            Some((_, _, choices)) => Solution::bounded(problem, self.name(), choices, looked, start),
            None => Err(nothing_found(problem, effort, "the wall found no policy within the limits")),
        }
    }
}

/// Candidates of a class from the cheapest to the dearest: by the sum of their shares of the limited metrics.
fn ladder(problem: &Problem, class: &Class) -> Vec<usize> {
    let weight = |c: usize| -> f64 {
        let values = &class.choices[c].values;
        problem.limits.iter().map(|l| values[l.metric] / l.max.abs().max(f64::MIN_POSITIVE)).sum()
    };
    let mut order: Vec<usize> = (0..class.choices.len()).collect();
    order.sort_by(|a, b| weight(*a).total_cmp(&weight(*b)));
    order
}

/// HAQ's map from an action to a step: round(low − ½ + action·(high − low + 1)), that is equal shares for all steps.
fn rung(action: f64, steps: usize) -> usize {
    ((action * steps as f64) as usize).min(steps.saturating_sub(1))
}

/// HAQ's `_final_action_wall`: from the last decision to the first, one step down each, until the limits hold.
fn wall(problem: &Problem, ladders: &[Vec<usize>], steps: &mut [usize]) -> bool {
    let totals = |steps: &[usize]| {
        let choices: Vec<usize> = steps.iter().zip(ladders).map(|(s, l)| l[*s]).collect();
        problem.totals(&choices)
    };
    let mut sums = totals(steps);
    loop {
        if problem.holds(&sums) {
            // The running sums have rounding that a fresh sum has not.
            sums = totals(steps);
            if problem.holds(&sums) {
                return true;
            }
        }
        let mut lowered = false;
        for j in (0..steps.len()).rev() {
            if steps[j] > 0 {
                let values = |step: usize| &problem.classes[j].choices[ladders[j][step]].values;
                let (old, new) = (values(steps[j]), values(steps[j] - 1));
                sums.iter_mut().zip(old.iter().zip(new)).for_each(|(s, (o, n))| *s += n - o);
                steps[j] -= 1;
                lowered = true;
                if problem.holds(&sums) {
                    break;
                }
            }
        }
        if !lowered {
            return false;
        }
    }
}

/// splitmix64, as elsewhere in goshawk: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Normal by the sum of twelve uniform numbers (exact enough, and the same on every machine), within [0, 1].
    fn truncated_normal(&mut self, mean: f64, sigma: f64) -> f64 {
        for _ in 0..64 {
            let z: f64 = (0..12).map(|_| self.unit()).sum::<f64>() - 6.0;
            let x = mean + sigma * z;
            if (0.0..=1.0).contains(&x) {
                return x;
            }
        }
        mean.clamp(0.0, 1.0)
    }
}
