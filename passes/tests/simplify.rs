//! Structural simplification: what goes, what stays, and that the function stays.
mod common;
use common::{Net, checked, ops, the, window};
use goshawk_ir::{
    FloatOp, Shape,
    op::float::{
        BinaryFn, Coordinates, DepthOrder, DepthToSpace, NearestRule, Reduce, Resize, ResizeMode, Slice,
        UnaryFn,
    },
    op::window::PoolWindow,
};
use goshawk_passes::simplify;

#[test]
fn constants_fold_through_whole_subgraphs() {
    let mut n = Net::new(1);
    let x = n.input(&[1, 2, 3, 3]);
    let c = n.random(&[2, 1], -1.0, 1.0);
    let c = n.reshape(c, &[1, 2, 1, 1]);
    let c = n.unary(c, &[UnaryFn::Exp]);
    let d = n.random(&[1, 2, 3, 3], -1.0, 1.0);
    let c = n.mul(c, d);
    let y = n.add(x, c);
    let g = checked(&n.done(&[y]), simplify::constants::run);
    assert_eq!(ops(&g), ["binary"]);
    assert!(g.find("binary").is_some_and(|id| g.constant(id).is_some()), "it keeps its name");
}

#[test]
fn a_huge_constant_is_not_made() {
    let mut n = Net::new(2);
    let c = n.constant(&[1, 1, 1, 1], vec![1.0]);
    let resize = Resize {
        mode: ResizeMode::Nearest,
        coordinates: Coordinates::HalfPixel,
        nearest: NearestRule::RoundPreferFloor,
        size: [10_000, 10_000],
        scale: [1e4; 2],
    };
    let r = n.op(FloatOp::Resize(resize), &[c]);
    let mut g = n.done(&[r]);
    simplify::constants::run(&mut g).unwrap();
    assert_eq!(ops(&g), ["resize"]);
}

#[test]
fn identities_go() {
    let mut n = Net::new(3);
    let x = n.input(&[1, 4, 6, 1]);
    let x = n.relu(x);
    let y = n.unary(x, &[]);
    let y = n.reshape(y, &[1, 4, 6, 1]);
    let y = n.transpose(y, &[3, 1, 2, 0]);
    let whole = Slice { start: vec![0; 4], step: vec![1, 1, 1, -1], size: vec![1, 4, 6, 1] };
    let y = n.op(FloatOp::Slice(whole), &[y]);
    let y = n.pad(y, [0; 4], 1.0);
    let y = n.concat(1, &[y]);
    let y = n.max_pool(y, window(1, 1, 0));
    let y = n.avg_pool(y, window(1, 1, 0));
    let y = n.op(FloatOp::ReduceMean(Reduce { axes: vec![0, 3], keep_dims: true }), &[y]);
    let y = n.op(FloatOp::DepthToSpace(DepthToSpace { block: 1, order: DepthOrder::Dcr }), &[y]);
    for mode in [ResizeMode::Nearest, ResizeMode::Linear] {
        let same = Resize {
            mode,
            coordinates: Coordinates::HalfPixel,
            nearest: NearestRule::RoundPreferFloor,
            size: [6, 1],
            scale: [1.0; 2],
        };
        n.op(FloatOp::Resize(same.clone()), &[y]);
    }
    let y = n.op(FloatOp::ReduceSum(Reduce { axes: vec![3], keep_dims: false }), &[y]);
    let g = checked(&n.done(&[y]), simplify::identity::run);
    assert_eq!(ops(&g), ["unary", "reshape"]);
}

#[test]
fn what_only_looks_like_an_identity_stays() {
    let mut n = Net::new(4);
    let x = n.input(&[1, 4, 6, 6]);
    let reversed = Slice { start: vec![0, 0, 5, 0], step: vec![1, 1, -1, 1], size: vec![1, 4, 6, 6] };
    let a = n.op(FloatOp::Slice(reversed), &[x]);
    let a = n.transpose(a, &[0, 1, 3, 2]);
    let a = n.max_pool(a, PoolWindow { pads: [1, 1, 0, 0], ..window(2, 1, 0) });
    let shifted = Resize {
        mode: ResizeMode::Nearest,
        coordinates: Coordinates::TfHalfPixelForNn,
        nearest: NearestRule::RoundPreferCeil,
        size: [6, 6],
        scale: [1.0; 2],
    };
    let a = n.op(FloatOp::Resize(shifted), &[a]);
    let g = checked(&n.done(&[a]), simplify::identity::run);
    assert_eq!(ops(&g), ["slice", "transpose", "max_pool", "resize"]);
}

#[test]
fn outputs_stay_distinct_values() {
    let mut n = Net::new(5);
    let x = n.input(&[2, 3]);
    let a = n.unary(x, &[]);
    let b = n.relu(x);
    let c = n.reshape(b, &[2, 3]);
    let g = checked(&n.done(&[a, b, c]), simplify::identity::run);
    assert_eq!(ops(&g), ["reshape", "unary", "reshape"]);
    let nodes: std::collections::BTreeSet<_> = g.outputs.iter().map(|p| p.node).collect();
    assert_eq!(nodes.len(), 3);
    assert!(!nodes.contains(&g.inputs[0].node));
}

#[test]
fn reshapes_compose_and_unit_transposes_are_reshapes() {
    let mut n = Net::new(6);
    let x = n.input(&[2, 3, 4]);
    let a = n.reshape(x, &[6, 4]);
    let b = n.reshape(a, &[1, 6, 4]);
    let c = n.transpose(b, &[1, 0, 2]);
    let d = n.reshape(c, &[4, 6]);
    let g = checked(&n.done(&[d]), simplify::reshape::run);
    assert_eq!(ops(&g), ["reshape"]);
}

#[test]
fn transposes_compose_and_cancel() {
    let mut n = Net::new(7);
    let x = n.input(&[1, 3, 4, 5]);
    let a = n.transpose(x, &[0, 2, 3, 1]);
    let r = n.unary(a, &[UnaryFn::RELU]);
    let t = n.unary(r, &[UnaryFn::Tanh]);
    let b = n.transpose(t, &[0, 3, 1, 2]);
    let g = checked(&n.done(&[b]), simplify::transpose::run);
    let g = checked(&g, simplify::identity::run);
    assert_eq!(ops(&g), ["unary", "unary"]);

    let mut n = Net::new(8);
    let x = n.input(&[2, 3, 4]);
    let a = n.transpose(x, &[1, 2, 0]);
    let b = n.transpose(a, &[1, 0, 2]);
    let also = n.relu(a);
    let g = checked(&n.done(&[b, also]), simplify::transpose::run);
    assert_eq!(ops(&g), ["transpose", "transpose", "unary"], "the first one has another reader");
}

#[test]
fn slices_compose_and_see_through_concat() {
    let mut n = Net::new(9);
    let x = n.input(&[1, 8]);
    let a = n.op(FloatOp::Slice(Slice { start: vec![0, 7], step: vec![1, -2], size: vec![1, 4] }), &[x]);
    let b = n.op(FloatOp::Slice(Slice { start: vec![0, 3], step: vec![1, -3], size: vec![1, 2] }), &[a]);
    let g = checked(&n.done(&[b]), simplify::slice::run);
    assert_eq!(ops(&g), ["slice"]);

    let mut n = Net::new(10);
    let x = n.input(&[2, 3]);
    let y = n.input(&[2, 5]);
    let c = n.concat(1, &[x, y]);
    let inside = n.op(FloatOp::Slice(Slice { start: vec![0, 7], step: vec![1, -2], size: vec![2, 3] }), &[c]);
    let g = checked(&n.done(&[inside]), simplify::slice::run);
    assert_eq!(ops(&g), ["slice"]);

    let mut n = Net::new(11);
    let x = n.input(&[2, 3]);
    let y = n.input(&[2, 5]);
    let c = n.concat(1, &[x, y]);
    let across = n.op(FloatOp::Slice(Slice { start: vec![0, 2], step: vec![1, 1], size: vec![2, 3] }), &[c]);
    let g = checked(&n.done(&[across]), simplify::slice::run);
    assert_eq!(ops(&g), ["concat", "slice"]);
}

#[test]
fn scalars_become_functions() {
    let cases = [
        (BinaryFn::Add, true),
        (BinaryFn::Sub, true),
        (BinaryFn::Sub, false),
        (BinaryFn::Mul, true),
        (BinaryFn::Div, true),
        (BinaryFn::Div, false),
        (BinaryFn::Min, true),
        (BinaryFn::Max, false),
        (BinaryFn::Pow, true),
    ];
    for (function, constant_right) in cases {
        let mut n = Net::new(12);
        let x = n.input(&[2, 3]);
        let c = n.constant(&[1, 3], vec![2.0; 3]);
        let y = if constant_right { n.binary(function, x, c) } else { n.binary(function, c, x) };
        let g = checked(&n.done(&[y]), simplify::scalar::run);
        assert_eq!(ops(&g), ["unary"], "{function:?}");
        assert_eq!(the(&g, "unary").name, "binary");
    }
    // 2ˣ has no unary form, a widening constant is no scalar, and neither is one of several values.
    let mut n = Net::new(13);
    let x = n.input(&[1, 3]);
    let two = n.constant(&[1], vec![2.0]);
    let a = n.binary(BinaryFn::Pow, two, x);
    let wide = n.constant(&[2, 3], vec![2.0; 6]);
    let b = n.mul(a, wide);
    let several = n.random(&[3], -1.0, 1.0);
    let c = n.mul(b, several);
    let g = checked(&n.done(&[c]), simplify::scalar::run);
    assert_eq!(ops(&g), ["binary"; 3]);
}

#[test]
fn prelu_with_one_slope() {
    for (slope, want) in [(0.25, UnaryFn::LeakyRelu(0.25)), (0.0, UnaryFn::RELU)] {
        let mut n = Net::new(14);
        let x = n.input(&[1, 3, 2, 2]);
        let s = n.constant(&[3, 1, 1], vec![slope; 3]);
        let y = n.op(FloatOp::PRelu(goshawk_ir::op::float::NoAttrs {}), &[x, s]);
        let g = checked(&n.done(&[y]), simplify::scalar::run);
        let FloatOp::Unary(a) = &the(&g, "unary").op else { unreachable!() };
        assert_eq!(a.chain, [want]);
    }
}

#[test]
fn matmul_by_a_matrix_is_linear() {
    for lead in [&[5usize][..], &[2, 5], &[2, 3, 5]] {
        let mut n = Net::new(15);
        let x = n.input(&[lead, &[4]].concat());
        let w = n.random(&[4, 6], -1.0, 1.0);
        let y = n.matmul(x, w);
        let g = checked(&n.done(&[y]), simplify::matmul::run);
        assert_eq!(the(&g, "linear").ty.shape[1], 6);
        assert!(!ops(&g).contains(&"matmul"));
    }
    let mut n = Net::new(16);
    let (a, b) = (n.input(&[3, 4]), n.input(&[4, 3]));
    let y = n.matmul(a, b);
    let g = checked(&n.done(&[y]), simplify::matmul::run);
    assert_eq!(ops(&g), ["matmul"]);
}

#[test]
fn padding_joins_convolutions() {
    let mut n = Net::new(17);
    let x = n.input(&[1, 2, 5, 5]);
    let p = n.pad(x, [1, 0, 0, 1], 0.0);
    let p = n.pad(p, [0, 0, 1, 1], 0.0);
    let y = n.conv(p, 3, 3, 1, 1, true);
    let g = checked(&n.done(&[y]), simplify::pad::run);
    assert_eq!(ops(&g), ["conv"]);
    let FloatOp::Conv(a) = &the(&g, "conv").op else { unreachable!() };
    assert_eq!(a.window.pads, [2, 1, 2, 3]);

    let mut n = Net::new(18);
    let x = n.input(&[1, 2, 5, 5]);
    let p = n.pad(x, [1; 4], 0.5);
    let y = n.conv(p, 3, 3, 0, 1, true);
    let g = checked(&n.done(&[y]), simplify::pad::run);
    assert_eq!(ops(&g), ["pad", "conv"], "padded with something else");
}

#[test]
fn padding_joins_average_pools_where_exact() {
    let merged = |pool: PoolWindow, pads: [usize; 4]| {
        let mut n = Net::new(19);
        let x = n.input(&[1, 2, 6, 6]);
        let p = n.pad(x, pads, 0.0);
        let y = n.avg_pool(p, pool);
        ops(&checked(&n.done(&[y]), simplify::pad::run)) == ["avg_pool"]
    };
    assert!(merged(window(3, 2, 0), [1, 1, 1, 1]));
    assert!(merged(PoolWindow { count_include_pad: true, ..window(3, 2, 1) }, [0, 1, 1, 0]));
    assert!(!merged(window(3, 2, 1), [0, 1, 1, 0]), "its own padding does not count");
    assert!(!merged(PoolWindow { ceil_mode: true, ..window(3, 2, 0) }, [1, 1, 0, 0]));
    assert!(!merged(window(2, 2, 0), [2, 0, 0, 0]), "a window of padding only");
}

#[test]
fn padding_joins_max_pools_after_relu() {
    let merged = |relu: bool, pool: PoolWindow, pads: [usize; 4], value: f32| {
        let mut n = Net::new(20);
        let x = n.input(&[1, 2, 6, 6]);
        let x = if relu { n.relu(x) } else { x };
        let p = n.pad(x, pads, value);
        let y = n.max_pool(p, pool);
        !ops(&checked(&n.done(&[y]), simplify::pad::run)).contains(&"pad")
    };
    assert!(merged(true, window(3, 2, 0), [1; 4], 0.0));
    assert!(merged(true, window(3, 2, 1), [0, 1, 1, 0], -1.0));
    assert!(merged(false, window(3, 2, 0), [1; 4], f32::NEG_INFINITY));
    assert!(!merged(false, window(3, 2, 0), [1; 4], 0.0), "zero may win");
    assert!(!merged(true, window(3, 2, 0), [1; 4], 0.1), "so may 0.1");
    assert!(!merged(true, window(2, 2, 0), [2, 0, 0, 0], 0.0), "a window of padding only");
}

#[test]
fn common_subexpressions_merge() {
    let mut n = Net::new(21);
    let x = n.input(&[1, 2, 4, 4]);
    let values = n.rng.floats(2 * 2, -1.0, 1.0);
    let branch = |n: &mut Net| {
        let w = n.constant(&[2, 2, 1, 1], values.clone());
        let window = goshawk_ir::op::window::ConvWindow::unit();
        let c = n.op(FloatOp::Conv(goshawk_ir::op::float::Conv { window, clamp: None }), &[x, w]);
        n.relu(c)
    };
    let (a, b) = (branch(&mut n), branch(&mut n));
    let other = n.clip(a, 0.0, 1.0);
    let s = n.add(a, b);
    let t = n.add(s, other);
    let g = checked(&n.done(&[t]), simplify::subexpression::run);
    assert_eq!(ops(&g), ["conv", "unary", "unary", "binary", "binary"]);
}

#[test]
fn zeros_of_different_sign_are_different() {
    let mut n = Net::new(22);
    let x = n.input(&[2]);
    let (p, m) = (n.constant(&[1], vec![0.0]), n.constant(&[1], vec![-0.0]));
    let (a, b) = (n.mul(x, p), n.mul(x, m));
    let (a, b) = (n.unary(a, &[UnaryFn::Reciprocal(1.0)]), n.unary(b, &[UnaryFn::Reciprocal(1.0)]));
    let g = checked(&n.done(&[a, b]), simplify::subexpression::run);
    assert_eq!(ops(&g).len(), 4);
}

#[test]
fn dead_nodes_go_and_inputs_stay() {
    let mut n = Net::new(23);
    let x = n.input(&[2]);
    let unused = n.input(&[3]);
    n.relu(unused);
    let y = n.relu(x);
    let g = checked(&n.done(&[y]), simplify::dead::run);
    assert_eq!(ops(&g), ["unary"]);
    assert_eq!(g.inputs.len(), 2);
    assert_eq!(g.ty(g.inputs[1].node).shape, Shape::new([3]).unwrap());
}
