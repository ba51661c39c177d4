//! Elementwise functions and Softmax.
use crate::net::{Net, expect_sqnr, no_attrs};
use goshawk_ir::{
    FloatOp, IntOp,
    op::float::{Axis, Clamp, UnaryFn},
};

#[test]
fn every_function_is_a_table() {
    use UnaryFn::*;
    let functions = [
        LeakyRelu(0.1),
        Elu(1.0),
        HardSwish,
        HardSigmoid(0.2, 0.5),
        Sigmoid,
        Silu,
        Mish,
        Tanh,
        Gelu,
        GeluTanh,
        Erf,
        Softplus,
        Exp,
        Abs,
        Pow(2.0),
        Affine(-0.7, 0.3),
    ];
    for f in functions {
        let mut net = Net::new(1);
        let x = net.input(&[1, 4, 6, 5]);
        let x = net.conv(x, 6, 1, None);
        let x = net.unary(x, &[f]);
        net.output(x);
        // Convex functions stretch the upper end of their operand's grid.
        let decibel = if matches!(f, Exp | Pow(_)) { 24.0 } else { 30.0 };
        expect_sqnr(&mut net, "w8a8", decibel);
    }
    for f in [Log, Sqrt, Reciprocal(2.0)] {
        let mut net = Net::new(2);
        let x = net.input(&[1, 4, 6, 5]);
        let x = net.unary(x, &[Sigmoid, Affine(2.0, 0.5), f]);
        net.output(x);
        expect_sqnr(&mut net, "w8a8", 30.0);
    }
}

#[test]
fn chains_and_neighbouring_tables_become_one() {
    let mut net = Net::new(3);
    let x = net.input(&[1, 4, 6, 5]);
    let x = net.unary(x, &[UnaryFn::Silu]);
    let x = net.unary(x, &[UnaryFn::Affine(0.5, -0.1), UnaryFn::Tanh]);
    net.output(x);
    let g = expect_sqnr(&mut net, "w8a8", 30.0);
    assert_eq!(g.ids().filter(|id| matches!(g.node(*id).op, IntOp::Lut(_))).count(), 1);
}

#[test]
fn a_clip_that_stayed_is_a_rescale() {
    let mut net = Net::new(4);
    let x = net.input(&[1, 4, 6, 5]);
    let x = net.max_pool(x, 2, 1);
    let x = net.unary(x, &[UnaryFn::Clip(Clamp { lo: -0.25, hi: 1.0 })]);
    net.output(x);
    let g = expect_sqnr(&mut net, "w8a8", 35.0);
    assert!(g.ids().any(|id| matches!(g.node(id).op, IntOp::Requant(_))));
}

#[test]
fn slopes_per_tensor_and_per_channel() {
    for dims in [vec![1], vec![6, 1, 1], vec![1, 6, 1, 1], vec![1, 1, 5]] {
        let mut net = Net::new(5);
        let x = net.input(&[1, 6, 4, 5]);
        let slope = net.random(&dims, 0.5);
        let x = net.add(FloatOp::PRelu(no_attrs()), &[x, slope]);
        net.output(x);
        expect_sqnr(&mut net, "w8a8", 30.0);
    }
}

#[test]
fn softmax_along_any_axis() {
    for (dims, axis) in [(vec![2, 10], 1), (vec![1, 5, 4, 3], 1), (vec![1, 5, 4, 3], 3), (vec![1, 7, 4], 1)] {
        let mut net = Net::new(6);
        let x = net.input(&dims);
        let x = net.unary(x, &[UnaryFn::Affine(3.0, 0.0)]);
        let x = net.add(FloatOp::Softmax(Axis { axis }), &[x]);
        net.output(x);
        expect_sqnr(&mut net, "w8a8", 30.0);
    }
}
