//! From an integer graph to everything that can be written to disk, as bytes in memory.
use super::{
    archive,
    cname::CName,
    header, info, linker,
    manifest::{File, Layer, Manifest},
    network::{Network, Origin},
    shared,
};
use crate::{
    Error, Result,
    codegen::{self, LayerReport, Object, Target},
};
use goshawk_ir::IntGraph;
use goshawk_passes::memory;
use std::ffi::OsStr;

/// What to compile.
pub struct Request<'a> {
    /// The network.
    pub graph: &'a IntGraph,
    /// Processor and features, one level or several, best first ([`Target::parse_levels`]).
    pub levels: &'a [Target],
    /// C prefix.
    pub prefix: CName,
    /// SHA-256 of the ONNX file in hexadecimal; empty if there is none.
    pub model_sha256: String,
    /// Whether [`Object::asm`] is wanted.
    pub listing: bool,
    /// Tiles by measurement: see [`codegen::Options::tuning`].
    pub tuning: codegen::Tuning,
}

/// A compiled network.
pub struct Bundle {
    /// Facts about it.
    pub network: Network,
    /// The relocatable object, assembly listing and stack bound.
    pub object: Object,
    /// The manifest, with the stack bound.
    pub manifest: Manifest,
    /// The C header.
    pub header: String,
}

/// Compiles the network.
///
/// # Errors
/// Ports that the C interface cannot express, or a target without code.
pub fn compile(request: Request<'_>) -> Result<Bundle> {
    let Request { graph, levels, prefix, model_sha256, listing, tuning } = request;
    let mut options = codegen::Options::for_levels(levels, prefix.as_str())?;
    (options.listing, options.tuning) = (listing, tuning);
    let memory = codegen::arena(graph, &options)?;
    memory::check(graph, &memory).map_err(|e| Error::internal(&e))?;
    let plans = codegen::plans(graph, &memory, &options)?;
    let (arena_bytes, scratch_bytes) = plans.first().map_or((0, 0), |p| (p.arena_bytes, p.scratch_bytes));
    let origin = Origin {
        model_sha256,
        levels: options.levels().map(|t| format!("{} {}", t.triple(), t.isa())).collect(),
        arena_bytes,
        arena_lower_bound: memory.lower_bound + scratch_bytes,
    };
    let network = Network::new(graph, prefix, origin)?;
    let layers = plans.iter().map(|p| p.layers.iter().map(|report| layer(graph, report)).collect());
    let mut manifest = Manifest::new(&network, layers.collect());
    options.info = info::block(&network, &manifest.to_json()?)?;
    let object = codegen::object(graph, &memory, &options)?;
    manifest.stack_bytes = Some(object.stack_bytes);
    let header = header::render(&network, object.stack_bytes);
    Ok(Bundle { network, object, manifest, header })
}

impl Bundle {
    /// The shared library, linked by goshawk itself or by the compiler driver `linker`.
    ///
    /// # Errors
    /// The linker is missing or fails.
    pub fn shared(&self, soname: &str, linker: Option<&OsStr>) -> Result<Vec<u8>> {
        match linker {
            None => shared::link(&self.object.bytes, soname),
            Some(program) => linker::link(program, &self.object.bytes, soname),
        }
    }

    /// The static library.
    ///
    /// # Errors
    /// A defect: the object is well formed.
    pub fn archive(&self) -> Result<Vec<u8>> {
        archive::build(&[(&format!("{}.o", self.network.prefix), &self.object.bytes)])
    }

    /// The manifest as a file that lists the other artefacts.
    ///
    /// # Errors
    /// As [`Manifest::to_json`].
    pub fn manifest_file(&self, files: Vec<File>) -> Result<String> {
        Manifest { files, ..self.manifest.clone() }.to_json_pretty()
    }
}

fn layer(graph: &IntGraph, report: &LayerReport) -> Layer {
    let ty = graph.find(&report.name).map(|id| graph.ty(id));
    let quant = ty.and_then(|t| t.quant.as_ref());
    Layer {
        name: report.name.clone(),
        op: report.op.clone(),
        kernel: report.kernel.clone(),
        why: report.why.clone(),
        weight_bits: report.weights_bits,
        activation_bits: report.activation_bits,
        macs: report.macs,
        scale: quant.and_then(|q| q.tensor_scale().ok()),
        zero_point: ty.map_or(0, goshawk_ir::TensorType::zero_point),
    }
}
