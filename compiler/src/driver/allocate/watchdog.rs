//! A time limit around the linear solver.
//!
//! minilp has no limit of its own and its notes warn of cycling. It runs on a thread of its own; if it takes too long its
//! answer is no longer waited for, and the search goes on with prices that it finds itself. The thread then ends with the
//! process.
use goshawk_passes::allocate::{Linear, LinearSolver, Minilp};
use std::{sync::mpsc, time::Duration};

/// minilp within a time.
#[derive(Clone, Copy, Debug)]
pub struct Watched {
    /// Longest time to wait for it.
    pub limit: Duration,
}

impl Default for Watched {
    fn default() -> Self {
        Self { limit: Duration::from_secs(3) }
    }
}

impl LinearSolver for Watched {
    fn name(&self) -> &'static str {
        Minilp.name()
    }

    fn solve(&self, problem: &Linear) -> Option<Vec<f64>> {
        let (sender, receiver) = mpsc::channel();
        let problem = problem.clone();
        let work = move || {
            // Nobody listens after the limit.
            let _ = sender.send(Minilp.solve(&problem));
        };
        std::thread::Builder::new().name("minilp".into()).spawn(work).ok()?;
        receiver.recv_timeout(self.limit).ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// max x + 2y with x + y ≤ 4, 0 ≤ y ≤ 3, as a minimum.
    fn programme() -> Linear {
        Linear {
            variables: vec![(-1.0, 0.0, f64::INFINITY), (-2.0, 0.0, 3.0)],
            rows: vec![(vec![(0, 1.0), (1, 1.0)], 4.0)],
        }
    }

    #[test]
    fn answers_within_the_limit_and_not_after_it() {
        let x = Watched { limit: Duration::from_secs(60) }.solve(&programme()).expect("solvable");
        assert!((x[0] - 1.0).abs() < 1e-9 && (x[1] - 3.0).abs() < 1e-9);
        assert_eq!(Watched { limit: Duration::ZERO }.solve(&programme()), None);
        let unbounded = Linear { variables: vec![(-1.0, 0.0, f64::INFINITY)], rows: Vec::new() };
        assert_eq!(Watched::default().solve(&unbounded), None);
    }
}
