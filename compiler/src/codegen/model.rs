//! A whole network in a module: one function for each layer, `body` that calls them in order, the entry points.
use super::{
    Options,
    builder::Fb,
    cpu,
    emitter::{Emitter, Level},
    ops::{
        boundary, conv,
        elementwise::{self, Source},
        movement, nonlinear,
        rescale::Output,
        tiles, window,
    },
    plan::{ConvChoice, KernelPlan, output},
};
use crate::{Code, Error, Result};
use cranelift_codegen::ir::{InstBuilder, StackSlotData, StackSlotKind, Value, condcodes::IntCC, types::*};
use cranelift_module::{DataId, FuncId, Linkage, Module};
use goshawk_ir::{IntGraph, IntOp, IrError, NodeId, Operator, Port, Shape};
use goshawk_passes::memory::MemoryPlan;
use goshawk_runtime::abi::{E_ALIGN, E_EXECUTOR, E_ISA, E_NULL, ModelRecord, OK};
use std::{collections::BTreeMap, mem::offset_of};

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

/// Entry points of an emitted network.
pub(crate) struct Entries {
    pub run: FuncId,
    pub run_f32: FuncId,
    pub stack_bytes: u32,
}

/// Emits everything into the module.
pub(crate) fn emit<M: Module>(
    em: &mut Emitter<M>,
    graph: &IntGraph,
    memory: &MemoryPlan,
    plan: &KernelPlan,
    options: &Options,
) -> Result<Entries> {
    let mut model = Model {
        places: BTreeMap::new(),
        scratch: memory.arena_bytes.next_multiple_of(ARENA_ALIGN),
        graph,
        memory,
        plan,
        options,
    };
    model.place(em)?;
    let body = model.body(em)?;
    let checks = Checks::new(em, plan.arena_bytes)?;
    let run = model.run(em, &checks, body)?;
    let run_f32 = model.run_f32(em, &checks, body)?;
    let stack_bytes = em.stack_bytes(&[run, run_f32]);
    if !options.info.is_empty() {
        model.info(em, stack_bytes)?;
    }
    Ok(Entries { run, run_f32, stack_bytes })
}

/// Kernels shared by the layers of a model.
#[derive(Default)]
struct Kernels {
    gemm: conv::Kernels,
    tiles: tiles::Leaves,
}

struct Model<'a> {
    graph: &'a IntGraph,
    memory: &'a MemoryPlan,
    plan: &'a KernelPlan,
    options: &'a Options,
    places: BTreeMap<NodeId, Place>,
    /// Offset of the scratch area in the arena.
    scratch: usize,
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

    /// `body`(inputs, outputs, arena): all layers in order, then outputs that are no layer's own result.
    fn body<M: Module>(&self, em: &mut Emitter<M>) -> Result<FuncId> {
        let graph = self.graph;
        // (function, operands, result, takes the scratch area)
        let mut calls: Vec<(FuncId, Vec<Place>, Place, bool)> = Vec::new();
        let mut kernels = Kernels::default();
        for (index, id) in self.plan.order.iter().enumerate() {
            let node = graph.node(*id);
            if node.op.is_input() || node.op.as_const().is_some() {
                continue;
            }
            let to = self.place_of(*id)?;
            let folded = matches!(node.op, IntOp::Conv(_) | IntOp::Linear(_));
            let operands = if folded { &node.operands()[..1] } else { node.operands() };
            let from = operands.iter().map(|o| self.place_of(*o)).collect::<Result<Vec<_>>>()?;
            if matches!(node.op, IntOp::Reshape(_)) && from.first() == Some(&to) {
                continue;
            }
            let name = symbol(index, node.op.name(), &node.name);
            let function = self.layer(em, &mut kernels, &name, *id)?;
            let scratch =
                matches!(self.plan.convs.get(id), Some(ConvChoice::Gemm(..) | ConvChoice::Tiles(..)));
            calls.push((function, from, to, scratch));
        }
        for (i, port) in graph.outputs.iter().enumerate() {
            let from = self.place_of(port.node)?;
            if from != Place::Output(i) {
                let copy = movement::copy(em, &format!("output{i}_copy"), graph.ty(port.node).bytes())?;
                calls.push((copy, vec![from], Place::Output(i), false));
            }
        }
        em.function("body", Linkage::Local, Level::Speed, 3, &[], |em, b, p| {
            let tables = [p[0], p[1], p[2]];
            for (function, from, to, scratch) in calls {
                let mut arguments: Vec<Value> =
                    from.iter().chain([&to]).map(|place| self.address(em, b, tables, *place)).collect();
                if scratch {
                    arguments.push(b.offset(p[2], self.scratch as i64));
                }
                em.call(b, function, &arguments);
            }
            b.ins().return_(&[]);
            Ok(())
        })
    }

    /// Defines the function of one layer.
    fn layer<M: Module>(
        &self,
        em: &mut Emitter<M>,
        kernels: &mut Kernels,
        name: &str,
        id: NodeId,
    ) -> Result<FuncId> {
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
        match &node.op {
            IntOp::Input | IntOp::Const(_) => Err(self.broken(id, "inputs and constants have no code")),
            IntOp::Conv(_) | IntOp::Linear(_) => match self.plan.convs.get(&id) {
                Some(ConvChoice::Gemm(spec, plan)) => conv::define(em, &mut kernels.gemm, name, spec, plan),
                Some(ConvChoice::Tiles(spec, plan)) => {
                    tiles::define(em, &mut kernels.tiles, name, spec, plan)
                }
                Some(ConvChoice::Depthwise(spec)) => window::depthwise(em, name, spec),
                None => Err(self.broken(id, "the layer was not planned")),
            },
            IntOp::Add(a) => {
                let output = Output { dtype, zero_point: a.zero_point, lo: a.lo, hi: a.hi };
                elementwise::add(em, name, a, &sources(), shape, output)
            }
            IntOp::Mul(a) => {
                elementwise::mul(em, name, &a.requant, &sources(), shape, output(&node.ty, &a.requant))
            }
            IntOp::Requant(a) => {
                elementwise::requant(em, name, &a.requant, &sources(), shape, output(&node.ty, &a.requant))
            }
            IntOp::Lut(_) => {
                let tables = types.get(1).map_or(1, |t| t.shape[0]);
                elementwise::lut(em, name, shape, tables, dtype)
            }
            IntOp::MaxPool(w) => window::max_pool(em, name, w, dims(&x.shape)?, plane(shape)?, dtype),
            IntOp::AvgPool(a) => {
                let input = (dims(&x.shape)?, x.dtype, x.zero_point());
                let output = output(&node.ty, &a.requant);
                window::avg_pool(em, name, &a.window, &a.requant, input, plane(shape)?, output)
            }
            IntOp::Concat(a) => {
                let shapes: Vec<Shape> = types.iter().map(|t| t.shape.clone()).collect();
                movement::concat(em, name, a.axis, &shapes, shape, dtype)
            }
            IntOp::Slice(a) => movement::slice(em, name, a, &x.shape, shape, dtype),
            IntOp::Pad(a) => movement::pad(em, name, a, &x.shape, shape, dtype),
            IntOp::Reshape(_) => movement::copy(em, name, node.ty.bytes()),
            IntOp::Transpose(a) => movement::transpose(em, name, &a.perm, &x.shape, shape, dtype),
            IntOp::ResizeNearest(a) => movement::resize_nearest(em, name, a, dims(&x.shape)?, dtype),
            IntOp::ResizeLinear(a) => nonlinear::resize_linear(em, name, a, dims(&x.shape)?),
            IntOp::Softmax(_) => {
                let table = node.operands().get(1).and_then(|t| graph.constant(*t));
                let table = table.and_then(|t| t.as_i32().ok());
                // A row's maximum contributes table[0], so the divisor is positive.
                match table {
                    Some(t) if t.first().is_some_and(|e| *e > 0) && t.iter().all(|e| *e >= 0) => {
                        nonlinear::softmax(em, name, shape)
                    }
                    _ => Err(self.broken(id, "the table of exponentials is not constant, or not positive")),
                }
            }
        }
    }

    /// `PREFIX_run`(inputs, outputs, arena, executor) → code.
    fn run<M: Module>(&self, em: &mut Emitter<M>, checks: &Checks, body: FuncId) -> Result<FuncId> {
        let name = format!("{}_run", self.options.name);
        em.function(&name, Linkage::Export, Level::Baseline, 4, &[I32], |em, b, p| {
            checks.emit(em, b, self.graph, p);
            em.call(b, body, &p[..3]);
            let ok = b.int(I32, i64::from(OK));
            b.ins().return_(&[ok]);
            Ok(())
        })
    }

    /// `PREFIX_run_f32`: quantizes into the arena, runs, dequantizes.
    fn run_f32<M: Module>(&self, em: &mut Emitter<M>, checks: &Checks, body: FuncId) -> Result<FuncId> {
        let graph = self.graph;
        let mut edges = Vec::new();
        for (i, port) in graph.inputs.iter().enumerate() {
            let name = format!("input{i}_quantize");
            edges.push(boundary::quantize(em, &name, graph.ty(port.node), port.layout)?);
        }
        for (i, port) in graph.outputs.iter().enumerate() {
            let name = format!("output{i}_dequantize");
            edges.push(boundary::dequantize(em, &name, graph.ty(port.node), port.layout)?);
        }
        let slot = |port: &Port| {
            let slot = self.memory.slot(port.node).map_err(|e| Error::internal(&e.at(&port.name)))?;
            Ok(slot.offset as i64)
        };
        let inputs = graph.inputs.iter().map(slot).collect::<Result<Vec<i64>>>()?;
        let outputs = graph.outputs.iter().map(slot).collect::<Result<Vec<i64>>>()?;
        let name = format!("{}_run_f32", self.options.name);
        em.function(&name, Linkage::Export, Level::Baseline, 4, &[I32], |em, b, p| {
            checks.emit(em, b, graph, p);
            let arena = p[2];
            let table = |b: &mut Fb<'_>, offsets: &[i64]| {
                let size = 8 * offsets.len().max(1) as u32;
                let data = StackSlotData::new(StackSlotKind::ExplicitSlot, size, 3);
                let stack = b.create_sized_stack_slot(data);
                for (i, offset) in offsets.iter().enumerate() {
                    let address = b.offset(arena, *offset);
                    b.ins().stack_store(I64, address, stack, 8 * i as i32);
                }
                b.ins().stack_addr(I64, stack, 0)
            };
            let (in_table, out_table) = (table(b, &inputs), table(b, &outputs));
            for (i, offset) in inputs.iter().enumerate() {
                let from = b.load(I64, p[0], 8 * i as i32);
                let to = b.offset(arena, *offset);
                em.call(b, edges[i], &[from, to]);
            }
            em.call(b, body, &[in_table, out_table, arena]);
            for (i, offset) in outputs.iter().enumerate() {
                let from = b.offset(arena, *offset);
                let to = b.load(I64, p[1], 8 * i as i32);
                em.call(b, edges[inputs.len() + i], &[from, to]);
            }
            let ok = b.int(I32, i64::from(OK));
            b.ins().return_(&[ok]);
            Ok(())
        })
    }

    /// `PREFIX_info`() → address of the info block, with the stack bound filled in.
    fn info<M: Module>(&self, em: &mut Emitter<M>, stack_bytes: u32) -> Result<()> {
        const ARENA: usize = offset_of!(ModelRecord, arena_bytes);
        const STACK: usize = offset_of!(ModelRecord, stack_bytes);
        let mut block = self.options.info.clone();
        let arena = (self.plan.arena_bytes as u64).to_le_bytes();
        if block.len() < size_of::<ModelRecord>() || block[ARENA..ARENA + 8] != arena {
            return Err(Error::new(Code::INTERNAL, "the info block does not state the plan's arena size")
                .because("kernels need the scratch area behind the memory plan's arena"));
        }
        block[STACK..STACK + 4].copy_from_slice(&stack_bytes.to_le_bytes());
        let data = em.define_data("info_block", block, false)?;
        let name = format!("{}_info", self.options.name);
        em.function(&name, Linkage::Export, Level::Baseline, 0, &[I64], |em, b, _| {
            let address = em.address(b, data);
            b.ins().return_(&[address]);
            Ok(())
        })?;
        Ok(())
    }
}

/// What the entry points check before anything else.
struct Checks {
    needs_arena: bool,
    /// The leaf that looks at the CPU, and the byte that keeps its answer: 0 unknown, 1 fine, 2 not.
    cpu: Option<(FuncId, DataId)>,
}

impl Checks {
    fn new<M: Module>(em: &mut Emitter<M>, arena_bytes: usize) -> Result<Self> {
        let cpu = match cpu::check(&em.target)? {
            None => None,
            Some(code) => {
                let leaf = em.leaf("cpu_check", 0, &[I32], &code)?;
                Some((leaf, em.define_data("cpu_state", vec![0], true)?))
            }
        };
        Ok(Self { needs_arena: arena_bytes > 0, cpu })
    }

    fn emit<M: Module>(&self, em: &mut Emitter<M>, b: &mut Fb<'_>, graph: &IntGraph, p: &[Value]) {
        let null = |b: &mut Fb<'_>, pointer: Value| {
            let bad = b.ins().icmp_imm_u(IntCC::Equal, pointer, 0);
            refuse(b, bad, E_NULL);
        };
        for (table, ports) in [(p[0], graph.inputs.len()), (p[1], graph.outputs.len())] {
            null(b, table);
            for i in 0..ports {
                let pointer = b.load(I64, table, 8 * i as i32);
                null(b, pointer);
            }
        }
        if self.needs_arena {
            null(b, p[2]);
            let low = b.ins().band_imm_u(p[2], ARENA_ALIGN as i64 - 1);
            refuse(b, low, E_ALIGN);
        }
        let executor = b.ins().icmp_imm_u(IntCC::NotEqual, p[3], 0);
        refuse(b, executor, E_EXECUTOR);
        let Some((leaf, state)) = self.cpu else { return };
        // A race between threads is benign: they all find and store the same answer.
        let state = em.address(b, state);
        let known = b.load(I8, state, 0);
        let unknown = b.ins().icmp_imm_u(IntCC::Equal, known, 0);
        let leaf = em.callee(b, leaf);
        let answer = b.branch(
            unknown,
            |b| {
                let call = b.ins().call(leaf, &[]);
                let fine = b.inst_results(call)[0];
                let two = b.int(I32, 2);
                let answer = b.ins().isub(two, fine);
                let answer = b.ins().ireduce(I8, answer);
                b.store(answer, state, 0);
                vec![answer]
            },
            |_| vec![known],
        )[0];
        let bad = b.ins().icmp_imm_u(IntCC::NotEqual, answer, 1);
        refuse(b, bad, E_ISA);
    }
}

/// Returns `code` where `condition` is not 0.
fn refuse(b: &mut Fb<'_>, condition: Value, code: i32) {
    let (bad, go) = (b.create_block(), b.create_block());
    b.ins().brif(condition, bad, &[], go, &[]);
    b.switch_to_block(bad);
    let code = b.int(I32, i64::from(code));
    b.ins().return_(&[code]);
    b.switch_to_block(go);
}

/// A symbol for `perf` and debuggers: position, operator, node.
fn symbol(index: usize, op: &str, node: &str) -> String {
    let clean: String =
        node.chars().take(60).map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!("l{index:03}_{op}_{clean}")
}
