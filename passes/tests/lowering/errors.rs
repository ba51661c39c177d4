//! What cannot be lowered says why, where, and what to do; all problems at once.
use crate::net::{Net, min_max, no_attrs};
use goshawk_ir::{
    FloatOp, NodeId,
    op::float::{Binary, BinaryFn, Clamp, Slice},
};
use goshawk_passes::{
    bits::BitPlan,
    calibrate::Ranges,
    lower::{Options, lower, lower_traced},
};

fn errors(net: &mut Net) -> Vec<String> {
    let samples = net.samples(2);
    let ranges = min_max(&net.graph, &samples);
    let plan = BitPlan::uniform("w8a8").unwrap();
    lower_traced(&net.graph, &ranges, &plan, &Options::default())
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn all_unsupported_nodes_are_reported_together() {
    let mut net = Net::new(1);
    let a = net.input(&[4, 4]);
    let b = net.input(&[4, 4]);
    let product = net.add(FloatOp::MatMul(no_attrs()), &[a, b]);
    let quotient = net.add(FloatOp::Binary(Binary { function: BinaryFn::Div, clamp: None }), &[a, b]);
    let reversed =
        net.add(FloatOp::Slice(Slice { start: vec![0, 3], step: vec![1, -1], size: vec![4, 4] }), &[b]);
    let after = net.unary(product, &[goshawk_ir::op::float::UnaryFn::Tanh]);
    for id in [product, quotient, reversed, after] {
        net.output(id);
    }
    let messages = errors(&mut net);
    assert_eq!(messages.len(), 3, "{messages:?}");
    assert!(messages[0].starts_with("matmul1: ") && messages[0].contains("attention"));
    assert!(messages[1].starts_with("binary2: ") && messages[1].contains("quotient"));
    assert!(messages[2].starts_with("slice3: ") && messages[2].contains("negative steps"));
}

fn conv_net() -> (Net, NodeId) {
    let mut net = Net::new(2);
    let x = net.input(&[1, 3, 5, 5]);
    let y = net.conv(x, 4, 3, Some(Clamp::RELU));
    net.output(y);
    (net, y)
}

#[test]
fn missing_and_damaged_ranges() {
    let (mut net, y) = conv_net();
    let plan = BitPlan::uniform("w8a8").unwrap();
    let all = lower(&net.graph, &Ranges::default(), &plan, &Options::default()).unwrap_err().to_string();
    assert!(
        all.contains("input0: no calibrated range") && all.contains("conv3: no calibrated range"),
        "{all}"
    );
    let samples = net.samples(1);
    let mut ranges = min_max(&net.graph, &samples);
    ranges.map.insert(net.graph.node(y).name.clone(), (0.0, f32::NAN));
    let one = lower(&net.graph, &ranges, &plan, &Options::default()).unwrap_err();
    assert_eq!(one.location.as_deref(), Some("conv3"));
    let options = Options { residual_bits: 12, ..Options::default() };
    assert!(lower(&net.graph, &ranges, &plan, &options).unwrap_err().to_string().contains("8 or 16"));
}

#[test]
fn damaged_weights() {
    let (mut net, y) = conv_net();
    let w = net.graph.node(y).operands()[1];
    let FloatOp::Const(t) = &net.graph.node(w).op else { panic!("a constant") };
    let mut values = t.as_f32().unwrap().to_vec();
    values[5] = f32::INFINITY;
    let ranges = min_max(&net.graph, &net.random.samples_like(&[1, 3, 5, 5]));
    net.graph.node_mut(w).op =
        FloatOp::Const(goshawk_ir::Tensor::from_f32(t.shape().clone(), values).unwrap());
    let plan = BitPlan::uniform("w8a8").unwrap();
    let error = lower(&net.graph, &ranges, &plan, &Options::default()).unwrap_err();
    assert!(error.to_string().contains("conv3: constant const1: element 5 is inf"), "{error}");
}

#[test]
fn an_accumulator_that_can_overflow_is_refused() {
    let mut net = Net::new(3);
    let k = 70_000;
    let x = net.input(&[1, k]);
    let w = net.constant(&[1, k], &vec![0.5; k]);
    let y = net.add(FloatOp::Linear(goshawk_ir::op::float::Linear { clamp: None }), &[x, w]);
    let z = net.unary(x, &[goshawk_ir::op::float::UnaryFn::Abs]);
    let u = net.add(FloatOp::Linear(goshawk_ir::op::float::Linear { clamp: None }), &[z, w]);
    net.output(y);
    net.output(u);
    let messages = errors(&mut net);
    // Signed inputs reach only 128 from their zero point: that one fits.
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert!(messages[0].contains("linear4") && messages[0].contains("beyond 2^31"), "{messages:?}");
}
