//! Convolutions, linear layers, pools.
use crate::net::{Net, expect_sqnr};
use goshawk_ir::{
    FloatOp, IntOp, Tensor, interp,
    op::{
        float::{BatchNorm, Clamp, Reduce},
        window::{ConvWindow, PoolWindow},
    },
};
use goshawk_passes::{
    bits::BitPlan,
    calibrate::{Calibrator, Method},
    lower::{Options, lower},
};

const RELU6: Clamp = Clamp { lo: 0.0, hi: 6.0 };

#[test]
fn convolutions_of_all_kinds() {
    let windows = [
        ConvWindow { stride: [2, 1], pads: [1, 0, 2, 1], ..ConvWindow::unit() },
        ConvWindow { dilation: [2, 2], pads: [2; 4], ..ConvWindow::unit() },
        ConvWindow { groups: 2, pads: [1; 4], ..ConvWindow::unit() },
        ConvWindow { groups: 8, pads: [1; 4], ..ConvWindow::unit() },
    ];
    for (seed, window) in windows.into_iter().enumerate() {
        let mut net = Net::new(seed as u64);
        let x = net.input(&[2, 8, 9, 11]);
        let y = net.conv_with(x, 16, [3, 3], window, None);
        net.output(y);
        expect_sqnr(&mut net, "w8a8", 34.0);
    }
}

#[test]
fn a_mobilenet_block_with_fused_clamps() {
    let mut net = Net::new(5);
    let x = net.input(&[1, 3, 16, 16]);
    let x = net.conv(x, 16, 3, Some(RELU6));
    let x = net.conv(x, 32, 1, Some(RELU6));
    let depthwise = ConvWindow { groups: 32, stride: [2, 2], pads: [1; 4], ..ConvWindow::unit() };
    let x = net.conv_with(x, 32, [3, 3], depthwise, Some(RELU6));
    let x = net.conv(x, 12, 1, None);
    net.output(x);
    let g = expect_sqnr(&mut net, "w8a8", 30.0);
    assert_eq!(g.ids().filter(|id| matches!(g.node(*id).op, IntOp::Conv(_))).count(), 4);
}

#[test]
fn dead_channels_and_large_biases() {
    let mut net = Net::new(6);
    let x = net.input(&[1, 2, 4, 4]);
    let w = net.constant(&[3, 2, 1, 1], &[0.0, 0.0, 1e-25, -1e-25, 0.5, 0.25]);
    let b = net.constant(&[3], &[0.75, -3.0, 1.0]);
    let conv = goshawk_ir::op::float::Conv { window: ConvWindow::unit(), clamp: None };
    let y = net.add(FloatOp::Conv(conv), &[x, w, b]);
    net.output(y);
    expect_sqnr(&mut net, "w8a8", 35.0);
}

#[test]
fn flattened_images_are_read_as_they_lie() {
    let mut net = Net::new(7);
    let x = net.input(&[2, 3, 8, 8]);
    let x = net.conv(x, 8, 3, Some(Clamp::RELU));
    let x = net.max_pool(x, 2, 2);
    let x = net.reshape(x, &[2, 128]);
    let a = net.linear(x, 10);
    let b = net.linear(x, 3);
    net.output(a);
    net.output(b);
    let g = expect_sqnr(&mut net, "w8a8", 30.0);
    assert!(!g.ids().any(|id| matches!(g.node(id).op, IntOp::Transpose(_))));
    assert_eq!(g.ids().filter(|id| matches!(g.node(*id).op, IntOp::Reshape(_))).count(), 1);
}

#[test]
fn a_flattened_image_with_another_reader_is_transposed() {
    let mut net = Net::new(8);
    let x = net.input(&[1, 3, 4, 5]);
    let x = net.conv(x, 8, 3, Some(Clamp::RELU));
    let flat = net.reshape(x, &[1, 160]);
    let y = net.linear(flat, 10);
    net.output(y);
    net.output(flat);
    let g = expect_sqnr(&mut net, "w8a8", 30.0);
    assert_eq!(g.ids().filter(|id| matches!(g.node(*id).op, IntOp::Transpose(_))).count(), 1);
}

#[test]
fn products_with_constant_matrices() {
    let mut net = Net::new(9);
    let x = net.input(&[2, 5, 12]);
    let w = net.random(&[12, 7], 0.4);
    let y = net.add(FloatOp::MatMul(crate::net::no_attrs()), &[x, w]);
    net.output(y);
    expect_sqnr(&mut net, "w8a8", 34.0);
}

#[test]
fn pools_count_their_cells() {
    for include in [false, true] {
        let mut net = Net::new(10);
        let x = net.input(&[1, 5, 7, 8]);
        let x = net.conv(x, 5, 1, None);
        let window = PoolWindow {
            pads: [1, 1, 0, 1],
            stride: [2, 2],
            ceil_mode: true,
            count_include_pad: include,
            ..PoolWindow::global(3, 3)
        };
        let a = net.add(FloatOp::AvgPool(window.clone()), &[x]);
        let b = net.add(FloatOp::MaxPool(window), &[x]);
        net.output(a);
        net.output(b);
        expect_sqnr(&mut net, "w8a8", 30.0);
    }
}

#[test]
fn reductions_over_any_axes() {
    let make: [fn(Reduce) -> FloatOp; 3] = [FloatOp::ReduceMean, FloatOp::ReduceSum, FloatOp::ReduceMax];
    for axes in [vec![2, 3], vec![1], vec![2], vec![3], vec![1, 3], vec![1, 2, 3], vec![0, 2]] {
        for keep_dims in [false, true] {
            for op in make {
                let mut net = Net::new(11);
                let x = net.input(&[2, 6, 4, 5]);
                let x = net.conv(x, 7, 1, Some(Clamp::RELU));
                let y = net.add(op(Reduce { axes: axes.clone(), keep_dims }), &[x]);
                net.output(y);
                expect_sqnr(&mut net, "w8a8", 30.0);
            }
        }
    }
    let mut net = Net::new(12);
    let x = net.input(&[3, 6, 4]);
    let y = net.add(FloatOp::ReduceMean(Reduce { axes: vec![1], keep_dims: false }), &[x]);
    net.output(y);
    expect_sqnr(&mut net, "w8a8", 30.0);
}

#[test]
fn batch_norm_that_stayed() {
    let mut net = Net::new(13);
    let x = net.input(&[1, 4, 5, 5]);
    let gamma = net.constant(&[4], &[1.0, -0.5, 2.0, 0.1]);
    let beta = net.constant(&[4], &[0.0, 1.0, -1.0, 0.5]);
    let mean = net.constant(&[4], &[0.1, 0.0, -0.2, 0.3]);
    let variance = net.constant(&[4], &[1.0, 0.5, 2.0, 0.25]);
    let y = net.add(FloatOp::BatchNorm(BatchNorm { epsilon: 1e-5 }), &[x, gamma, beta, mean, variance]);
    net.output(y);
    expect_sqnr(&mut net, "w8a8", 34.0);
}

/// What 4-bit weights lose: bias correction takes the systematic part away.
#[test]
fn bias_correction_lowers_the_error_of_narrow_weights() {
    let mut net = Net::new(14);
    let x = net.input(&[1, 4, 8, 8]);
    let x = net.conv(x, 12, 3, Some(Clamp::RELU));
    let depthwise = ConvWindow { groups: 12, pads: [1; 4], ..ConvWindow::unit() };
    let x = net.conv_with(x, 12, [3, 3], depthwise, Some(Clamp::RELU));
    let x = net.max_pool(x, 8, 1);
    let flat = net.reshape(x, &[1, 12]);
    let y = net.linear(flat, 10);
    net.output(y);
    let samples = net.samples(24);
    let mut calibrator = Calibrator::new(&net.graph, Method::MinMax);
    for inputs in &samples {
        calibrator.observe_batch(&net.graph, inputs).unwrap();
    }
    let ranges = calibrator.finish(&|_| 8).unwrap();
    let mut plan = BitPlan::uniform("w3a8").unwrap();
    (plan.pin_first, plan.pin_last) = (false, false);
    let noise = |bias_correction: bool| -> f64 {
        let options = Options { bias_correction, ..Options::default() };
        let g = lower(&net.graph, &ranges, &plan, &options).unwrap();
        let error = |inputs: &Vec<Tensor>| -> f64 {
            let want = interp::float::run(&net.graph, inputs).unwrap();
            let got = interp::boundary::run_f32(&g, inputs).unwrap();
            let pairs = want[0].as_f32().unwrap().iter().zip(got[0].as_f32().unwrap());
            pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum()
        };
        samples.iter().map(error).sum()
    };
    let (with, without) = (noise(true), noise(false));
    assert!(with < 0.9 * without, "{with} {without}");
}
