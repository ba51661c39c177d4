//! Parallel work without threads of our own: the caller brings them.
//!
//! Work is cut in pieces that depend on the problem only, and results are joined in the order of the pieces, so that
//! sums of floats do not depend on the number of threads.
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// Runs independent tasks, on any threads and in any order.
pub trait Workers: Sync {
    /// Calls `work` with every number below `tasks`, once each, and returns when all calls have returned.
    fn run(&self, tasks: usize, work: &(dyn Fn(usize) + Sync));
}

/// One task after the other on the calling thread.
#[derive(Clone, Copy, Debug)]
pub struct Serial;

impl Workers for Serial {
    fn run(&self, tasks: usize, work: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(work);
    }
}

/// Results that wait for their turn.
struct Turn<A, R> {
    next: usize,
    waiting: BTreeMap<usize, R>,
    total: A,
}

/// Runs `work` on 0..tasks and joins the results into `total` in ascending order, each as soon as its predecessors are
/// there, so that no more results wait than there are threads (give or take one).
pub fn fold<A: Send, R: Send>(
    workers: &dyn Workers,
    tasks: usize,
    total: A,
    work: impl Fn(usize) -> R + Sync,
    join: impl Fn(&mut A, R) + Sync,
) -> A {
    let turn = Mutex::new(Turn { next: 0, waiting: BTreeMap::new(), total });
    workers.run(tasks, &|task| {
        let result = work(task);
        let mut turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        turn.waiting.insert(task, result);
        loop {
            let Turn { next, waiting, total } = &mut *turn;
            let Some(result) = waiting.remove(next) else { break };
            join(total, result);
            *next += 1;
        }
    });
    turn.into_inner().unwrap_or_else(PoisonError::into_inner).total
}
