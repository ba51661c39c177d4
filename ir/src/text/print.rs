//! Printing; the inverse of [`super::parse`].
use crate::{
    DType, Graph, Layout, Operator, Port, QParams, Scale, Tensor, TensorType,
    attr::{Attr, AttrValue},
};
use std::fmt::Write;

/// Constants of up to this many elements are printed as lists.
const SHORT: usize = 64;
/// Bytes on one line of a long constant.
const HEX_LINE: usize = 48;

/// The text form. Nodes stand in topological order; a graph with a cycle prints its nodes in creation order and does
/// not parse back.
pub fn print<O: Operator>(graph: &Graph<O>) -> String {
    let mut out = format!("gir {} {} {}\n\n", super::VERSION, O::KIND, quoted(&graph.name));
    for p in &graph.inputs {
        port(&mut out, "input", graph, p);
    }
    let order = graph.topo_order().unwrap_or_else(|_| graph.ids().collect());
    for id in order {
        let node = graph.node(id);
        let _ = write!(out, "{}: {} = ", name(&node.name), type_text(&node.ty));
        match node.op.as_const() {
            Some(value) => constant(&mut out, value),
            None => {
                out.push_str(node.op.name());
                if !node.op.is_input() {
                    let operands: Vec<_> =
                        node.operands().iter().map(|o| name(&graph.node(*o).name)).collect();
                    let _ = write!(out, "({})", operands.join(", "));
                }
            }
        }
        let attrs = node.op.to_attrs();
        if !attrs.is_empty() {
            let attrs: Vec<_> = attrs.iter().map(|(n, v)| format!("{n} = {}", attr(v))).collect();
            let _ = write!(out, " {{{}}}", attrs.join(", "));
        }
        out.push('\n');
    }
    for p in &graph.outputs {
        port(&mut out, "output", graph, p);
    }
    out
}

fn port<O: Operator>(out: &mut String, what: &str, graph: &Graph<O>, port: &Port) {
    let layout = match port.layout {
        Layout::Same => "same",
        Layout::Nchw => "nchw",
    };
    let _ = writeln!(out, "{what} {} = {} {layout}", quoted(&port.name), name(&graph.node(port.node).name));
}

/// Whether a character may stand in a name without quotes.
pub(super) fn is_bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-')
}

fn name(name: &str) -> String {
    if !name.is_empty() && name.chars().all(is_bare) {
        format!("%{name}")
    } else {
        format!("%{}", quoted(name))
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A type as it stands in the text form, for messages.
pub fn type_text(ty: &TensorType) -> String {
    let quant = ty.quant.as_ref().map_or_else(String::new, |q| format!(" {}", attr(&q.to_attr())));
    format!("{}{}{quant}", ty.dtype, ty.shape)
}

fn constant(out: &mut String, value: &Tensor) {
    out.push_str("const ");
    if value.shape().count() > SHORT {
        out.push_str("hex(");
        for line in value.to_bytes().chunks(HEX_LINE) {
            out.push_str("\n  ");
            for byte in line {
                let _ = write!(out, "{byte:02x}");
            }
        }
        out.push_str("\n)");
        return;
    }
    let values: Vec<String> = match value.dtype() {
        DType::F32 => value.as_f32().unwrap_or_default().iter().map(|v| float(*v)).collect(),
        DType::I32 | DType::I16 | DType::I8 | DType::U8 | DType::I4 | DType::U4 => {
            value.to_ints().unwrap_or_default().iter().map(ToString::to_string).collect()
        }
    };
    let _ = write!(out, "[{}]", values.join(", "));
}

fn attr(value: &Attr) -> String {
    let list = |items: &[Attr]| items.iter().map(attr).collect::<Vec<_>>().join(", ");
    match value {
        Attr::Int(v) => v.to_string(),
        Attr::Float(v) => float(*v),
        Attr::Word(w) => w.clone(),
        Attr::List(items) => format!("[{}]", list(items)),
        Attr::Call(name, args) => format!("{name}({})", list(args)),
    }
}

/// The shortest digits that read back exactly.
fn float(v: f32) -> String {
    match v.to_bits() {
        0x7fc0_0000 => "nan".into(),
        bits if v.is_nan() => format!("nan({bits:#010x})"),
        _ => format!("{v:?}"),
    }
}

impl AttrValue for QParams {
    fn to_attr(&self) -> Attr {
        let scale = match &self.scale {
            Scale::PerTensor(s) => s.to_attr(),
            Scale::PerChannel { axis, scales } => {
                Attr::Call("axis".into(), vec![axis.to_attr(), scales.to_vec().to_attr()])
            }
        };
        Attr::Call("q".into(), vec![scale, self.zero_point.to_attr(), self.bits.to_attr()])
    }
    fn from_attr(attr: &Attr) -> crate::Result<Self> {
        let Attr::Call(name, args) = attr else { crate::bail!("expected q(scale, zero point, bits)") };
        let ("q", [scale, zero_point, bits]) = (name.as_str(), &args[..]) else {
            crate::bail!("expected q(scale, zero point, bits)");
        };
        let scale = match scale {
            Attr::Call(name, args) if name == "axis" && args.len() == 2 => Scale::PerChannel {
                axis: usize::from_attr(&args[0])?,
                scales: Vec::from_attr(&args[1])?.into(),
            },
            one => Scale::PerTensor(f32::from_attr(one)?),
        };
        Ok(Self { scale, zero_point: i32::from_attr(zero_point)?, bits: u8::from_attr(bits)? })
    }
}
