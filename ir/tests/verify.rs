//! One negative test for each rule of the verifier: a valid graph, one change, the error and where it is.
use goshawk_ir::{
    FloatOp, Graph, IntGraph, IntOp, IrError, Layout, Operator, Port, Shape, Tensor, TensorType,
    text::{parse, print},
    verify,
};

const INT: &str = r#"gir 1 int "valid"
input "x" = %x nchw
input "r" = %r same
%x: u8[1,4,4,2] q(0.5, 3, 8) = input
%r: i16[1,4,4,2] q(0.25, 0, 16) = input
%w: i8[2,1,1,2] q(axis(0, [0.5, 0.25]), 0, 8) = const [127, -127, 3, 4]
%b: i32[2] q(axis(0, [0.25, 0.125]), 0, 32) = const [100, -100]
%conv: u8[1,4,4,2] q(1.0, 7, 4) = conv(%x, %w, %b) {window = window(stride([1, 1]), pads([0, 0, 0, 0]), dilation([1, 1]), groups(1)), requant = requant([dyadic(1073741824, 32), dyadic(0, 62)], 7, 0, 15)}
%up: i16[1,4,4,2] q(0.25, 0, 16) = requant(%conv) {requant = requant([dyadic(1073741824, 28)], 0, -32767, 32767)}
%add: i16[1,4,4,2] q(0.25, 0, 16) = add(%up, %r) {a = dyadic(1073741824, 31), b = dyadic(1073741824, 31), subtract = false, zero_point = 0, lo = 0, hi = 32767}
%max: i16[1,2,2,2] q(0.25, 0, 16) = max_pool(%add) {kernel = [2, 2], stride = [2, 2], pads = [0, 0, 0, 0], dilation = [1, 1], ceil_mode = false, count_include_pad = false}
%mean: u8[1,1,1,2] q(0.5, 1, 8) = avg_pool(%max) {window = window(kernel([2, 1]), stride([1, 2]), pads([0, 0, 0, 0]), dilation([1, 1]), ceil_mode(false), count_include_pad(false)), requant = requant([dyadic(1073741824, 31), dyadic(1073741824, 32)], 1, 0, 255)}
%scale: u8[1,4,4,2] q(0.5, 3, 8) = mul(%x, %mean) {requant = requant([dyadic(1073741824, 35)], 3, 0, 255)}
%table: u8[1,256] = const hex(TABLE)
%lut: u8[1,4,4,2] q(0.5, 3, 8) = lut(%scale, %table)
%even: u8[1,4,4,2] q(0.5, 3, 8) = const [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8]
%concat: u8[1,4,4,4] q(0.5, 3, 8) = concat(%lut, %even) {axis = 3}
%pad: u8[1,4,4,5] q(0.5, 3, 8) = pad(%concat) {before = [0, 0, 0, 1], after = [0, 0, 0, 0], value = 3}
%slice: u8[1,4,4,5] q(0.5, 3, 8) = slice(%pad) {start = [0, 0, 0, 0], step = [1, 1, 1, 1], size = [1, 4, 4, 5]}
%turn: u8[1,5,4,4] q(0.5, 3, 8) = transpose(%slice) {perm = [0, 3, 1, 2]}
%near: u8[1,1,1,4] q(0.5, 3, 8) = resize_nearest(%turn) {rows = [4], columns = [0]}
%line: u8[1,1,1,4] q(0.5, 3, 8) = resize_linear(%near) {rows = [tap(0, 0, 0)], columns = [tap(0, 0, 2048)]}
%flat: u8[1,4] q(0.5, 3, 8) = reshape(%line) {shape = [1, 4]}
%wl: i4[1,4] q(0.5, 0, 4) = const [7, -7, 0, 1]
%bl: i32[1] = const [0]
%linear: u8[1,1] q(0.5, 0, 2) = linear(%flat, %wl, %bl) {requant = requant([dyadic(1073741824, 32)], 0, 0, 3)}
%exp: i32[256] = const hex(EXP)
%soft: i16[1,1] q(3.0517578e-5, 0, 16) = softmax(%linear, %exp)
output "logits" = %linear same
output "p" = %soft same
output "image" = %turn nchw
"#;

fn base() -> String {
    let table: String = (0..256).map(|i| format!("{:02x}", 255 - i)).collect();
    INT.replace("TABLE", &table).replace("EXP", &"01000000".repeat(256))
}

fn int(text: &str) -> Vec<String> {
    let graph = parse::<IntOp>(text).unwrap_or_else(|e| panic!("{e}"));
    let errors = verify::int(&graph).err().unwrap_or_default();
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn the_base_graph_is_valid() {
    assert_eq!(int(&base()), Vec::<String>::new());
}

/// (what is replaced in the line of a node or port, by what, the error)
const CASES: &[(&str, &str, &str, &str)] = &[
    // Rule 2: ports.
    ("output \"p\"", "\"p\"", "\"logits\"", "two outputs have the name logits"),
    ("input \"r\"", "\"r\"", "\"x\"", "two inputs have the name x"),
    ("output \"p\"", "\"p\"", "\"\"", "an output has no name"),
    ("output \"p\"", "same", "nchw", "output p is nchw, but its shape is [1,1]"),
    ("input \"r\"", "%r", "%x", "x has 2 input ports instead of one"),
    ("input \"r\"", "%r", "%conv", "input r names conv, a node of kind conv"),
    // Rule 4: shapes and attributes.
    ("%conv", "u8[1,4,4,2]", "u8[1,4,4,3]", "conv: the shape is [1,4,4,2], declared [1,4,4,3]"),
    ("%conv", "groups(1)", "groups(3)", "conv: 3 groups do not divide 2 input and 2 output channels"),
    ("%conv", "(%x, %w, %b)", "(%x, %w)", "conv: an integer convolution has a bias"),
    (
        "%mean",
        "[dyadic(1073741824, 31), ",
        "[",
        "mean: an average over 2 cells has as many dyadic numbers, got 1",
    ),
    ("%scale", "[dyadic(1073741824, 35)]", "[]", "scale: 0 dyadic numbers for 1 channels"),
    ("%near", "rows = [4]", "rows = [5]", "near: resize index is outside the operand"),
    ("%line", "2048", "2049", "line: resize tap is outside the operand or of weight above 2048"),
    ("%slice", "step = [1,", "step = [-1,", "slice: integer slices have positive steps"),
    // Rule 5: windows.
    (
        "%max",
        "stride = [2, 2], pads = [0, 0, 0, 0]",
        "stride = [5, 2], pads = [5, 0, 0, 0]",
        "max: window 0 along rows has no tap",
    ),
    (
        "%mean",
        "stride([1, 2]), pads([0, 0, 0, 0])",
        "stride([3, 2]), pads([2, 0, 0, 0])",
        "mean: window 0 along rows has no tap",
    ),
    // Rule 8: activations.
    ("%x", "0.5", "0.0", "x: result: scale 0.0 is not between"),
    ("%x", "0.5", "-0.5", "x: result: scale -0.5 is not between"),
    ("%x", "0.5", "nan", "x: result: scale NaN is not between"),
    ("%x", "0.5", "inf", "x: result: scale inf is not between"),
    ("%x", "0.5", "8e-19", "x: result: scale 8e-19 is not between"),
    ("%x", "0.5", "1.2e18", "x: result: scale 1.2e18 is not between"),
    ("%x", "3, 8", "256, 8", "x: result: the zero point of u8 lies in 0..=255, got 256"),
    ("%x", "3, 8", "-1, 8", "x: result: the zero point of u8 lies in 0..=255, got -1"),
    ("%x", "3, 8", "3, 9", "x: result: u8 activations have 2..=8 bits, got 9"),
    ("%x", "3, 8", "3, 1", "x: result: u8 activations have 2..=8 bits, got 1"),
    ("%r", "0, 16", "1, 16", "r: result: the zero point of i16 lies in 0..=0, got 1"),
    ("%r", "0, 16", "0, 15", "r: result: i16 activations have 16..=16 bits, got 15"),
    ("%x", " q(0.5, 3, 8)", "", "x: result: a quantized tensor is needed here"),
    ("%x", "q(0.5", "q(axis(3, [0.5, 0.5])", "x: result: expected one scale for the tensor"),
    ("%x", "u8", "i8", "x: result: expected u8 or i16, got i8"),
    // Rule 9: constant activations.
    ("%even", "[1, 2,", "[1, 200,", ""),
    ("%even", "3, 8", "3, 7", "concat: operand u8["),
    // Rule 10: weights.
    ("%w", "i8", "i16", "conv: weights are i8 or i4, got i16"),
    ("%w", "0, 8", "1, 8", "conv: the zero point of a weight is 0, got 1"),
    ("%w", "0, 8", "0, 9", "conv: i8 weights have 2 to 8 bits, got 9"),
    ("%wl", "0, 4", "0, 5", "linear: i4 weights have 2 to 4 bits, got 5"),
    ("%w", "127, -127", "127, -128", "conv: the weight has the value -128, outside -127..=127"),
    ("%wl", "7, -7", "7, -8", "linear: the weight has the value -8, outside -7..=7"),
    ("%wl", "0, 4", "0, 3", "linear: the weight has the value 7, outside -3..=3"),
    ("%w", "[0.5, 0.25]", "[0.5]", "conv: 1 scales along axis 0 do not fit a weight of shape [2,1,1,2]"),
    ("%w", "axis(0,", "axis(3,", "conv: 2 scales along axis 3 do not fit"),
    ("%w", "0.25]", "0.0]", "conv: scale 0.0 is not between"),
    ("%w", " q(axis(0, [0.5, 0.25]), 0, 8)", "", "conv: a quantized tensor is needed here"),
    // Rule 11: biases.
    ("%b", "i32", "i16", "conv: biases are i32, got i16"),
    ("%b", "0, 32", "5, 32", "conv: the zero point of a bias is 0, got 5"),
    ("%b", "0, 32", "0, 31", "conv: biases have 32 bits, got 31"),
    ("%b", "[0.25, 0.125]", "[0.25]", "conv: 1 scales along axis 0 do not fit a bias"),
    // Rule 12: operand and result types.
    ("%scale", "%x, %mean", "%x, %r", "scale: operand 1: expected u8, got i16"),
    ("%lut", "%scale", "%r", "lut: operand 0: expected u8, got i16"),
    (
        "%soft",
        "i16[1,1] q(3.0517578e-5, 0, 16)",
        "u8[1,1] q(3.0517578e-5, 0, 8)",
        "soft: a softmax makes i16 of scale 2^-15",
    ),
    ("%soft", "3.0517578e-5", "3.1e-5", "soft: a softmax makes i16 of scale 2^-15"),
    // Rule 13: dyadic numbers and clamps.
    ("%conv", "dyadic(0, 62)", "dyadic(-1, 62)", "conv: dyadic(-1, 62) needs mult >= 0"),
    ("%conv", "dyadic(0, 62)", "dyadic(0, 63)", "conv: dyadic(0, 63) needs mult >= 0 and shift in 1..=62"),
    ("%add", "b = dyadic(1073741824, 31)", "b = dyadic(1073741824, 0)", "add: dyadic(1073741824, 0) needs"),
    ("%up", "dyadic(1073741824, 28)", "dyadic(1, 200)", "up: dyadic(1, 200) needs"),
    ("%conv", "], 7, 0, 15", "], 8, 0, 15", "conv: the requantization adds zero point 8, the result has 7"),
    ("%conv", "7, 0, 15", "7, 0, 16", "conv: the clamp 0..=16 is empty or not inside 0..=15"),
    ("%conv", "7, 0, 15", "7, 5, 4", "conv: the clamp 5..=4 is empty"),
    (
        "%up",
        "-32767, 32767",
        "-32768, 32767",
        "up: the clamp -32768..=32767 is empty or not inside -32767..=32767",
    ),
    ("%add", "zero_point = 0", "zero_point = 1", "add: the requantization adds zero point 1"),
    ("%add", "lo = 0", "lo = -40000", "add: the clamp -40000..=32767"),
    ("%mean", "1, 0, 255", "1, -1, 255", "mean: the clamp -1..=255"),
    // Rule 14: operators that keep the quantization.
    ("%max", "0.25", "0.5", "max: operand i16["),
    ("%concat", "q(0.5, 3", "q(0.5, 4", "concat: operand u8["),
    ("%pad", "q(0.5, 3", "q(0.5, 4", "pad: operand u8["),
    ("%slice", "q(0.5, 3", "q(0.25, 3", "slice: operand u8["),
    ("%turn", "q(0.5, 3, 8", "q(0.5, 3, 7", "turn: operand u8["),
    ("%near", "q(0.5, 3", "q(0.5, 4", "near: operand u8["),
    ("%line", "q(0.5, 3", "q(0.5, 4", "line: operand u8["),
    ("%flat", "q(0.5, 3", "q(0.5, 4", "flat: operand u8["),
    // Rule 15: padding.
    ("%pad", "value = 3", "value = 256", "pad: the padding value 256 is outside 0..=255"),
    // Rule 16: tables.
    ("%lut", "q(0.5, 3, 8)", "q(0.5, 3, 7)", "lut: the table has the value 255, outside 0..=127"),
    (
        "%table",
        "u8[1,256]",
        "u8[1,256] q(0.5, 3, 8)",
        "lut: the table of a lut that makes u8 has plain u8 entries",
    ),
    ("%exp", "01000000", "00000000", "soft: the first entry of the table must be positive"),
    ("%exp", "01000000)", "000000ff)", "soft: the table has the value -16777216, outside 0..=2147483647"),
    ("%exp", "i32[256]", "i32[256] q(0.5, 0, 32)", "soft: the table of a softmax has plain i32 entries"),
    // Rule 17: accumulators. 255 − 3 = 252; 254·252 + 2147483647 − 64007 = 2³¹ − 1 is the largest that fits.
    ("%b", "[100,", "[2147419639,", ""),
    ("%b", "[100,", "[2147419640,", "conv: the accumulator of channel 0 can reach 2147483648, beyond 2^31"),
    ("%b", "-100]", "-2147483648]", "conv: the accumulator of channel 1 can reach 2147485412"),
    // Rule 18: outputs.
    ("output \"image\"", "%turn", "%even", "even: output image is a constant"),
];

#[test]
fn every_rule_has_a_negative_test() {
    let base = base();
    let mut failures = Vec::new();
    for (line, from, to, want) in CASES {
        let key = if line.starts_with('%') { format!("\n{line}:") } else { format!("\n{line} =") };
        let start = base.find(&key).unwrap_or_else(|| panic!("no line {line}")) + 1;
        let end = start + base[start..].find('\n').unwrap();
        let changed = base[start..end].replacen(from, to, 1);
        assert_ne!(changed, base[start..end], "{line}: {from} is not there");
        let errors = int(&format!("{}{changed}{}", &base[..start], &base[end..]));
        let ok = match *want {
            "" => errors.is_empty(),
            want => errors.iter().any(|e| e.starts_with(want)),
        };
        if !ok {
            failures.push(format!("{line}: {from} → {to} gave {errors:?}, not {want}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn constants_are_needed_for_weights_biases_and_tables() {
    let graph = |text: &str| verify::int(&parse::<IntOp>(text).unwrap()).unwrap_err()[0].to_string();
    let text = base();
    // A table that is an input would be an activation by rule 8, so the types alone refuse it.
    let input = text.replace("%exp: i32[256] = const", "%exp: i32[256] = input ;");
    let input = input.replace("input \"r\"", "input \"e\" = %exp same\ninput \"r\"");
    assert_eq!(graph(&input), "exp: result: expected u8 or i16, got i32");
}

fn edit(change: impl FnOnce(&mut IntGraph)) -> Vec<IrError> {
    let mut graph = parse::<IntOp>(&base()).unwrap();
    change(&mut graph);
    verify::int(&graph).unwrap_err()
}

/// Rules that the text form cannot break.
#[test]
fn structural_rules() {
    let node = |g: &IntGraph, name: &str| g.find(name).unwrap();
    let errors = edit(|g| g.set_operand(node(g, "conv"), 0, node(g, "conv")));
    assert!(errors[0].message.starts_with("the graph has a cycle through conv"), "{errors:?}");
    let errors = edit(|g| {
        let id = node(g, "up");
        g.node_mut(id).name = "add".into();
    });
    assert_eq!(errors[0].to_string(), "add: two nodes have this name");
    let errors = edit(|g| {
        let id = node(g, "up");
        g.node_mut(id).name.clear();
    });
    assert_eq!(errors[0].to_string(), "a node has no name");
    let errors = edit(|g| g.outputs.clear());
    assert_eq!(errors[0].to_string(), "the network has no outputs");
    let errors = edit(|g| {
        let id = node(g, "x");
        g.inputs.retain(|p| p.node != id);
    });
    assert_eq!(errors[0].to_string(), "x has 0 input ports instead of one");
    let errors = edit(|g| {
        let id = node(g, "bl");
        g.node_mut(id).op = IntOp::Const(
            Tensor::from_ints(goshawk_ir::DType::I32, Shape::new([2]).unwrap(), &[0, 0]).unwrap(),
        );
    });
    assert_eq!(errors[0].to_string(), "bl: the value is i32[2], declared i32[1]");
    let errors = edit(|g| {
        let (x, r) = (node(g, "x"), node(g, "r"));
        g.set_operands(x, &[r]);
    });
    assert_eq!(errors[0].to_string(), "x: inputs and constants have no operands");
    let errors = edit(|g| {
        // An output that outlives its node.
        let spare = g.add(
            "spare",
            IntOp::constant(Tensor::from_bytes(goshawk_ir::DType::U8, Shape::scalar(), &[1]).unwrap()),
            &[],
            TensorType::plain(goshawk_ir::DType::U8, Shape::scalar()),
        );
        g.remove(spare).unwrap();
        g.outputs.push(Port { name: "gone".into(), node: spare, layout: Layout::Same });
    });
    assert_eq!(errors[0].to_string(), "the node of output gone does not exist");
}

#[test]
fn several_errors_are_reported_at_once() {
    let text = base().replace("7, 0, 15)", "7, 0, 16)").replace("value = 3", "value = 300");
    let errors = int(&text);
    assert_eq!(errors.len(), 2, "{errors:?}");
}

const FLOAT: &str = r#"gir 1 float "valid"
input "x" = %x same
%x: f32[1,1,4,4] = input
%one: f32[1] = const [1.0]
%bn: f32[1,1,4,4] = batch_norm(%x, %one, %one, %one, %one) {epsilon = 1e-5}
%clip: f32[1,1,4,4] = unary(%bn) {chain = [clip(0.0, 6.0)]}
%sum: f32[1,1,4,4] = binary(%bn, %clip) {function = add, clamp = clip(0.0, inf)}
%max: f32[1,1,2,2] = max_pool(%sum) {kernel = [2, 2], stride = [2, 2], pads = [0, 0, 0, 0], dilation = [1, 1], ceil_mode = false, count_include_pad = false}
output "y" = %max same
"#;

#[test]
fn float_rules() {
    let check = |text: &str| -> String {
        let graph: Graph<FloatOp> = parse(text).unwrap();
        assert_eq!(print(&parse::<FloatOp>(&print(&graph)).unwrap()), print(&graph));
        verify::float(&graph).err().map_or_else(String::new, |e| e[0].to_string())
    };
    assert_eq!(check(FLOAT), "");
    let cases = [
        (
            "[1,1,4,4] = input",
            "[1,2,4,4] = input",
            "bn: batch_norm over 2 channels has a parameter of shape [1]",
        ),
        (
            "f32[1] = const [1.0]",
            "i32[1] = const [1]",
            "one: the float graph has f32 tensors without quantization, got i32",
        ),
        (
            "f32[1] = const",
            "f32[1] q(1.0, 0, 8) = const",
            "one: the float graph has f32 tensors without quantization",
        ),
        ("1e-5", "-1e-5", "bn: epsilon -0.00001 must be finite and not negative"),
        ("1e-5", "inf", "bn: epsilon inf must be finite and not negative"),
        ("clip(0.0, 6.0)", "clip(6.0, 0.0)", "clip: the clamp [6, 0] is empty"),
        ("clip(0.0, inf)", "clip(nan, inf)", "sum: the clamp [NaN, inf] is empty"),
        (
            "stride = [2, 2], pads = [0, 0, 0, 0]",
            "stride = [5, 2], pads = [3, 0, 0, 0]",
            "max: window 0 along rows has no tap inside",
        ),
        ("output \"y\" = %max same", "", "the network has no outputs"),
        ("%max: f32[1,1,2,2]", "%max: f32[1,1,2,3]", "max: the shape is [1,1,2,2], declared [1,1,2,3]"),
    ];
    for (from, to, want) in cases {
        assert!(FLOAT.contains(from));
        let got = check(&FLOAT.replacen(from, to, 1));
        assert!(got.starts_with(want), "{from} → {to} gave {got}");
    }
}
