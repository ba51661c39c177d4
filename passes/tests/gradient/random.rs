//! Random convolution stacks: products against differences of gradients, symmetry, and squares against traces.
use super::{
    check::*,
    common::{Net, Rng, window},
};
use goshawk_ir::{
    FloatGraph, FloatOp,
    op::float::{Clamp, Conv, UnaryFn},
    op::window::ConvWindow,
};
use goshawk_passes::gradient::{Engine, Loss, Noise, Rows, Serial};
use proptest::prelude::*;

/// Any geometry that fits the operand, smooth functions between the layers.
fn network(seed: u64, depth: usize) -> FloatGraph {
    let mut n = Net::new(seed);
    let (h, w, c) = (3 + n.rng.below(8), 3 + n.rng.below(8), n.rng.pick(&[1, 2, 4]));
    let batch = 1 + n.rng.below(2);
    let mut x = n.input(&[batch, c, h, w]);
    for _ in 0..depth {
        let [_, c, h, w] = n.shape(x)[..] else { unreachable!("rank 4") };
        let r = |n: &mut Net, limit: usize| n.rng.below(limit);
        let kernel = [1 + r(&mut n, 3), 1 + r(&mut n, 3)];
        let dilation = [1 + r(&mut n, 2), 1 + r(&mut n, 2)];
        let pads = [r(&mut n, 3), r(&mut n, 3), r(&mut n, 3), r(&mut n, 3)];
        let fits = (kernel[0] - 1) * dilation[0] < h + pads[0] + pads[2]
            && (kernel[1] - 1) * dilation[1] < w + pads[1] + pads[3];
        if !fits {
            continue;
        }
        let groups = if c % 2 == 0 { n.rng.pick(&[1, 2, c]) } else { n.rng.pick(&[1, c]) };
        let out = groups * (1 + n.rng.below(3));
        let stride = [1 + r(&mut n, 3), 1 + r(&mut n, 3)];
        let weights = n.random(&[out, c / groups, kernel[0], kernel[1]], -0.7, 0.7);
        let bias = n.random(&[out], -0.5, 0.5);
        let clamp = n.rng.pick(&[None, Some(Clamp { lo: -40.0, hi: f32::INFINITY })]);
        let window_of = ConvWindow { stride, pads, dilation, groups };
        x = n.op(FloatOp::Conv(Conv { window: window_of, clamp }), &[x, weights, bias]);
        let f = n.rng.pick(&[UnaryFn::Tanh, UnaryFn::Silu, UnaryFn::Softplus, UnaryFn::Affine(0.5, 0.1)]);
        x = n.unary(x, &[f]);
        let [_, _, h, w] = n.shape(x)[..] else { unreachable!("rank 4") };
        if h > 1 && w > 1 && n.rng.below(3) == 0 {
            x = n.avg_pool(x, window(2, 1, 0));
        }
    }
    let [batch, c, ..] = n.shape(x)[..] else { unreachable!("rank 4") };
    let mean = n.spatial_mean(x);
    let flat = n.reshape(mean, &[batch, c]);
    let y = n.linear(flat, 3, true);
    n.done(&[y])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn products_are_differences_of_gradients(seed in any::<u64>(), depth in 1usize..5, samples in 1usize..12) {
        let g = network(seed, depth);
        let x = batch(&g, samples, seed ^ 1);
        let mut engine = Engine::<f64>::new(&g).unwrap();
        let mut rng = Rng(seed ^ 2);
        let rows = g.ty(g.outputs[0].node).shape[0];
        let labels: Vec<usize> = (0..samples * rows).map(|_| rng.below(3)).collect();
        let loss = Loss::CrossEntropy(&labels);
        let w = weights(&engine);
        let v: Vec<f64> = w.iter().map(|_| f64::from(rng.float(-1.0, 1.0))).collect();
        let u: Vec<f64> = w.iter().map(|_| f64::from(rng.float(-1.0, 1.0))).collect();
        let (product, adjoint, slope, squares, trace) = {
            let lin = linearise(&engine, &x, &loss);
            let product = flat(&lin.hvp(&direction(&engine, &v), Rows::Weights, &Serial).unwrap());
            let adjoint = flat(&lin.hvp(&direction(&engine, &u), Rows::Weights, &Serial).unwrap());
            let own = linearise(&engine, &x, &Loss::CrossEntropyOwn);
            // vᵀGv over the last layer's weights, one at a time, is its trace.
            let last = engine.layers().len() - 1;
            let count: usize = engine.layers()[last].shape.iter().product();
            let trace: f64 = (0..count).map(|i| {
                let mut unit = goshawk_passes::gradient::Parts::new();
                unit.weights.insert(last, (0..count).map(|j| f64::from(u8::from(i == j))).collect());
                own.hvp(&unit, Rows::Same, &Serial).unwrap().weights[&last][i]
            }).sum();
            let squares = own.squares(Noise::Exact, &Serial).unwrap().weights[last].total();
            (product, adjoint, direction(&engine, &v).dot(&lin.gradients), squares, trace)
        };
        prop_assert!((squares - trace).abs() <= 1e-9 * trace.max(1e-9), "{} {}", squares, trace);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let (uhv, vhu) = (dot(&u, &product), dot(&v, &adjoint));
        prop_assert!((uhv - vhu).abs() <= 1e-11 * (norm(&u) * norm(&product)).max(1e-9));
        let step = 1e-5;
        let mut around = |s: f64| {
            let moved: Vec<f64> = w.iter().zip(&v).map(|(w, v)| w + s * v).collect();
            at(&mut engine, &moved);
            let lin = linearise(&engine, &x, &loss);
            (lin.loss, flat(&lin.gradients))
        };
        let ((up, up_gradient), (down, down_gradient)) = (around(step), around(-step));
        let difference: Vec<f64> =
            up_gradient.iter().zip(&down_gradient).map(|(u, d)| (u - d) / (2.0 * step)).collect();
        prop_assert!(distance(&product, &difference) < 1e-5, "{}", distance(&product, &difference));
        prop_assert!((slope - (up - down) / (2.0 * step)).abs() <= 1e-6 * slope.abs().max(1e-2));
    }
}
