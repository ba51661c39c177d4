//! Building small float graphs, and comparing what two graphs compute.
#![allow(dead_code, reason = "every test file uses a part of it")]
use goshawk_ir::{
    FloatGraph, FloatOp, Layout, NodeId, Operator, Shape, Tensor, TensorType, infer, interp,
    op::float::{
        Axis, BatchNorm, Binary, BinaryFn, Clamp, Conv, Linear, NoAttrs, Pad, Reduce, Reshape, Transpose,
        Unary, UnaryFn,
    },
    op::window::{ConvWindow, PoolWindow},
};

/// SplitMix64: seeds give the same tests everywhere.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
    /// In [lo, hi).
    pub fn float(&mut self, lo: f32, hi: f32) -> f32 {
        lo + (hi - lo) * ((self.next() >> 40) as f32 / (1 << 24) as f32)
    }
    pub fn floats(&mut self, n: usize, lo: f32, hi: f32) -> Vec<f32> {
        (0..n).map(|_| self.float(lo, hi)).collect()
    }
    pub fn tensor(&mut self, dims: &[usize], lo: f32, hi: f32) -> Tensor {
        let shape = Shape::new(dims).unwrap();
        let values = self.floats(shape.count(), lo, hi);
        Tensor::from_f32(shape, values).unwrap()
    }
}

/// A graph under construction.
pub struct Net {
    pub g: FloatGraph,
    pub rng: Rng,
}

impl Net {
    pub fn new(seed: u64) -> Self {
        Self { g: FloatGraph::new("test"), rng: Rng(seed) }
    }
    pub fn input(&mut self, dims: &[usize]) -> NodeId {
        let name = self.g.fresh_name("input");
        self.g.add_input(name, TensorType::f32(Shape::new(dims).unwrap()), Layout::Same)
    }
    pub fn shape(&self, id: NodeId) -> Vec<usize> {
        self.g.ty(id).shape.to_vec()
    }
    pub fn op(&mut self, op: FloatOp, operands: &[NodeId]) -> NodeId {
        let shapes: Vec<&Shape> = operands.iter().map(|o| &self.g.ty(*o).shape).collect();
        let shape = infer::float_shape(&op, &shapes).unwrap();
        let name = self.g.fresh_name(op.name());
        self.g.add(name, op, operands, TensorType::f32(shape))
    }
    pub fn constant(&mut self, dims: &[usize], values: Vec<f32>) -> NodeId {
        let name = self.g.fresh_name("c");
        self.g.add_const(name, Tensor::from_f32(Shape::new(dims).unwrap(), values).unwrap(), None)
    }
    pub fn random(&mut self, dims: &[usize], lo: f32, hi: f32) -> NodeId {
        let values = self.rng.floats(dims.iter().product(), lo, hi);
        self.constant(dims, values)
    }
    pub fn conv(&mut self, x: NodeId, out: usize, k: usize, pad: usize, groups: usize, bias: bool) -> NodeId {
        let c = self.shape(x)[1];
        let w = self.random(&[out, c / groups, k, k], -0.5, 0.5);
        let mut operands = vec![x, w];
        if bias {
            operands.push(self.random(&[out], -0.5, 0.5));
        }
        let window = ConvWindow { pads: [pad; 4], groups, ..ConvWindow::unit() };
        self.op(FloatOp::Conv(Conv { window, clamp: None }), &operands)
    }
    pub fn linear(&mut self, x: NodeId, out: usize, bias: bool) -> NodeId {
        let k = self.shape(x)[1];
        let mut operands = vec![x, self.random(&[out, k], -0.5, 0.5)];
        if bias {
            operands.push(self.random(&[out], -0.5, 0.5));
        }
        self.op(FloatOp::Linear(Linear { clamp: None }), &operands)
    }
    /// With positive and negative γ.
    pub fn batch_norm(&mut self, x: NodeId) -> NodeId {
        let c = self.shape(x)[1];
        let gamma = self.random(&[c], -1.5, 1.5);
        let beta = self.random(&[c], -1.0, 1.0);
        let mean = self.random(&[c], -1.0, 1.0);
        let variance = self.random(&[c], 0.2, 2.0);
        self.op(FloatOp::BatchNorm(BatchNorm { epsilon: 1e-5 }), &[x, gamma, beta, mean, variance])
    }
    pub fn unary(&mut self, x: NodeId, chain: &[UnaryFn]) -> NodeId {
        self.op(FloatOp::Unary(Unary { chain: chain.to_vec() }), &[x])
    }
    pub fn relu(&mut self, x: NodeId) -> NodeId {
        self.unary(x, &[UnaryFn::RELU])
    }
    pub fn clip(&mut self, x: NodeId, lo: f32, hi: f32) -> NodeId {
        self.unary(x, &[UnaryFn::Clip(Clamp { lo, hi })])
    }
    pub fn binary(&mut self, function: BinaryFn, a: NodeId, b: NodeId) -> NodeId {
        self.op(FloatOp::Binary(Binary { function, clamp: None }), &[a, b])
    }
    pub fn add(&mut self, a: NodeId, b: NodeId) -> NodeId {
        self.binary(BinaryFn::Add, a, b)
    }
    pub fn mul(&mut self, a: NodeId, b: NodeId) -> NodeId {
        self.binary(BinaryFn::Mul, a, b)
    }
    pub fn matmul(&mut self, a: NodeId, b: NodeId) -> NodeId {
        self.op(FloatOp::MatMul(NoAttrs {}), &[a, b])
    }
    pub fn reshape(&mut self, x: NodeId, shape: &[usize]) -> NodeId {
        self.op(FloatOp::Reshape(Reshape { shape: shape.to_vec() }), &[x])
    }
    pub fn transpose(&mut self, x: NodeId, perm: &[usize]) -> NodeId {
        self.op(FloatOp::Transpose(Transpose { perm: perm.to_vec() }), &[x])
    }
    pub fn concat(&mut self, axis: usize, parts: &[NodeId]) -> NodeId {
        self.op(FloatOp::Concat(Axis { axis }), parts)
    }
    /// Pads rows and columns of an image tensor.
    pub fn pad(&mut self, x: NodeId, [t, l, b, r]: [usize; 4], value: f32) -> NodeId {
        let pad = Pad { before: vec![0, 0, t, l], after: vec![0, 0, b, r], value };
        self.op(FloatOp::Pad(pad), &[x])
    }
    pub fn max_pool(&mut self, x: NodeId, window: PoolWindow) -> NodeId {
        self.op(FloatOp::MaxPool(window), &[x])
    }
    pub fn avg_pool(&mut self, x: NodeId, window: PoolWindow) -> NodeId {
        self.op(FloatOp::AvgPool(window), &[x])
    }
    pub fn spatial_mean(&mut self, x: NodeId) -> NodeId {
        self.op(FloatOp::ReduceMean(Reduce { axes: vec![2, 3], keep_dims: true }), &[x])
    }
    pub fn output(&mut self, id: NodeId) {
        let name = format!("out{}", self.g.outputs.len());
        self.g.add_output(name, id, Layout::Same);
    }
    /// Declares the outputs and gives the graph.
    pub fn done(mut self, outputs: &[NodeId]) -> FloatGraph {
        for id in outputs {
            self.output(*id);
        }
        self.g
    }
}

/// A 2×2 or other square pool without padding.
pub fn window(kernel: usize, stride: usize, pad: usize) -> PoolWindow {
    PoolWindow {
        kernel: [kernel; 2],
        stride: [stride; 2],
        pads: [pad; 4],
        dilation: [1, 1],
        ceil_mode: false,
        count_include_pad: false,
    }
}

/// Names of the operators in topological order, without inputs and constants.
pub fn ops(g: &FloatGraph) -> Vec<&'static str> {
    let order = g.topo_order().unwrap();
    order.iter().map(|id| g.node(*id).op.name()).filter(|n| !["input", "const"].contains(n)).collect()
}

/// The only node of that operator.
pub fn the<'a>(g: &'a FloatGraph, name: &str) -> &'a goshawk_ir::Node<FloatOp> {
    let found: Vec<NodeId> = g.ids().filter(|id| g.node(*id).op.name() == name).collect();
    assert_eq!(found.len(), 1, "{name} among {:?}", ops(g));
    g.node(found[0])
}

/// Random inputs of the graph.
pub fn inputs(g: &FloatGraph, rng: &mut Rng) -> Vec<Tensor> {
    g.inputs.iter().map(|p| rng.tensor(&g.ty(p.node).shape, -3.0, 3.0)).collect()
}

/// Checks that both graphs give the same outputs within 10⁻⁵ of the largest, and that every type is what inference
/// gives.
#[track_caller]
pub fn assert_same(before: &FloatGraph, after: &FloatGraph, seed: u64) {
    for id in after.ids() {
        let node = after.node(id);
        if node.op.is_input() || after.constant(id).is_some() {
            continue;
        }
        let shapes: Vec<&Shape> = node.operands().iter().map(|o| &after.ty(*o).shape).collect();
        assert_eq!(infer::float_shape(&node.op, &shapes).unwrap(), node.ty.shape, "type of {}", node.name);
    }
    let mut rng = Rng(seed);
    for round in 0..3 {
        let x = inputs(before, &mut rng);
        let want = interp::float::run(before, &x).unwrap();
        let got = interp::float::run(after, &x).unwrap();
        assert_eq!(want.len(), got.len());
        for (i, (want, got)) in want.iter().zip(&got).enumerate() {
            assert_eq!(want.shape(), got.shape());
            let (want, got) = (want.as_f32().unwrap(), got.as_f32().unwrap());
            let largest = want.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
            for (w, o) in want.iter().zip(got) {
                let close = (w - o).abs() <= 1e-5 * largest || w == o || (w.is_nan() && o.is_nan());
                assert!(close, "round {round}, output {i}: {w} became {o} (largest {largest})");
            }
        }
    }
}

/// Applies a pass and checks that the function is preserved.
#[track_caller]
pub fn checked(g: &FloatGraph, pass: goshawk_passes::pipeline::FloatPass) -> FloatGraph {
    let mut after = g.clone();
    pass(&mut after).unwrap();
    assert_same(g, &after, 7);
    after
}

/// Applies the whole pipeline and checks after every pass that the function is preserved.
#[track_caller]
pub fn prepared(g: &FloatGraph) -> FloatGraph {
    let mut after = g.clone();
    goshawk_passes::pipeline::prepare(&mut after, &mut |_, _| ()).unwrap();
    assert_same(g, &after, 11);
    after
}
