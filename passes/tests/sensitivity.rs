//! The estimators against explicit Hessians of small networks, in f64.
#[path = "common/mod.rs"]
mod common;

use common::Net;
use goshawk_ir::{
    FloatGraph, FloatOp, NodeId, Tensor,
    op::float::{BinaryFn, Unary, UnaryFn},
};
use goshawk_passes::{
    gradient::{Engine, Keep, Linearisation, Loss, Noise, Parts, Rows, Serial, random},
    sensitivity::{
        Estimate, Spectrum,
        krylov::{Lanczos, Method, Solver, Stop},
        layers,
        probes::{self, Part, Slot},
        sums::Traces,
    },
};

const SAMPLES: usize = 12;
const CLASSES: usize = 3;
/// Runs over which coverage is counted.
const SEEDS: u64 = 24;

/// conv → f → conv → + → f → depthwise → mean → linear; the residual sum reads what the second convolution reads.
fn network(f: UnaryFn) -> FloatGraph {
    let mut n = Net::new(7);
    let unary = |n: &mut Net, x: NodeId| n.op(FloatOp::Unary(Unary { chain: vec![f] }), &[x]);
    let x = n.input(&[1, 2, 5, 5]);
    let a = n.conv(x, 4, 3, 1, 1, true);
    let a = unary(&mut n, a);
    let b = n.conv(a, 4, 3, 1, 1, true);
    let sum = n.binary(BinaryFn::Add, b, a);
    let sum = unary(&mut n, sum);
    let c = n.conv(sum, 4, 3, 0, 4, true);
    let c = unary(&mut n, c);
    let flat = n.reshape(c, &[1, 36]);
    let y = n.linear(flat, CLASSES, true);
    n.output(y);
    n.g
}

/// What every test needs of a network.
struct Subject {
    graph: FloatGraph,
    engine: Engine<f64>,
    slots: Vec<Slot>,
    inputs: Vec<Vec<Tensor>>,
    labels: Vec<usize>,
}

impl Subject {
    fn new(f: UnaryFn) -> Self {
        let graph = network(f);
        let layers = layers::all(&graph).unwrap();
        assert_eq!(layers.len(), 4);
        let engine = Engine::new(&layers::tapped(&graph).unwrap()).unwrap();
        let slots = probes::slots(&engine, &layers);
        assert_eq!(slots.len(), 8, "weights and operand of every layer");
        let mut rng = common::Rng(3);
        let inputs = (0..SAMPLES).map(|_| vec![rng.tensor(&[1, 2, 5, 5], -1.0, 1.0)]).collect();
        let labels = (0..SAMPLES).map(|i| i % CLASSES).collect();
        Self { graph, engine, slots, inputs, labels }
    }

    fn linearise(&self, own: bool) -> Linearisation<'_, f64> {
        let loss = if own { Loss::CrossEntropyOwn } else { Loss::CrossEntropy(&self.labels) };
        self.engine.linearise(&self.inputs, &loss, Keep::Everything, &Serial).unwrap()
    }
}

fn put(part: Part, values: Vec<f64>) -> Parts<f64> {
    let mut parts = Parts::new();
    match part {
        Part::Weights(l) => parts.weights.insert(l, values),
        Part::Activation(a) => parts.activations.insert(a, values),
    };
    parts
}

fn get(part: Part, parts: &Parts<f64>) -> &[f64] {
    match part {
        Part::Weights(l) => &parts.weights[&l],
        Part::Activation(a) => &parts.activations[&a],
    }
}

/// The Hessian block of a slot, column by column; for activations that of the whole batch.
fn block(lin: &Linearisation<'_, f64>, slot: &Slot) -> Vec<Vec<f64>> {
    let n = if slot.is_weights() { slot.elements } else { slot.elements * SAMPLES };
    (0..n)
        .map(|i| {
            let mut unit = vec![0.0; n];
            unit[i] = 1.0;
            let product = lin.hvp(&put(slot.part, unit), Rows::Same, &Serial).unwrap();
            get(slot.part, &product).to_vec()
        })
        .collect()
}

/// The explicit trace of every slot and of each of its channels.
fn explicit(lin: &Linearisation<'_, f64>, slots: &[Slot]) -> Vec<(f64, Vec<f64>)> {
    let of = |slot: &Slot| {
        let h = block(lin, slot);
        let mut channels = vec![0.0; slot.channels];
        let plane = slot.elements / slot.channels;
        for (i, column) in h.iter().enumerate() {
            channels[i / plane % slot.channels] += column[i];
        }
        (channels.iter().sum(), channels)
    };
    slots.iter().map(of).collect()
}

/// Eigenvalues of a symmetric matrix by Jacobi's rotations, ascending.
fn jacobi(mut m: Vec<Vec<f64>>) -> Vec<f64> {
    let n = m.len();
    for _ in 0..60 {
        let off: f64 = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| m[i][j] * m[i][j]).sum();
        if off < 1e-22 {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if m[p][q].abs() < 1e-300 {
                    continue;
                }
                let theta = (m[q][q] - m[p][p]) / (2.0 * m[p][q]);
                let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
                let t = if theta == 0.0 { 1.0 } else { t };
                let c = 1.0 / t.hypot(1.0);
                let s = t * c;
                for k in 0..n {
                    let (a, b) = (m[k][p], m[k][q]);
                    (m[k][p], m[k][q]) = (c * a - s * b, s * a + c * b);
                }
                for k in 0..n {
                    let (a, b) = (m[p][k], m[q][k]);
                    (m[p][k], m[q][k]) = (c * a - s * b, s * a + c * b);
                }
            }
        }
    }
    let mut values: Vec<f64> = (0..n).map(|i| m[i][i]).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// How many estimates have the truth within 1.96 standard errors; none may be off by more than 6.
fn covered(estimates: &[(Estimate, f64)]) -> usize {
    let distance = |(e, truth): &(Estimate, f64)| (e.mean - truth).abs() / e.std_error;
    for pair in estimates {
        assert!(distance(pair) < 6.0, "{pair:?}");
    }
    estimates.iter().filter(|p| distance(p) <= 1.96).count()
}

#[test]
fn one_pass_for_each_class_gives_the_traces_of_a_piecewise_linear_network() {
    let s = Subject::new(UnaryFn::RELU);
    let lin = s.linearise(false);
    let truth = explicit(&lin, &s.slots);
    let draws = probes::squares(&lin, &s.slots, 1, &|_| Noise::Exact, &Serial).unwrap();
    let mut traces = Traces::new(&s.slots.iter().map(|s| s.channels).collect::<Vec<_>>(), 0);
    traces.add(&draws, 1.0).unwrap();
    traces.end_block(&|_| true);
    for (i, (slot, (trace, channels))) in s.slots.iter().zip(&truth).enumerate() {
        assert!(slot.exact);
        let e = traces.total(i).unwrap();
        assert!((e.mean - trace).abs() <= 1e-9 * trace.abs() && e.std_error == 0.0, "{slot:?} {e:?} {trace}");
        for (e, truth) in traces.channels(i).iter().zip(channels) {
            assert!((e.mean - truth).abs() <= 1e-9 * trace.abs(), "{slot:?}");
        }
        assert!(traces.data_error(i).is_some_and(|e| e > 0.0 && e < 1.0));
    }
}

#[test]
fn every_estimator_covers_the_explicit_traces() {
    for f in [UnaryFn::RELU, UnaryFn::HardSwish] {
        let s = Subject::new(f);
        // Two batches, so that shares and strata take part.
        let halves = [0..8, 8..SAMPLES];
        let lins: Vec<_> = halves
            .iter()
            .map(|r| {
                let loss = Loss::CrossEntropy(&s.labels[r.clone()]);
                s.engine.linearise(&s.inputs[r.clone()], &loss, Keep::Everything, &Serial).unwrap()
            })
            .collect();
        let truth = explicit(&s.linearise(false), &s.slots);
        for estimator in ["noise", "global", "per-layer"] {
            if estimator == "noise" && f != UnaryFn::RELU {
                assert!(s.slots.iter().any(|s| !s.exact));
                continue;
            }
            // Layers and channels share their probes and so their luck; only seeds are independent.
            let (mut totals, mut channels) = (Vec::new(), Vec::new());
            for master in 0..SEEDS {
                let mut traces = Traces::new(&s.slots.iter().map(|s| s.channels).collect::<Vec<_>>(), 8);
                for block in 0..4 {
                    for (batch, (lin, range)) in lins.iter().zip(&halves).enumerate() {
                        let seed = |round| probes::seed(master, 1, block, batch as u64, round);
                        let draws = match estimator {
                            "noise" => {
                                probes::squares(lin, &s.slots, 8, &|r| Noise::Rademacher(seed(r)), &Serial)
                            }
                            "global" => probes::global(lin, &s.slots, 8, &seed, &Serial),
                            _ => probes::per_layer(lin, &s.slots, 8, &seed, &|_| true, &Serial),
                        };
                        traces.add(&draws.unwrap(), range.len() as f64 / SAMPLES as f64).unwrap();
                    }
                    traces.end_block(&|_| true);
                }
                for (i, (trace, each)) in truth.iter().enumerate() {
                    totals.push((traces.total(i).unwrap(), *trace));
                    channels.extend(traces.channels(i).into_iter().zip(each.iter().copied()));
                }
            }
            // Dead channels have neither trace nor error.
            channels.retain(|(e, t)| e.std_error > 0.0 || *t != 0.0);
            for (what, list) in [("traces", totals), ("channels", channels)] {
                let share = covered(&list) as f64 / list.len() as f64;
                assert!((0.88..0.99).contains(&share), "{f:?} {estimator}: {share} of the {what}");
            }
        }
    }
}

#[test]
fn without_a_gradient_the_gauss_newton_block_is_the_hessian_block_of_any_network() {
    let s = Subject::new(UnaryFn::HardSwish);
    let lin = s.linearise(true);
    let truth = explicit(&lin, &s.slots);
    let draws = probes::squares(&lin, &s.slots, 1, &|_| Noise::Exact, &Serial).unwrap();
    for (rounds, (trace, _)) in draws.channels.iter().zip(&truth) {
        let got: f64 = rounds[0].iter().sum();
        assert!((got - trace).abs() <= 1e-9 * trace.abs(), "{got} {trace}");
    }
    // With labels it is not, and says so.
    let lin = s.linearise(false);
    let draws = probes::squares(&lin, &s.slots, 1, &|_| Noise::Exact, &Serial).unwrap();
    let first: f64 = draws.channels[0][0].iter().sum();
    let truth = explicit(&lin, &s.slots[..1])[0].0;
    assert!((first - truth).abs() > 1e-3 * truth.abs() && !s.slots[0].exact);
    assert!(layers::curved_by(&s.graph, layers::all(&s.graph).unwrap()[0].node).contains("HardSwish"));
}

#[test]
fn eigenvalues_are_those_of_the_explicit_block() {
    for f in [UnaryFn::RELU, UnaryFn::HardSwish] {
        let s = Subject::new(f);
        let lin = s.linearise(false);
        for slot in s.slots.iter().filter(|s| s.is_weights()) {
            let mut values = jacobi(block(&lin, slot));
            values.sort_by(|a, b| b.abs().total_cmp(&a.abs()));
            for method in [Method::Power, Method::Lanczos] {
                let stop = Stop { top: 2, tolerance: 1e-3, max_products: 300 };
                let mut solver = Solver::new(method, random::gaussian(1, 2, slot.elements), stop);
                while let Some(v) = solver.vector() {
                    let mut sum = vec![0.0; slot.elements];
                    probes::multiply(&lin, slot, v, 1.0, &mut sum, &Serial).unwrap();
                    solver.push(sum);
                }
                for (e, truth) in solver.eigenvalues().iter().zip(&values) {
                    assert!((e.value - truth).abs() <= 1e-3 * truth.abs(), "{f:?} {method:?} {e:?} {truth}");
                }
            }
        }
    }
}

#[test]
fn quadrature_has_the_moments_and_the_shape_of_the_explicit_spectrum() {
    let s = Subject::new(UnaryFn::HardSwish);
    let lin = s.linearise(false);
    let slot = &s.slots[2];
    let values = jacobi(block(&lin, slot));
    let n = values.len() as f64;
    let stop = Stop { top: usize::MAX, tolerance: f64::MIN_POSITIVE, max_products: 60 };
    let runs: Vec<Vec<(f64, f64)>> = (0..30)
        .map(|run| {
            let mut solver = Lanczos::new(random::rademacher(run, 0, slot.elements), stop);
            while let Some(v) = solver.vector() {
                let mut sum = vec![0.0; slot.elements];
                probes::multiply(&lin, slot, v, 1.0, &mut sum, &Serial).unwrap();
                solver.push(sum);
            }
            solver.quadrature()
        })
        .collect();
    let spectrum = Spectrum { dimension: slot.elements as u64, steps: 60, runs };
    let weigh = |f: &dyn Fn(f64) -> f64| {
        spectrum.runs.iter().flatten().map(|(x, w)| w * f(*x)).sum::<f64>() / spectrum.runs.len() as f64
    };
    for p in 1..=4 {
        let exact = values.iter().map(|v| v.powi(p)).sum::<f64>() / n;
        let got = weigh(&|x| x.powi(p));
        assert!(
            (got - exact).abs() < 0.15 * values.iter().map(|v| v.abs().powi(p)).sum::<f64>() / n,
            "{p}: {got} {exact}"
        );
    }
    // Kolmogorov distance of the distribution functions, between the eigenvalues.
    let size = values.iter().fold(0f64, |m, v| m.max(v.abs()));
    let mut worst = 0f64;
    for pair in values.windows(2).filter(|p| p[1] - p[0] > 1e-3 * size) {
        let x = (pair[0] + pair[1]) / 2.0;
        let exact = values.iter().filter(|v| **v < x).count() as f64 / n;
        worst = worst.max((weigh(&|v| f64::from(u8::from(v < x))) - exact).abs());
    }
    assert!(worst < 0.05, "{worst}");
    assert!((weigh(&|_| 1.0) - 1.0).abs() < 1e-9);
}
