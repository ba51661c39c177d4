//! What operator importers see: the node with its operands and attributes, and the graph under construction.
use super::{
    attrs::Attrs,
    host::{Elem, Host},
    limits::Limits,
    proto::NodeProto,
    refusal::{Refusal, Result, malformed, unsupported},
};
use crate::Code;
use goshawk_ir::{FloatGraph, FloatOp, NodeId, Shape, Tensor, TensorType, infer};
use std::collections::{BTreeMap, BTreeSet};

/// The value of an ONNX tensor.
#[derive(Clone, Debug)]
pub enum Value {
    /// Known at import.
    Const {
        /// ONNX name, for messages and for the constant in the graph.
        name: String,
        /// The values.
        host: Host,
    },
    /// Known when the network runs.
    Node {
        /// Node of the float graph.
        id: NodeId,
        /// What the model thinks the elements are. Integers occur only between an input and its Cast.
        elem: Elem,
    },
    /// The result of a node that could not be imported.
    Broken,
}

/// The graph under construction.
pub struct Builder<'a> {
    /// The graph.
    pub graph: FloatGraph,
    /// Limits on constants.
    pub limits: &'a Limits,
    /// Where external data may be read.
    pub external: Option<&'a std::path::Path>,
    /// Nodes in creation order.
    pub added: Vec<NodeId>,
    /// All names of the ONNX graph: invented names avoid them.
    pub reserved: BTreeSet<&'a str>,
    used: BTreeSet<String>,
    /// Constants that are in the graph, by ONNX name.
    constants: BTreeMap<String, NodeId>,
    folded_bytes: u64,
}

impl<'a> Builder<'a> {
    /// An empty graph.
    pub fn new(name: &str, limits: &'a Limits, external: Option<&'a std::path::Path>) -> Self {
        Self {
            graph: FloatGraph::new(name),
            limits,
            external,
            added: Vec::new(),
            reserved: BTreeSet::new(),
            used: BTreeSet::new(),
            constants: BTreeMap::new(),
            folded_bytes: 0,
        }
    }

    /// `wanted`, or a variation if a node already has that name.
    pub fn claim(&mut self, wanted: &str) -> String {
        let name = match self.used.contains(wanted) {
            false => wanted.to_owned(),
            true => (1..)
                .map(|i| format!("{wanted}.{i}"))
                .find(|n| !self.used.contains(n) && !self.reserved.contains(n.as_str()))
                .unwrap_or_default(),
        };
        self.used.insert(name.clone());
        name
    }

    /// A name that neither the ONNX graph nor a node has.
    fn invent(&mut self, wanted: &str) -> String {
        if self.reserved.contains(wanted) {
            return self.invent(&format!("{wanted}.x"));
        }
        self.claim(wanted)
    }

    /// Adds a constant under the name of the ONNX tensor that it comes from.
    pub fn add_constant(
        &mut self,
        name: &str,
        shape: Shape,
        values: impl Into<std::sync::Arc<[f32]>>,
    ) -> Result<NodeId> {
        let values = values.into();
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            return Err(Refusal {
                code: Code::NON_FINITE,
                tensor: Some(name.to_owned()),
                reason: format!("constant {name:?} holds {} at index {i}", values[i]),
                remedy: Some("the weights are damaged or training diverged: export the model again".into()),
            });
        }
        let tensor = Tensor::from_f32(shape, values)?;
        let name = self.claim(name);
        let id = self.graph.add_const(name, tensor, None);
        self.added.push(id);
        Ok(id)
    }

    /// The node of a value; constants enter the graph here.
    pub fn materialize(&mut self, value: &Value) -> Result<NodeId> {
        match value {
            Value::Node { id, .. } => Ok(*id),
            Value::Broken => Err(malformed("the operand could not be imported")),
            Value::Const { name, host } => {
                if let Some(id) = self.constants.get(name) {
                    return Ok(*id);
                }
                let Some(values) = host.as_floats() else {
                    return Err(unsupported(format!(
                        "{name:?} is a tensor of integers where floats are expected"
                    ))
                    .of(name.clone())
                    .help("goshawk imports float models; cast the tensor to float"));
                };
                let shape = Shape::new(host.dims.clone())?;
                let id = self.add_constant(name, shape, values.clone())?;
                self.constants.insert(name.clone(), id);
                Ok(id)
            }
        }
    }

    /// Adds an operator under a claimed name.
    fn add(&mut self, name: String, op: FloatOp, operands: &[NodeId]) -> Result<NodeId> {
        let shapes: Vec<&Shape> = operands.iter().map(|o| &self.graph.ty(*o).shape).collect();
        let shape = infer::float_shape(&op, &shapes)?;
        let id = self.graph.add(name, op, operands, TensorType::f32(shape));
        self.added.push(id);
        Ok(id)
    }

    /// Takes bytes from the budget of constant arithmetic.
    pub fn charge(&mut self, dims: &[usize]) -> Result<()> {
        let count = dims.iter().try_fold(1u64, |c, d| c.checked_mul(*d as u64)).unwrap_or(u64::MAX);
        self.folded_bytes = self.folded_bytes.saturating_add(count.saturating_mul(8));
        if self.folded_bytes > self.limits.folded_bytes {
            return Err(Refusal {
                code: Code::MODEL,
                ..malformed(format!(
                    "constant arithmetic of the model needs more than {} bytes",
                    self.limits.folded_bytes
                ))
            });
        }
        Ok(())
    }
}

/// One node being imported.
pub struct Cx<'a, 'b> {
    /// The node.
    pub node: &'a NodeProto,
    /// Its attributes.
    pub attrs: Attrs<'a>,
    /// Version of the standard operators.
    pub opset: i64,
    /// Operands; `None` where absent.
    pub inputs: Vec<Option<Value>>,
    /// The graph.
    pub builder: &'b mut Builder<'a>,
}

impl Cx<'_, '_> {
    /// Name of an operand.
    pub fn input_name(&self, i: usize) -> &str {
        self.node.input.get(i).map_or("", String::as_str)
    }

    /// An operand, if it is there.
    pub fn input(&self, i: usize) -> Option<&Value> {
        self.inputs.get(i).and_then(Option::as_ref)
    }

    /// An operand that must be there.
    pub fn need(&self, i: usize) -> Result<&Value> {
        self.input(i).ok_or_else(|| malformed(format!("operand {i} is missing")))
    }

    /// Number of operands.
    pub fn arity(&self) -> usize {
        self.inputs.len()
    }

    /// Dimensions of an operand.
    pub fn dims(&self, i: usize) -> Result<Vec<usize>> {
        Ok(match self.need(i)? {
            Value::Const { host, .. } => host.dims.clone(),
            Value::Node { id, .. } => self.builder.graph.ty(*id).shape.to_vec(),
            Value::Broken => return Err(malformed("the operand could not be imported")),
        })
    }

    /// An operand that is known at import.
    pub fn constant(&self, i: usize) -> Option<&Host> {
        match self.input(i) {
            Some(Value::Const { host, .. }) => Some(host),
            _ => None,
        }
    }

    /// The constants of all operands, if all are known.
    pub fn all_constant(&self) -> Option<Vec<Host>> {
        (0..self.arity()).map(|i| self.constant(i).cloned()).collect()
    }

    /// An optional operand that must be known at import.
    fn known(&self, i: usize, what: &str) -> Result<Option<&Host>> {
        match self.input(i) {
            None => Ok(None),
            Some(Value::Const { host, .. }) => Ok(Some(host)),
            Some(_) => Err(unsupported(format!("{what} depends on the network's input"))
                .of(self.input_name(i))
                .help("export with constant shapes, or simplify the model (onnxsim)")),
        }
    }

    /// Integers of an optional constant operand.
    pub fn ints(&self, i: usize, what: &str) -> Result<Option<Vec<i64>>> {
        let Some(host) = self.known(i, what)? else { return Ok(None) };
        match host.as_ints() {
            Some(v) => Ok(Some(v.to_vec())),
            None => Err(malformed(format!("{what} must be integers")).of(self.input_name(i))),
        }
    }

    /// Floats of an optional constant operand.
    pub fn floats(&self, i: usize, what: &str) -> Result<Option<Vec<f32>>> {
        let Some(host) = self.known(i, what)? else { return Ok(None) };
        match host.as_floats() {
            Some(v) => Ok(Some(v.to_vec())),
            None => Err(malformed(format!("{what} must be floats")).of(self.input_name(i))),
        }
    }

    /// A float of an optional constant operand with one element.
    pub fn scalar(&self, i: usize, what: &str) -> Result<Option<f32>> {
        match self.floats(i, what)?.as_deref() {
            None => Ok(None),
            Some([v]) if v.is_nan() => {
                Err(Refusal { code: Code::NON_FINITE, ..malformed(format!("{what} is NaN")) }
                    .of(self.input_name(i)))
            }
            Some([v]) => Ok(Some(*v)),
            Some(v) => {
                Err(malformed(format!("{what} has {} elements, expected 1", v.len())).of(self.input_name(i)))
            }
        }
    }

    /// Integers that old operator sets keep in an attribute and new ones in an operand.
    pub fn ints_attr_or_input(&self, name: &str, i: usize) -> Result<Option<Vec<i64>>> {
        match self.attrs.ints(name)? {
            Some(v) => Ok(Some(v.to_vec())),
            None => self.ints(i, name),
        }
    }

    /// The node of an operand that must be there.
    pub fn operand(&mut self, i: usize) -> Result<NodeId> {
        let value = self.need(i)?.clone();
        if let Value::Node { elem: Elem::Int | Elem::Bool, .. } = value {
            return Err(unsupported("arithmetic on an integer input of the network")
                .of(self.input_name(i))
                .help("let the model take floats, or cast its input to float first"));
        }
        self.builder.materialize(&value).map_err(|e| e.of(self.input_name(i)))
    }

    /// The nodes of all operands.
    pub fn operands(&mut self) -> Result<Vec<NodeId>> {
        (0..self.arity()).map(|i| self.operand(i)).collect()
    }

    /// Shape of a node's result.
    pub fn shape(&self, id: NodeId) -> &Shape {
        &self.builder.graph.ty(id).shape
    }

    /// Adds the operator that makes result `k` of the ONNX node and so carries its name.
    pub fn emit_result(&mut self, k: usize, op: FloatOp, operands: &[NodeId]) -> Result<Value> {
        let wanted = self.node.output.get(k).cloned().unwrap_or_default();
        let name = match wanted.is_empty() {
            true => self.builder.invent("unused"),
            false => self.builder.claim(&wanted),
        };
        let id = self.builder.add(name, op, operands)?;
        Ok(Value::Node { id, elem: Elem::Float })
    }

    /// Adds the operator that makes the only result.
    pub fn emit(&mut self, op: FloatOp, operands: &[NodeId]) -> Result<Vec<Value>> {
        Ok(vec![self.emit_result(0, op, operands)?])
    }

    /// Adds an operator that the ONNX node implies, named after the result and a suffix.
    pub fn step(&mut self, suffix: &str, op: FloatOp, operands: &[NodeId]) -> Result<NodeId> {
        let base = self.node.output.first().map_or("value", String::as_str);
        let name = self.builder.invent(&format!("{base}.{suffix}"));
        self.builder.add(name, op, operands)
    }

    /// A constant that the ONNX node implies, named after an operand.
    pub fn derived_constant(&mut self, i: usize, shape: Shape, values: Vec<f32>) -> Result<NodeId> {
        let name = match self.input(i) {
            Some(Value::Const { name, .. }) => name.clone(),
            _ => format!("{}.{i}", self.node.output.first().map_or("value", String::as_str)),
        };
        self.builder.add_constant(&name, shape, values)
    }

    /// A constant result.
    pub fn known_result(&self, k: usize, host: Host) -> Value {
        let name = self.node.output.get(k).filter(|n| !n.is_empty()).cloned();
        Value::Const { name: name.unwrap_or_else(|| "unused".into()), host }
    }

    /// The only result, constant.
    pub fn fold(&self, host: Host) -> Result<Vec<Value>> {
        Ok(vec![self.known_result(0, host)])
    }
}
