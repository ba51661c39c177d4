//! What this machine can do at most: multiply-accumulates a second and bytes a second, measured.
//!
//! Reports compare layers with these peaks, measured in the same run, rather than with data sheets: clocks change with
//! the load, the vector width and the machine.
use super::{
    emitter::{Emitter, fail},
    target::{Arch, Target},
};
use crate::{
    Code, Error, Result,
    ukernel::probe::{Multiply, READ_BYTES, read},
};
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::FuncId;
use serde::Serialize;
use std::time::Instant;

/// Sizes of the caches if the operating system does not tell.
const CACHES: [usize; 3] = [32 << 10, 1 << 20, 32 << 20];
/// A measurement aims at this time; of several the best counts, since disturbance only ever slows down.
const SECONDS: f64 = 1e-3;
const REPEATS: usize = 4;

type Loop = unsafe extern "C" fn(u64, *const u8);

/// Measured peak of an instruction sequence.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compute {
    /// Instructions.
    pub name: &'static str,
    /// 10⁹ multiply-accumulates a second.
    pub gmacs: f64,
}

/// Measured bandwidth of a level of memory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// L1, L2, L3 or DRAM.
    pub level: &'static str,
    /// Bytes that were read again and again.
    pub bytes: usize,
    /// Size of the cache; nothing for DRAM.
    pub capacity: Option<usize>,
    /// 10⁹ bytes a second.
    pub gbytes: f64,
}

/// Instructions that the machine does not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Instructions.
    pub name: &'static str,
    /// Features that are missing.
    pub missing: Vec<&'static str>,
}

/// What the machine can do.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Peaks {
    /// Multiply-accumulates from registers, one thread.
    pub compute: Vec<Compute>,
    /// Reading, one thread.
    pub memory: Vec<Memory>,
    /// What could not be measured.
    pub skipped: Vec<Skipped>,
}

impl Peaks {
    /// The better of each of two measurements.
    pub fn best(&mut self, other: Self) {
        if self.compute.is_empty() && self.memory.is_empty() {
            *self = other;
            return;
        }
        for (a, b) in self.compute.iter_mut().zip(&other.compute) {
            a.gmacs = a.gmacs.max(b.gmacs);
        }
        for (a, b) in self.memory.iter_mut().zip(&other.memory) {
            a.gbytes = a.gbytes.max(b.gbytes);
        }
    }

    /// The peak for layers with weights of that many bits on that target: its fastest exact instructions.
    pub fn for_layer(&self, target: &Target, weights_bits: Option<u8>) -> Option<&Compute> {
        let short = weights_bits.is_some_and(|bits| bits <= 4);
        let usable = |m: &&Multiply| {
            m.features().iter().all(|f| target.has(f)) && (**m != Multiply::ShortYmm || short)
        };
        let best = Multiply::ALL.iter().find(usable)?;
        self.compute.iter().find(|c| c.name == best.name())
    }

    /// Bandwidth where a working set of that size lives.
    pub fn for_bytes(&self, bytes: usize) -> Option<&Memory> {
        self.memory.iter().find(|m| m.capacity.is_none_or(|c| bytes <= c))
    }
}

/// The loops in executable memory.
pub struct Probe {
    module: Option<JITModule>,
    multiply: Vec<(Multiply, Loop)>,
    read: Option<Loop>,
    skipped: Vec<Skipped>,
    buffer: Vec<u8>,
    levels: Vec<(&'static str, usize, Option<usize>)>,
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(module) = self.module.take() {
            // SAFETY: the only pointers into the module's memory are this value's loops.
            unsafe { module.free_memory() };
        }
    }
}

impl Probe {
    /// Prepares the loops that this machine can run.
    ///
    /// # Errors
    /// [`Code::TARGET`] on machines that goshawk does not compile for.
    pub fn new() -> Result<Self> {
        let target = Target::native()?;
        let isa = target.isa_for(true, true)?;
        let module = JITModule::new(JITBuilder::with_isa(isa, cranelift_module::default_libcall_names()));
        let mut em = Emitter::new(module, &target, "probe", false)?;
        let (mut multiply, mut skipped, mut reader) = (Vec::new(), Vec::new(), None);
        for kind in Multiply::ALL {
            let missing: Vec<_> = kind.features().iter().copied().filter(|f| !target.has(f)).collect();
            if missing.is_empty() {
                let code = kind.assemble().map_err(|e| fail(kind.name(), &e))?;
                multiply.push((kind, em.leaf(&format!("multiply{}", multiply.len()), 2, &[], &code)?));
            } else {
                skipped.push(Skipped { name: kind.name(), missing });
            }
        }
        if target.arch() == Arch::X64 {
            let vector = if target.has("avx512f") {
                64
            } else if target.has("avx2") {
                32
            } else {
                16
            };
            let code = read(vector).map_err(|e| fail("the reading loop", &e))?;
            reader = Some(em.leaf("read", 2, &[], &code)?);
        }
        em.module.finalize_definitions().map_err(|e| fail("the probe", &e))?;
        let function = |id: FuncId| {
            let code = em.module.get_finalized_function(id);
            // SAFETY: the loops take a count and a pointer in the C calling convention and live as long as the module.
            unsafe { std::mem::transmute::<*const u8, Loop>(code) }
        };
        let multiply = multiply.into_iter().map(|(kind, id)| (kind, function(id))).collect();
        let read = reader.map(function);
        let [l1, l2, l3] = caches();
        let levels = vec![
            ("L1", l1 / 2, Some(l1)),
            ("L2", l2 / 2, Some(l2)),
            // Virtual machines report a cache that they share with others: a part of it is more honest.
            ("L3", (4 * l2).min(l3 / 2), Some(l3)),
            ("DRAM", (4 * l3).clamp(64 << 20, 256 << 20), None),
        ];
        let largest = levels.iter().map(|l| l.1).max().unwrap_or(0);
        // Not zeros: untouched pages would all be the same physical one.
        Ok(Self { module: Some(em.module), multiply, read, skipped, buffer: vec![1; largest], levels })
    }

    /// Measures everything: about 0.2 seconds.
    pub fn measure(&self) -> Peaks {
        let compute = self.multiply.iter().map(|(kind, code)| {
            let turns = self.rate(*code, u64::MAX);
            Compute { name: kind.name(), gmacs: turns * kind.macs() as f64 / 1e9 }
        });
        let memory = self.read.iter().flat_map(|code| {
            self.levels.iter().map(|(level, bytes, capacity)| {
                let turns = self.rate(*code, (bytes / READ_BYTES) as u64);
                let gbytes = turns * READ_BYTES as f64 / 1e9;
                Memory { level, bytes: *bytes, capacity: *capacity, gbytes }
            })
        });
        Peaks { compute: compute.collect(), memory: memory.collect(), skipped: self.skipped.clone() }
    }

    /// Reads more than the caches hold, so that the next run finds its weights in memory.
    pub fn evict(&self) {
        if let Some(code) = self.read {
            // SAFETY: no more turns than the buffer has.
            unsafe { code((self.buffer.len() / READ_BYTES) as u64, self.buffer.as_ptr()) };
        }
    }

    /// Turns a second at best; a call makes at most `most`.
    fn rate(&self, code: Loop, most: u64) -> f64 {
        let run = |turns: u64, calls: u64| {
            let start = Instant::now();
            for _ in 0..calls {
                // SAFETY: multiplying loops touch no memory; reading loops get no more turns than the buffer has.
                unsafe { code(turns, self.buffer.as_ptr()) };
            }
            start.elapsed().as_secs_f64().max(1e-9)
        };
        // Once to warm up, once to find out how long a turn takes.
        let first = most.min(1000);
        run(first, 1);
        let turn = run(first, 1) / first as f64;
        let wanted = ((SECONDS / turn) as u64).max(1);
        let turns = wanted.min(most);
        let calls = (wanted / turns).max(1);
        (0..REPEATS).map(|_| (turns * calls) as f64 / run(turns, calls)).fold(0.0, f64::max)
    }
}

/// Sizes of this core's L1 data, L2 and L3 caches, as Linux tells them.
fn caches() -> [usize; 3] {
    let mut sizes = CACHES;
    for index in 0..8 {
        let read = |what: &str| {
            let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{what}");
            std::fs::read_to_string(path).map(|t| t.trim().to_owned())
        };
        let (Ok(level), Ok(kind), Ok(size)) = (read("level"), read("type"), read("size")) else { break };
        let Ok(level @ 1..=3) = level.parse::<usize>() else { continue };
        let kibibytes = size.strip_suffix('K').and_then(|n| n.parse::<usize>().ok());
        if let Some(k) = kibibytes.filter(|_| kind != "Instruction") {
            sizes[level - 1] = k << 10;
        }
    }
    sizes
}

/// An error where no peak is known, which only other architectures meet.
///
/// # Errors
/// [`Code::TARGET`].
pub fn need(peaks: &Peaks) -> Result<()> {
    match peaks.compute.is_empty() {
        false => Ok(()),
        true => Err(Error::new(Code::TARGET, "the peak of this machine cannot be measured")
            .because("the probe has loops for x86-64 with AVX only")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loop_runs_and_caches_are_faster_than_memory() {
        let probe = Probe::new().expect("this machine is supported");
        let mut peaks = probe.measure();
        peaks.best(probe.measure());
        assert_eq!(peaks.compute.len() + peaks.skipped.len(), Multiply::ALL.len());
        assert!(peaks.compute.iter().all(|c| c.gmacs > 0.1), "{peaks:?}");
        if let [l1, .., dram] = &peaks.memory[..] {
            assert!(l1.gbytes > dram.gbytes, "{peaks:?}");
        }
    }

    #[test]
    fn layers_are_compared_with_instructions_of_their_target() {
        let all = Multiply::ALL.map(|m| Compute { name: m.name(), gmacs: 1.0 });
        let peaks = Peaks { compute: all.to_vec(), ..Peaks::default() };
        let name = |cpu: &str, bits| {
            let target = Target::parse(Some("x86_64-unknown-linux-gnu"), cpu).expect("known");
            peaks.for_layer(&target, Some(bits)).map(|c| c.name)
        };
        assert_eq!(name("avx512vnni", 8), Some(Multiply::DotZmm.name()));
        assert_eq!(name("avxvnni", 4), Some(Multiply::DotYmmVex.name()));
        assert_eq!(name("x86-64-v4", 8), Some(Multiply::ExactZmm.name()));
        assert_eq!(name("x86-64-v3", 8), Some(Multiply::ExactYmm.name()));
        assert_eq!(name("x86-64-v3", 4), Some(Multiply::ShortYmm.name()));
        assert_eq!(name("x86-64-v2", 8), None);
    }
}
