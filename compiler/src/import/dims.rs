//! Shapes of the network's inputs, with symbolic dimensions fixed.
use super::{
    host::{self, Elem},
    limits::Limits,
    proto::{DataType, GraphProto, TypeProto, ValueInfoProto},
};
use crate::{Code, Error, Result};
use goshawk_ir::Shape;
use std::collections::{BTreeMap, BTreeSet};

/// An input of the network.
pub struct Input<'a> {
    /// Name.
    pub name: &'a str,
    /// Element type in the model.
    pub data_type: DataType,
    /// Kind of the elements.
    pub elem: Elem,
    /// Static shape.
    pub shape: Shape,
}

/// Values of symbolic dimensions.
pub struct Dims {
    values: BTreeMap<String, usize>,
    /// What was assumed, for the user.
    pub notes: Vec<String>,
}

/// Name of a dimension: its symbol, or `INPUT.AXIS` where it has none.
fn symbol(value: &ValueInfoProto, axis: usize, param: Option<&String>) -> String {
    match param {
        Some(p) if !p.is_empty() => p.clone(),
        _ => format!("{}.{axis}", value.name),
    }
}

fn dimensions(ty: Option<&TypeProto>) -> Option<&[super::proto::DimensionProto]> {
    Some(&ty?.tensor_type.as_ref()?.shape.as_ref()?.dim)
}

impl Dims {
    /// Collects the symbols of the inputs and gives each a value: the user's, or 1 to a batch dimension (the first of
    /// an input).
    ///
    /// # Errors
    /// [`Code::SYMBOLIC_DIM`]: a symbol without a value, or a value for a symbol that does not exist.
    pub fn resolve(inputs: &[&ValueInfoProto], set: &BTreeMap<String, usize>) -> Result<Self> {
        let (mut symbols, mut batch) = (BTreeSet::new(), BTreeSet::new());
        for value in inputs {
            for (axis, d) in dimensions(value.r#type.as_ref()).unwrap_or_default().iter().enumerate() {
                if d.dim_value.is_none() {
                    let s = symbol(value, axis, d.dim_param.as_ref());
                    if axis == 0 {
                        batch.insert(s.clone());
                    }
                    symbols.insert(s);
                }
            }
        }
        let list = |names: &mut dyn Iterator<Item = &String>| names.cloned().collect::<Vec<_>>().join(", ");
        if let Some(name) = set.keys().find(|k| !symbols.contains(*k)) {
            let known = list(&mut symbols.iter());
            return Err(Error::new(
                Code::SYMBOLIC_DIM,
                format!("the model has no symbolic dimension {name:?}"),
            )
            .because(if known.is_empty() {
                "all its dimensions are fixed".into()
            } else {
                format!("it has {known}")
            })
            .help("give --set-dim a name that `goshawk inspect` lists"));
        }
        let open: BTreeSet<_> =
            symbols.iter().filter(|s| !set.contains_key(*s) && !batch.contains(*s)).cloned().collect();
        if !open.is_empty() {
            let options: Vec<_> = open.iter().map(|s| format!("--set-dim {s}=N")).collect();
            return Err(Error::new(
                Code::SYMBOLIC_DIM,
                format!("dimensions without a value: {}", list(&mut open.iter())),
            )
            .because("native code is compiled for fixed shapes")
            .help(format!("pass {}", options.join(" "))));
        }
        let mut values = set.clone();
        let mut notes = Vec::new();
        for s in batch {
            values.entry(s).or_insert_with_key(|s| {
                notes.push(format!(
                    "symbolic batch dimension {s:?} is taken as 1 (change it with --set-dim {s}=N)"
                ));
                1
            });
        }
        Ok(Self { values, notes })
    }

    /// The inputs that the caller of the network provides: those without an initializer.
    ///
    /// # Errors
    /// [`Code::GRAPH`] for impossible dimensions, [`Code::SYMBOLIC_DIM`] where the rank is unknown.
    pub fn input<'a>(&self, value: &'a ValueInfoProto, limits: &Limits) -> Result<Input<'a>> {
        let place = |e: Error| e.at(format!("input {:?}", value.name));
        let Some(tensor) = value.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()) else {
            return Err(place(Error::new(Code::UNSUPPORTED, "the input is not a tensor")));
        };
        let data_type = host::data_type(tensor.elem_type).map_err(place)?;
        let Some(dims) = dimensions(value.r#type.as_ref()) else {
            return Err(place(
                Error::new(Code::SYMBOLIC_DIM, "the rank of the input is unknown")
                    .help("export the model with input shapes"),
            ));
        };
        let mut fixed = Vec::with_capacity(dims.len());
        for (axis, d) in dims.iter().enumerate() {
            let v = match d.dim_value {
                Some(v) => v,
                None => {
                    let s = symbol(value, axis, d.dim_param.as_ref());
                    self.values.get(&s).and_then(|v| i64::try_from(*v).ok()).unwrap_or(0)
                }
            };
            if v <= 0 {
                return Err(place(
                    Error::new(Code::GRAPH, format!("dimension {axis} is {v}; it must be positive"))
                        .help("export the model with positive or symbolic dimensions"),
                ));
            }
            fixed.push(v);
        }
        limits.elements(&fixed).map_err(place)?;
        let shape = Shape::new(fixed.iter().map(|d| *d as usize).collect::<Vec<_>>())
            .map_err(|e| place(Error::from_ir(Code::GRAPH, e)))?;
        Ok(Input { name: &value.name, data_type, elem: host::elem(data_type), shape })
    }

    /// The shape that the model declares for a float tensor, if it is complete.
    pub fn declared(&self, value: &ValueInfoProto) -> Option<Shape> {
        let tensor = value.r#type.as_ref()?.tensor_type.as_ref()?;
        let float = host::data_type(tensor.elem_type).is_ok_and(|t| host::elem(t) == Elem::Float);
        let dims: Option<Vec<usize>> = dimensions(value.r#type.as_ref())?
            .iter()
            .map(|d| match (d.dim_value, &d.dim_param) {
                (Some(v), _) => usize::try_from(v).ok(),
                (None, Some(p)) => self.values.get(p).copied(),
                (None, None) => None,
            })
            .collect();
        float.then_some(dims)?.and_then(|d| Shape::new(d).ok())
    }
}

/// Inputs without an initializer, in order.
pub fn free_inputs(graph: &GraphProto) -> Vec<&ValueInfoProto> {
    let constants: BTreeSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    graph.input.iter().filter(|v| !constants.contains(v.name.as_str())).collect()
}
