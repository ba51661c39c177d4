//! Add, Mul and Requant with broadcasting, and table look-up.
//!
//! Operands are walked as a loop nest whose dimensions are merged where nobody broadcasts. Along the innermost one an
//! assembled kernel runs where the target has one and the layer's scales are proven exact for it. Otherwise
//! eight elements at a time are widened to i16, made x̂ by subtracting the zero point, and computed as two i32x4;
//! the rest, and layers whose scale ratios do not allow it, run element by element in 64-bit registers.
use super::rescale::{self, Lane, Output, Scheme};
use crate::{
    Error, Result,
    codegen::{
        builder::{Dim, Fb, merge_dims},
        emitter::{Emitter, Level},
        ops::edge::{self, Leaf},
        parallel::LayerFn,
    },
    ukernel::edge as kernels,
};
use cranelift_codegen::ir::{InstBuilder, Value, types::*};
use cranelift_module::{Linkage, Module};
use goshawk_ir::{DType, Dyadic, Requant, Shape, op::int::Add};

/// An operand: type, zero point and shape.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub dtype: DType,
    pub zero_point: i32,
    pub shape: Shape,
}

impl Source {
    /// Largest |x̂|.
    fn bound(&self) -> i64 {
        match self.dtype {
            DType::U8 => 255,
            _ => 1 << 15,
        }
    }

    fn load8(&self, b: &mut Fb<'_>, pointer: Value, stride: i64) -> [Value; 2] {
        let x = match (self.dtype, stride) {
            (_, 0) => {
                let x = b.load_i32(self.dtype, pointer, 0);
                let x = b.ins().ireduce(I16, x);
                b.ins().splat(I16X8, x)
            }
            (DType::U8, _) => b.load_u8x8(pointer, 0),
            _ => b.load(I16X8, pointer, 0),
        };
        let [low, high] = [b.ins().swiden_low(x), b.ins().swiden_high(x)];
        let zero_point = i64::from(self.zero_point);
        [low, high].map(|x| {
            if zero_point == 0 {
                return x;
            }
            let zp = b.lanes(I32X4, zero_point);
            b.ins().isub(x, zp)
        })
    }

    fn load1(&self, b: &mut Fb<'_>, pointer: Value) -> Value {
        let x = b.load_i32(self.dtype, pointer, 0);
        b.offset(x, -i64::from(self.zero_point))
    }
}

/// What is computed from the operands' x̂.
#[derive(Clone, Debug)]
enum Formula {
    Requant(Dyadic),
    Mul(Dyadic),
    Add { a: Dyadic, b: Dyadic, subtract: bool },
}

impl Formula {
    /// Constants of the vector form, if it is exact for these operands.
    fn lanes(&self, sources: &[Source]) -> Option<Vec<Lane>> {
        let one = |d: Dyadic, bound: i64| {
            let (scheme, lanes) = rescale::prepare(&[(d.mult, d.shift)], &[bound]);
            (scheme == Scheme::Uniform).then(|| lanes[0])
        };
        match self {
            Self::Requant(d) => Some(vec![one(*d, sources[0].bound())?]),
            Self::Mul(d) => Some(vec![one(*d, sources[0].bound() * sources[1].bound())?]),
            // Twice the bound, so that the sum of both terms is an i32 as well.
            Self::Add { a, b, .. } => {
                Some(vec![one(*a, 2 * sources[0].bound())?, one(*b, 2 * sources[1].bound())?])
            }
        }
    }

    fn vector(&self, b: &mut Fb<'_>, x: &[Value], lanes: &[Lane]) -> Value {
        match self {
            Self::Requant(_) => b.rescale4(x[0], lanes[0]),
            Self::Mul(_) => {
                let z = b.ins().imul(x[0], x[1]);
                b.rescale4(z, lanes[0])
            }
            Self::Add { subtract, .. } => {
                let (x, y) = (b.rescale4(x[0], lanes[0]), b.rescale4(x[1], lanes[1]));
                if *subtract { b.ins().isub(x, y) } else { b.ins().iadd(x, y) }
            }
        }
    }

    fn scalar(&self, b: &mut Fb<'_>, x: &[Value]) -> Value {
        match self {
            Self::Requant(d) => b.rescale1(x[0], *d),
            Self::Mul(d) => {
                let z = b.ins().imul(x[0], x[1]);
                b.rescale1(z, *d)
            }
            Self::Add { a, b: second, subtract } => {
                let (x, y) = (b.rescale1(x[0], *a), b.rescale1(x[1], *second));
                if *subtract { b.ins().isub(x, y) } else { b.ins().iadd(x, y) }
            }
        }
    }
}

/// (a, b, result).
pub(crate) fn add<M: Module>(
    em: &mut Emitter<M>,
    name: &str,
    add: &Add,
    sources: &[Source],
    shape: &Shape,
    output: Output,
) -> Result<LayerFn> {
    let formula = Formula::Add { a: add.a, b: add.b, subtract: add.subtract };
    map(em, name, &formula, sources, shape, output)
}

/// (a, b, result).
pub(crate) fn mul<M: Module>(
    em: &mut Emitter<M>,
    name: &str,
    requant: &Requant,
    sources: &[Source],
    shape: &Shape,
    output: Output,
) -> Result<LayerFn> {
    map(em, name, &Formula::Mul(requant.dyadic(0)), sources, shape, output)
}

/// (x, result).
pub(crate) fn requant<M: Module>(
    em: &mut Emitter<M>,
    name: &str,
    requant: &Requant,
    sources: &[Source],
    shape: &Shape,
    output: Output,
) -> Result<LayerFn> {
    map(em, name, &Formula::Requant(requant.dyadic(0)), sources, shape, output)
}

fn map<M: Module>(
    em: &mut Emitter<M>,
    name: &str,
    formula: &Formula,
    sources: &[Source],
    shape: &Shape,
    output: Output,
) -> Result<LayerFn> {
    let out_bytes = output.dtype.bytes(1) as i64;
    let mut strides = Vec::new();
    for s in sources {
        strides.push(s.shape.broadcast_strides(shape).map_err(|e| Error::internal(&e))?);
    }
    let own = shape.strides();
    let dims = (0..shape.rank()).map(|i| {
        let mut all: Vec<i64> =
            sources.iter().zip(&strides).map(|(s, st)| (st[i] * s.dtype.bytes(1)) as i64).collect();
        all.push(own[i] as i64 * out_bytes);
        Dim { count: shape[i], strides: all }
    });
    let mut dims = merge_dims(dims.collect());
    let inner = dims.pop().unwrap_or(Dim { count: 1, strides: vec![0; sources.len() + 1] });
    let n = sources.len();
    if let Some(leaf) = leaf(em, formula, sources, &inner, output)? {
        return by_leaf(em, name, n, leaf, &dims, &inner);
    }
    let lanes = formula.lanes(sources);
    let id = em.function(name, Linkage::Local, Level::Speed, n + 1, &[], |_, b, p| {
        b.nest(&dims, p, &mut |b, p| {
            let vectors = if lanes.is_some() { inner.count / 8 } else { 0 };
            let end = b.repeat(vectors, p, |b, v| {
                let lanes = lanes.as_deref().unwrap_or_default();
                let x: Vec<[Value; 2]> =
                    (0..n).map(|i| sources[i].load8(b, v[i], inner.strides[i])).collect();
                let zero_point = b.lanes(I32X4, i64::from(output.zero_point));
                let values: Vec<Value> = (0..2)
                    .map(|half| {
                        let x: Vec<Value> = x.iter().map(|x| x[half]).collect();
                        let value = formula.vector(b, &x, lanes);
                        b.ins().iadd(value, zero_point)
                    })
                    .collect();
                let packed = b.narrow(&values, output);
                b.store_part(packed[0], v[n], 0, 8 * out_bytes as usize);
                v.iter().zip(&inner.strides).map(|(p, s)| b.offset(*p, 8 * s)).collect()
            });
            b.repeat(inner.count - 8 * vectors, &end, |b, v| {
                let x: Vec<Value> = (0..n).map(|i| sources[i].load1(b, v[i])).collect();
                let rescaled = formula.scalar(b, &x);
                let value = b.finish1(rescaled, output);
                b.store_i32(output.dtype, value, v[n], 0);
                v.iter().zip(&inner.strides).map(|(p, s)| b.offset(*p, *s)).collect()
            });
        });
        b.ins().return_(&[]);
        Ok(())
    })?;
    Ok(id.into())
}

/// The layer by an assembled kernel of its innermost dimension. Threads share that, or else the outermost one.
fn by_leaf<M: Module>(
    em: &mut Emitter<M>,
    name: &str,
    n: usize,
    leaf: Leaf,
    dims: &[Dim],
    inner: &Dim,
) -> Result<LayerFn> {
    let Some((outer, rest)) = dims.split_first() else {
        return edge::blocks(em, name, n + 1, inner.count, |em, b, p, [first, count]| {
            let leaf = leaf.callee(em, b);
            let p: Vec<Value> = p.iter().zip(&inner.strides).map(|(p, s)| b.index(*p, first, *s)).collect();
            leaf.call(b, [p[0], p[n - 1], p[n]], count);
        });
    };
    let id = em.function(name, Linkage::Local, Level::Speed, n + 3, &[], |em, b, p| {
        let leaf = leaf.callee(em, b);
        let count = b.int(I64, inner.count as i64);
        let start: Vec<Value> =
            p.iter().zip(&outer.strides).map(|(q, s)| b.index(*q, p[n + 1], *s)).collect();
        b.repeat_range([p[n + 1], p[n + 2]], &start, |b, _, v| {
            b.nest(rest, v, &mut |b, p| leaf.call(b, [p[0], p[n - 1], p[n]], count));
            v.iter().zip(&outer.strides).map(|(p, s)| b.offset(*p, *s)).collect()
        });
        b.ins().return_(&[]);
        Ok(())
    })?;
    Ok(LayerFn::new(id, outer.count))
}

/// The assembled kernel of the innermost dimension, where there is one that is exact and worth its call.
fn leaf<M: Module>(
    em: &mut Emitter<M>,
    formula: &Formula,
    sources: &[Source],
    inner: &Dim,
    output: Output,
) -> Result<Option<Leaf>> {
    const WORTH_A_CALL: usize = 8;
    let (Some(simd), Some(grid)) = (edge::simd(&em.target), edge::grid(output.dtype)) else {
        return Ok(None);
    };
    if inner.count < WORTH_A_CALL {
        return Ok(None);
    }
    let operand = |(s, stride): (&Source, &i64)| {
        let splat = *stride == 0;
        edge::grid(s.dtype).map(|grid| kernels::Operand { grid, zero_point: s.zero_point, splat })
    };
    let Some(operands) = sources.iter().zip(&inner.strides).map(operand).collect::<Option<Vec<_>>>() else {
        return Ok(None);
    };
    let formula = match formula {
        Formula::Requant(d) => kernels::Formula::Requant(*d),
        Formula::Mul(d) => kernels::Formula::Mul(*d),
        Formula::Add { a, b, subtract: false } => kernels::Formula::Add(*a, *b),
        Formula::Add { a, b, subtract: true } => kernels::Formula::Subtract(*a, *b),
    };
    let clamp = (output.lo, output.hi);
    let map = kernels::Map { formula, operands, grid, zero_point: output.zero_point, clamp };
    if !map.exact() {
        return Ok(None);
    }
    Leaf::new(em, "map", map.assemble(simd), map.constants()).map(Some)
}

/// (x, table, result): table[channel or 0][x] for the innermost index as channel.
pub(crate) fn lut<M: Module>(
    em: &mut Emitter<M>,
    name: &str,
    shape: &Shape,
    tables: usize,
    output: DType,
) -> Result<LayerFn> {
    let bytes = output.bytes(1) as i64;
    let channels = if tables > 1 { tables } else { 1 };
    let rows = shape.count() / channels;
    if let (Some(simd), Some(grid), 1) = (edge::simd(&em.target), edge::grid(output), channels) {
        let kernel = kernels::Lut { grid };
        if kernel.exists(simd) {
            let leaf = Leaf::new(em, "lut", kernel.assemble(simd), Vec::new())?;
            return edge::blocks(em, name, 3, rows, |em, b, p, [first, count]| {
                let leaf = leaf.callee(em, b);
                let (from, to) = (b.index(p[0], first, 1), b.index(p[2], first, bytes));
                leaf.call(b, [from, p[1], to], count);
            });
        }
    }
    let id = em.function(name, Linkage::Local, Level::Speed, 3, &[], |_, b, p| {
        let table = p[1];
        let one = |b: &mut Fb<'_>, x: Value, table: Value, to: Value, at: i32| {
            let x = b.load_i32(DType::U8, x, at);
            let x = b.ins().uextend(I64, x);
            let entry = b.index(table, x, bytes);
            let value = b.load_i32(output, entry, 0);
            b.store_i32(output, value, to, at * bytes as i32);
        };
        if channels == 1 {
            const UNROLL: usize = 4;
            let end = b.repeat(rows / UNROLL, &[p[0], p[2]], |b, v| {
                for i in 0..UNROLL {
                    one(b, v[0], table, v[1], i as i32);
                }
                vec![b.offset(v[0], UNROLL as i64), b.offset(v[1], UNROLL as i64 * bytes)]
            });
            b.repeat(rows % UNROLL, &end, |b, v| {
                one(b, v[0], table, v[1], 0);
                vec![b.offset(v[0], 1), b.offset(v[1], bytes)]
            });
        } else {
            b.repeat(rows, &[p[0], p[2]], |b, v| {
                let end = b.repeat(channels, &[v[0], v[1], table], |b, v| {
                    one(b, v[0], v[2], v[1], 0);
                    vec![b.offset(v[0], 1), b.offset(v[1], bytes), b.offset(v[2], 256 * bytes)]
                });
                end[..2].to_vec()
            });
        }
        b.ins().return_(&[]);
        Ok(())
    })?;
    Ok(id.into())
}
