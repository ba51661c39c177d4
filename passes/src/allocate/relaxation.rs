//! Linear programming from outside, contained.
//!
//! The linear relaxation of the root is handed to a [`LinearSolver`], by default minilp. Its notes warn of cycling and
//! it may panic on numerically hard problems, so nothing depends on it: it proposes *prices*, whose bound [`super::bound`]
//! evaluates by itself and improves if they are not the best. A wrong answer costs time; a panic or refusal leaves the
//! work to the column generation. The time it may take is bounded by whoever runs it: this crate has no threads, so the
//! driver wraps it in a watchdog.
use super::core::Node;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// min Σ objective·x under rows Σ coefficient·x ≤ right, lower ≤ x ≤ upper. Owned, so that it can go to another thread.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Linear {
    /// Objective and bounds of each variable.
    pub variables: Vec<(f64, f64, f64)>,
    /// Coefficients by variable, and the right side.
    pub rows: Vec<(Vec<(usize, f64)>, f64)>,
}

/// Something that solves linear programmes.
pub trait LinearSolver {
    /// Name in certificates.
    fn name(&self) -> &'static str;

    /// The values of the variables at an optimum, or `None` if it fails for whatever reason.
    fn solve(&self, problem: &Linear) -> Option<Vec<f64>>;
}

/// The minilp crate; panics are caught.
#[derive(Clone, Copy, Debug, Default)]
pub struct Minilp;

impl LinearSolver for Minilp {
    fn name(&self) -> &'static str {
        "minilp"
    }

    fn solve(&self, problem: &Linear) -> Option<Vec<f64>> {
        // Nothing of the closure's state outlives a panic: the solver is created and dropped inside.
        catch_unwind(AssertUnwindSafe(|| {
            let mut lp = minilp::Problem::new(minilp::OptimizationDirection::Minimize);
            let variables: Vec<_> =
                problem.variables.iter().map(|(c, low, high)| lp.add_var(*c, (*low, *high))).collect();
            for (row, right) in &problem.rows {
                let mut terms = minilp::LinearExpr::empty();
                row.iter().for_each(|(i, c)| terms.add(variables[*i], *c));
                lp.add_constraint(terms, minilp::ComparisonOp::Le, *right);
            }
            let solution = lp.solve().ok()?;
            Some(variables.iter().map(|v| solution[*v]).collect::<Vec<f64>>())
        }))
        .ok()
        .flatten()
        .filter(|x| x.iter().all(|v| v.is_finite()))
    }
}

/// Prices of the limits at the optimum of the linear relaxation, by its dual:
/// max Σ u − λ·room with u of each class ≤ value + λ·cost of each of its items, λ ≥ 0.
pub(super) fn prices(node: &Node, solver: &dyn LinearSolver) -> Option<Vec<f64>> {
    let solution = solver.solve(&dual_programme(node))?;
    let prices: Vec<f64> = solution.get(..node.rows)?.iter().map(|p| p.max(0.0)).collect();
    Some(prices)
}

/// Variables: λ of each limit, then u of each class. The objective is negated, for a minimum.
pub(super) fn dual_programme(node: &Node) -> Linear {
    let mut linear = Linear::default();
    let infinity = f64::INFINITY;
    linear.variables.extend(node.room.iter().map(|room| (*room, 0.0, infinity)));
    // u is at least 0: values and costs are shifted to be, so that every reduced cost of an item is.
    linear.variables.extend((0..node.classes()).map(|_| (-1.0, 0.0, infinity)));
    for class in 0..node.classes() {
        for item in node.items(class) {
            let mut row: Vec<(usize, f64)> = vec![(node.rows + class, 1.0)];
            let costs = node.costs(item).iter().enumerate().filter(|(_, c)| **c != 0.0);
            row.extend(costs.map(|(k, c)| (k, -c)));
            linear.rows.push((row, node.value[item]));
        }
    }
    linear
}
