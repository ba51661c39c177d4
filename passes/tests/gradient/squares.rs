//! Squared per-sample gradients against explicit traces.
use super::{check::*, networks};
use goshawk_passes::gradient::{Engine, Keep, Loss, Noise, Parts, Rows, Serial, Squares};

/// tr of the blocks of a Hessian that `lin` gives, by layer and output channel.
fn traces(engine: &Engine<f64>, lin: &goshawk_passes::gradient::Linearisation<'_, f64>) -> Vec<Vec<f64>> {
    let by_layer = engine.layers().iter().enumerate().map(|(l, layer)| {
        let count: usize = layer.shape.iter().product();
        let mut channels = vec![0.0; layer.shape[0]];
        for i in 0..count {
            let mut unit = vec![0.0; count];
            unit[i] = 1.0;
            let mut v = Parts::new();
            v.weights.insert(l, unit);
            let column = lin.hvp(&v, Rows::Same, &Serial).unwrap();
            channels[i / (count / layer.shape[0])] += column.weights[&l][i];
        }
        channels
    });
    by_layer.collect()
}

#[test]
fn the_exact_noise_is_the_trace_of_the_gauss_newton_blocks() {
    for (name, g) in networks::all() {
        let x = batch(&g, 3, 41);
        let engine = Engine::<f64>::new(&g).unwrap();
        for loss in [Loss::CrossEntropyOwn, Loss::SquaredErrorOwn] {
            if g.outputs.len() > 1 && matches!(loss, Loss::CrossEntropyOwn) {
                continue;
            }
            let lin = linearise(&engine, &x, &loss);
            let want = traces(&engine, &lin);
            let got = lin.squares(Noise::Exact, &Serial).unwrap();
            for (l, (got, want)) in got.weights.iter().zip(&want).enumerate() {
                assert!(
                    distance(&got.mean, want) < 1e-10,
                    "{name}, layer {l}, {loss:?}: {:?} {want:?}",
                    got.mean
                );
                let mean = got.samples.iter().sum::<f64>() / got.samples.len() as f64;
                assert!((mean - got.total()).abs() <= 1e-10 * mean.max(1e-6));
            }
        }
    }
}

/// The same for activations: Σ over elements of second derivatives, by channel.
#[test]
fn activations_too() {
    for (name, g) in networks::classifiers() {
        let x = batch(&g, 2, 43);
        let engine = Engine::<f64>::new(&g).unwrap();
        let lin = linearise(&engine, &x, &Loss::CrossEntropyOwn);
        let got = lin.squares(Noise::Exact, &Serial).unwrap();
        for (a, activation) in engine.activations().iter().enumerate() {
            let count = 2 * activation.shape.iter().product::<usize>();
            let inner: usize = activation.shape.iter().skip(2).product();
            let mut want = vec![0.0; activation.channels];
            for i in 0..count {
                let mut v = Parts::new();
                v.activations.insert(a, vec![0.0; count]);
                v.activations.get_mut(&a).unwrap()[i] = 1.0;
                let column = lin.hvp(&v, Rows::Same, &Serial).unwrap();
                want[i / inner % activation.channels] += column.activations[&a][i];
            }
            assert!(distance(&got.activations[a].mean, &want) < 1e-10, "{name}, activation {a}");
        }
    }
}

/// For a piecewise linear network the blocks of the true Hessian are those of Gauss and Newton; the engine says so, and
/// says otherwise where it is not so.
#[test]
fn blocks_are_exact_where_the_engine_says_so() {
    let mut seen = [false, false];
    for (name, g) in networks::classifiers() {
        let x = batch(&g, 2, 44);
        let engine = Engine::<f64>::new(&g).unwrap();
        let rows = if name == "segmentation" { 60 } else { 1 };
        let labels: Vec<usize> = (0..2 * rows).map(|i| i % 3).collect();
        let lin = linearise(&engine, &x, &Loss::CrossEntropy(&labels));
        let want = traces(&engine, &lin);
        let got = lin.squares(Noise::Exact, &Serial).unwrap();
        for (l, layer) in engine.layers().iter().enumerate() {
            let error = distance(&got.weights[l].mean, &want[l]);
            seen[usize::from(layer.exact_block)] = true;
            if layer.exact_block {
                assert!(error < 1e-9, "{name}, layer {l}: {error}");
            } else {
                assert!(error > 1e-6, "{name}, layer {l} is said to be curved, its trace differs by {error}");
            }
        }
        if name == "windows" {
            assert!(engine.layers().iter().all(|l| l.exact_block));
            assert!(engine.activations().iter().all(|a| a.exact_block));
        }
    }
    assert_eq!(seen, [true, true]);
}

/// Means over many seeds approach the exact trace; the standard error is measured, the bound is five of them.
#[test]
fn random_noise_has_the_right_mean() {
    let g = networks::squeeze();
    let x = batch(&g, 4, 45);
    let engine = Engine::<f64>::new(&g).unwrap();
    for loss in [Loss::CrossEntropyOwn, Loss::SquaredErrorOwn] {
        let lin = engine.linearise(&x, &loss, Keep::Values, &Serial).unwrap();
        let exact = lin.squares(Noise::Exact, &Serial).unwrap();
        for noise in [Noise::Rademacher as fn(u64) -> Noise, Noise::Sampled] {
            let probes: Vec<Squares> = (0..600).map(|s| lin.squares(noise(s), &Serial).unwrap()).collect();
            let check = |value: &dyn Fn(&Squares) -> f64, what: &str| {
                let n = probes.len() as f64;
                let mean = probes.iter().map(value).sum::<f64>() / n;
                let variance = probes.iter().map(|p| (value(p) - mean).powi(2)).sum::<f64>() / (n - 1.0);
                let error = (mean - value(&exact)).abs() / (variance / n).sqrt().max(1e-12 * mean);
                assert!(
                    error < 5.0,
                    "{what}, {loss:?}: {mean} for {}, {error} standard errors",
                    value(&exact)
                );
            };
            for l in 0..engine.layers().len() {
                check(&|s| s.weights[l].total(), &format!("layer {l}"));
                check(&|s| s.weights[l].mean[1], &format!("channel 1 of layer {l}"));
            }
            for a in 0..engine.activations().len() {
                check(&|s| s.activations[a].total(), &format!("activation {a}"));
            }
        }
    }
}

/// The empirical Fisher trace is the mean of squared gradients of batches of one.
#[test]
fn fisher_is_the_mean_of_squared_gradients() {
    for (name, g) in networks::classifiers() {
        let x = batch(&g, 5, 46);
        let engine = Engine::<f64>::new(&g).unwrap();
        let rows = if name == "segmentation" { 60 } else { 1 };
        let labels: Vec<usize> = (0..5 * rows).map(|i| i * 7 % 3).collect();
        let lin = linearise(&engine, &x, &Loss::CrossEntropy(&labels));
        let got = lin.squares(Noise::Fisher, &Serial).unwrap();
        for i in 0..5 {
            let one = linearise(&engine, &x[i..=i], &Loss::CrossEntropy(&labels[i * rows..(i + 1) * rows]));
            for (l, gradient) in &one.gradients.weights {
                let want = norm(gradient).powi(2);
                let found = got.weights[*l].samples[i];
                assert!((found - want).abs() <= 1e-10 * want.max(1e-9), "{name}, layer {l}, sample {i}");
            }
            for (a, gradient) in &one.gradients.activations {
                let want = norm(gradient).powi(2);
                assert!(
                    (got.activations[*a].samples[i] - want).abs() <= 1e-10 * want.max(1e-9),
                    "{name}, {a}"
                );
            }
        }
    }
}
