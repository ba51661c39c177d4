//! The loop over output rows around assembled row kernels (`crate::ukernel::row`).
//!
//! For each row the caller's side makes a table of the addresses of the input rows under the window, where rows outside the
//! input are a constant row of cells that do not count, and calls the leaves. An output row may be divided into ranges
//! of columns with a leaf each, and rows into classes whose constants differ.
use super::tiles::Leaves;
use crate::{
    Result,
    codegen::{
        builder::Fb,
        emitter::{Emitter, Level, fail},
        parallel::LayerFn,
        target::Target,
    },
    ukernel::{Isa, row::MAX_KERNEL},
};
use cranelift_codegen::ir::{InstBuilder, StackSlotData, StackSlotKind, Value, condcodes::IntCC, types::I64};
use cranelift_module::{DataId, FuncId, Linkage, Module};

/// Geometry across rows.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    /// N, H, W, C of the input.
    pub input: [usize; 4],
    /// Rows and columns of the result.
    pub out: [usize; 2],
    /// Rows of the window, their distance, and the rows from one output to the next.
    pub kernel: usize,
    pub dilation: usize,
    pub stride: usize,
    /// Rows above the input.
    pub pad: usize,
    /// Cells of rows outside the input: two of one byte, or one of two.
    pub fill: [u8; 2],
    /// First output row of each class.
    pub classes: Vec<usize>,
}

/// A leaf for a range of output columns.
pub(crate) struct Range {
    pub leaf: FuncId,
    /// First output column.
    pub start: usize,
    /// Constants, those of the classes one behind the other, each of that many bytes.
    pub constants: DataId,
    pub class_bytes: usize,
}

/// The instruction set of a target's row kernels, if it has any.
pub(crate) fn isa(target: &Target) -> Option<Isa> {
    let has = |features: &[&str]| features.iter().all(|f| target.has(f));
    if has(&["avx512vnni", "avx512bw", "avx512dq", "avx512vl"]) {
        Some(Isa::Vnni512)
    } else {
        has(&["avx2"]).then_some(Isa::Avx2)
    }
}

/// The leaf with this code, shared by the layers of a model.
pub(crate) fn leaf<M: Module>(
    em: &mut Emitter<M>,
    leaves: &mut Leaves,
    kind: &str,
    code: Vec<u8>,
) -> Result<FuncId> {
    if let Some(id) = leaves.get(&code) {
        return Ok(*id);
    }
    let id = em.leaf(&format!("{kind}_{}", leaves.len()), 3, &[], &code)?;
    leaves.insert(code, id);
    Ok(id)
}

impl Rows {
    /// Whether some window leaves the input above or below.
    fn leaves_input(&self) -> bool {
        let last = (self.out[0] - 1) * self.stride + (self.kernel - 1) * self.dilation;
        self.pad > 0 || last >= self.input[1] + self.pad
    }

    /// Defines the layer's function: (input, result, range of output rows).
    pub fn define<M: Module>(&self, em: &mut Emitter<M>, name: &str, ranges: &[Range]) -> Result<LayerFn> {
        let [images, height, width, channels] = self.input;
        let row_bytes = width * channels;
        if ranges.is_empty() {
            return Err(fail(name, &"a row kernel without a range"));
        }
        let fill = match self.leaves_input() {
            true => Some(em.rodata("fill_row", self.fill.iter().copied().cycle().take(row_bytes).collect())?),
            false => None,
        };
        let id = em.function(name, Linkage::Local, Level::Speed, 4, &[], |em, b, p| {
            let fill = fill.map(|f| em.address(b, f));
            let ranges: Vec<_> =
                ranges.iter().map(|r| (em.callee(b, r.leaf), em.address(b, r.constants), r)).collect();
            let table = StackSlotData::new(StackSlotKind::ExplicitSlot, 8 * MAX_KERNEL as u32, 3);
            let table = b.create_sized_stack_slot(table);
            let table = b.ins().stack_addr(I64, table, 0);
            b.repeat_range([p[2], p[3]], &[], |b, index, _| {
                let (image, row) = split(b, index, images, self.out[0]);
                let input = b.index(p[0], image, (height * row_bytes) as i64);
                let top = b.ins().imul_imm_s(row, self.stride as i64);
                let top = b.offset(top, -(self.pad as i64));
                for k in 0..self.kernel {
                    let y = b.offset(top, (k * self.dilation) as i64);
                    let mut address = b.index(input, y, row_bytes as i64);
                    if let Some(fill) = fill {
                        let inside = b.ins().icmp_imm_u(IntCC::UnsignedLessThan, y, height as i64);
                        address = b.ins().select(inside, address, fill);
                    }
                    b.store(address, table, 8 * k as i32);
                }
                let out = b.index(p[1], index, (self.out[1] * channels) as i64);
                for (leaf, constants, range) in &ranges {
                    let class = self.class_offset(b, row, range.class_bytes);
                    let constants = class.map_or(*constants, |c| b.ins().iadd(*constants, c));
                    let out = b.offset(out, (range.start * channels) as i64);
                    b.ins().call(*leaf, &[table, constants, out]);
                }
                vec![]
            });
            b.ins().return_(&[]);
            Ok(())
        })?;
        Ok(LayerFn::new(id, images * self.out[0]))
    }

    /// Offset of the constants of a row's class.
    fn class_offset(&self, b: &mut Fb<'_>, row: Value, bytes: usize) -> Option<Value> {
        let (_, later) = self.classes.split_first()?;
        let mut offset = None;
        for (i, start) in later.iter().enumerate() {
            let own = b.int(I64, ((i + 1) * bytes) as i64);
            let before = offset.unwrap_or_else(|| b.int(I64, 0));
            let reached = b.ins().icmp_imm_u(IntCC::UnsignedGreaterThanOrEqual, row, *start as i64);
            offset = Some(b.ins().select(reached, own, before));
        }
        offset
    }
}

/// Image, and row in it, of a row of all images.
fn split(b: &mut Fb<'_>, row: Value, images: usize, rows: usize) -> (Value, Value) {
    if images == 1 {
        return (b.int(I64, 0), row);
    }
    let rows = b.int(I64, rows as i64);
    (b.ins().udiv(row, rows), b.ins().urem(row, rows))
}
