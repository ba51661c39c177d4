//! Convolutions and linear layers.
use super::*;
use goshawk_ir::op::{
    int::{Conv, Linear},
    window::ConvWindow,
};

struct Case {
    input: [usize; 4],
    kernel: [usize; 2],
    channels: usize,
    window: ConvWindow,
    weights: DType,
    zero_point: i32,
    wide: bool,
    per_channel: bool,
}

const fn window(stride: usize, pad: usize, dilation: usize, groups: usize) -> ConvWindow {
    ConvWindow { stride: [stride; 2], pads: [pad; 4], dilation: [dilation; 2], groups }
}

const fn case(input: [usize; 4], k: usize, channels: usize, window: ConvWindow) -> Case {
    Case {
        input,
        kernel: [k, k],
        channels,
        window,
        weights: DType::I8,
        zero_point: 0,
        wide: false,
        per_channel: true,
    }
}

fn weights(rng: &mut Rng, dtype: DType, dims: &[usize]) -> (Tensor, Option<QParams>) {
    let (max, bits) = if dtype == DType::I4 { (7, 4) } else { (127, 8) };
    let s = shape(dims);
    let values = rng.ints(s.count(), -max, max);
    let scales = vec![0.01; dims[0]];
    (Tensor::from_ints(dtype, s, &values).expect("fits"), Some(QParams::per_channel(0, scales, bits)))
}

fn out_type(wide: bool, dims: &[usize]) -> TensorType {
    if wide { i16_type(dims) } else { u8_type(dims, 3, 8) }
}

fn run(rng: &mut Rng, case: &Case) {
    let [n, h, w, c] = case.input;
    let [kh, kw] = case.kernel;
    let x = u8_type(&case.input, case.zero_point, 8);
    let dims = [case.channels, kh, kw, c / case.window.groups];
    let w_const = weights(rng, case.weights, &dims);
    let bias = rng.ints(case.channels, -20000, 20000);
    let bias = Tensor::from_ints(DType::I32, shape(&[case.channels]), &bias).expect("fits");
    let [oh, ow] = case.window.out_size([h, w], case.kernel).expect("window");
    let out = out_type(case.wide, &[n, oh, ow, case.channels]);
    let k = (dims[1] * dims[2] * dims[3]) as f64;
    let spread = k.sqrt() * if case.weights == DType::I4 { 4.0 } else { 70.0 } * 100.0;
    let target = if case.wide { 20000.0 } else { 100.0 };
    let mult =
        (0..if case.per_channel { case.channels } else { 1 }).map(|_| rng.dyadic(target / spread)).collect();
    let op = IntOp::Conv(Conv { window: case.window.clone(), requant: requant(&out, mult) });
    let constants = [w_const, (bias, None)];
    check(&single(op, &[x], &constants, out), rng);
}

#[test]
fn dense_convolutions() {
    let mut rng = Rng(1);
    for input in [[1, 5, 7, 16], [2, 6, 4, 3], [1, 4, 4, 24], [1, 1, 9, 5]] {
        for (k, w) in [
            (1, window(1, 0, 1, 1)),
            (1, window(2, 0, 1, 1)),
            (3, window(1, 1, 1, 1)),
            (3, window(2, 1, 1, 1)),
            (3, window(1, 2, 2, 1)),
            (5, window(3, 2, 1, 1)),
        ] {
            for (channels, weights, wide) in
                [(8, DType::I8, false), (13, DType::I4, false), (19, DType::I8, true)]
            {
                let zero_point = rng.range(0, 255);
                let per_channel = rng.range(0, 1) == 0;
                if w.out_size([input[1], input[2]], [k, k]).is_err() {
                    continue;
                }
                run(
                    &mut rng,
                    &Case { weights, wide, zero_point, per_channel, ..case(input, k, channels, w.clone()) },
                );
            }
        }
    }
}

#[test]
fn grouped_and_depthwise_convolutions() {
    let mut rng = Rng(2);
    for (input, channels, groups) in [
        ([1, 6, 5, 8], 8, 2),
        ([2, 5, 5, 12], 6, 3),
        ([1, 7, 6, 19], 19, 19),
        ([1, 9, 8, 8], 16, 8),
        ([1, 5, 5, 32], 32, 32),
    ] {
        for (k, stride, pad, dilation) in
            [(3, 1, 1, 1), (3, 2, 1, 1), (3, 1, 2, 2), (5, 2, 2, 1), (1, 1, 0, 1)]
        {
            for (weights, wide) in [(DType::I8, false), (DType::I4, false), (DType::I8, true)] {
                let zero_point = rng.range(0, 255);
                let w = window(stride, pad, dilation, groups);
                run(&mut rng, &Case { weights, wide, zero_point, ..case(input, k, channels, w) });
            }
        }
    }
}

#[test]
fn uneven_windows() {
    let mut rng = Rng(3);
    let w = ConvWindow { stride: [2, 1], pads: [0, 3, 2, 1], dilation: [1, 2], groups: 1 };
    for channels in [4, 16] {
        let base = case([1, 6, 8, 16], 3, channels, w.clone());
        run(&mut rng, &Case { kernel: [2, 3], zero_point: 77, ..base });
    }
    // All of the window in the padding for some outputs.
    let w = ConvWindow { stride: [1, 1], pads: [4, 4, 4, 4], dilation: [1, 1], groups: 1 };
    run(&mut rng, &Case { zero_point: 9, ..case([1, 3, 3, 16], 3, 9, w.clone()) });
    run(&mut rng, &Case { zero_point: 9, ..case([1, 3, 3, 16], 3, 16, ConvWindow { groups: 16, ..w }) });
}

#[test]
fn extreme_values_and_scales() {
    let mut rng = Rng(4);
    for (c, channels) in [(16, 9), (512, 8)] {
        let x = u8_type(&[1, 1, 3, c], 0, 8);
        let dims = [channels, 1, 1, c];
        let (lowest, s) = (vec![-127; channels * c], shape(&dims));
        for values in [lowest.clone(), lowest.iter().map(|v| -v).collect(), rng.ints(channels * c, -1, 1)] {
            let quant = QParams::per_channel(0, vec![0.01; channels], 8);
            let w = Tensor::from_ints(DType::I8, s.clone(), &values).expect("fits");
            for bias in [0, 1 << 29, -(1 << 29)] {
                let bias =
                    Tensor::from_ints(DType::I32, shape(&[channels]), &vec![bias; channels]).expect("fits");
                for wide in [false, true] {
                    let out = out_type(wide, &[1, 1, 3, channels]);
                    // Far apart, so that one shift cannot serve all; then ratios above one half.
                    let spread = (0..channels)
                        .map(|i| Dyadic::from_f64(2f64.powi(-3 - 3 * i as i32)).expect("ok"))
                        .collect();
                    let large =
                        (0..channels).map(|i| Dyadic::from_f64(0.7 + 40.0 * i as f64).expect("ok")).collect();
                    for mult in [spread, large] {
                        let op =
                            IntOp::Conv(Conv { window: ConvWindow::unit(), requant: requant(&out, mult) });
                        let constants = [(w.clone(), Some(quant.clone())), (bias.clone(), None)];
                        check(&single(op, std::slice::from_ref(&x), &constants, out.clone()), &mut rng);
                    }
                }
            }
        }
    }
}

#[test]
fn linear_layers() {
    let mut rng = Rng(5);
    for (m, k, n) in [(1, 16, 10), (1, 37, 8), (3, 64, 17), (6, 5, 3)] {
        for weight in [DType::I8, DType::I4] {
            let x = u8_type(&[m, k], rng.range(0, 255), 8);
            let w = weights(&mut rng, weight, &[n, k]);
            let bias = Tensor::from_ints(DType::I32, shape(&[n]), &rng.ints(n, -9000, 9000)).expect("fits");
            let out = out_type(n % 2 == 0, &[m, n]);
            let mult = (0..n).map(|_| rng.dyadic(0.001)).collect();
            let op = IntOp::Linear(Linear { requant: requant(&out, mult) });
            check(&single(op, &[x], &[w, (bias, None)], out), &mut rng);
        }
    }
}
