//! Folding of batch normalisation: where it goes, and that the function stays.
mod common;
use common::{Net, checked, ops, the};
use goshawk_ir::{FloatOp, op::float::BinaryFn};
use goshawk_passes::bn_fold;

#[test]
fn folds_into_the_convolution_before_it() {
    for (bias, groups) in [(true, 1), (false, 1), (true, 2), (false, 4)] {
        let mut n = Net::new(1);
        let x = n.input(&[1, 4, 6, 6]);
        let c = n.conv(x, 8, 3, 1, groups, bias);
        let b = n.batch_norm(c);
        let g = checked(&n.done(&[b]), bn_fold::run);
        assert_eq!(ops(&g), ["conv"]);
        assert_eq!(the(&g, "conv").name, "conv");
        assert_eq!(the(&g, "conv").operands().len(), 3);
    }
}

#[test]
fn leaves_a_convolution_with_other_readers_alone() {
    let mut n = Net::new(2);
    let x = n.input(&[1, 4, 6, 6]);
    let c = n.conv(x, 4, 3, 1, 1, true);
    let b = n.batch_norm(c);
    let r = n.relu(b);
    let s = n.add(r, c);
    let g = checked(&n.done(&[s]), bn_fold::run);
    assert_eq!(ops(&g), ["conv", "conv", "unary", "binary"], "the second one is depthwise");
}

#[test]
fn leaves_shared_weights_of_other_layers_alone() {
    let mut n = Net::new(3);
    let x = n.input(&[1, 3, 5, 5]);
    let a = n.conv(x, 3, 3, 1, 1, true);
    let operands = n.g.node(a).operands().to_vec();
    let op = n.g.node(a).op.clone();
    let b = n.op(op, &[a, operands[1], operands[2]]);
    let b = n.batch_norm(b);
    let g = checked(&n.done(&[b]), bn_fold::run);
    assert_eq!(ops(&g), ["conv", "conv"]);
}

#[test]
fn folds_forward_into_all_unpadded_readers() {
    for groups in [1, 2] {
        let mut n = Net::new(4);
        let x = n.input(&[1, 4, 6, 6]);
        let b = n.batch_norm(x);
        let c = n.conv(b, 4, 3, 0, groups, groups == 1);
        let d = n.conv(b, 2, 1, 0, 1, false);
        let g = checked(&n.done(&[c, d]), bn_fold::run);
        assert_eq!(ops(&g), ["conv", "conv"]);
    }
}

#[test]
fn padding_sees_zero_and_not_the_shift() {
    let mut n = Net::new(5);
    let x = n.input(&[1, 4, 6, 6]);
    let b = n.batch_norm(x);
    let c = n.conv(b, 4, 3, 1, 1, true);
    let g = checked(&n.done(&[c]), bn_fold::run);
    assert_eq!(ops(&g), ["conv", "conv"], "the first one is depthwise");

    let mut n = Net::new(6);
    let x = n.input(&[1, 4, 6, 6]);
    let scale = n.random(&[1, 4, 1, 1], -2.0, 2.0);
    let b = n.mul(scale, x);
    let c = n.conv(b, 4, 3, 1, 1, true);
    let g = checked(&n.done(&[c]), bn_fold::run);
    assert_eq!(ops(&g), ["conv"], "without a shift padding does not matter");
}

#[test]
fn standalone_becomes_depthwise_and_takes_what_follows() {
    let mut n = Net::new(7);
    let x = n.input(&[2, 3, 4, 5]);
    let b = n.batch_norm(x);
    let scale = n.random(&[3, 1, 1], 0.5, 2.0);
    let m = n.mul(b, scale);
    let shift = n.random(&[1, 3, 1, 1], -1.0, 1.0);
    let s = n.binary(BinaryFn::Sub, shift, m);
    let divisor = n.random(&[1, 3, 1, 1], 0.5, 2.0);
    let d = n.binary(BinaryFn::Div, s, divisor);
    let g = checked(&n.done(&[d]), bn_fold::run);
    assert_eq!(ops(&g), ["conv"]);
    let FloatOp::Conv(a) = &the(&g, "conv").op else { unreachable!() };
    assert_eq!(a.window.groups, 3);
    assert_eq!(the(&g, "conv").name, "batch_norm");
}

#[test]
fn other_ranks_and_axes() {
    // Linear with a bias added behind it, and batch norm over features.
    let mut n = Net::new(8);
    let x = n.input(&[3, 5]);
    let l = n.linear(x, 4, false);
    let bias = n.random(&[4], -1.0, 1.0);
    let a = n.add(l, bias);
    let b = n.batch_norm(a);
    let l = n.linear(b, 2, true);
    let g = checked(&n.done(&[l]), bn_fold::run);
    assert_eq!(ops(&g), ["linear", "linear"]);

    // Batch norm before a linear layer folds forward.
    let mut n = Net::new(9);
    let x = n.input(&[3, 5]);
    let b = n.batch_norm(x);
    let l = n.linear(b, 2, false);
    let g = checked(&n.done(&[l]), bn_fold::run);
    assert_eq!(ops(&g), ["linear"]);

    // Rank 3 (a 1-D convolution seen as 2-D), with the reshape between.
    let mut n = Net::new(10);
    let x = n.input(&[1, 4, 1, 9]);
    let c = n.conv(x, 6, 1, 0, 1, true);
    let r = n.reshape(c, &[1, 6, 9]);
    let b = n.batch_norm(r);
    let g = checked(&n.done(&[b]), bn_fold::run);
    assert_eq!(ops(&g), ["conv", "reshape"]);

    // Along the last dimension of rank 3, with nothing to fold into.
    let mut n = Net::new(11);
    let x = n.input(&[2, 3, 4]);
    let c = n.random(&[4], -1.0, 1.0);
    let a = n.add(x, c);
    let g = checked(&n.done(&[a]), bn_fold::run);
    assert_eq!(ops(&g), ["reshape", "conv", "reshape"]);
    assert_eq!(the(&g, "conv").name, "binary", "the layer takes over the name");

    // After a transpose the channels are the last dimension.
    let mut n = Net::new(12);
    let x = n.input(&[1, 3, 4, 4]);
    let c = n.conv(x, 5, 1, 0, 1, false);
    let t = n.transpose(c, &[0, 2, 3, 1]);
    let bias = n.random(&[5], -1.0, 1.0);
    let a = n.add(t, bias);
    let g = checked(&n.done(&[a]), bn_fold::run);
    assert_eq!(ops(&g), ["conv", "transpose"]);
}

#[test]
fn a_constant_that_varies_along_two_dimensions_stays() {
    let mut n = Net::new(13);
    let x = n.input(&[1, 3, 4, 4]);
    let c = n.conv(x, 3, 1, 0, 1, false);
    let map = n.random(&[1, 1, 4, 4], -1.0, 1.0);
    let a = n.add(c, map);
    let g = checked(&n.done(&[a]), bn_fold::run);
    assert_eq!(ops(&g), ["conv", "binary"]);
}

#[test]
fn broken_statistics_are_refused_by_name() {
    let mut n = Net::new(14);
    let x = n.input(&[1, 2, 4, 4]);
    let ones = n.constant(&[2], vec![1.0; 2]);
    let variance = n.constant(&[2], vec![1.0, -0.5]);
    let op = FloatOp::BatchNorm(goshawk_ir::op::float::BatchNorm { epsilon: 1e-5 });
    let b = n.op(op, &[x, ones, ones, ones, variance]);
    let error = bn_fold::run(&mut n.done(&[b])).unwrap_err().to_string();
    assert!(error.starts_with("batch_norm: the variance of channel 1 is -0.5"), "{error}");
}
