//! From a model file to a quantized network: import, prepare, calibrate, lower.
use super::{
    parallel,
    profile::{self, Origin},
    progress::Progress,
};
use crate::{
    Code, Error, Result,
    codegen::{self, JitModel, KernelPlan, Tuning},
    data::{Dataset, InputSpec},
    import,
};
use goshawk_ir::{FloatGraph, IntGraph};
use goshawk_passes::{
    bits::BitPlan,
    calibrate::{Calibrator, Method, Ranges},
    lower::{self, Lowered},
    pipeline,
};
use sha2::{Digest, Sha256};
use std::{fs::File, io::Read, path::Path};

/// Method of calibration unless the user chooses. On MobileNetV2 at 8 bits it loses least of all methods (README).
pub const DEFAULT_METHOD: Method = Method::Percentile(99.99);

/// Where ranges come from.
#[derive(Clone, Debug)]
pub enum Calibration {
    /// Observations, from which ranges are chosen for the widths at hand.
    Observed(Calibrator),
    /// Ranges that were chosen before.
    Fixed(Ranges),
}

impl Calibration {
    /// Ranges for the activation widths of `plan`.
    ///
    /// # Errors
    /// As [`Model::ranges`].
    pub fn ranges(&self, model: &Model, plan: &BitPlan, options: &lower::Options) -> Result<Ranges> {
        match self {
            Self::Observed(calibrator) => model.ranges(calibrator, plan, options),
            Self::Fixed(ranges) => Ok(ranges.clone()),
        }
    }
}

/// An imported model after the float passes.
#[derive(Clone, Debug)]
pub struct Model {
    /// The prepared network: what is calibrated and lowered.
    pub graph: FloatGraph,
    /// Hash of the model file, in hexadecimal.
    pub sha256: String,
}

impl Model {
    /// Imports a model file and runs the float passes, showing the graph after each to `on_pass`; the name `import` is
    /// for the graph before the first.
    ///
    /// # Errors
    /// As [`import::load`]; [`Code::INTERNAL`] where a pass fails.
    pub fn load(
        path: &Path,
        options: &import::Options,
        on_pass: &mut dyn FnMut(&str, &FloatGraph),
    ) -> Result<Self> {
        // Hashing takes as long as importing, and needs nothing of it.
        let (graph, sha256) = std::thread::scope(|scope| {
            let hash = scope.spawn(|| hash(path));
            (import::load(path, options), hash.join())
        });
        let mut graph = graph?;
        let sha256 = sha256
            .map_err(|_| Error::new(Code::INTERNAL, "hashing the model failed"))?
            .map_err(|e| Error::file(path, "read", &e))?;
        on_pass("import", &graph);
        pipeline::prepare(&mut graph, on_pass).map_err(|e| Error::internal(&e))?;
        Ok(Self { graph, sha256 })
    }

    /// What the network needs of a data set.
    pub fn inputs(&self) -> Vec<InputSpec> {
        InputSpec::of(&self.graph)
    }

    /// Observes the tensors of the network on every sample of the set. The result does not depend on the number of
    /// threads.
    ///
    /// # Errors
    /// [`Code::DATA`] where a sample cannot be read, [`Code::QUANTIZE`] where the network makes NaN or infinity of it.
    pub fn observe(
        &self,
        data: &Dataset,
        method: Method,
        threads: usize,
        progress: &dyn Progress,
    ) -> Result<Calibrator> {
        progress.begin("calibrating", data.len());
        let shards = parallel::shards(
            data.len(),
            threads,
            progress,
            || Calibrator::new(&self.graph, method),
            |calibrator, i| {
                calibrator.observe_batch(&self.graph, &data.sample(i)?).map_err(|e| {
                    Error::from_ir(Code::QUANTIZE, e)
                        .help(format!("sample {i} of {} leads to this", data.origin()))
                })
            },
        );
        progress.end();
        let mut shards = shards?.into_iter();
        let Some(mut all) = shards.next() else {
            return Err(Error::new(Code::DATA, format!("{} is empty", data.origin())));
        };
        for shard in shards {
            all.merge(shard).map_err(|e| Error::internal(&e))?;
        }
        Ok(all)
    }

    /// Chooses ranges for the activation widths of `plan`.
    ///
    /// # Errors
    /// [`Code::BITS`] where the plan does not fit the network, [`Code::QUANTIZE`] where no range can be chosen.
    pub fn ranges(&self, observed: &Calibrator, plan: &BitPlan, options: &lower::Options) -> Result<Ranges> {
        let layers = plan.resolve(&self.graph).map_err(|e| Error::from_ir(Code::BITS, e))?;
        let bits = lower::quantized_bits(&self.graph, &layers, options)
            .map_err(|e| Error::from_ir(Code::QUANTIZE, e))?;
        observed
            .finish(&|name: &str| bits.get(name).copied().unwrap_or(8))
            .map_err(|e| Error::from_ir(Code::QUANTIZE, e))
    }

    /// Ranges from a calibration profile of this model.
    ///
    /// # Errors
    /// [`Code::FILE`] or [`Code::DATA`] where the profile cannot be read, is damaged or belongs to another model.
    pub fn load_ranges(&self, path: &Path) -> Result<Ranges> {
        profile::load(path, &self.sha256).map(|(ranges, _)| ranges)
    }

    /// Lowers the network to integers.
    ///
    /// # Errors
    /// [`Code::BITS`] where the plan does not fit the network; [`Code::QUANTIZE`] with every node that has no integer
    /// form or no range.
    pub fn lower(&self, ranges: &Ranges, plan: &BitPlan, options: &lower::Options) -> Result<Quantized> {
        plan.resolve(&self.graph).map_err(|e| Error::from_ir(Code::BITS, e))?;
        let Lowered { graph, orders } = lower::lower_traced(&self.graph, ranges, plan, options)
            .map_err(|errors| quantize_error(&errors))?;
        Ok(Quantized { graph, orders, tuning: Tuning::default() })
    }

    /// Origin of ranges, for a profile.
    pub fn origin(&self, method: &str, bits: &str, samples: usize) -> Origin {
        Origin { model_sha256: self.sha256.clone(), method: method.into(), bits: bits.into(), samples }
    }
}

/// A network in integers.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// The integer network.
    pub graph: IntGraph,
    /// Memory order of the values that carry names of the float network ([`Lowered::orders`]).
    pub orders: std::collections::BTreeMap<String, Vec<usize>>,
    /// Tiles by measurement ([`super::tune`]).
    pub tuning: Tuning,
}

impl Quantized {
    /// The kernels of the best level.
    ///
    /// # Errors
    /// Those of [`codegen::arena`] and [`codegen::plan`].
    pub fn plan(&self, options: &codegen::Options) -> Result<KernelPlan> {
        codegen::plan(&self.graph, &codegen::arena(&self.graph, options)?, options)
    }

    /// Machine code in this process.
    ///
    /// # Errors
    /// Those of [`codegen::arena`] and [`codegen::jit`].
    pub fn jit(&self, options: &codegen::Options) -> Result<JitModel> {
        codegen::jit(&self.graph, &codegen::arena(&self.graph, options)?, options)
    }
}

/// SHA-256 of a file in hexadecimal.
fn hash(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(profile::hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// All problems of a lowering in one error.
fn quantize_error(errors: &[goshawk_ir::IrError]) -> Error {
    match errors {
        [only] => Error::from_ir(Code::QUANTIZE, only.clone()),
        all => {
            let list: Vec<String> = all.iter().map(|e| format!("\n    {e}")).collect();
            Error::new(Code::QUANTIZE, format!("{} nodes have no integer form", all.len()))
                .because(list.concat())
        }
    }
}
