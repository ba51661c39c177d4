//! The state of a lowering: the integer graph so far, and where each float value is in it.
use super::{Bits, Options, homes::Home, order};
use crate::{
    calibrate::{Moment, Ranges},
    quantize,
};
use goshawk_ir::{
    DType, Dyadic, FloatGraph, IntGraph, IntOp, Layout, NodeId, QParams, Requant, Result, Shape, Tensor,
    TensorType, bail,
    op::{
        float::{Clamp, Reshape, Transpose},
        int::Rescale,
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// Where a float value is in the integer graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// The node.
    pub node: NodeId,
    /// Dimensions of the float value.
    pub logical: Vec<usize>,
    /// Memory order, see [`order`].
    pub order: Vec<usize>,
    /// Flattened image for linear layers: stored column j is float column `columns[j]`.
    pub columns: Option<Vec<usize>>,
}

/// See the module.
pub struct Lowerer<'a> {
    /// What is lowered.
    pub src: &'a FloatGraph,
    /// What it becomes.
    pub out: IntGraph,
    /// Widths of the layers.
    pub bits: &'a Bits,
    /// Choices.
    pub options: &'a Options,
    ranges: &'a Ranges,
    homes: BTreeMap<NodeId, Home>,
    values: BTreeMap<NodeId, Value>,
    /// Requants and reorderings already made, so that equal consumers share them.
    narrowed: BTreeMap<(NodeId, u8), Value>,
    reordered: BTreeMap<(NodeId, Vec<usize>), Value>,
    names: BTreeSet<String>,
    orders: BTreeMap<String, Vec<usize>>,
}

impl<'a> Lowerer<'a> {
    /// An empty integer graph of the same name.
    pub fn new(
        src: &'a FloatGraph,
        ranges: &'a Ranges,
        bits: &'a Bits,
        options: &'a Options,
        homes: BTreeMap<NodeId, Home>,
    ) -> Self {
        // Names of float values are kept free for the nodes that carry these values.
        let names = src.ids().map(|id| src.node(id).name.clone()).collect();
        Self {
            src,
            out: IntGraph::new(src.name.clone()),
            bits,
            options,
            ranges,
            homes,
            values: BTreeMap::new(),
            narrowed: BTreeMap::new(),
            reordered: BTreeMap::new(),
            names,
            orders: BTreeMap::new(),
        }
    }

    /// The graph and the memory order of its named values.
    pub fn finish(self) -> (IntGraph, BTreeMap<String, Vec<usize>>) {
        (self.out, self.orders)
    }

    /// A name that nothing has yet.
    pub fn fresh(&mut self, base: &str) -> String {
        let mut name = base.to_owned();
        let mut count = 0;
        while !self.names.insert(name.clone()) {
            count += 1;
            name = format!("{base}.{count}");
        }
        name
    }

    /// Name of the float node.
    pub fn name(&self, id: NodeId) -> String {
        self.src.node(id).name.clone()
    }

    /// Dimensions of the float value.
    pub fn dims(&self, id: NodeId) -> Vec<usize> {
        self.src.ty(id).shape.to_vec()
    }

    /// Quantizer in which the value is stored.
    ///
    /// # Errors
    /// The value is a constant.
    pub fn home(&self, id: NodeId) -> Result<Home> {
        match self.homes.get(&id) {
            Some(home) => Ok(home.clone()),
            None => bail!("{} is a constant where a computed tensor is expected", self.name(id)),
        }
    }

    /// The float value as it is stored.
    ///
    /// # Errors
    /// The value is a constant.
    pub fn value(&self, id: NodeId) -> Result<Value> {
        match self.values.get(&id) {
            Some(value) => Ok(value.clone()),
            None => bail!(
                "operand {} is a constant where a computed tensor is expected: simplify the graph first",
                self.name(id)
            ),
        }
    }

    /// Operand `position` of a float node.
    ///
    /// # Errors
    /// There is no such operand.
    pub fn operand(&self, id: NodeId, position: usize) -> Result<NodeId> {
        match self.src.node(id).operands().get(position) {
            Some(o) => Ok(*o),
            None => bail!("operand {position} is missing"),
        }
    }

    /// The f32 constant at operand `position`.
    ///
    /// # Errors
    /// The operand is not a constant, or not finite.
    pub fn constant(&self, id: NodeId, position: usize) -> Result<&'a [f32]> {
        let operand = self.operand(id, position)?;
        match self.src.constant(operand) {
            Some(t) => {
                let values = t.as_f32()?;
                match values.iter().position(|v| !v.is_finite()) {
                    None => Ok(values),
                    Some(i) => bail!(
                        "constant {}: element {i} is {}: the model file is damaged or its training diverged",
                        self.name(operand),
                        values[i]
                    ),
                }
            }
            None => bail!(
                "operand {} is computed at run time, but an integer {} needs it constant",
                self.name(operand),
                goshawk_ir::Operator::name(&self.src.node(id).op)
            ),
        }
    }

    /// Moments of the channels of a value, if they were collected.
    pub fn moments(&self, id: NodeId) -> Option<&'a [Moment]> {
        self.ranges.moments.get(&self.src.node(id).name).map(Vec::as_slice)
    }

    /// Records where a float value is.
    pub fn set(&mut self, id: NodeId, value: Value) {
        self.values.insert(id, value);
    }

    /// Adds a node for the result of float node `id`, in its home, and records it.
    ///
    /// # Errors
    /// The value has no home or an impossible shape.
    pub fn define(&mut self, id: NodeId, op: IntOp, operands: &[NodeId], order: Vec<usize>) -> Result<()> {
        let home = self.home(id)?;
        let logical = self.dims(id);
        let shape = Shape::new(order::stored(&logical, &order))?;
        let name = self.name(id);
        let node =
            self.out.add(name.clone(), op, operands, TensorType::quantized(home.dtype, shape, home.quant));
        self.orders.insert(name, order.clone());
        self.set(id, Value { node, logical, order, columns: None });
        Ok(())
    }

    /// Adds the node that computes float node `id` under the stored dimensions `dims`, and behind it the view that
    /// gives it those of the float value in `order`, unless they are the same.
    ///
    /// # Errors
    /// As [`Lowerer::define`].
    pub fn define_as(
        &mut self,
        id: NodeId,
        op: IntOp,
        operands: &[NodeId],
        dims: Vec<usize>,
        order: Vec<usize>,
    ) -> Result<()> {
        let stored = order::stored(&self.dims(id), &order);
        if stored == dims {
            return self.define(id, op, operands, order);
        }
        let home = self.home(id)?;
        let base = format!("{}.{}", self.name(id), goshawk_ir::Operator::name(&op));
        let name = self.fresh(&base);
        let node = self.out.add(
            name,
            op,
            operands,
            TensorType::quantized(home.dtype, Shape::new(dims)?, home.quant),
        );
        self.define(id, IntOp::Reshape(Reshape { shape: stored }), &[node], order)
    }

    /// Forgets the memory order of a value whose elements are not the float value's in any order of dimensions.
    pub fn forget_order(&mut self, id: NodeId) {
        self.orders.remove(&self.src.node(id).name);
    }

    /// Adds an unnamed node of the type of `like` with other dimensions.
    ///
    /// # Errors
    /// An impossible shape.
    pub fn derive(
        &mut self,
        base: &str,
        op: IntOp,
        operands: &[NodeId],
        like: NodeId,
        dims: Vec<usize>,
    ) -> Result<NodeId> {
        let ty = TensorType { shape: Shape::new(dims)?, ..self.out.ty(like).clone() };
        let name = self.fresh(base);
        Ok(self.out.add(name, op, operands, ty))
    }

    /// Adds a constant named after float constant or node `base`.
    pub fn add_const(&mut self, base: &str, value: Tensor, quant: Option<QParams>) -> NodeId {
        let name = if self.out.find(base).is_none()
            && self.src.find(base).is_some_and(|id| self.src.constant(id).is_some())
        {
            base.to_owned()
        } else {
            self.fresh(base)
        };
        self.out.add_const(name, value, quant)
    }

    /// A network input.
    ///
    /// # Errors
    /// No home.
    pub fn input(&mut self, id: NodeId) -> Result<()> {
        let home = self.home(id)?;
        let logical = self.dims(id);
        let name = self.name(id);
        let mut order = order::default(logical.len());
        // An input that the model itself brings from NHWC to NCHW already lies as it is wanted.
        let nhwc: Vec<usize> = (0..logical.len()).collect();
        let users = self.src.users(id);
        let turns = |u: &NodeId| matches!(&self.src.node(*u).op, goshawk_ir::FloatOp::Transpose(t) if t.perm[..] == [0, 3, 1, 2]);
        if logical.len() == 4 && !users.is_empty() && users.iter().all(turns) {
            order = nhwc.clone();
        }
        let layout = if order == nhwc { Layout::Same } else { Layout::Nchw };
        let ty = TensorType::quantized(home.dtype, Shape::new(order::stored(&logical, &order))?, home.quant);
        let port = self.src.inputs.iter().find(|p| p.node == id).map_or(name.clone(), |p| p.name.clone());
        let node = self.out.add(name.clone(), IntOp::Input, &[], ty);
        self.out.inputs.push(goshawk_ir::Port { name: port, node, layout });
        self.orders.insert(name, order.clone());
        self.set(id, Value { node, logical, order, columns: None });
        Ok(())
    }

    /// Declares the outputs, and puts the inputs into the float graph's order.
    ///
    /// # Errors
    /// An output is a constant.
    pub fn outputs(&mut self) -> Result<()> {
        let position = |name: &str| self.src.inputs.iter().position(|p| p.name == name);
        self.out.inputs.sort_by_key(|p| position(&p.name));
        for port in self.src.outputs.clone() {
            let mut value = self.value(port.node).map_err(|e| e.at(&port.name))?;
            let plain: Vec<usize> = (0..value.order.len()).collect();
            if value.order != order::default(value.order.len()) && value.order != plain {
                value = self.ordered(&value, plain.clone())?;
            }
            let layout = if value.order == plain { Layout::Same } else { Layout::Nchw };
            self.out.add_output(port.name, value.node, layout);
        }
        Ok(())
    }

    /// The value at `bits` bits or fewer in bytes: itself if its home allows, else rescaled from it, once for all
    /// readers of that width.
    ///
    /// # Errors
    /// The value is a constant or has no range.
    pub fn bytes(&mut self, id: NodeId, bits: u8) -> Result<Value> {
        let value = self.value(id)?;
        let ty = self.out.ty(value.node);
        if ty.dtype == DType::U8 && ty.qparams()?.bits <= bits {
            return Ok(value);
        }
        if let Some(done) = self.narrowed.get(&(id, bits)) {
            return Ok(done.clone());
        }
        let home = self.home(id)?;
        let quant = match self.ranges.get(&self.name(id)) {
            Some(range) if home != Home::fraction() => quantize::activation(range, bits)?,
            _ if home == Home::fraction() => quantize::activation((0.0, 1.0), bits)?,
            _ => quantize::activation(home_range(&home)?, bits)?,
        };
        let node = self.rescaled(&value, &format!("{}.u{bits}", self.name(id)), DType::U8, quant)?;
        let value = Value { node, ..value };
        self.narrowed.insert((id, bits), value.clone());
        Ok(value)
    }

    /// A Requant of a stored value to other parameters.
    ///
    /// # Errors
    /// A scale ratio that no dyadic number expresses.
    pub fn rescaled(&mut self, value: &Value, base: &str, dtype: DType, quant: QParams) -> Result<NodeId> {
        let ty = self.out.ty(value.node).clone();
        let mult = Dyadic::from_scales(ty.qparams()?.tensor_scale()?, 1.0, quant.tensor_scale()?)?;
        let requant = requant(vec![mult], dtype, &quant, None)?;
        let name = self.fresh(base);
        let ty = TensorType::quantized(dtype, ty.shape, quant);
        Ok(self.out.add(name, IntOp::Requant(Rescale { requant }), &[value.node], ty))
    }

    /// The value in another memory order, moving data only where that changes the sequence of elements.
    ///
    /// # Errors
    /// An impossible shape.
    pub fn ordered(&mut self, value: &Value, wanted: Vec<usize>) -> Result<Value> {
        if value.order == wanted {
            return Ok(value.clone());
        }
        let key = (value.node, wanted);
        if let Some(done) = self.reordered.get(&key) {
            return Ok(done.clone());
        }
        let wanted = &key.1;
        let dims = order::stored(&value.logical, wanted);
        let base = self.out.node(value.node).name.clone();
        let node = if order::same_elements(&value.logical, &value.order, wanted) {
            let op = IntOp::Reshape(Reshape { shape: dims.clone() });
            self.derive(&format!("{base}.view"), op, &[value.node], value.node, dims)?
        } else {
            let op = IntOp::Transpose(Transpose { perm: order::permutation(&value.order, wanted) });
            self.derive(&format!("{base}.moved"), op, &[value.node], value.node, dims)?
        };
        let result = Value { node, order: wanted.clone(), ..value.clone() };
        self.reordered.insert(key, result.clone());
        Ok(result)
    }

    /// The value in the order that operators expect (NHWC).
    ///
    /// # Errors
    /// As [`Lowerer::ordered`].
    pub fn canonical(&mut self, value: &Value) -> Result<Value> {
        self.ordered(value, order::default(value.logical.len()))
    }

    /// Operand `position` at `bits` bits or fewer in bytes and canonical order.
    ///
    /// # Errors
    /// As [`Lowerer::bytes`].
    pub fn canonical_bytes(&mut self, id: NodeId, position: usize, bits: u8) -> Result<Value> {
        let operand = self.operand(id, position)?;
        let value = self.bytes(operand, bits)?;
        self.canonical(&value)
    }

    /// A view of a stored value under other logical dimensions of the same elements, moving data if its memory order
    /// demands it. The result is in canonical order if `canonical`.
    ///
    /// # Errors
    /// An impossible shape.
    pub fn viewed(&mut self, value: &Value, dims: &[usize], canonical: bool) -> Result<Value> {
        let plan = order::reshape(&value.logical, &value.order, dims);
        let moved = self.ordered(value, plan.before)?;
        let shape = order::stored(dims, &plan.after);
        let mut result = Value { node: moved.node, logical: dims.to_vec(), order: plan.after, columns: None };
        if self.out.ty(moved.node).shape[..] != shape[..] {
            let base = format!("{}.view", self.out.node(value.node).name);
            let op = IntOp::Reshape(Reshape { shape: shape.clone() });
            result.node = self.derive(&base, op, &[moved.node], moved.node, shape)?;
        }
        if canonical { self.canonical(&result) } else { Ok(result) }
    }
}

/// The calibrated range that a home was made for.
fn home_range(home: &Home) -> Result<(f32, f32)> {
    let (scale, zero) = (home.quant.tensor_scale()?, home.quant.zero_point);
    let (lo, hi) = home.quant.range(home.dtype);
    let scale = if home.dtype == DType::I16 { scale / quantize::activation::WIDE_HEADROOM } else { scale };
    Ok((scale * (lo - zero) as f32, scale * (hi - zero) as f32))
}

/// The requantization to `quant` with a fused clamp.
///
/// # Errors
/// `quant` is per channel, or the clamp is empty.
pub fn requant(mult: Vec<Dyadic>, dtype: DType, quant: &QParams, clamp: Option<Clamp>) -> Result<Requant> {
    let (lo, hi) = bounds(dtype, quant, clamp)?;
    Ok(Requant { mult, zero_point: quant.zero_point, lo, hi })
}

/// Integer bounds of a result: the type's, narrowed by a fused activation.
///
/// # Errors
/// As [`requant`].
pub fn bounds(dtype: DType, quant: &QParams, clamp: Option<Clamp>) -> Result<(i32, i32)> {
    let range = quant.range(dtype);
    let Some(clamp) = clamp else { return Ok(range) };
    let scale = quant.tensor_scale()?;
    let at = |x: f32| goshawk_ir::quant::quantize(x, scale, quant.zero_point, range);
    let (lo, hi) = (at(clamp.lo), at(clamp.hi));
    if lo > hi || clamp.lo.is_nan() || clamp.hi.is_nan() {
        bail!("the clamp [{}, {}] is empty", clamp.lo, clamp.hi);
    }
    Ok((lo, hi))
}
