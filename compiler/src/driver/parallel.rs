//! Samples spread over threads.
//!
//! Work is dealt in shards that depend only on the number of samples, never on the number of threads, so that results
//! which depend on the grouping (moving averages, sums of floats) are the same on every machine.
use super::progress::{self, Progress};
use crate::{Error, Result};
use goshawk_passes::gradient::Workers;
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// Shards that samples are dealt into: more than any number of threads that pays here, few enough that their
/// accumulators (histograms of every tensor) stay small.
const SHARDS: usize = 8;

/// A finished shard: its number, and its accumulator or the sample that failed.
type Shard<A> = (usize, std::result::Result<A, (usize, Error)>);

/// Number of threads for `--threads 0`: all cores.
pub fn threads(wanted: usize) -> usize {
    match wanted {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
}

/// Runs `work` on every sample 0..count, in order within a shard of consecutive samples; returns the accumulators of the
/// shards, in order. Errors: the one of the smallest sample that failed.
///
/// # Errors
/// Of `work`, or [`crate::Code::INTERRUPTED`].
pub fn shards<A: Send>(
    count: usize,
    threads: usize,
    progress: &dyn Progress,
    new: impl Fn() -> A + Sync,
    work: impl Fn(&mut A, usize) -> Result<()> + Sync,
) -> Result<Vec<A>> {
    let shards = SHARDS.min(count);
    let failed = AtomicBool::new(false);
    let done: Mutex<Vec<Shard<A>>> = Mutex::new(Vec::new());
    let run_shard = |shard: usize| {
        let mut accumulator = new();
        for sample in shard * count / shards..(shard + 1) * count / shards {
            if failed.load(Ordering::Relaxed) {
                break;
            }
            progress::check(progress)
                .and_then(|()| work(&mut accumulator, sample))
                .map_err(|e| (sample, e))?;
            progress.step();
        }
        Ok(accumulator)
    };
    Threads(threads).run(shards, &|shard| {
        let result = run_shard(shard);
        failed.fetch_or(result.is_err(), Ordering::Relaxed);
        done.lock().unwrap_or_else(PoisonError::into_inner).push((shard, result));
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(shard, _)| *shard);
    let mut first: Option<(usize, Error)> = None;
    let mut accumulators = Vec::with_capacity(shards);
    for (_, result) in done {
        match result {
            Ok(a) => accumulators.push(a),
            Err(e) if first.as_ref().is_none_or(|f| e.0 < f.0) => first = Some(e),
            Err(_) => {}
        }
    }
    match first {
        Some((_, error)) => Err(error),
        None => Ok(accumulators),
    }
}

/// Threads that take tasks in turn; the gradient engine has none of its own.
#[derive(Clone, Copy, Debug)]
pub struct Threads(pub usize);

impl Workers for Threads {
    fn run(&self, tasks: usize, work: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        let worker = || {
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    return;
                }
                work(task);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.0.clamp(1, tasks.max(1)) {
                scope.spawn(worker);
            }
            worker();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Code, driver::progress::Silent};

    #[test]
    fn every_sample_once_and_the_same_shards_for_any_number_of_threads() {
        let run = |threads| {
            shards(21, threads, &Silent, Vec::new, |list: &mut Vec<usize>, i| {
                list.push(i);
                Ok(())
            })
            .expect("no errors")
        };
        assert_eq!(run(1).concat(), (0..21).collect::<Vec<_>>());
        assert_eq!(run(1), run(3));
        assert_eq!(shards(0, 2, &Silent, || (), |(), _| Ok(())).expect("empty").len(), 0);
    }

    #[test]
    fn workers_do_every_task_once() {
        for threads in [1, 3, 40] {
            let done: Vec<AtomicUsize> = (0..17).map(|_| AtomicUsize::new(0)).collect();
            Threads(threads).run(17, &|task| {
                done[task].fetch_add(1, Ordering::Relaxed);
            });
            assert!(done.iter().all(|d| d.load(Ordering::Relaxed) == 1), "{threads} threads");
        }
    }

    #[test]
    fn an_error_stops_the_work() {
        let error = shards(
            100,
            2,
            &Silent,
            || (),
            |(), i| match i {
                30.. => Err(Error::new(Code::DATA, "bad")),
                _ => Ok(()),
            },
        );
        assert_eq!(error.expect_err("an error").code, Code::DATA);
    }

    #[test]
    fn the_user_can_stop() {
        struct Stop;
        impl Progress for Stop {
            fn begin(&self, _: &str, _: usize) {}
            fn step(&self) {}
            fn end(&self) {}
            fn interrupted(&self) -> bool {
                true
            }
        }
        let error = shards(9, 2, &Stop, || (), |(), _| Ok(()));
        assert_eq!(error.expect_err("an error").code, Code::INTERRUPTED);
    }
}
