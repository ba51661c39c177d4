//! The compiled graph: steps in topological order with the rules of their operators.
use super::{
    Real,
    parts::Wanted,
    rules::{self, Operand, Point, Prepared},
};
use goshawk_ir::{
    FloatGraph, FloatOp, IrError, NodeId, Result, Shape, Tensor, bail, ensure, interp, op::float::Clamp,
    verify,
};
use std::collections::BTreeMap;

/// A layer: a convolution or linear operator with constant weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Name of the node.
    pub name: String,
    /// The node.
    pub node: NodeId,
    /// Name of the weights.
    pub weight: String,
    /// Shape of the weights; dimension 0 is the output channel.
    pub shape: Vec<usize>,
    /// What it reads: an index of [`Engine::activations`].
    pub activation: usize,
    /// Whether the outputs are piecewise linear in these weights, so that their block of the Hessian is the Gauss-Newton
    /// block.
    pub exact_block: bool,
}

/// A tensor that layers read.
#[derive(Clone, Debug, PartialEq)]
pub struct Activation {
    /// Name of the node that makes it.
    pub name: String,
    /// The node.
    pub node: NodeId,
    /// Declared shape, for one sample.
    pub shape: Vec<usize>,
    /// Channels: dimension 1.
    pub channels: usize,
    /// The layers that read it. Other operators may read it too: a direction perturbs it for all readers.
    pub readers: Vec<usize>,
    /// Whether the outputs are piecewise linear in this tensor.
    pub exact_block: bool,
}

/// An operand of a step.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    Step(usize),
    Constant(usize),
}

/// One node of the graph.
pub(super) struct Step<T> {
    pub name: String,
    pub rules: Prepared<T>,
    pub operands: Vec<Source>,
    /// Elements for one sample.
    pub count: usize,
    /// Position among the network inputs.
    pub input: Option<usize>,
    pub layer: Option<usize>,
    pub activation: Option<usize>,
    /// Whether derivative rules, this step's or a reader's, read the value.
    pub kept: bool,
    /// Whether [`Engine::second`](super::second) reads the gradient.
    pub keeps_gradient: bool,
    /// Whether second-order rules of a reader read the tangent.
    pub keeps_tangent: bool,
    /// The last step that reads the value; the step itself where nobody does.
    pub last_reader: usize,
}

impl<T> Step<T> {
    pub fn clamp(&self) -> Option<Clamp> {
        match &self.rules {
            Prepared::Leaf => None,
            Prepared::Convolution(_, c) | Prepared::Linear(_, c) | Prepared::Rule(_, c) => *c,
        }
    }
}

/// Parameters of a layer's step.
pub(super) struct Parameters<T> {
    pub weights: usize,
    /// As the forward sum of a convolution reads them; empty for others.
    pub packed: Vec<T>,
    /// As the input gradient of a convolution reads them; empty for others.
    pub transposed: Vec<T>,
    pub bias: Option<usize>,
}

/// A network output as the loss sees it.
#[derive(Clone, Debug)]
pub(super) struct Output {
    pub name: String,
    pub step: usize,
    pub shape: Shape,
    /// Where the output is a softmax: its axis and operand.
    pub logits: Option<(usize, usize)>,
}

/// A float graph, ready to be differentiated.
pub struct Engine<T> {
    pub(super) steps: Vec<Step<T>>,
    pub(super) constants: Vec<Vec<T>>,
    pub(super) parameters: Vec<Parameters<T>>,
    pub(super) outputs: Vec<Output>,
    pub(super) inputs: Vec<(String, Shape)>,
    layers: Vec<Layer>,
    activations: Vec<Activation>,
}

impl<T: Real> Engine<T> {
    /// Compiles a graph as [`pipeline::prepare`](crate::pipeline::prepare) leaves it.
    ///
    /// # Errors
    /// The graph breaks a rule of the verifier, or an operator on the way to an output has no derivative; the error names
    /// the node.
    pub fn new(graph: &FloatGraph) -> Result<Self> {
        verify::float(graph).map_err(|errors| {
            errors.into_iter().next().unwrap_or_else(|| IrError::new("the graph is invalid"))
        })?;
        let mut builder = Builder::new(graph);
        for id in graph.topo_order()? {
            builder.node(id).map_err(|e| e.at(&graph.node(id).name))?;
        }
        builder.finish()
    }

    /// Every layer, in topological order.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The distinct tensors that layers read, in topological order.
    pub fn activations(&self) -> &[Activation] {
        &self.activations
    }

    /// The weights of a layer; empty where there is no such layer.
    pub fn weights(&self, layer: usize) -> &[T] {
        self.parameters.get(layer).map_or(&[], |p| &self.constants[p.weights])
    }

    /// Moves to other weights of a layer. Layers that shared the constant do not follow.
    ///
    /// # Errors
    /// There is no such layer, or the count is not that of its weights.
    pub fn set_weights(&mut self, layer: usize, weights: &[T]) -> Result<()> {
        let Some(known) = self.layers.get(layer) else {
            bail!("weights of layer {layer}, but there are {} layers", self.layers.len())
        };
        let count: usize = known.shape.iter().product();
        ensure!(weights.len() == count, "{}: {} values for {count} weights", known.name, weights.len());
        let constant = self.parameters[layer].weights;
        if self.parameters.iter().filter(|p| p.weights == constant).count() > 1 {
            self.constants.push(weights.to_vec());
            self.parameters[layer].weights = self.constants.len() - 1;
        } else {
            self.constants[constant] = weights.to_vec();
        }
        for step in &mut self.steps {
            if step.layer == Some(layer) {
                step.operands[1] = Source::Constant(self.parameters[layer].weights);
                if let Prepared::Convolution(c, _) = &step.rules {
                    self.parameters[layer].packed = c.packed(weights);
                    self.parameters[layer].transposed = c.transposed(weights);
                }
            }
        }
        Ok(())
    }

    pub(super) fn bias(&self, layer: usize) -> Option<&[T]> {
        self.parameters[layer].bias.map(|b| &self.constants[b][..])
    }

    /// Weights in the order that the forward sum reads.
    pub(super) fn forward_weights(&self, layer: usize) -> &[T] {
        let p = &self.parameters[layer];
        if p.packed.is_empty() { &self.constants[p.weights] } else { &p.packed }
    }

    /// Weights in the order that the input gradient reads.
    pub(super) fn backward_weights(&self, layer: usize) -> &[T] {
        let p = &self.parameters[layer];
        if p.transposed.is_empty() { &self.constants[p.weights] } else { &p.transposed }
    }

    /// Where the rules of a step are linearised.
    pub(super) fn point<'a>(
        &'a self,
        step: &Step<T>,
        index: usize,
        samples: usize,
        values: &'a [Option<Vec<T>>],
        chosen: &'a [u32],
    ) -> Point<'a, T> {
        Point {
            samples,
            operands: step.operands.iter().map(|s| self.value(*s, values)).collect(),
            result: values[index].as_deref(),
            chosen,
        }
    }

    pub(super) fn value<'a>(&'a self, source: Source, values: &'a [Option<Vec<T>>]) -> Option<&'a [T]> {
        match source {
            Source::Step(i) => values[i].as_deref(),
            Source::Constant(i) => Some(&self.constants[i]),
        }
    }

    /// For each step whether its value depends on a wanted source.
    pub(super) fn depends(&self, wanted: &Wanted) -> Vec<bool> {
        let mut depends = vec![false; self.steps.len()];
        for (i, step) in self.steps.iter().enumerate() {
            depends[i] = step.layer.is_some_and(|l| wanted.layers[l])
                || step.activation.is_some_and(|a| wanted.activations[a])
                || needs(step, &depends).contains(&true);
        }
        depends
    }

    /// Whether outputs are piecewise linear in what step `start` makes.
    fn piecewise_linear(&self, start: usize, softmax_is_loss: bool) -> bool {
        let mut varies = vec![false; self.steps.len()];
        varies[start] = true;
        for (i, step) in self.steps.iter().enumerate().skip(start + 1) {
            let operands = needs(step, &varies);
            if !operands.contains(&true) {
                continue;
            }
            varies[i] = true;
            let at_the_end = softmax_is_loss
                && step.last_reader == i
                && self.outputs.iter().any(|o| o.step == i && o.logits.is_some());
            if let Prepared::Rule(rule, _) = &step.rules
                && rule.curved(&operands)
                && !at_the_end
            {
                return false;
            }
        }
        true
    }
}

/// For each operand of a step its flag.
pub(super) fn needs<T>(step: &Step<T>, flags: &[bool]) -> Vec<bool> {
    step.operands
        .iter()
        .map(|s| match s {
            Source::Step(i) => flags[*i],
            Source::Constant(_) => false,
        })
        .collect()
}

/// Values by node while the engine is built.
struct Builder<'a, T> {
    graph: &'a FloatGraph,
    at: BTreeMap<NodeId, Source>,
    /// As the graph has them, to evaluate what depends on constants only.
    tensors: Vec<Tensor>,
    names: Vec<String>,
    nodes: Vec<NodeId>,
    engine: Engine<T>,
}

impl<'a, T: Real> Builder<'a, T> {
    fn new(graph: &'a FloatGraph) -> Self {
        let engine = Engine {
            steps: Vec::new(),
            constants: Vec::new(),
            parameters: Vec::new(),
            outputs: Vec::new(),
            inputs: graph.inputs.iter().map(|p| (p.name.clone(), graph.ty(p.node).shape.clone())).collect(),
            layers: Vec::new(),
            activations: Vec::new(),
        };
        Self { graph, at: BTreeMap::new(), tensors: Vec::new(), names: Vec::new(), nodes: Vec::new(), engine }
    }

    fn constant(&mut self, id: NodeId, value: Tensor) -> Result<()> {
        let values = value.as_f32()?.iter().map(|v| T::of(f64::from(*v))).collect();
        self.engine.constants.push(values);
        self.tensors.push(value);
        self.names.push(self.graph.node(id).name.clone());
        self.at.insert(id, Source::Constant(self.tensors.len() - 1));
        Ok(())
    }

    fn node(&mut self, id: NodeId) -> Result<()> {
        let node = self.graph.node(id);
        if let Some(value) = self.graph.constant(id) {
            return self.constant(id, value.clone());
        }
        let sources: Vec<Source> = node.operands().iter().map(|o| self.at[o]).collect();
        let known: Vec<Option<usize>> = sources
            .iter()
            .map(|s| match s {
                Source::Constant(i) => Some(*i),
                Source::Step(_) => None,
            })
            .collect();
        if !known.is_empty() && known.iter().all(Option::is_some) {
            let operands: Vec<&Tensor> = known.iter().flatten().map(|i| &self.tensors[*i]).collect();
            let value = interp::float::evaluate(&node.op, &operands)?;
            return self.constant(id, value);
        }
        let shapes: Vec<&Shape> = node.operands().iter().map(|o| &self.graph.ty(*o).shape).collect();
        let operands: Vec<Operand> = shapes
            .iter()
            .zip(&known)
            .map(|(s, known)| Operand { constant: known.is_some(), count: s.count() })
            .collect();
        let constants: Vec<Option<&[T]>> =
            known.iter().map(|k| k.map(|i| &self.engine.constants[i][..])).collect();
        let rules = rules::prepare(&node.op, &shapes, &operands, &constants, &node.ty.shape)?;
        let index = self.engine.steps.len();
        let step = Step {
            name: node.name.clone(),
            rules,
            operands: sources,
            count: node.ty.shape.count(),
            input: self.graph.inputs.iter().position(|p| p.node == id),
            layer: None,
            activation: None,
            kept: false,
            keeps_gradient: false,
            keeps_tangent: false,
            last_reader: index,
        };
        self.at.insert(id, Source::Step(index));
        self.nodes.push(id);
        self.link(id, index, step, &known)
    }

    /// Registers the layer, and what its operands have to keep.
    fn link(&mut self, id: NodeId, index: usize, mut step: Step<T>, known: &[Option<usize>]) -> Result<()> {
        let reads = |s: &Source| match s {
            Source::Step(i) => Some(*i),
            Source::Constant(_) => None,
        };
        step.kept = step.clamp().is_some();
        match &step.rules {
            Prepared::Leaf => {}
            Prepared::Convolution(..) | Prepared::Linear(..) => {
                let Some(x) = reads(&step.operands[0]) else { bail!("the layer reads a constant") };
                let Some(weights) = known[1] else { bail!("the weights are computed") };
                let shape = self.graph.ty(self.graph.node(id).operands()[1]).shape.to_vec();
                let (packed, transposed) = match &step.rules {
                    Prepared::Convolution(c, _) => {
                        let w = &self.engine.constants[weights];
                        (c.packed(w), c.transposed(w))
                    }
                    _ => (Vec::new(), Vec::new()),
                };
                let layer = self.engine.layers.len();
                self.engine.parameters.push(Parameters {
                    weights,
                    packed,
                    transposed,
                    bias: known.get(2).copied().flatten(),
                });
                let activation = self.activation(x, layer);
                self.engine.layers.push(Layer {
                    name: step.name.clone(),
                    node: id,
                    weight: self.names[weights].clone(),
                    shape,
                    activation,
                    exact_block: false,
                });
                step.layer = Some(layer);
                step.keeps_gradient = true;
                self.engine.steps[x].kept = true;
                self.engine.steps[x].keeps_tangent = true;
            }
            Prepared::Rule(rule, _) => {
                step.kept |= rule.reads_result();
                step.keeps_gradient = rule.has_second();
                for (i, x) in step.operands.iter().enumerate().filter_map(|(i, s)| reads(s).map(|x| (i, x))) {
                    self.engine.steps[x].kept |= rule.reads_operand(i);
                    self.engine.steps[x].keeps_tangent |= rule.has_second();
                }
            }
        }
        for x in step.operands.iter().filter_map(reads) {
            self.engine.steps[x].last_reader = index;
        }
        self.engine.steps.push(step);
        Ok(())
    }

    fn activation(&mut self, step: usize, layer: usize) -> usize {
        let known = self.engine.steps[step].activation;
        let activation = known.unwrap_or_else(|| {
            let id = self.nodes[step];
            let shape = self.graph.ty(id).shape.to_vec();
            self.engine.activations.push(Activation {
                name: self.graph.node(id).name.clone(),
                node: id,
                channels: shape.get(1).copied().unwrap_or(1),
                shape,
                readers: Vec::new(),
                exact_block: false,
            });
            self.engine.activations.len() - 1
        });
        self.engine.steps[step].activation = Some(activation);
        self.engine.activations[activation].readers.push(layer);
        activation
    }

    fn finish(mut self) -> Result<Engine<T>> {
        for port in &self.graph.outputs {
            let Some(Source::Step(step)) = self.at.get(&port.node).copied() else {
                bail!("output {} does not depend on the inputs", port.name)
            };
            let node = self.graph.node(port.node);
            let logits = match (&node.op, &self.engine.steps[step].operands[..]) {
                (FloatOp::Softmax(a), [Source::Step(x)]) => Some((a.axis, *x)),
                _ => None,
            };
            let output = Output { name: port.name.clone(), step, shape: node.ty.shape.clone(), logits };
            self.engine.outputs.push(output);
        }
        let mut engine = self.engine;
        ensure!(!engine.outputs.is_empty(), "the network has no outputs");
        ensure!(
            !engine.layers.is_empty(),
            "the network has no convolution or linear layer with constant weights"
        );
        for i in 0..engine.steps.len() {
            if let Some(layer) = engine.steps[i].layer {
                engine.layers[layer].exact_block = engine.piecewise_linear(i, true);
            }
            if let Some(activation) = engine.steps[i].activation {
                engine.activations[activation].exact_block = engine.piecewise_linear(i, true);
            }
        }
        Ok(engine)
    }
}
