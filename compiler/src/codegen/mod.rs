//! Code generation: [`goshawk_ir::IntGraph`] → machine code, through Cranelift.
//!
//! [`plan()`] chooses a kernel for each layer; [`jit`] and [`object()`] emit the same functions into this process or into
//! an ELF object. Whatever the target, the bytes of all outputs equal those of [`goshawk_ir::interp::int`].
//!
//! Layers become functions of pointers, `body` calls them in topological order, and the entry points of the C ABI
//! check their arguments and the CPU before they call `body`. Code holds no absolute address and calls no library;
//! loops run in a fixed order, so that equal graphs give equal bytes.
mod builder;
mod cpu;
mod emitter;
mod entry;
mod jit;
mod join;
mod model;
mod object;
mod ops;
mod parallel;
mod plan;
pub mod probe;
mod target;
mod timing;
mod tuning;
mod unwind;

#[cfg(test)]
mod tests;

pub use jit::{JitModel, JitSession};
pub use object::Object;
pub use plan::{KernelPlan, LayerReport};
pub use target::{Arch, Target};
pub use timing::Step;
pub use tuning::{Algorithm, Prefer, TileChoice, Tuning};

use crate::{Code, Error, Result};
use goshawk_ir::IntGraph;
use goshawk_passes::memory::{self, MemoryPlan};

/// What to generate.
#[derive(Clone, Debug)]
pub struct Options {
    /// Architecture and CPU features.
    pub target: Target,
    /// More levels of features to generate code for, in order of preference: a CPU that lacks what `target` needs runs the
    /// first of them that it can.
    pub fallbacks: Vec<Target>,
    /// Prefix of all symbols: a C identifier.
    pub name: String,
    /// The info block (`artifact::info_block`), which `NAME_info` returns; its stack bound is filled in, its arena size
    /// must be [`KernelPlan::arena_bytes`]. Without one there is no `NAME_info`.
    pub info: Vec<u8>,
    /// Whether [`Object::asm`] is wanted.
    pub listing: bool,
    /// Lets threads share every layer that can be split, however small: for tests.
    pub share_all: bool,
    /// Takes the time between layers, for [`JitModel::session`]; the JIT of a single level only, never artefacts.
    pub profile: bool,
    /// Tiles other than those of the static rule.
    pub tuning: Tuning,
}

impl Options {
    /// Code for `target` with symbols that begin with `name`.
    pub fn new(target: Target, name: impl Into<String>) -> Self {
        Self {
            target,
            fallbacks: Vec::new(),
            name: name.into(),
            info: Vec::new(),
            listing: false,
            share_all: false,
            profile: false,
            tuning: Tuning::default(),
        }
    }

    /// Code for every one of `levels` ([`Target::parse_levels`]), best first.
    ///
    /// # Errors
    /// [`crate::Code::TARGET`]: there is no level.
    pub fn for_levels(levels: &[Target], name: impl Into<String>) -> Result<Self> {
        let Some((best, fallbacks)) = levels.split_first() else {
            return Err(Error::new(Code::TARGET, "there is no CPU to generate code for"));
        };
        Ok(Self { fallbacks: fallbacks.to_vec(), ..Self::new(best.clone(), name) })
    }

    /// All levels, best first.
    pub fn levels(&self) -> impl Iterator<Item = &Target> {
        std::iter::once(&self.target).chain(&self.fallbacks)
    }
}

/// Plans the arena for the layers that every level joins.
///
/// # Errors
/// [`crate::Code::QUANTIZE`]: the network needs too large an arena.
pub fn arena(graph: &IntGraph, options: &Options) -> Result<MemoryPlan> {
    let joins = join::joins(graph, options)?;
    memory::plan_joined(graph, joins).map_err(|e| Error::from_ir(Code::QUANTIZE, e))
}

/// Chooses the kernels of the best level, and so the size of the arena that headers and info blocks state: the one that
/// the most demanding level needs.
///
/// # Errors
/// [`crate::Code::INTERNAL`] for graphs that the verifier would refuse.
pub fn plan(graph: &IntGraph, memory: &MemoryPlan, options: &Options) -> Result<KernelPlan> {
    Ok(plans(graph, memory, options)?.swap_remove(0))
}

/// Chooses the kernels of every level, best first.
///
/// # Errors
/// As [`plan()`].
pub fn plans(graph: &IntGraph, memory: &MemoryPlan, options: &Options) -> Result<Vec<KernelPlan>> {
    let mut plans = options
        .levels()
        .map(|target| plan::plan(graph, memory, target, options))
        .collect::<Result<Vec<_>>>()?;
    let scratch = plans.iter().map(|p| p.scratch_bytes).max().unwrap_or(0);
    for plan in &mut plans {
        plan.arena_bytes += scratch - plan.scratch_bytes;
        plan.scratch_bytes = scratch;
    }
    Ok(plans)
}

/// Tiles that a layer may be told to have on that target: what tuning tries.
pub fn tile_choices(target: &Target) -> Vec<TileChoice> {
    ops::tiles::choices(target)
}

/// Compiles the network into this process.
///
/// # Errors
/// As [`plan()`]; [`crate::Code::TARGET`] if no level runs here.
pub fn jit(graph: &IntGraph, memory: &MemoryPlan, options: &Options) -> Result<JitModel> {
    jit::compile(graph, memory, plans(graph, memory, options)?, options)
}

/// Compiles the network to a relocatable object.
///
/// # Errors
/// As [`plan()`].
pub fn object(graph: &IntGraph, memory: &MemoryPlan, options: &Options) -> Result<Object> {
    // Time stamps lie behind the arena that an artefact's caller provides.
    let options = Options { profile: false, ..options.clone() };
    object::compile(graph, memory, plans(graph, memory, &options)?, &options)
}
