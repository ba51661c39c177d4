//! The number of threads changes nothing; f32 agrees with f64.
use super::{check::*, networks, threads::Threads};
use goshawk_passes::gradient::{Engine, Keep, Loss, Noise, Rows, Serial, Workers};

/// Tasks in the opposite order.
struct Backwards;

impl Workers for Backwards {
    fn run(&self, tasks: usize, work: &(dyn Fn(usize) + Sync)) {
        (0..tasks).rev().for_each(work);
    }
}

#[test]
fn results_do_not_depend_on_threads_or_order() {
    let g = networks::windows();
    let x = batch(&g, 21, 51);
    let engine = Engine::<f32>::new(&g).unwrap();
    let labels: Vec<usize> = (0..21).map(|i| i % 4).collect();
    let run = |workers: &dyn Workers| {
        let lin = engine.linearise(&x, &Loss::CrossEntropy(&labels), Keep::Everything, workers).unwrap();
        let mut v = lin.gradients.clone();
        v.activations.remove(&1);
        (
            lin.losses.clone(),
            lin.gradients.clone(),
            lin.hvp(&v, Rows::All, workers).unwrap(),
            lin.squares(Noise::Rademacher(7), workers).unwrap(),
        )
    };
    let want = run(&Serial);
    assert_eq!(run(&Threads(3)), want);
    assert_eq!(run(&Threads(64)), want);
    assert_eq!(run(&Backwards), want);
}

#[test]
fn single_precision_agrees_with_double() {
    for (name, g) in networks::classifiers() {
        let x = batch(&g, 4, 52);
        let (single, double) = (Engine::<f32>::new(&g).unwrap(), Engine::<f64>::new(&g).unwrap());
        let loss = Loss::CrossEntropyOwn;
        let a = single.linearise(&x, &loss, Keep::Everything, &Serial).unwrap();
        let b = linearise(&double, &x, &loss);
        assert!((a.loss - b.loss).abs() < 1e-5, "{name}");
        let v = direction(&double, &vec![1.0; weights(&double).len()]);
        let mut narrow = goshawk_passes::gradient::Parts::new();
        for (l, w) in &v.weights {
            narrow.weights.insert(*l, w.iter().map(|v| *v as f32).collect());
        }
        let p: Vec<f64> = a
            .hvp(&narrow, Rows::Weights, &Serial)
            .unwrap()
            .weights
            .values()
            .flatten()
            .map(|v| f64::from(*v))
            .collect();
        let q = flat(&b.hvp(&v, Rows::Weights, &Serial).unwrap());
        assert!(distance(&p, &q) < 1e-3, "{name}: {}", distance(&p, &q));
    }
}

#[test]
fn the_stated_memory_is_what_is_held() {
    let g = networks::windows();
    let x = batch(&g, 8, 53);
    let engine = Engine::<f32>::new(&g).unwrap();
    let labels = vec![0; 8];
    for keep in [Keep::Nothing, Keep::Values, Keep::Everything] {
        let lin = engine.linearise(&x, &Loss::CrossEntropy(&labels), keep, &Serial).unwrap();
        let activations: usize = lin.gradients.activations.values().map(|v| 4 * v.len()).sum();
        let (held, stated) = (lin.bytes() + activations, engine.memory(8, keep));
        assert!(held <= stated * 6 / 5 + 4096, "{keep:?}: {held} of {stated}");
        assert!(held * 5 + 4096 >= stated * 4, "{keep:?}: {held} of {stated}");
    }
}
