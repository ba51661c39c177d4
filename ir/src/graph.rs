//! The graph: single-result nodes on a petgraph `StableDiGraph` behind newtypes.
//!
//! An edge runs from the node that makes a value to the node that reads it and carries the operand's position.
//! [`Graph`] keeps edges and operand lists in step; nothing else may touch the petgraph.
use crate::{DType, QParams, Result, Shape, Tensor, attr::Attr, bail, ensure};
use petgraph::{
    Direction,
    stable_graph::{NodeIndex, StableDiGraph},
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    fmt,
};

/// Names a node, and so the value that it makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(NodeIndex);

impl NodeId {
    /// Position in creation order; stable while the graph is rewritten.
    pub fn index(self) -> usize {
        self.0.index()
    }
}

/// Type of a value.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Dimensions.
    pub shape: Shape,
    /// What the integers mean; `None` in the float graph and for tables.
    pub quant: Option<QParams>,
}

impl TensorType {
    /// An f32 tensor.
    pub const fn f32(shape: Shape) -> Self {
        Self { dtype: DType::F32, shape, quant: None }
    }

    /// A quantized tensor.
    pub const fn quantized(dtype: DType, shape: Shape, quant: QParams) -> Self {
        Self { dtype, shape, quant: Some(quant) }
    }

    /// An integer tensor whose values stand for themselves, such as a table.
    pub const fn plain(dtype: DType, shape: Shape) -> Self {
        Self { dtype, shape, quant: None }
    }

    /// The quantization parameters.
    ///
    /// # Errors
    /// The tensor is not quantized.
    pub fn qparams(&self) -> Result<&QParams> {
        match &self.quant {
            Some(q) => Ok(q),
            None => bail!("a quantized tensor is needed here, got {}{}", self.dtype, self.shape),
        }
    }

    /// Zero point, 0 where there are no quantization parameters.
    pub fn zero_point(&self) -> i32 {
        self.quant.as_ref().map_or(0, |q| q.zero_point)
    }

    /// Bytes of the packed tensor.
    pub fn bytes(&self) -> usize {
        self.dtype.bytes(self.shape.count())
    }
}

/// What [`Graph`] needs of an operator enum; written by [`operators!`](crate::operators).
pub trait Operator: Clone + fmt::Debug + PartialEq + Sized {
    /// Kind of graph in the text form: `float` or `int`.
    const KIND: &'static str;
    /// Names in the text form, without `input` and `const`.
    const NAMES: &'static [&'static str];
    /// Name in the text form.
    fn name(&self) -> &'static str;
    /// Attributes for the text form.
    fn to_attrs(&self) -> Vec<(&'static str, Attr)>;
    /// The operator of that name.
    ///
    /// # Errors
    /// Unknown name, or attributes of another form.
    fn from_attrs(name: &str, attrs: &[(String, Attr)]) -> Result<Self>;
    /// The operator of a network input.
    fn input() -> Self;
    /// The operator of a constant.
    fn constant(value: Tensor) -> Self;
    /// The value of a constant.
    fn as_const(&self) -> Option<&Tensor>;
    /// Whether this is a network input.
    fn is_input(&self) -> bool;
}

/// A node: one operator, its operands, its result.
#[derive(Clone, Debug, PartialEq)]
pub struct Node<O> {
    /// Unique name, the ONNX name of the tensor where there is one.
    pub name: String,
    /// Operator with attributes.
    pub op: O,
    /// Operands in order.
    operands: Vec<NodeId>,
    /// Type of the result.
    pub ty: TensorType,
}

impl<O> Node<O> {
    /// Operands in order.
    pub fn operands(&self) -> &[NodeId] {
        &self.operands
    }
}

/// How the float tensor of an entry point lies in memory, compared with the graph's own tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Same dimensions in the same order.
    Same,
    /// The entry point takes or gives NCHW where the graph has NHWC.
    Nchw,
}

/// An input or output of the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Name in the ONNX model; appears in headers and manifests.
    pub name: String,
    /// The node.
    pub node: NodeId,
    /// Layout of the f32 entry point.
    pub layout: Layout,
}

/// A directed acyclic graph of operators.
#[derive(Clone, Debug)]
pub struct Graph<O> {
    /// Name of the network.
    pub name: String,
    /// Inputs in order.
    pub inputs: Vec<Port>,
    /// Outputs in order.
    pub outputs: Vec<Port>,
    dag: StableDiGraph<Node<O>, usize>,
}

/// What an ONNX model becomes: NCHW, f32.
pub type FloatGraph = Graph<crate::FloatOp>;
/// What is compiled: NHWC, integers only.
pub type IntGraph = Graph<crate::IntOp>;

impl<O: Operator> Graph<O> {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), inputs: Vec::new(), outputs: Vec::new(), dag: StableDiGraph::new() }
    }

    /// Adds a node.
    pub fn add(&mut self, name: impl Into<String>, op: O, operands: &[NodeId], ty: TensorType) -> NodeId {
        let node = Node { name: name.into(), op, operands: operands.to_vec(), ty };
        let id = NodeId(self.dag.add_node(node));
        for (position, operand) in operands.iter().enumerate() {
            self.dag.add_edge(operand.0, id.0, position);
        }
        id
    }

    /// Adds a network input.
    pub fn add_input(&mut self, name: impl Into<String>, ty: TensorType, layout: Layout) -> NodeId {
        let name = name.into();
        let node = self.add(name.clone(), O::input(), &[], ty);
        self.inputs.push(Port { name, node, layout });
        node
    }

    /// Adds a constant; the type is the tensor's, with `quant`.
    pub fn add_const(&mut self, name: impl Into<String>, value: Tensor, quant: Option<QParams>) -> NodeId {
        let ty = TensorType { dtype: value.dtype(), shape: value.shape().clone(), quant };
        self.add(name, O::constant(value), &[], ty)
    }

    /// Declares a node to be a network output.
    pub fn add_output(&mut self, name: impl Into<String>, node: NodeId, layout: Layout) {
        self.outputs.push(Port { name: name.into(), node, layout });
    }

    /// The node. Ids of removed nodes and of other graphs panic: they are bugs of the caller.
    pub fn node(&self, id: NodeId) -> &Node<O> {
        &self.dag[id.0]
    }

    /// The node, to change its name, attributes or type. Operands change through [`Graph::set_operand`].
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node<O> {
        &mut self.dag[id.0]
    }

    /// Whether the node still exists.
    pub fn contains(&self, id: NodeId) -> bool {
        self.dag.contains_node(id.0)
    }

    /// Type of the node's result.
    pub fn ty(&self, id: NodeId) -> &TensorType {
        &self.node(id).ty
    }

    /// Types of the node's operands.
    pub fn operand_types(&self, id: NodeId) -> Vec<&TensorType> {
        self.node(id).operands.iter().map(|o| self.ty(*o)).collect()
    }

    /// The constant that the node is, if it is one.
    pub fn constant(&self, id: NodeId) -> Option<&Tensor> {
        self.node(id).op.as_const()
    }

    /// Nodes in creation order.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.dag.node_indices().map(NodeId)
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.dag.node_count()
    }

    /// Whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The node of that name.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.ids().find(|id| self.node(*id).name == name)
    }

    /// Distinct readers of the node's result, in creation order. Network outputs are not nodes.
    pub fn users(&self, id: NodeId) -> Vec<NodeId> {
        let set: BTreeSet<_> = self.dag.neighbors_directed(id.0, Direction::Outgoing).map(NodeId).collect();
        set.into_iter().collect()
    }

    /// How often the result is read: operand positions plus network outputs.
    pub fn use_count(&self, id: NodeId) -> usize {
        self.dag.edges_directed(id.0, Direction::Outgoing).count()
            + self.outputs.iter().filter(|p| p.node == id).count()
    }

    /// Whether the node is a network output.
    pub fn is_output(&self, id: NodeId) -> bool {
        self.outputs.iter().any(|p| p.node == id)
    }

    /// The only reader of the result, if there is exactly one use and it is not a network output.
    pub fn only_user(&self, id: NodeId) -> Option<NodeId> {
        (self.use_count(id) == 1).then(|| self.users(id).first().copied()).flatten()
    }

    /// Makes `user` read `value` at `position`.
    pub fn set_operand(&mut self, user: NodeId, position: usize, value: NodeId) {
        let mut operands = self.node(user).operands.clone();
        operands[position] = value;
        self.set_operands(user, &operands);
    }

    /// Replaces all operands of a node.
    pub fn set_operands(&mut self, user: NodeId, operands: &[NodeId]) {
        let old: Vec<_> = self
            .dag
            .edges_directed(user.0, Direction::Incoming)
            .map(|e| petgraph::visit::EdgeRef::id(&e))
            .collect();
        for edge in old {
            self.dag.remove_edge(edge);
        }
        for (position, operand) in operands.iter().enumerate() {
            self.dag.add_edge(operand.0, user.0, position);
        }
        self.dag[user.0].operands = operands.to_vec();
    }

    /// Makes every reader of `old`, network outputs included, read `new`.
    pub fn replace_uses(&mut self, old: NodeId, new: NodeId) {
        for user in self.users(old) {
            let operands: Vec<_> =
                self.node(user).operands.iter().map(|o| if *o == old { new } else { *o }).collect();
            self.set_operands(user, &operands);
        }
        for port in &mut self.outputs {
            if port.node == old {
                port.node = new;
            }
        }
    }

    /// Removes a node that nobody reads.
    ///
    /// # Errors
    /// The result is still read.
    pub fn remove(&mut self, id: NodeId) -> Result<()> {
        ensure!(self.use_count(id) == 0, "{} is still used", self.node(id).name);
        self.dag.remove_node(id.0);
        Ok(())
    }

    /// Removes all nodes that no output depends on; inputs stay. Returns how many went.
    pub fn remove_dead(&mut self) -> usize {
        let mut live: BTreeSet<NodeId> = self.inputs.iter().map(|p| p.node).collect();
        let mut stack: Vec<NodeId> = self.outputs.iter().map(|p| p.node).collect();
        while let Some(id) = stack.pop() {
            if live.insert(id) || self.node(id).op.is_input() {
                stack.extend(self.node(id).operands.iter().filter(|o| !live.contains(o)));
            }
        }
        let before = self.len();
        self.dag.retain_nodes(|_, i| live.contains(&NodeId(i)));
        before - self.len()
    }

    /// Nodes in a topological order, the smallest creation index first among those that are ready: deterministic.
    ///
    /// # Errors
    /// The graph has a cycle; the error names the nodes on or behind it.
    pub fn topo_order(&self) -> Result<Vec<NodeId>> {
        let mut missing: BTreeMap<NodeId, usize> =
            self.ids().map(|id| (id, self.node(id).operands.len())).collect();
        let mut ready: BinaryHeap<_> =
            missing.iter().filter(|(_, n)| **n == 0).map(|(id, _)| Reverse(*id)).collect();
        let mut order = Vec::with_capacity(self.len());
        while let Some(Reverse(id)) = ready.pop() {
            order.push(id);
            for user in self.dag.neighbors_directed(id.0, Direction::Outgoing).map(NodeId) {
                if let Some(n) = missing.get_mut(&user) {
                    *n -= 1;
                    if *n == 0 {
                        ready.push(Reverse(user));
                    }
                }
            }
        }
        if order.len() < self.len() {
            let stuck: Vec<_> = missing
                .iter()
                .filter(|(_, n)| **n > 0)
                .map(|(id, _)| self.node(*id).name.as_str())
                .take(5)
                .collect();
            bail!("the graph has a cycle through {}", stuck.join(", "));
        }
        Ok(order)
    }

    /// A name that no node has, made from `base`.
    pub fn fresh_name(&self, base: &str) -> String {
        if self.find(base).is_none() {
            return base.to_owned();
        }
        let taken: BTreeSet<&str> = self.ids().map(|id| self.node(id).name.as_str()).collect();
        (1..).map(|i| format!("{base}.{i}")).find(|n| !taken.contains(n.as_str())).unwrap_or_default()
    }
}

/// Equality up to node numbering: same names, operators, operands by name, types and ports, in topological order.
impl<O: Operator> PartialEq for Graph<O> {
    fn eq(&self, other: &Self) -> bool {
        let key = |g: &Self| -> Option<Vec<_>> {
            let name = |id: &NodeId| g.node(*id).name.clone();
            let mut nodes: Vec<_> = g
                .topo_order()
                .ok()?
                .iter()
                .map(|id| {
                    let n = g.node(*id);
                    (
                        n.name.clone(),
                        n.op.clone(),
                        n.operands.iter().map(name).collect::<Vec<_>>(),
                        n.ty.clone(),
                    )
                })
                .collect();
            nodes.sort_by(|a, b| a.0.cmp(&b.0));
            Some(nodes)
        };
        let ports = |g: &Self, ports: &[Port]| -> Vec<_> {
            ports.iter().map(|p| (p.name.clone(), g.node(p.node).name.clone(), p.layout)).collect()
        };
        self.name == other.name
            && ports(self, &self.inputs) == ports(other, &other.inputs)
            && ports(self, &self.outputs) == ports(other, &other.outputs)
            && key(self) == key(other)
    }
}
