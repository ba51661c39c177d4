//! Recognition, chaining and fusion of elementwise functions.
mod common;
use common::{Net, checked, ops, prepared, the, window};
use goshawk_ir::{
    FloatGraph, FloatOp, NodeId,
    op::float::{BinaryFn, Clamp, UnaryFn},
};
use goshawk_passes::{fuse, simplify};
use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};

fn chain(g: &FloatGraph) -> Vec<UnaryFn> {
    assert_eq!(ops(g), ["unary"]);
    match &the(g, "unary").op {
        FloatOp::Unary(a) => a.chain.clone(),
        _ => unreachable!(),
    }
}

/// What a spelled-out function of x is recognised as.
#[track_caller]
fn recognised(spell: impl Fn(&mut Net, NodeId) -> NodeId) -> Vec<UnaryFn> {
    let mut n = Net::new(1);
    let x = n.input(&[1, 3, 5, 5]);
    let y = spell(&mut n, x);
    let g = checked(&n.done(&[y]), simplify::scalar::run);
    chain(&checked(&g, fuse::recognise::run))
}

fn scalar(n: &mut Net, f: BinaryFn, x: NodeId, c: f32) -> NodeId {
    let c = n.constant(&[1], vec![c]);
    n.binary(f, x, c)
}

#[test]
fn silu() {
    let want = [UnaryFn::Silu];
    assert_eq!(
        recognised(|n, x| {
            let s = n.unary(x, &[UnaryFn::Sigmoid]);
            n.mul(x, s)
        }),
        want
    );
    // x / (1 + e^-x)
    assert_eq!(
        recognised(|n, x| {
            let e = n.unary(x, &[UnaryFn::Affine(-1.0, 0.0), UnaryFn::Exp, UnaryFn::Affine(1.0, 1.0)]);
            n.binary(BinaryFn::Div, x, e)
        }),
        want
    );
    // quick GELU
    let quick = recognised(|n, x| {
        let s = n.unary(x, &[UnaryFn::Affine(1.702, 0.0), UnaryFn::Sigmoid]);
        n.mul(s, x)
    });
    assert_eq!(quick, [UnaryFn::Affine(1.702, 0.0), UnaryFn::Silu, UnaryFn::Affine(1.0 / 1.702, 0.0)]);
}

#[test]
fn sigmoid_and_softplus() {
    let e = [UnaryFn::Affine(-1.0, 0.0), UnaryFn::Exp, UnaryFn::Affine(1.0, 1.0), UnaryFn::Reciprocal(1.0)];
    assert_eq!(recognised(|n, x| n.unary(x, &e)), [UnaryFn::Sigmoid]);
    let s = [UnaryFn::Exp, UnaryFn::Affine(1.0, 1.0), UnaryFn::Log];
    assert_eq!(recognised(|n, x| n.unary(x, &s)), [UnaryFn::Softplus]);
}

#[test]
fn hard_swish() {
    let want = [UnaryFn::HardSwish];
    let relu6 = UnaryFn::Clip(Clamp { lo: 0.0, hi: 6.0 });
    // x * (relu6(x + 3) / 6)
    assert_eq!(
        recognised(|n, x| {
            let t = scalar(n, BinaryFn::Add, x, 3.0);
            let t = n.unary(t, &[relu6]);
            let t = scalar(n, BinaryFn::Div, t, 6.0);
            n.mul(x, t)
        }),
        want
    );
    // (x * relu6(x + 3)) / 6
    assert_eq!(
        recognised(|n, x| {
            let t = n.unary(x, &[UnaryFn::Affine(1.0, 3.0), relu6]);
            let t = n.mul(t, x);
            scalar(n, BinaryFn::Div, t, 6.0)
        }),
        want
    );
    // x * hardsigmoid(x)
    assert_eq!(
        recognised(|n, x| {
            let t = n.unary(x, &[UnaryFn::HardSigmoid(1.0 / 6.0, 0.5)]);
            n.mul(x, t)
        }),
        want
    );
    // A look-alike with another offset must not pass.
    let mut n = Net::new(1);
    let x = n.input(&[4]);
    let t = n.unary(x, &[UnaryFn::HardSigmoid(1.0 / 6.0, 0.4)]);
    let y = n.mul(x, t);
    assert_eq!(ops(&checked(&n.done(&[y]), fuse::recognise::run)), ["unary", "binary"]);
}

#[test]
fn mish() {
    assert_eq!(
        recognised(|n, x| {
            let t = n.unary(x, &[UnaryFn::Exp, UnaryFn::Affine(1.0, 1.0), UnaryFn::Log, UnaryFn::Tanh]);
            n.mul(x, t)
        }),
        [UnaryFn::Mish]
    );
    assert_eq!(
        recognised(|n, x| {
            let t = n.unary(x, &[UnaryFn::Softplus]);
            let t = n.unary(t, &[UnaryFn::Tanh]);
            n.mul(t, x)
        }),
        [UnaryFn::Mish]
    );
}

#[test]
fn gelu() {
    let want = [UnaryFn::Gelu];
    // 0.5 * x * (1 + erf(x / sqrt 2)), in the three orders that exporters use
    for order in 0..3 {
        let got = recognised(|n, x| {
            let e = if order == 0 {
                scalar(n, BinaryFn::Div, x, SQRT_2)
            } else {
                scalar(n, BinaryFn::Mul, x, FRAC_1_SQRT_2)
            };
            let e = n.unary(e, &[UnaryFn::Erf]);
            let e = scalar(n, BinaryFn::Add, e, 1.0);
            match order {
                0 => {
                    let m = n.mul(x, e);
                    scalar(n, BinaryFn::Mul, m, 0.5)
                }
                1 => {
                    let h = scalar(n, BinaryFn::Mul, x, 0.5);
                    n.mul(h, e)
                }
                _ => {
                    let h = scalar(n, BinaryFn::Mul, e, 0.5);
                    n.mul(h, x)
                }
            }
        });
        assert_eq!(got, want, "order {order}");
    }
}

#[test]
fn gelu_tanh() {
    for pow in [true, false] {
        let got = recognised(|n, x| {
            let cube = if pow {
                n.unary(x, &[UnaryFn::Pow(3.0)])
            } else {
                let square = n.mul(x, x);
                n.mul(square, x)
            };
            let inner = scalar(n, BinaryFn::Mul, cube, 0.044715);
            let inner = n.add(x, inner);
            let inner = scalar(n, BinaryFn::Mul, inner, 0.797_884_6);
            let t = n.unary(inner, &[UnaryFn::Tanh]);
            let t = scalar(n, BinaryFn::Add, t, 1.0);
            let t = n.mul(x, t);
            scalar(n, BinaryFn::Mul, t, 0.5)
        });
        assert_eq!(got, [UnaryFn::GeluTanh]);
    }
}

#[test]
fn leaky_relu() {
    let want = [UnaryFn::LeakyRelu(0.1)];
    assert_eq!(
        recognised(|n, x| {
            let a = scalar(n, BinaryFn::Mul, x, 0.1);
            n.binary(BinaryFn::Max, x, a)
        }),
        want
    );
    assert_eq!(
        recognised(|n, x| {
            let above = n.relu(x);
            let below = n.unary(x, &[UnaryFn::Affine(-1.0, 0.0), UnaryFn::RELU, UnaryFn::Affine(0.1, 0.0)]);
            n.binary(BinaryFn::Sub, above, below)
        }),
        want
    );
    assert_eq!(
        recognised(|n, x| {
            let a = n.unary(x, &[UnaryFn::Affine(-1.0, 0.0)]);
            n.binary(BinaryFn::Max, x, a)
        }),
        [UnaryFn::Abs]
    );
    // min(x, 3x) is 3x below 0 and x above.
    let got = recognised(|n, x| {
        let a = scalar(n, BinaryFn::Mul, x, 3.0);
        n.binary(BinaryFn::Min, x, a)
    });
    let third = UnaryFn::LeakyRelu(1.0 / 3.0);
    assert_eq!(got, [UnaryFn::Affine(-3.0, 0.0), third, UnaryFn::Affine(-1.0, 0.0)]);
}

#[test]
fn functions_of_two_tensors_are_not_recognised() {
    let mut n = Net::new(2);
    let (x, y) = (n.input(&[1, 3, 4, 4]), n.input(&[1, 3, 1, 1]));
    let s = n.unary(y, &[UnaryFn::Sigmoid]);
    let gate = n.mul(x, s);
    let (a, b) = (n.input(&[2, 2]), n.input(&[2, 2]));
    let t = n.unary(b, &[UnaryFn::Sigmoid]);
    let m = n.mul(a, t);
    let g = checked(&n.done(&[gate, m]), fuse::recognise::run);
    assert_eq!(ops(&g), ["unary", "binary", "unary", "binary"]);
}

#[test]
fn silu_behind_a_residual_add_reads_the_add() {
    let mut n = Net::new(3);
    let (a, b) = (n.input(&[1, 3, 4, 4]), n.input(&[1, 3, 4, 4]));
    let x = n.add(a, b);
    let s = n.unary(x, &[UnaryFn::Sigmoid]);
    let y = n.mul(x, s);
    let g = checked(&n.done(&[y]), fuse::recognise::run);
    assert_eq!(ops(&g), ["binary", "unary"]);
}

#[test]
fn chains_join_and_compose() {
    let mut n = Net::new(4);
    let x = n.input(&[2, 3]);
    let y = n.unary(x, &[UnaryFn::Affine(2.0, 1.0)]);
    let y = n.unary(y, &[UnaryFn::Affine(0.5, -0.5)]);
    let y = n.clip(y, -1.0, 4.0);
    let y = n.relu(y);
    let y = n.unary(y, &[UnaryFn::Tanh]);
    let g = checked(&n.done(&[y]), fuse::chain::run);
    assert_eq!(chain(&g), [UnaryFn::Clip(Clamp { lo: 0.0, hi: 4.0 }), UnaryFn::Tanh]);

    // Another reader of the middle keeps it.
    let mut n = Net::new(5);
    let x = n.input(&[2, 3]);
    let a = n.relu(x);
    let b = n.unary(a, &[UnaryFn::Tanh]);
    let g = checked(&n.done(&[a, b]), fuse::chain::run);
    assert_eq!(ops(&g), ["unary", "unary"]);
}

#[test]
fn disjoint_clips_compose_to_a_constant() {
    let mut n = Net::new(6);
    let x = n.input(&[5]);
    let y = n.clip(x, 0.0, 1.0);
    let y = n.clip(y, 2.0, 3.0);
    let g = checked(&n.done(&[y]), fuse::chain::run);
    assert_eq!(chain(&g), [UnaryFn::Clip(Clamp { lo: 2.0, hi: 2.0 })]);
}

#[test]
fn activations_fuse_into_layers() {
    for layer in ["conv", "linear", "add", "mul"] {
        let mut n = Net::new(7);
        let x = n.input(if layer == "linear" { &[2, 4] } else { &[1, 4, 3, 3] });
        let y = match layer {
            "conv" => n.conv(x, 4, 3, 1, 1, true),
            "linear" => n.linear(x, 5, false),
            "add" => n.add(x, x),
            _ => n.mul(x, x),
        };
        let y = n.unary(y, &[UnaryFn::RELU, UnaryFn::Clip(Clamp { lo: -1.0, hi: 1.5 })]);
        let g = checked(&n.done(&[y]), fuse::activation::run);
        assert_eq!(ops(&g).len(), 1, "{layer}");
        let node = g.node(g.outputs[0].node);
        let clamp = match &node.op {
            FloatOp::Conv(a) => a.clamp,
            FloatOp::Linear(a) => a.clamp,
            FloatOp::Binary(a) => a.clamp,
            _ => None,
        };
        assert_eq!(clamp, Some(Clamp { lo: 0.0, hi: 1.5 }));
        assert!(["conv", "linear", "binary"].contains(&node.name.as_str()), "it keeps the layer's name");
    }
}

#[test]
fn affine_functions_scale_weights_and_move_the_clamp() {
    for a in [0.5, -2.0] {
        let mut n = Net::new(8);
        let x = n.input(&[1, 3, 5, 5]);
        let c = n.conv(x, 4, 3, 1, 1, false);
        let y = n.unary(c, &[UnaryFn::Affine(1.0, 3.0), UnaryFn::Clip(Clamp { lo: 0.0, hi: 6.0 })]);
        let y = n.unary(y, &[UnaryFn::Affine(a, 0.25), UnaryFn::Tanh]);
        let g = checked(&n.done(&[y]), fuse::chain::run);
        let g = checked(&g, fuse::activation::run);
        assert_eq!(ops(&g), ["conv", "unary"]);
        let FloatOp::Unary(rest) = &the(&g, "unary").op else { unreachable!() };
        assert_eq!(rest.chain, [UnaryFn::Tanh]);
    }
}

#[test]
fn nothing_fuses_into_a_layer_with_other_readers() {
    let mut n = Net::new(9);
    let x = n.input(&[1, 3, 5, 5]);
    let c = n.conv(x, 3, 3, 1, 1, true);
    let r = n.relu(c);
    let s = n.add(c, r);
    let d = n.conv(s, 3, 1, 0, 1, true);
    let e = n.relu(d);
    let g = checked(&n.done(&[e, d]), fuse::activation::run);
    assert_eq!(ops(&g), ["conv", "unary", "binary", "conv", "unary"]);
}

#[test]
fn clips_climb_over_moving_operators() {
    let mut n = Net::new(10);
    let x = n.input(&[1, 4, 6, 6]);
    let a = n.conv(x, 4, 3, 1, 1, true);
    let a = n.max_pool(a, window(2, 2, 1));
    let a = n.pad(a, [0, 0, 1, 1], 0.0);
    let b = n.conv(x, 2, 3, 0, 1, true);
    let b = n.batch_norm(b);
    let b = n.transpose(b, &[0, 1, 3, 2]);
    let b = n.pad(b, [0, 0, 1, 1], 0.5);
    let c = n.concat(1, &[a, b]);
    let y = n.unary(c, &[UnaryFn::RELU, UnaryFn::Tanh]);
    let g = prepared(&n.done(&[y]));
    let convs = g.ids().filter(|id| matches!(&g.node(*id).op, FloatOp::Conv(a) if a.clamp.is_some())).count();
    assert_eq!(convs, 2);
    assert_eq!(ops(&g).iter().filter(|o| **o == "unary").count(), 1, "the tanh");
}

#[test]
fn clips_do_not_climb_without_a_layer_on_every_path() {
    let mut n = Net::new(11);
    let x = n.input(&[1, 4, 6, 6]);
    let a = n.conv(x, 4, 1, 0, 1, true);
    let c = n.concat(1, &[a, x]);
    let y = n.relu(c);
    let g = checked(&n.done(&[y]), fuse::hoist::run);
    assert_eq!(ops(&g), ["conv", "concat", "unary"]);

    let mut n = Net::new(12);
    let x = n.input(&[1, 4, 6, 6]);
    let a = n.conv(x, 4, 1, 0, 1, true);
    let p = n.pad(a, [1; 4], -1.0);
    let y = n.relu(p);
    let g = checked(&n.done(&[y]), fuse::hoist::run);
    assert_eq!(ops(&g), ["conv", "pad", "unary"], "the padding is outside the bounds");
}

#[test]
fn a_whole_block_becomes_two_layers_and_an_add() {
    let mut n = Net::new(13);
    let x = n.input(&[1, 4, 8, 8]);
    let a = n.conv(x, 4, 3, 1, 1, false);
    let a = n.batch_norm(a);
    let a = n.clip(a, 0.0, 6.0);
    let p = n.pad(a, [1; 4], 0.0);
    let b = n.conv(p, 4, 3, 0, 4, false);
    let b = n.batch_norm(b);
    let s = n.add(b, x);
    let y = n.relu(s);
    let g = prepared(&n.done(&[y]));
    assert_eq!(ops(&g), ["conv", "conv", "binary"]);
}
