//! HAWQ-V3's integer program, solved to proven optimality by branch and bound.
//!
//! A node is a set of undecided classes with the candidates that can still be in a better solution. Its bound is the
//! Lagrangian dual ([`super::bound`]), started from the parent's prices and stopped as soon as it reaches the incumbent.
//! Candidates whose reduced cost closes the gap by itself are dropped (reduced-cost fixing), which decides most classes
//! at the root: what remains is a small core. Branching takes the class that the dual's optimal mix splits over the
//! largest worth of costs. Incumbents come from repaired and polished mixes, so depth first is as good as best first and
//! needs no queue.
use super::{
    Solver,
    bound::{self, worth},
    core::{Core, Node, ROUNDING},
    improve,
    problem::Problem,
    relaxation::{LinearSolver, Minilp},
    solution::{Effort, Failure, Infeasible, Solution},
};
use std::time::Instant;

/// Branch and bound.
#[derive(Clone, Copy)]
pub struct Ilp<'a> {
    /// Solver of the root's linear relaxation; without one the column generation does it alone.
    pub linear: Option<&'a dyn LinearSolver>,
}

impl Default for Ilp<'_> {
    fn default() -> Self {
        Self { linear: Some(&Minilp) }
    }
}

impl Solver for Ilp<'_> {
    fn name(&self) -> &'static str {
        "ilp"
    }

    fn solve(&self, problem: &Problem, effort: &Effort) -> Result<Solution, Failure> {
        let start = Instant::now();
        let core = Core::new(problem)?;
        let dual = bound::root(&core, self.linear);
        let mut search = Search { core: &core, best: None, nodes: 0, limit: *effort, start, stopped: false };
        for (_, picks) in &dual.mix {
            search.offer(&core.root, picks.clone(), &[], true);
        }
        search.visit(core.root.clone(), &mut Vec::new(), &dual.prices);
        let (nodes, stopped) = (search.nodes, search.stopped);
        let Some((value, found)) = search.best else {
            return match stopped {
                true => Err(Failure::GaveUp(format!("no allocation found in {nodes} nodes"))),
                false => Err(Failure::Infeasible(diagnose(problem, effort)?)),
            };
        };
        let bound = core.objective(if stopped { dual.value.min(value) } else { value });
        let choices = core.choices(problem.classes.len(), &found);
        Ok(Solution::certified(problem, &core, self.name(), choices, bound, &dual, nodes, start))
    }
}

/// For limits that do not hold together: the smallest value of each while the others hold.
pub(super) fn diagnose(problem: &Problem, effort: &Effort) -> Result<Vec<Infeasible>, Failure> {
    let mut broken = Vec::new();
    for (i, limit) in problem.limits.iter().enumerate() {
        let mut relaxed = problem.clone();
        relaxed.limits.remove(i);
        relaxed.objective = limit.metric;
        let metric = &problem.metrics[limit.metric];
        // The recursion ends: each step has a limit less.
        let smallest = match Ilp::default().solve(&relaxed, effort) {
            Ok(s) => Some(s.totals[limit.metric]),
            Err(Failure::Infeasible(_)) => None,
            Err(other) => return Err(other),
        };
        broken.push(Infeasible {
            metric: metric.name.clone(),
            unit: metric.unit.clone(),
            max: limit.max,
            smallest,
        });
    }
    // Limits that cannot be held even without this one do not make it the culprit.
    if broken.iter().any(|b| b.smallest.is_some()) {
        broken.retain(|b| b.smallest.is_some());
    }
    Ok(broken)
}

struct Search<'a> {
    core: &'a Core,
    /// Value and decisions of the best allocation, candidates fixed by the reduction aside.
    best: Option<(f64, Vec<(u32, u32)>)>,
    nodes: u64,
    limit: Effort,
    start: Instant,
    stopped: bool,
}

/// Rounds of the dual in a node: it is warm, and a bound that is nearly best prunes nearly as well.
const ROUNDS: usize = 24;

/// Up to this many items exchanges of two are tried on a new incumbent.
const PAIRS: usize = 1500;

impl Search<'_> {
    /// What a solution must stay below to be better than the best. Without one: above the worth of everything nothing fits.
    fn target(&self) -> f64 {
        self.best.as_ref().map_or(1.0 + 1e-6, |(v, _)| v - self.core.rounding(*v))
    }

    /// Takes an allocation of a node as incumbent if it is better; `fixed` are the decisions above the node.
    fn offer(&mut self, node: &Node, mut picks: Vec<u32>, fixed: &[(u32, u32)], thorough: bool) {
        let (_, excess) = worth(node, &picks);
        if !improve::fits(&excess) && (!thorough || !improve::repair(node, &mut picks)) {
            return;
        }
        if thorough {
            improve::polish(node, &mut picks, node.choice.len() <= PAIRS);
        }
        let (value, excess) = worth(node, &picks);
        if improve::fits(&excess) && value < self.target() {
            if !thorough {
                return self.offer(node, picks, fixed, true);
            }
            let decided = picks.iter().zip(&node.class).map(|(i, class)| (*class, node.choice[*i as usize]));
            self.best = Some((value, fixed.iter().copied().chain(decided).collect()));
        }
    }

    fn exhausted(&mut self) -> bool {
        if !self.stopped && self.nodes.is_multiple_of(64) {
            self.stopped = self.start.elapsed() > self.limit.time;
        }
        self.stopped |= self.nodes >= self.limit.nodes;
        self.stopped
    }

    fn visit(&mut self, mut node: Node, fixed: &mut Vec<(u32, u32)>, prices: &[f64]) {
        if self.exhausted() {
            return;
        }
        self.nodes += 1;
        let depth = fixed.len();
        let mut prices = prices.to_vec();
        loop {
            let least = node.least();
            if least.iter().zip(&node.room).any(|(l, r)| l - r > ROUNDING) {
                break;
            }
            let rounds = if depth == 0 { 400 } else { ROUNDS };
            let dual = bound::ascend(&node, &prices, self.target(), rounds);
            for (_, picks) in &dual.mix {
                self.offer(&node, picks.clone(), fixed, depth == 0);
            }
            if dual.value >= self.target() || node.classes() == 0 {
                break;
            }
            prices.clone_from(&dual.prices);
            let reduced = reduced_costs(&node, &prices);
            let target = self.target();
            let before = (node.choice.len(), node.classes());
            let kept = node.filtered(
                |class, item| {
                    let fits = |row: usize, cost: f64| {
                        let own = node.items(class).map(|i| node.costs(i)[row]).fold(f64::INFINITY, f64::min);
                        least[row] - own + cost - node.room[row] <= ROUNDING
                    };
                    dual.value + reduced[item] < target
                        && node.costs(item).iter().enumerate().all(|(row, c)| fits(row, *c))
                },
                fixed,
            );
            let Some(kept) = kept else { break };
            let (items, classes) = (kept.choice.len(), kept.classes());
            if classes == 0 || items * 10 < before.0 * 9 && classes > 1 {
                node = kept;
                continue;
            }
            let reduced = if items == before.0 { reduced } else { reduced_costs(&kept, &prices) };
            let class = split(&kept, &node, &dual.mix, &prices, &reduced);
            let mut order: Vec<usize> = kept.items(class).collect();
            order.sort_by(|a, b| reduced[*a].total_cmp(&reduced[*b]));
            for item in order {
                if dual.value + reduced[item] >= self.target() {
                    break;
                }
                let above = fixed.len();
                if let Some(child) = kept.filtered(|c, i| c != class || i == item, fixed) {
                    self.visit(child, fixed, &prices);
                }
                fixed.truncate(above);
                if self.stopped {
                    break;
                }
            }
            break;
        }
        fixed.truncate(depth);
    }
}

/// By how much each item is above the best of its class at these prices.
fn reduced_costs(node: &Node, prices: &[f64]) -> Vec<f64> {
    let mut reduced: Vec<f64> = (0..node.choice.len())
        .map(|i| node.value[i] + node.costs(i).iter().zip(prices).map(|(c, p)| c * p).sum::<f64>())
        .collect();
    for class in 0..node.classes() {
        let items = node.items(class);
        let least = reduced[items.clone()].iter().copied().fold(f64::INFINITY, f64::min);
        reduced[items].iter_mut().for_each(|r| *r -= least);
    }
    reduced
}

/// The class to branch on: split by the mix over the largest worth of costs; if the mix splits none, the most contested.
/// The mix is over the items of `mixed`, of which `node` may have dropped some.
fn split(node: &Node, mixed: &Node, mix: &[(f64, Vec<u32>)], prices: &[f64], reduced: &[f64]) -> usize {
    let worth =
        |item: u32| -> f64 { mixed.costs(item as usize).iter().zip(prices).map(|(c, p)| c * p).sum() };
    let mut best: Option<(f64, usize)> = None;
    let mut at = 0;
    for class in 0..node.classes() {
        while mixed.class[at] != node.class[class] {
            at += 1;
        }
        let mean: f64 = mix.iter().map(|(a, picks)| a * worth(picks[at])).sum();
        let spread: f64 = mix.iter().map(|(a, picks)| a * (worth(picks[at]) - mean).abs()).sum();
        if spread > 1e-12 && best.is_none_or(|(s, _)| spread > s) {
            best = Some((spread, class));
        }
    }
    let contested = || {
        let second = |class: &usize| -> f64 {
            let mut r: Vec<f64> = node.items(*class).map(|i| reduced[i]).collect();
            r.sort_by(f64::total_cmp);
            r.get(1).copied().unwrap_or(f64::INFINITY)
        };
        (0..node.classes()).min_by(|a, b| second(a).total_cmp(&second(b))).unwrap_or(0)
    };
    best.map_or_else(contested, |(_, class)| class)
}
