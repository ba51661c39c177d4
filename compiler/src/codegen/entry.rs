//! The exported functions of a network: they check their arguments and the CPU, and call the code of the best level.
//!
//! A library may hold the code of several levels of instruction sets. The first call finds out which is the first one that
//! this CPU runs (levels are in order of preference) and keeps the answer in a byte: 0 unknown, level + 1, or [`NONE`].
//! Threads that race for it find and store the same answer.
use super::{
    Options,
    builder::Fb,
    cpu,
    emitter::{Emitter, Level},
    model::{self, ARENA_ALIGN, Body},
    plan::KernelPlan,
    target::Target,
    timing::Clock,
};
use crate::{Code, Error, Result};
use cranelift_codegen::ir::{InstBuilder, Value, condcodes::IntCC, types::*};
use cranelift_module::{FuncId, Linkage, Module};
use goshawk_ir::IntGraph;
use goshawk_passes::memory::MemoryPlan;
use goshawk_runtime::abi::{E_ALIGN, E_EXECUTOR, E_ISA, E_NULL, Executor, ModelRecord, OK};
use std::mem::offset_of;

/// The byte that says that no level runs on this CPU.
const NONE: i64 = 255;
/// Most levels of a library: their numbers share a byte with [`NONE`].
pub(crate) const MAX_LEVELS: usize = 16;

/// Entry points of an emitted network.
pub(crate) struct Entries {
    pub run: FuncId,
    pub run_f32: FuncId,
    pub stack_bytes: u32,
    /// Present where the options ask for time stamps.
    pub clock: Option<Clock>,
}

/// Emits everything into the module; one plan for each level, all with the same size of the arena.
pub(crate) fn emit<M: Module>(
    em: &mut Emitter<M>,
    graph: &IntGraph,
    memory: &MemoryPlan,
    plans: &[KernelPlan],
    options: &Options,
) -> Result<Entries> {
    let arena_bytes = plans.first().map_or(0, |p| p.arena_bytes);
    let clock = match plans.len() {
        1 if options.profile => Some(Clock::new(em, arena_bytes)?),
        _ => None,
    };
    let mut bodies = Vec::new();
    for (i, (target, plan)) in options.levels().zip(plans).enumerate() {
        let prefix = if plans.len() > 1 { format!("{}_{i}", options.name) } else { options.name.clone() };
        em.enter(target, &prefix)?;
        bodies.push(model::emit(em, graph, memory, plan, options, clock.as_ref())?);
    }
    em.enter(&options.target, &options.name)?;
    let level = level(em, options)?;
    let entry = Entry { graph, needs_arena: arena_bytes > 0, level, bodies };
    let run = entry.run(em, &format!("{}_run", options.name), 0)?;
    let run_f32 = entry.run(em, &format!("{}_run_f32", options.name), 1)?;
    exported_level(em, options, level)?;
    let stack_bytes = em.stack_bytes(&[run, run_f32]);
    if !options.info.is_empty() {
        info(em, options, arena_bytes, stack_bytes)?;
    }
    Ok(Entries { run, run_f32, stack_bytes, clock })
}

/// Defines the function that gives the byte of this CPU; `None` where the only level runs on every CPU.
fn level<M: Module>(em: &mut Emitter<M>, options: &Options) -> Result<Option<FuncId>> {
    let mut checks = Vec::new();
    for (i, target) in options.levels().enumerate() {
        let leaf = match cpu::check(target)? {
            None => None,
            Some(code) => Some(em.leaf(&format!("cpu_check_{i}"), 0, &[I32], &code)?),
        };
        checks.push(leaf);
    }
    if checks[0].is_none() {
        return Ok(None);
    }
    let state = em.define_data("cpu_level", vec![0], true)?;
    em.function("cpu_level", Linkage::Local, Level::Baseline, 0, &[I64], |em, b, _| {
        let state = em.address(b, state);
        let known = b.load(I8, state, 0);
        let known = b.ins().uextend(I64, known);
        let unknown = b.ins().icmp_imm_u(IntCC::Equal, known, 0);
        let answer = b.branch(
            unknown,
            |b| {
                let answer = first(em, b, &checks, 0);
                let byte = b.ins().ireduce(I8, answer);
                b.store(byte, state, 0);
                vec![answer]
            },
            |_| vec![known],
        )[0];
        b.ins().return_(&[answer]);
        Ok(())
    })
    .map(Some)
}

/// The byte of the first level from `index` on whose check succeeds.
fn first<M: Module>(em: &mut Emitter<M>, b: &mut Fb<'_>, checks: &[Option<FuncId>], index: usize) -> Value {
    match checks.get(index) {
        None => b.int(I64, NONE),
        Some(None) => b.int(I64, index as i64 + 1),
        Some(Some(leaf)) => {
            let fine = em.call(b, *leaf, &[])[0];
            let em = std::cell::RefCell::new(em);
            b.branch(
                fine,
                |b| vec![b.int(I64, index as i64 + 1)],
                |b| vec![first(&mut **em.borrow_mut(), b, checks, index + 1)],
            )[0]
        }
    }
}

/// `PREFIX_level`() → index of the level that runs here, -1 if there is none.
fn exported_level<M: Module>(em: &mut Emitter<M>, options: &Options, level: Option<FuncId>) -> Result<()> {
    let name = format!("{}_level", options.name);
    em.function(&name, Linkage::Export, Level::Baseline, 0, &[I32], |em, b, _| {
        let index = match level {
            None => b.int(I32, 0),
            Some(level) => {
                let byte = em.call(b, level, &[])[0];
                let none = b.ins().icmp_imm_u(IntCC::Equal, byte, NONE);
                let (missing, index) = (b.int(I64, -1), b.offset(byte, -1));
                let index = b.ins().select(none, missing, index);
                b.ins().ireduce(I32, index)
            }
        };
        b.ins().return_(&[index]);
        Ok(())
    })?;
    Ok(())
}

/// What the entry points share.
struct Entry<'a> {
    graph: &'a IntGraph,
    needs_arena: bool,
    /// Gives the byte of this CPU.
    level: Option<FuncId>,
    /// Of each level: those of `run` and of `run_f32`.
    bodies: Vec<[Body; 2]>,
}

impl Entry<'_> {
    /// An entry point: (inputs, outputs, arena, executor) → code.
    fn run<M: Module>(&self, em: &mut Emitter<M>, name: &str, which: usize) -> Result<FuncId> {
        em.function(name, Linkage::Export, Level::Baseline, 4, &[I32], |em, b, p| {
            self.check(b, p);
            let threads = executor_threads(b, p[3]);
            // Without a check the first level runs everywhere.
            let reachable = if self.level.is_some() { &self.bodies[..] } else { &self.bodies[..1] };
            let Some((last, better)) = reachable.split_last() else { return Ok(()) };
            if let Some(level) = self.level {
                let byte = em.call(b, level, &[])[0];
                let none = b.ins().icmp_imm_u(IntCC::Equal, byte, NONE);
                b.refuse(none, E_ISA);
                for (i, bodies) in better.iter().enumerate() {
                    let (this, next) = (b.create_block(), b.create_block());
                    let here = b.ins().icmp_imm_u(IntCC::Equal, byte, i as i64 + 1);
                    b.ins().brif(here, this, &[], next, &[]);
                    b.switch_to_block(this);
                    finish(em, b, &bodies[which], p, threads);
                    b.switch_to_block(next);
                }
            }
            finish(em, b, &last[which], p, threads);
            Ok(())
        })
    }

    fn check(&self, b: &mut Fb<'_>, p: &[Value]) {
        let null = |b: &mut Fb<'_>, pointer: Value| {
            let bad = b.ins().icmp_imm_u(IntCC::Equal, pointer, 0);
            b.refuse(bad, E_NULL);
        };
        for (table, ports) in [(p[0], self.graph.inputs.len()), (p[1], self.graph.outputs.len())] {
            null(b, table);
            for i in 0..ports {
                let pointer = b.load(I64, table, 8 * i as i32);
                null(b, pointer);
            }
        }
        if self.needs_arena {
            null(b, p[2]);
            let low = b.ins().band_imm_u(p[2], ARENA_ALIGN as i64 - 1);
            b.refuse(low, E_ALIGN);
        }
    }
}

/// Runs the network and returns from the entry point.
fn finish<M: Module>(em: &mut Emitter<M>, b: &mut Fb<'_>, body: &Body, p: &[Value], threads: Value) {
    if let Some(threaded) = body.threaded {
        let (alone, shared) = (b.create_block(), b.create_block());
        let many = b.ins().icmp_imm_u(IntCC::UnsignedGreaterThan, threads, 1);
        b.ins().brif(many, shared, &[], alone, &[]);
        b.switch_to_block(shared);
        let code = em.call(b, threaded, &p[..4]);
        b.ins().return_(&code);
        b.switch_to_block(alone);
    }
    em.call(b, body.serial, &p[..3]);
    let ok = b.int(I32, i64::from(OK));
    b.ins().return_(&[ok]);
}

/// Threads of an executor that may be null: 1 without one. An executor that makes no sense is refused.
fn executor_threads(b: &mut Fb<'_>, executor: Value) -> Value {
    let given = b.ins().icmp_imm_u(IntCC::NotEqual, executor, 0);
    b.branch(
        given,
        |b| {
            let size = b.load(I64, executor, offset_of!(Executor, struct_size) as i32);
            let short = b.ins().icmp_imm_u(IntCC::UnsignedLessThan, size, size_of::<Executor>() as i64);
            b.refuse(short, E_EXECUTOR);
            for field in [offset_of!(Executor, threads), offset_of!(Executor, parallel_for)] {
                let value = b.load(I64, executor, field as i32);
                let missing = b.ins().icmp_imm_u(IntCC::Equal, value, 0);
                b.refuse(missing, E_EXECUTOR);
            }
            vec![b.load(I64, executor, offset_of!(Executor, threads) as i32)]
        },
        |b| vec![b.int(I64, 1)],
    )[0]
}

/// `PREFIX_info`() → address of the info block, with the stack bound filled in.
fn info<M: Module>(
    em: &mut Emitter<M>,
    options: &Options,
    arena_bytes: usize,
    stack_bytes: u32,
) -> Result<()> {
    const ARENA: usize = offset_of!(ModelRecord, arena_bytes);
    const STACK: usize = offset_of!(ModelRecord, stack_bytes);
    let mut block = options.info.clone();
    let arena = (arena_bytes as u64).to_le_bytes();
    if block.len() < size_of::<ModelRecord>() || block[ARENA..ARENA + 8] != arena {
        return Err(Error::new(Code::INTERNAL, "the info block does not state the plan's arena size")
            .because("kernels need the scratch area behind the memory plan's arena"));
    }
    block[STACK..STACK + 4].copy_from_slice(&stack_bytes.to_le_bytes());
    let data = em.define_data("info_block", block, false)?;
    let name = format!("{}_info", options.name);
    em.function(&name, Linkage::Export, Level::Baseline, 0, &[I64], |em, b, _| {
        let address = em.address(b, data);
        b.ins().return_(&[address]);
        Ok(())
    })?;
    Ok(())
}

/// Levels in order of preference.
///
/// # Errors
/// [`Code::TARGET`]: none or too many, two that are the same, several triples.
pub(crate) fn order(mut levels: Vec<Target>) -> Result<Vec<Target>> {
    let error = |what: String| Err(Error::new(Code::TARGET, what));
    if levels.is_empty() || levels.len() > MAX_LEVELS {
        return error(format!("{} CPUs for one library: expected 1 to {MAX_LEVELS}", levels.len()));
    }
    for (i, level) in levels.iter().enumerate() {
        if levels[..i].contains(level) {
            return error(format!("the instruction sets {} are named twice", level.isa()));
        }
        if level.triple() != levels[0].triple() {
            return error(format!("one library cannot be for {} and {}", levels[0].triple(), level.triple()));
        }
    }
    // Stable, so that levels of the same worth stay in the order in which they were named.
    levels.sort_by_key(|level| std::cmp::Reverse(level.worth()));
    Ok(levels)
}
