//! The float entry point's edges: quantization of inputs and dequantization of outputs, with the change of layout
//! between ONNX's NCHW and NHWC. `goshawk_ir::quant` has the formulas.
//!
//! On x86-64 with AVX2 or AVX-512 assembled kernels do it, up to four channels at a time; what they have no form for
//! (i16 inputs of several channels), and other targets, run element by element:
//! round_half_even(t) is (t + 1.5·2²³) − 1.5·2²³ in f32, for |t| < 2²²: one IEEE addition rounds to an integer, and no
//! library call is needed. The clamp comes first, so |t| ≤ 2¹⁶.
use crate::{
    Error, Result,
    codegen::{
        builder::{Dim, Fb, merge_dims},
        emitter::{Emitter, Level},
        ops::edge::{self, Callee, Leaf},
        parallel::LayerFn,
    },
    ukernel::{
        Grid,
        edge::{Dequantize, Quantize},
        rescale::MAGIC,
    },
};
use cranelift_codegen::ir::{InstBuilder, Value, condcodes::FloatCC, immediates::Ieee32, types::*};
use cranelift_module::{Linkage, Module};
use goshawk_ir::{Layout, Shape, TensorType};

/// Walks the integer tensor in its own order together with the f32 tensor: byte strides [integer, float].
fn dims(ty: &TensorType, layout: Layout) -> Result<Vec<Dim>> {
    let ints = ty.shape.strides();
    let floats = match layout {
        Layout::Same => ints.clone(),
        Layout::Nchw => {
            let [n, h, w, c] = ty.shape.dims4().map_err(|e| Error::internal(&e))?;
            let onnx = Shape::new([n, c, h, w]).map_err(|e| Error::internal(&e))?.strides();
            vec![onnx[0], onnx[2], onnx[3], onnx[1]]
        }
    };
    let size = ty.dtype.bytes(1);
    let dims = (0..ints.len())
        .map(|i| Dim { count: ty.shape[i], strides: vec![(ints[i] * size) as i64, (floats[i] * 4) as i64] })
        .collect();
    Ok(merge_dims(dims))
}

/// What the kernels walk: planes of `pixels` f32 beside pixels of `channels` elements.
struct Planes {
    images: usize,
    pixels: usize,
    channels: usize,
    grid: Grid,
}

impl Planes {
    fn new(ty: &TensorType, layout: Layout) -> Result<Option<Self>> {
        let Some(grid) = edge::grid(ty.dtype) else { return Ok(None) };
        let flat = Self { images: 1, pixels: ty.shape.count(), channels: 1, grid };
        Ok(Some(match layout {
            Layout::Same => flat,
            Layout::Nchw => {
                let [images, h, w, channels] = ty.shape.dims4().map_err(|e| Error::internal(&e))?;
                if h * w == 1 || channels == 1 {
                    flat
                } else {
                    Self { images, pixels: h * w, channels, grid }
                }
            }
        }))
    }

    /// (first channel, channels) of the passes, of at most `most` channels. The last one begins early enough to be
    /// whole: some channels are written twice.
    fn groups(&self, most: usize) -> Vec<(usize, usize)> {
        let size = self.channels.min(most);
        (0..self.channels).step_by(size).map(|first| (first.min(self.channels - size), size)).collect()
    }

    const fn pixel_bytes(&self) -> usize {
        self.channels * self.grid.bytes()
    }

    const fn plane_bytes(&self) -> usize {
        4 * self.pixels
    }

    /// The function (from, to) that calls the leaf for each image and group; `quantizing` says which side is planes.
    fn function<M: Module>(
        &self,
        em: &mut Emitter<M>,
        name: &str,
        leaf: Leaf,
        groups: &[(usize, usize)],
        quantizing: bool,
    ) -> Result<LayerFn> {
        let step = |planes: bool, channel: usize| {
            (channel * if planes { self.plane_bytes() } else { self.grid.bytes() }) as i64
        };
        let image = |planes: bool| {
            if planes { self.channels * self.plane_bytes() } else { self.pixels * self.pixel_bytes() }
        };
        let pixel = |planes: bool| if planes { 4 } else { self.pixel_bytes() };
        let sides = [quantizing, !quantizing];
        let walk = |b: &mut Fb<'_>, leaf: Callee, p: &[Value], count: Value| {
            for (first, _) in groups {
                let from = b.offset(p[0], step(sides[0], *first));
                let to = b.offset(p[1], step(sides[1], *first));
                leaf.call(b, [from, from, to], count);
            }
        };
        if self.images == 1 {
            return edge::blocks(em, name, 2, self.pixels, |em, b, p, [first, count]| {
                let leaf = leaf.callee(em, b);
                let p: Vec<Value> = (0..2).map(|i| b.index(p[i], first, pixel(sides[i]) as i64)).collect();
                walk(b, leaf, &p, count);
            });
        }
        let id = em.function(name, Linkage::Local, Level::Speed, 2, &[], |em, b, p| {
            let leaf = leaf.callee(em, b);
            let count = b.int(I64, self.pixels as i64);
            b.repeat(self.images, p, |b, v| {
                walk(b, leaf, v, count);
                (0..2).map(|i| b.offset(v[i], image(sides[i]) as i64)).collect()
            });
            b.ins().return_(&[]);
            Ok(())
        })?;
        Ok(id.into())
    }
}

fn float(b: &mut Fb<'_>, value: f32) -> Value {
    b.ins().f32const(Ieee32::with_float(value))
}

/// Rough time of either direction on one core, for the decision whether threads share it.
pub(crate) fn nanoseconds(ty: &TensorType) -> u64 {
    // One byte and one float; the layout change makes the accesses of one side strided.
    ty.shape.count() as u64
}

/// (f32 tensor, integer tensor).
pub(crate) fn quantize<M: Module>(
    em: &mut Emitter<M>,
    name: &str,
    ty: &TensorType,
    layout: Layout,
) -> Result<LayerFn> {
    let q = ty.qparams().map_err(|e| Error::internal(&e))?;
    let scale = q.tensor_scale().map_err(|e| Error::internal(&e))?;
    let (lo, hi) = q.range(ty.dtype);
    if let (Some(simd), Some(planes)) = (edge::simd(&em.target), Planes::new(ty, layout)?) {
        let groups = planes.groups(4);
        let kernel = Quantize {
            planes: groups.first().map_or(1, |g| g.1),
            plane_stride: planes.plane_bytes(),
            pixel: planes.pixel_bytes(),
            grid: planes.grid,
        };
        if kernel.exists() {
            let constants = kernel.constants(scale, q.zero_point, (lo, hi));
            let leaf = Leaf::new(em, "quantize", kernel.assemble(simd), constants)?;
            return planes.function(em, name, leaf, &groups, true);
        }
    }
    let (lo, hi) = ((lo - q.zero_point) as f32, (hi - q.zero_point) as f32);
    let (dims, dtype, zero_point) = (dims(ty, layout)?, ty.dtype, i64::from(q.zero_point));
    let id = em.function(name, Linkage::Local, Level::Speed, 2, &[], |_, b, p| {
        b.nest(&dims, &[p[1], p[0]], &mut |b, p| {
            let x = b.load(F32, p[1], 0);
            let reciprocal = float(b, 1.0 / scale);
            let t = b.ins().fmul(x, reciprocal);
            // NaN fails the comparison and becomes lo.
            let bound = float(b, lo);
            let above = b.ins().fcmp(FloatCC::GreaterThan, t, bound);
            let t = b.ins().select(above, t, bound);
            let bound = float(b, hi);
            let below = b.ins().fcmp(FloatCC::LessThan, t, bound);
            let t = b.ins().select(below, t, bound);
            let magic = float(b, MAGIC);
            let t = b.ins().fadd(t, magic);
            // The integer is in the low bits of the sum's significand.
            let bits = b.cast(I32, t);
            let q = b.offset(bits, zero_point - i64::from(MAGIC.to_bits()));
            b.store_i32(dtype, q, p[0], 0);
        });
        b.ins().return_(&[]);
        Ok(())
    })?;
    Ok(id.into())
}

/// (integer tensor, f32 tensor).
pub(crate) fn dequantize<M: Module>(
    em: &mut Emitter<M>,
    name: &str,
    ty: &TensorType,
    layout: Layout,
) -> Result<LayerFn> {
    let q = ty.qparams().map_err(|e| Error::internal(&e))?;
    let scale = q.tensor_scale().map_err(|e| Error::internal(&e))?;
    if let (Some(simd), Some(planes)) = (edge::simd(&em.target), Planes::new(ty, layout)?) {
        let groups = planes.groups(4 / planes.grid.bytes());
        let kernel = Dequantize {
            planes: groups.first().map_or(1, |g| g.1),
            plane_stride: planes.plane_bytes(),
            pixel: planes.pixel_bytes(),
            grid: planes.grid,
        };
        if kernel.exists() {
            let constants = kernel.constants(scale, q.zero_point);
            let leaf = Leaf::new(em, "dequantize", kernel.assemble(simd), constants)?;
            return planes.function(em, name, leaf, &groups, false);
        }
    }
    let (dims, dtype, zero_point) = (dims(ty, layout)?, ty.dtype, i64::from(q.zero_point));
    let id = em.function(name, Linkage::Local, Level::Speed, 2, &[], |_, b, p| {
        b.nest(&dims, p, &mut |b, p| {
            let q = b.load_i32(dtype, p[0], 0);
            let q = b.offset(q, -zero_point);
            let q = b.ins().fcvt_from_sint(F32, q);
            let scale = float(b, scale);
            let x = b.ins().fmul(scale, q);
            b.store(x, p[1], 0);
        });
        b.ins().return_(&[]);
        Ok(())
    })?;
    Ok(id.into())
}
