//! Softmax and bilinear resizing: integer arithmetic that is neither a dot product nor a rescaling.
use crate::{
    Result,
    codegen::emitter::{Emitter, Level},
};
use cranelift_codegen::ir::{InstBuilder, Value, condcodes::IntCC, types::*};
use cranelift_module::{FuncId, Linkage, Module};
use goshawk_ir::{
    DType, Shape,
    op::int::{ResizeLinear, Tap},
};

/// (x u8, table i32, result i16): the maximum, the sum of the exponentials, then one division for each element.
pub(crate) fn softmax<M: Module>(em: &mut Emitter<M>, name: &str, shape: &Shape) -> Result<FuncId> {
    let len = shape.last().copied().unwrap_or(1);
    let rows = shape.count() / len;
    em.function(name, Linkage::Local, Level::Speed, 3, &[], |_, b, p| {
        let table = p[1];
        b.repeat(rows, &[p[0], p[2]], |b, row| {
            let zero = b.int(I32, 0);
            let top = b.repeat(len, &[row[0], zero], |b, v| {
                let x = b.load_i32(DType::U8, v[0], 0);
                let more = b.ins().icmp(IntCC::SignedGreaterThan, x, v[1]);
                vec![b.offset(v[0], 1), b.ins().select(more, x, v[1])]
            })[1];
            let exponential = |b: &mut crate::codegen::builder::Fb<'_>, x: Value| {
                let x = b.load_i32(DType::U8, x, 0);
                let below = b.ins().isub(top, x);
                let below = b.ins().uextend(I64, below);
                let entry = b.index(table, below, 4);
                let e = b.load(I32, entry, 0);
                b.ins().sextend(I64, e)
            };
            let zero = b.int(I64, 0);
            let sum = b.repeat(len, &[row[0], zero], |b, v| {
                let e = exponential(b, v[0]);
                vec![b.offset(v[0], 1), b.ins().iadd(v[1], e)]
            })[1];
            let half = b.ins().ushr_imm_u(sum, 1);
            b.repeat(len, &[row[0], row[1]], |b, v| {
                let e = exponential(b, v[0]);
                let e = b.ins().ishl_imm_u(e, 15);
                let e = b.ins().iadd(e, half);
                let q = b.ins().udiv(e, sum);
                let q = b.ins().ireduce(I32, q);
                let q = b.clamp_scalar(q, 0, 32767);
                b.store_i32(DType::I16, q, v[1], 0);
                vec![b.offset(v[0], 1), b.offset(v[1], 2)]
            })
        });
        b.ins().return_(&[]);
        Ok(())
    })
}

/// (x u8, result u8): for each output pixel the byte offsets and weights of two rows and two columns come from tables.
pub(crate) fn resize_linear<M: Module>(
    em: &mut Emitter<M>,
    name: &str,
    resize: &ResizeLinear,
    [n, h, w, c]: [usize; 4],
) -> Result<FuncId> {
    let table = |taps: &[Tap], stride: usize| -> Vec<u8> {
        taps.iter()
            .flat_map(|t| [(t.low * stride) as i64, (t.high * stride) as i64, i64::from(t.weight)])
            .flat_map(i64::to_le_bytes)
            .collect()
    };
    let rows = em.rodata(&format!("{name}_rows"), table(&resize.rows, w * c))?;
    let columns = em.rodata(&format!("{name}_columns"), table(&resize.columns, c))?;
    em.function(name, Linkage::Local, Level::Speed, 2, &[], |em, b, p| {
        let (rows, columns) = (em.address(b, rows), em.address(b, columns));
        b.repeat(n, &[p[0], p[1]], |b, image| {
            let end = b.repeat(resize.rows.len(), &[rows, image[1]], |b, v| {
                let lines = [0, 8].map(|at| {
                    let offset = b.load(I64, v[0], at);
                    b.ins().iadd(image[0], offset)
                });
                let row_weights = pair(b, v[0]);
                let end = b.repeat(resize.columns.len(), &[columns, v[1]], |b, v| {
                    let offsets = [0, 8].map(|at| b.load(I64, v[0], at));
                    let column_weights = pair(b, v[0]);
                    // Corners in the order low/low, low/high, high/low, high/high.
                    let corners: Vec<(Value, Value)> = (0..4)
                        .map(|i| {
                            let p = b.ins().iadd(lines[i / 2], offsets[i % 2]);
                            let weight = b.ins().imul(row_weights[i / 2], column_weights[i % 2]);
                            (p, b.ins().ireduce(I32, weight))
                        })
                        .collect();
                    let pointers: Vec<Value> = corners.iter().map(|c| c.0).chain([v[1]]).collect();
                    let splats: Vec<Value> = corners.iter().map(|c| b.ins().splat(I32X4, c.1)).collect();
                    let end = b.repeat(c / 8, &pointers, |b, v| {
                        let mut sums = [b.lanes(I32X4, 1 << 21); 2];
                        for i in 0..4 {
                            let x = b.load_u8x8(v[i], 0);
                            let wide = [b.ins().swiden_low(x), b.ins().swiden_high(x)];
                            for half in 0..2 {
                                let product = b.ins().imul(wide[half], splats[i]);
                                sums[half] = b.ins().iadd(sums[half], product);
                            }
                        }
                        let amount = b.int(I32, 22);
                        let sums = sums.map(|s| b.ins().sshr(s, amount));
                        let packed = b.ins().snarrow(sums[0], sums[1]);
                        let packed = b.ins().unarrow(packed, packed);
                        b.store_part(packed, v[4], 0, 8);
                        v.iter().map(|p| b.offset(*p, 8)).collect()
                    });
                    let end = b.repeat(c % 8, &end, |b, v| {
                        let mut sum = b.int(I32, 1 << 21);
                        for i in 0..4 {
                            let x = b.load_i32(DType::U8, v[i], 0);
                            let product = b.ins().imul(x, corners[i].1);
                            sum = b.ins().iadd(sum, product);
                        }
                        let value = b.ins().sshr_imm_u(sum, 22);
                        b.store_i32(DType::U8, value, v[4], 0);
                        v.iter().map(|p| b.offset(*p, 1)).collect()
                    });
                    vec![b.offset(v[0], 24), end[4]]
                });
                vec![b.offset(v[0], 24), end[1]]
            });
            vec![b.offset(image[0], (h * w * c) as i64), end[1]]
        });
        b.ins().return_(&[]);
        Ok(())
    })
}

/// Weights of the low and the high tap of a table entry.
fn pair(b: &mut crate::codegen::builder::Fb<'_>, entry: Value) -> [Value; 2] {
    let high = b.load(I64, entry, 16);
    let one = b.int(I64, 2048);
    [b.ins().isub(one, high), high]
}
