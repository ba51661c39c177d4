//! A whole network at one level of instruction sets: one function for each layer, and bodies that call them in order.
use super::{
    Options,
    builder::Fb,
    emitter::{Emitter, Level},
    ops::{
        boundary, conv, depthwise,
        elementwise::{self, Source},
        line, movement, nonlinear,
        rescale::Output,
        tiles, window, winograd,
    },
    parallel::{self, Caller, LayerFn, Sharing},
    plan::{ConvChoice, KernelPlan, output},
    timing::{Clock, Step},
};
use crate::{Code, Error, Result};
use cranelift_codegen::ir::{InstBuilder, StackSlotData, StackSlotKind, Value, types::*};
use cranelift_module::{DataId, FuncId, Linkage, Module};
use goshawk_ir::{IntGraph, IntOp, IrError, NodeId, Operator, Port, Shape};
use goshawk_passes::memory::MemoryPlan;
use goshawk_runtime::abi::{E_PARALLEL, OK};
use std::collections::BTreeMap;

/// Alignment of the arena in bytes.
pub(crate) const ARENA_ALIGN: usize = 64;

/// Where a value is while `body` runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The caller's buffer of that input.
    Input(usize),
    /// The caller's buffer of that output.
    Output(usize),
    /// Byte offset in the arena.
    Arena(usize),
    /// Read-only data.
    Constant(DataId),
}

/// One layer in the order of execution.
struct Call {
    function: LayerFn,
    /// Operands, result, scratch area if the function takes one, residual and second result of a join.
    places: Vec<Place>,
    /// The task that computes a part of it, and the most tasks that are worth it.
    task: Option<(FuncId, usize)>,
    /// Number of the time stamp behind it.
    stamp: Option<usize>,
}

impl Call {
    fn new(function: LayerFn, places: Vec<Place>) -> Self {
        Self { function, places, task: None, stamp: None }
    }
}

/// The layers in order, alone and shared between threads.
#[derive(Clone, Copy)]
pub(super) struct Body {
    /// (inputs, outputs, arena).
    pub serial: FuncId,
    /// (inputs, outputs, arena, executor) → code; missing if no layer is worth sharing.
    pub threaded: Option<FuncId>,
}

/// Kernels shared by the layers of a model.
#[derive(Default)]
struct Kernels {
    gemm: conv::Kernels,
    tiles: tiles::Leaves,
}

/// A network at one level of instruction sets.
struct Model<'a> {
    graph: &'a IntGraph,
    memory: &'a MemoryPlan,
    plan: &'a KernelPlan,
    options: &'a Options,
    places: BTreeMap<NodeId, Place>,
    /// Offset of the scratch area in the arena.
    scratch: usize,
    clock: Option<&'a Clock>,
}

/// Emits the network at the emitter's level: the bodies of `run` and of `run_f32`.
pub(super) fn emit<M: Module>(
    em: &mut Emitter<M>,
    graph: &IntGraph,
    memory: &MemoryPlan,
    plan: &KernelPlan,
    options: &Options,
    clock: Option<&Clock>,
) -> Result<[Body; 2]> {
    let scratch = memory.arena_bytes.next_multiple_of(ARENA_ALIGN);
    let mut model = Model { places: BTreeMap::new(), scratch, graph, memory, plan, options, clock };
    model.place(em)?;
    let body = model.body(em)?;
    Ok([body, model.f32_body(em, &body)?])
}

impl Model<'_> {
    fn place<M: Module>(&mut self, em: &mut Emitter<M>) -> Result<()> {
        let graph = self.graph;
        for (i, port) in graph.inputs.iter().enumerate() {
            self.places.insert(port.node, Place::Input(i));
        }
        for (i, port) in graph.outputs.iter().enumerate() {
            if graph.constant(port.node).is_some() {
                return Err(Error::new(Code::UNSUPPORTED, format!("output {} is a constant", port.name))
                    .help("remove the output from the model"));
            }
            self.places.entry(port.node).or_insert(Place::Output(i));
        }
        for id in &self.plan.order {
            let node = graph.node(*id);
            if self.memory.join(*id).is_some_and(|j| j.conv == *id) {
                continue;
            }
            let mut read = graph.users(*id).into_iter().filter(|u| {
                let folded = matches!(graph.node(*u).op, IntOp::Conv(_) | IntOp::Linear(_));
                !folded || graph.node(*u).operands().first() == Some(id)
            });
            match graph.constant(*id) {
                Some(value) if read.next().is_some() => {
                    let data = em.rodata("constant", value.to_bytes())?;
                    self.places.insert(*id, Place::Constant(data));
                }
                Some(_) => {}
                None if self.places.contains_key(id) => {}
                None => {
                    let slot = self.memory.slot(*id).map_err(|e| Error::internal(&e.at(&node.name)))?;
                    self.places.insert(*id, Place::Arena(slot.offset));
                }
            }
        }
        Ok(())
    }

    fn broken(&self, id: NodeId, what: &str) -> Error {
        Error::internal(&IrError::new(what.to_owned()).at(&self.graph.node(id).name))
    }

    fn place_of(&self, id: NodeId) -> Result<Place> {
        self.places.get(&id).copied().ok_or_else(|| self.broken(id, "the value has no place"))
    }

    /// Address of a value inside `body`, whose parameters are the tables of inputs and outputs and the arena.
    fn address<M: Module>(
        &self,
        em: &mut Emitter<M>,
        b: &mut Fb<'_>,
        [inputs, outputs, arena]: [Value; 3],
        place: Place,
    ) -> Value {
        match place {
            Place::Input(i) => b.load(I64, inputs, 8 * i as i32),
            Place::Output(i) => b.load(I64, outputs, 8 * i as i32),
            Place::Arena(offset) => b.offset(arena, offset as i64),
            Place::Constant(data) => em.address(b, data),
        }
    }

    /// All layers in order, then outputs that are no layer's own result.
    fn calls<M: Module>(&self, em: &mut Emitter<M>) -> Result<Vec<Call>> {
        let graph = self.graph;
        let mut calls = Vec::new();
        let mut kernels = Kernels::default();
        for (index, id) in self.plan.order.iter().enumerate() {
            let node = graph.node(*id);
            if node.op.is_input() || node.op.as_const().is_some() {
                continue;
            }
            // A join is computed where its sum stands, with the convolution's code.
            let (id, result, more) = match self.memory.join(*id) {
                Some(join) if join.add == *id => {
                    let second = join.requant.unwrap_or(*id);
                    (&join.conv, id, vec![self.place_of(join.residual)?, self.place_of(second)?])
                }
                Some(_) => continue,
                None => (id, id, Vec::new()),
            };
            let node = graph.node(*id);
            let to = self.place_of(*result)?;
            let folded = matches!(node.op, IntOp::Conv(_) | IntOp::Linear(_));
            let operands = if folded { &node.operands()[..1] } else { node.operands() };
            let mut places = operands.iter().map(|o| self.place_of(*o)).collect::<Result<Vec<_>>>()?;
            if matches!(node.op, IntOp::Reshape(_)) && places.first() == Some(&to) {
                continue;
            }
            if matches!(node.op, IntOp::Concat(_)) && operands.iter().all(|o| self.in_place(*o)) {
                continue;
            }
            let name = symbol(index, node.op.name(), &node.name);
            let function = self.layer(em, &mut kernels, &name, *id)?;
            places.push(to);
            if self.plan.convs.get(id).is_some_and(ConvChoice::takes_scratch) {
                places.push(Place::Arena(self.scratch));
            }
            places.extend(more);
            let sharing = self.plan.sharing.get(id).copied().unwrap_or_default();
            let mut call = self.shared(em, &name, Call::new(function, places), sharing)?;
            // The conversions of the inputs come before.
            let number = graph.inputs.len() + 1 + calls.len();
            let nodes: Vec<NodeId> = match self.memory.join(*id) {
                Some(join) => join.nodes().collect(),
                None => vec![*id],
            };
            let step = Step::layer(graph, &nodes);
            call.stamp = self.clock.zip(step).map(|(c, step)| c.record(Some(number), step));
            calls.push(call);
        }
        for (i, port) in graph.outputs.iter().enumerate() {
            let from = self.place_of(port.node)?;
            if from != Place::Output(i) {
                let copy = movement::copy(em, &format!("output{i}_copy"), graph.ty(port.node).bytes())?;
                let mut call = Call::new(copy.into(), vec![from, Place::Output(i)]);
                let number = graph.inputs.len() + 1 + calls.len();
                call.stamp = self.clock.map(|c| c.record(Some(number), Step::copy(graph, port)));
                calls.push(call);
            }
        }
        Ok(calls)
    }

    /// Adds the task by which threads share a layer, if it can be split and is worth it.
    fn shared<M: Module>(
        &self,
        em: &mut Emitter<M>,
        name: &str,
        mut call: Call,
        sharing: Sharing,
    ) -> Result<Call> {
        let most = sharing.tasks(call.function.units, call.function.private);
        if most >= 2 {
            let task = parallel::task(em, name, call.function, |em, b, tables| {
                self.addresses(em, b, tables, &call)
            })?;
            call.task = Some((task, most));
        }
        Ok(call)
    }

    fn addresses<M: Module>(
        &self,
        em: &mut Emitter<M>,
        b: &mut Fb<'_>,
        tables: [Value; 3],
        call: &Call,
    ) -> Vec<Value> {
        call.places.iter().map(|place| self.address(em, b, tables, *place)).collect()
    }

    /// The calls one after the other.
    fn serial<M: Module>(&self, em: &mut Emitter<M>, b: &mut Fb<'_>, tables: [Value; 3], calls: &[Call]) {
        for call in calls {
            let arguments = self.addresses(em, b, tables, call);
            call.function.call(em, b, arguments);
            self.stamp(em, b, tables[2], call);
        }
    }

    fn stamp<M: Module>(&self, em: &mut Emitter<M>, b: &mut Fb<'_>, arena: Value, call: &Call) {
        if let (Some(clock), Some(index)) = (self.clock, call.stamp) {
            clock.stamp(em, b, arena, index);
        }
    }

    /// The same, layers that are worth it shared between the executor's threads.
    fn threaded<M: Module>(
        &self,
        em: &mut Emitter<M>,
        b: &mut Fb<'_>,
        tables: [Value; 3],
        executor: Value,
        calls: &[Call],
    ) {
        let caller = Caller::new(em, b, tables, executor);
        for call in calls {
            match call.task {
                Some((task, most)) => {
                    caller.run(em, b, task, most);
                    self.stamp(em, b, tables[2], call);
                }
                None => self.serial(em, b, tables, std::slice::from_ref(call)),
            }
        }
    }

    /// `body`(inputs, outputs, arena), and `body_threads`(inputs, outputs, arena, executor) → code where there are layers to
    /// share.
    fn body<M: Module>(&self, em: &mut Emitter<M>) -> Result<Body> {
        let calls = self.calls(em)?;
        let serial = em.function("body", Linkage::Local, Level::Speed, 3, &[], |em, b, p| {
            self.serial(em, b, [p[0], p[1], p[2]], &calls);
            b.ins().return_(&[]);
            Ok(())
        })?;
        if calls.iter().all(|c| c.task.is_none()) {
            return Ok(Body { serial, threaded: None });
        }
        let threaded = em.function("body_threads", Linkage::Local, Level::Speed, 4, &[I32], |em, b, p| {
            self.threaded(em, b, [p[0], p[1], p[2]], p[3], &calls);
            let ok = b.int(I32, i64::from(OK));
            b.ins().return_(&[ok]);
            Ok(())
        })?;
        Ok(Body { serial, threaded: Some(threaded) })
    }

    /// Whether the value was written into the Concat that reads it.
    fn in_place(&self, id: NodeId) -> bool {
        self.memory.slot(id).is_ok_and(|slot| slot.rows.is_some())
    }

    /// Defines the function of one layer.
    fn layer<M: Module>(
        &self,
        em: &mut Emitter<M>,
        kernels: &mut Kernels,
        name: &str,
        id: NodeId,
    ) -> Result<LayerFn> {
        let graph = self.graph;
        let node = graph.node(id);
        let (shape, dtype) = (&node.ty.shape, node.ty.dtype);
        let types = graph.operand_types(id);
        let Some(x) = types.first() else { return Err(self.broken(id, "the operator has no operand")) };
        let sources = || -> Vec<Source> {
            types
                .iter()
                .map(|t| Source { dtype: t.dtype, zero_point: t.zero_point(), shape: t.shape.clone() })
                .collect()
        };
        let dims = |s: &Shape| s.dims4().map_err(|e| Error::internal(&e.at(&node.name)));
        let plane = |s: &Shape| dims(s).map(|[_, h, w, _]| [h, w]);
        if let Some(plan) = self.plan.pools.get(&id) {
            return plan.define(em, &mut kernels.tiles, name);
        }
        Ok(match &node.op {
            IntOp::Input | IntOp::Const(_) => {
                return Err(self.broken(id, "inputs and constants have no code"));
            }
            IntOp::Conv(_) | IntOp::Linear(_) => match self.plan.convs.get(&id) {
                Some(ConvChoice::Gemm(spec, plan)) => conv::define(em, &mut kernels.gemm, name, spec, plan)?,
                Some(ConvChoice::Tiles(spec, plan)) => {
                    tiles::define(em, &mut kernels.tiles, name, spec, plan)?
                }
                Some(ConvChoice::Winograd(spec, plan)) => winograd::define(em, name, spec, plan)?,
                Some(ConvChoice::Line(spec, plan)) => line::define(em, name, spec, plan)?,
                Some(ConvChoice::DepthwiseRows(spec, plan)) => {
                    depthwise::define(em, &mut kernels.tiles, name, spec, plan)?
                }
                Some(ConvChoice::Depthwise(spec)) => window::depthwise(em, name, spec)?.into(),
                None => return Err(self.broken(id, "the layer was not planned")),
            },
            IntOp::Add(a) => {
                let output = Output { dtype, zero_point: a.zero_point, lo: a.lo, hi: a.hi };
                elementwise::add(em, name, a, &sources(), shape, output)?
            }
            IntOp::Mul(a) => {
                let output = output(&node.ty, &a.requant);
                elementwise::mul(em, name, &a.requant, &sources(), shape, output)?
            }
            IntOp::Requant(a) => {
                let output = output(&node.ty, &a.requant);
                elementwise::requant(em, name, &a.requant, &sources(), shape, output)?
            }
            IntOp::Lut(_) => {
                let tables = types.get(1).map_or(1, |t| t.shape[0]);
                elementwise::lut(em, name, shape, tables, dtype)?
            }
            IntOp::MaxPool(w) => window::max_pool(em, name, w, dims(&x.shape)?, plane(shape)?, dtype)?.into(),
            IntOp::AvgPool(a) => {
                let input = (dims(&x.shape)?, x.dtype, x.zero_point());
                let output = output(&node.ty, &a.requant);
                window::avg_pool(em, name, &a.window, &a.requant, input, plane(shape)?, output)?.into()
            }
            IntOp::Concat(a) => {
                let shapes: Vec<Shape> = types.iter().map(|t| t.shape.clone()).collect();
                // Operands that were written into the result need no copy.
                let there: Vec<bool> = node.operands().iter().map(|o| self.in_place(*o)).collect();
                movement::concat(em, name, a.axis, (&shapes, &there), shape, dtype)?
            }
            IntOp::Slice(a) => movement::slice(em, name, a, &x.shape, shape, dtype)?,
            IntOp::Pad(a) => movement::pad(em, name, a, &x.shape, shape, dtype)?.into(),
            IntOp::Reshape(_) => movement::copy(em, name, node.ty.bytes())?.into(),
            IntOp::Transpose(a) => movement::transpose(em, name, &a.perm, &x.shape, shape, dtype)?,
            IntOp::ResizeNearest(a) => movement::resize_nearest(em, name, a, dims(&x.shape)?, dtype)?.into(),
            IntOp::ResizeLinear(a) => nonlinear::resize_linear(em, name, a, dims(&x.shape)?)?.into(),
            IntOp::Softmax(_) => {
                let table = node.operands().get(1).and_then(|t| graph.constant(*t));
                let table = table.and_then(|t| t.as_i32().ok());
                // A row's maximum contributes table[0], so the divisor is positive.
                match table {
                    Some(t) if t.first().is_some_and(|e| *e > 0) && t.iter().all(|e| *e >= 0) => {
                        nonlinear::softmax(em, name, shape)?.into()
                    }
                    _ => {
                        return Err(
                            self.broken(id, "the table of exponentials is not constant, or not positive")
                        );
                    }
                }
            }
        })
    }

    /// The bodies of `run_f32`: their tables of inputs and outputs are those of the f32 tensors.
    fn f32_body<M: Module>(&self, em: &mut Emitter<M>, body: &Body) -> Result<Body> {
        let graph = self.graph;
        let slot = |port: &Port| {
            let slot = self.memory.slot(port.node).map_err(|e| Error::internal(&e.at(&port.name)))?;
            Ok(Place::Arena(slot.offset))
        };
        let sharing =
            |ty| Sharing { nanoseconds: boundary::nanoseconds(ty), share_all: self.options.share_all };
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for (i, port) in graph.inputs.iter().enumerate() {
            let (name, ty) = (format!("input{i}_quantize"), graph.ty(port.node));
            let function = boundary::quantize(em, &name, ty, port.layout)?;
            let call = Call::new(function, vec![Place::Input(i), slot(port)?]);
            let mut call = self.shared(em, &name, call, sharing(ty))?;
            let step = Step::boundary(graph, port, "quantize");
            call.stamp = self.clock.map(|c| c.record(Some(i + 1), step));
            before.push(call);
        }
        for (i, port) in graph.outputs.iter().enumerate() {
            let (name, ty) = (format!("output{i}_dequantize"), graph.ty(port.node));
            let function = boundary::dequantize(em, &name, ty, port.layout)?;
            let call = Call::new(function, vec![slot(port)?, Place::Output(i)]);
            let mut call = self.shared(em, &name, call, sharing(ty))?;
            let step = Step::boundary(graph, port, "dequantize");
            call.stamp = self.clock.map(|c| c.record(None, step));
            after.push(call);
        }
        // A table of addresses in the arena, on the stack.
        let table = |b: &mut Fb<'_>, places: Vec<Place>, arena: Value| {
            let data = StackSlotData::new(StackSlotKind::ExplicitSlot, 8 * places.len().max(1) as u32, 3);
            let stack = b.create_sized_stack_slot(data);
            for (i, place) in places.iter().enumerate() {
                if let Place::Arena(offset) = place {
                    let address = b.offset(arena, *offset as i64);
                    b.ins().stack_store(I64, address, stack, 8 * i as i32);
                }
            }
            b.ins().stack_addr(I64, stack, 0)
        };
        let tables = |b: &mut Fb<'_>, arena: Value| {
            let inputs = before.iter().map(|c| c.places[1]).collect();
            let outputs = after.iter().map(|c| c.places[0]).collect();
            [table(b, inputs, arena), table(b, outputs, arena), arena]
        };
        let start = |em: &mut Emitter<M>, b: &mut Fb<'_>, arena: Value| {
            if let Some(clock) = self.clock {
                clock.stamp(em, b, arena, 0);
            }
        };
        let serial = em.function("f32_body", Linkage::Local, Level::Speed, 3, &[], |em, b, p| {
            let outer = [p[0], p[1], p[2]];
            let inner = tables(b, p[2]);
            start(em, b, p[2]);
            self.serial(em, b, outer, &before);
            em.call(b, body.serial, &inner);
            self.serial(em, b, outer, &after);
            b.ins().return_(&[]);
            Ok(())
        })?;
        let Some(threaded) = body.threaded else { return Ok(Body { serial, threaded: None }) };
        let threaded =
            em.function("f32_body_threads", Linkage::Local, Level::Speed, 4, &[I32], |em, b, p| {
                let outer = [p[0], p[1], p[2]];
                let [inputs, outputs, arena] = tables(b, p[2]);
                start(em, b, arena);
                self.threaded(em, b, outer, p[3], &before);
                let code = em.call(b, threaded, &[inputs, outputs, arena, p[3]])[0];
                b.refuse(code, E_PARALLEL);
                self.threaded(em, b, outer, p[3], &after);
                let ok = b.int(I32, i64::from(OK));
                b.ins().return_(&[ok]);
                Ok(())
            })?;
        Ok(Body { serial, threaded: Some(threaded) })
    }
}

/// A symbol for `perf` and debuggers: position, operator, node.
fn symbol(index: usize, op: &str, node: &str) -> String {
    let clean: String =
        node.chars().take(60).map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!("l{index:03}_{op}_{clean}")
}
