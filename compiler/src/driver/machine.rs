//! The state of the machine around a measurement: pinning, load from others.
use crate::{Code, Error, Result};
use serde::Serialize;
use std::{
    fs,
    time::{Duration, Instant},
};

/// Other work than this share of one core disturbs a measurement.
const DISTURBED: f64 = 0.1;
/// As does a hypervisor that takes away more than this share of the time.
const STOLEN: f64 = 0.01;
/// Units of the times in /proc: USER_HZ, which is 100 on every Linux architecture (proc(5)).
const TICKS: f64 = 100.0;

/// Restricts this process, and threads that it starts later, to some CPUs.
///
/// # Errors
/// [`Code::RUN`] where the operating system refuses, or is none that can.
#[cfg(target_os = "linux")]
pub fn pin(cpus: &[usize]) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    for cpu in cpus {
        if *cpu >= rustix::thread::CpuSet::MAX_CPU {
            return Err(refuse(cpus, "there is no such CPU"));
        }
        set.set(*cpu);
    }
    rustix::thread::sched_setaffinity(None, &set).map_err(|e| refuse(cpus, &e.to_string()))
}

/// Restricts this process to some CPUs.
///
/// # Errors
/// [`Code::RUN`]: this operating system cannot.
#[cfg(not(target_os = "linux"))]
pub fn pin(cpus: &[usize]) -> Result<()> {
    Err(refuse(cpus, "only Linux allows that"))
}

fn refuse(cpus: &[usize], why: &str) -> Error {
    Error::new(Code::RUN, format!("cannot stay on the CPUs {cpus:?}"))
        .because(why)
        .help("give --pin numbers of CPUs that this process may use, as `nproc` counts them from 0")
}

/// What else the machine did during a measurement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Disturbance {
    /// Cores that other processes kept busy on average.
    pub other_cores: f64,
    /// Share of the time of all cores that the hypervisor gave to others.
    pub stolen: f64,
    /// Load average of the last minute at the end, this process included.
    pub load: f64,
}

impl Disturbance {
    /// What to tell the user; nothing if the machine was quiet.
    pub fn warning(&self) -> Option<String> {
        let mut reasons = Vec::new();
        if self.other_cores > DISTURBED {
            reasons.push(format!("other processes kept {:.2} cores busy", self.other_cores));
        }
        if self.stolen > STOLEN {
            reasons.push(format!("the hypervisor took {:.1} % of the time", 100.0 * self.stolen));
        }
        (!reasons.is_empty()).then(|| {
            format!("the machine was not quiet: {}; minima are nearest to the truth", reasons.join(", "))
        })
    }
}

/// Watches the machine from its creation on.
pub struct Watch {
    start: Instant,
    before: Option<Times>,
}

/// CPU time in seconds since the start of the machine, own time since the start of this process.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Times {
    busy: f64,
    stolen: f64,
    all: f64,
    own: f64,
}

impl Watch {
    /// Begins.
    pub fn new() -> Self {
        Self { start: Instant::now(), before: Times::now() }
    }

    /// What happened since; nothing where there is no /proc or too little time passed.
    pub fn end(&self) -> Option<Disturbance> {
        let elapsed = self.start.elapsed();
        if elapsed < Duration::from_millis(100) {
            return None;
        }
        let (before, after) = (self.before?, Times::now()?);
        let others = (after.busy - before.busy) - (after.own - before.own);
        let load = fs::read_to_string("/proc/loadavg").ok()?;
        Some(Disturbance {
            other_cores: (others / elapsed.as_secs_f64()).max(0.0),
            stolen: (after.stolen - before.stolen) / (after.all - before.all).max(1.0 / TICKS),
            load: load.split(' ').next()?.parse().ok()?,
        })
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}

impl Times {
    fn now() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/stat").ok()?, &fs::read_to_string("/proc/self/stat").ok()?)
    }

    /// From the texts of /proc/stat and /proc/self/stat (proc(5)).
    fn parse(all: &str, own: &str) -> Option<Self> {
        let line = all.lines().next()?.strip_prefix("cpu ")?;
        let seconds = |text: &str| text.parse::<f64>().ok().map(|t| t / TICKS);
        let times = line.split_whitespace().map(seconds).collect::<Option<Vec<f64>>>()?;
        // user nice system idle iowait irq softirq steal; guest times are part of user and nice.
        let &[user, nice, system, idle, iowait, irq, softirq, stolen, ..] = &times[..] else { return None };
        let busy = user + nice + system + irq + softirq;
        // The name in parentheses may hold spaces; utime and stime are fields 14 and 15, counted from 1.
        let fields: Vec<&str> = own.rsplit_once(')')?.1.split_whitespace().collect();
        let own = seconds(fields.get(11)?)? + seconds(fields.get(12)?)?;
        Some(Self { busy, stolen, all: busy + idle + iowait + stolen, own })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_from_the_right_fields() {
        let all = "cpu  100 200 300 400 500 600 700 800 9 9\ncpu0 1 2\n";
        let own = "42 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 250 150 0 0 20 0\n";
        let times = Times::parse(all, own).expect("well formed");
        assert_eq!(times, Times { busy: 19.0, stolen: 8.0, all: 36.0, own: 4.0 });
        assert_eq!(Times::parse("cpu 1 2", own), None);
    }

    #[test]
    fn only_a_disturbed_machine_warns() {
        let quiet = Disturbance { other_cores: 0.02, stolen: 0.001, load: 1.0 };
        assert_eq!(quiet.warning(), None);
        let busy = Disturbance { other_cores: 0.5, ..quiet.clone() };
        assert!(busy.warning().is_some_and(|w| w.contains("0.50 cores")));
        let stolen = Disturbance { stolen: 0.25, ..quiet };
        assert!(stolen.warning().is_some_and(|w| w.contains("25.0 %")));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn impossible_cpus_are_refused() {
        assert!(pin(&[100_000]).is_err_and(|e| e.remedy.is_some()));
        assert!(pin(&[1023]).is_err() || cfg!(not(target_os = "linux")));
    }
}
