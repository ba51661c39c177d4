//! ONNX front end: bytes → limits → [`goshawk_ir::FloatGraph`].
//!
//! A model file is untrusted. It passes through five stages, each of which only sees what the one before has checked:
//! `wire` scans the protobuf encoding against the [`Limits`], `proto` decodes it, `check` orders the graph,
//! `dims` fixes the input shapes, `build` turns every node into canonical float operators through `ops`. Shape
//! arithmetic disappears on the way: a value is either a constant of the importer (`host`) or a node of the graph.
//!
//! Architecture invariants: no panic and no unbounded allocation on any input; all problems of a model are reported
//! together; only `external` opens files that a model names.

mod attrs;
mod build;
mod check;
mod cx;
mod dims;
mod external;
mod host;
mod host_ops;
mod inspect;
mod limits;
mod ops;
pub mod proto;
mod refusal;
mod wire;

pub use build::OPSETS;
pub use inspect::{Inspection, NodeInfo, Problem, TensorInfo, macs};
pub use limits::Limits;

use crate::{Error, Result};
use goshawk_ir::FloatGraph;
use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
};

/// How to import a model.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Values of symbolic dimensions by name; `INPUT.AXIS` names a dimension without a symbol.
    pub set_dims: BTreeMap<String, usize>,
    /// Folder from which external data may be read; refused without.
    pub external_data: Option<PathBuf>,
    /// Limits on the model.
    pub limits: Limits,
}

/// A model: a file, or its bytes.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A file.
    Path(&'a Path),
    /// The bytes of a file.
    Bytes(&'a [u8]),
}

impl<'a> From<&'a Path> for Source<'a> {
    fn from(path: &'a Path) -> Self {
        Self::Path(path)
    }
}

impl<'a> From<&'a PathBuf> for Source<'a> {
    fn from(path: &'a PathBuf) -> Self {
        Self::Path(path)
    }
}

impl<'a> From<&'a [u8]> for Source<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for Source<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

/// An imported model.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The network.
    pub graph: FloatGraph,
    /// Facts about it; without problems.
    pub inspection: Inspection,
}

/// Names of the standard ONNX operators that goshawk imports, sorted.
pub fn operators() -> Vec<&'static str> {
    let mut names = ops::NAMES.to_vec();
    names.sort_unstable();
    names
}

/// Imports a model.
///
/// # Errors
/// Codes 01xx where the model is damaged, [`crate::Code::UNSUPPORTED`] with all that goshawk does not support,
/// [`crate::Code::FILE`] where the file cannot be read.
pub fn load<'a>(source: impl Into<Source<'a>>, options: &Options) -> Result<FloatGraph> {
    import(source, options).map(|m| m.graph)
}

/// Imports a model, with the facts that [`inspect`] gives.
///
/// # Errors
/// As [`load`].
pub fn import<'a>(source: impl Into<Source<'a>>, options: &Options) -> Result<Imported> {
    let built = run(source.into(), options)?;
    match inspect::error(&built.inspection.unsupported) {
        Some(e) => Err(e),
        None => Ok(Imported { graph: built.graph, inspection: built.inspection }),
    }
}

/// Facts about a model, with everything that keeps it from compiling.
///
/// # Errors
/// The file cannot be read, decoded or ordered, or its input shapes are not known.
pub fn inspect<'a>(source: impl Into<Source<'a>>, options: &Options) -> Result<Inspection> {
    run(source.into(), options).map(|b| b.inspection)
}

fn run(source: Source<'_>, options: &Options) -> Result<build::Built> {
    match source {
        Source::Bytes(bytes) => build::build(&options.limits.decode(bytes)?, options),
        Source::Path(path) => {
            let model = options.limits.decode(&read(path, &options.limits)?).map_err(|e| e.in_file(path))?;
            build::build(&model, options).map_err(|e| e.in_file(path))
        }
    }
}

/// Reads a model file, at most one byte more than the limit allows.
fn read(path: &Path, limits: &Limits) -> Result<Vec<u8>> {
    let fail = |e: std::io::Error| Error::file(path, "read", &e);
    let file = std::fs::File::open(path).map_err(fail)?;
    let mut bytes = Vec::new();
    file.take(limits.file_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

/// A node in messages.
fn cx_name(node: &proto::NodeProto) -> String {
    format!("{} node {:?}", node.op_type, node.name)
}
