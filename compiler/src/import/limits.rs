//! Limits on what a model file may ask of this process. They are far above real networks: a file that breaks one is
//! damaged or hostile. Everything is checked before memory is allocated for it.
use super::{
    proto::{GraphProto, ModelProto},
    wire,
};
use crate::{Code, Error, Result};

/// Limits on a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of the model file in bytes; protobuf itself ends at 2 GiB.
    pub file_bytes: u64,
    /// Number of nodes.
    pub nodes: usize,
    /// Number of initializers, inputs, outputs and attributes: each.
    pub items: usize,
    /// Rank of a tensor.
    pub rank: usize,
    /// Elements of one tensor.
    pub elements: u64,
    /// Bytes of all constants together, external data included, as f32.
    pub constant_bytes: u64,
    /// Bytes that constant arithmetic may produce.
    pub folded_bytes: u64,
    /// Length of a name.
    pub string_bytes: usize,
    /// Nesting of messages.
    pub nesting: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file_bytes: 1 << 31,
            nodes: 100_000,
            items: 400_000,
            rank: goshawk_ir::shape::MAX_RANK,
            elements: goshawk_ir::shape::MAX_ELEMENTS as u64,
            constant_bytes: 4 << 30,
            folded_bytes: 1 << 30,
            string_bytes: 1 << 16,
            nesting: 16,
        }
    }
}

impl Limits {
    /// Decodes a model after a scan of its wire format has shown that it keeps the limits.
    ///
    /// # Errors
    /// [`Code::MODEL`]: not a protobuf of an ONNX model, or above a limit.
    pub fn decode(&self, bytes: &[u8]) -> Result<ModelProto> {
        if bytes.len() as u64 > self.file_bytes {
            return Err(over("file", bytes.len() as u64, self.file_bytes, "bytes"));
        }
        wire::scan(bytes, self)?;
        let model = <ModelProto as prost::Message>::decode(bytes).map_err(|e| {
            Error::new(Code::MODEL, "the model cannot be decoded")
                .because(e.to_string())
                .help("check that the file is an ONNX model and is complete")
        })?;
        if model.graph.is_none() {
            return Err(Error::new(Code::MODEL, "the model has no graph")
                .help("check that the file is an ONNX model and is complete"));
        }
        Ok(model)
    }

    /// Checks ranks and dimensions of all initializers and what they hold together.
    ///
    /// # Errors
    /// [`Code::GRAPH`] for impossible dimensions, [`Code::MODEL`] above a limit.
    pub fn check_constants(&self, graph: &GraphProto) -> Result<()> {
        let mut total = 0u64;
        for tensor in &graph.initializer {
            let count =
                self.elements(&tensor.dims).map_err(|e| e.at(format!("initializer {:?}", tensor.name)))?;
            total = total.saturating_add(count * 4);
            if total > self.constant_bytes {
                return Err(over("initializers", total, self.constant_bytes, "bytes"));
            }
        }
        Ok(())
    }

    /// Element count of dimensions as a model states them.
    ///
    /// # Errors
    /// [`Code::GRAPH`] for a negative dimension, [`Code::MODEL`] above a limit.
    pub fn elements(&self, dims: &[i64]) -> Result<u64> {
        if dims.len() > self.rank {
            return Err(over("rank of a tensor", dims.len() as u64, self.rank as u64, "dimensions"));
        }
        let mut count = 1u64;
        let mut largest = 1u64;
        for d in dims {
            let d = u64::try_from(*d).map_err(|_| {
                Error::new(Code::GRAPH, format!("dimension {d} of {dims:?} is negative"))
                    .help("export the model again; dimensions of constants are counts")
            })?;
            largest = largest.checked_mul(d.max(1)).filter(|c| *c <= self.elements).ok_or_else(|| {
                Error::new(
                    Code::MODEL,
                    format!("a tensor of {dims:?} is above the limit of {} elements", self.elements),
                )
                .help("the file is damaged or not meant for this machine")
            })?;
            count *= d;
        }
        Ok(count)
    }
}

/// An error for something above its limit.
pub fn over(what: &str, is: u64, limit: u64, unit: &str) -> Error {
    Error::new(
        Code::MODEL,
        format!("the {what} of the model is above the limit: {is} {unit}, at most {limit}"),
    )
    .help("the file is damaged, or too large for goshawk")
}
