//! The float pipeline on real models: the function stays, and nothing is left that should have been folded or fused.
#![allow(clippy::print_stdout)]
use goshawk_compiler::import::{self, Options};
use goshawk_ir::{FloatGraph, FloatOp, Operator, Shape, Tensor, interp, op::float::UnaryFn};
use goshawk_passes::pipeline;
use goshawk_tests::assets;
use libtest_mimic::{Arguments, Failed, Trial};
use std::collections::BTreeMap;

/// Counts of operators, without inputs and constants.
fn operators(g: &FloatGraph) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for id in g.ids() {
        *counts.entry(g.node(id).op.name()).or_default() += 1;
    }
    counts.retain(|name, _| *name != "input" && *name != "const");
    counts
}

/// A smooth pattern in [−1, 1] with some high frequencies.
fn pattern(shape: &Shape) -> Result<Tensor, Failed> {
    let values: Vec<f32> =
        (0..shape.count()).map(|i| (i as f32 * 0.013).sin() * (i as f32 * 0.31).cos()).collect();
    Ok(Tensor::from_f32(shape.clone(), values).map_err(|e| e.to_string())?)
}

fn check(name: &str) -> Result<(), Failed> {
    let path = assets::model(name).ok_or("the model is not there")?;
    let original = import::load(&path, &Options::default()).map_err(|e| e.to_string())?;
    let mut prepared = original.clone();
    pipeline::prepare(&mut prepared, &mut |_, _| ()).map_err(|e| e.to_string())?;
    println!("{name}: {:?}\n  → {:?}", operators(&original), operators(&prepared));

    let inputs =
        original.inputs.iter().map(|p| pattern(&original.ty(p.node).shape)).collect::<Result<Vec<_>, _>>()?;
    let run = |g: &FloatGraph| interp::float::run(g, &inputs).map_err(|e| e.to_string());
    for (i, (want, got)) in run(&original)?.iter().zip(&run(&prepared)?).enumerate() {
        let (want, got) =
            (want.as_f32().map_err(|e| e.to_string())?, got.as_f32().map_err(|e| e.to_string())?);
        let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
        let worst = want.iter().zip(got).fold(0f32, |m, (w, g)| m.max((w - g).abs()));
        println!("  output {i}: largest {largest}, worst difference {worst}");
        if worst > 2e-5 * largest {
            return Err(format!("output {i} differs by {worst}, its largest value is {largest}").into());
        }
    }
    leftovers(&prepared)
}

/// Operators that the pipeline removes wherever it can, and can in all these models.
fn leftovers(g: &FloatGraph) -> Result<(), Failed> {
    for id in g.ids() {
        let node = g.node(id);
        let left = match &node.op {
            FloatOp::BatchNorm(_) | FloatOp::MatMul(_) => true,
            // A Clip that a layer before it could have taken.
            FloatOp::Unary(a) => {
                let source = node.operands()[0];
                let layer = matches!(g.node(source).op, FloatOp::Conv(_) | FloatOp::Linear(_));
                layer && g.only_user(source).is_some() && matches!(a.chain.first(), Some(UnaryFn::Clip(_)))
            }
            FloatOp::Pad(a) => {
                g.users(id).iter().any(|u| a.value == 0.0 && matches!(g.node(*u).op, FloatOp::Conv(_)))
            }
            _ => false,
        };
        if left {
            return Err(format!("{} is left as {}", node.name, node.op.name()).into());
        }
    }
    Ok(())
}

fn main() {
    let trials = assets::MODELS
        .map(|name| Trial::test(name, move || check(name)).with_ignored_flag(assets::model(name).is_none()));
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit();
}
