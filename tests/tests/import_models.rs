//! Real models import whole: shapes, multiply–accumulates and parameters as an independent count over `onnx.shape_inference` has them.
#![allow(clippy::print_stdout, reason = "the figures belong in the log of the test")]

use goshawk_compiler::import::{self, Options};
use goshawk_tests::assets;
use libtest_mimic::{Arguments, Failed, Trial};

/// (model, millions of MACs, thousands of parameters, shapes of the outputs)
const EXPECTED: [(&str, f64, f64, &[&[usize]]); 12] = [
    ("efficientnet_lite0_imagenet", 385.2, 4631.0, &[&[1, 1000]]),
    ("mlperf_tiny_autoencoder_toycar", 0.3, 265.9, &[&[1, 640]]),
    ("mlperf_tiny_dscnn_kws", 2.7, 22.6, &[&[1, 12]]),
    ("mlperf_tiny_mobilenetv1_025_vww", 7.5, 210.8, &[&[1, 2]]),
    ("mlperf_tiny_resnet8_cifar10", 12.5, 77.7, &[&[1, 10]]),
    ("mlperf_tiny_resnet_large_cifar10", 76.5, 480.3, &[&[1, 10]]),
    ("mobilenet_v2_imagenet", 300.8, 3487.8, &[&[1, 1000]]),
    (
        "nanodet_m_coco",
        578.4,
        941.8,
        &[&[1, 2704, 80], &[1, 676, 80], &[1, 169, 80], &[1, 2704, 32], &[1, 676, 32], &[1, 169, 32]],
    ),
    ("resnet20_cifar10", 40.6, 269.0, &[&[1, 10]]),
    ("resnet50_thin_probe3", 1068.6, 5892.3, &[&[1, 3]]),
    ("resnet56_cifar10", 125.5, 851.0, &[&[1, 10]]),
    ("retinaface_mnet025_320", 245.3, 423.3, &[&[1, 4200, 4], &[1, 4200, 2], &[1, 4200, 10]]),
];

fn check(name: &str, macs: f64, params: f64, shapes: &[&[usize]]) -> Result<(), Failed> {
    let path = assets::model(name).ok_or("the model is not there")?;
    let imported = import::import(&path, &Options::default()).map_err(|e| e.to_string())?;
    let facts = imported.inspection;
    let is: Vec<&[usize]> = facts.outputs.iter().map(|o| o.shape.as_deref().unwrap_or_default()).collect();
    let line = format!(
        "{:.1} MMAC, {:.1} k parameters, outputs {is:?}",
        facts.macs as f64 / 1e6,
        facts.params as f64 / 1e3
    );
    println!("{name}: opset {}, {} nodes → {}, {line}", facts.opset, facts.nodes.len(), imported.graph.len());
    let close = |a: f64, b: f64| (a - b).abs() <= 0.051;
    if is != shapes || !close(facts.macs as f64 / 1e6, macs) || !close(facts.params as f64 / 1e3, params) {
        return Err(
            format!("got {line}, expected {macs} MMAC, {params} k parameters, outputs {shapes:?}").into()
        );
    }
    Ok(())
}

fn main() {
    let trials = EXPECTED.map(|(name, macs, params, shapes)| {
        Trial::test(name, move || check(name, macs, params, shapes))
            .with_ignored_flag(assets::model(name).is_none())
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit();
}
