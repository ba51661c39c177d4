//! Threads for the gradient engine, which has none of its own.
use goshawk_passes::gradient::Workers;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many threads that take tasks in turn.
pub struct Threads(pub usize);

impl Workers for Threads {
    fn run(&self, tasks: usize, work: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..self.0 {
                scope.spawn(|| {
                    loop {
                        let task = next.fetch_add(1, Ordering::Relaxed);
                        if task >= tasks {
                            return;
                        }
                        work(task);
                    }
                });
            }
        });
    }
}
