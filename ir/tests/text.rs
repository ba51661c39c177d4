//! The text form: exact round trips, located errors, no panic on damaged text.
use goshawk_ir::{
    DType, FloatGraph, FloatOp, IntGraph, IntOp, Layout, Operator, QParams, Shape, Tensor, TensorType,
    attr::AttrValue,
    op::float::{
        Binary, BinaryFn, Clamp, Conv, Coordinates, DepthOrder, DepthToSpace, NearestRule, Pad, Reduce,
        Resize, ResizeMode, Slice, Unary, UnaryFn,
    },
    op::window::{ConvWindow, PoolWindow},
    text::{parse, print},
};

const INT: &str = r#"gir 1 int "tiny \"net\""

input "x" = %x nchw
%x: u8[1,2,2,1] q(0.5, 3, 8) = input
%w: i4[3,1,1,1] q(axis(0, [0.25, 1e-5, 3.4028235e38]), 0, 4) = const [-7, 7, 0]
%b: i32[3] q(axis(0, [0.125, 5e-6, 1.0]), 0, 32) = const [12, -2147483648, 2147483647]
%"y:0 \\ \u{7}": u8[1,2,2,3] q(1.0, 0, 8) = conv(%x, %w, %b) {window = window(stride([1, 1]), pads([0, 0, 0, 0]), dilation([1, 1]), groups(1)), requant = requant([dyadic(1073741824, 31)], 0, 0, 255)}
%t: u8[1,256] = const hex(
  000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f
  303132333435363738393a3b3c3d3e3f404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f
  606162636465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f808182838485868788898a8b8c8d8e8f
  909192939495969798999a9b9c9d9e9fa0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf
  c0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedfe0e1e2e3e4e5e6e7e8e9eaebecedeeef
  f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff
)
%l: u8[1,2,2,3] q(1.0, 0, 8) = lut(%"y:0 \\ \u{7}", %t)
output "y" = %l nchw
output "also y" = %l same
"#;

#[test]
fn printing_inverts_parsing() {
    let graph = parse::<IntOp>(INT).unwrap();
    assert_eq!(print(&graph), INT);
    assert_eq!(graph.name, "tiny \"net\"");
    assert_eq!(graph.node(graph.outputs[0].node).operands().len(), 2);
    assert!(graph.find("y:0 \\ \u{7}").is_some());
}

fn f32s(values: &[f32]) -> Tensor {
    Tensor::from_f32(Shape::new([values.len()]).unwrap(), values).unwrap()
}

#[test]
fn every_bit_of_a_float_survives() {
    let specials = [
        0.0,
        -0.0,
        1.0,
        f32::MIN_POSITIVE / 8.0,
        f32::MAX,
        f32::MIN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::from_bits(0xffc0_0000),
        f32::from_bits(0x7f80_0001),
        f32::EPSILON,
        0.1,
        1e10,
        1.6e-7,
    ];
    let mut g = FloatGraph::new("floats");
    g.add_const("short", f32s(&specials), None);
    let long: Vec<f32> = (0..5000u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9))).collect();
    g.add_const("long", f32s(&long), None);
    for (i, v) in long.iter().enumerate() {
        let q = QParams::per_channel(0, vec![*v], 8);
        g.add_const(format!("c{i}"), f32s(&[*v]), Some(q));
    }
    let text = print(&g);
    let back = parse::<FloatOp>(&text).unwrap();
    assert_eq!(print(&back), text);
    for name in ["short", "long", "c17", "c4999"] {
        let bytes = |g: &FloatGraph| g.constant(g.find(name).unwrap()).unwrap().to_bytes();
        assert_eq!(bytes(&g), bytes(&back), "{name}");
    }
}

#[test]
fn attributes_of_float_operators() {
    let mut g = FloatGraph::new("attributes");
    let ty = |d: &[usize]| TensorType::f32(Shape::new(d).unwrap());
    let x = g.add_input("x", ty(&[1, 4, 5, 5]), Layout::Same);
    let w =
        g.add_const("w", Tensor::from_f32(Shape::new([4, 2, 3, 3]).unwrap(), vec![0.5; 72]).unwrap(), None);
    let window = ConvWindow { stride: [2, 1], pads: [1, 0, 2, 1], dilation: [1, 2], groups: 2 };
    let conv = FloatOp::Conv(Conv { window, clamp: Some(Clamp::RELU) });
    let c = g.add("c", conv, &[x, w], ty(&[1, 4, 3, 2]));
    let functions = vec![
        UnaryFn::RELU,
        UnaryFn::LeakyRelu(0.01),
        UnaryFn::Elu(1.0),
        UnaryFn::HardSwish,
        UnaryFn::HardSigmoid(0.2, 0.5),
        UnaryFn::Sigmoid,
        UnaryFn::Silu,
        UnaryFn::Mish,
        UnaryFn::Tanh,
        UnaryFn::Gelu,
        UnaryFn::GeluTanh,
        UnaryFn::Erf,
        UnaryFn::Softplus,
        UnaryFn::Exp,
        UnaryFn::Log,
        UnaryFn::Sqrt,
        UnaryFn::Abs,
        UnaryFn::Pow(2.0),
        UnaryFn::Affine(-1.0, f32::NEG_INFINITY),
        UnaryFn::Reciprocal(1.0),
    ];
    let u = g.add("u", FloatOp::Unary(Unary { chain: functions }), &[c], ty(&[1, 4, 3, 2]));
    let s = Slice { start: vec![0, 3, 2, 1], step: vec![1, -1, -2, -1], size: vec![1, 4, 2, 2] };
    g.add("s", FloatOp::Slice(s), &[u], ty(&[1, 4, 2, 2]));
    let pad = Pad { before: vec![0; 4], after: vec![0, 0, 1, 1], value: f32::NEG_INFINITY };
    g.add("p", FloatOp::Pad(pad), &[u], ty(&[1, 4, 4, 3]));
    let resize = Resize {
        mode: ResizeMode::Linear,
        coordinates: Coordinates::PytorchHalfPixel,
        nearest: NearestRule::RoundPreferCeil,
        size: [6, 5],
        scale: [2.0, 2.5],
    };
    g.add("r", FloatOp::Resize(resize), &[u], ty(&[1, 4, 6, 5]));
    g.add(
        "d",
        FloatOp::DepthToSpace(DepthToSpace { block: 2, order: DepthOrder::Crd }),
        &[u],
        ty(&[1, 1, 6, 4]),
    );
    let pool = PoolWindow { ceil_mode: true, count_include_pad: true, ..PoolWindow::global(2, 2) };
    g.add("a", FloatOp::AvgPool(pool), &[u], ty(&[1, 4, 2, 1]));
    g.add("m", FloatOp::ReduceMean(Reduce { axes: vec![2, 3], keep_dims: true }), &[u], ty(&[1, 4, 1, 1]));
    let add = FloatOp::Binary(Binary { function: BinaryFn::Add, clamp: None });
    let y = g.add("y", add, &[u, u], ty(&[1, 4, 3, 2]));
    g.add_output("y", y, Layout::Same);
    let back = parse::<FloatOp>(&print(&g)).unwrap();
    assert_eq!(back, g);
    assert_eq!(print(&back), print(&g));
}

#[test]
fn packed_constants_of_odd_length() {
    let mut g = IntGraph::new("odd");
    let values: Vec<i32> = (0..99).map(|i| i % 16 - 8).collect();
    g.add_const("w", Tensor::from_ints(DType::I4, Shape::new([99]).unwrap(), &values).unwrap(), None);
    let text = print(&g);
    let back = parse::<IntOp>(&text).unwrap();
    assert_eq!(back.constant(back.find("w").unwrap()).unwrap().to_ints().unwrap(), values);
    let spare = text.replace("0a\n)", "1a\n)");
    assert_ne!(spare, text);
    assert!(parse::<IntOp>(&spare).unwrap_err().message.contains("spare nibble"));
}

#[test]
fn errors_name_line_and_column() {
    let head = "gir 1 int \"t\"\n";
    let cases = [
        ("gor 1 int \"t\"", "line 1, column 1: expected gir"),
        ("gir 2 int \"t\"", "line 1, column 5: format version 1 expected"),
        ("gir 1 float \"t\"", "line 1, column 7: a graph of kind int expected"),
        ("gir 1 int \"t", "line 1, column 11: the text has no closing quote"),
        ("gir 1 int \"t\\x\"", "line 1, column 11: expected \\\""),
        ("H%x: u9[1] = input", "line 2, column 5: unknown element type u9"),
        ("H%x: u8[1,0] = input", "line 2, column 11: shape [1, 0] has a dimension of 0"),
        ("H%x: u8[1] = input\n%x: u8[1] = input", "line 3, column 1: %x is defined twice"),
        ("H%y: u8[1] = requant(%x)", "line 2, column 21: %x is not defined before"),
        ("Houtput \"y\" = %y same", "line 2, column 14: %y is not defined"),
        ("H%x: u8[1] = input\noutput \"y\" = %x nhwc", "line 3, column 17: expected same or nchw"),
        ("H%x: u8[1] = input\n%y: u8[1] = blur(%x)", "line 3, column 13: unknown operator blur"),
        ("H%x: u8[1] = input\n%y: u8[1] = concat(%x)", "line 3, column 13: attribute axis is missing"),
        ("H%x: u8[1] = input\n%y: u8[1] = concat(%x) {axis = 0, axis = 0}", "attribute axis is given twice"),
        ("H%x: u8[1] = input\n%y: u8[1] = concat(%x) {axis = 0, a = 0}", "unknown attribute a"),
        ("H%c: u8[2] = const [1, 300]", "line 2, column 13: value 300 does not fit in u8"),
        ("H%c: u8[2] = const [1]", "1 values for shape [2]"),
        ("H%c: u8[2] = const [1, 1.5]", "line 2, column 23: expected a value of type u8"),
        ("H%c: u8[2] = const hex(0g)", "line 2, column 24: expected a hexadecimal digit"),
        ("H%c: u8[2] = const hex(012)", "an odd number of hexadecimal digits"),
        ("H%c: u8[2] = const hex(01)", "1 bytes for u8[2], expected 2"),
        ("H%c: u8[2] = const hex(01", "the constant does not end"),
        ("H%c: f32[1] = const [1e99]", "1e99 is not a number in range"),
        ("H%c: f32[1] = const [nan(0x0)]", "expected nan(0x…)"),
        ("H%c: u8[1] q(1.0, 0, 300) = input", "300 is out of range"),
    ];
    for (text, want) in cases {
        let text = text.strip_prefix('H').map_or_else(|| text.to_owned(), |t| format!("{head}{t}"));
        let error = parse::<IntOp>(&text).unwrap_err().to_string();
        assert!(error.contains(want), "{text}\n gave {error}\n  not {want}");
        assert!(error.starts_with("line "), "{error}");
    }
    let deep = format!("{head}%x: u8[1] = concat() {{axis = {}0{}}}", "[".repeat(9999), "]".repeat(9999));
    assert!(parse::<IntOp>(&deep).unwrap_err().message.contains("nested"));
}

#[test]
fn damaged_text_gives_errors_and_no_panic() {
    for end in (0..INT.len()).filter(|i| INT.is_char_boundary(*i)) {
        let _ = parse::<IntOp>(&INT[..end]);
    }
    let bytes = INT.as_bytes();
    for (i, c) in (0..bytes.len()).flat_map(|i| b"0\"%[(;-}\xc3".iter().map(move |c| (i, *c))) {
        let mut damaged = bytes.to_vec();
        damaged[i] = c;
        let _ = parse::<IntOp>(&String::from_utf8_lossy(&damaged));
    }
}

#[test]
fn every_operator_has_a_distinct_name() {
    for names in [FloatOp::NAMES, IntOp::NAMES] {
        let set: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(set.len(), names.len());
        assert!(!names.contains(&"input") && !names.contains(&"const"));
    }
    assert!(Vec::<usize>::from_attr(&goshawk_ir::attr::Attr::Int(1)).is_err());
}
