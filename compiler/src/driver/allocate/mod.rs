//! Bit allocation for a model: a sensitivity profile and a cost table in, a bits file out.
//!
//! [`setup`] makes a [`goshawk_passes::allocate::Problem`] of profile, costs, pins and candidates; [`budget`] reads limits;
//! [`frontier`] sweeps them; [`verify`] runs chosen allocations on labelled data and on the clock; [`report`] writes what
//! came of it.
pub mod budget;
pub mod frontier;
pub mod report;
pub mod setup;
pub mod verify;
mod watchdog;

use crate::{Code, Error};
use goshawk_passes::allocate::{Dynamic, Failure, Greedy, Haq, Ilp, Pareto, Ranking, Solver};
pub use watchdog::Watched;

/// Names of the solvers.
pub const SOLVERS: [&str; 6] = ["ilp", "dp", "pareto", "ranking", "greedy", "haq"];

/// The solver of this name.
pub fn solver<'a>(name: &str, linear: &'a Watched) -> Option<Box<dyn Solver + 'a>> {
    match name {
        "ilp" => Some(Box::new(Ilp { linear: Some(linear) })),
        "dp" => Some(Box::new(Dynamic)),
        "pareto" => Some(Box::new(Pareto)),
        "ranking" => Some(Box::new(Ranking)),
        "greedy" => Some(Box::new(Greedy)),
        "haq" => Some(Box::new(Haq::default())),
        _ => None,
    }
}

/// A solver's failure as the user sees it.
pub fn failed(failure: Failure) -> Error {
    match failure {
        Failure::Invalid(e) => Error::from_ir(Code::BITS, e),
        Failure::GaveUp(why) => Error::new(Code::BITS, "no allocation was found")
            .because(why)
            .help("try --solver ilp, fewer --widths or larger budgets"),
        infeasible @ Failure::Infeasible(_) => Error::new(Code::BITS, infeasible.to_string())
            .help("raise one of the named budgets, allow narrower --widths, or unpin layers (--free-ends)"),
    }
}
