//! Time stamps between layers, to find out what each costs. Only the JIT emits them, for `goshawk profile` and
//! `goshawk bench --layers`.
//!
//! A leaf reads the time stamp counter (x86-64: RDTSC behind LFENCE, which waits for the layer's last instruction;
//! Intel SDM vol. 2B; AArch64: CNTVCT_EL0 behind ISB) and stores it into a table behind the arena. It costs some tens
//! of cycles for each layer, which the caller sees as the difference of the sum of all layers to an ordinary run.
use super::{
    builder::Fb,
    emitter::{Emitter, fail},
    target::Arch,
};
use crate::Result;
use cranelift_codegen::ir::Value;
use cranelift_module::{FuncId, Module};
use goshawk_ir::{IntGraph, IntOp, NodeId, Operator, Port};
use iced_x86::{IcedError, code_asm::*};
use serde::Serialize;
use std::{cell::RefCell, collections::BTreeMap};

/// What happens between two time stamps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Name of the node, or of the tensor at the boundary.
    pub name: String,
    /// Operator; `quantize` and `dequantize` at the boundaries, `copy` for outputs that are also read.
    pub op: String,
    /// Shape of the result.
    pub shape: String,
    /// Bytes of the activations that are read, each once.
    pub read_bytes: usize,
    /// Bytes of the activations that are written.
    pub written_bytes: usize,
    /// Bytes of weights and tables.
    pub constant_bytes: usize,
}

impl Step {
    /// The code of one node, or of several that are computed together: it has the name of the first.
    pub(super) fn layer(graph: &IntGraph, nodes: &[NodeId]) -> Option<Self> {
        let first = graph.node(*nodes.first()?);
        let constant = |o: &NodeId| matches!(graph.node(*o).op, IntOp::Const(_));
        let operands = nodes.iter().flat_map(|id| graph.node(*id).operands());
        let (constants, read): (Vec<NodeId>, Vec<NodeId>) =
            operands.filter(|o| !nodes.contains(o)).partition(|o| constant(o));
        let bytes = |ids: &[NodeId]| ids.iter().map(|id| graph.ty(*id).bytes()).sum();
        Some(Self {
            name: first.name.clone(),
            op: first.op.name().to_owned(),
            shape: first.ty.shape.to_string(),
            read_bytes: bytes(&read),
            written_bytes: bytes(&nodes[usize::from(nodes.len() > 1)..]),
            constant_bytes: bytes(&constants),
        })
    }

    /// Conversion of an input or output.
    pub(super) fn boundary(graph: &IntGraph, port: &Port, op: &str) -> Self {
        let ty = graph.ty(port.node);
        let (float, int) = (4 * ty.shape.count(), ty.bytes());
        let (read_bytes, written_bytes) = if op == "quantize" { (float, int) } else { (int, float) };
        let (name, shape) = (port.name.clone(), ty.shape.to_string());
        Self { name, op: op.to_owned(), shape, read_bytes, written_bytes, constant_bytes: 0 }
    }

    /// Copy of a value that is an output and lives elsewhere.
    pub(super) fn copy(graph: &IntGraph, port: &Port) -> Self {
        let ty = graph.ty(port.node);
        let (name, shape) = (port.name.clone(), ty.shape.to_string());
        let bytes = ty.bytes();
        Self {
            name,
            op: "copy".to_owned(),
            shape,
            read_bytes: bytes,
            written_bytes: bytes,
            constant_bytes: 0,
        }
    }
}

/// Emits the stamps. Stamp 0 is the start, stamp i the end of step i - 1.
pub(crate) struct Clock {
    pub leaf: FuncId,
    /// Where in the arena the table starts.
    pub offset: usize,
    steps: RefCell<BTreeMap<usize, Step>>,
}

impl Clock {
    pub fn new<M: Module>(em: &mut Emitter<M>, arena_bytes: usize) -> Result<Self> {
        let code = match em.target.arch() {
            Arch::X64 => x64().map_err(|e| fail("the time stamp", &e))?,
            Arch::Aarch64 => aarch64(),
        };
        let leaf = em.leaf("time_stamp", 1, &[], &code)?;
        Ok(Self { leaf, offset: arena_bytes.next_multiple_of(64), steps: RefCell::default() })
    }

    /// Says what ends with stamp `index`; without one, the stamp behind all others. Gives its number.
    pub fn record(&self, index: Option<usize>, step: Step) -> usize {
        let mut steps = self.steps.borrow_mut();
        let index = index.unwrap_or_else(|| steps.last_key_value().map_or(1, |(last, _)| last + 1));
        steps.insert(index, step);
        index
    }

    /// Emits a stamp.
    pub fn stamp<M: Module>(&self, em: &mut Emitter<M>, b: &mut Fb<'_>, arena: Value, index: usize) {
        let to = b.offset(arena, (self.offset + 8 * index) as i64);
        em.call(b, self.leaf, &[to]);
    }

    /// All steps in order.
    pub fn into_steps(self) -> Vec<Step> {
        self.steps.into_inner().into_values().collect()
    }
}

fn x64() -> std::result::Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    a.lfence()?;
    a.rdtsc()?;
    a.shl(rdx, 32)?;
    a.or(rax, rdx)?;
    a.mov(qword_ptr(rdi), rax)?;
    a.ret()?;
    a.assemble(0)
}

/// Encodings: Arm ARM C6.2.
fn aarch64() -> Vec<u8> {
    let code: [u32; 4] = [
        0xd503_3fdf, // isb
        0xd53b_e041, // mrs x1, CNTVCT_EL0
        0xf900_0001, // str x1, [x0]
        0xd65f_03c0, // ret
    ];
    code.iter().flat_map(|w| w.to_le_bytes()).collect()
}
