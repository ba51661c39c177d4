//! The float entry point's edges: quantization of inputs and dequantization of outputs, with the change of layout
//! between ONNX's NCHW and NHWC. `goshawk_ir::quant` has the formulas.
//!
//! round_half_even(t) is (t + 1.5·2²³) − 1.5·2²³ in f32, for |t| < 2²²: one IEEE addition rounds to an integer, and no
//! library call is needed. The clamp comes first, so |t| ≤ 2¹⁶.
use crate::{
    Error, Result,
    codegen::{
        builder::{Dim, Fb, merge_dims},
        emitter::{Emitter, Level},
    },
};
use cranelift_codegen::ir::{InstBuilder, Value, condcodes::FloatCC, immediates::Ieee32, types::*};
use cranelift_module::{FuncId, Linkage, Module};
use goshawk_ir::{Layout, Shape, TensorType};

const MAGIC: f32 = 12_582_912.0;

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
) -> Result<FuncId> {
    let q = ty.qparams().map_err(|e| Error::internal(&e))?;
    let scale = q.tensor_scale().map_err(|e| Error::internal(&e))?;
    let (lo, hi) = q.range(ty.dtype);
    let (lo, hi) = ((lo - q.zero_point) as f32, (hi - q.zero_point) as f32);
    let (dims, dtype, zero_point) = (dims(ty, layout)?, ty.dtype, i64::from(q.zero_point));
    em.function(name, Linkage::Local, Level::Speed, 2, &[], |_, b, p| {
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
    })
}

/// (integer tensor, f32 tensor).
pub(crate) fn dequantize<M: Module>(
    em: &mut Emitter<M>,
    name: &str,
    ty: &TensorType,
    layout: Layout,
) -> Result<FuncId> {
    let q = ty.qparams().map_err(|e| Error::internal(&e))?;
    let scale = q.tensor_scale().map_err(|e| Error::internal(&e))?;
    let (dims, dtype, zero_point) = (dims(ty, layout)?, ty.dtype, i64::from(q.zero_point));
    em.function(name, Linkage::Local, Level::Speed, 2, &[], |_, b, p| {
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
    })
}
