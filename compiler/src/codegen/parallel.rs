//! Sharing the work of a layer between threads: how a layer is split, when that pays, and the code that does it.
//!
//! A layer's function that can be split takes two more parameters, `begin` and `end`, and computes that range of its
//! *units*: output rows, tiles of pixels or of channels, blocks of elements. The units of a range are computed as in a
//! whole run, so the bytes do not depend on how many ranges there are. Without an executor `body` calls the functions
//! with (0, units); with one, each layer that is worth it becomes `parallel_for` over a *task*: a small function that
//! computes its range from its index (static partition), loads the operands' addresses from the caller's frame and calls
//! the layer. `parallel_for` returns when all tasks are done: one barrier a layer.
use super::{
    builder::Fb,
    emitter::{Emitter, Level},
    target::Target,
};
use crate::Result;
use cranelift_codegen::ir::{InstBuilder, SigRef, StackSlot, StackSlotData, StackSlotKind, Value, types::*};
use cranelift_module::{FuncId, Linkage, Module};
use goshawk_ir::{IntGraph, IntOp, NodeId};
use goshawk_runtime::abi::{E_PARALLEL, Executor};
use std::mem::offset_of;

/// A layer's function: (operands…, result, scratch area if it takes one, `begin` and `end` if it can be split).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LayerFn {
    pub id: FuncId,
    /// Units that `begin` and `end` count; 0 for a function that has no such parameters.
    pub units: usize,
    /// Bytes of the scratch area that every task has for itself; 0 where tasks share it, or need none.
    pub private: usize,
}

impl LayerFn {
    /// A function of a range of `units`, whose tasks share the scratch area if there is one.
    pub fn new(id: FuncId, units: usize) -> Self {
        Self { id, units, private: 0 }
    }

    /// Calls it for all units.
    pub fn call<M: Module>(&self, em: &mut Emitter<M>, b: &mut Fb<'_>, mut arguments: Vec<Value>) {
        if self.units > 0 {
            arguments.extend([b.int(I64, 0), b.int(I64, self.units as i64)]);
        }
        em.call(b, self.id, &arguments);
    }
}

impl From<FuncId> for LayerFn {
    /// A function that computes the whole layer.
    fn from(id: FuncId) -> Self {
        Self::new(id, 0)
    }
}

/// Operand of a convolution that is its scratch area.
const SCRATCH: usize = 2;

/// Bytes of the scratch area that tasks with areas of their own may take together, unless two need more.
const PRIVATE_BYTES: usize = 2 << 20;

/// A task costs the caller one to two microseconds (waking, barrier, results that lie in the other core's cache); it
/// pays when it computes for several times as long.
const TASK_NANOSECONDS: u64 = 4000;

/// What decides how many tasks share a layer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sharing {
    /// Estimated time on one core.
    pub nanoseconds: u64,
    /// Whether layers that are too small to be worth it are shared too.
    pub share_all: bool,
}

impl Sharing {
    /// Most tasks of a layer of `units` units whose tasks need `private` bytes of scratch each; below 2 it stays serial.
    pub fn tasks(self, units: usize, private: usize) -> usize {
        let worth = if self.share_all { units } else { (self.nanoseconds / TASK_NANOSECONDS) as usize };
        let areas = PRIVATE_BYTES.checked_div(private).map_or(units, |areas| areas.max(2));
        units.min(worth).min(areas)
    }

    /// Scratch of all tasks of such a layer.
    pub fn scratch(self, units: usize, private: usize) -> usize {
        private * self.tasks(units, private).max(1)
    }
}

/// Rough time of a layer on one core; only the decision to split depends on it. The rates are about half of what the
/// kernels reach on a core of 2.5 GHz.
pub(crate) fn nanoseconds(graph: &IntGraph, id: NodeId, macs: u64, target: &Target) -> u64 {
    let (macs_each, bytes_each) = if target.has("avx512vnni") {
        (128, 8)
    } else if target.has("avx2") {
        (32, 8)
    } else {
        (8, 2)
    };
    let node = graph.node(id);
    let read: usize = node.operands().iter().map(|o| graph.ty(*o).bytes()).sum();
    let bytes = (read + node.ty.bytes()) as u64;
    let depthwise = matches!(&node.op, IntOp::Conv(a) if a.window.groups > 1);
    (macs / if depthwise { macs_each / 8 } else { macs_each }).max(bytes / bytes_each)
}

/// Words that a caller leaves for its tasks: tables of inputs and outputs, arena, number of tasks.
const FRAME: [i32; 4] = [0, 8, 16, 24];

/// The caller's side: an executor and the frame.
pub(crate) struct Caller {
    threads: Value,
    parallel_for: Value,
    context: Value,
    frame: StackSlot,
    signature: SigRef,
}

impl Caller {
    /// Fills the frame in a function that returns an error code.
    pub fn new<M: Module>(em: &Emitter<M>, b: &mut Fb<'_>, tables: [Value; 3], executor: Value) -> Self {
        let frame = b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, 32, 3));
        for (value, at) in tables.into_iter().zip(FRAME) {
            b.ins().stack_store(I64, value, frame, at);
        }
        let signature = b.import_signature(em.signature(4, &[I32]));
        let field = |b: &mut Fb<'_>, at: usize| b.load(I64, executor, at as i32);
        Self {
            threads: field(b, offset_of!(Executor, threads)),
            parallel_for: field(b, offset_of!(Executor, parallel_for)),
            context: field(b, offset_of!(Executor, context)),
            frame,
            signature,
        }
    }

    /// Runs `task` on up to `most` threads and returns [`E_PARALLEL`] if the executor fails.
    pub fn run<M: Module>(&self, em: &mut Emitter<M>, b: &mut Fb<'_>, task: FuncId, most: usize) {
        let most = b.int(I64, most as i64);
        let count = b.ins().umin(self.threads, most);
        b.ins().stack_store(I64, count, self.frame, FRAME[3]);
        let data = b.ins().stack_addr(I64, self.frame, 0);
        let task = em.callee(b, task);
        let task = b.ins().func_addr(I64, task);
        let arguments = [self.context, task, data, count];
        let call = b.ins().call_indirect(self.signature, self.parallel_for, &arguments);
        let failed = b.inst_results(call)[0];
        b.refuse(failed, E_PARALLEL);
    }
}

/// A task's side: what it finds in the frame.
pub(crate) struct Share {
    /// Tables of inputs and outputs, arena.
    pub tables: [Value; 3],
    pub begin: Value,
    pub end: Value,
}

impl Share {
    /// The range of task `index`: units · index / count to units · (index + 1) / count.
    pub fn new(b: &mut Fb<'_>, data: Value, index: Value, units: usize) -> Self {
        let [inputs, outputs, arena, count] = FRAME.map(|at| b.load(I64, data, at));
        let next = b.offset(index, 1);
        let [begin, end] = [index, next].map(|i| {
            let scaled = b.ins().imul_imm_s(i, units as i64);
            b.ins().udiv(scaled, count)
        });
        Self { tables: [inputs, outputs, arena], begin, end }
    }
}

/// The part of `begin..end` that lies in the `count` units from `first` on, counted from there: [begin, end].
pub(crate) fn within(b: &mut Fb<'_>, [begin, end]: [Value; 2], first: usize, count: usize) -> [Value; 2] {
    [begin, end].map(|v| {
        let v = b.offset(v, -(first as i64));
        let (low, high) = (b.int(I64, 0), b.int(I64, count as i64));
        let v = b.ins().smax(v, low);
        b.ins().smin(v, high)
    })
}

/// The range of `items` that goes with the range `begin..end` of `units`: neighbouring ranges stay neighbours.
pub(crate) fn scaled(b: &mut Fb<'_>, range: [Value; 2], units: usize, items: usize) -> [Value; 2] {
    if units == items {
        return range;
    }
    range.map(|v| {
        let v = b.ins().imul_imm_s(v, items as i64);
        let units = b.int(I64, units as i64);
        b.ins().udiv(v, units)
    })
}

/// A task's function for `layer`: (data, index). `addresses` gives the operands, the result and the scratch area.
pub(crate) fn task<M: Module>(
    em: &mut Emitter<M>,
    name: &str,
    layer: LayerFn,
    addresses: impl FnOnce(&mut Emitter<M>, &mut Fb<'_>, [Value; 3]) -> Vec<Value>,
) -> Result<FuncId> {
    em.function(&format!("{name}_task"), Linkage::Local, Level::Speed, 2, &[], |em, b, p| {
        let share = Share::new(b, p[0], p[1], layer.units);
        let mut arguments = addresses(em, b, share.tables);
        if layer.private > 0
            && let Some(scratch) = arguments.get_mut(SCRATCH)
        {
            *scratch = b.index(*scratch, p[1], layer.private as i64);
        }
        arguments.extend([share.begin, share.end]);
        em.call(b, layer.id, &arguments);
        b.ins().return_(&[]);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_layers_stay_serial() {
        let tasks = |units, nanoseconds| Sharing { nanoseconds, share_all: false }.tasks(units, 0);
        assert!(tasks(1000, 2 * TASK_NANOSECONDS - 1) < 2);
        assert_eq!(tasks(1000, 2 * TASK_NANOSECONDS), 2);
        assert_eq!(tasks(3, 1 << 30), 3);
        assert_eq!(tasks(0, 1 << 30), 0);
    }

    #[test]
    fn scratch_is_for_the_tasks_that_there_will_be() {
        let scratch = |nanoseconds, private| Sharing { nanoseconds, share_all: false }.scratch(100, private);
        assert_eq!(scratch(0, 1000), 1000, "a serial layer");
        assert_eq!(scratch(3 * TASK_NANOSECONDS, 1000), 3000);
        assert_eq!(scratch(1 << 30, PRIVATE_BYTES / 8), PRIVATE_BYTES);
        assert_eq!(scratch(1 << 30, PRIVATE_BYTES), 2 * PRIVATE_BYTES, "two threads at least");
    }
}
