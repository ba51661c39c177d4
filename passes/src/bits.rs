//! Bit widths of layers: what the user asks for, resolved against the network.
//!
//! A *layer* is a convolution, a linear layer or a product with a constant matrix. Its activation bits are those of the
//! tensor that it **reads**. Layers that read the same tensor share one quantizer and so its bits (HAWQ-V3's ILP calls
//! them coupled): a listed width decides for all of them, two listed widths that differ are an error, else the widest wins. First and last layers
//! stay at 8 bits unless they are listed by name, as in all of HAWQ-V3's published settings.
use crate::lower::layers;
use goshawk_ir::{FloatGraph, IrError, NodeId, Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};

/// Widths of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LayerBits {
    /// Bits of the weights, 2..=8.
    pub weights: u8,
    /// Bits of the activations that the layer reads, 2..=8.
    pub activations: u8,
}

impl LayerBits {
    /// 8-bit weights and activations.
    pub const W8A8: Self = Self { weights: 8, activations: 8 };

    /// Parses `w4a8`.
    ///
    /// # Errors
    /// Another form, or a width outside 2..=8.
    pub fn parse(text: &str) -> Result<Self> {
        let digits = |s: &str| s.parse::<u8>().ok();
        let parts = text.trim().strip_prefix(['w', 'W']).and_then(|rest| rest.split_once(['a', 'A']));
        match parts.map(|(w, a)| (digits(w), digits(a))) {
            Some((Some(weights), Some(activations))) => {
                let bits = Self { weights, activations };
                bits.check()?;
                Ok(bits)
            }
            _ => bail!("`{text}` is not a pair of widths: write w8a8, w4a8, w4a4 …"),
        }
    }

    fn check(&self) -> Result<()> {
        for (what, bits) in [("weight", self.weights), ("activation", self.activations)] {
            ensure!((2..=8).contains(&bits), "{what} bits must be between 2 and 8, got {bits}");
        }
        Ok(())
    }
}

/// What the user asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitPlan {
    /// Widths of layers that are not listed.
    pub default: LayerBits,
    /// Widths by layer name.
    pub layers: BTreeMap<String, LayerBits>,
    /// Whether layers without a layer before them stay at 8 bits unless listed.
    pub pin_first: bool,
    /// Whether layers without a layer behind them stay at 8 bits unless listed.
    pub pin_last: bool,
}

impl BitPlan {
    /// The same widths everywhere but in the first and last layers.
    ///
    /// # Errors
    /// `text` is not of the form `w4a8` with widths in 2..=8.
    pub fn uniform(text: &str) -> Result<Self> {
        Ok(Self {
            default: LayerBits::parse(text)?,
            layers: BTreeMap::new(),
            pin_first: true,
            pin_last: true,
        })
    }

    /// Widths of every layer, by name.
    ///
    /// # Errors
    /// A listed layer does not exist (close names are suggested), a width is outside 2..=8, or two listed layers that
    /// read the same tensor ask for different activation bits.
    pub fn resolve(&self, graph: &FloatGraph) -> Result<BTreeMap<String, LayerBits>> {
        self.default.check().map_err(|e| e.at("default"))?;
        let order = layers::all(graph)?;
        let names: BTreeSet<&str> = order.iter().map(|id| graph.node(*id).name.as_str()).collect();
        for (name, bits) in &self.layers {
            bits.check().map_err(|e| e.at(name))?;
            if !names.contains(name.as_str()) {
                return Err(unknown_layer(name, &names));
            }
        }
        let ends = layers::ends(graph)?;
        let mut resolved = BTreeMap::new();
        for id in &order {
            let name = &graph.node(*id).name;
            let pinned = self.pin_first && ends.first.contains(id) || self.pin_last && ends.last.contains(id);
            let unlisted = if pinned { LayerBits::W8A8 } else { self.default };
            resolved.insert(name.clone(), self.layers.get(name).copied().unwrap_or(unlisted));
        }
        for class in coupling_classes(graph)? {
            self.couple(graph, &class, &mut resolved)?;
        }
        Ok(resolved)
    }

    fn couple(
        &self,
        graph: &FloatGraph,
        class: &[NodeId],
        resolved: &mut BTreeMap<String, LayerBits>,
    ) -> Result<()> {
        let names: Vec<&String> = class.iter().map(|id| &graph.node(*id).name).collect();
        let mut listed = names.iter().filter_map(|n| self.layers.get(*n).map(|b| (n, b.activations)));
        let decided = listed.next();
        if let Some((first, bits)) = decided
            && let Some((other, others)) = listed.find(|(_, b)| *b != bits)
        {
            return Err(IrError::new(format!(
                "reads the same tensor as {first} and so shares its quantizer: {others} and {bits} activation bits \
                 cannot both hold; give both the same"
            ))
            .at(other.as_str()));
        }
        let widest = names.iter().filter_map(|n| resolved.get(*n)).map(|b| b.activations).max().unwrap_or(8);
        let shared = decided.map_or(widest, |(_, bits)| bits);
        for name in names {
            if let Some(bits) = resolved.get_mut(name) {
                bits.activations = shared;
            }
        }
        Ok(())
    }
}

/// Layers grouped by the tensor that they read (through pools, reshapes and other operators that keep the quantizer);
/// groups of one are left out. In graph order.
///
/// # Errors
/// The graph has a cycle.
pub fn coupling_classes(graph: &FloatGraph) -> Result<Vec<Vec<NodeId>>> {
    let mut classes: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
    for id in layers::all(graph)? {
        if let Some(x) = graph.node(id).operands().first() {
            classes.entry(layers::quantizer_of(graph, *x)).or_default().push(id);
        }
    }
    Ok(classes.into_values().filter(|c| c.len() > 1).collect())
}

fn unknown_layer(name: &str, names: &BTreeSet<&str>) -> IrError {
    let mut close: Vec<(usize, &str)> = names
        .iter()
        .map(|n| (distance(name, n), *n))
        .filter(|(d, n)| *d <= 1 + name.len().max(n.len()) / 3 || n.contains(name) || name.contains(n))
        .collect();
    close.sort_unstable();
    let close: Vec<&str> = close.into_iter().take(3).map(|(_, n)| n).collect();
    let hint = if close.is_empty() {
        let some: Vec<&str> = names.iter().copied().take(5).collect();
        format!("layers are named by their result tensor, for example {}", some.join(", "))
    } else {
        format!("did you mean {}?", close.join(", "))
    };
    IrError::new(format!("the network has no layer of this name; {hint}")).at(name)
}

/// Edit distance (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replace = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
