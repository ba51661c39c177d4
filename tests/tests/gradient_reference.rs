//! The gradient engine against PyTorch's double backward on a real network, with the same probes. The stored figures
//! are those of tests/scripts/gradient_reference.py, whose header says how inputs and probes are made.
use goshawk_compiler::{driver::parallel::Threads, import};
use goshawk_ir::{Shape, Tensor};
use goshawk_passes::{
    gradient::{Engine, Keep, Loss, Parts, Real, Rows, random},
    pipeline,
};
use goshawk_tests::assets;
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

/// Random signs for the differences of gradients and products, as in the script.
const PROJECTIONS: usize = 8;

fn number(v: &Value) -> Result<f64, Failed> {
    v.as_f64().ok_or_else(|| "the reference file is damaged".into())
}

/// An estimate of ‖found − reference‖ / ‖reference‖: projections of the difference onto random signs have its norm on
/// average.
fn difference<T: Real>(layer: usize, found: &[T], reference: &Value) -> Result<f64, Failed> {
    let norm = number(&reference["norm"])?;
    let mut sum = 0.0;
    for j in 0..PROJECTIONS {
        let stream = (PROJECTIONS * layer + j) as u64;
        let signs = (0..found.len() as u64).map(|i| random::sign(3, stream, i));
        let projection: f64 = signs.zip(found).map(|(s, v)| s * v.f64()).sum();
        sum += (projection - number(&reference["projections"][j])?).powi(2) / PROJECTIONS as f64;
    }
    Ok(sum.sqrt() / norm)
}

fn check<T: Real>(limit: f64) -> Result<(), Failed> {
    let reference: Value = serde_json::from_str(include_str!("../data/gradient_resnet20.json"))?;
    let path = assets::model("resnet20_cifar10").ok_or("the model is not there")?;
    let mut graph = import::load(&path, &import::Options::default()).map_err(|e| e.to_string())?;
    pipeline::prepare(&mut graph, &mut |_, _| ())?;
    let engine = Engine::<T>::new(&graph)?;
    let samples = number(&reference["samples"])? as u64;
    let shape: Shape = graph.ty(graph.inputs[0].node).shape.clone();
    let sample = |i: u64| -> Result<Vec<Tensor>, Failed> {
        let values: Vec<f32> =
            (0..shape.count() as u64).map(|j| (4.0 * random::uniform(1, i, j) - 2.0) as f32).collect();
        Ok(vec![Tensor::from_f32(shape.clone(), values)?])
    };
    let batch: Vec<Vec<Tensor>> = (0..samples).map(sample).collect::<Result<_, _>>()?;
    let labels: Vec<usize> = (0..samples as usize).map(|i| i % 10).collect();
    let lin = engine.linearise(&batch, &Loss::CrossEntropy(&labels), Keep::Everything, &Threads(2))?;
    let mut probe = Parts::new();
    for (l, layer) in engine.layers().iter().enumerate() {
        let count = layer.shape.iter().product();
        probe.weights.insert(l, random::rademacher(2, l as u64, count));
        let stored: Vec<usize> = reference["layers"][l]["shape"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(Value::as_u64)
            .map(|d| d as usize)
            .collect();
        if stored != layer.shape {
            return Err(format!("layer {l} has shape {:?}, in the reference {stored:?}", layer.shape).into());
        }
    }
    let loss = number(&reference["loss"])?;
    if (lin.loss - loss).abs() > limit * loss {
        return Err(format!("loss {}, in the reference {loss}", lin.loss).into());
    }
    let product = lin.hvp(&probe, Rows::Weights, &Threads(2))?;
    let mut worst = (0.0f64, 0.0f64);
    for (l, layer) in engine.layers().iter().enumerate() {
        let stored = &reference["layers"][l];
        let gradient = difference(l, &lin.gradients.weights[&l], &stored["gradient"])?;
        let second = difference(l, &product.weights[&l], &stored["product"])?;
        worst = (worst.0.max(gradient), worst.1.max(second));
        if gradient > limit || second > limit {
            return Err(format!(
                "{}: gradient differs by {gradient:.1e}, product by {second:.1e}",
                layer.name
            )
            .into());
        }
    }
    eprintln!("largest relative difference of a layer: gradient {:.1e}, product {:.1e}", worst.0, worst.1);
    Ok(())
}

fn main() {
    let absent = assets::model("resnet20_cifar10").is_none();
    let trials = vec![
        Trial::test("resnet20_cifar10_f64", || check::<f64>(1e-9)).with_ignored_flag(absent),
        Trial::test("resnet20_cifar10_f32", || check::<f32>(1e-3)).with_ignored_flag(absent),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
