//! Random valid integer graphs: every operator, odd shapes, extreme quantization. One seed gives one graph, on
//! every machine, so that a failure is named by its seed.
//!
//! Parameters are drawn so that results spread over their range and also leave it: rescaling factors follow the
//! expected size of accumulators, times a random power of two.
mod elementwise;
mod layers;
mod narrow;
mod random;
mod shapes;

pub use narrow::narrow_convolution;
pub use random::Random;

use goshawk_ir::{
    DType, Dyadic, IntGraph, IntOp, Layout, NodeId, QParams, Requant, Shape, Tensor, TensorType,
    infer::int_shape,
};

/// What a graph may contain.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Number of operators aimed at, constants not counted.
    pub nodes: usize,
    /// Largest number of elements of a value.
    pub elements: usize,
    /// Only the usual widths: weights and activations of 4 or 8 bits (and 16 on the residual grid).
    pub usual: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 12, elements: 6000, usual: false }
    }
}

/// The graph of a seed. It obeys every rule of the verifier.
pub fn graph(seed: u64, options: Options) -> IntGraph {
    let mut b = Builder {
        graph: IntGraph::new(format!("random{seed}")),
        random: Random::new(seed),
        options,
        values: Vec::new(),
    };
    for i in 0..b.random.pick(&[1, 1, 1, 2, 3]) {
        b.input(i);
    }
    let mut attempts = 0;
    let inputs = b.values.len();
    while b.values.len() < options.nodes + inputs && attempts < 50 * options.nodes {
        attempts += 1;
        b.step();
    }
    b.outputs();
    // Half of the graphs have the multipliers that lowering makes, the others any 31 bits.
    if seed % 2 == 1 {
        goshawk_passes::short_multipliers::run(&mut b.graph).expect("a random graph has no cycle");
    }
    b.graph
}

/// Random inputs for a graph, in the range of their bits.
pub fn inputs(graph: &IntGraph, seed: u64) -> Vec<Tensor> {
    let mut random = Random::new(seed ^ 0x5eed);
    let ports = graph.inputs.iter().map(|p| {
        let ty = graph.ty(p.node);
        let (lo, hi) = range(ty);
        let values = random.values(ty.shape.count(), lo, hi, ty.zero_point().clamp(lo, hi));
        Tensor::from_ints(ty.dtype, ty.shape.clone(), &values).expect("values lie in the range")
    });
    ports.collect()
}

/// Smallest and largest value of a quantized tensor.
fn range(ty: &TensorType) -> (i32, i32) {
    ty.quant.as_ref().map_or((0, 0), |q| q.range(ty.dtype))
}

/// Root mean square of x̂ for uniform x.
fn rms(ty: &TensorType) -> f64 {
    let (lo, hi) = range(ty);
    let (lo, hi) = (f64::from(lo - ty.zero_point()), f64::from(hi - ty.zero_point()));
    ((lo * lo + lo * hi + hi * hi) / 3.0).sqrt().max(0.5)
}

struct Builder {
    graph: IntGraph,
    random: Random,
    options: Options,
    /// Everything that a later operator may read.
    values: Vec<NodeId>,
}

impl Builder {
    /// Adds one operator, or one small pattern of them, if the draw fits.
    fn step(&mut self) {
        let Some(x) = self.recent(|_| true) else { return };
        let _ = match self.random.below(25) {
            24 => self.residual_block(),
            0..=5 => self.conv(),
            6 => self.linear(),
            7 | 8 => self.add(x),
            9 => self.mul(x),
            10 => self.squeeze_excite(),
            11 => self.requant_any(x),
            12 => self.lut(),
            13 | 14 => self.max_pool(x),
            15 | 16 => self.avg_pool(x),
            17 => self.concat(x),
            18 => self.slice(x),
            19 => self.pad(x),
            20 => self.reshape(x),
            21 => self.transpose(x),
            22 => self.resize(x),
            _ => self.softmax(),
        };
    }

    /// A value that passes the test, one of the latest most of the time.
    fn recent(&mut self, test: impl Fn(&TensorType) -> bool) -> Option<NodeId> {
        let fit: Vec<_> = self.values.iter().copied().filter(|id| test(self.graph.ty(*id))).collect();
        let window = if self.random.chance(70) { 3 } else { fit.len() };
        let fit = &fit[fit.len().saturating_sub(window.max(1))..];
        if fit.is_empty() { None } else { Some(self.random.pick(fit)) }
    }

    fn input(&mut self, i: usize) {
        let r = &mut self.random;
        let channels = r.pick(&[1, 2, 3, 4, 5, 7, 8, 11, 16, 17, 19, 32, 33, 48, 67]);
        let dims = vec![r.pick(&[1, 1, 1, 2]), 1 + r.below(12), 1 + r.below(12), channels];
        let dims = if r.chance(10) { vec![dims[0], channels] } else { dims };
        let ty = self.any_type(Shape::new(dims).expect("small dimensions"), 10);
        let layout = self.layout(ty.shape.rank());
        let id = self.graph.add_input(format!("in/{i}:0"), ty, layout);
        self.values.push(id);
    }

    fn layout(&mut self, rank: usize) -> Layout {
        if rank == 4 && self.random.chance(50) { Layout::Nchw } else { Layout::Same }
    }

    /// Declares what nobody reads, and now and then something else, to be outputs.
    fn outputs(&mut self) {
        for id in self.values.clone() {
            let unused = self.graph.use_count(id) == 0 && !self.graph.node(id).op.is_input_or_const();
            if unused || (self.random.chance(8) && !self.graph.node(id).op.is_input_or_const()) {
                let layout = self.layout(self.graph.ty(id).shape.rank());
                let name = format!("out {}", self.graph.outputs.len());
                self.graph.add_output(name, id, layout);
            }
        }
        if self.graph.outputs.is_empty() {
            // No draw fitted: a copy keeps the graph valid.
            let id = self.values[0];
            if let Some(id) = self.requant_any(id) {
                self.graph.add_output("out", id, Layout::Same);
            }
        }
    }

    fn activation_bits(&mut self) -> u8 {
        if self.options.usual {
            self.random.pick(&[4, 8, 8])
        } else {
            self.random.pick(&[2, 3, 4, 5, 6, 7, 8, 8, 8])
        }
    }

    fn scale(&mut self) -> f32 {
        (self.random.unit() * 20.0 - 12.0).exp2() as f32
    }

    /// A u8 type with any zero point.
    fn u8_type(&mut self, shape: Shape) -> TensorType {
        let bits = self.activation_bits();
        let top = (1 << bits) - 1;
        let zero_point = match self.random.below(6) {
            0 | 1 => 0,
            2 => top,
            3 => top / 2 + 1,
            4 => 255,
            _ => self.random.between(0, top),
        };
        let scale = self.scale();
        TensorType::quantized(DType::U8, shape, QParams::per_tensor(scale, zero_point, bits))
    }

    /// An activation type, i16 in `percent` of 100 cases.
    fn any_type(&mut self, shape: Shape, percent: usize) -> TensorType {
        if self.random.chance(percent) {
            let scale = self.scale();
            return TensorType::quantized(DType::I16, shape, QParams::per_tensor(scale, 0, 16));
        }
        self.u8_type(shape)
    }

    /// A dyadic number that brings values of size `from` to results of type `to`, within a few powers of two.
    fn dyadic(&mut self, from: f64, to: &TensorType) -> Dyadic {
        if self.random.chance(2) {
            let shift = self.random.between(1, 62) as u8;
            return Dyadic { mult: self.random.pick(&[0, 1, 1 << 30, i32::MAX]), shift };
        }
        let (lo, hi) = range(to);
        let ratio = f64::from(hi - lo) / 2.0 / from * (self.random.unit() * 4.0 - 2.5).exp2();
        Dyadic::from_f64(ratio.clamp(2f64.powi(-40), 2f64.powi(20))).expect("the ratio is positive and small")
    }

    /// Bounds of the result: its whole range, Relu, or a part of it.
    fn clamp(&mut self, ty: &TensorType) -> (i32, i32) {
        let (lo, hi) = range(ty);
        match self.random.below(10) {
            0 | 1 => (ty.zero_point().clamp(lo, hi), hi),
            2 => {
                let lo = self.random.between(lo, hi);
                (lo, self.random.between(lo, hi))
            }
            _ => (lo, hi),
        }
    }

    fn requant(&mut self, from: f64, channels: usize, to: &TensorType) -> Requant {
        let mult = (0..channels).map(|_| self.dyadic(from, to)).collect();
        let (lo, hi) = self.clamp(to);
        Requant { mult, zero_point: to.zero_point(), lo, hi }
    }

    /// Shape of the result, if the operands fit and it is not too large.
    fn shape(&self, op: &IntOp, operands: &[NodeId]) -> Option<Shape> {
        let shapes: Vec<_> = operands.iter().map(|o| &self.graph.ty(*o).shape).collect();
        int_shape(op, &shapes).ok().filter(|s| s.count() <= self.options.elements)
    }

    /// Adds an operator that keeps the quantization of its first operand.
    fn keep(&mut self, op: IntOp, operands: &[NodeId]) -> Option<NodeId> {
        let shape = self.shape(&op, operands)?;
        let ty = TensorType { shape, ..self.graph.ty(operands[0]).clone() };
        Some(self.push(op, operands, ty))
    }

    fn push(&mut self, op: IntOp, operands: &[NodeId], ty: TensorType) -> NodeId {
        use goshawk_ir::Operator;
        let name = self.graph.fresh_name(op.name());
        let id = self.graph.add(name, op, operands, ty);
        self.values.push(id);
        id
    }

    fn constant(
        &mut self,
        name: &str,
        dtype: DType,
        shape: Shape,
        values: &[i32],
        q: Option<QParams>,
    ) -> NodeId {
        let value = Tensor::from_ints(dtype, shape, values).expect("values lie in the type's range");
        let name = self.graph.fresh_name(name);
        self.graph.add_const(name, value, q)
    }
}

/// Shorthand for tests on operators.
trait Source {
    /// Whether the node computes nothing.
    fn is_input_or_const(&self) -> bool;
}

impl Source for IntOp {
    fn is_input_or_const(&self) -> bool {
        matches!(self, IntOp::Input | IntOp::Const(_))
    }
}
