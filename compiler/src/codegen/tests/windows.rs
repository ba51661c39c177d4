//! Pools.
use super::*;
use goshawk_ir::op::{int::AvgPool, window::PoolWindow};

fn windows() -> Vec<PoolWindow> {
    let base = PoolWindow {
        kernel: [2, 2],
        stride: [2, 2],
        pads: [0; 4],
        dilation: [1, 1],
        ceil_mode: false,
        count_include_pad: false,
    };
    vec![
        base.clone(),
        PoolWindow { ceil_mode: true, ..base.clone() },
        PoolWindow { kernel: [3, 3], pads: [1; 4], ..base.clone() },
        PoolWindow {
            kernel: [3, 3],
            stride: [1, 2],
            pads: [1, 0, 1, 2],
            count_include_pad: true,
            ..base.clone()
        },
        PoolWindow { kernel: [3, 2], stride: [1, 1], dilation: [2, 2], pads: [1, 1, 0, 0], ..base.clone() },
        PoolWindow { ceil_mode: true, count_include_pad: true, kernel: [3, 3], pads: [1, 1, 1, 1], ..base },
        PoolWindow::global(5, 6),
    ]
}

#[test]
fn pools() {
    let mut rng = Rng(31);
    for w in windows() {
        for c in [3, 20] {
            let [oh, ow] = w.out_size([5, 6]).expect("fits");
            let (from, to) = ([2, 5, 6, c], [2, oh, ow, c]);
            for x in [u8_type(&from, 40, 8), i16_type(&from)] {
                let out = TensorType { shape: shape(&to), ..x.clone() };
                check(&single(IntOp::MaxPool(w.clone()), std::slice::from_ref(&x), &[], out), &mut rng);
                for out in [u8_type(&to, 9, 8), i16_type(&to)] {
                    let ratio = match (x.dtype, out.dtype) {
                        (DType::U8, DType::I16) => 90.0,
                        (DType::I16, DType::U8) => 0.005,
                        _ => 0.9,
                    };
                    let cells = w.kernel[0] * w.kernel[1];
                    let mult =
                        (1..=cells).map(|n| Dyadic::from_f64(ratio / n as f64).expect("in range")).collect();
                    let op = IntOp::AvgPool(AvgPool { window: w.clone(), requant: requant(&out, mult) });
                    check(&single(op, std::slice::from_ref(&x), &[], out), &mut rng);
                }
            }
        }
    }
}
