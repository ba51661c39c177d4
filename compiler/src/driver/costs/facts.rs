//! The layers of a model as the cost model sees them: shapes and counts, without weights.
use crate::{
    Code, Error, Result,
    driver::model::{Model, Quantized},
};
use goshawk_ir::{IntGraph, IntOp, NodeId};
use goshawk_passes::{bits::LayerBits, lower::layers};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerFacts {
    /// Position in execution order.
    pub position: usize,
    /// Shapes and window: layers with the same text cost the same.
    pub shape: String,
    /// Number of weights.
    pub weights: u64,
    /// Output channels: each has a bias and a dyadic number.
    pub channels: u64,
    /// Multiply-accumulates.
    pub macs: u64,
    /// Elements read.
    pub input: u64,
    /// Bytes written.
    pub output_bytes: u64,
    /// Whether each output channel reads one input channel.
    pub depthwise: bool,
    /// Tensor whose quantizer the layer reads through.
    pub reads: String,
    /// Whether no layer comes before.
    pub first: bool,
    /// Whether no layer comes behind.
    pub last: bool,
}

impl LayerFacts {
    /// Key of its variant at these widths in cost tables.
    pub fn key(&self, bits: LayerBits) -> String {
        format!("{} w{}a{}", self.shape, bits.weights, bits.activations)
    }

    /// Bytes of the packed weights: widths up to 4 bits are stored in half bytes, wider ones in bytes.
    pub fn bytes(&self, weight_bits: u8) -> u64 {
        if weight_bits <= 4 { self.weights.div_ceil(2) } else { self.weights }
    }

    /// Bytes of the constants that the widths do not change: bias (4), multiplier (4) and shift (1) of each channel.
    pub fn constant_bytes(&self) -> u64 {
        9 * self.channels
    }

    /// MACs · weight bits · activation bits (HAWQ-V3).
    pub fn bops(&self, bits: LayerBits) -> f64 {
        self.macs as f64 * f64::from(bits.weights) * f64::from(bits.activations)
    }
}

/// The layers of a lowered model, by name. The widths it was lowered with do not matter.
///
/// # Errors
/// [`Code::INTERNAL`] where a layer is not in the integer graph under its name.
pub fn of(model: &Model, quantized: &Quantized) -> Result<BTreeMap<String, LayerFacts>> {
    let internal = |e: goshawk_ir::IrError| Error::internal(&e);
    let ends = layers::ends(&model.graph).map_err(internal)?;
    let mut all = BTreeMap::new();
    for (position, id) in layers::all(&model.graph).map_err(internal)?.into_iter().enumerate() {
        let node = model.graph.node(id);
        let reads = match node.operands().first() {
            Some(x) => model.graph.node(layers::quantizer_of(&model.graph, *x)).name.clone(),
            None => String::new(),
        };
        let int = find(&quantized.graph, &node.name)?;
        let facts = describe(&quantized.graph, int)?;
        let (first, last) = (ends.first.contains(&id), ends.last.contains(&id));
        all.insert(node.name.clone(), LayerFacts { position, reads, first, last, ..facts });
    }
    Ok(all)
}

/// The integer node of a layer.
pub(super) fn find(graph: &IntGraph, layer: &str) -> Result<NodeId> {
    let found =
        graph.find(layer).filter(|id| matches!(graph.node(*id).op, IntOp::Conv(_) | IntOp::Linear(_)));
    found.ok_or_else(|| {
        Error::new(Code::INTERNAL, "the layer is not in the integer network under its name")
            .at(layer)
            .help("this is a defect of goshawk: please report it with the model and the command")
    })
}

/// A layer that costs are not known of.
pub(super) fn unknown(layer: &str) -> Error {
    Error::new(Code::BITS, "there are no costs of this layer")
        .at(layer)
        .because("the cost table was made from another model")
        .help("make one for this model: goshawk profile-costs MODEL --calib DATA -o FILE")
}

fn describe(graph: &IntGraph, id: NodeId) -> Result<LayerFacts> {
    let node = graph.node(id);
    let types = graph.operand_types(id);
    let (Some(x), Some(w)) = (types.first(), types.get(1)) else {
        return Err(Error::internal(&goshawk_ir::IrError::new("a layer without weights").at(&node.name)));
    };
    let dims =
        |shape: &goshawk_ir::Shape| shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
    let (window, groups) = match &node.op {
        IntOp::Conv(a) => {
            let goshawk_ir::op::window::ConvWindow { stride, pads, dilation, groups } = &a.window;
            (format!(" stride {stride:?} pads {pads:?} dilation {dilation:?} groups {groups}"), *groups)
        }
        _ => (String::new(), 1),
    };
    let (weights, channels) = (w.shape.count() as u64, w.shape.first().copied().unwrap_or(1) as u64);
    // Each output element is a product with one row of the weights.
    let row = weights / channels.max(1);
    Ok(LayerFacts {
        position: 0,
        shape: format!(
            "{} {} by {}{window} to {}{}",
            goshawk_ir::Operator::name(&node.op),
            dims(&x.shape),
            dims(&w.shape),
            node.ty.dtype,
            dims(&node.ty.shape)
        ),
        weights,
        channels,
        macs: node.ty.shape.count() as u64 * row,
        input: x.shape.count() as u64,
        output_bytes: node.ty.bytes() as u64,
        depthwise: groups > 1 && groups as u64 == channels,
        reads: String::new(),
        first: false,
        last: false,
    })
}
