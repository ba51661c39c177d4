//! Real models and data, which are not part of the repository.
use std::path::PathBuf;

/// The models that the suites know; a missing file is reported under this name.
pub const MODELS: [&str; 12] = [
    "efficientnet_lite0_imagenet",
    "mlperf_tiny_autoencoder_toycar",
    "mlperf_tiny_dscnn_kws",
    "mlperf_tiny_mobilenetv1_025_vww",
    "mlperf_tiny_resnet8_cifar10",
    "mlperf_tiny_resnet_large_cifar10",
    "mobilenet_v2_imagenet",
    "nanodet_m_coco",
    "resnet20_cifar10",
    "resnet50_thin_probe3",
    "resnet56_cifar10",
    "retinaface_mnet025_320",
];

/// The folder with `models/` and `data/`: `GOSHAWK_ASSETS`, else `../shared/assets` beside the repository.
pub fn root() -> Option<PathBuf> {
    let beside = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/assets"));
    let root = std::env::var_os("GOSHAWK_ASSETS").map_or(beside, PathBuf::from);
    root.is_dir().then_some(root)
}

/// A model of [`MODELS`], if it is there.
pub fn model(name: &str) -> Option<PathBuf> {
    let path = root()?.join("models").join(format!("{name}.onnx"));
    path.is_file().then_some(path)
}
