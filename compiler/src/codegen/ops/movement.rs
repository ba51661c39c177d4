//! Operators that only move data: Concat, Slice, Pad, Transpose, nearest-neighbour resizing, copies.
use crate::{
    Result,
    codegen::{
        builder::{Dim, Fb, merge_dims},
        emitter::{Emitter, Level},
    },
};
use cranelift_codegen::ir::{InstBuilder, Value, types::*};
use cranelift_module::{FuncId, Linkage, Module};
use goshawk_ir::{
    DType, Shape,
    op::{
        float::Slice,
        int::{Pad, ResizeNearest},
    },
};

/// One block of elements, read and written with its own byte strides from its own first byte.
struct Block {
    shape: Vec<usize>,
    from: (i64, Vec<i64>),
    to: (i64, Vec<i64>),
}

impl Block {
    fn emit(&self, b: &mut Fb<'_>, dtype: DType, input: Value, out: Value) {
        let size = dtype.bytes(1) as i64;
        let dims = (0..self.shape.len())
            .map(|i| Dim { count: self.shape[i], strides: vec![self.from.1[i], self.to.1[i]] })
            .collect();
        let mut dims = merge_dims(dims);
        // A contiguous innermost dimension is copied as bytes.
        let bytes = match dims.last() {
            Some(d) if d.strides == [size, size] => {
                let bytes = d.count * size as usize;
                dims.pop();
                bytes
            }
            _ => size as usize,
        };
        let pointers = [b.offset(input, self.from.0), b.offset(out, self.to.0)];
        b.nest(&dims, &pointers, &mut |b, p| b.copy(p[0], p[1], bytes));
    }
}

fn byte_strides(shape: &Shape, dtype: DType) -> Vec<i64> {
    shape.strides().iter().map(|s| (s * dtype.bytes(1)) as i64).collect()
}

/// (x, result): the same bytes.
pub(crate) fn copy<M: Module>(em: &mut Emitter<M>, name: &str, bytes: usize) -> Result<FuncId> {
    em.function(name, Linkage::Local, Level::Speed, 2, &[], |_, b, p| {
        b.copy(p[0], p[1], bytes);
        b.ins().return_(&[]);
        Ok(())
    })
}

/// (operands…, result).
pub(crate) fn concat<M: Module>(
    em: &mut Emitter<M>,
    name: &str,
    axis: usize,
    operands: &[Shape],
    shape: &Shape,
    dtype: DType,
) -> Result<FuncId> {
    let to = byte_strides(shape, dtype);
    em.function(name, Linkage::Local, Level::Speed, operands.len() + 1, &[], |_, b, p| {
        let mut start = 0;
        for (operand, x) in operands.iter().zip(p) {
            let from = byte_strides(operand, dtype);
            let block =
                Block { shape: operand.to_vec(), from: (0, from), to: (start as i64 * to[axis], to.clone()) };
            block.emit(b, dtype, *x, p[operands.len()]);
            start += operand[axis];
        }
        b.ins().return_(&[]);
        Ok(())
    })
}

/// (x, result).
pub(crate) fn slice<M: Module>(
    em: &mut Emitter<M>,
    name: &str,
    slice: &Slice,
    operand: &Shape,
    shape: &Shape,
    dtype: DType,
) -> Result<FuncId> {
    let strides = byte_strides(operand, dtype);
    let first = slice.start.iter().zip(&strides).map(|(s, st)| *s as i64 * st).sum();
    let from = slice.step.iter().zip(&strides).map(|(step, st)| step * st).collect();
    one(
        em,
        name,
        dtype,
        Block { shape: shape.to_vec(), from: (first, from), to: (0, byte_strides(shape, dtype)) },
    )
}

/// (x, result).
pub(crate) fn transpose<M: Module>(
    em: &mut Emitter<M>,
    name: &str,
    perm: &[usize],
    operand: &Shape,
    shape: &Shape,
    dtype: DType,
) -> Result<FuncId> {
    let strides = byte_strides(operand, dtype);
    let from = perm.iter().map(|p| strides[*p]).collect();
    one(
        em,
        name,
        dtype,
        Block { shape: shape.to_vec(), from: (0, from), to: (0, byte_strides(shape, dtype)) },
    )
}

fn one<M: Module>(em: &mut Emitter<M>, name: &str, dtype: DType, block: Block) -> Result<FuncId> {
    em.function(name, Linkage::Local, Level::Speed, 2, &[], |_, b, p| {
        block.emit(b, dtype, p[0], p[1]);
        b.ins().return_(&[]);
        Ok(())
    })
}

/// (x, result): the whole result is filled, then the operand copied into it.
pub(crate) fn pad<M: Module>(
    em: &mut Emitter<M>,
    name: &str,
    pad: &Pad,
    operand: &Shape,
    shape: &Shape,
    dtype: DType,
) -> Result<FuncId> {
    let to = byte_strides(shape, dtype);
    let first = pad.before.iter().zip(&to).map(|(n, st)| *n as i64 * st).sum();
    let block = Block { shape: operand.to_vec(), from: (0, byte_strides(operand, dtype)), to: (first, to) };
    let pattern = match dtype {
        DType::U8 => [pad.value as u8; 8],
        _ => {
            let [a, b] = (pad.value as i16).to_le_bytes();
            [a, b, a, b, a, b, a, b]
        }
    };
    em.function(name, Linkage::Local, Level::Speed, 2, &[], |_, b, p| {
        b.fill(p[1], dtype.bytes(shape.count()), pattern);
        block.emit(b, dtype, p[0], p[1]);
        b.ins().return_(&[]);
        Ok(())
    })
}

/// (x, result): byte offsets of rows and columns come from tables.
pub(crate) fn resize_nearest<M: Module>(
    em: &mut Emitter<M>,
    name: &str,
    resize: &ResizeNearest,
    [n, h, w, c]: [usize; 4],
    dtype: DType,
) -> Result<FuncId> {
    let pixel = c * dtype.bytes(1);
    let table = |indices: &[usize], stride: usize| -> Vec<u8> {
        indices.iter().flat_map(|i| ((i * stride) as i64).to_le_bytes()).collect()
    };
    let rows = em.rodata(&format!("{name}_rows"), table(&resize.rows, w * pixel))?;
    let columns = em.rodata(&format!("{name}_columns"), table(&resize.columns, pixel))?;
    em.function(name, Linkage::Local, Level::Speed, 2, &[], |em, b, p| {
        let (rows, columns) = (em.address(b, rows), em.address(b, columns));
        b.repeat(n, &[p[0], p[1]], |b, image| {
            let end = b.repeat(resize.rows.len(), &[rows, image[1]], |b, v| {
                let offset = b.load(I64, v[0], 0);
                let row = b.ins().iadd(image[0], offset);
                let end = b.repeat(resize.columns.len(), &[columns, v[1]], |b, v| {
                    let offset = b.load(I64, v[0], 0);
                    let from = b.ins().iadd(row, offset);
                    b.copy(from, v[1], pixel);
                    vec![b.offset(v[0], 8), b.offset(v[1], pixel as i64)]
                });
                vec![b.offset(v[0], 8), end[1]]
            });
            vec![b.offset(image[0], (h * w * pixel) as i64), end[1]]
        });
        b.ins().return_(&[]);
        Ok(())
    })
}
