//! What the tests of the engine share: batches, flat vectors, explicit matrices.
use super::common::Rng;
use goshawk_ir::{FloatGraph, Tensor};
use goshawk_passes::gradient::{Engine, Keep, Linearisation, Loss, Parts, Rows, Serial};

/// Samples whose values are multiples of 1/64, so that steps of a power of two are exact in f32.
pub fn batch(g: &FloatGraph, count: usize, seed: u64) -> Vec<Vec<Tensor>> {
    let mut rng = Rng(seed);
    (0..count)
        .map(|_| {
            let inputs = g.inputs.iter().map(|p| {
                let shape = g.ty(p.node).shape.clone();
                let values: Vec<f32> =
                    (0..shape.count()).map(|_| rng.below(257) as f32 / 64.0 - 2.0).collect();
                Tensor::from_f32(shape, values).unwrap()
            });
            inputs.collect()
        })
        .collect()
}

/// Targets near the outputs' scale.
pub fn targets(g: &FloatGraph, count: usize, seed: u64) -> Vec<Vec<Tensor>> {
    let mut rng = Rng(seed);
    (0..count)
        .map(|_| g.outputs.iter().map(|p| rng.tensor(&g.ty(p.node).shape, -1.0, 1.0)).collect())
        .collect()
}

pub fn linearise<'e>(engine: &'e Engine<f64>, x: &[Vec<Tensor>], loss: &Loss<'_>) -> Linearisation<'e, f64> {
    engine.linearise(x, loss, Keep::Everything, &Serial).unwrap()
}

/// All weights one after the other.
pub fn weights(engine: &Engine<f64>) -> Vec<f64> {
    (0..engine.layers().len()).flat_map(|l| engine.weights(l)).copied().collect()
}

/// The engine at other weights.
pub fn at(engine: &mut Engine<f64>, flat: &[f64]) {
    let mut start = 0;
    for l in 0..engine.layers().len() {
        let count: usize = engine.layers()[l].shape.iter().product();
        engine.set_weights(l, &flat[start..start + count]).unwrap();
        start += count;
    }
}

/// Weights of a product or gradient, flat.
pub fn flat(parts: &Parts<f64>) -> Vec<f64> {
    parts.weights.values().flatten().copied().collect()
}

/// A flat vector as a direction.
pub fn direction(engine: &Engine<f64>, flat: &[f64]) -> Parts<f64> {
    let mut parts = Parts::new();
    let mut start = 0;
    for (l, layer) in engine.layers().iter().enumerate() {
        let count: usize = layer.shape.iter().product();
        parts.weights.insert(l, flat[start..start + count].to_vec());
        start += count;
    }
    parts
}

/// The Hessian in all weights, column by column.
pub fn hessian(engine: &Engine<f64>, lin: &Linearisation<'_, f64>) -> Vec<Vec<f64>> {
    let n = weights(engine).len();
    (0..n)
        .map(|i| {
            let mut unit = vec![0.0; n];
            unit[i] = 1.0;
            flat(&lin.hvp(&direction(engine, &unit), Rows::Weights, &Serial).unwrap())
        })
        .collect()
}

pub fn norm(x: &[f64]) -> f64 {
    x.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// ‖a − b‖ / ‖b‖, or the absolute difference where b is tiny.
pub fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    norm(&difference) / norm(b).max(1e-6)
}
