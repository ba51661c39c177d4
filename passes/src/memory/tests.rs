//! The planner and its checker on random graphs.
use super::*;
use goshawk_ir::{
    DType, Dyadic, IntOp, Layout, QParams, Requant, Shape, Tensor, TensorType,
    op::{
        float::{Axis, Reshape},
        int::{Add, Conv},
        window::ConvWindow,
    },
};
use proptest::prelude::*;

fn ty(count: usize) -> TensorType {
    TensorType::quantized(DType::U8, Shape::new([1, count]).unwrap(), QParams::per_tensor(1.0, 0, 8))
}

/// A random graph of sums and reshapes: node i reads up to two earlier nodes of its size class.
fn graph(choices: &[(u16, u16, u8)]) -> IntGraph {
    let sizes = [64, 100, 4000, 777];
    let mut g = IntGraph::new("random");
    let mut by_size: Vec<Vec<NodeId>> = sizes
        .iter()
        .enumerate()
        .map(|(i, n)| vec![g.add_input(format!("input{i}"), ty(*n), Layout::Same)])
        .collect();
    for (i, (a, b, kind)) in choices.iter().enumerate() {
        let class = usize::from(*kind) % sizes.len();
        let pick = |n: u16| by_size[class][usize::from(n) % by_size[class].len()];
        let one = Dyadic::from_f64(1.0).unwrap();
        let id = if kind / 16 % 3 == 0 {
            let op = IntOp::Reshape(Reshape { shape: vec![1, sizes[class]] });
            g.add(format!("n{i}"), op, &[pick(*a)], ty(sizes[class]))
        } else {
            let op = IntOp::Add(Add { a: one, b: one, subtract: false, zero_point: 0, lo: 0, hi: 255 });
            g.add(format!("n{i}"), op, &[pick(*a), pick(*b)], ty(sizes[class]))
        };
        by_size[class].push(id);
        if kind / 64 == 0 {
            g.add_output(format!("out{i}"), id, Layout::Same);
        }
    }
    if g.outputs.is_empty() {
        let last = *by_size[0].last().unwrap();
        g.add_output("out", last, Layout::Same);
    }
    g
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn plans_hold_and_stay_near_the_bound(choices in prop::collection::vec(any::<(u16, u16, u8)>(), 1..40)) {
        let g = graph(&choices);
        let plan = plan(&g).unwrap();
        check(&g, &plan).unwrap();
        prop_assert!(plan.lower_bound <= plan.arena_bytes);
        prop_assert!(plan.arena_bytes <= 2 * plan.lower_bound);
        prop_assert_eq!(super::plan(&g).unwrap(), plan);
    }

    #[test]
    fn the_checker_sees_a_value_moved_onto_a_live_one(
        choices in prop::collection::vec(any::<(u16, u16, u8)>(), 4..30), pick in any::<(u16, u16)>()
    ) {
        let g = graph(&choices);
        let mut plan = plan(&g).unwrap();
        let steps: Vec<NodeId> =
            g.ids().filter(|id| matches!(g.node(*id).op, IntOp::Add(_)) && g.use_count(*id) > 0).collect();
        prop_assume!(!steps.is_empty());
        // A sum may lie on an operand only if nobody reads that later.
        let victim = steps[usize::from(pick.0) % steps.len()];
        let operands = g.node(victim).operands();
        let operand = operands[usize::from(pick.1) % operands.len()];
        let order = g.topo_order().unwrap();
        let later = order.iter().skip_while(|id| **id != victim).skip(1);
        let read_later = later.clone().any(|id| g.node(*id).operands().contains(&operand));
        prop_assume!(read_later || g.is_output(operand) || g.node(operand).op == IntOp::Input);
        let offset = plan.slots[&operand].offset;
        plan.slots.get_mut(&victim).unwrap().offset = offset;
        prop_assert!(check(&g, &plan).is_err());
    }
}

#[test]
fn the_checker_sees_bad_slots() {
    let g = graph(&[(0, 0, 65), (1, 0, 65), (2, 1, 65), (3, 2, 1)]);
    let good = plan(&g).unwrap();
    let last = g.outputs[0].node;
    let broken = |change: &dyn Fn(&mut MemoryPlan)| {
        let mut plan = good.clone();
        change(&mut plan);
        check(&g, &plan).unwrap_err().to_string()
    };
    assert!(broken(&|p| p.slots.get_mut(&last).unwrap().offset += 1).contains("aligned"));
    assert!(broken(&|p| p.slots.get_mut(&last).unwrap().bytes -= 1).contains("slot of"));
    assert!(broken(&|p| p.arena_bytes = 64).contains("beyond the arena"));
    assert!(broken(&|p| p.slots.retain(|id, _| *id != last)).contains("slots for"));
    check(&g, &good).unwrap();
}

#[test]
fn a_chain_needs_two_buffers() {
    let mut g = IntGraph::new("chain");
    let mut x = g.add_input("input", ty(640), Layout::Same);
    let one = Dyadic::from_f64(1.0).unwrap();
    for i in 0..20 {
        let op = IntOp::Add(Add { a: one, b: one, subtract: false, zero_point: 0, lo: 0, hi: 255 });
        x = g.add(format!("n{i}"), op, &[x, x], ty(640));
    }
    g.add_output("output", x, Layout::Same);
    let plan = plan(&g).unwrap();
    check(&g, &plan).unwrap();
    assert_eq!((plan.arena_bytes, plan.lower_bound), (1280, 1280));
}

#[test]
fn a_sum_overwrites_an_operand_that_is_not_read_again() {
    let mut g = IntGraph::new("in place");
    let x = g.add_input("input", ty(640), Layout::Same);
    let one = Dyadic::from_f64(1.0).unwrap();
    let sum = |g: &mut IntGraph, name: &str, a: NodeId, b: NodeId| {
        let op = IntOp::Add(Add { a: one, b: one, subtract: false, zero_point: 0, lo: 0, hi: 255 });
        g.add(name, op, &[a, b], ty(640))
    };
    let a = sum(&mut g, "a", x, x);
    let b = sum(&mut g, "b", a, x);
    let c = sum(&mut g, "c", b, a);
    let out = sum(&mut g, "out", c, c);
    g.add_output("output", out, Layout::Same);
    let plan = plan(&g).unwrap();
    check(&g, &plan).unwrap();
    assert_ne!(plan.slots[&b], plan.slots[&a], "a is read again by c");
    assert!([a, b].iter().any(|x| plan.slots[&c] == plan.slots[x]));
}

/// Two convolutions and a sum, concatenated along the channels, `outside` one of them being read elsewhere too.
fn concat(outside: bool) -> (IntGraph, [NodeId; 4]) {
    let image = |c: usize| {
        TensorType::quantized(DType::U8, Shape::new([1, 3, 5, c]).unwrap(), QParams::per_tensor(1.0, 0, 8))
    };
    let mut g = IntGraph::new("concat");
    let x = g.add_input("input", image(8), Layout::Same);
    let one = Dyadic::from_f64(1.0).unwrap();
    let conv = |g: &mut IntGraph, name: &str, c: usize| {
        let zeros = |dtype, shape: &[usize]| {
            let shape = Shape::new(shape).unwrap();
            Tensor::from_ints(dtype, shape.clone(), &vec![0; shape.count()]).unwrap()
        };
        let w = g.add_const(format!("{name} w"), zeros(DType::I8, &[c, 1, 1, 8]), None);
        let b = g.add_const(format!("{name} b"), zeros(DType::I32, &[c]), None);
        let requant = Requant { mult: vec![one], zero_point: 0, lo: 0, hi: 255 };
        let op = IntOp::Conv(Conv { window: ConvWindow::unit(), requant });
        g.add(name, op, &[x, w, b], image(c))
    };
    let (a, b) = (conv(&mut g, "a", 16), conv(&mut g, "b", 24));
    let op = IntOp::Add(Add { a: one, b: one, subtract: false, zero_point: 0, lo: 0, hi: 255 });
    let c = g.add("c", op.clone(), &[x, x], image(8));
    let all = g.add("all", IntOp::Concat(Axis { axis: 3 }), &[a, b, c], image(48));
    let last = g.add("last", op.clone(), &[all, all], image(48));
    g.add_output("output", last, Layout::Same);
    if outside {
        let other = g.add("other", op, &[b, b], image(24));
        g.add_output("other", other, Layout::Same);
    }
    (g, [a, b, c, all])
}

#[test]
fn convolutions_write_into_the_concat_that_alone_reads_them() {
    let (g, [a, b, c, all]) = concat(false);
    let plan = plan(&g).unwrap();
    check(&g, &plan).unwrap();
    let base = plan.slots[&all].offset;
    let rows = |bytes| Some(Rows { bytes, pitch: 48 });
    assert_eq!(plan.slots[&a], Slot { offset: base, bytes: 240, rows: rows(16) });
    assert_eq!(plan.slots[&b], Slot { offset: base + 16, bytes: 360, rows: rows(24) });
    assert_eq!(plan.slots[&c].rows, None, "sums are packed");
    for (victim, offset) in [(a, base + 8), (b, base + 15), (b, base + 25), (c, base)] {
        let mut broken = plan.clone();
        broken.slots.get_mut(&victim).unwrap().offset = offset;
        assert!(check(&g, &broken).is_err(), "{} at {offset}", g.node(victim).name);
    }
    let (g, [a, b, ..]) = concat(true);
    let plan = super::plan(&g).unwrap();
    check(&g, &plan).unwrap();
    assert_eq!((plan.slots[&a].rows, plan.slots[&b].rows), (rows(16), None));
}

#[test]
fn the_search_is_deterministic_and_never_worse() {
    let choices: Vec<(u16, u16, u8)> = (0..60u32)
        .map(|i| ((i * 7919 % 65_521) as u16, (i * 104_729 % 65_521) as u16, (i * 37 % 251) as u8))
        .collect();
    let g = graph(&choices);
    let (first, second) = (plan(&g).unwrap(), plan(&g).unwrap());
    assert_eq!(first, second);
    assert!(
        first.arena_bytes * 10 <= first.lower_bound * 11,
        "{} of {}",
        first.arena_bytes,
        first.lower_bound
    );
}
