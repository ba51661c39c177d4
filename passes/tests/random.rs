//! Random float graphs: every pass by itself and the whole pipeline preserve the function, keep the rules of the
//! verifier, and give the same graph every time.
mod common;
use common::{Net, Rng, inputs, window};
use goshawk_ir::{
    FloatGraph, FloatOp, NodeId, Tensor, interp,
    op::float::{
        BinaryFn, Clamp, Coordinates, DepthOrder, DepthToSpace, NearestRule, NoAttrs, Reduce, Resize,
        ResizeMode, Slice, UnaryFn,
    },
    op::window::PoolWindow,
    text, verify,
};
use goshawk_passes::pipeline;
use proptest::prelude::*;

/// An image network of `steps` random operators. Functions are bounded or grow linearly, so that rounding stays small
/// against the largest value.
fn random_network(seed: u64, steps: usize) -> FloatGraph {
    let mut n = Net::new(seed);
    let channels = n.rng.pick(&[1, 2, 4]);
    let size = 4 + n.rng.below(4);
    let batch = 1 + n.rng.below(2);
    let mut values = vec![n.input(&[batch, channels, size, size])];
    for _ in 0..steps {
        // Late values more often: that gives depth.
        let at = values.len() - 1 - n.rng.below(values.len().min(3));
        let next = step(&mut n, values[at], &values);
        values.push(next);
    }
    let mut outputs = vec![values[values.len() - 1]];
    if n.rng.below(4) == 0 {
        outputs.push(values[n.rng.below(values.len() - 1)]);
        outputs.dedup();
    }
    if n.rng.below(3) == 0 {
        let head = n.spatial_mean(outputs[0]);
        let [batch, c, ..] = n.shape(head)[..] else { unreachable!("rank 4") };
        let flat = n.reshape(head, &[batch, c]);
        outputs[0] = head_of(&mut n, flat, c);
    }
    n.done(&outputs)
}

/// A classifier in one of the ways that exporters write it.
fn head_of(n: &mut Net, flat: NodeId, c: usize) -> NodeId {
    match n.rng.below(3) {
        0 => n.linear(flat, 3, true),
        1 => {
            let w = n.random(&[c, 3], -0.5, 0.5);
            let product = n.matmul(flat, w);
            let bias = n.random(&[3], -1.0, 1.0);
            n.add(product, bias)
        }
        _ => {
            let normal = n.batch_norm(flat);
            let y = n.linear(normal, 3, false);
            n.relu(y)
        }
    }
}

fn step(n: &mut Net, x: NodeId, values: &[NodeId]) -> NodeId {
    let shape = n.shape(x);
    let [batch, c, h, w] = shape[..] else { unreachable!("rank 4") };
    let small = h.min(w);
    match n.rng.below(22) {
        0..=2 => {
            let k = if small >= 3 { n.rng.pick(&[1, 3]) } else { 1 };
            let groups = if n.rng.below(3) == 0 { c } else { 1 };
            let pad = n.rng.below(2) * (k / 2);
            let (out, bias) = (if groups > 1 { c } else { n.rng.pick(&[1, 2, 4]) }, n.rng.below(2) == 0);
            n.conv(x, out, k, pad, groups, bias)
        }
        3..=5 => n.batch_norm(x),
        6..=8 => {
            let f = n.rng.pick(&[
                UnaryFn::RELU,
                UnaryFn::Clip(Clamp { lo: 0.0, hi: 6.0 }),
                UnaryFn::Clip(Clamp { lo: -1.0, hi: 1.0 }),
                UnaryFn::Sigmoid,
                UnaryFn::Tanh,
                UnaryFn::HardSwish,
                UnaryFn::LeakyRelu(0.1),
                UnaryFn::Affine(0.5, -0.25),
                UnaryFn::Affine(1.0, 0.0),
                UnaryFn::Abs,
            ]);
            n.unary(x, &[f])
        }
        9 => {
            let same: Vec<NodeId> = values.iter().copied().filter(|v| n.shape(*v) == shape).collect();
            let (other, f) = (n.rng.pick(&same), n.rng.pick(&[BinaryFn::Add, BinaryFn::Sub, BinaryFn::Max]));
            n.binary(f, x, other)
        }
        10 | 11 => {
            let dims: &[usize] = match n.rng.below(4) {
                0 => &[],
                1 => &[c, 1, 1],
                2 => &[1, c, 1, 1],
                _ => &[h, w],
            };
            let constant = n.random(dims, 0.5, 1.5);
            let f = n.rng.pick(&[BinaryFn::Add, BinaryFn::Sub, BinaryFn::Mul, BinaryFn::Div, BinaryFn::Min]);
            let swap = f != BinaryFn::Div && n.rng.below(2) == 0;
            if swap { n.binary(f, constant, x) } else { n.binary(f, x, constant) }
        }
        12 => {
            let gate = n.unary(x, &[UnaryFn::Sigmoid]);
            n.mul(x, gate)
        }
        13 => {
            let t = n.unary(x, &[UnaryFn::Affine(1.0, 3.0), UnaryFn::Clip(Clamp { lo: 0.0, hi: 6.0 })]);
            let t = n.mul(x, t);
            n.unary(t, &[UnaryFn::Affine(1.0 / 6.0, 0.0)])
        }
        14 => {
            let pads = [n.rng.below(2), n.rng.below(2), n.rng.below(2), n.rng.below(2)];
            let value = n.rng.pick(&[0.0, 0.0, -1.0, 0.5]);
            n.pad(x, pads, value)
        }
        15 if small >= 2 => {
            let pad = n.rng.below(2);
            let pool = PoolWindow {
                ceil_mode: n.rng.below(2) == 0,
                count_include_pad: n.rng.below(2) == 0,
                ..window(2, 1 + n.rng.below(2), pad)
            };
            if n.rng.below(2) == 0 { n.max_pool(x, pool) } else { n.avg_pool(x, pool) }
        }
        16 => {
            let perm = n.rng.pick(&[[0, 1, 3, 2], [0, 2, 3, 1], [0, 1, 2, 3]]);
            let t = n.transpose(x, &perm);
            let t = if n.rng.below(2) == 0 { n.relu(t) } else { t };
            let mut back = [0; 4];
            (0..4).for_each(|i| back[perm[i]] = i);
            n.transpose(t, &back)
        }
        17 => {
            let flat = n.reshape(x, &[batch, c, h * w]);
            let flat = if n.rng.below(2) == 0 { n.batch_norm(flat) } else { flat };
            n.reshape(flat, &[batch, c, h, w])
        }
        18 => {
            let other = n.unary(x, &[UnaryFn::RELU]);
            let joined = n.concat(1, &[x, other]);
            let [start, step, size] = n.rng.pick(&[[0, 1, c], [c, 1, c], [0, 2, c]]);
            let slice = Slice {
                start: vec![0, start, 0, 0],
                step: vec![1, step as i64, 1, 1],
                size: vec![batch, size, h, w],
            };
            n.op(FloatOp::Slice(slice), &[joined])
        }
        19 => {
            let slope =
                if n.rng.below(2) == 0 { n.random(&[c, 1, 1], 0.0, 0.5) } else { n.random(&[1], 0.0, 0.5) };
            n.op(FloatOp::PRelu(NoAttrs {}), &[x, slope])
        }
        20 if h * w <= 64 => {
            let factor = n.rng.pick(&[1, 2]);
            let resize = Resize {
                mode: n.rng.pick(&[ResizeMode::Nearest, ResizeMode::Linear]),
                coordinates: n.rng.pick(&[Coordinates::HalfPixel, Coordinates::Asymmetric]),
                nearest: NearestRule::Floor,
                size: [h * factor, w * factor],
                scale: [factor as f32; 2],
            };
            n.op(FloatOp::Resize(resize), &[x])
        }
        21 if c == 4 => n.op(FloatOp::DepthToSpace(DepthToSpace { block: 2, order: DepthOrder::Crd }), &[x]),
        _ => {
            let mean = n.op(FloatOp::ReduceMax(Reduce { axes: vec![2, 3], keep_dims: true }), &[x]);
            let gate = n.unary(mean, &[UnaryFn::HardSigmoid(0.2, 0.5)]);
            n.mul(x, gate)
        }
    }
}

/// Outputs, and the largest magnitude of any value in the network.
fn run(g: &FloatGraph, x: &[Tensor]) -> (Vec<Tensor>, f32) {
    let mut largest = 1e-3f32;
    let outputs = interp::float::run_with(g, x, &mut |_, value| {
        largest = value.as_f32().unwrap().iter().fold(largest, |m, v| m.max(v.abs()));
    });
    (outputs.unwrap(), largest)
}

/// Rounding differs by 10⁻⁵ of the largest value at most.
fn check(before: &FloatGraph, after: &FloatGraph, seed: u64, what: &str) -> Result<(), TestCaseError> {
    if let Err(errors) = verify::float(after) {
        return Err(TestCaseError::fail(format!("{what}: {errors:?}\n{}", text::print(after))));
    }
    let x = inputs(before, &mut Rng(seed));
    let ((want, largest), (got, _)) = (run(before, &x), run(after, &x));
    for (want, got) in want.iter().zip(&got) {
        prop_assert_eq!(want.shape(), got.shape());
        for (w, o) in want.as_f32().unwrap().iter().zip(got.as_f32().unwrap()) {
            prop_assert!(
                (w - o).abs() <= 1e-5 * largest,
                "{what}: {w} became {o} (largest {largest})\n{}\nbecame\n{}",
                text::print(before),
                text::print(after)
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_pass_preserves_the_function(seed in any::<u64>(), steps in 1usize..14) {
        let original = random_network(seed, steps);
        let mut g = original.clone();
        for (name, pass) in pipeline::float_passes() {
            // Alone on what the importer gives, and in its place in the pipeline.
            let mut alone = original.clone();
            pass(&mut alone).map_err(|e| TestCaseError::fail(e.to_string()))?;
            check(&original, &alone, seed, name)?;
            let before = g.clone();
            pass(&mut g).map_err(|e| TestCaseError::fail(e.to_string()))?;
            check(&before, &g, seed, name)?;
        }
        check(&original, &g, seed, "the pipeline")?;
    }

    #[test]
    fn the_pipeline_is_deterministic_and_leaves_nothing_to_do(seed in any::<u64>(), steps in 1usize..14) {
        let prepared = || {
            let mut g = random_network(seed, steps);
            pipeline::prepare(&mut g, &mut |_, _| ()).map(|()| g).map_err(|e| TestCaseError::fail(e.to_string()))
        };
        let mut g = prepared()?;
        prop_assert_eq!(text::print(&g), text::print(&prepared()?));
        let once: Vec<_> = common::ops(&g);
        prop_assert!(!once.contains(&"batch_norm"));
        let before = g.len();
        pipeline::prepare(&mut g, &mut |_, _| ()).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert!(g.len() <= before, "a second run adds nodes");
    }
}
