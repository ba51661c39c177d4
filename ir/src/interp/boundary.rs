//! The f32 entry point: quantize, run, dequantize. The only floating-point arithmetic around an integer graph;
//! formulas in [`crate::quant`]. Tensors lie as in the ONNX model, [`crate::Port::layout`] says how that differs.
use super::movement::transpose;
use crate::{
    IntGraph, Layout, Port, Result, Shape, Tensor, ensure,
    quant::{dequantize, quantize},
};

/// Shape of the f32 tensor at a port.
///
/// # Errors
/// An NCHW port of a tensor whose rank is not 4.
pub fn f32_shape(graph: &IntGraph, port: &Port) -> Result<Shape> {
    let shape = &graph.ty(port.node).shape;
    match port.layout {
        Layout::Same => Ok(shape.clone()),
        Layout::Nchw => {
            let [n, h, w, c] = shape.dims4()?;
            Shape::new([n, c, h, w])
        }
    }
}

/// Quantizes f32 inputs in ONNX layout to the graph's inputs.
///
/// # Errors
/// Count, type or shape of the tensors is not that of the ports.
pub fn quantize_inputs(graph: &IntGraph, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    ensure!(
        inputs.len() == graph.inputs.len(),
        "{} inputs for a network of {}",
        inputs.len(),
        graph.inputs.len()
    );
    graph
        .inputs
        .iter()
        .zip(inputs)
        .map(|(p, t)| quantize_port(graph, p, t).map_err(|e| e.at(&p.name)))
        .collect()
}

fn quantize_port(graph: &IntGraph, port: &Port, value: &Tensor) -> Result<Tensor> {
    let ty = graph.ty(port.node);
    let want = f32_shape(graph, port)?;
    ensure!(*value.shape() == want, "shape {} given, {want} expected", value.shape());
    let q = ty.qparams()?;
    let (scale, range) = (q.tensor_scale()?, q.range(ty.dtype));
    let ints: Vec<i32> = value.as_f32()?.iter().map(|x| quantize(*x, scale, q.zero_point, range)).collect();
    let ints = match port.layout {
        Layout::Same => ints,
        Layout::Nchw => transpose(&ints, &want, &[0, 2, 3, 1]),
    };
    Tensor::from_ints(ty.dtype, ty.shape.clone(), &ints)
}

/// Dequantizes the graph's outputs to f32 in ONNX layout.
///
/// # Errors
/// Count, type or shape of the tensors is not that of the ports.
pub fn dequantize_outputs(graph: &IntGraph, outputs: &[Tensor]) -> Result<Vec<Tensor>> {
    ensure!(
        outputs.len() == graph.outputs.len(),
        "{} outputs for a network of {}",
        outputs.len(),
        graph.outputs.len()
    );
    graph
        .outputs
        .iter()
        .zip(outputs)
        .map(|(p, t)| dequantize_port(graph, p, t).map_err(|e| e.at(&p.name)))
        .collect()
}

fn dequantize_port(graph: &IntGraph, port: &Port, value: &Tensor) -> Result<Tensor> {
    let ty = graph.ty(port.node);
    ensure!(
        value.dtype() == ty.dtype && *value.shape() == ty.shape,
        "{}{} given, {}{} expected",
        value.dtype(),
        value.shape(),
        ty.dtype,
        ty.shape
    );
    let q = ty.qparams()?;
    let scale = q.tensor_scale()?;
    let reals: Vec<f32> = value.to_ints()?.iter().map(|v| dequantize(*v, scale, q.zero_point)).collect();
    let reals = match port.layout {
        Layout::Same => reals,
        Layout::Nchw => transpose(&reals, &ty.shape, &[0, 3, 1, 2]),
    };
    Tensor::from_f32(f32_shape(graph, port)?, reals)
}

/// The whole f32 entry point.
///
/// # Errors
/// As its three steps.
pub fn run_f32(graph: &IntGraph, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    dequantize_outputs(graph, &super::int::run(graph, &quantize_inputs(graph, inputs)?)?)
}
