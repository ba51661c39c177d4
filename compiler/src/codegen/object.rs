//! Ahead-of-time compilation: a relocatable ELF object.
use super::{
    KernelPlan, LayerReport, Options,
    emitter::{Emitter, fail},
    entry, unwind,
};
use crate::Result;
use cranelift_object::{ObjectBuilder, ObjectModule, object};
use goshawk_ir::IntGraph;
use goshawk_passes::memory::MemoryPlan;

/// A compiled network as a relocatable object. Four exported functions, no undefined symbol, no relocation but
/// PC-relative ones; weights in `.rodata`.
#[derive(Clone, Debug)]
pub struct Object {
    /// The ELF file.
    pub bytes: Vec<u8>,
    /// What each layer became at the best level.
    pub layers: Vec<LayerReport>,
    /// The same for each of [`Options::fallbacks`].
    pub fallbacks: Vec<Vec<LayerReport>>,
    /// Bytes of the caller's arena: see [`KernelPlan::arena_bytes`].
    pub arena_bytes: usize,
    /// Largest number of stack bytes that a call takes.
    pub stack_bytes: u32,
    /// Assembly of all functions, if [`Options::listing`] asked for it; else empty.
    pub asm: String,
}

pub(super) fn compile(
    graph: &IntGraph,
    memory: &MemoryPlan,
    plans: Vec<KernelPlan>,
    options: &Options,
) -> Result<Object> {
    let error = |e: &dyn std::fmt::Display| fail(&options.name, e);
    let isa = options.target.isa_for(true, false)?;
    let mut builder =
        ObjectBuilder::new(isa, options.name.as_bytes(), cranelift_module::default_libcall_names())
            .map_err(|e| error(&e))?;
    builder.per_function_section(false).per_data_object_section(false).unwind_info(false);
    let mut em = Emitter::new(ObjectModule::new(builder), &options.target, &options.name, options.listing)?;
    let entries = entry::emit(&mut em, graph, memory, &plans, options)?;
    let asm = if options.listing { em.listing() } else { String::new() };
    let isa = options.target.isa_for(true, false)?;
    let mut product = em.module.finish();
    unwind::add(&mut product, &*isa, &em.functions)?;
    // Tells linkers that the stack need not be executable.
    product.object.add_section(Vec::new(), b".note.GNU-stack".to_vec(), object::SectionKind::Other);
    let bytes = product.emit().map_err(|e| error(&e))?;
    let arena_bytes = plans.first().map_or(0, |p| p.arena_bytes);
    let mut levels = plans.into_iter().map(|p| p.layers);
    let (layers, fallbacks) = (levels.next().unwrap_or_default(), levels.collect());
    Ok(Object { bytes, layers, fallbacks, arena_bytes, stack_bytes: entries.stack_bytes, asm })
}
