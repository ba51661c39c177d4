//! The facts about a compiled network that header, info block and manifest repeat.
use super::cname::{CName, fields};
use crate::{Code, Error, Result};
use goshawk_ir::{DType, IntGraph, Layout, Port};

/// An input or output: real = scale · (q − zero_point).
#[derive(Clone, Debug, PartialEq)]
pub struct PortFacts {
    /// Name in the ONNX model.
    pub name: String,
    /// Name of the field in the C structs.
    pub field: String,
    /// Element type at the integer entry point.
    pub dtype: DType,
    /// Bits that the values use.
    pub bits: u8,
    /// Scale.
    pub scale: f32,
    /// Zero point.
    pub zero_point: i32,
    /// Dimensions at the integer entry point (NHWC for images).
    pub dims: Vec<usize>,
    /// Dimensions at the f32 entry point, those of the ONNX model.
    pub f32_dims: Vec<usize>,
}

impl PortFacts {
    fn new(graph: &IntGraph, port: &Port, field: String) -> Result<Self> {
        let ty = graph.ty(port.node);
        let defect = |what: String| {
            Error::new(Code::INTERNAL, what)
                .at(port.name.clone())
                .help("this is a defect of goshawk: please report it")
        };
        let quant = ty.qparams().map_err(|e| defect(e.to_string()))?;
        let scale = quant.tensor_scale().map_err(|e| defect(e.to_string()))?;
        match ty.dtype {
            DType::I32 | DType::I16 | DType::I8 | DType::U8 => {}
            DType::F32 | DType::I4 | DType::U4 => {
                return Err(defect(format!("the C interface has no tensors of type {}", ty.dtype)));
            }
        }
        let dims = ty.shape.to_vec();
        let f32_dims = match (port.layout, &dims[..]) {
            (Layout::Same, _) => dims.clone(),
            (Layout::Nchw, &[n, h, w, c]) => vec![n, c, h, w],
            (Layout::Nchw, _) => return Err(defect(format!("shape {} cannot be NCHW", ty.shape))),
        };
        Ok(Self {
            name: port.name.clone(),
            field,
            dtype: ty.dtype,
            bits: quant.bits,
            scale,
            zero_point: quant.zero_point,
            dims,
            f32_dims,
        })
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// Bytes at the integer entry point.
    pub fn bytes(&self) -> usize {
        self.dtype.bytes(self.elements())
    }

    /// Element type in C.
    pub fn c_type(&self) -> &'static str {
        match self.dtype {
            DType::F32 => "float",
            DType::I32 => "int32_t",
            DType::I16 => "int16_t",
            DType::I8 | DType::I4 => "int8_t",
            DType::U8 | DType::U4 => "uint8_t",
        }
    }
}

/// Where the network comes from and what it is compiled for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// SHA-256 of the ONNX file in hexadecimal; empty if there is none.
    pub model_sha256: String,
    /// Target triple and instruction sets of every level, best first, as users read them.
    pub levels: Vec<String>,
    /// Size of the arena in bytes.
    pub arena_bytes: usize,
    /// No memory plan needs less.
    pub arena_lower_bound: usize,
}

impl Origin {
    /// The best level.
    pub fn isa(&self) -> &str {
        self.levels.first().map_or("", String::as_str)
    }
}

/// Facts about a compiled network.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Name of the network.
    pub name: String,
    /// C prefix.
    pub prefix: CName,
    /// Where it comes from.
    pub origin: Origin,
    /// Inputs in order.
    pub inputs: Vec<PortFacts>,
    /// Outputs in order.
    pub outputs: Vec<PortFacts>,
}

impl Network {
    /// Collects the facts.
    ///
    /// # Errors
    /// The graph has no inputs or outputs, or one that the C interface cannot express.
    pub fn new(graph: &IntGraph, prefix: CName, origin: Origin) -> Result<Self> {
        if graph.inputs.is_empty() || graph.outputs.is_empty() {
            return Err(Error::new(Code::GRAPH, format!("model {} has no inputs or no outputs", graph.name))
                .help("a compiled model needs at least one of each"));
        }
        let ports = |ports: &[Port]| -> Result<Vec<PortFacts>> {
            let fields = fields(ports.iter().map(|p| p.name.as_str()), &prefix);
            ports.iter().zip(fields).map(|(port, field)| PortFacts::new(graph, port, field)).collect()
        };
        Ok(Self {
            name: graph.name.clone(),
            inputs: ports(&graph.inputs)?,
            outputs: ports(&graph.outputs)?,
            prefix,
            origin,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use goshawk_ir::{Graph, QParams, Shape, TensorType};

    /// A network of one input and one output, the same node; names that are awkward in C.
    pub fn sample() -> Network {
        let mut graph: IntGraph = Graph::new("sample \"net\" */");
        let ty = TensorType::quantized(
            DType::U8,
            Shape::new([1, 4, 5, 3]).expect("valid"),
            QParams::per_tensor(0.1, 128, 8),
        );
        let node = graph.add_input("float", ty, Layout::Nchw);
        graph.add_output("out\"put\n??/", node, Layout::Same);
        let origin = Origin {
            model_sha256: "ab".repeat(32),
            levels: vec!["x86_64-unknown-linux-gnu x86-64-v3".into()],
            arena_bytes: 128,
            arena_lower_bound: 128,
        };
        Network::new(&graph, CName::new("sample").expect("usable"), origin).expect("valid")
    }

    #[test]
    fn the_f32_entry_point_has_the_layout_of_the_model() {
        let network = sample();
        assert_eq!(network.inputs[0].f32_dims, [1, 3, 4, 5]);
        assert_eq!(network.outputs[0].f32_dims, [1, 4, 5, 3]);
        assert_eq!(network.inputs[0].field, "float_");
    }
}
