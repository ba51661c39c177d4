//! Values, gradients and Hessians.
use super::{check::*, common::Rng, networks};
use goshawk_ir::{
    FloatGraph, FloatOp, Operator, Tensor, TensorType, interp,
    op::float::{Binary, BinaryFn},
};
use goshawk_passes::gradient::{Engine, Keep, Loss, Parts, Rows, Serial};

/// Labels for every row of logits of a batch.
fn labels(engine: &Engine<f64>, x: &[Vec<Tensor>], seed: u64) -> Vec<usize> {
    // Rows follow from how many labels the engine asks for.
    let mut rng = Rng(seed);
    for rows in 1..200 {
        let labels: Vec<usize> = (0..rows * x.len()).map(|_| rng.below(3)).collect();
        if engine.linearise(x, &Loss::CrossEntropy(&labels), Keep::Nothing, &Serial).is_ok() {
            return labels;
        }
    }
    unreachable!("no number of labels is right")
}

#[test]
fn outputs_are_those_of_the_interpreter() {
    for (name, g) in networks::all() {
        let x = batch(&g, 5, 3);
        let engine = Engine::<f64>::new(&g).unwrap();
        let lin = engine.linearise(&x, &Loss::SquaredErrorOwn, Keep::Nothing, &Serial).unwrap();
        for (x, got) in x.iter().zip(lin.outputs()) {
            let want = interp::float::run(&g, x).unwrap();
            let want: Vec<f64> =
                want.iter().flat_map(|t| t.as_f32().unwrap()).map(|v| f64::from(*v)).collect();
            assert!(distance(got, &want) < 1e-5, "{name}: {got:?} {want:?}");
        }
    }
}

/// Gradient and Hessian in the weights against central differences of loss and gradient.
fn check_weights(name: &str, g: &FloatGraph, x: &[Vec<Tensor>], loss: &Loss<'_>) {
    let mut engine = Engine::<f64>::new(g).unwrap();
    let w = weights(&engine);
    let (gradient, h) = {
        let lin = linearise(&engine, x, loss);
        (flat(&lin.gradients), hessian(&engine, &lin))
    };
    let scale = h.iter().map(|c| norm(c)).fold(0.0, f64::max).max(1e-3);
    let step = 1e-5;
    let mut difference = Vec::new();
    for i in 0..w.len() {
        let mut around = |s: f64| {
            let mut w = w.clone();
            w[i] += s;
            at(&mut engine, &w);
            let lin = linearise(&engine, x, loss);
            (lin.loss, flat(&lin.gradients))
        };
        let ((up, up_gradient), (down, down_gradient)) = (around(step), around(-step));
        difference.push((up - down) / (2.0 * step));
        let column: Vec<f64> =
            up_gradient.iter().zip(&down_gradient).map(|(u, d)| (u - d) / (2.0 * step)).collect();
        let error: Vec<f64> = column.iter().zip(&h[i]).map(|(a, b)| a - b).collect();
        assert!(norm(&error) <= 1e-5 * scale, "{name}: column {i} is off by {} of {scale}", norm(&error));
        for j in 0..i {
            assert!((h[i][j] - h[j][i]).abs() <= 1e-12 * scale, "{name}: not symmetric at {i}, {j}");
        }
    }
    assert!(distance(&gradient, &difference) < 1e-6, "{name}: gradient {}", distance(&gradient, &difference));
}

#[test]
fn cross_entropy_in_the_weights() {
    for (name, g) in networks::classifiers() {
        let x = batch(&g, 3, 4);
        let engine = Engine::<f64>::new(&g).unwrap();
        let labels = labels(&engine, &x, 9);
        check_weights(name, &g, &x, &Loss::CrossEntropy(&labels));
    }
}

#[test]
fn squared_error_in_the_weights() {
    for (name, g) in networks::all() {
        let x = batch(&g, 2, 5);
        let targets = targets(&g, 2, 6);
        check_weights(name, &g, &x, &Loss::SquaredError(&targets));
    }
}

/// The same graph with a constant of zeros added behind every activation that is no network input.
fn with_offsets(g: &FloatGraph) -> (FloatGraph, Vec<(usize, String)>) {
    let engine = Engine::<f64>::new(g).unwrap();
    let mut g = g.clone();
    let mut offsets = Vec::new();
    for (i, a) in engine.activations().iter().enumerate() {
        if g.node(a.node).op.is_input() {
            continue;
        }
        let shape = g.ty(a.node).shape.clone();
        let zeros = Tensor::from_f32(shape.clone(), vec![0.0; shape.count()]).unwrap();
        let name = format!("offset{i}");
        let offset = g.add_const(name.clone(), zeros, None);
        let readers = g.users(a.node);
        let op = FloatOp::Binary(Binary { function: BinaryFn::Add, clamp: None });
        let sum = g.add(format!("moved{i}"), op, &[a.node, offset], TensorType::f32(shape));
        for reader in readers {
            let operands: Vec<_> =
                g.node(reader).operands().iter().map(|o| if *o == a.node { sum } else { *o }).collect();
            g.set_operands(reader, &operands);
        }
        offsets.push((i, name));
    }
    (g, offsets)
}

/// Gradients and Hessian rows of activations against central differences, by moving them in the graph.
#[test]
fn activations_move_as_their_derivatives_say() {
    for (name, g) in networks::classifiers() {
        // One sample: the constants move all samples alike.
        let x = batch(&g, 1, 7);
        let engine = Engine::<f64>::new(&g).unwrap();
        let labels = labels(&engine, &x, 2);
        let loss = Loss::CrossEntropy(&labels);
        let lin = linearise(&engine, &x, &loss);
        let (moved, offsets) = with_offsets(&g);
        let mut rng = Rng(8);
        for (activation, constant) in offsets {
            let count: usize = engine.activations()[activation].shape.iter().product();
            let signs: Vec<f64> = (0..count).map(|_| rng.pick(&[-1.0, 1.0])).collect();
            // A power of two is exact in the constants, which are f32.
            let step = 2f64.powi(-17);
            let around = |s: f64| {
                let mut g = moved.clone();
                let id = g.find(&constant).unwrap();
                let shape = g.ty(id).shape.clone();
                let values: Vec<f32> = signs.iter().map(|v| (v * s) as f32).collect();
                g.node_mut(id).op = FloatOp::constant(Tensor::from_f32(shape, values).unwrap());
                let engine = Engine::<f64>::new(&g).unwrap();
                let lin = linearise(&engine, &x, &loss);
                (lin.loss, flat(&lin.gradients))
            };
            let ((up, up_gradient), (down, down_gradient)) = (around(step), around(-step));
            let mut direction = Parts::new();
            direction.activations.insert(activation, signs);
            let slope = direction.dot(&lin.gradients);
            assert!(
                (slope - (up - down) / (2.0 * step)).abs() <= 1e-6 * slope.abs().max(1e-2),
                "{name}, activation {activation}: slope {slope}, difference {}",
                (up - down) / (2.0 * step)
            );
            let product = lin.hvp(&direction, Rows::All, &Serial).unwrap();
            let column: Vec<f64> =
                up_gradient.iter().zip(&down_gradient).map(|(u, d)| (u - d) / (2.0 * step)).collect();
            let error = distance(&flat(&product), &column);
            assert!(error < 1e-5 || norm(&column) < 1e-4, "{name}, activation {activation}: {error}");
            // Along the direction itself: second difference of the loss.
            let curvature = direction.dot(&product);
            let second = (up - 2.0 * lin.loss + down) / (step * step);
            assert!(
                (curvature - second).abs() <= 1e-3 * curvature.abs().max(0.1),
                "{name}, activation {activation}: curvature {curvature}, difference {second}"
            );
        }
    }
}

/// uᵀHv = vᵀHu for directions in weights and activations together, over several chunks.
#[test]
fn products_are_symmetric_over_weights_and_activations() {
    for (name, g) in networks::all() {
        let x = batch(&g, 11, 12);
        let engine = Engine::<f64>::new(&g).unwrap();
        let targets = targets(&g, 11, 13);
        let lin = linearise(&engine, &x, &Loss::SquaredError(&targets));
        let mut rng = Rng(14);
        let mut random = || {
            let mut parts = direction(&engine, &vec![0.0; weights(&engine).len()]);
            for (i, a) in engine.activations().iter().enumerate() {
                parts.activations.insert(i, vec![0.0; 11 * a.shape.iter().product::<usize>()]);
            }
            let all = parts.weights.values_mut().chain(parts.activations.values_mut());
            all.flatten().for_each(|v| *v = f64::from(rng.float(-1.0, 1.0)));
            parts
        };
        let (u, v) = (random(), random());
        let a = u.dot(&lin.hvp(&v, Rows::All, &Serial).unwrap());
        let b = v.dot(&lin.hvp(&u, Rows::All, &Serial).unwrap());
        assert!((a - b).abs() <= 1e-11 * a.abs(), "{name}: {a} {b}");
    }
}

/// A direction in one layer, and rows of one layer, are the blocks of the whole.
#[test]
fn restricted_products_are_blocks_of_the_whole() {
    for (name, g) in networks::classifiers() {
        let x = batch(&g, 4, 21);
        let engine = Engine::<f64>::new(&g).unwrap();
        let labels = labels(&engine, &x, 3);
        let lin = linearise(&engine, &x, &Loss::CrossEntropy(&labels));
        for l in 0..engine.layers().len() {
            let count: usize = engine.layers()[l].shape.iter().product();
            let mut rng = Rng(l as u64);
            let mut v = Parts::new();
            v.weights.insert(l, (0..count).map(|_| f64::from(rng.float(-1.0, 1.0))).collect());
            let whole = lin.hvp(&v, Rows::Weights, &Serial).unwrap();
            let own = lin.hvp(&v, Rows::Same, &Serial).unwrap();
            assert_eq!(own.weights.keys().copied().collect::<Vec<_>>(), [l]);
            assert!(distance(&own.weights[&l], &whole.weights[&l]) < 1e-12, "{name}, layer {l}");
            let last = engine.layers().len() - 1;
            let named = lin.hvp(&v, Rows::Of(&[last], &[0]), &Serial).unwrap();
            assert_eq!(
                named.activations[&0].len(),
                4 * engine.activations()[0].shape.iter().product::<usize>()
            );
            assert!(distance(&named.weights[&last], &whole.weights[&last]) < 1e-12, "{name}, layer {l}");
        }
    }
}

/// Against the network's own output the gradient vanishes and the Hessian is the Gauss-Newton matrix: Σ over output
/// elements of rank-one terms for squared errors.
#[test]
fn own_outputs_give_the_gauss_newton_matrix() {
    for (name, g) in networks::all() {
        let x = batch(&g, 2, 31);
        let engine = Engine::<f64>::new(&g).unwrap();
        let lin = linearise(&engine, &x, &Loss::SquaredErrorOwn);
        assert_eq!(lin.loss, 0.0);
        assert!(flat(&lin.gradients).iter().all(|v| *v == 0.0));
        // Targets equal to the outputs must agree, up to their rounding to f32.
        let outputs: Vec<Vec<Tensor>> = x.iter().map(|x| interp::float::run(&g, x).unwrap()).collect();
        let same = linearise(&engine, &x, &Loss::SquaredError(&outputs));
        let mut rng = Rng(5);
        let v: Vec<f64> = weights(&engine).iter().map(|_| f64::from(rng.float(-1.0, 1.0))).collect();
        let v = direction(&engine, &v);
        let a = flat(&lin.hvp(&v, Rows::Weights, &Serial).unwrap());
        let b = flat(&same.hvp(&v, Rows::Weights, &Serial).unwrap());
        assert!(distance(&a, &b) < 1e-4, "{name}: {}", distance(&a, &b));
    }
    let g = networks::windows();
    let x = batch(&g, 3, 4);
    let engine = Engine::<f64>::new(&g).unwrap();
    let lin = linearise(&engine, &x, &Loss::CrossEntropyOwn);
    // The entropy of the outputs.
    let entropy = |z: &Vec<f64>| {
        let sum: f64 = z.iter().map(|z| z.exp()).sum();
        z.iter().map(|z| -(z.exp() / sum) * (z.exp() / sum).ln()).sum::<f64>()
    };
    let want = lin.outputs().iter().map(entropy).sum::<f64>() / 3.0;
    assert!((lin.loss - want).abs() < 1e-12);
}
