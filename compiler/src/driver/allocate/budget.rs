//! Budgets as users write them: `size=0.5`, `size=300KiB`, `latency=3.2ms`, `bops=2G`, `energy=1.5mJ`, `arena=64KiB`,
//! `sensitivity=0.01`.
//!
//! A bare number is HAWQ-V3's α: limit = cost(cheapest) + α · (cost(dearest) − cost(cheapest)), between all free layers at
//! the cheapest and all at the most generous candidate widths. A number with a unit is the limit itself. The sensitivity
//! has no unit and is always absolute.
use crate::{Code, Error, Result};
use goshawk_passes::allocate::{Limit, Problem};
use std::str::FromStr;

/// A limit on one metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    /// Name of the metric, or `arena`.
    pub metric: String,
    /// How much.
    pub amount: Amount,
}

/// How much of something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// α between the cheapest and the most generous uniform allocation.
    Relative(f64),
    /// In the unit of the metric: bytes, bit operations, joule, second.
    Absolute(f64),
}

const UNITS: &[(&str, &[(&str, f64)])] = &[
    ("size", BYTES),
    ("arena", BYTES),
    ("bops", &[("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12)]),
    ("energy", &[("J", 1.0), ("mJ", 1e-3), ("uJ", 1e-6), ("µJ", 1e-6), ("nJ", 1e-9)]),
    ("latency", &[("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("µs", 1e-6), ("ns", 1e-9)]),
    ("sensitivity", &[]),
];

const BYTES: &[(&str, f64)] = &[
    ("B", 1.0),
    ("kB", 1e3),
    ("KB", 1e3),
    ("KiB", 1024.0),
    ("MB", 1e6),
    ("MiB", 1_048_576.0),
    ("GB", 1e9),
    ("GiB", 1_073_741_824.0),
];

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let names = || UNITS.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(", ");
        let (metric, value) = text.split_once('=').ok_or_else(|| "expected METRIC=AMOUNT".to_owned())?;
        let Some((metric, units)) = UNITS.iter().find(|(n, _)| *n == metric.trim()) else {
            return Err(format!("there is no metric {metric}: expected {}", names()));
        };
        let value = value.trim();
        let split = value.find(|c: char| c.is_alphabetic() && !"eE".contains(c)).unwrap_or(value.len());
        let (number, unit) = (value[..split].trim(), value[split..].trim());
        let number: f64 =
            number.parse().map_err(|_| format!("{value:?} is not a number with or without a unit"))?;
        if !number.is_finite() || number < 0.0 {
            return Err("a budget is at least 0".into());
        }
        let amount = match units.iter().find(|(u, _)| *u == unit) {
            Some((_, factor)) => Amount::Absolute(number * factor),
            None if unit.is_empty() && *metric == "sensitivity" => Amount::Absolute(number),
            None if unit.is_empty() && *metric == "arena" => {
                return Err("the arena needs a unit, for example arena=64KiB".into());
            }
            None if unit.is_empty() && number <= 2.0 => Amount::Relative(number),
            None if unit.is_empty() => {
                return Err(format!(
                    "{number} without a unit is a share between the cheapest (0) and the most generous (1) widths"
                ));
            }
            None => {
                let known: Vec<&str> = units.iter().map(|(u, _)| *u).collect();
                return Err(format!("{metric} has no unit {unit}: expected {}", known.join(", ")));
            }
        };
        Ok(Self { metric: (*metric).to_owned(), amount })
    }
}

/// The limit that a budget puts on the problem. `arena` is none: see [`super::verify::check_arena`].
///
/// # Errors
/// [`Code::BITS`]: the problem has no such metric.
pub fn limit(problem: &Problem, budget: &Budget) -> Result<Limit> {
    let Some(metric) = problem.metric(&budget.metric) else {
        return Err(Error::new(Code::BITS, format!("there are no figures of the {}", budget.metric))
            .help("give a cost table: goshawk profile-costs MODEL --calib DATA -o FILE, then --costs FILE"));
    };
    let max = match budget.amount {
        Amount::Absolute(value) => value,
        Amount::Relative(alpha) => relative(problem, metric, alpha),
    };
    Ok(Limit { metric, max })
}

/// HAWQ-V3's limit for α.
pub fn relative(problem: &Problem, metric: usize, alpha: f64) -> f64 {
    let levels = problem.levels();
    let at = |level| problem.totals(&problem.at_level(level))[metric];
    match (levels.first(), levels.last()) {
        (Some(generous), Some(cheap)) => {
            let (high, low) = (at(*generous), at(*cheap));
            low + (high - low) * alpha
        }
        _ => problem.smallest(metric),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_units() {
        let parse = |t: &str| t.parse::<Budget>();
        let close = |t: &str, value: f64| match parse(t).expect("valid").amount {
            Amount::Absolute(v) => (v / value - 1.0).abs() < 1e-12,
            Amount::Relative(_) => false,
        };
        assert_eq!(parse("size=0.5").expect("valid").amount, Amount::Relative(0.5));
        assert!(
            close("size=300KiB", 307_200.0) && close("latency=3.2ms", 0.0032) && close("bops=2.5G", 2.5e9)
        );
        assert!(
            close("energy=40uJ", 4e-5) && close("sensitivity=1e-3", 1e-3) && close("latency = 12 us", 1.2e-5)
        );
        for (text, words) in [
            ("size", "METRIC=AMOUNT"),
            ("weight=1", "no metric"),
            ("size=3ms", "no unit ms"),
            ("size=300", "share"),
            ("size=-1B", "at least 0"),
            ("latency=x", "not a number"),
            ("arena=0.5", "unit"),
        ] {
            assert!(parse(text).expect_err(text).contains(words), "{text}");
        }
    }
}
