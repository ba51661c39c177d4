//! Operators that move data, and the memory orders behind them.
use crate::net::{Net, expect_sqnr, lowered};
use goshawk_ir::{
    FloatOp, IntGraph, IntOp, Layout, NodeId,
    op::float::{
        Axis, Clamp, Coordinates, DepthOrder, DepthToSpace, NearestRule, Pad, Resize, ResizeMode, Slice,
        Transpose, UnaryFn,
    },
};
use goshawk_passes::lower::Options;

fn count(g: &IntGraph, f: impl Fn(&IntOp) -> bool) -> usize {
    g.ids().filter(|id| f(&g.node(*id).op)).count()
}

fn transpose(net: &mut Net, x: NodeId, perm: &[usize]) -> NodeId {
    net.add(FloatOp::Transpose(Transpose { perm: perm.to_vec() }), &[x])
}

#[test]
fn branches_of_a_concat_share_one_quantizer() {
    let mut net = Net::new(1);
    let x = net.input(&[1, 4, 8, 8]);
    let a = net.conv(x, 6, 1, Some(Clamp::RELU));
    let b = net.conv(x, 5, 3, None);
    let c = net.max_pool(b, 3, 1);
    let a = net.max_pool(a, 3, 1);
    let y = net.add(FloatOp::Concat(Axis { axis: 1 }), &[a, c]);
    let y = net.conv(y, 7, 1, None);
    net.output(y);
    let g = expect_sqnr(&mut net, "w8a8", 30.0);
    assert_eq!(count(&g, |op| matches!(op, IntOp::Requant(_))), 0);
}

#[test]
fn a_branch_with_a_much_narrower_range_and_another_reader_is_rescaled() {
    let mut net = Net::new(2);
    let x = net.input(&[1, 4, 8, 8]);
    let a = net.conv(x, 6, 1, None);
    let b = net.unary(x, &[UnaryFn::Affine(0.01, 0.0), UnaryFn::Tanh]);
    let y = net.add(FloatOp::Concat(Axis { axis: 1 }), &[a, b]);
    let y = net.conv(y, 7, 1, None);
    let z = net.conv(b, 3, 1, None);
    net.output(y);
    net.output(z);
    let g = expect_sqnr(&mut net, "w8a8", 30.0);
    assert_eq!(count(&g, |op| matches!(op, IntOp::Requant(_))), 1);
}

#[test]
fn concat_with_constants_repeated_branches_and_inputs() {
    let mut net = Net::new(3);
    let x = net.input(&[1, 4, 3, 5]);
    let c = net.random(&[1, 2, 3, 5], 1.0);
    let y = net.add(FloatOp::Concat(Axis { axis: 1 }), &[x, c, x]);
    let z = net.add(FloatOp::Concat(Axis { axis: 3 }), &[y, y]);
    net.output(z);
    expect_sqnr(&mut net, "w8a8", 35.0);
}

#[test]
fn slices_and_pads() {
    let mut net = Net::new(4);
    let x = net.input(&[1, 6, 9, 8]);
    let slice = Slice { start: vec![0, 1, 2, 0], step: vec![1, 2, 3, 1], size: vec![1, 3, 2, 7] };
    let y = net.add(FloatOp::Slice(slice), &[x]);
    let pad = Pad { before: vec![0, 1, 0, 2], after: vec![0, 0, 3, 1], value: 1.5 };
    let y = net.add(FloatOp::Pad(pad), &[y]);
    net.output(y);
    expect_sqnr(&mut net, "w8a8", 35.0);
}

#[test]
fn resize_by_all_rules() {
    use Coordinates::*;
    for coordinates in [HalfPixel, PytorchHalfPixel, AlignCorners, Asymmetric, TfHalfPixelForNn] {
        for mode in [ResizeMode::Nearest, ResizeMode::Linear] {
            let mut net = Net::new(5);
            let x = net.input(&[1, 3, 5, 4]);
            let x = net.conv(x, 4, 1, Some(Clamp::RELU));
            let resize =
                Resize { mode, coordinates, nearest: NearestRule::Floor, size: [10, 7], scale: [2.0, 1.75] };
            let y = net.add(FloatOp::Resize(resize), &[x]);
            net.output(y);
            expect_sqnr(&mut net, "w8a8", 30.0);
        }
    }
}

#[test]
fn channel_shuffle_moves_data_once() {
    let mut net = Net::new(6);
    let x = net.input(&[1, 4, 5, 6]);
    let x = net.conv(x, 12, 1, Some(Clamp::RELU));
    let x = net.reshape(x, &[1, 3, 4, 5, 6]);
    let x = transpose(&mut net, x, &[0, 2, 1, 3, 4]);
    let x = net.reshape(x, &[1, 12, 5, 6]);
    let x = net.conv(x, 6, 3, None);
    net.output(x);
    let g = expect_sqnr(&mut net, "w8a8", 30.0);
    assert_eq!(count(&g, |op| matches!(op, IntOp::Transpose(_))), 1);
}

#[test]
fn depth_to_space_in_both_orders() {
    for order in [DepthOrder::Dcr, DepthOrder::Crd] {
        let mut net = Net::new(7);
        let x = net.input(&[1, 3, 5, 6]);
        let x = net.conv(x, 12, 1, None);
        let x = net.add(FloatOp::DepthToSpace(DepthToSpace { block: 2, order }), &[x]);
        let y = net.conv(x, 4, 3, None);
        net.output(x);
        net.output(y);
        let g = expect_sqnr(&mut net, "w8a8", 30.0);
        assert_eq!(count(&g, |op| matches!(op, IntOp::Transpose(_))), 1);
    }
}

#[test]
fn a_network_with_nhwc_ends_loses_its_transposes() {
    let mut net = Net::new(8);
    let x = net.input(&[1, 6, 7, 3]);
    let x = transpose(&mut net, x, &[0, 3, 1, 2]);
    let x = net.conv(x, 8, 3, None);
    let x = transpose(&mut net, x, &[0, 2, 3, 1]);
    let y = net.reshape(x, &[1, 84, 4]);
    net.output(y);
    let g = expect_sqnr(&mut net, "w8a8", 34.0);
    assert_eq!(count(&g, |op| matches!(op, IntOp::Transpose(_))), 0);
    assert_eq!(g.inputs[0].layout, Layout::Same);
}

#[test]
fn reshapes_of_every_kind() {
    let cases: [&[&[usize]]; 5] = [
        &[&[2, 4, 3, 5], &[2, 60], &[2, 12, 5]],
        &[&[2, 4, 3, 5], &[8, 15], &[2, 2, 2, 15]],
        &[&[1, 4, 6], &[1, 4, 2, 3], &[24]],
        &[&[1, 64], &[1, 64, 1, 1], &[1, 16, 2, 2]],
        &[&[4, 1, 3, 5], &[4, 3, 5], &[12, 5]],
    ];
    for dims in cases {
        let mut net = Net::new(9);
        let mut x = net.input(dims[0]);
        for d in &dims[1..] {
            x = net.reshape(x, d);
            x = net.unary(x, &[UnaryFn::LeakyRelu(0.5)]);
        }
        net.output(x);
        expect_sqnr(&mut net, "w8a8", 30.0);
    }
}

#[test]
fn transposes_of_odd_ranks_reach_the_output() {
    for (dims, perm) in [
        (vec![2, 3, 4, 5], vec![0, 1, 3, 2]),
        (vec![2, 3, 4, 5], vec![3, 2, 1, 0]),
        (vec![2, 3, 4], vec![2, 0, 1]),
        (vec![3, 4], vec![1, 0]),
    ] {
        let mut net = Net::new(10);
        let x = net.input(&dims);
        let y = transpose(&mut net, x, &perm);
        let z = net.unary(y, &[UnaryFn::Tanh]);
        net.output(y);
        net.output(z);
        expect_sqnr(&mut net, "w8a8", 30.0);
    }
}

#[test]
fn an_input_that_is_an_output() {
    let mut net = Net::new(11);
    let x = net.input(&[1, 3, 4, 5]);
    net.output(x);
    let (g, _) = lowered(&mut net, "w8a8", &Options::default());
    assert_eq!(g.outputs[0].node, g.inputs[0].node);
}
