//! One layer of a network as a network of its own, to be timed alone.
//!
//! The layer keeps its weights, its input's range and its requantization, so that it gets the kernel that it has in the
//! network. A tensor that another layer made is made here by a requantization with factor 1: kernels chosen by range
//! proofs trust computed tensors, not the caller's bytes, and the activations are in cache as they are in the network.
//! [`prelude`] is that requantization alone, to be subtracted.
use crate::{Code, Error, Result};
use goshawk_ir::{
    DType, Dyadic, IntGraph, IntOp, Layout, NodeId, Operator, QParams, Requant, TensorType, op::int::Rescale,
    verify,
};

/// A network of one layer.
#[derive(Debug)]
pub(super) struct Alone {
    pub graph: IntGraph,
}

impl Alone {
    fn new(graph: IntGraph) -> Result<Self> {
        verify::int(&graph).map_err(|e| match e.first() {
            Some(first) => Error::internal(first),
            None => Error::new(Code::INTERNAL, "a single layer is no valid network"),
        })?;
        Ok(Self { graph })
    }
}

/// The layer alone, and the type of the tensor that its prelude makes (`None` where it reads the network's input).
pub(super) fn layer(graph: &IntGraph, id: NodeId) -> Result<(Alone, Option<TensorType>)> {
    let node = graph.node(id);
    let mut alone = IntGraph::new("layer");
    let (mut operands, mut made) = (Vec::new(), None);
    for (i, operand) in node.operands().iter().enumerate() {
        let source = graph.node(*operand);
        operands.push(match source.op.as_const() {
            Some(value) => alone.add_const(format!("constant{i}"), value.clone(), source.ty.quant.clone()),
            None if source.op.is_input() || source.ty.dtype != DType::U8 => {
                alone.add_input(format!("x{i}"), source.ty.clone(), Layout::Same)
            }
            None => {
                made = Some(source.ty.clone());
                requantized(&mut alone, &format!("x{i}"), &source.ty)?
            }
        });
    }
    let result = alone.add("layer", node.op.clone(), &operands, node.ty.clone());
    alone.add_output("y", result, Layout::Same);
    Ok((Alone::new(alone)?, made))
}

/// A network that only makes a tensor of this type.
pub(super) fn prelude(ty: &TensorType) -> Result<Alone> {
    let mut alone = IntGraph::new("prelude");
    let made = requantized(&mut alone, "x", ty)?;
    alone.add_output("y", made, Layout::Same);
    Alone::new(alone)
}

/// An input of 8 bits, and its values limited to the range of `ty`.
fn requantized(graph: &mut IntGraph, name: &str, ty: &TensorType) -> Result<NodeId> {
    let internal = |e: goshawk_ir::IrError| Error::internal(&e);
    let quant = ty.qparams().map_err(internal)?;
    let scale = quant.tensor_scale().map_err(internal)?;
    let (lo, hi) = quant.range(ty.dtype);
    let wide =
        TensorType::quantized(DType::U8, ty.shape.clone(), QParams::per_tensor(scale, quant.zero_point, 8));
    let input = graph.add_input(name, wide, Layout::Same);
    let requant = Requant {
        mult: vec![Dyadic::from_f64(1.0).map_err(internal)?],
        zero_point: quant.zero_point,
        lo,
        hi,
    };
    Ok(graph.add(format!("{name}.made"), IntOp::Requant(Rescale { requant }), &[input], ty.clone()))
}
