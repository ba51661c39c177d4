//! Clean-ups of the integer graph: what goes, what stays, and that the bytes are those expected.
use goshawk_ir::{
    DType, Dyadic, IntGraph, IntOp, Layout, NodeId, QParams, Requant, Shape, Tensor, TensorType,
    interp::int,
    op::{
        float::{NoAttrs, Reshape, Transpose},
        int::Rescale,
    },
};
use goshawk_passes::int_simplify;

fn ty(dims: &[usize], scale: f32, zero_point: i32) -> TensorType {
    TensorType::quantized(DType::U8, Shape::new(dims).unwrap(), QParams::per_tensor(scale, zero_point, 8))
}

fn requant(ratio: f64, zero_point: i32, lo: i32, hi: i32) -> IntOp {
    let mult = vec![Dyadic::from_f64(ratio).unwrap()];
    IntOp::Requant(Rescale { requant: Requant { mult, zero_point, lo, hi } })
}

fn every_byte() -> Tensor {
    Tensor::from_u8(Shape::new([1, 256]).unwrap(), (0..=255).collect::<Vec<u8>>()).unwrap()
}

fn table(g: &mut IntGraph, name: &str, f: impl Fn(i32) -> i32) -> NodeId {
    let entries: Vec<i32> = (0..256).map(f).collect();
    g.add_const(name, Tensor::from_ints(DType::U8, Shape::new([1, 256]).unwrap(), &entries).unwrap(), None)
}

/// Simplifies and returns the operators that are left, having checked that the bytes are the same where `exact`.
fn simplified(g: &mut IntGraph, inputs: &[Tensor], exact: bool) -> Vec<&'static str> {
    let before = int::run(g, inputs).unwrap();
    int_simplify::run(g).unwrap();
    let after = int::run(g, inputs).unwrap();
    if exact {
        assert_eq!(before, after);
    }
    let order = g.topo_order().unwrap();
    let names = order.iter().map(|id| goshawk_ir::Operator::name(&g.node(*id).op));
    names.filter(|n| !["input", "const"].contains(n)).collect()
}

#[test]
fn tables_and_rescales_of_bytes_compose_exactly() {
    let mut g = IntGraph::new("tables");
    let x = g.add_input("x", ty(&[1, 256], 0.1, 100), Layout::Same);
    let r = g.add("r", requant(0.7, 3, 10, 200), &[x], ty(&[1, 256], 0.2, 3));
    let t = table(&mut g, "t", |v| (v * 7 + 5) % 256);
    let a = g.add("a", IntOp::Lut(NoAttrs {}), &[r, t], ty(&[1, 256], 0.3, 9));
    let u = table(&mut g, "u", |v| 255 - v);
    let b = g.add("b", IntOp::Lut(NoAttrs {}), &[a, u], ty(&[1, 256], 0.4, 1));
    let c = g.add("c", requant(1.3, 17, 0, 255), &[b], ty(&[1, 256], 0.5, 17));
    g.add_output("y", c, Layout::Same);
    assert_eq!(simplified(&mut g, &[every_byte()], true), ["lut"]);
}

#[test]
fn a_table_per_channel_composes_with_one_for_all() {
    let mut g = IntGraph::new("channels");
    let x = g.add_input("x", ty(&[128, 2], 0.1, 100), Layout::Same);
    let entries: Vec<i32> = (0..512).map(|i| if i < 256 { i } else { (i * 3) % 256 }).collect();
    let per_channel = Tensor::from_ints(DType::U8, Shape::new([2, 256]).unwrap(), &entries).unwrap();
    let p = g.add_const("p", per_channel, None);
    let a = g.add("a", IntOp::Lut(NoAttrs {}), &[x, p], ty(&[128, 2], 0.1, 1));
    let t = table(&mut g, "t", |v| v / 2);
    let b = g.add("b", IntOp::Lut(NoAttrs {}), &[a, t], ty(&[128, 2], 0.1, 2));
    g.add_output("y", b, Layout::Same);
    let bytes = every_byte().reshaped(Shape::new([128, 2]).unwrap()).unwrap();
    assert_eq!(simplified(&mut g, &[bytes], true), ["lut"]);
}

#[test]
fn rescales_that_change_nothing_go_and_those_that_clamp_stay() {
    let mut g = IntGraph::new("identity");
    let x = g.add_input("x", ty(&[1, 256], 0.1, 100), Layout::Same);
    let a = g.add("a", requant(1.0, 100, 0, 255), &[x], ty(&[1, 256], 0.1, 100));
    let b = g.add("b", requant(1.0, 100, 100, 255), &[a], ty(&[1, 256], 0.1, 100));
    g.add_output("y", b, Layout::Same);
    assert_eq!(simplified(&mut g, &[every_byte()], true), ["requant"]);
}

#[test]
fn two_rescales_become_one_unless_the_first_clamps_or_is_read_elsewhere() {
    let build = |lo: i32, second_reader: bool| {
        let mut g = IntGraph::new("chain");
        let x = g.add_input("x", ty(&[1, 256], 0.1, 100), Layout::Same);
        let a = g.add("a", requant(0.5, 50, lo, 255), &[x], ty(&[1, 256], 0.2, 50));
        let b = g.add("b", requant(0.5, 25, 0, 255), &[a], ty(&[1, 256], 0.4, 25));
        g.add_output("y", b, Layout::Same);
        if second_reader {
            g.add_output("z", a, Layout::Same);
        }
        g
    };
    assert_eq!(simplified(&mut build(0, false), &[every_byte()], false), ["requant"]);
    assert_eq!(simplified(&mut build(50, false), &[every_byte()], true), ["requant", "requant"]);
    assert_eq!(simplified(&mut build(0, true), &[every_byte()], true), ["requant", "requant"]);
    let mut g = build(0, false);
    int_simplify::run(&mut g).unwrap();
    let y = int::run(&g, &[every_byte()]).unwrap();
    // 0.1·(255 − 100) in steps of 0.4: 38.75, rounded once.
    assert_eq!(y[0].to_ints().unwrap()[255], 25 + 39);
}

#[test]
fn movements_compose_and_equal_nodes_are_shared() {
    let mut g = IntGraph::new("movements");
    let t = |dims: &[usize]| ty(dims, 0.1, 100);
    let x = g.add_input("x", t(&[4, 8, 8]), Layout::Same);
    let transpose = |perm: &[usize]| IntOp::Transpose(Transpose { perm: perm.to_vec() });
    let reshape = |dims: &[usize]| IntOp::Reshape(Reshape { shape: dims.to_vec() });
    let a = g.add("a", transpose(&[1, 2, 0]), &[x], t(&[8, 8, 4]));
    let b = g.add("b", transpose(&[2, 0, 1]), &[a], t(&[4, 8, 8]));
    let c = g.add("c", reshape(&[256]), &[b], t(&[256]));
    let d = g.add("d", reshape(&[16, 16]), &[c], t(&[16, 16]));
    let e = g.add("e", transpose(&[1, 0]), &[d], t(&[16, 16]));
    let f = g.add("f", transpose(&[1, 0]), &[d], t(&[16, 16]));
    let p = g.add("p", requant(0.5, 7, 0, 255), &[e], ty(&[16, 16], 0.2, 7));
    let q = g.add("q", requant(0.5, 7, 0, 255), &[f], ty(&[16, 16], 0.2, 7));
    let r = g.add("r", reshape(&[256]), &[p], ty(&[256], 0.2, 7));
    let s = g.add("s", requant(0.25, 9, 0, 255), &[q], ty(&[16, 16], 0.4, 9));
    g.add_output("r", r, Layout::Same);
    g.add_output("s", s, Layout::Same);
    let bytes = every_byte().reshaped(Shape::new([4, 8, 8]).unwrap()).unwrap();
    assert_eq!(simplified(&mut g, &[bytes], true), ["reshape", "transpose", "requant", "reshape", "requant"]);
}
