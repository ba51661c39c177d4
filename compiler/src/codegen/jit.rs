//! Just-in-time compilation: the same code in this process, for tests, `goshawk eval` and latency measurement.
use super::{
    KernelPlan, LayerReport, Options, Target,
    emitter::{Emitter, fail},
    entry,
    model::ARENA_ALIGN,
    timing::Step,
};
use crate::{Code, Error, Result};
use cranelift_jit::{JITBuilder, JITModule};
use goshawk_ir::{DType, IntGraph, Layout, Shape, Tensor, TensorType};
use goshawk_passes::memory::MemoryPlan;
use goshawk_runtime::{Pool, abi::Executor};
use std::{ptr, sync::Arc};

/// An entry point: (inputs, outputs, arena, executor) → code.
type Entry = unsafe extern "C" fn(*const *const u8, *const *mut u8, *mut u8, *const Executor) -> i32;

/// Stores the time stamp counter.
type Stamp = unsafe extern "C" fn(*mut u64);

/// A compiled network in executable memory. Code pages are never writable and executable at once (cranelift-jit maps
/// them writable and changes them to executable when all is defined); they are freed on drop.
pub struct JitModel {
    module: Option<JITModule>,
    run: Entry,
    run_f32: Entry,
    inputs: Vec<PortType>,
    outputs: Vec<PortType>,
    arena_bytes: usize,
    pool: Option<Arc<Pool>>,
    /// What each layer became.
    pub layers: Vec<LayerReport>,
    /// What is timed, in order; empty unless compiled with [`Options::profile`].
    pub steps: Vec<Step>,
    /// Offset of the time stamps in the arena, and the function that makes one.
    clock: Option<(usize, Stamp)>,
}

/// Types of a port at both entry points.
struct PortType {
    name: String,
    ty: TensorType,
    f32_shape: Shape,
}

// SAFETY: the module is only kept to be freed; the code is immutable and re-entrant, all its state is in the caller's
// arena but for the CPU check's byte, whose racing writers store the same value.
unsafe impl Send for JitModel {}
// SAFETY: as above.
unsafe impl Sync for JitModel {}

impl Drop for JitModel {
    fn drop(&mut self) {
        if let Some(module) = self.module.take() {
            // SAFETY: the only pointers into the module's memory are this value's entry points, and a call borrows it.
            unsafe { module.free_memory() };
        }
    }
}

pub(super) fn compile(
    graph: &IntGraph,
    memory: &MemoryPlan,
    plans: Vec<KernelPlan>,
    options: &Options,
) -> Result<JitModel> {
    // The level that the entry points will find.
    let Some(level) = options.levels().position(Target::runs_here) else {
        let isas: Vec<_> = options.levels().map(Target::isa).collect();
        return Err(Error::new(Code::TARGET, format!("{} does not run on this machine", isas.join(", ")))
            .help("use --target-cpu native"));
    };
    let isa = options.target.isa_for(true, false)?;
    let module = JITModule::new(JITBuilder::with_isa(isa, cranelift_module::default_libcall_names()));
    let mut em = Emitter::new(module, &options.target, &options.name, false)?;
    let entries = entry::emit(&mut em, graph, memory, &plans, options)?;
    let plan = plans.into_iter().nth(level).expect("one plan for each level");
    em.module.finalize_definitions().map_err(|e| fail(&options.name, &e))?;
    let entry = |id| {
        let code = em.module.get_finalized_function(id);
        // SAFETY: the function was compiled with this signature and the C calling convention of this machine, and
        // lives as long as the module, which the model owns.
        unsafe { std::mem::transmute::<*const u8, Entry>(code) }
    };
    let (run, run_f32) = (entry(entries.run), entry(entries.run_f32));
    let (mut arena_bytes, mut clock, mut steps) = (plan.arena_bytes, None, Vec::new());
    if let Some(emitted) = entries.clock {
        let code = em.module.get_finalized_function(emitted.leaf);
        // SAFETY: the leaf takes one pointer in the C calling convention and lives as long as the module.
        let stamp = unsafe { std::mem::transmute::<*const u8, Stamp>(code) };
        let offset = emitted.offset;
        clock = Some((offset, stamp));
        steps = emitted.into_steps();
        arena_bytes = offset + 8 * (steps.len() + 1);
    }
    let ports = |ports: &[goshawk_ir::Port]| -> Result<Vec<PortType>> {
        ports
            .iter()
            .map(|p| {
                let ty = graph.ty(p.node).clone();
                let f32_shape = match p.layout {
                    Layout::Same => ty.shape.clone(),
                    Layout::Nchw => {
                        let [n, h, w, c] = ty.shape.dims4().map_err(|e| Error::internal(&e))?;
                        Shape::new([n, c, h, w]).map_err(|e| Error::internal(&e))?
                    }
                };
                Ok(PortType { name: p.name.clone(), ty, f32_shape })
            })
            .collect()
    };
    Ok(JitModel {
        run,
        run_f32,
        inputs: ports(&graph.inputs)?,
        outputs: ports(&graph.outputs)?,
        arena_bytes,
        pool: None,
        layers: plan.layers,
        steps,
        clock,
        module: Some(em.module),
    })
}

/// One aligned unit of the arena.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "only its size and alignment matter")] [u8; ARENA_ALIGN]);

impl JitModel {
    /// Runs on the threads of a pool from now on, on one thread without. The results do not depend on it.
    pub fn set_pool(&mut self, pool: Option<Arc<Pool>>) {
        self.pool = pool;
    }

    /// Runs the network on integer tensors (NHWC where they are images).
    ///
    /// # Errors
    /// [`Code::RUN`]: the inputs are not those of the network.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        self.check(inputs, |p| (p.ty.dtype, &p.ty.shape))?;
        self.call(self.run, inputs, |p| (p.ty.dtype, &p.ty.shape))
    }

    /// Runs the network on f32 tensors in ONNX layout.
    ///
    /// # Errors
    /// As [`JitModel::run`].
    pub fn run_f32(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        self.check(inputs, |p| (DType::F32, &p.f32_shape))?;
        self.call(self.run_f32, inputs, |p| (DType::F32, &p.f32_shape))
    }

    /// Bytes of the arena that a call uses.
    pub const fn arena_bytes(&self) -> usize {
        self.arena_bytes
    }

    /// A session at the f32 entry point: buffers for many runs on the same inputs.
    ///
    /// # Errors
    /// As [`JitModel::run`].
    pub fn session(&self, inputs: &[Tensor]) -> Result<JitSession<'_>> {
        self.check(inputs, |p| (DType::F32, &p.f32_shape))?;
        Ok(JitSession {
            model: self,
            arena: vec![Line([0; ARENA_ALIGN]); self.arena_bytes.div_ceil(ARENA_ALIGN)],
            inputs: inputs.iter().map(Tensor::to_bytes).collect(),
            outputs: self.outputs.iter().map(|p| vec![0; 4 * p.f32_shape.count()]).collect(),
        })
    }

    /// Time stamp counter; nothing unless compiled with [`Options::profile`].
    pub fn ticks(&self) -> Option<u64> {
        let (_, stamp) = self.clock?;
        let mut now = 0;
        // SAFETY: the leaf stores 8 bytes.
        unsafe { stamp(&mut now) };
        Some(now)
    }

    fn check<'a>(&'a self, inputs: &[Tensor], ty: impl Fn(&'a PortType) -> (DType, &'a Shape)) -> Result<()> {
        let error = |what: String| Err(Error::new(Code::RUN, what));
        if inputs.len() != self.inputs.len() {
            return error(format!("{} inputs for a network of {}", inputs.len(), self.inputs.len()));
        }
        for (port, tensor) in self.inputs.iter().zip(inputs) {
            let (dtype, shape) = ty(port);
            if tensor.dtype() != dtype || tensor.shape() != shape {
                let (d, s, name) = (tensor.dtype(), tensor.shape(), &port.name);
                return error(format!("input {name} is {d}{s}, expected {dtype}{shape}"));
            }
        }
        Ok(())
    }

    fn call<'a>(
        &'a self,
        entry: Entry,
        inputs: &[Tensor],
        ty: impl Fn(&'a PortType) -> (DType, &'a Shape),
    ) -> Result<Vec<Tensor>> {
        let mut arena = vec![Line([0; ARENA_ALIGN]); self.arena_bytes.div_ceil(ARENA_ALIGN)];
        let bytes: Vec<Vec<u8>> = inputs.iter().map(Tensor::to_bytes).collect();
        let mut results: Vec<Vec<u8>> = self
            .outputs
            .iter()
            .map(|p| {
                let (dtype, shape) = ty(p);
                vec![0; dtype.bytes(shape.count())]
            })
            .collect();
        let from: Vec<*const u8> = bytes.iter().map(|b| b.as_ptr()).collect();
        let to: Vec<*mut u8> = results.iter_mut().map(|b| b.as_mut_ptr()).collect();
        let arena = arena.as_mut_ptr().cast::<u8>();
        let executor = self.pool.as_ref().map_or(ptr::null(), |pool| ptr::from_ref(pool.executor()));
        // SAFETY: every buffer has the size that its port states, the arena the size and alignment of the plan, and
        // all outlive the call, as does the pool.
        let code = unsafe { entry(from.as_ptr(), to.as_ptr(), arena, executor) };
        if code != 0 {
            return Err(Error::new(Code::RUN, format!("the compiled network returned error {code}")));
        }
        self.outputs
            .iter()
            .zip(results)
            .map(|(p, bytes)| {
                let (dtype, shape) = ty(p);
                Tensor::from_bytes(dtype, shape.clone(), &bytes).map_err(|e| Error::internal(&e))
            })
            .collect()
    }
}

/// A network with arena, inputs and outputs.
pub struct JitSession<'m> {
    model: &'m JitModel,
    arena: Vec<Line>,
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
}

impl JitSession<'_> {
    /// Runs at the f32 entry point.
    ///
    /// # Errors
    /// [`Code::RUN`]: the CPU lacks an instruction set.
    pub fn run(&mut self) -> Result<()> {
        let from: Vec<*const u8> = self.inputs.iter().map(|b| b.as_ptr()).collect();
        let to: Vec<*mut u8> = self.outputs.iter_mut().map(|b| b.as_mut_ptr()).collect();
        let arena = self.arena.as_mut_ptr().cast::<u8>();
        let pool = self.model.pool.as_ref();
        let executor = pool.map_or(ptr::null(), |pool| ptr::from_ref(pool.executor()));
        // SAFETY: as in `JitModel::call`; the sizes were taken from the ports, and nothing else refers to the buffers.
        let code = unsafe { (self.model.run_f32)(from.as_ptr(), to.as_ptr(), arena, executor) };
        match code {
            0 => Ok(()),
            code => Err(Error::new(Code::RUN, format!("the compiled network returned error {code}"))),
        }
    }

    /// Ticks of every step of the last run, in the order of [`JitModel::steps`].
    pub fn step_ticks(&self) -> Vec<u64> {
        let Some((offset, _)) = self.model.clock else { return Vec::new() };
        let stamp = |index: usize| {
            // SAFETY: the table lies in the arena, 8-byte aligned, and has one entry more than there are steps; a
            // line is plain bytes.
            unsafe { self.arena.as_ptr().cast::<u8>().add(offset + 8 * index).cast::<u64>().read() }
        };
        (0..self.model.steps.len()).map(|i| stamp(i + 1).saturating_sub(stamp(i))).collect()
    }
}
