//! A pool of threads that share the layers of a run: static partition, fork and join in about a microsecond.
//!
//! Every worker has a slot of its own on its own cache lines. The caller offers a share by storing a number there, works
//! on share 0, and then waits for the others, so a job costs one cache line to and one from each worker. A share that
//! nobody has begun when the caller is done with its own is taken back and run by the caller: where workers sleep or have
//! no core (a loaded machine, more threads than cores) a job takes as long as on one thread, not as long as they sleep.
//!
//! Waiting is spinning first, then giving the core to others, then sleeping; a pool that nobody uses burns no time.
//!
//! States of a slot are `4 · job + kind`: idle or done, offered, taken. The job's fields are written before the offer
//! and read only by who has taken a share, which keeps the caller from returning.
use crate::abi::{Executor, Task};
use std::{
    any::Any,
    cell::UnsafeCell,
    ffi::{c_int, c_void},
    io,
    mem::size_of,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::*},
    },
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

/// Workers spin so long after a job, callers before they give up the core: longer than the serial parts of a run.
const SPIN: Duration = Duration::from_micros(50);
/// After that they let other threads run, and sleep when so much time has passed.
const YIELD: Duration = Duration::from_micros(500);
/// Largest pool that is believed: a limit against nonsense.
const MAX_THREADS: usize = 1024;

const DONE: usize = 0;
const OFFERED: usize = 1;
const TAKEN: usize = 2;
const KINDS: usize = 4;

/// Threads that share work; the caller is one of them. Dropping it ends the threads.
///
/// One job runs at a time; a second caller, or a task that starts another job, finds the pool busy and runs all of its
/// tasks itself.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    executor: Executor,
}

// SAFETY: the executor's pointer refers to `shared`, which is `Sync` and lives as long as the pool.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

struct Shared {
    busy: AtomicBool,
    job: UnsafeCell<Job>,
    slots: Vec<Slot>,
    stop: AtomicBool,
    /// The caller sleeps until a worker is done.
    asleep: AtomicBool,
    caller: Mutex<Option<Thread>>,
    /// Spinning makes no sense where threads have no cores of their own.
    spin: Duration,
}

// SAFETY: `job` is written by the holder of `busy` while no share is offered, and read by who has taken a share.
unsafe impl Sync for Shared {}
// SAFETY: the pointers in `job` are handed on to tasks only, whose caller vouches for them.
unsafe impl Send for Shared {}

#[derive(Clone, Copy)]
struct Job {
    number: usize,
    task: Task,
    data: *mut c_void,
    count: usize,
    /// Threads that take part, the caller included.
    shares: usize,
}

/// 128 bytes, because the prefetcher fetches pairs of lines.
#[repr(align(128))]
#[derive(Default)]
struct Slot {
    state: AtomicUsize,
    parked: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Pool {
    /// A pool of `threads` threads, the caller's included: `threads − 1` are started.
    ///
    /// # Errors
    /// `threads` is 0 or more than 1024, or the system cannot start a thread.
    pub fn new(threads: usize) -> io::Result<Self> {
        if !(1..=MAX_THREADS).contains(&threads) {
            let what = format!("a pool of {threads} threads: expected 1 to {MAX_THREADS}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared {
            busy: AtomicBool::new(false),
            job: UnsafeCell::new(Job {
                number: 0,
                task: nothing,
                data: std::ptr::null_mut(),
                count: 0,
                shares: 0,
            }),
            slots: (1..threads).map(|_| Slot::default()).collect(),
            stop: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            caller: Mutex::new(None),
            spin: if threads <= cores { SPIN } else { Duration::ZERO },
        });
        let context = Arc::as_ptr(&shared).cast_mut().cast();
        let executor = Executor {
            struct_size: size_of::<Executor>(),
            threads,
            context,
            parallel_for: Some(parallel_for),
        };
        // Dropped with the threads that were started, if one cannot be.
        let mut pool = Self { shared, workers: Vec::new(), executor };
        for index in 0..threads - 1 {
            let shared = Arc::clone(&pool.shared);
            let worker = thread::Builder::new()
                .name(format!("goshawk-{}", index + 1))
                .spawn(move || shared.work(index))?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Number of threads, the caller's included.
    pub const fn threads(&self) -> usize {
        self.executor.threads
    }

    /// What compiled networks take; valid as long as the pool.
    pub const fn executor(&self) -> &Executor {
        &self.executor
    }

    /// Calls `task(0)` to `task(count − 1)` on the threads of the pool and returns when all are done. A panic of a task is
    /// passed on then.
    pub fn run(&self, count: usize, task: impl Fn(usize) + Sync) {
        let job = Closure { task: &task, panic: Mutex::new(None) };
        self.shared.run(call, (&raw const job).cast_mut().cast(), count);
        if let Some(panic) = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for worker in &self.workers {
            worker.thread().unpark();
        }
        for worker in self.workers.drain(..) {
            // Workers run tasks that cannot unwind.
            let _ = worker.join();
        }
    }
}

/// A Rust closure as a task.
struct Closure<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

unsafe extern "C" fn call(data: *mut c_void, index: usize) {
    // SAFETY: `data` is the closure that `Pool::run` holds until all tasks are done.
    let closure = unsafe { &*data.cast::<Closure<'_>>() };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (closure.task)(index))) {
        closure.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
    }
}

unsafe extern "C" fn nothing(_: *mut c_void, _: usize) {}

/// `goshawk_executor.parallel_for` of a pool.
unsafe extern "C" fn parallel_for(
    context: *mut c_void,
    task: Task,
    data: *mut c_void,
    count: usize,
) -> c_int {
    // SAFETY: `context` is the pool's shared part, which lives as long as the executor may be used.
    let shared = unsafe { &*context.cast::<Shared>() };
    shared.run(task, data, count);
    0
}

impl Job {
    /// Runs the tasks of one share: every `shares`-th from `share` on.
    fn run(&self, share: usize) {
        for index in (share..self.count).step_by(self.shares) {
            // SAFETY: whoever started the job promises that the task may be called with its data and these indices,
            // once each, from any thread, until the job is done.
            unsafe { (self.task)(self.data, index) };
        }
    }
}

impl Shared {
    fn run(&self, task: Task, data: *mut c_void, count: usize) {
        let shares = count.min(self.slots.len() + 1);
        if shares <= 1 || self.busy.swap(true, Acquire) {
            return Job { number: 0, task, data, count, shares: 1 }.run(0);
        }
        // SAFETY: `busy` is held and no share is offered or taken.
        let job = unsafe {
            let job = &mut *self.job.get();
            *job = Job { number: job.number.wrapping_add(KINDS), task, data, count, shares };
            *job
        };
        for slot in &self.slots[..shares - 1] {
            // Before the look at `parked`: the worker looks at the two in the other order.
            slot.state.swap(job.number | OFFERED, SeqCst);
            if slot.parked.load(SeqCst)
                && let Some(thread) = slot.thread.get()
            {
                thread.unpark();
            }
        }
        job.run(0);
        for (index, slot) in self.slots[..shares - 1].iter().enumerate() {
            let (offered, done) = (job.number | OFFERED, job.number | DONE);
            if slot.state.compare_exchange(offered, done, AcqRel, Acquire).is_ok() {
                job.run(index + 1);
            }
        }
        for slot in &self.slots[..shares - 1] {
            self.wait(slot, job.number | DONE);
        }
        self.busy.store(false, Release);
    }

    /// Waits until the slot's share is done.
    fn wait(&self, slot: &Slot, done: usize) {
        let finished = || slot.state.load(Acquire) == done;
        if patience(self.spin, finished) {
            return;
        }
        *self.caller.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::current());
        self.asleep.store(true, SeqCst);
        while slot.state.load(SeqCst) != done {
            thread::park();
        }
        self.asleep.store(false, Relaxed);
    }

    /// A worker's life.
    fn work(&self, index: usize) {
        let slot = &self.slots[index];
        // Set before the first sleep, so that whoever sees the worker parked can wake it.
        let _ = slot.thread.set(thread::current());
        loop {
            let state = slot.state.load(Acquire);
            if state % KINDS == OFFERED {
                let number = state - OFFERED;
                if slot.state.compare_exchange(state, number | TAKEN, AcqRel, Relaxed).is_ok() {
                    // SAFETY: the share is taken, so the job stands until it is done.
                    let job = unsafe { *self.job.get() };
                    job.run(index + 1);
                    slot.state.store(number | DONE, SeqCst);
                    if self.asleep.load(SeqCst)
                        && let Some(caller) = &*self.caller.lock().unwrap_or_else(PoisonError::into_inner)
                    {
                        caller.unpark();
                    }
                }
                continue;
            }
            let wanted = || slot.state.load(Relaxed) % KINDS == OFFERED || self.stop.load(Relaxed);
            if !patience(self.spin, wanted) {
                slot.parked.store(true, SeqCst);
                while slot.state.load(SeqCst) % KINDS != OFFERED && !self.stop.load(SeqCst) {
                    thread::park();
                }
                slot.parked.store(false, Relaxed);
            }
            if self.stop.load(Relaxed) {
                return;
            }
        }
    }
}

/// Waits for `ready` without sleeping: spins for that time, then lets others run for a while. Whether it came.
fn patience(spin: Duration, ready: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        // Reading the clock takes as long as a few pauses.
        for _ in 0..16 {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        let passed = start.elapsed();
        if passed > spin {
            if passed > spin + YIELD {
                return false;
            }
            thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    fn add(total: &AtomicU32) {
        total.fetch_add(1, Relaxed);
    }

    /// Every index once, whatever the number of tasks and threads.
    #[test]
    fn every_task_runs_once() {
        for threads in 1..=5 {
            let pool = Pool::new(threads).expect("threads");
            for count in (0..9).chain([100]) {
                for _ in 0..50 {
                    let seen: Vec<AtomicU32> = (0..count).map(|_| AtomicU32::new(0)).collect();
                    pool.run(count, |i| {
                        seen[i].fetch_add(1, Relaxed);
                    });
                    assert!(seen.iter().all(|n| n.load(Relaxed) == 1), "{threads} threads, {count} tasks");
                }
            }
        }
    }

    #[test]
    fn tasks_run_at_the_same_time() {
        let pool = Pool::new(2).expect("threads");
        for _ in 0..20 {
            let (begun, met) = (AtomicBool::new(false), AtomicBool::new(false));
            pool.run(2, |i| {
                // Task 0 is the caller's and waits for task 1, which only another thread can begin before it ends.
                let start = Instant::now();
                while i == 0 && start.elapsed() < Duration::from_secs(10) && !begun.load(SeqCst) {
                    thread::yield_now();
                }
                if i == 0 {
                    met.store(begun.load(SeqCst), SeqCst);
                } else {
                    begun.store(true, SeqCst);
                }
            });
            assert!(met.load(SeqCst));
        }
    }

    #[test]
    fn jobs_after_a_sleep_and_from_several_callers() {
        let pool = Pool::new(3).expect("threads");
        let total = AtomicU32::new(0);
        let add = |pool: &Pool| {
            pool.run(3, |i| {
                total.fetch_add(1 << (8 * i), Relaxed);
            });
        };
        for pause in [0, 1, 2] {
            thread::sleep(Duration::from_millis(pause));
            add(&pool);
        }
        assert_eq!(total.load(Relaxed), 0x03_03_03);
        total.store(0, Relaxed);
        thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| (0..50).for_each(|_| add(&pool)));
            }
        });
        assert_eq!(total.load(Relaxed), 0x00c8_c8c8);
    }

    #[test]
    fn a_job_within_a_job_runs_on_its_caller() {
        let pool = Pool::new(2).expect("threads");
        let total = AtomicU32::new(0);
        pool.run(2, |_| pool.run(2, |_| add(&total)));
        assert_eq!(total.load(Relaxed), 4);
    }

    #[test]
    fn panics_are_passed_on_and_the_pool_stays_usable() {
        let pool = Pool::new(2).expect("threads");
        for bad in 0..2 {
            let result = catch_unwind(AssertUnwindSafe(|| pool.run(2, |i| assert!(i != bad, "on purpose"))));
            assert!(result.is_err());
            let total = AtomicU32::new(0);
            pool.run(2, |_| add(&total));
            assert_eq!(total.load(Relaxed), 2);
        }
    }

    #[test]
    fn more_threads_than_cores_and_pools_that_are_never_used() {
        for threads in [1, 2, 7, 33] {
            let pool = Pool::new(threads).expect("threads");
            assert_eq!(pool.threads(), threads);
            drop(pool);
        }
        let pool = Pool::new(33).expect("threads");
        let total = AtomicU32::new(0);
        for _ in 0..200 {
            pool.run(33, |_| add(&total));
        }
        assert_eq!(total.load(Relaxed), 6600);
        assert!(Pool::new(0).is_err() && Pool::new(1 << 40).is_err());
    }

    /// A pool at rest uses no processor time.
    #[test]
    #[cfg(target_os = "linux")]
    fn an_idle_pool_sleeps() {
        let ticks = |task: &str| -> u64 {
            let stat = std::fs::read_to_string(format!("/proc/self/task/{task}/stat")).expect("readable");
            let after = stat.rsplit(')').next().unwrap_or_default();
            let fields: Vec<&str> = after.split_whitespace().collect();
            fields[11].parse::<u64>().expect("number") + fields[12].parse::<u64>().expect("number")
        };
        let pool = Pool::new(3).expect("threads");
        pool.run(3, |_| ());
        let tasks = || -> Vec<String> {
            let tasks =
                std::fs::read_dir("/proc/self/task").expect("readable").map(|e| e.expect("entry").path());
            let ours = tasks.filter(|p| {
                std::fs::read_to_string(p.join("comm")).is_ok_and(|c| c.trim().starts_with("goshawk-"))
            });
            ours.map(|p| p.file_name().expect("name").to_string_lossy().into_owned()).collect()
        };
        thread::sleep(Duration::from_millis(50));
        let sum = || -> u64 { tasks().iter().map(|t| ticks(t)).sum() };
        let before = sum();
        thread::sleep(Duration::from_millis(300));
        // Other tests' pools have threads of the same name that may work: 100 ticks are a second.
        assert!(sum() - before < 25, "idle workers used {} ticks", sum() - before);
    }
}
