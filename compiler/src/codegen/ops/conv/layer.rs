//! What a layer needs before its loops: packed weights, kernels, the function that gathers windows, geometry tables.
use super::{
    ConvSpec, GemmPlan,
    body::{Body, Tensors},
};
use crate::{
    Result,
    codegen::{
        builder::Fb,
        emitter::{Emitter, Level},
        ops::{
            gemm::{self, Geometry, Key, MR},
            pack::{self, NR},
            rescale::Scheme,
        },
        parallel::LayerFn,
    },
};
use cranelift_codegen::ir::{InstBuilder, StackSlotData, StackSlotKind, condcodes::IntCC, types::I64};
use cranelift_module::{DataId, FuncId, Linkage, Module};
use goshawk_ir::DType;
use std::collections::BTreeMap;

/// Kernels of a model, shared by its layers.
pub(crate) type Kernels = BTreeMap<Key, FuncId>;

/// Defines the layer's function: (input, result, range of blocks of output channels). Every thread gathers the windows
/// for itself, into a panel on its stack.
pub(crate) fn define<M: Module>(
    em: &mut Emitter<M>,
    kernels: &mut Kernels,
    name: &str,
    spec: &ConvSpec,
    plan: &GemmPlan,
) -> Result<LayerFn> {
    let mut layer = Layer { em, kernels, name, spec, plan };
    // Callees are defined before their callers.
    let (weights, epilogue) = layer.constants()?;
    let kernels = layer.kernels()?;
    let gather = if plan.panel_bytes > 0 { Some(layer.gather()?) } else { None };
    let em = layer.em;
    let tables = [spec.in_place(plan), spec.in_panel(plan, false), spec.in_panel(plan, true)]
        .map(|g| em.rodata(&format!("{name}_geometry"), g.bytes()));
    let [direct, along, down] = tables;
    let tables = [direct?, along?, down?];
    let id = em.function(name, Linkage::Local, Level::Speed, 4, &[], |em, b, p| {
        let kernels = kernels.map(|row| row.map(|id| em.callee(b, id)));
        let gather = gather.map(|id| em.callee(b, id));
        let (w, e) = (em.address(b, weights), em.address(b, epilogue));
        let [direct, along, down] = tables.map(|t| em.address(b, t));
        let tensors = Tensors { input: p[0], out: p[1], w, e };
        let scratch = match plan.panel_bytes {
            0 => b.int(I64, 0),
            bytes => {
                let panel = StackSlotData::new(StackSlotKind::ExplicitSlot, bytes as u32, 4);
                let panel = b.create_sized_stack_slot(panel);
                b.ins().stack_addr(I64, panel, 0)
            }
        };
        let range = [p[2], p[3]];
        Body { spec, plan, kernels, gather, direct, along, down, scratch, range }.emit(b, tensors);
        b.ins().return_(&[]);
        Ok(())
    })?;
    Ok(LayerFn::new(id, spec.group_outputs().div_ceil(NR)))
}

struct Layer<'a, M: Module> {
    em: &'a mut Emitter<M>,
    kernels: &'a mut Kernels,
    name: &'a str,
    spec: &'a ConvSpec,
    plan: &'a GemmPlan,
}

impl<M: Module> Layer<'_, M> {
    /// Packed weights and epilogue constants.
    fn constants(&mut self) -> Result<(DataId, DataId)> {
        let (name, spec, plan) = (self.name, self.spec, self.plan);
        let (mut packed, mut constants) = (Vec::new(), Vec::new());
        let outputs = spec.group_outputs();
        for group in 0..spec.window.groups {
            for first in (0..outputs).step_by(NR) {
                let count = NR.min(outputs - first);
                let channel = group * outputs + first;
                gemm::pack_block(&mut packed, plan.kind, plan.weights, plan.k, |c, k| {
                    if c < count && k < spec.k() { spec.weight(channel + c, k) } else { 0 }
                });
                let range = channel..channel + count;
                pack::epilogue(&mut constants, plan.scheme, &plan.bias[range.clone()], &plan.lanes[range]);
            }
        }
        let weights = self.em.rodata(&format!("{name}_weights"), packed)?;
        Ok((weights, self.em.rodata(&format!("{name}_requant"), constants)?))
    }

    /// The kernels by number of pixels (− 1), for whole blocks and for the last one.
    fn kernels(&mut self) -> Result<[[FuncId; 2]; MR]> {
        let outputs = self.spec.group_outputs();
        let tail = if outputs.is_multiple_of(NR) { NR } else { outputs % NR };
        let whole = if outputs >= NR { NR } else { tail };
        let mut out = [[FuncId::from_u32(0); 2]; MR];
        for mr in 1..=MR {
            for (i, channels) in [whole, tail].into_iter().enumerate() {
                let wide = self.spec.output.dtype != DType::U8;
                let GemmPlan { kind, weights, scheme, .. } = *self.plan;
                let key = Key { kind, weights, scheme, mr, channels, wide };
                out[mr - 1][i] = match self.kernels.get(&key) {
                    Some(id) => *id,
                    None => {
                        let id = gemm::define(self.em, key)?;
                        self.kernels.insert(key, id);
                        id
                    }
                };
            }
        }
        Ok(out)
    }

    /// Defines the function that copies the window of one output: (group's first input channel of the image, row,
    /// column, destination).
    fn gather(&mut self) -> Result<FuncId> {
        let spec = self.spec;
        let [_, h, w, c] = spec.input;
        let ([kh, kw], [sy, sx], [dy, dx]) = (spec.kernel, spec.window.stride, spec.window.dilation);
        let (top, left, cg) = (spec.window.pads[0], spec.window.pads[1], spec.group_inputs());
        let zero = [spec.input_zero_point as u8; 8];
        let tail = self.plan.k - spec.k();
        let contiguous = spec.window.groups == 1 && dx == 1 && kw > 1;
        self.em.function(&format!("{}_gather", self.name), Linkage::Local, Level::Speed, 4, &[], |_, b, p| {
            let (input, to) = (p[0], p[3]);
            let y = b.ins().imul_imm_s(p[1], sy as i64);
            let y = b.offset(y, -(top as i64));
            let x = b.ins().imul_imm_s(p[2], sx as i64);
            let x = b.offset(x, -(left as i64));
            let end = b.repeat(kh, &[y, to], |b, v| {
                let (y, to) = (v[0], v[1]);
                // Unsigned, so that negative rows are outside as well.
                let inside = b.ins().icmp_imm_u(IntCC::UnsignedLessThan, y, h as i64);
                b.branch(
                    inside,
                    |b| {
                        let row = b.index(input, y, (w * c) as i64);
                        let each = |b: &mut Fb<'_>| {
                            b.repeat(kw, &[x, to], |b, v| {
                                let inside = b.ins().icmp_imm_u(IntCC::UnsignedLessThan, v[0], w as i64);
                                b.branch(
                                    inside,
                                    |b| {
                                        let from = b.index(row, v[0], c as i64);
                                        b.copy(from, v[1], cg);
                                        vec![]
                                    },
                                    |b| {
                                        b.fill(v[1], cg, zero);
                                        vec![]
                                    },
                                );
                                vec![b.offset(v[0], dx as i64), b.offset(v[1], cg as i64)]
                            });
                            vec![]
                        };
                        if contiguous && w >= kw {
                            let room = (w - kw + 1) as i64;
                            let inside = b.ins().icmp_imm_u(IntCC::UnsignedLessThan, x, room);
                            b.branch(
                                inside,
                                |b| {
                                    let from = b.index(row, x, c as i64);
                                    b.copy(from, to, kw * cg);
                                    vec![]
                                },
                                each,
                            );
                        } else {
                            each(b);
                        }
                        vec![]
                    },
                    |b| {
                        b.fill(to, kw * cg, zero);
                        vec![]
                    },
                );
                vec![b.offset(y, dy as i64), b.offset(to, (kw * cg) as i64)]
            });
            b.fill(end[1], tail, [0; 8]);
            b.ins().return_(&[]);
            Ok(())
        })
    }
}

impl ConvSpec {
    /// Bytes from one result pixel to the next.
    pub(super) const fn result(&self) -> i64 {
        self.pitch as i64
    }

    /// Geometry of tiles that read the tensor.
    fn in_place(&self, plan: &GemmPlan) -> Geometry {
        let [_, _, w, c] = self.input;
        let row = (self.window.dilation[0] * w * c) as i64;
        let pixel = (self.window.stride[1] * c) as i64;
        self.geometry(plan, pixel, self.result(), [self.kernel[0], self.kernel[1] * c], row)
    }

    /// Geometry of tiles that read the panel and write along a row or down a column.
    fn in_panel(&self, plan: &GemmPlan, down: bool) -> Geometry {
        let step = if down { self.out[1] as i64 * self.result() } else { self.result() };
        self.geometry(plan, plan.k as i64, step, [1, plan.k], plan.k as i64)
    }

    fn geometry(
        &self,
        plan: &GemmPlan,
        pixel: i64,
        result: i64,
        [rows, run]: [usize; 2],
        row: i64,
    ) -> Geometry {
        // Without a uniform shift the shifts are among the epilogue constants.
        let (shift, round) = match plan.lanes.first() {
            Some(lane) if plan.scheme == Scheme::Uniform => (lane.shift, lane.round),
            _ => (32, 0),
        };
        Geometry { pixel, result, rows, run, row, shift, round, output: self.output }
    }
}
