//! What an allocation and a frontier look like on paper: JSON, CSV, and a page with plots that needs no other file.
use super::{frontier::Point, verify::Measured};
use crate::{
    Result,
    driver::costs::{Costs, facts::LayerFacts},
};
use goshawk_passes::{
    allocate::{Budget, Problem, Solution},
    bits::LayerBits,
};
use serde::Serialize;
use std::{collections::BTreeMap, fmt::Write as _};

mod page;
pub use page::html;

/// A number with its unit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quantity {
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: String,
}

/// A budget with what is left of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BudgetReport {
    /// Metric.
    pub metric: String,
    /// Limit.
    pub max: f64,
    /// Used of it.
    pub used: f64,
    /// Its unit.
    pub unit: String,
    /// By how much the objective falls for one unit more.
    pub price: f64,
    /// The same in words.
    pub buys: String,
    /// Whether it binds.
    pub binds: bool,
}

/// A layer of an allocation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerReport {
    /// Name.
    pub name: String,
    /// Bits of the weights.
    pub weights: u8,
    /// Bits of the activations it reads.
    pub activations: u8,
    /// Bytes of packed weights.
    pub bytes: u64,
    /// Microseconds.
    pub latency_us: f64,
    /// Whether that is measured.
    pub measured: bool,
}

/// An allocation with its certificate.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Solver.
    pub solver: String,
    /// Metric that was minimised.
    pub minimised: String,
    /// Its value.
    pub objective: f64,
    /// No allocation within the budgets has less.
    pub bound: f64,
    /// Relative distance of the two.
    pub gap: f64,
    /// Whether the allocation is proven optimal.
    pub proven: bool,
    /// Nodes of the search.
    pub nodes: u64,
    /// Who proposed the prices at the root.
    pub relaxation: String,
    /// Time of the search.
    pub seconds: f64,
    /// Standard error of the sensitivity.
    pub sensitivity_error: f64,
    /// Every metric.
    pub totals: BTreeMap<String, Quantity>,
    /// Budgets.
    pub budgets: Vec<BudgetReport>,
    /// Layers in execution order.
    pub layers: Vec<LayerReport>,
    /// What was measured of it, with `--verify`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<Measured>,
}

/// Every metric of an allocation.
pub fn totals(problem: &Problem, totals: &[f64]) -> BTreeMap<String, Quantity> {
    let pair = |(m, value): (&goshawk_passes::allocate::Metric, &f64)| {
        (m.name.clone(), Quantity { value: *value, unit: m.unit.clone() })
    };
    problem.metrics.iter().zip(totals).map(pair).collect()
}

fn budget(problem: &Problem, b: &Budget) -> BudgetReport {
    let metric = &problem.metrics[b.metric];
    // A step that means something to people.
    let (step, words) = match metric.unit.as_str() {
        "bytes" => (1e3, "1 kB"),
        "s" => (1e-6, "1 µs"),
        "J" => (1e-6, "1 µJ"),
        "bit operations" => (1e6, "1 M bit operations"),
        _ => (1.0, "1"),
    };
    let objective = &problem.metrics[problem.objective];
    let buys = match b.price > 0.0 {
        true => format!("{words} more buys {:.4e} of {}", b.price * step, objective.name),
        false => "does not bind".to_owned(),
    };
    BudgetReport {
        metric: metric.name.clone(),
        max: b.max,
        used: b.used,
        unit: metric.unit.clone(),
        price: b.price,
        buys,
        binds: b.price > 0.0,
    }
}

/// Layers of an allocation in execution order.
pub fn layers(costs: &Costs<'_>, bits: &BTreeMap<String, LayerBits>) -> Vec<LayerReport> {
    let mut order: Vec<(&String, &LayerFacts)> = costs.facts.iter().collect();
    order.sort_by_key(|(_, f)| f.position);
    order
        .into_iter()
        .filter_map(|(name, facts)| {
            let bits = *bits.get(name)?;
            let (seconds, measured) = costs.latency(facts, bits);
            Some(LayerReport {
                name: name.clone(),
                weights: bits.weights,
                activations: bits.activations,
                bytes: facts.bytes(bits.weights),
                latency_us: seconds * 1e6,
                measured,
            })
        })
        .collect()
}

/// The report of a solution.
pub fn solution(problem: &Problem, s: &Solution, costs: &Costs<'_>) -> Report {
    let c = &s.certificate;
    Report {
        solver: c.solver.to_owned(),
        minimised: problem.metrics[problem.objective].name.clone(),
        objective: c.objective,
        bound: c.bound,
        gap: c.gap,
        proven: c.proven,
        nodes: c.nodes,
        relaxation: c.relaxation.to_owned(),
        seconds: c.time.as_secs_f64(),
        sensitivity_error: s.error,
        totals: totals(problem, &s.totals),
        budgets: c.budgets.iter().map(|b| budget(problem, b)).collect(),
        layers: layers(costs, &problem.bits(&s.choices)),
        verified: None,
    }
}

/// A point of a frontier.
#[derive(Clone, Debug, Serialize)]
pub struct PointReport {
    /// Name; its bits file is `NAME.toml`.
    pub name: String,
    /// `frontier`, `uniform`, `first-k` or `random`.
    pub kind: String,
    /// Whether another one is at least as good in everything.
    pub dominated: bool,
    /// Whether it is proven optimal for its budgets.
    pub proven: bool,
    /// Standard error of the sensitivity.
    pub sensitivity_error: f64,
    /// Every metric.
    pub totals: BTreeMap<String, Quantity>,
    /// Budgets.
    pub budgets: Vec<BudgetReport>,
    /// Weight and activation bits by layer, in execution order.
    pub bits: Vec<(String, u8, u8)>,
    /// What was measured of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
}

/// A frontier.
#[derive(Clone, Debug, Serialize)]
pub struct FrontierReport {
    /// Hash of the model file.
    pub model_sha256: String,
    /// Instruction sets that latencies are for; empty if they are assumed.
    pub isa: String,
    /// What the sensitivity is made of.
    pub metric: String,
    /// Solver.
    pub solver: String,
    /// Points, frontier first.
    pub points: Vec<PointReport>,
    /// Latency of the uniform networks now over that in the cost table, if both were measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<f64>,
    /// The cheapest measured point within the accuracy target, if one was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<String>,
}

/// The report of a point.
pub fn point(problem: &Problem, p: &Point, costs: &Costs<'_>, measured: Option<&Measured>) -> PointReport {
    let bits = problem.bits(&p.choices);
    PointReport {
        name: p.name.clone(),
        kind: p.kind.to_owned(),
        dominated: p.dominated,
        proven: p.proven,
        sensitivity_error: p.error,
        totals: totals(problem, &p.totals),
        budgets: p.budgets.iter().map(|b| budget(problem, b)).collect(),
        bits: layers(costs, &bits).into_iter().map(|l| (l.name, l.weights, l.activations)).collect(),
        measured: measured.cloned(),
    }
}

/// The points as CSV: one line each, budgets and bits in one field each.
///
/// # Errors
/// None so far; numbers print always.
pub fn csv(report: &FrontierReport) -> Result<String> {
    let metrics: Vec<&String> = report.points.first().map(|p| p.totals.keys().collect()).unwrap_or_default();
    let mut out = String::from("name,kind,dominated,proven,sensitivity_error");
    metrics.iter().for_each(|m| out.push_str(&format!(",{m}")));
    out.push_str(",top1_percent,latency_us,arena_bytes,binding,bits\n");
    for p in &report.points {
        let _ = write!(out, "{},{},{},{},{}", p.name, p.kind, p.dominated, p.proven, p.sensitivity_error);
        for m in &metrics {
            let _ = write!(out, ",{}", p.totals.get(*m).map_or(f64::NAN, |q| q.value));
        }
        let m = p.measured.clone().unwrap_or_default();
        let number = |v: Option<f64>| v.map_or(String::new(), |v| format!("{v:.3}"));
        let arena = if p.measured.is_some() { m.arena_bytes.to_string() } else { String::new() };
        let binding: Vec<&str> = p.budgets.iter().filter(|b| b.binds).map(|b| b.metric.as_str()).collect();
        let bits: Vec<String> = p.bits.iter().map(|(_, w, a)| format!("w{w}a{a}")).collect();
        let _ = writeln!(
            out,
            ",{},{},{arena},{},{}",
            number(m.top1_percent),
            number(m.latency_us),
            binding.join(" "),
            bits.join(" ")
        );
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> FrontierReport {
        let point = |name: &str, size: f64, top1: Option<f64>| PointReport {
            name: name.into(),
            kind: "frontier".into(),
            dominated: false,
            proven: true,
            sensitivity_error: 0.001,
            totals: [
                ("sensitivity", 1.0 / size, "loss"),
                ("size", size, "bytes"),
                ("latency", size * 1e-8, "s"),
            ]
            .map(|(n, value, unit)| (n.to_owned(), Quantity { value, unit: unit.into() }))
            .into(),
            budgets: vec![BudgetReport {
                metric: "size".into(),
                max: size,
                used: size,
                unit: "bytes".into(),
                price: 1e-6,
                buys: "1 kB more buys <something>".into(),
                binds: true,
            }],
            bits: vec![("conv<1>".into(), 8, 8), ("conv2".into(), 4, 8)],
            measured: top1.map(|t| Measured {
                top1_percent: Some(t),
                latency_us: Some(12.5),
                arena_bytes: 64,
            }),
        };
        FrontierReport {
            model_sha256: "ab".into(),
            isa: "x86_64 avx2".into(),
            metric: "trace".into(),
            solver: "ilp".into(),
            machine: Some(1.0),
            points: vec![point("point-01", 1000.0, Some(90.0)), point("point-02", 2000.0, None)],
            chosen: None,
        }
    }

    #[test]
    fn csv_has_a_line_for_each_point() {
        let text = csv(&report()).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|l| l.split(',').count() == lines[0].split(',').count()), "{text}");
        assert!(lines[1].contains("90.000,12.500,64,size,w8a8 w4a8"), "{text}");
    }

    #[test]
    fn the_page_is_self_contained_and_escaped() {
        let page = html(&report());
        assert!(page.contains("<svg") && page.contains("point-02") && page.contains("conv&lt;1&gt;"));
        assert!(page.contains("&lt;something&gt;") && !page.contains("conv<1>"));
        for outside in ["http://", "https://", "src=", "@import", "<script"] {
            let rest = page.replace("http://www.w3.org/2000/svg", "");
            assert!(!rest.contains(outside), "{outside}");
        }
        let opened = |tag: &str| {
            (page.matches(&format!("<{tag}")).count(), page.matches(&format!("</{tag}>")).count())
        };
        for tag in ["svg", "table", "tr>", "p>"] {
            let (open, close) = opened(tag.trim_end_matches('>'));
            assert!(open >= close && close > 0, "{tag}");
        }
    }
}
