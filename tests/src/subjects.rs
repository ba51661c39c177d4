//! The networks that whole-network tests run on, with the data that belongs to each.
//!
//! The example network of `models/` is always there. The others are too large for the repository, see [`assets`]. Where
//! they are absent, tests report themselves as ignored, by name.
use crate::assets;
use goshawk_compiler::{
    Result,
    data::{
        Dataset, InputSpec, Options, Preprocess,
        spec::{Affine, Channels, PerChannel, Size},
    },
    import,
};
use goshawk_ir::{FloatGraph, Tensor};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where a network's files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Repository,
    Assets,
}

/// A data set: path, and path of the labels where they lie elsewhere than beside it.
#[derive(Clone, Copy, Debug)]
struct Files(&'static str, Option<&'static str>);

/// Where a network's inputs come from.
#[derive(Clone, Copy, Debug)]
enum Data {
    /// For calibration, for tests.
    Sets(Files, Files),
    /// Reproducible noise of this mean and deviation: nobody publishes the data of this network in a usable form.
    Noise(f32, f32),
}

/// How long a network takes in tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// A few seconds with compilation: part of every test run.
    Short,
    /// Up to minutes: run on demand.
    Long,
}

/// A network and its data.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Name in test reports.
    pub name: &'static str,
    /// How long it takes.
    pub cost: Cost,
    place: Place,
    model: &'static str,
    data: Data,
    preprocess: Preprocess,
}

impl Subject {
    /// The example network of this repository.
    pub fn fashion() -> Self {
        Self {
            name: "fashion",
            cost: Cost::Short,
            place: Place::Repository,
            model: "models/fashion.onnx",
            data: Data::Sets(
                Files("models/fashion_calib.npz", None),
                Files("models/fashion_test.idx", Some("models/fashion_test_labels.idx")),
            ),
            preprocess: Preprocess { scale: Some(1.0 / 255.0), ..Preprocess::default() },
        }
    }

    /// All networks, short ones first.
    pub fn all() -> Vec<Self> {
        let cifar = Data::Sets(Files("data/cifar10/train.png", None), Files("data/cifar10/test.png", None));
        let photos = Data::Sets(Files("data/imagenet_sample", None), Files("data/imagenet_sample", None));
        let features = Data::Sets(Files("data/kws01/kws01.npz", None), Files("data/kws01/kws01.npz", None));
        let rows = Preprocess { rows: Some([32, 32, 3]), ..Preprocess::default() };
        let imagenet = Preprocess::preset("imagenet").unwrap_or_default();
        let normalized = Preprocess { resize: None, crop: None, rows: rows.rows, ..imagenet.clone() };
        let lite = Preprocess {
            scale: None,
            mean: Some(PerChannel::One(127.0)),
            std: Some(PerChannel::One(128.0)),
            ..imagenet.clone()
        };
        let caffe = Preprocess {
            scale: None,
            mean: Some(PerChannel::Each(vec![104.0, 117.0, 123.0])),
            std: None,
            channels: Some(Channels::Bgr),
            ..imagenet.clone()
        };
        let nanodet = Preprocess {
            resize: Some(Size::Both([416, 416])),
            mean: Some(PerChannel::Each(vec![103.53, 116.28, 123.675])),
            std: Some(PerChannel::Each(vec![57.375, 57.12, 58.395])),
            ..caffe.clone()
        };
        let sized = |side| Some(Size::Both([side, side]));
        let vww = Preprocess { resize: sized(96), scale: Some(1.0 / 255.0), ..Preprocess::default() };
        let retina = Preprocess { resize: sized(320), ..caffe.clone() };
        let uncropped = |p: Preprocess| Preprocess { crop: None, ..p };
        let kws = Preprocess {
            affine: Some(Affine { scale: 0.584_702_9, zero_point: 83 }),
            ..Preprocess::default()
        };
        let asset = |name, cost, model, data, preprocess| Self {
            name,
            cost,
            place: Place::Assets,
            model,
            data,
            preprocess,
        };
        use Cost::{Long, Short};
        vec![
            Self::fashion(),
            asset("dscnn_kws", Short, "mlperf_tiny_dscnn_kws", features, kws),
            asset(
                "autoencoder",
                Short,
                "mlperf_tiny_autoencoder_toycar",
                Data::Noise(-10.0, 12.0),
                Preprocess::default(),
            ),
            asset("resnet8", Short, "mlperf_tiny_resnet8_cifar10", cifar, rows.clone()),
            asset("mobilenet_vww", Short, "mlperf_tiny_mobilenetv1_025_vww", photos, vww),
            asset("resnet20", Short, "resnet20_cifar10", cifar, normalized.clone()),
            asset("resnet_large", Long, "mlperf_tiny_resnet_large_cifar10", cifar, rows),
            asset("resnet56", Long, "resnet56_cifar10", cifar, normalized),
            asset("mobilenet_v2", Long, "mobilenet_v2_imagenet", photos, imagenet),
            asset("efficientnet_lite0", Long, "efficientnet_lite0_imagenet", photos, lite),
            asset("resnet50_thin", Long, "resnet50_thin_probe3", photos, caffe),
            asset("retinaface", Long, "retinaface_mnet025_320", photos, uncropped(retina)),
            asset("nanodet", Long, "nanodet_m_coco", photos, uncropped(nanodet)),
        ]
    }

    /// The network of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|s| s.name == name)
    }

    /// The model's file, if this machine has it.
    pub fn model(&self) -> Option<PathBuf> {
        let path = match self.place {
            Place::Repository => repository().join(self.model),
            Place::Assets => assets::model(self.model)?,
        };
        path.is_file().then_some(path)
    }

    /// Imports the model with a batch of 1.
    ///
    /// # Errors
    /// The model is absent or cannot be imported.
    pub fn import(&self) -> Result<FloatGraph> {
        let path = self.model().ok_or_else(|| absent(self.model))?;
        let options = import::Options {
            set_dims: match self.place {
                Place::Repository => BTreeMap::from([("N".to_owned(), 1)]),
                Place::Assets => BTreeMap::new(),
            },
            ..import::Options::default()
        };
        import::load(path.as_path(), &options)
    }

    /// `count` inputs for calibration, evenly spread over the set.
    ///
    /// # Errors
    /// The data is absent or does not fit the network.
    pub fn calibration(&self, graph: &FloatGraph, count: usize) -> Result<Vec<Vec<Tensor>>> {
        match self.data {
            Data::Sets(calibration, _) => {
                self.read(calibration, graph, Some(count)).and_then(|set| samples(&set))
            }
            Data::Noise(mean, deviation) => noise(graph, 1, count, mean, deviation),
        }
    }

    /// `count` inputs for tests, evenly spread over the set.
    ///
    /// # Errors
    /// The data is absent or does not fit the network.
    pub fn inputs(&self, graph: &FloatGraph, count: usize) -> Result<Vec<Vec<Tensor>>> {
        match self.data {
            Data::Sets(_, test) => self.read(test, graph, Some(count)).and_then(|set| samples(&set)),
            Data::Noise(mean, deviation) => noise(graph, 2, count, mean, deviation),
        }
    }

    /// The labelled test set, or `samples` of it, evenly spread.
    ///
    /// # Errors
    /// The data is absent, has no labels or does not fit the network.
    pub fn test_set(&self, graph: &FloatGraph, samples: Option<usize>) -> Result<Dataset> {
        match self.data {
            Data::Sets(_, test) => self.read(test, graph, samples),
            Data::Noise(..) => Err(absent("a labelled set for this network")),
        }
    }

    fn read(&self, files: Files, graph: &FloatGraph, samples: Option<usize>) -> Result<Dataset> {
        let place = |path: &str| match self.place {
            Place::Repository => Ok(repository().join(path)),
            Place::Assets => assets::root().map(|r| r.join(path)).ok_or_else(|| absent(path)),
        };
        let options =
            Options { preprocess: self.preprocess.clone(), labels: files.1.map(place).transpose()?, samples };
        Dataset::open(&place(files.0)?, &InputSpec::of(graph), &options)
    }
}

fn absent(what: &str) -> goshawk_compiler::Error {
    goshawk_compiler::Error::new(goshawk_compiler::Code::FILE, format!("{what} is absent"))
        .help("set GOSHAWK_ASSETS to the folder of test assets")
}

fn samples(set: &Dataset) -> Result<Vec<Vec<Tensor>>> {
    (0..set.len()).map(|i| set.sample(i)).collect()
}

/// Approximately normal noise: the sum of twelve uniform numbers of a 64-bit LCG (Knuth's MMIX constants).
fn noise(graph: &FloatGraph, seed: u64, count: usize, mean: f32, deviation: f32) -> Result<Vec<Vec<Tensor>>> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let mut normal = || mean + deviation * ((0..12).map(|_| uniform()).sum::<f32>() - 6.0);
    let specs = InputSpec::of(graph);
    (0..count)
        .map(|_| {
            let tensor = |s: &InputSpec| {
                let values: Vec<f32> = (0..s.shape.count()).map(|_| normal()).collect();
                Tensor::from_f32(s.shape.clone(), values).map_err(|e| goshawk_compiler::Error::internal(&e))
            };
            specs.iter().map(tensor).collect()
        })
        .collect()
}
