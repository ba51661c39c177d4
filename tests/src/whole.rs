//! A whole network on its way from ONNX to machine code, for tests that look at all the stages.
use crate::subjects::Subject;
use goshawk_compiler::{
    artifact::{CName, Network, info, manifest::Manifest, network::Origin, shared},
    codegen::{self, JitModel, Target},
};
use goshawk_ir::{FloatGraph, IntGraph};
use goshawk_passes::{
    bits::BitPlan,
    calibrate::{Calibrator, Method},
    lower,
    memory::{self, MemoryPlan},
    pipeline,
};
use goshawk_runtime::Library;
use std::path::Path;

/// What tests report: a sentence.
pub type Result<T> = std::result::Result<T, String>;

/// Any error as a sentence that says at which stage it came up.
pub fn at<E: std::fmt::Display>(stage: &str) -> impl Fn(E) -> String + '_ {
    move |e| format!("{stage}: {e}")
}

/// A network before and after quantization.
pub struct Quantized {
    /// Prepared float graph.
    pub float: FloatGraph,
    /// Integer graph.
    pub int: IntGraph,
}

impl Quantized {
    /// Imports, prepares, calibrates on `samples` inputs and lowers.
    ///
    /// # Errors
    /// Of any stage.
    pub fn new(subject: &Subject, plan: &BitPlan, method: Method, samples: usize) -> Result<Self> {
        let mut float = subject.import().map_err(at("import"))?;
        pipeline::prepare(&mut float, &mut |_, _| {}).map_err(at("passes"))?;
        let mut calibrator = Calibrator::new(&float, method);
        for inputs in subject.calibration(&float, samples).map_err(at("calibration data"))? {
            calibrator.observe_batch(&float, &inputs).map_err(at("calibration"))?;
        }
        let ranges = calibrator.finish(&|_| 8).map_err(at("calibration"))?;
        let int = lower::lower(&float, &ranges, plan, &lower::Options::default()).map_err(at("lowering"))?;
        Ok(Self { float, int })
    }

    /// Compiles the network into this process.
    ///
    /// # Errors
    /// The target is unknown or does not run here, or code generation fails.
    pub fn jit(&self, cpu: &str) -> Result<JitModel> {
        let options = codegen::Options::new(target(cpu)?, "jit");
        codegen::jit(&self.int, &arena(&self.int, &options)?, &options).map_err(at("code generation"))
    }

    /// Compiles the network to a shared library in `folder` and loads it.
    ///
    /// # Errors
    /// Of code generation, the ELF writer or the loader.
    pub fn library(&self, cpu: &str, folder: &Path) -> Result<Library> {
        library(&self.int, cpu, folder)
    }
}

/// Compiles an integer graph to a shared library in `folder` and loads it.
///
/// # Errors
/// Of code generation, the ELF writer or the loader.
pub fn library(int: &IntGraph, cpu: &str, folder: &Path) -> Result<Library> {
    let mut options = codegen::Options::new(target(cpu)?, "model");
    let memory = arena(int, &options)?;
    let plan = codegen::plan(int, &memory, &options).map_err(at("kernel plan"))?;
    let origin = Origin {
        model_sha256: String::new(),
        levels: options.levels().map(codegen::Target::isa).collect(),
        arena_bytes: plan.arena_bytes,
        arena_lower_bound: memory.lower_bound,
    };
    let prefix = CName::new("model").map_err(at("prefix"))?;
    let network = Network::new(int, prefix, origin).map_err(at("ports"))?;
    let manifest = Manifest::new(&network, Vec::new()).to_json().map_err(at("manifest"))?;
    options.info = info::block(&network, &manifest).map_err(at("info block"))?;
    let object = codegen::object(int, &memory, &options).map_err(at("code generation"))?;
    let file = folder.join("libmodel.so");
    let library = shared::link(&object.bytes, "libmodel.so").map_err(at("ELF writer"))?;
    std::fs::write(&file, library).map_err(at("write"))?;
    Library::open(&file).map_err(at("loader"))
}

/// The memory plan, which the independent checker accepts.
fn arena(int: &IntGraph, options: &codegen::Options) -> Result<MemoryPlan> {
    let memory = codegen::arena(int, options).map_err(at("memory plan"))?;
    memory::check(int, &memory).map_err(at("memory plan"))?;
    Ok(memory)
}

fn target(cpu: &str) -> Result<Target> {
    Target::parse(None, cpu).map_err(at("target"))
}
