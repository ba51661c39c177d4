//! A problem reduced to what a search needs: one objective, the limits that can bind, no dominated candidates.
//!
//! Values and costs are shifted so that the least of each class is 0, and each limit is scaled so that what is left of
//! it is 1, and the ranges of the values add up to 1: tolerances then mean the same for bytes and for seconds. Dominated candidates (another of the class is at
//! least as good in the objective and in every limit) can be dropped without losing all optima.
use super::{
    problem::{FEASIBLE, Problem},
    solution::{Failure, Infeasible},
};

/// Rounding that sums of scaled costs may have.
pub(super) const ROUNDING: f64 = 1e-12;

/// Candidates of the undecided classes with the budget that is left for them: the root of a search, and each of its
/// nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    /// Number of limits.
    pub rows: usize,
    /// First item of each class, and the end.
    pub start: Vec<u32>,
    /// Problem class of each class.
    pub class: Vec<u32>,
    /// Problem choice of each item.
    pub choice: Vec<u32>,
    /// Objective of each item.
    pub value: Vec<f64>,
    /// Costs of each item, `rows` each.
    pub cost: Vec<f64>,
    /// What is left of each limit.
    pub room: Vec<f64>,
    /// Objective of the decided classes.
    pub decided: f64,
}

impl Node {
    pub(super) fn classes(&self) -> usize {
        self.class.len()
    }

    pub(super) fn items(&self, class: usize) -> std::ops::Range<usize> {
        self.start[class] as usize..self.start[class + 1] as usize
    }

    pub(super) fn costs(&self, item: usize) -> &[f64] {
        &self.cost[item * self.rows..(item + 1) * self.rows]
    }

    /// The node with only the items that `keep` wants; classes with one item left are decided and go to `fixed` as
    /// (class, choice). `None` where a class has none left.
    pub(super) fn filtered(
        &self,
        keep: impl Fn(usize, usize) -> bool,
        fixed: &mut Vec<(u32, u32)>,
    ) -> Option<Self> {
        let mut node = Self {
            rows: self.rows,
            start: Vec::with_capacity(self.start.len()),
            class: Vec::with_capacity(self.class.len()),
            choice: Vec::with_capacity(self.choice.len()),
            value: Vec::with_capacity(self.value.len()),
            cost: Vec::with_capacity(self.cost.len()),
            room: self.room.clone(),
            decided: self.decided,
        };
        node.start.push(0);
        for class in 0..self.classes() {
            let before = node.choice.len();
            for item in self.items(class) {
                if keep(class, item) {
                    node.choice.push(self.choice[item]);
                    node.value.push(self.value[item]);
                    node.cost.extend_from_slice(self.costs(item));
                }
            }
            match node.choice.len() - before {
                0 => return None,
                1 => {
                    let choice = node.choice.pop()?;
                    node.decided += node.value.pop()?;
                    let from = node.cost.len() - self.rows;
                    for (room, cost) in node.room.iter_mut().zip(&node.cost[from..]) {
                        *room -= cost;
                    }
                    node.cost.truncate(from);
                    fixed.push((self.class[class], choice));
                }
                _ => {
                    node.class.push(self.class[class]);
                    node.start.push(node.choice.len() as u32);
                }
            }
        }
        Some(node)
    }

    /// Smallest sum of each cost; the excess over the room makes a node infeasible.
    pub(super) fn least(&self) -> Vec<f64> {
        let mut least = vec![0.0; self.rows];
        for class in 0..self.classes() {
            for (row, sum) in least.iter_mut().enumerate() {
                *sum += self.items(class).map(|i| self.costs(i)[row]).fold(f64::INFINITY, f64::min);
            }
        }
        least
    }
}

/// How a limit of the problem became a row.
#[derive(Clone, Copy, Debug)]
struct Row {
    /// Its row; `None` if no allocation can break it.
    row: Option<usize>,
    /// Units of the metric in one unit of the row.
    scale: f64,
}

/// The reduced problem.
#[derive(Clone, Debug)]
pub(super) struct Core {
    /// The undecided classes.
    pub root: Node,
    /// Classes that have one candidate left: (class, choice).
    pub fixed: Vec<(u32, u32)>,
    limits: Vec<Row>,
    /// Objective where every shifted value is 0.
    offset: f64,
    /// Sum over the classes of the range of the objective: the unit of the node's values.
    range: f64,
}

impl Core {
    /// Reduces a problem.
    ///
    /// # Errors
    /// The problem is malformed; a limit is below the smallest possible sum of its metric.
    pub(super) fn new(problem: &Problem) -> Result<Self, Failure> {
        problem.check()?;
        let mut broken = Vec::new();
        let mut limits = Vec::new();
        let mut kept: Vec<(usize, f64)> = Vec::new();
        for limit in &problem.limits {
            let m = limit.metric;
            let smallest = problem.smallest(m);
            if smallest > limit.max + FEASIBLE * limit.max.abs() {
                let metric = &problem.metrics[m];
                broken.push(Infeasible {
                    metric: metric.name.clone(),
                    unit: metric.unit.clone(),
                    max: limit.max,
                    smallest: Some(smallest),
                });
                continue;
            }
            let most =
                |c: &super::Class| c.choices.iter().map(|c| c.values[m]).fold(f64::NEG_INFINITY, f64::max);
            let largest = problem.base[m] + problem.classes.iter().map(most).sum::<f64>();
            // Half of the tolerance: what the search accepts, `Problem::holds` accepts too.
            let room = (limit.max + 0.5 * FEASIBLE * limit.max.abs() - smallest).max(0.0);
            if largest - smallest <= room {
                limits.push(Row { row: None, scale: 1.0 });
            } else {
                let scale = if room > 0.0 { room } else { (largest - smallest).abs() * 1e-9 };
                limits.push(Row { row: Some(kept.len()), scale });
                kept.push((m, scale));
            }
        }
        if !broken.is_empty() {
            // Each of them is impossible by itself: the first is enough to act on.
            broken.truncate(1);
            return Err(Failure::Infeasible(broken));
        }
        let rows = kept.len();
        let mut node = Node { rows, room: vec![1.0; rows], start: vec![0], ..Node::default() };
        let (mut offset, mut range) = (problem.base[problem.objective], 0.0);
        for (j, class) in problem.classes.iter().enumerate() {
            let least = |m: usize| class.choices.iter().map(|c| c.values[m]).fold(f64::INFINITY, f64::min);
            let low = least(problem.objective);
            let lows: Vec<f64> = kept.iter().map(|(m, _)| least(*m)).collect();
            offset += low;
            node.class.push(j as u32);
            let mut span: f64 = 0.0;
            for (c, choice) in class.choices.iter().enumerate() {
                let value = choice.values[problem.objective] - low;
                span = span.max(value);
                node.choice.push(c as u32);
                node.value.push(value);
                node.cost.extend(
                    kept.iter().zip(&lows).map(|((m, scale), low)| (choice.values[*m] - low) / scale),
                );
            }
            range += span;
            node.start.push(node.choice.len() as u32);
        }
        // The worth of everything becomes 1.
        let range = if range > 0.0 { range } else { 1.0 };
        node.value.iter_mut().for_each(|v| *v /= range);
        let mut fixed = Vec::new();
        let keep: Vec<bool> = (0..node.classes()).flat_map(|class| undominated(&node, class)).collect();
        // A class always keeps an item: of equal ones the first dominates, never all each other. Items that are too
        // dear alone cannot all be, since the least cost of each class fits; together with dominance they can.
        let root = node
            .filtered(|_, item| keep[item], &mut fixed)
            .ok_or_else(|| Failure::Invalid(goshawk_ir::IrError::new("a class lost all its candidates")))?;
        Ok(Self { root, fixed, limits, offset, range })
    }

    /// Objective of the problem for a sum of shifted values.
    pub(super) fn objective(&self, value: f64) -> f64 {
        self.offset + value * self.range
    }

    /// Differences of the objective that count as rounding.
    pub(super) fn tolerance(&self, objective: f64) -> f64 {
        1e-9 * objective.abs() + 1e-12 * self.range
    }

    /// The same in units of the node's values.
    pub(super) fn rounding(&self, value: f64) -> f64 {
        self.tolerance(self.objective(value)) / self.range
    }

    /// Price of limit `l` in units of objective per unit of its metric.
    pub(super) fn price(&self, l: usize, prices: &[f64]) -> f64 {
        match self.limits[l] {
            Row { row: Some(row), scale } => prices.get(row).map_or(0.0, |p| p * self.range / scale),
            Row { row: None, .. } => 0.0,
        }
    }

    /// The choice of every class of the problem.
    pub(super) fn choices(&self, classes: usize, found: &[(u32, u32)]) -> Vec<usize> {
        let mut choices = vec![0; classes];
        for (class, choice) in self.fixed.iter().chain(found) {
            choices[*class as usize] = *choice as usize;
        }
        choices
    }
}

/// Which items of a class no other item of it dominates.
fn undominated(node: &Node, class: usize) -> Vec<bool> {
    let items = node.items(class);
    let dominates = |a: usize, b: usize| {
        let worse = |x: f64, y: f64| x > y;
        let any_worse = worse(node.value[a], node.value[b])
            || node.costs(a).iter().zip(node.costs(b)).any(|(x, y)| worse(*x, *y));
        let equal = node.value[a] == node.value[b] && node.costs(a) == node.costs(b);
        !any_worse && (!equal || a < b)
    };
    items.clone().map(|b| !items.clone().any(|a| a != b && dominates(a, b))).collect()
}
