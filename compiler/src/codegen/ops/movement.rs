//! Operators that only move data: Concat, Slice, Pad, Transpose, nearest-neighbour resizing, copies.
//!
//! Rows of contiguous bytes are moved by assembled kernels with the target's widest vectors where it has them.
use crate::{
    Result,
    codegen::{
        builder::{Dim, Fb, merge_dims},
        emitter::{Emitter, Level},
        ops::edge::{self, Leaf},
        parallel::LayerFn,
    },
    ukernel::edge::Copy,
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

/// A block as a loop nest around runs of contiguous bytes.
struct Runs {
    dims: Vec<Dim>,
    bytes: usize,
    /// First bytes of operand and result.
    first: [i64; 2],
    /// The kernel and the rows of the innermost dimension.
    leaf: Option<(Leaf, Dim)>,
}

impl Block {
    fn runs<M: Module>(&self, em: &mut Emitter<M>, dtype: DType) -> Result<Runs> {
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
        let leaf = copy_leaf(em, &mut dims, bytes)?;
        Ok(Runs { dims, bytes, first: [self.from.0, self.to.0], leaf })
    }
}

/// The kernel for rows of `bytes` bytes, where it is worth a call; it takes the innermost dimension's rows.
fn copy_leaf<M: Module>(
    em: &mut Emitter<M>,
    dims: &mut Vec<Dim>,
    bytes: usize,
) -> Result<Option<(Leaf, Dim)>> {
    const WORTH_A_CALL: usize = 16;
    let Some(simd) = edge::simd(&em.target).filter(|_| bytes >= WORTH_A_CALL) else { return Ok(None) };
    let stride = |d: &Dim, i: usize| usize::try_from(d.strides[i]).ok().filter(|s| i32::try_from(*s).is_ok());
    let (rows, copy) = match dims.last().map(|d| (d.clone(), stride(d, 0), stride(d, 1))) {
        Some((rows, Some(from), Some(to))) => {
            dims.pop();
            (rows, Copy { bytes, from, to })
        }
        _ => (Dim { count: 1, strides: vec![0; 2] }, Copy { bytes, from: bytes, to: bytes }),
    };
    Ok(Some((Leaf::new(em, "copy", copy.assemble(simd), Vec::new())?, rows)))
}

impl Runs {
    /// The outermost loop, which threads can share.
    fn outer(&self) -> Option<&Dim> {
        self.dims.first().or(self.leaf.as_ref().map(|(_, rows)| rows))
    }

    /// Emits the loops; `range` is that of the outermost one, or all of it.
    fn emit<M: Module>(
        &self,
        em: &mut Emitter<M>,
        b: &mut Fb<'_>,
        [input, out]: [Value; 2],
        range: Option<[Value; 2]>,
    ) {
        let mut pointers = vec![b.offset(input, self.first[0]), b.offset(out, self.first[1])];
        if let (Some([begin, _]), Some(outer)) = (range, self.outer()) {
            pointers = pointers.iter().zip(&outer.strides).map(|(p, s)| b.index(*p, begin, *s)).collect();
        }
        let leaf = self.leaf.as_ref().map(|(leaf, rows)| {
            let count = match range {
                Some([begin, end]) if self.dims.is_empty() => b.ins().isub(end, begin),
                _ => b.int(I64, rows.count as i64),
            };
            (leaf.callee(em, b), count)
        });
        let mut body = |b: &mut Fb<'_>, p: &[Value]| match leaf {
            Some((leaf, rows)) => leaf.call(b, [p[0], p[0], p[1]], rows),
            None => b.copy(p[0], p[1], self.bytes),
        };
        match (range, self.dims.split_first()) {
            (Some(range), Some((outer, rest))) => {
                b.repeat_range(range, &pointers, |b, _, v| {
                    b.nest(rest, v, &mut body);
                    v.iter().zip(&outer.strides).map(|(p, s)| b.offset(*p, *s)).collect()
                });
            }
            _ => b.nest(&self.dims, &pointers, &mut body),
        }
    }
}

/// Defines the function that runs `all`, one for each of the operands or none, into the last pointer. Threads share the
/// outermost loops where these are as long for all.
fn function<M: Module>(em: &mut Emitter<M>, name: &str, all: &[Option<Runs>]) -> Result<LayerFn> {
    let counts: Vec<usize> = all.iter().flatten().map(|r| r.outer().map_or(1, |d| d.count)).collect();
    let units = match counts.first() {
        Some(n) if *n > 1 && counts.iter().all(|c| c == n) => *n,
        _ => 0,
    };
    let n = all.len();
    let params = if units > 0 { n + 3 } else { n + 1 };
    let id = em.function(name, Linkage::Local, Level::Speed, params, &[], |em, b, p| {
        let range = (units > 0).then(|| [p[n + 1], p[n + 2]]);
        for (runs, x) in all.iter().zip(p) {
            if let Some(runs) = runs {
                runs.emit(em, b, [*x, p[n]], range);
            }
        }
        b.ins().return_(&[]);
        Ok(())
    })?;
    Ok(LayerFn::new(id, units))
}

fn byte_strides(shape: &Shape, dtype: DType) -> Vec<i64> {
    shape.strides().iter().map(|s| (s * dtype.bytes(1)) as i64).collect()
}

/// (x, result): the same bytes.
pub(crate) fn copy<M: Module>(em: &mut Emitter<M>, name: &str, bytes: usize) -> Result<FuncId> {
    let runs = Block { shape: vec![bytes], from: (0, vec![1]), to: (0, vec![1]) }.runs(em, DType::U8)?;
    em.function(name, Linkage::Local, Level::Speed, 2, &[], |em, b, p| {
        runs.emit(em, b, [p[0], p[1]], None);
        b.ins().return_(&[]);
        Ok(())
    })
}

/// (operands…, result), each operand with whether it is in its place already.
pub(crate) fn concat<M: Module>(
    em: &mut Emitter<M>,
    name: &str,
    axis: usize,
    (operands, there): (&[Shape], &[bool]),
    shape: &Shape,
    dtype: DType,
) -> Result<LayerFn> {
    let to = byte_strides(shape, dtype);
    let (mut start, mut all) = (0, Vec::new());
    for operand in operands {
        let from = byte_strides(operand, dtype);
        let block =
            Block { shape: operand.to_vec(), from: (0, from), to: (start as i64 * to[axis], to.clone()) };
        all.push(if there[all.len()] { None } else { Some(block.runs(em, dtype)?) });
        start += operand[axis];
    }
    function(em, name, &all)
}

/// (x, result).
pub(crate) fn slice<M: Module>(
    em: &mut Emitter<M>,
    name: &str,
    slice: &Slice,
    operand: &Shape,
    shape: &Shape,
    dtype: DType,
) -> Result<LayerFn> {
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
) -> Result<LayerFn> {
    let strides = byte_strides(operand, dtype);
    let from = perm.iter().map(|p| strides[*p]).collect();
    one(
        em,
        name,
        dtype,
        Block { shape: shape.to_vec(), from: (0, from), to: (0, byte_strides(shape, dtype)) },
    )
}

fn one<M: Module>(em: &mut Emitter<M>, name: &str, dtype: DType, block: Block) -> Result<LayerFn> {
    let runs = block.runs(em, dtype)?;
    function(em, name, &[Some(runs)])
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
    let runs = block.runs(em, dtype)?;
    em.function(name, Linkage::Local, Level::Speed, 2, &[], |em, b, p| {
        b.fill(p[1], dtype.bytes(shape.count()), pattern);
        runs.emit(em, b, [p[0], p[1]], None);
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
