//! Sums, products and other functions of two tensors.
use crate::net::{Net, expect_sqnr, lowered};
use goshawk_ir::{
    DType, FloatOp, IntGraph, IntOp, NodeId,
    op::{
        float::{Binary, BinaryFn, Clamp, Pad, Reduce, Slice, UnaryFn},
        window::ConvWindow,
    },
};
use goshawk_passes::{
    bits::BitPlan,
    calibrate::Ranges,
    lower::{Options, lower},
};

fn binary(net: &mut Net, function: BinaryFn, clamp: Option<Clamp>, a: NodeId, b: NodeId) -> NodeId {
    net.add(FloatOp::Binary(Binary { function, clamp }), &[a, b])
}

fn count(g: &IntGraph, f: impl Fn(&IntOp) -> bool) -> usize {
    g.ids().filter(|id| f(&g.node(*id).op)).count()
}

/// Two basic blocks of a ResNet, the second with an option-A shortcut (Slice and Pad).
fn resnet(seed: u64) -> Net {
    let mut net = Net::new(seed);
    let relu = Some(Clamp::RELU);
    let x = net.input(&[1, 3, 16, 16]);
    let x = net.conv(x, 8, 3, relu);
    let y = net.conv(x, 8, 3, relu);
    let y = net.conv(y, 8, 3, None);
    let x = binary(&mut net, BinaryFn::Add, relu, y, x);
    let down = ConvWindow { stride: [2, 2], pads: [1; 4], ..ConvWindow::unit() };
    let y = net.conv_with(x, 16, [3, 3], down, relu);
    let y = net.conv(y, 16, 3, None);
    let slice = Slice { start: vec![0; 4], step: vec![1, 1, 2, 2], size: vec![1, 8, 8, 8] };
    let short = net.add(FloatOp::Slice(slice), &[x]);
    let pad = Pad { before: vec![0, 4, 0, 0], after: vec![0, 4, 0, 0], value: 0.0 };
    let short = net.add(FloatOp::Pad(pad), &[short]);
    let x = binary(&mut net, BinaryFn::Add, relu, y, short);
    let x = net.add(FloatOp::ReduceMean(Reduce { axes: vec![2, 3], keep_dims: false }), &[x]);
    let x = net.linear(x, 10);
    net.output(x);
    net
}

#[test]
fn residual_network() {
    let g = expect_sqnr(&mut resnet(1), "w8a8", 30.0);
    // The first sum is read by a sum and a convolution: 16 bit, rescaled once. The second only by the pool: 8 bit.
    let sums: Vec<DType> =
        g.ids().filter(|i| matches!(g.node(*i).op, IntOp::Add(_))).map(|i| g.ty(i).dtype).collect();
    assert_eq!(sums, [DType::I16, DType::U8]);
    assert_eq!(count(&g, |op| matches!(op, IntOp::Requant(_))), 2);
    // The second sum's operands are on the first one's grid, its result is not.
    assert_eq!(unit_scales(&g), [[true; 2], [false; 2]]);
}

/// Whether the operands of each sum are added as they are.
fn unit_scales(g: &IntGraph) -> Vec<[bool; 2]> {
    let sum = |id: NodeId| match &g.node(id).op {
        IntOp::Add(add) => Some([add.a, add.b].map(|d| d.value() == 1.0)),
        _ => None,
    };
    g.ids().filter_map(sum).collect()
}

/// Sums and differences in a chain, each of the one before it and a convolution of that, `factors` times as large. The
/// last one is read by a convolution only and thus in bytes.
fn chain(factors: &[f32]) -> Net {
    let mut net = Net::new(11);
    let x = net.input(&[1, 3, 6, 6]);
    let mut x = net.conv(x, 8, 1, Some(Clamp::RELU));
    for (i, factor) in factors.iter().enumerate() {
        let y = net.conv(x, 8, 1, None);
        let scale = net.constant(&[1], &[*factor]);
        let y = binary(&mut net, BinaryFn::Mul, None, y, scale);
        x = binary(&mut net, [BinaryFn::Add, BinaryFn::Sub][i % 2], Some(Clamp::RELU), x, y);
    }
    let y = net.conv(x, 4, 1, None);
    net.output(y);
    net
}

#[test]
fn a_residual_stage_has_one_grid() {
    let g = expect_sqnr(&mut chain(&[0.5; 4]), "w8a8", 28.0);
    assert_eq!(unit_scales(&g), [[true; 2], [true; 2], [true; 2], [false; 2]]);
    let scales: Vec<f32> = g
        .ids()
        .filter(|id| g.ty(*id).dtype == DType::I16 && !g.is_output(*id))
        .filter_map(|id| g.ty(id).quant.as_ref()?.tensor_scale().ok())
        .collect();
    // The first convolution, three times what is added and the sum; the last sum's operand has its own.
    assert!(scales.len() == 8 && scales[..7].iter().all(|s| *s == scales[0]), "{scales:?}");
}

#[test]
fn a_stream_that_others_read_keeps_ten_bits() {
    // The middle sum is much larger than what it adds up, which a convolution reads too; what only it reads is not.
    let g = expect_sqnr(&mut chain(&[0.5, 30.0, 0.5, 0.5]), "w8a8", 28.0);
    assert_eq!(unit_scales(&g), [[true; 2], [false, true], [true; 2], [false; 2]]);
    // A difference much smaller than its operands is as fine as before.
    let mut net = Net::new(12);
    let x = net.input(&[1, 3, 6, 6]);
    let x = net.conv(x, 8, 1, None);
    let y = net.unary(x, &[UnaryFn::Affine(1.01, 0.0)]);
    let d = binary(&mut net, BinaryFn::Sub, None, x, y);
    let z = net.conv(d, 4, 1, None);
    let s = binary(&mut net, BinaryFn::Add, None, d, d);
    net.output(z);
    net.output(s);
    let (g, _) = lowered(&mut net, "w8a8", &Options::default());
    assert_eq!(unit_scales(&g), [[false; 2], [true; 2]]);
}

#[test]
fn network_outputs_keep_their_own_grid() {
    let mut net = Net::new(13);
    let x = net.input(&[1, 3, 6, 6]);
    let x = net.conv(x, 8, 1, None);
    let y = net.conv(x, 8, 1, None);
    let s = binary(&mut net, BinaryFn::Add, None, x, y);
    net.output(x);
    net.output(s);
    let own = |net: &mut Net, ranges: [f32; 3]| {
        let mut map: std::collections::BTreeMap<String, (f32, f32)> = Default::default();
        map.extend(net.graph.ids().map(|id| (net.graph.node(id).name.clone(), (-1.0, 1.0))));
        map.extend(
            [x, y, s].map(|id| net.graph.node(id).name.clone()).into_iter().zip(ranges.map(|r| (-r, r))),
        );
        let ranges = Ranges { map, ..Ranges::default() };
        let g = lower(&net.graph, &ranges, &BitPlan::uniform("w8a8").unwrap(), &Options::default()).unwrap();
        unit_scales(&g)
    };
    assert_eq!(own(&mut net, [1.0, 1.0, 1.0]), [[true; 2]]);
    assert_eq!(own(&mut net, [1.0, 0.5, 2.0]), [[false, true]]);
    assert_eq!(own(&mut net, [1.0, 2.0, 1.0]), [[true, false]]);
}

#[test]
fn residual_grid_of_8_bits_has_no_wide_tensors_inside() {
    let options = Options { residual_bits: 8, ..Options::default() };
    let (g, _) = lowered(&mut resnet(2), "w8a8", &options);
    let wide = g.ids().filter(|i| g.ty(*i).dtype == DType::I16 && !g.is_output(*i)).count();
    assert_eq!((wide, count(&g, |op| matches!(op, IntOp::Requant(_)))), (0, 0));
}

#[test]
fn lower_widths_lose_precision_gracefully() {
    expect_sqnr(&mut resnet(3), "w6a6", 18.0);
    expect_sqnr(&mut resnet(3), "w4a8", 8.0);
    expect_sqnr(&mut resnet(3), "w4a4", 4.0);
}

#[test]
fn four_bit_layers_read_four_bits() {
    let (g, _) = lowered(&mut resnet(4), "w4a4", &Options::default());
    for id in g.ids().filter(|i| matches!(g.node(*i).op, IntOp::Conv(_) | IntOp::Linear(_))) {
        let [x, w, _] = g.operand_types(id)[..] else { panic!("three operands") };
        let ends = ["conv3", "linear"].iter().any(|n| g.node(id).name.starts_with(n));
        let want = if ends { (8, DType::I8) } else { (4, DType::I4) };
        assert_eq!((x.quant.as_ref().unwrap().bits, w.dtype), want, "{}", g.node(id).name);
    }
}

#[test]
fn squeeze_and_excitation() {
    let mut net = Net::new(5);
    let x = net.input(&[2, 6, 8, 8]);
    let x = net.conv(x, 8, 3, None);
    let x = net.unary(x, &[UnaryFn::HardSwish]);
    let s = net.add(FloatOp::ReduceMean(Reduce { axes: vec![2, 3], keep_dims: true }), &[x]);
    let s = net.conv(s, 4, 1, Some(Clamp::RELU));
    let s = net.conv(s, 8, 1, None);
    let s = net.unary(s, &[UnaryFn::Sigmoid]);
    let y = binary(&mut net, BinaryFn::Mul, None, x, s);
    let y = net.conv(y, 5, 1, None);
    net.output(y);
    expect_sqnr(&mut net, "w8a8", 28.0);
}

#[test]
fn functions_of_two_tensors_broadcast() {
    let functions = [BinaryFn::Add, BinaryFn::Sub, BinaryFn::Mul, BinaryFn::Min, BinaryFn::Max];
    for function in functions {
        for dims in [vec![1, 6, 5, 4], vec![1, 6, 1, 1], vec![1, 1, 5, 4], vec![6, 1, 1]] {
            let mut net = Net::new(6);
            let a = net.input(&[1, 6, 5, 4]);
            let b = net.input(&dims);
            let x = binary(&mut net, function, None, a, b);
            let y = binary(&mut net, function, Some(Clamp { lo: -0.5, hi: 1.0 }), b, a);
            net.output(x);
            net.output(y);
            expect_sqnr(&mut net, "w8a8", 30.0);
        }
    }
}

#[test]
fn functions_of_a_tensor_and_a_constant() {
    use BinaryFn::{Add, Div, Max, Min, Mul, Pow, Sub};
    for function in [Add, Sub, Mul, Div, Min, Max, Pow] {
        for dims in [vec![1, 6, 1, 1], vec![6, 1, 1], vec![4], vec![1], vec![1, 1, 5, 1], vec![1, 6, 5, 4]] {
            let full = dims.len() == 4 && dims[1] * dims[2] == 30;
            for constant_first in [false, true] {
                if function == Pow && (constant_first || full) || function == Div && full {
                    continue;
                }
                let mut net = Net::new(7);
                let x = net.input(&[1, 6, 5, 4]);
                let x = net.unary(x, &[UnaryFn::Sigmoid, UnaryFn::Affine(1.0, 0.5)]);
                let values: Vec<f32> =
                    (0..dims.iter().product()).map(|i| 0.5 + 0.3 * (i % 5) as f32).collect();
                let c = net.constant(&dims, &values);
                let (a, b) = if constant_first { (c, x) } else { (x, c) };
                let y = binary(&mut net, function, Some(Clamp { lo: -3.0, hi: 4.0 }), a, b);
                net.output(y);
                expect_sqnr(&mut net, "w8a8", 30.0);
            }
        }
    }
}

#[test]
fn constants_on_matrices() {
    let mut net = Net::new(8);
    let x = net.input(&[3, 10]);
    let c = net.random(&[10], 1.0);
    let x = binary(&mut net, BinaryFn::Mul, None, x, c);
    let d = net.random(&[1, 10], 1.0);
    let x = binary(&mut net, BinaryFn::Add, Some(Clamp::RELU), x, d);
    net.output(x);
    expect_sqnr(&mut net, "w8a8", 30.0);
}
