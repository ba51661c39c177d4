//! The planner and its checker on random graphs.
use super::*;
use goshawk_ir::{
    DType, Dyadic, IntOp, Layout, QParams, Shape, TensorType,
    op::{float::Reshape, int::Add},
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
        // A sum may never lie on its own operand: that operand is read while the sum is written.
        let victim = steps[usize::from(pick.0) % steps.len()];
        let operands = g.node(victim).operands();
        let operand = operands[usize::from(pick.1) % operands.len()];
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
