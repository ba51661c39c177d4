//! Networks of at most 500 weights that together have every operator and function.
use super::common::{Net, window};
use goshawk_ir::{
    FloatGraph, FloatOp, NodeId, Operator,
    op::float::{
        Axis, BinaryFn, Clamp, Conv, Coordinates, DepthOrder, DepthToSpace, NearestRule, NoAttrs, Reduce,
        Resize, ResizeMode, Slice, Unary, UnaryFn,
    },
    op::window::{ConvWindow, PoolWindow},
};
use std::collections::BTreeSet;

/// A convolution with any geometry.
fn conv(
    n: &mut Net,
    x: NodeId,
    out: usize,
    kernel: [usize; 2],
    window: ConvWindow,
    clamp: Option<Clamp>,
) -> NodeId {
    let c = n.shape(x)[1];
    let w = n.random(&[out, c / window.groups, kernel[0], kernel[1]], -0.6, 0.6);
    let b = n.random(&[out], -0.3, 0.3);
    n.op(FloatOp::Conv(Conv { window, clamp }), &[x, w, b])
}

fn head(n: &mut Net, x: NodeId, classes: usize) -> NodeId {
    let mean = n.spatial_mean(x);
    let c = n.shape(mean)[1];
    let flat = n.reshape(mean, &[1, c]);
    n.linear(flat, classes, true)
}

/// Strides, dilations, groups, odd padding, pools, fused clips: piecewise linear.
pub fn windows() -> FloatGraph {
    let mut n = Net::new(1);
    let x = n.input(&[1, 3, 9, 8]);
    let odd = ConvWindow { stride: [2, 1], pads: [1, 0, 2, 1], dilation: [1, 2], groups: 1 };
    let a = conv(&mut n, x, 4, [3, 2], odd, Some(Clamp::RELU));
    let depthwise = ConvWindow { stride: [1, 2], pads: [1, 1, 1, 1], dilation: [1, 1], groups: 4 };
    let b = conv(&mut n, a, 4, [3, 3], depthwise, Some(Clamp { lo: 0.0, hi: 6.0 }));
    let grouped = ConvWindow { pads: [2, 2, 2, 2], dilation: [2, 2], groups: 2, ..ConvWindow::unit() };
    let c = conv(&mut n, b, 4, [3, 3], grouped, None);
    let sum = n.add(b, c);
    let p = n.max_pool(sum, PoolWindow { ceil_mode: true, ..window(3, 2, 1) });
    let q = n.avg_pool(p, PoolWindow { count_include_pad: true, ..window(2, 1, 1) });
    let far = ConvWindow { stride: [3, 3], ..ConvWindow::unit() };
    let d = conv(&mut n, q, 3, [1, 1], far, None);
    let e = n.unary(d, &[UnaryFn::LeakyRelu(0.1)]);
    let y = head(&mut n, e, 4);
    n.done(&[y])
}

/// Squeeze and excite, hard functions, batch normalisation, max and sum reductions, softmax at the end.
pub fn squeeze() -> FloatGraph {
    let mut n = Net::new(2);
    let x = n.input(&[1, 2, 6, 6]);
    let a = n.conv(x, 4, 3, 1, 1, false);
    let a = n.batch_norm(a);
    let a = n.unary(a, &[UnaryFn::HardSwish]);
    let gate = n.op(FloatOp::ReduceMax(Reduce { axes: vec![2, 3], keep_dims: true }), &[a]);
    let gate = n.conv(gate, 4, 1, 0, 1, true);
    let gate = n.unary(gate, &[UnaryFn::HardSigmoid(0.2, 0.5)]);
    let b = n.mul(a, gate);
    let c = n.conv(b, 4, 3, 0, 1, true);
    let slope = n.random(&[4, 1, 1], 0.1, 0.5);
    let c = n.op(FloatOp::PRelu(NoAttrs {}), &[c, slope]);
    let s = n.op(FloatOp::ReduceSum(Reduce { axes: vec![2, 3], keep_dims: false }), &[c]);
    let s = n.unary(s, &[UnaryFn::Affine(0.1, 0.2)]);
    let y = n.linear(s, 5, true);
    let y = n.op(FloatOp::Softmax(Axis { axis: 1 }), &[y]);
    n.done(&[y])
}

/// Everything that moves elements, and resizing.
pub fn movement() -> FloatGraph {
    let mut n = Net::new(3);
    let x = n.input(&[1, 2, 4, 4]);
    let a = n.conv(x, 8, 3, 1, 1, true);
    let a = n.unary(a, &[UnaryFn::Tanh]);
    let d = n.op(FloatOp::DepthToSpace(DepthToSpace { block: 2, order: DepthOrder::Dcr }), &[a]);
    let e = n.op(FloatOp::DepthToSpace(DepthToSpace { block: 2, order: DepthOrder::Crd }), &[a]);
    let up = |mode, size: usize| Resize {
        mode,
        coordinates: Coordinates::HalfPixel,
        nearest: NearestRule::RoundPreferFloor,
        size: [size, size],
        scale: [size as f32 / 4.0; 2],
    };
    let f = n.op(FloatOp::Resize(up(ResizeMode::Linear, 8)), &[x]);
    let g = n.op(FloatOp::Resize(up(ResizeMode::Nearest, 8)), &[x]);
    let all = n.concat(1, &[d, e, f, g]);
    let part = Slice { start: vec![0, 7, 1, 0], step: vec![1, -1, 1, 2], size: vec![1, 6, 6, 4] };
    let s = n.op(FloatOp::Slice(part), &[all]);
    let p = n.pad(s, [1, 0, 0, 1], 0.5);
    let t = n.transpose(p, &[0, 1, 3, 2]);
    let b = n.conv(t, 3, 3, 0, 1, true);
    let b = n.unary(b, &[UnaryFn::Sigmoid]);
    let y = head(&mut n, b, 3);
    n.done(&[y])
}

/// Two-headed attention with layer normalisation and both forms of Gelu.
pub fn attention() -> FloatGraph {
    let mut n = Net::new(4);
    let x = n.input(&[1, 4, 6]);
    let rows = n.reshape(x, &[4, 6]);
    let part = |n: &mut Net| {
        let p = n.linear(rows, 4, true);
        let p = n.reshape(p, &[4, 2, 2]);
        n.transpose(p, &[1, 0, 2])
    };
    let (q, k, v) = (part(&mut n), part(&mut n), part(&mut n));
    let k = n.transpose(k, &[0, 2, 1]);
    let scores = n.matmul(q, k);
    let scores = n.unary(scores, &[UnaryFn::Affine(0.7, 0.0)]);
    let attention = n.op(FloatOp::Softmax(Axis { axis: 2 }), &[scores]);
    let mixed = n.matmul(attention, v);
    let mixed = n.transpose(mixed, &[1, 0, 2]);
    let mixed = n.reshape(mixed, &[4, 4]);
    let last = |keep_dims| Reduce { axes: vec![1], keep_dims };
    let mean = n.op(FloatOp::ReduceMean(last(true)), &[mixed]);
    let centred = n.binary(BinaryFn::Sub, mixed, mean);
    let square = n.unary(centred, &[UnaryFn::Pow(2.0)]);
    let variance = n.op(FloatOp::ReduceMean(last(true)), &[square]);
    let deviation = n.unary(variance, &[UnaryFn::Affine(1.0, 0.1), UnaryFn::Sqrt]);
    let normal = n.binary(BinaryFn::Div, centred, deviation);
    let a = n.linear(normal, 5, true);
    let a = n.unary(a, &[UnaryFn::Gelu]);
    let b = n.linear(a, 5, false);
    let b = n.unary(b, &[UnaryFn::GeluTanh]);
    let fixed = n.random(&[5, 3], -0.7, 0.7);
    let c = n.matmul(b, fixed);
    let y = n.op(FloatOp::ReduceMean(Reduce { axes: vec![0], keep_dims: true }), &[c]);
    n.done(&[y])
}

/// Every function of one and of two variables, each where it is smooth. Two outputs.
pub fn functions() -> FloatGraph {
    let mut n = Net::new(5);
    let x = n.input(&[1, 3]);
    let a = n.linear(x, 6, true);
    let b = n.linear(x, 6, true);
    // In (0.5, 1.5): where logarithms, roots and powers are smooth.
    let positive = |n: &mut Net, v| n.unary(v, &[UnaryFn::Sigmoid, UnaryFn::Affine(1.0, 0.5)]);
    let (p, q) = (positive(&mut n, a), positive(&mut n, b));
    let chains: Vec<Vec<UnaryFn>> = vec![
        vec![UnaryFn::Elu(0.7), UnaryFn::Softplus],
        vec![UnaryFn::Silu, UnaryFn::Erf],
        vec![UnaryFn::Mish, UnaryFn::Affine(0.3, 0.0), UnaryFn::Exp],
        vec![UnaryFn::Abs, UnaryFn::Clip(Clamp { lo: -1.0, hi: 0.8 }), UnaryFn::Pow(3.0)],
    ];
    let mut terms = Vec::new();
    for chain in &chains {
        terms.push(n.unary(a, chain));
    }
    terms.push(n.unary(p, &[UnaryFn::Log]));
    terms.push(n.unary(q, &[UnaryFn::Sqrt, UnaryFn::Reciprocal(0.4)]));
    terms.push(n.unary(q, &[UnaryFn::Pow(-0.5)]));
    for f in [BinaryFn::Min, BinaryFn::Max, BinaryFn::Sub, BinaryFn::Mul] {
        terms.push(n.binary(f, a, b));
    }
    terms.push(n.binary(BinaryFn::Div, a, q));
    terms.push(n.binary(BinaryFn::Pow, p, b));
    let slope = n.unary(b, &[UnaryFn::Tanh]);
    terms.push(n.op(FloatOp::PRelu(NoAttrs {}), &[a, slope]));
    let mut sum = terms[0];
    for t in &terms[1..] {
        sum = n.add(sum, *t);
    }
    let half = n.constant(&[1], vec![0.25]);
    let y = n.mul(half, sum);
    let z = n.linear(y, 2, true);
    n.done(&[y, z])
}

/// One sample is a batch of three images, with a row of logits for each pixel.
pub fn segmentation() -> FloatGraph {
    let mut n = Net::new(6);
    let x = n.input(&[3, 2, 4, 5]);
    let a = n.conv(x, 3, 3, 1, 1, true);
    let a = n.unary(a, &[UnaryFn::Silu]);
    let y = n.conv(a, 4, 1, 0, 1, true);
    n.done(&[y])
}

/// Classifiers, with their names.
pub fn classifiers() -> Vec<(&'static str, FloatGraph)> {
    vec![
        ("windows", windows()),
        ("squeeze", squeeze()),
        ("movement", movement()),
        ("attention", attention()),
        ("segmentation", segmentation()),
    ]
}

/// All networks.
pub fn all() -> Vec<(&'static str, FloatGraph)> {
    let mut all = classifiers();
    all.push(("functions", functions()));
    all
}

#[test]
fn the_networks_have_every_operator_and_function_and_few_weights() {
    let (mut operators, mut unary, mut binary) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (name, g) in all() {
        for id in g.ids() {
            let op = &g.node(id).op;
            operators.insert(op.name());
            match op {
                FloatOp::Unary(Unary { chain }) => {
                    for f in chain {
                        unary.insert(format!("{f:?}").split('(').next().unwrap().to_owned());
                    }
                }
                FloatOp::Binary(b) => {
                    binary.insert(format!("{:?}", b.function));
                }
                _ => {}
            }
        }
        let engine = goshawk_passes::gradient::Engine::<f64>::new(&g).unwrap();
        let count: usize = engine.layers().iter().map(|l| l.shape.iter().product::<usize>()).sum();
        assert!(count <= 500, "{name} has {count} weights");
    }
    let missing: Vec<_> = FloatOp::NAMES.iter().filter(|n| !operators.contains(*n)).collect();
    assert!(missing.is_empty(), "no network has {missing:?}");
    assert_eq!(unary.len(), 20, "{unary:?}");
    assert_eq!(binary.len(), 7, "{binary:?}");
}
