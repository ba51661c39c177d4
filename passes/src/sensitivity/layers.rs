//! The layers of a network as the estimators see them: their weights row by row, and what each of them reads.
use crate::{
    calibrate::{Moment, Ranges},
    lower::layers,
    rewrite,
};
use goshawk_ir::{FloatGraph, FloatOp, NodeId, Result, Tensor, bail, op::float};
use std::collections::BTreeSet;

/// A layer whose weight is a constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its node.
    pub node: NodeId,
    /// Name of the node.
    pub name: String,
    /// The constant weight.
    pub weight: NodeId,
    /// Output channels: rows of the weight.
    pub channels: usize,
    /// Elements of the weight.
    pub parameters: usize,
    /// What the layer reads.
    pub operand: NodeId,
    /// Name of the value whose quantizer decides the activation bits.
    pub input: String,
    /// Elements of the operand.
    pub input_elements: usize,
}

/// All layers with constant weights, in execution order.
///
/// # Errors
/// The graph has a cycle.
pub fn all(graph: &FloatGraph) -> Result<Vec<Layer>> {
    Ok(layers::all(graph)?.into_iter().filter_map(|node| layer(graph, node)).collect())
}

fn layer(graph: &FloatGraph, node: NodeId) -> Option<Layer> {
    let [operand, weight, ..] = *graph.node(node).operands() else { return None };
    let shape = graph.constant(weight)?.shape();
    let columns = matches!(graph.node(node).op, FloatOp::MatMul(_));
    let channels = if columns { *shape.last()? } else { *shape.first()? };
    Some(Layer {
        node,
        name: graph.node(node).name.clone(),
        weight,
        channels,
        parameters: shape.count(),
        operand,
        input: graph.node(layers::quantizer_of(graph, operand)).name.clone(),
        input_elements: graph.ty(operand).shape.count(),
    })
}

impl Layer {
    /// The weight with output channels outermost.
    ///
    /// # Errors
    /// The weight is not f32.
    pub fn rows(&self, graph: &FloatGraph) -> Result<Vec<f32>> {
        let Some(weight) = graph.constant(self.weight) else {
            bail!("{}: the weight is not constant", self.name)
        };
        let values = weight.as_f32()?;
        Ok(if self.is_columns(graph) { transpose(values, self.channels) } else { values.to_vec() })
    }

    /// A weight tensor in the shape that the layer has, from rows.
    ///
    /// # Errors
    /// The count is not that of the weight.
    pub fn tensor(&self, graph: &FloatGraph, rows: Vec<f32>) -> Result<Tensor> {
        let shape = graph.ty(self.weight).shape.clone();
        let values =
            if self.is_columns(graph) { transpose(&rows, rows.len() / self.channels.max(1)) } else { rows };
        Tensor::from_f32(shape, values)
    }

    /// The moments of the input that each element of a row multiplies, for each group of output channels, as
    /// [`crate::quantize::quantize_weight`] takes them; empty where they are not known.
    pub fn moments(&self, graph: &FloatGraph, ranges: &Ranges) -> Vec<Vec<Moment>> {
        let Some(moments) = ranges.moments.get(&graph.node(self.operand).name) else { return Vec::new() };
        match &graph.node(self.node).op {
            FloatOp::Conv(a) => {
                let Ok([_, inputs, h, w]) = graph.ty(self.weight).shape.dims4() else { return Vec::new() };
                if moments.len() != inputs * a.window.groups {
                    return Vec::new();
                }
                let spread = |m: &Moment| std::iter::repeat_n(*m, h * w);
                moments.chunks(inputs).map(|group| group.iter().flat_map(spread).collect()).collect()
            }
            _ if moments.len() * self.channels == self.parameters => vec![moments.clone()],
            _ => Vec::new(),
        }
    }

    fn is_columns(&self, graph: &FloatGraph) -> bool {
        matches!(graph.node(self.node).op, FloatOp::MatMul(_))
    }
}

/// A row-major matrix with `columns` columns, turned over.
fn transpose(values: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| values.iter().skip(c).step_by(columns.max(1)).copied()).collect()
}

/// The network with an identity before every layer whose operand somebody else reads too.
///
/// Quantizing what a layer reads does not touch the other readers: a sum that reads the same tensor keeps its 16-bit
/// grid (`crate::lower`). The derivative with respect to the identity's result is that of this one reading.
///
/// # Errors
/// None on a verified graph.
pub fn tapped(graph: &FloatGraph) -> Result<FloatGraph> {
    let mut g = graph.clone();
    for layer in all(graph)? {
        if graph.use_count(layer.operand) > 1 {
            let shape = graph.ty(layer.operand).shape.to_vec();
            let op = FloatOp::Reshape(float::Reshape { shape });
            let tap = rewrite::add_op(&mut g, &format!("{}.read", layer.name), op, &[layer.operand])?;
            g.set_operand(layer.node, 0, tap);
        }
    }
    Ok(g)
}

/// The first operator behind a layer that is not piecewise linear in it, in words: why the Gauss–Newton block of the
/// layer is not its Hessian block.
pub fn curved_by(graph: &FloatGraph, layer: NodeId) -> String {
    let mut varies = BTreeSet::from([layer]);
    for id in graph.topo_order().unwrap_or_default() {
        let node = graph.node(id);
        let moving = node.operands().iter().filter(|o| varies.contains(o)).count();
        if moving == 0 {
            continue;
        }
        varies.insert(id);
        let what = match &node.op {
            FloatOp::Unary(a) => a.chain.iter().find(|f| !is_piecewise_linear(**f)).map(|f| format!("{f:?}")),
            FloatOp::Binary(_) | FloatOp::MatMul(_) | FloatOp::PRelu(_) if moving > 1 => {
                Some(format!("a {} of two values that depend on it", goshawk_ir::Operator::name(&node.op)))
            }
            FloatOp::Softmax(_) if graph.use_count(id) > graph.outputs.len() => Some("Softmax".to_owned()),
            _ => None,
        };
        match (what, &node.op) {
            // Sums of values that depend on the layer stay linear.
            (Some(_), FloatOp::Binary(b)) if is_linear(b.function) => {}
            (Some(what), _) => return format!("{what} at {}", node.name),
            (None, _) => {}
        }
    }
    "an operator that is not piecewise linear".to_owned()
}

fn is_piecewise_linear(f: float::UnaryFn) -> bool {
    use float::UnaryFn as F;
    match f {
        F::Clip(_) | F::LeakyRelu(_) | F::HardSigmoid(..) | F::Abs | F::Affine(..) => true,
        F::Elu(_)
        | F::HardSwish
        | F::Sigmoid
        | F::Silu
        | F::Mish
        | F::Tanh
        | F::Gelu
        | F::GeluTanh
        | F::Erf
        | F::Softplus
        | F::Exp
        | F::Log
        | F::Sqrt
        | F::Pow(_)
        | F::Reciprocal(_) => false,
    }
}

fn is_linear(f: float::BinaryFn) -> bool {
    use float::BinaryFn as F;
    matches!(f, F::Add | F::Sub | F::Min | F::Max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use goshawk_ir::{Layout, Shape, TensorType, interp, op::window::ConvWindow};

    fn shape(dims: &[usize]) -> Shape {
        Shape::new(dims).expect("shape")
    }

    /// x → conv a → + x → matmul-like linear; x is read twice.
    fn graph() -> FloatGraph {
        let mut g = FloatGraph::new("g");
        let ty = || TensorType::f32(shape(&[1, 2, 2, 2]));
        let x = g.add_input("x", ty(), Layout::Same);
        let w: Vec<f32> = (0..4).map(|i| i as f32).collect();
        let w = g.add_const("w", Tensor::from_f32(shape(&[2, 2, 1, 1]), w).expect("weight"), None);
        let conv = FloatOp::Conv(float::Conv { window: ConvWindow::unit(), clamp: None });
        let a = g.add("a", conv, &[x, w], ty());
        let add = FloatOp::Binary(float::Binary { function: float::BinaryFn::Add, clamp: None });
        let sum = g.add("sum", add, &[a, x], ty());
        let v: Vec<f32> = (0..6).map(|i| i as f32).collect();
        let v = g.add_const("v", Tensor::from_f32(shape(&[2, 3]), v).expect("weight"), None);
        let y =
            g.add("y", FloatOp::MatMul(float::NoAttrs {}), &[sum, v], TensorType::f32(shape(&[1, 2, 2, 3])));
        g.add_output("y", y, Layout::Same);
        g
    }

    #[test]
    fn rows_are_output_channels_also_of_products_with_columns() {
        let g = graph();
        let layers = all(&g).expect("acyclic");
        let rows: Vec<_> = layers.iter().map(|l| (l.name.as_str(), l.channels, l.parameters)).collect();
        assert_eq!(rows, [("a", 2, 4), ("y", 3, 6)]);
        let rows = layers[1].rows(&g).expect("f32");
        assert_eq!(rows, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(
            layers[1].tensor(&g, rows).expect("fits"),
            *g.constant(layers[1].weight).expect("constant")
        );
    }

    #[test]
    fn taps_separate_the_readers_and_change_nothing() {
        let g = graph();
        let t = tapped(&g).expect("tapped");
        assert_eq!(t.len(), g.len() + 1, "only x has two readers");
        let a = t.find("a").expect("a");
        assert_eq!(t.node(t.node(a).operands()[0]).name, "a.read");
        let x =
            Tensor::from_f32(shape(&[1, 2, 2, 2]), (0..8).map(|i| i as f32).collect::<Vec<_>>()).expect("x");
        let run = |g| interp::float::run(g, std::slice::from_ref(&x)).expect("runs");
        assert_eq!(run(&g), run(&t));
    }
}
