//! The manifest: a JSON document that says what was compiled, for whom, and which kernel runs each layer and why.
//!
//! It is written beside the artefacts and, without what is known only at the end, is part of the library itself.
//! Deterministic: no time, no host name, no path.
use super::network::{Network, PortFacts};
use crate::{Code, Error, Result};
use serde::{Deserialize, Serialize};

/// Version of the document; grows when a field changes its meaning or goes.
pub const VERSION: u32 = 1;

/// The document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`VERSION`].
    pub manifest_version: u32,
    /// Version of goshawk.
    pub goshawk: String,
    /// The model.
    pub model: Model,
    /// C prefix.
    pub prefix: String,
    /// Target triple and instruction sets of the best level.
    pub isa: String,
    /// Scratch memory.
    pub arena: Arena,
    /// Stack that a run needs at most, in bytes; only in the file.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stack_bytes: Option<u32>,
    /// Inputs in order.
    pub inputs: Vec<Tensor>,
    /// Outputs in order.
    pub outputs: Vec<Tensor>,
    /// Layers in order of execution, with the kernels of the best level.
    pub layers: Vec<Layer>,
    /// Code for CPUs that lack what the best level needs, in order of preference.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub fallbacks: Vec<Fallback>,
    /// Names of the other artefacts; only in the file.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub files: Vec<File>,
}

/// The model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// Name of the network.
    pub name: String,
    /// SHA-256 of the ONNX file in hexadecimal.
    pub sha256: String,
}

/// Scratch memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arena {
    /// Bytes that a run needs.
    pub bytes: usize,
    /// Alignment in bytes.
    pub align: usize,
    /// No plan needs fewer bytes.
    pub lower_bound: usize,
}

/// An input, an output or the result of a layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tensor {
    /// Name in the ONNX model.
    pub name: String,
    /// Element type.
    pub dtype: String,
    /// Bits that the values use.
    pub bits: u8,
    /// Scale.
    pub scale: f32,
    /// Zero point.
    pub zero_point: i32,
    /// Dimensions, NHWC for images.
    pub shape: Vec<usize>,
    /// Dimensions in the ONNX model.
    pub f32_shape: Vec<usize>,
}

/// A layer and the kernel that runs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// Name in the ONNX model.
    pub name: String,
    /// Operator.
    pub op: String,
    /// Kernel.
    pub kernel: String,
    /// Why the layer is off the fastest path of the target; absent where it is on it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
    /// Bits of the weights, if there are any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub weight_bits: Option<u8>,
    /// Bits of the activations that the layer reads.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub activation_bits: Option<u8>,
    /// Multiply-accumulates.
    pub macs: u64,
    /// Scale of the result.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub scale: Option<f32>,
    /// Zero point of the result.
    pub zero_point: i32,
}

/// A level of instruction sets beside the best one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fallback {
    /// Target triple and instruction sets.
    pub isa: String,
    /// Layers in order of execution, with the kernels of this level.
    pub layers: Vec<Layer>,
}

/// Another artefact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Name without folder.
    pub name: String,
    /// SHA-256 of its bytes in hexadecimal.
    pub sha256: String,
    /// Size.
    pub bytes: usize,
}

impl File {
    /// Describes the bytes of a file.
    pub fn new(name: &str, bytes: &[u8]) -> Self {
        Self { name: name.to_owned(), sha256: sha256(bytes), bytes: bytes.len() }
    }
}

impl Manifest {
    /// The manifest as it is known before code is emitted, with the layers of every level.
    pub fn new(network: &Network, mut levels: Vec<Vec<Layer>>) -> Self {
        let others = levels.split_off(levels.len().min(1));
        let isas = network.origin.levels.iter().skip(1);
        let fallbacks = isas.zip(others).map(|(isa, layers)| Fallback { isa: isa.clone(), layers });
        Self {
            manifest_version: VERSION,
            goshawk: env!("CARGO_PKG_VERSION").to_owned(),
            model: Model { name: network.name.clone(), sha256: network.origin.model_sha256.clone() },
            prefix: network.prefix.to_string(),
            isa: network.origin.isa().to_owned(),
            arena: Arena {
                bytes: network.origin.arena_bytes,
                align: goshawk_runtime::abi::ARENA_ALIGN,
                lower_bound: network.origin.arena_lower_bound,
            },
            stack_bytes: None,
            inputs: network.inputs.iter().map(tensor).collect(),
            outputs: network.outputs.iter().map(tensor).collect(),
            layers: levels.pop().unwrap_or_default(),
            fallbacks: fallbacks.collect(),
            files: Vec::new(),
        }
    }

    /// The document for the info block: one line.
    ///
    /// # Errors
    /// A defect: all fields can be written as JSON.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::new(Code::INTERNAL, format!("manifest: {e}")))
    }

    /// The document for the file: indented, a newline at the end.
    ///
    /// # Errors
    /// As [`Manifest::to_json`].
    pub fn to_json_pretty(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self);
        text.map(|t| t + "\n").map_err(|e| Error::new(Code::INTERNAL, format!("manifest: {e}")))
    }

    /// Reads a document.
    ///
    /// # Errors
    /// It is not a manifest of this version.
    pub fn parse(text: &str) -> Result<Self> {
        let manifest: Self = serde_json::from_str(text)
            .map_err(|e| Error::new(Code::FILE, "the manifest cannot be read").because(e.to_string()))?;
        if manifest.manifest_version != VERSION {
            return Err(Error::new(
                Code::FILE,
                format!("the manifest has version {}", manifest.manifest_version),
            )
            .because(format!("this goshawk reads version {VERSION}"))
            .help("compile the model again"));
        }
        Ok(manifest)
    }
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn tensor(port: &PortFacts) -> Tensor {
    Tensor {
        name: port.name.clone(),
        dtype: port.dtype.to_string(),
        bits: port.bits,
        scale: port.scale,
        zero_point: port.zero_point,
        shape: port.dims.clone(),
        f32_shape: port.f32_dims.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::network::tests::sample, *};

    #[test]
    fn json_round_trips_exactly() {
        let layer = Layer {
            name: "conv\"1".into(),
            op: "conv".into(),
            kernel: "vnni256_4x16".into(),
            why: Some("a pair of weights may saturate".into()),
            weight_bits: Some(4),
            activation_bits: Some(8),
            macs: 1 << 40,
            scale: Some(f32::MIN_POSITIVE),
            zero_point: -3,
        };
        let mut manifest = Manifest::new(&sample(), vec![vec![layer]]);
        assert_eq!(Manifest::parse(&manifest.to_json().expect("valid")), Ok(manifest.clone()));
        manifest.stack_bytes = Some(512);
        manifest.files.push(File::new("libm.so", b"abc"));
        assert_eq!(manifest.files[0].sha256[..8], *"ba7816bf");
        assert_eq!(Manifest::parse(&manifest.to_json_pretty().expect("valid")), Ok(manifest));
    }
}
