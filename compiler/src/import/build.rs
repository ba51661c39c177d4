//! Walks the nodes of an ONNX graph and builds the float graph, collecting every problem on the way.
use super::{
    Options,
    attrs::Attrs,
    check,
    cx::{Builder, Cx, Value},
    dims::{self, Dims},
    host::{self, Elem},
    inspect::{self, Inspection, NodeInfo, Problem, TensorInfo},
    ops,
    proto::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto},
    refusal::{Refusal, Result, unsupported},
};
use crate::{Code, Error};
use goshawk_ir::{FloatGraph, FloatOp, Layout, TensorType};
use std::collections::{BTreeMap, BTreeSet};

/// Oldest and newest version of the standard operators. goshawk promises 7 to 21; those from 22 on add element types and operators, but do not
/// change what the operators here compute.
pub const OPSETS: std::ops::RangeInclusive<i64> = 6..=28;

/// A model as far as it could be imported.
pub struct Built {
    /// The graph; without meaning if there are problems.
    pub graph: FloatGraph,
    /// Facts and problems.
    pub inspection: Inspection,
}

struct Walk<'a> {
    builder: Builder<'a>,
    opset: i64,
    functions: BTreeSet<(&'a str, &'a str)>,
    initializers: BTreeMap<&'a str, &'a TensorProto>,
    declared: BTreeMap<&'a str, &'a ValueInfoProto>,
    dims: Dims,
    values: BTreeMap<&'a str, Value>,
    inspection: Inspection,
}

/// Imports a decoded model.
///
/// # Errors
/// The model as a whole is wrong ([`Code::MODEL`], [`Code::GRAPH`], [`Code::SYMBOLIC_DIM`]). Problems of single nodes
/// are in the inspection.
pub fn build(model: &ModelProto, options: &Options) -> crate::Result<Built> {
    let missing = || Error::new(Code::MODEL, "the model has no graph");
    let graph = model.graph.as_ref().ok_or_else(missing)?;
    let opset = opset(model)?;
    options.limits.check_constants(graph)?;
    let order = check::order(graph)?;
    let inputs = dims::free_inputs(graph);
    let dims = Dims::resolve(&inputs, &options.set_dims)?;
    let name = if graph.name.is_empty() { "network" } else { &graph.name };
    let mut walk = Walk {
        builder: Builder::new(name, &options.limits, options.external_data.as_deref()),
        opset,
        functions: model.functions.iter().map(|f| (f.domain.as_str(), f.name.as_str())).collect(),
        initializers: graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect(),
        declared: graph.value_info.iter().chain(&graph.output).map(|v| (v.name.as_str(), v)).collect(),
        inspection: Inspection {
            name: name.to_owned(),
            producer: format!("{} {}", model.producer_name, model.producer_version).trim().to_owned(),
            ir_version: model.ir_version,
            opset,
            notes: dims.notes.clone(),
            ..Inspection::default()
        },
        dims,
        values: BTreeMap::new(),
    };
    walk.reserve(graph);
    walk.check_sizes(graph)?;
    for value in inputs {
        walk.input(value)?;
    }
    for node in order {
        walk.node(node);
    }
    for output in &graph.output {
        walk.output(output);
    }
    let mut inspection = walk.inspection;
    inspection.macs = inspection.nodes.iter().fold(0, |t, n| t.saturating_add(n.macs));
    inspection.params = inspection.nodes.iter().map(|n| n.params).sum();
    Ok(Built { graph: walk.builder.graph, inspection })
}

fn opset(model: &ModelProto) -> crate::Result<i64> {
    let standard = model.opset_import.iter().find(|o| is_standard(&o.domain));
    let Some(opset) = standard else {
        return Err(Error::new(
            Code::MODEL,
            "the model does not say which version of the ONNX operators it uses",
        )
        .help("export the model again"));
    };
    match OPSETS.contains(&opset.version) {
        true => Ok(opset.version),
        false => Err(Error::new(
            Code::UNSUPPORTED,
            format!("ONNX operator set {} is not supported", opset.version),
        )
        .because(format!("goshawk reads operator sets {} to {}", OPSETS.start(), OPSETS.end()))
        .help("export with another opset, or convert with onnx.version_converter")),
    }
}

fn is_standard(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

impl<'a> Walk<'a> {
    fn reserve(&mut self, graph: &'a GraphProto) {
        let names =
            graph.node.iter().flat_map(|n| &n.output).chain(graph.initializer.iter().map(|t| &t.name));
        self.builder.reserved =
            names.chain(graph.input.iter().map(|v| &v.name)).map(String::as_str).collect();
    }

    /// Every initializer must hold as many values as its shape says, used or not.
    fn check_sizes(&self, graph: &GraphProto) -> crate::Result<()> {
        for t in &graph.initializer {
            let external = t.data_location == 1 || !t.external_data.is_empty();
            if !external && host::data_type(t.data_type).is_ok() && !self.has_right_size(t) {
                // Small tensors outside `raw_data`, and the full message for wrong ones.
                host::decode(t, self.builder.limits, None)?;
            }
        }
        Ok(())
    }

    fn has_right_size(&self, t: &TensorProto) -> bool {
        let count = self.builder.limits.elements(&t.dims).ok();
        let want = host::data_type(t.data_type).ok().zip(count).and_then(|(d, c)| host::raw_bytes(d, c));
        !t.raw_data.is_empty() && want == Some(t.raw_data.len() as u64)
    }

    fn input(&mut self, value: &'a ValueInfoProto) -> crate::Result<()> {
        let input = self.dims.input(value, self.builder.limits)?;
        let ty = TensorType::f32(input.shape.clone());
        let name = self.builder.claim(input.name);
        let id = self.builder.graph.add_input(name, ty, Layout::Same);
        self.values.insert(input.name, Value::Node { id, elem: input.elem });
        self.inspection.inputs.push(TensorInfo {
            name: input.name.to_owned(),
            elem: format!("{:?}", input.data_type).to_lowercase(),
            shape: Some(input.shape.to_vec()),
        });
        Ok(())
    }

    /// The value of a tensor; initializers are decoded at their first use.
    fn value(&mut self, name: &'a str) -> Result<Value> {
        if let Some(v) = self.values.get(name) {
            return Ok(v.clone());
        }
        let Some(tensor) = self.initializers.get(name) else {
            // `check::order` has seen a definition: the maker leaves this result out.
            return Err(unsupported(format!("result {name:?} is not computed at inference")).of(name));
        };
        let host = host::decode(tensor, self.builder.limits, self.builder.external)?;
        let value = Value::Const { name: name.to_owned(), host };
        self.values.insert(name, value.clone());
        Ok(value)
    }

    fn node(&mut self, node: &'a NodeProto) {
        *self.inspection.operators.entry(node.op_type.clone()).or_default() += 1;
        let first = self.builder.added.len();
        let outcome = self.import(node);
        match outcome {
            Ok(Some(values)) => {
                for (name, value) in node.output.iter().zip(values) {
                    if !name.is_empty() {
                        self.values.insert(name, value);
                    }
                }
            }
            Ok(None) => self.stand_in(node),
            Err(refusal) => {
                self.problem(node, refusal);
                self.stand_in(node);
            }
        }
        self.record(node, first);
    }

    /// The results of a node; `None` if an operand is broken, which has been reported already.
    fn import(&mut self, node: &'a NodeProto) -> Result<Option<Vec<Value>>> {
        let import = self.find(node)?;
        let mut inputs = Vec::with_capacity(node.input.len());
        for name in &node.input {
            inputs.push(if name.is_empty() { None } else { Some(self.value(name)?) });
        }
        if inputs.iter().any(|v| matches!(v, Some(Value::Broken))) {
            return Ok(None);
        }
        while inputs.last().is_some_and(Option::is_none) {
            inputs.pop();
        }
        let mut cx = Cx { node, attrs: Attrs(node), opset: self.opset, inputs, builder: &mut self.builder };
        import(&mut cx).map(Some)
    }

    fn find(&self, node: &NodeProto) -> Result<ops::Import> {
        if self.functions.contains(&(node.domain.as_str(), node.op_type.as_str())) {
            return Err(unsupported(format!("{} is a function that the model defines itself", node.op_type))
                .help("inline it: onnx.inliner.inline_local_functions"));
        }
        if node.attribute.iter().any(|a| a.g.is_some() || !a.graphs.is_empty()) {
            return Err(unsupported(format!("{} has a subgraph", node.op_type))
                .help("export without control flow, or simplify the model (onnxsim)"));
        }
        if !is_standard(&node.domain) {
            return Err(unsupported(format!(
                "operator {}::{} is not a standard one",
                node.domain, node.op_type
            ))
            .help("export with standard ONNX operators"));
        }
        ops::find(&node.op_type).ok_or_else(|| {
            unsupported(format!("operator {} is not supported", node.op_type)).help(
                "express it with supported operators, or leave this part of the network out of the model",
            )
        })
    }

    fn problem(&mut self, node: &NodeProto, r: Refusal) {
        let tensor = r.tensor.unwrap_or_else(|| node.output.first().cloned().unwrap_or_default());
        self.inspection.unsupported.push(Problem {
            code: r.code,
            node: node.name.clone(),
            op: node.op_type.clone(),
            tensor,
            reason: r.reason,
            remedy: r.remedy,
        });
    }

    /// After a problem, goes on with the shapes that the model declares, so that later problems are found too.
    fn stand_in(&mut self, node: &'a NodeProto) {
        for name in node.output.iter().filter(|n| !n.is_empty()) {
            let shape = self.declared.get(name.as_str()).and_then(|v| self.dims.declared(v));
            let value = match shape {
                None => Value::Broken,
                Some(shape) => {
                    let claimed = self.builder.claim(name);
                    let id = self.builder.graph.add(claimed, FloatOp::Input, &[], TensorType::f32(shape));
                    Value::Node { id, elem: Elem::Float }
                }
            };
            self.values.insert(name, value);
        }
    }

    /// Facts about a node from what it added to the graph.
    fn record(&mut self, node: &'a NodeProto, first: usize) {
        let graph = &self.builder.graph;
        let added = &self.builder.added[first..];
        let output = node.output.first().cloned().unwrap_or_default();
        let shape = match self.values.get(output.as_str()) {
            Some(Value::Node { id, .. }) => Some(graph.ty(*id).shape.to_vec()),
            Some(Value::Const { host, .. }) if host.elem == Elem::Float => Some(host.dims.clone()),
            _ => None,
        };
        self.inspection.nodes.push(NodeInfo {
            name: node.name.clone(),
            op: node.op_type.clone(),
            output,
            shape,
            macs: added.iter().fold(0, |t, id| t.saturating_add(inspect::macs(graph, *id))),
            params: added.iter().filter_map(|id| graph.constant(*id)).map(|t| t.shape().count() as u64).sum(),
        });
    }

    fn output(&mut self, output: &'a ValueInfoProto) {
        let name = output.name.as_str();
        let made = self.value(name).and_then(|v| match v {
            Value::Broken => Ok(None),
            Value::Node { elem: Elem::Int | Elem::Bool, .. } => {
                Err(unsupported("an integer output of the network").help("cast it to float"))
            }
            v => self.builder.materialize(&v).map(Some),
        });
        let shape = match made {
            Ok(Some(id)) => {
                let shape = self.builder.graph.ty(id).shape.clone();
                self.builder.graph.add_output(name, id, Layout::Same);
                Some(shape.to_vec())
            }
            Ok(None) => None,
            Err(r) => {
                let node = NodeProto {
                    op_type: "output".into(),
                    output: vec![name.to_owned()],
                    ..NodeProto::default()
                };
                self.problem(&node, r);
                None
            }
        };
        self.inspection.outputs.push(TensorInfo { name: name.to_owned(), elem: "float".into(), shape });
    }
}
