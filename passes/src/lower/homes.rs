//! The *home* of every value: the one quantizer in which it is stored.
//!
//! Values that operators merely move (pools, slices, reshapes …) share a home with their operand, by union-find. The
//! branches of a Concat join its home where that costs nothing (a branch that nobody else reads) or little (the common
//! range is at most twice as wide as the branch's own: one bit); other branches are rescaled at the Concat.
//!
//! The operands of a sum on the 16-bit grid join the home of its result, so that adding needs no rescaling and rounds
//! nothing. Whole residual stages become one home, as far as the common range stays within [`SHARED`] times that of each
//! value that others read too; other operands are rescaled at the sum.
//!
//! What the readers ask then decides the element type: the 16-bit grid where a sum reads and `residual_bits` is 16
//! (HAWQ-V3 §3: residual additions on a 16-bit grid, rescaled once for the convolutions behind) or where a network
//! output asks for it; the layers' own width where only layers read; 8 bits otherwise. Readers that want less than the
//! home has get a Requant of their own, see [`super::context`].
use super::{
    Options, layers,
    reads::{Read, read},
};
use crate::{bits::LayerBits, quantize};
use goshawk_ir::{
    DType, FloatGraph, FloatOp, IrError, NodeId, QParams, Result,
    op::float::{Binary, BinaryFn},
};
use std::collections::{BTreeMap, BTreeSet};

/// How many times as wide as its own the range may be for which a value on the 16-bit grid is quantized: of its 13 bits
/// inside the range ten remain, two more than layers read.
const SHARED: f32 = 8.0;

/// Element type and quantizer of a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Home {
    /// `U8` or `I16`.
    pub dtype: DType,
    /// Parameters.
    pub quant: QParams,
}

impl Home {
    /// The 16-bit fraction that Softmax gives: scale 2⁻¹⁵.
    pub fn fraction() -> Self {
        Self { dtype: DType::I16, quant: QParams::per_tensor(1.0 / 32768.0, 0, 16) }
    }
}

/// Values of one quantizer.
#[derive(Clone, Debug, Default)]
struct Group {
    range: Option<(f32, f32)>,
    /// Quantizer given by the operator.
    fixed: Option<Home>,
    /// Must be bytes: network inputs, linear interpolation.
    bytes: bool,
    sum: bool,
    output: bool,
    other: bool,
    /// Widest and narrowest request of layers.
    layer: Option<(u8, u8)>,
    branches: usize,
    /// Largest |value| for which a 16-bit grid may be made that still suits all values.
    reach: f32,
}

impl Group {
    fn is_free(&self) -> bool {
        !self.sum && !self.output && !self.other && self.layer.is_none()
    }

    fn wide(&self, options: &Options) -> bool {
        !self.bytes && (self.sum && options.residual_bits == 16 || self.output && options.output_bits == 16)
    }

    fn bits(&self, options: &Options) -> u8 {
        match self.layer {
            _ if self.wide(options) => 16,
            Some((widest, _)) if !self.sum && !self.output && !self.other => widest,
            _ => 8,
        }
    }

    fn absorb(&mut self, other: Self) {
        self.range = union(self.range, other.range);
        self.fixed = self.fixed.take().or(other.fixed);
        self.bytes |= other.bytes;
        self.sum |= other.sum;
        self.output |= other.output;
        self.other |= other.other;
        self.layer = match (self.layer, other.layer) {
            (Some((a, b)), Some((c, d))) => Some((a.max(c), b.min(d))),
            (a, b) => a.or(b),
        };
        self.branches += other.branches;
        self.reach = self.reach.min(other.reach);
    }
}

fn union(a: Option<(f32, f32)>, b: Option<(f32, f32)>) -> Option<(f32, f32)> {
    match (a, b) {
        (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
        (a, b) => a.or(b),
    }
}

fn width((min, max): (f32, f32)) -> f32 {
    max.max(0.0) - min.min(0.0)
}

/// Largest |value|, on which the 16-bit grid depends.
fn reach((min, max): (f32, f32)) -> f32 {
    max.max(-min).max(quantize::activation::MIN_WIDTH)
}

/// [`Group::reach`] of one value: a network output keeps its own grid, and what only a sum reads need not be finer than
/// the sum. A range that is missing or unusable must be reported, so it is never joined with a better one.
fn shared_reach(graph: &FloatGraph, id: NodeId, range: Option<(f32, f32)>) -> f32 {
    let Some(own) = range.filter(|(min, max)| min <= max).map(reach).filter(|reach| reach.is_finite()) else {
        return 0.0;
    };
    match graph.only_user(id) {
        Some(user) if is_sum(graph, user) => f32::MAX,
        _ if graph.is_output(id) => own,
        _ => SHARED * own,
    }
}

/// Whether the node adds or subtracts two computed tensors.
fn is_sum(graph: &FloatGraph, id: NodeId) -> bool {
    let node = graph.node(id);
    matches!(node.op, FloatOp::Binary(Binary { function: BinaryFn::Add | BinaryFn::Sub, .. }))
        && node.operands().iter().all(|o| graph.constant(*o).is_none())
}

/// Union-find over values.
struct Groups<'a> {
    graph: &'a FloatGraph,
    options: &'a Options,
    parent: BTreeMap<NodeId, NodeId>,
    groups: BTreeMap<NodeId, Group>,
}

impl Groups<'_> {
    fn root(&self, mut id: NodeId) -> NodeId {
        while let Some(parent) = self.parent.get(&id).filter(|p| **p != id) {
            id = *parent;
        }
        id
    }

    fn merge(&mut self, a: NodeId, b: NodeId) {
        let (a, b) = (self.root(a), self.root(b));
        if a != b
            && let Some(group) = self.groups.remove(&b)
        {
            self.parent.insert(b, a);
            if let Some(into) = self.groups.get_mut(&a) {
                into.absorb(group);
            }
        }
    }

    fn group(&mut self, id: NodeId) -> &mut Group {
        let root = self.root(id);
        self.groups.entry(root).or_default()
    }

    fn is_value(&self, id: NodeId) -> bool {
        self.parent.contains_key(&id)
    }

    /// Whether a branch may join the home of its Concat.
    fn may_join(&mut self, branch: NodeId, concat: NodeId) -> bool {
        let options = self.options;
        let (b, c) = (self.group(branch).clone(), self.group(concat).clone());
        match (&b.fixed, &c.fixed) {
            (None, None) => {}
            (f, g) => return f == g,
        }
        if b.bytes && c.wide(options) || c.bytes && b.wide(options) {
            return false;
        }
        if b.is_free() && b.branches == 1 {
            return true;
        }
        let same_type = b.is_free() || c.is_free() || b.bits(options) == c.bits(options);
        let narrow_enough = match (b.range, union(b.range, c.range)) {
            (Some(own), Some(common)) => width(common) <= 2.0 * width(own),
            _ => true,
        };
        same_type && narrow_enough
    }

    /// Whether an operand of a sum may join the home of its result: both have the 16-bit grid already.
    fn may_share(&mut self, operand: NodeId, sum: NodeId) -> bool {
        let options = self.options;
        let (x, s) = (self.group(operand).clone(), self.group(sum).clone());
        let both = |f: &dyn Fn(&Group) -> bool| f(&x) && f(&s);
        options.residual_bits == 16
            && both(&|g| g.fixed.is_none() && g.wide(options))
            && union(x.range, s.range).is_some_and(|range| reach(range) <= x.reach.min(s.reach))
    }
}

/// Builds the groups of values that share a quantizer by necessity, with everything that readers ask.
fn required<'a>(
    graph: &'a FloatGraph,
    bits: &BTreeMap<String, LayerBits>,
    options: &'a Options,
    range: &dyn Fn(NodeId) -> Option<(f32, f32)>,
) -> Result<(Groups<'a>, Vec<NodeId>)> {
    let values: Vec<NodeId> =
        graph.topo_order()?.into_iter().filter(|id| graph.constant(*id).is_none()).collect();
    let mut groups =
        Groups { graph, options, parent: values.iter().map(|v| (*v, *v)).collect(), groups: BTreeMap::new() };
    for id in &values {
        let node = graph.node(*id);
        let mut group = Group { range: range(*id), ..Group::default() };
        match &node.op {
            FloatOp::Softmax(_) => group.fixed = Some(Home::fraction()),
            FloatOp::Pad(p) if p.value.is_finite() => {
                group.range = union(group.range, Some((p.value.min(0.0), p.value.max(0.0))));
            }
            op => group.bytes = op == &FloatOp::Input || layers::needs_bytes(op),
        }
        group.reach = shared_reach(graph, *id, group.range);
        groups.groups.insert(*id, group);
    }
    for id in &values {
        let node = graph.node(*id);
        if layers::keeps_quantizer(&node.op)
            && let Some(x) = node.operands().first().filter(|x| groups.is_value(**x))
        {
            groups.merge(*x, *id);
        }
    }
    for id in &values {
        for (position, x) in graph.node(*id).operands().iter().enumerate() {
            match read(graph, bits, *id, position) {
                Read::Constant | Read::Through => {}
                Read::Branch => groups.group(*x).branches += 1,
                Read::Byte | Read::Any => groups.group(*x).other = true,
                Read::Sum => groups.group(*x).sum = true,
                Read::Layer(b) => {
                    let layer = &mut groups.group(*x).layer;
                    *layer =
                        Some(layer.map_or((b, b), |(widest, narrowest)| (widest.max(b), narrowest.min(b))));
                }
            }
        }
    }
    for port in graph.outputs.iter().filter(|p| groups.is_value(p.node)).map(|p| p.node).collect::<Vec<_>>() {
        groups.group(port).output = true;
    }
    Ok((groups, values))
}

/// Homes of all values that are not constants.
///
/// # Errors
/// A value without a calibrated range; all of them are listed.
pub fn assign(
    graph: &FloatGraph,
    bits: &BTreeMap<String, LayerBits>,
    options: &Options,
    range: &dyn Fn(NodeId) -> Option<(f32, f32)>,
) -> std::result::Result<BTreeMap<NodeId, Home>, Vec<IrError>> {
    let (mut groups, values) = required(graph, bits, options, range).map_err(|e| vec![e])?;
    for id in &values {
        if !matches!(graph.node(*id).op, FloatOp::Concat(_)) {
            continue;
        }
        let branches: BTreeSet<NodeId> =
            graph.node(*id).operands().iter().copied().filter(|o| groups.is_value(*o)).collect();
        let fixed: Vec<Option<Home>> = branches.iter().map(|b| groups.group(*b).fixed.clone()).collect();
        if let [Some(first), rest @ ..] = &fixed[..]
            && rest.iter().all(|r| r.as_ref() == Some(first))
        {
            groups.group(*id).fixed = Some(first.clone());
        }
        for branch in branches {
            if groups.root(branch) == groups.root(*id) {
                continue;
            }
            if groups.may_join(branch, *id) {
                groups.merge(branch, *id);
            } else {
                groups.group(branch).other = true;
            }
        }
    }
    // Behind the Concats, which decide what else reads a value.
    for id in values.iter().filter(|id| is_sum(graph, **id)) {
        for operand in graph.node(*id).operands() {
            if groups.may_share(*operand, *id) {
                groups.merge(*operand, *id);
            }
        }
    }
    let mut homes = BTreeMap::new();
    let mut errors = Vec::new();
    for id in values {
        match home(groups.group(id), options) {
            Ok(home) => {
                homes.insert(id, home);
            }
            Err(e) => errors.push(e.at(&graph.node(id).name)),
        }
    }
    if errors.is_empty() { Ok(homes) } else { Err(errors) }
}

fn home(group: &Group, options: &Options) -> Result<Home> {
    if let Some(home) = &group.fixed {
        return Ok(home.clone());
    }
    let Some(range) = group.range else {
        goshawk_ir::bail!("no calibrated range for this tensor: calibrate the graph that is lowered")
    };
    Ok(match group.bits(options) {
        16 => Home { dtype: DType::I16, quant: quantize::wide(range)? },
        bits => Home { dtype: DType::U8, quant: quantize::activation(range, bits)? },
    })
}

/// For each value, by name, the narrowest width at which it is quantized anywhere: what a range that minimises a
/// quantization error (MSE, KL) must aim at. 16 for values that only live on the 16-bit grid.
///
/// # Errors
/// The graph has a cycle.
pub fn quantized_bits(
    graph: &FloatGraph,
    bits: &BTreeMap<String, LayerBits>,
    options: &Options,
) -> Result<BTreeMap<String, u8>> {
    let (mut groups, values) = required(graph, bits, options, &|_| None)?;
    for id in &values {
        if matches!(graph.node(*id).op, FloatOp::Concat(_)) {
            for branch in graph.node(*id).operands().to_vec() {
                if groups.is_value(branch) {
                    groups.merge(branch, *id);
                }
            }
        }
    }
    let mut result = BTreeMap::new();
    for id in values {
        let group = groups.group(id);
        let own = group.bits(options);
        let other = if group.other { 8 } else { own };
        let narrowest = group.layer.map_or(own, |(_, narrowest)| narrowest.min(own)).min(other);
        result.insert(groups.graph.node(id).name.clone(), narrowest);
    }
    Ok(result)
}
