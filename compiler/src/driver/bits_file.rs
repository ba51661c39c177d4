//! `bits.toml`: which layer gets how many bits, written by people and by allocators.
//!
//! ```toml
//! default = { weights = 8, activations = 8 }
//! pin_first = true      # first and last layers stay at 8 bits unless they are listed
//! pin_last = true
//!
//! [layers]
//! "conv2" = { weights = 4, activations = 8 }
//! "conv3" = { weights = 4 }                     # the rest from the default
//! ```
use crate::{Code, Error, Result};
use goshawk_ir::FloatGraph;
use goshawk_passes::bits::{BitPlan, LayerBits};
use serde::Deserialize;
use std::{collections::BTreeMap, fmt::Write as _, path::Path};
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default: Option<Widths>,
    pin_first: Option<bool>,
    pin_last: Option<bool>,
    #[serde(default)]
    layers: BTreeMap<String, Spanned<Widths>>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct Widths {
    weights: Option<u8>,
    activations: Option<u8>,
}

impl Widths {
    fn over(self, default: LayerBits) -> LayerBits {
        LayerBits {
            weights: self.weights.unwrap_or(default.weights),
            activations: self.activations.unwrap_or(default.activations),
        }
    }
}

/// Reads a bits file and checks it against the network.
///
/// # Errors
/// [`Code::FILE`] or [`Code::BITS`], with file and line: syntax, unknown keys, unknown layers, widths outside 2..=8.
pub fn load(path: &Path, graph: &FloatGraph) -> Result<BitPlan> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, "read", &e))?;
    parse(&text, &path.display().to_string(), graph)
}

/// Parses the text of a bits file called `origin` and checks it against the network.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, origin: &str, graph: &FloatGraph) -> Result<BitPlan> {
    let line_of = |offset: usize| text.get(..offset).map_or(1, |before| before.matches('\n').count() + 1);
    let file: File = toml::from_str(text).map_err(|e| {
        Error::new(Code::BITS, format!("{origin} is not a bits file"))
            .at(format!("{origin}, line {}", e.span().map_or(1, |s| line_of(s.start))))
            .because(e.message().to_owned())
            .help("keys: default, pin_first, pin_last, [layers]; widths: { weights = 4, activations = 8 }")
    })?;
    let default = file.default.map_or(LayerBits::W8A8, |w| w.over(LayerBits::W8A8));
    let plan = BitPlan {
        default,
        layers: file.layers.iter().map(|(name, w)| (name.clone(), w.get_ref().over(default))).collect(),
        pin_first: file.pin_first.unwrap_or(true),
        pin_last: file.pin_last.unwrap_or(true),
    };
    plan.resolve(graph).map_err(|e| {
        let layer = e.location.as_ref().and_then(|name| file.layers.get_key_value(name));
        let place = match layer {
            Some((name, widths)) => format!("{origin}, line {}, layer {name}", line_of(widths.span().start)),
            None => origin.to_owned(),
        };
        Error::new(Code::BITS, e.message)
            .at(place)
            .help("`goshawk inspect MODEL --bits-template bits.toml` writes a file with every layer")
    })?;
    Ok(plan)
}

/// The text of a bits file for this plan; [`parse`] gives the plan back.
pub fn print(plan: &BitPlan) -> String {
    let widths = |b: &LayerBits| format!("{{ weights = {}, activations = {} }}", b.weights, b.activations);
    let mut out = format!(
        "default = {}\npin_first = {}\npin_last = {}\n",
        widths(&plan.default),
        plan.pin_first,
        plan.pin_last
    );
    out.push_str("\n[layers]\n");
    for (name, bits) in &plan.layers {
        let key = toml::Value::String(name.clone());
        let _ = writeln!(out, "{key} = {}", widths(bits));
    }
    out
}

/// A plan that lists every layer of the network with the widths that `plan` gives it: a file to edit.
///
/// # Errors
/// [`Code::BITS`] as [`load`].
pub fn listed(plan: &BitPlan, graph: &FloatGraph) -> Result<BitPlan> {
    let layers = plan.resolve(graph).map_err(|e| Error::from_ir(Code::BITS, e))?;
    Ok(BitPlan { layers, ..plan.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use goshawk_ir::{FloatOp, Layout, Shape, Tensor, TensorType, op::float::Linear};

    /// Three linear layers in a row: a, b.1, c.
    fn network() -> FloatGraph {
        let mut g = FloatGraph::new("net");
        let shape = |d: &[usize]| Shape::new(d.to_vec()).expect("shape");
        let mut x = g.add_input("x", TensorType::f32(shape(&[1, 2])), Layout::Same);
        for name in ["a", "b.1", "c"] {
            let w = Tensor::from_f32(shape(&[2, 2]), vec![1.0; 4]).expect("tensor");
            let w = g.add_const(format!("{name}.weight"), w, None);
            let op = FloatOp::Linear(Linear { clamp: None });
            x = g.add(name, op, &[x, w], TensorType::f32(shape(&[1, 2])));
        }
        g.add_output("y", x, Layout::Same);
        g
    }

    #[test]
    fn text_and_plan_agree() {
        let g = network();
        let text = "default = { weights = 8, activations = 4 }\n[layers]\n\"b.1\" = { weights = 4 }\n";
        let plan = parse(text, "bits.toml", &g).expect("valid");
        assert_eq!(plan.layers["b.1"], LayerBits { weights: 4, activations: 4 });
        assert!(plan.pin_first && plan.pin_last);
        assert_eq!(parse(&print(&plan), "bits.toml", &g), Ok(plan.clone()));
        let all = listed(&plan, &g).expect("valid");
        assert_eq!(all.layers.len(), 3);
        assert_eq!(parse(&print(&all), "bits.toml", &g), Ok(all));
        assert_eq!(parse("", "bits.toml", &g).expect("valid").default, LayerBits::W8A8);
    }

    #[test]
    fn mistakes_are_located() {
        let g = network();
        for (text, place, words) in [
            ("\n[layers]\nb1 = { weights = 4 }\n", "line 3, layer b1", "b.1"),
            ("[layers]\n\"a\" = { weights = 9 }\n", "line 2, layer a", "9"),
            ("[layers]\n\"a\" = { weigths = 4 }\n", "line 2", "weigths"),
            ("default = { weights = 1 }\n", "bits.toml", "1"),
            ("defualt = { weights = 8 }\n", "line 1", "defualt"),
            ("default = {\n", "line 1", ""),
        ] {
            let error = parse(text, "bits.toml", &g).expect_err(text);
            let all = error.to_string();
            assert!(error.code == Code::BITS && all.contains(place) && all.contains(words), "{text}: {all}");
        }
    }
}
