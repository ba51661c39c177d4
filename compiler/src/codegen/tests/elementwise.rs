//! Add, Mul, Requant, Lut, Softmax.
use super::*;
use crate::ukernel::{
    Grid,
    edge::{Lut, Simd},
};
use goshawk_ir::op::{
    float::NoAttrs,
    int::{Add, Rescale},
};

fn types(rng: &mut Rng, dims: &[usize]) -> [TensorType; 2] {
    [u8_type(dims, rng.range(0, 255), 8), i16_type(dims)]
}

#[test]
fn add_with_broadcasting() {
    let mut rng = Rng(11);
    for (a, b) in [
        (&[1, 3, 5, 7][..], &[1, 3, 5, 7][..]),
        (&[1, 4, 4, 16], &[16]),
        (&[2, 3, 3, 9], &[2, 1, 1, 9]),
        (&[2, 3, 4, 8], &[2, 3, 4, 1]),
        (&[1, 5], &[6, 1]),
        (&[1], &[1]),
    ] {
        for a_ty in types(&mut rng, a) {
            for b_ty in types(&mut rng, b) {
                let out_shape = a_ty.shape.broadcast(&b_ty.shape).expect("fits");
                for out in types(&mut rng, &out_shape) {
                    let q = out.quant.clone().expect("quantized");
                    let (lo, hi) = q.range(out.dtype);
                    let scale = |t: &TensorType| match (t.dtype, out.dtype) {
                        (DType::U8, DType::U8) | (DType::I16, DType::I16) => 0.6,
                        (DType::U8, _) => 80.0,
                        _ => 0.004,
                    };
                    let (da, db) = (rng.dyadic(scale(&a_ty)), rng.dyadic(scale(&b_ty)));
                    let subtract = rng.range(0, 1) == 1;
                    let op = IntOp::Add(Add { a: da, b: db, subtract, zero_point: q.zero_point, lo, hi });
                    check(&single(op, &[a_ty.clone(), b_ty.clone()], &[], out), &mut rng);
                }
            }
        }
    }
}

#[test]
fn multiplication_and_requantization() {
    let mut rng = Rng(12);
    for dims in [&[1, 4, 5, 11][..], &[3], &[2, 16]] {
        for out in types(&mut rng, dims) {
            let to = if out.dtype == DType::U8 { 0.003 } else { 0.4 };
            let [a, _] = types(&mut rng, dims);
            let last = [*dims.last().expect("rank")];
            let b = u8_type(&last, 11, 8);
            let op = IntOp::Mul(Rescale { requant: requant(&out, vec![rng.dyadic(to)]) });
            check(&single(op, &[a.clone(), b], &[], out.clone()), &mut rng);
            for x in types(&mut rng, dims) {
                for ratio in [1e-9, 1.0, 700.0, 1e6] {
                    let op = IntOp::Requant(Rescale { requant: requant(&out, vec![rng.dyadic(ratio)]) });
                    check(&single(op, std::slice::from_ref(&x), &[], out.clone()), &mut rng);
                }
            }
        }
    }
}

#[test]
fn tables() {
    let mut rng = Rng(13);
    for tables in [1, 5] {
        for (dtype, lo, hi) in [(DType::U8, 0, 255), (DType::I16, -32767, 32767)] {
            let dims = [2, 3, 5];
            let values = rng.ints(tables * 256, lo, hi);
            let table = Tensor::from_ints(dtype, shape(&[tables, 256]), &values).expect("fits");
            let out = if dtype == DType::U8 { u8_type(&dims, 0, 8) } else { i16_type(&dims) };
            check(&single(IntOp::Lut(NoAttrs {}), &[u8_type(&dims, 7, 8)], &[(table, None)], out), &mut rng);
        }
    }
}

/// Levels above those of this machine too: what is in the object.
#[test]
fn every_level_has_its_kernel_of_tables() {
    let mut rng = Rng(15);
    let table = Tensor::from_ints(DType::U8, shape(&[1, 256]), &rng.ints(256, 0, 255)).expect("fits");
    let dims = [2, 3, 5];
    let graph =
        single(IntOp::Lut(NoAttrs {}), &[u8_type(&dims, 7, 8)], &[(table, None)], u8_type(&dims, 0, 8));
    let kernels = [Simd::Avx2, Simd::Avx512, Simd::Vbmi]
        .map(|simd| Lut { grid: Grid::U8 }.assemble(simd).expect("assembles"));
    for (cpu, wanted) in [("x86-64-v3", 0), ("avx512vnni", 1), ("x86-64-v4+avx512vbmi", 2), ("avx512vbmi", 2)]
    {
        let options = options(X64, cpu);
        let memory = crate::codegen::arena(&graph, &options).expect("plan");
        let bytes = object(&graph, &memory, &options).expect("object").bytes;
        for (i, kernel) in kernels.iter().enumerate() {
            let found = bytes.windows(kernel.len()).any(|w| w == kernel);
            assert_eq!(found, i == wanted, "{cpu}: kernel {i}");
        }
    }
}

#[test]
fn softmax() {
    let mut rng = Rng(14);
    let values: Vec<i32> =
        (0..256).map(|i| (f64::from(1 << 20) * (-0.05 * f64::from(i)).exp()) as i32).collect();
    let table = Tensor::from_ints(DType::I32, shape(&[256]), &values).expect("fits");
    for dims in [&[1, 10][..], &[3, 1], &[2, 2, 7]] {
        let mut out = i16_type(dims);
        out.quant = Some(QParams::per_tensor(2f32.powi(-15), 0, 16));
        let op = IntOp::Softmax(NoAttrs {});
        check(&single(op, &[u8_type(dims, 100, 8)], &[(table.clone(), None)], out), &mut rng);
    }
}
