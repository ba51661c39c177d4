//! Lower bounds: the Lagrangian dual of the multiple-choice knapsack.
//!
//! For prices λ ≥ 0 on the limits, L(λ) = Σ over classes of min (value + λ·cost) − λ·room is below the objective of every
//! allocation within the limits. Each class is minimised by itself, so the best L equals the optimum of the linear
//! relaxation (Geoffrion, 1974: integrality property), and evaluating L takes one pass over the candidates. The best λ
//! is found by column generation (Dantzig and Wolfe, 1960): the master problem mixes allocations so that the limits hold
//! on average; it has one row more than there are limits, so its basis inverse is a tiny dense matrix.
//!
//! The bound holds for *any* λ ≥ 0: wrong prices, from whoever proposes them, cost time but never the optimum.
use super::{
    core::{Core, Node},
    relaxation::{self, LinearSolver},
};

/// A dual solution.
#[derive(Clone, Debug)]
pub(super) struct Dual {
    /// Lower bound on the sum of values, decided classes included.
    pub value: f64,
    /// Prices at which it is reached.
    pub prices: Vec<f64>,
    /// The mix of allocations at the optimum: weight, item of each class.
    pub mix: Vec<(f64, Vec<u32>)>,
    /// Who found the prices.
    pub by: &'static str,
}

/// Largest price: the whole room for a thousand times all there is to gain (both are 1).
const CAP: f64 = 1e3;

/// Differences of bounds that are rounding.
const EXACT: f64 = 1e-12;

/// Up to this many items the linear solver is asked for prices. Its time grows faster than that of the column generation,
/// which needs no more than good prices save.
const PROPOSED: usize = 600;

/// Dual of the root. `linear`, where given, proposes prices by its linear relaxation.
pub(super) fn root(core: &Core, linear: Option<&dyn LinearSolver>) -> Dual {
    let mut start = vec![0.0; core.root.rows];
    let mut by = "column generation";
    if core.root.rows > 0
        && core.root.choice.len() <= PROPOSED
        && let Some(linear) = linear
        && let Some(prices) = relaxation::prices(&core.root, linear)
    {
        (start, by) = (prices, linear.name());
    }
    let mut dual = ascend(&core.root, &start, f64::INFINITY, 400);
    dual.by = by;
    dual
}

/// Σ min (value + λ·cost) − λ·room + decided, with the minimising items.
pub(super) fn lagrangian(node: &Node, prices: &[f64], picks: &mut Vec<u32>) -> f64 {
    picks.clear();
    let mut sum = node.decided;
    let rows = node.rows;
    for class in 0..node.classes() {
        let (mut best, mut pick) = (f64::INFINITY, 0);
        for item in node.items(class) {
            let mut v = node.value[item];
            for (c, p) in node.cost[item * rows..(item + 1) * rows].iter().zip(prices) {
                v += c * p;
            }
            if v < best {
                (best, pick) = (v, item as u32);
            }
        }
        sum += best;
        picks.push(pick);
    }
    sum - node.room.iter().zip(prices).map(|(r, p)| r * p).sum::<f64>()
}

/// A column of the master problem: the items of an allocation, or none for unused budget of a row and for missing budget
/// of a row at the price cap.
type Column = Option<Vec<u32>>;

/// Raises the bound from the prices `start` until it is optimal, at least `target`, or `rounds` are over.
pub(super) fn ascend(node: &Node, start: &[f64], target: f64, rounds: usize) -> Dual {
    let rows = node.rows;
    let mut picks = Vec::new();
    let mut best = Dual {
        value: lagrangian(node, start, &mut picks),
        prices: start.to_vec(),
        mix: Vec::new(),
        by: "column generation",
    };
    if rows == 0 || best.value >= target {
        best.mix = vec![(1.0, picks)];
        return best;
    }
    let mut master = Master::new(node, picks);
    for _ in 0..rounds {
        let (level, prices) = master.duals();
        // Slack and excess columns first: they keep the prices within 0..=cap.
        if let Some(row) = (0..rows).find(|r| prices[*r] < -EXACT) {
            master.enter(None, 0.0, &unit(rows, row, 1.0));
            continue;
        }
        if let Some(row) = (0..rows).find(|r| prices[*r] > CAP * (1.0 + 1e-9)) {
            master.enter(None, CAP, &unit(rows, row, -1.0));
            continue;
        }
        let prices: Vec<f64> = prices.iter().map(|p| p.max(0.0)).collect();
        let mut picks = Vec::with_capacity(node.classes());
        let value = lagrangian(node, &prices, &mut picks);
        if value > best.value {
            (best.value, best.prices) = (value, prices);
        }
        if best.value >= target || level - best.value <= EXACT {
            break;
        }
        let (cost, excess) = worth(node, &picks);
        if !master.enter(Some(picks), cost, &excess) {
            break;
        }
    }
    best.mix = master.mix();
    best
}

fn unit(rows: usize, row: usize, value: f64) -> Vec<f64> {
    (0..rows).map(|r| if r == row { value } else { 0.0 }).collect()
}

/// Objective of an allocation, and by how much it exceeds each room.
pub(super) fn worth(node: &Node, picks: &[u32]) -> (f64, Vec<f64>) {
    let mut excess: Vec<f64> = node.room.iter().map(|r| -r).collect();
    let mut value = node.decided;
    for item in picks {
        value += node.value[*item as usize];
        excess.iter_mut().zip(node.costs(*item as usize)).for_each(|(e, c)| *e += c);
    }
    (value, excess)
}

/// The master problem: min Σ cost·α, Σ α = 1 over the mix, Σ excess·α + slack − excess column = 0.
struct Master {
    /// Rows: the mix row, then the limits.
    size: usize,
    basis: Vec<Column>,
    cost: Vec<f64>,
    inverse: Vec<f64>,
    amount: Vec<f64>,
}

impl Master {
    fn new(node: &Node, picks: Vec<u32>) -> Self {
        let (value, excess) = worth(node, &picks);
        let size = node.rows + 1;
        let mut m = Self {
            size,
            basis: vec![Some(picks)],
            cost: vec![value],
            inverse: vec![0.0; size * size],
            amount: vec![1.0],
        };
        m.inverse[0] = 1.0;
        for (row, e) in excess.into_iter().enumerate() {
            // slack = −excess if that is not negative, else the excess column takes it.
            let sign = if e <= 0.0 { 1.0 } else { -1.0 };
            m.basis.push(None);
            m.cost.push(if e <= 0.0 { 0.0 } else { CAP });
            m.amount.push(e.abs());
            m.inverse[(row + 1) * size] = -e * sign;
            m.inverse[(row + 1) * size + row + 1] = sign;
        }
        m
    }

    /// (level θ, prices λ): the duals of the mix row and, negated, of the limits.
    fn duals(&self) -> (f64, Vec<f64>) {
        let dual = |column: usize| {
            (0..self.size).map(|i| self.cost[i] * self.inverse[i * self.size + column]).sum::<f64>()
        };
        (dual(0), (1..self.size).map(|c| -dual(c)).collect())
    }

    /// Brings a column into the basis by one step of the simplex method; false if it cannot.
    fn enter(&mut self, column: Column, cost: f64, excess: &[f64]) -> bool {
        let first = if column.is_some() { 1.0 } else { 0.0 };
        let n = self.size;
        let direction: Vec<f64> = (0..n)
            .map(|i| {
                let row = &self.inverse[i * n..(i + 1) * n];
                row[0] * first + row[1..].iter().zip(excess).map(|(a, e)| a * e).sum::<f64>()
            })
            .collect();
        let mut leave: Option<(usize, f64)> = None;
        for (i, d) in direction.iter().enumerate() {
            if *d > 1e-11 {
                let ratio = self.amount[i].max(0.0) / d;
                if leave.is_none_or(|(at, r)| ratio < r || ratio == r && *d > direction[at]) {
                    leave = Some((i, ratio));
                }
            }
        }
        let Some((at, ratio)) = leave else { return false };
        let pivot = direction[at];
        for j in 0..n {
            self.inverse[at * n + j] /= pivot;
        }
        for i in 0..n {
            if i != at {
                for j in 0..n {
                    self.inverse[i * n + j] -= direction[i] * self.inverse[at * n + j];
                }
                self.amount[i] -= direction[i] * ratio;
            }
        }
        self.amount[at] = ratio;
        self.cost[at] = cost;
        self.basis[at] = column;
        true
    }

    fn mix(self) -> Vec<(f64, Vec<u32>)> {
        let pairs = self.amount.into_iter().zip(self.basis);
        pairs
            .filter_map(|(amount, column)| match column {
                Some(picks) if amount > 1e-9 => Some((amount, picks)),
                _ => None,
            })
            .collect()
    }
}
