//! Bit plans.
use crate::net::{Net, lowered};
use goshawk_ir::{
    FloatOp, IntOp, NodeId,
    op::float::{Binary, BinaryFn, Clamp},
};
use goshawk_passes::{
    bits::{BitPlan, LayerBits, coupling_classes},
    lower::{Options, quantized_bits},
};

/// input → conv3 → {conv6 → conv9, conv12} → sum → conv16 → conv19
fn branched() -> (Net, Vec<NodeId>) {
    let mut net = Net::new(1);
    let relu = Some(Clamp::RELU);
    let x = net.input(&[1, 3, 6, 6]);
    let first = net.conv(x, 8, 3, relu);
    let a = net.conv(first, 8, 3, relu);
    let b = net.conv(a, 8, 3, None);
    let c = net.conv(first, 8, 1, None);
    let sum = net.add(FloatOp::Binary(Binary { function: BinaryFn::Add, clamp: relu }), &[b, c]);
    let d = net.conv(sum, 8, 3, relu);
    let last = net.conv(d, 4, 1, None);
    net.output(last);
    (net, vec![first, a, b, c, d, last])
}

#[test]
fn widths_are_parsed() {
    assert_eq!(LayerBits::parse("w4a8").unwrap(), LayerBits { weights: 4, activations: 8 });
    for bad in ["", "w4", "a8w8", "w1a8", "w8a9", "w4a8x", "44"] {
        assert!(LayerBits::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn first_and_last_layers_stay_at_8_bits_unless_listed() {
    let (net, layers) = branched();
    let mut plan = BitPlan::uniform("w4a4").unwrap();
    let resolved = plan.resolve(&net.graph).unwrap();
    let name = |i: usize| net.graph.node(layers[i]).name.clone();
    let four = LayerBits { weights: 4, activations: 4 };
    let widths: Vec<_> = (0..6).map(|i| resolved[&name(i)]).collect();
    assert_eq!(widths, [LayerBits::W8A8, four, four, four, four, LayerBits::W8A8]);
    plan.layers.insert(name(0), four);
    assert_eq!(plan.resolve(&net.graph).unwrap()[&name(0)], four);
    plan.pin_last = false;
    assert_eq!(plan.resolve(&net.graph).unwrap()[&name(5)], four);
}

#[test]
fn layers_that_read_one_tensor_share_its_bits() {
    let (net, layers) = branched();
    assert_eq!(coupling_classes(&net.graph).unwrap(), [vec![layers[1], layers[3]]]);
    let name = |i: usize| net.graph.node(layers[i]).name.clone();
    let mut plan = BitPlan::uniform("w8a8").unwrap();
    plan.layers.insert(name(1), LayerBits { weights: 4, activations: 4 });
    let resolved = plan.resolve(&net.graph).unwrap();
    assert_eq!(resolved[&name(3)], LayerBits { weights: 8, activations: 4 });
    plan.layers.insert(name(3), LayerBits { weights: 4, activations: 8 });
    let error = plan.resolve(&net.graph).unwrap_err();
    assert_eq!(error.location.as_deref(), Some(&name(3)[..]));
    assert!(error.message.contains(&name(1)), "{error}");
}

#[test]
fn unknown_layers_and_bad_widths_are_errors() {
    let (net, _) = branched();
    let mut plan = BitPlan::uniform("w8a8").unwrap();
    plan.layers.insert("convv6".into(), LayerBits::W8A8);
    let error = plan.resolve(&net.graph).unwrap_err().to_string();
    assert!(error.contains("did you mean") && error.contains("conv6"), "{error}");
    plan.layers = [("conv6".to_owned(), LayerBits { weights: 1, activations: 8 })].into();
    assert!(plan.resolve(&net.graph).unwrap_err().to_string().contains("between 2 and 8"));
    // Only layers have bits.
    plan.layers = [("binary13".to_owned(), LayerBits::W8A8)].into();
    assert!(plan.resolve(&net.graph).is_err());
}

#[test]
fn every_width_reaches_the_graph() {
    for weights in 2..=8 {
        for activations in 2..=8 {
            let (mut net, layers) = branched();
            let (g, _) = lowered(&mut net, &format!("w{weights}a{activations}"), &Options::default());
            let name = net.graph.node(layers[2]).name.clone();
            let id = g.find(&name).unwrap();
            let [x, w, _] = g.operand_types(id)[..] else { panic!("three operands") };
            assert_eq!(x.quant.as_ref().unwrap().bits, activations);
            assert_eq!(w.quant.as_ref().unwrap().bits, weights);
            assert_eq!(w.dtype.bits(), if weights <= 4 { 4 } else { 8 });
        }
    }
}

#[test]
fn equal_readers_share_one_rescale() {
    let (mut net, _) = branched();
    let options = Options::default();
    let (g, _) = lowered(&mut net, "w4a4", &options);
    let requants = g.ids().filter(|id| matches!(g.node(*id).op, IntOp::Requant(_))).count();
    assert_eq!(requants, 0, "every tensor is read at one width");
    let bits =
        quantized_bits(&net.graph, &BitPlan::uniform("w4a4").unwrap().resolve(&net.graph).unwrap(), &options);
    let bits = bits.unwrap();
    assert_eq!((bits["input0"], bits["conv3"], bits["conv9"]), (8, 4, 16));
}
