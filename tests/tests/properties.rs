//! Properties of every integer graph, on random ones. A failure names its seed.
use goshawk_ir::{IntGraph, IntOp, Operator, Tensor, interp::int, text, verify};
use goshawk_tests::generate::{Options, graph, inputs};
use std::collections::BTreeMap;

const GRAPHS: u64 = 600;

fn each(check: impl Fn(u64, &IntGraph)) {
    for seed in 0..GRAPHS {
        let options = Options { usual: seed % 3 == 0, nodes: 2 + seed as usize % 20, ..Options::default() };
        check(seed, &graph(seed, options));
    }
}

#[test]
fn generated_graphs_are_valid() {
    each(|seed, g| assert_eq!(verify::int(g), Ok(()), "seed {seed}\n{}", text::print(g)));
}

#[test]
fn text_round_trips() {
    each(|seed, g| {
        let printed = text::print(g);
        let parsed: IntGraph = text::parse(&printed).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert_eq!(parsed, *g, "seed {seed}");
        assert_eq!(text::print(&parsed), printed, "seed {seed}");
    });
}

#[test]
fn generation_depends_on_the_seed_alone() {
    let text = |seed| text::print(&graph(seed, Options::default()));
    assert_eq!(text(11), text(11));
    assert_ne!(text(11), text(12));
}

fn run(seed: u64, g: &IntGraph) -> Vec<Tensor> {
    int::run(g, &inputs(g, seed)).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{}", text::print(g)))
}

#[test]
fn the_interpreter_is_deterministic_and_stays_in_range() {
    each(|seed, g| {
        let first = run(seed, g);
        assert_eq!(first, run(seed, g), "seed {seed}");
        assert_eq!(first.len(), g.outputs.len(), "seed {seed}");
        let mut observed = 0;
        int::run_with(g, &inputs(g, seed), &mut |id, value| {
            let ty = g.ty(id);
            let (lo, hi) = ty.quant.as_ref().expect("verified").range(ty.dtype);
            let values = value.to_ints().expect("integers");
            assert!(values.iter().all(|v| (lo..=hi).contains(v)), "seed {seed}: {}", g.node(id).name);
            observed += 1;
        })
        .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert_eq!(observed, g.ids().filter(|id| g.constant(*id).is_none()).count(), "seed {seed}");
    });
}

/// Removing what no output needs does not change the outputs.
#[test]
fn dead_code_does_not_matter() {
    each(|seed, g| {
        let mut live = g.clone();
        live.remove_dead();
        assert_eq!(run(seed, g), run(seed, &live), "seed {seed}");
    });
}

/// The generator would be of little use if it hardly ever drew an operator, a saturated value or an inner one.
#[test]
fn generated_graphs_cover_the_operators_and_the_ranges() {
    let mut operators: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut low, mut high, mut inner) = (0usize, 0usize, 0usize);
    for seed in 0..GRAPHS {
        let g = graph(seed, Options::default());
        for id in g.ids() {
            *operators.entry(g.node(id).op.name()).or_default() += 1;
        }
        int::run_with(&g, &inputs(&g, seed), &mut |id, value| {
            if let IntOp::Conv(a) = &g.node(id).op {
                for v in value.to_ints().expect("integers") {
                    match v {
                        v if v == a.requant.lo => low += 1,
                        v if v == a.requant.hi => high += 1,
                        _ => inner += 1,
                    }
                }
            }
        })
        .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
    for name in IntOp::NAMES {
        assert!(operators.get(name).is_some_and(|n| *n >= 50), "{name} in {operators:?}");
    }
    let all = low + high + inner;
    assert!(low * 20 > all && high * 20 > all && inner * 4 > all, "low {low}, high {high}, inner {inner}");
}
