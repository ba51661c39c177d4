//! Small float networks, random data, and the comparison of their lowering with the float interpreter.
use goshawk_ir::{
    FloatGraph, FloatOp, IntGraph, Layout, NodeId, Shape, Tensor, TensorType, infer,
    interp::{self, boundary},
    op::{
        float::{Clamp, Conv, Linear, NoAttrs, Reshape, Unary, UnaryFn},
        window::{ConvWindow, PoolWindow},
    },
};
use goshawk_passes::{
    bits::BitPlan,
    calibrate::Ranges,
    lower::{Options, lower},
    memory,
};

/// xorshift, so that tests need no seed file.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545F4914F6CDD1D)
    }
    pub fn uniform(&mut self, lo: f32, hi: f32) -> f32 {
        lo + (hi - lo) * ((self.next() >> 40) as f32 / (1u64 << 24) as f32)
    }
    /// Bell-shaped, variance 1.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform(-0.5, 0.5)).sum()
    }
    pub fn tensor(&mut self, dims: &[usize], spread: f32) -> Tensor {
        let shape = Shape::new(dims).unwrap();
        let values: Vec<f32> = (0..shape.count()).map(|_| spread * self.normal()).collect();
        Tensor::from_f32(shape, values).unwrap()
    }
}

pub struct Net {
    pub graph: FloatGraph,
    pub random: Random,
    count: usize,
}

impl Net {
    pub fn new(seed: u64) -> Self {
        Self { graph: FloatGraph::new("net"), random: Random(seed * 7919 + 1), count: 0 }
    }
    pub fn input(&mut self, dims: &[usize]) -> NodeId {
        let name = format!("input{}", self.graph.inputs.len());
        self.graph.add_input(name, TensorType::f32(Shape::new(dims).unwrap()), Layout::Same)
    }
    pub fn add(&mut self, op: FloatOp, operands: &[NodeId]) -> NodeId {
        let shapes: Vec<Shape> = operands.iter().map(|o| self.graph.ty(*o).shape.clone()).collect();
        let shape = infer::float_shape(&op, &shapes.iter().collect::<Vec<_>>()).unwrap();
        self.count += 1;
        let name = format!("{}{}", goshawk_ir::Operator::name(&op), self.count);
        self.graph.add(name, op, operands, TensorType::f32(shape))
    }
    pub fn constant(&mut self, dims: &[usize], values: &[f32]) -> NodeId {
        self.count += 1;
        let t = Tensor::from_f32(Shape::new(dims).unwrap(), values.to_vec()).unwrap();
        self.graph.add_const(format!("const{}", self.count), t, None)
    }
    pub fn random(&mut self, dims: &[usize], spread: f32) -> NodeId {
        let t = self.random.tensor(dims, spread);
        self.count += 1;
        self.graph.add_const(format!("const{}", self.count), t, None)
    }
    /// A convolution with `o` channels and a `k`×`k` kernel that keeps the size.
    pub fn conv(&mut self, x: NodeId, o: usize, k: usize, clamp: Option<Clamp>) -> NodeId {
        let window = ConvWindow { pads: [k / 2; 4], ..ConvWindow::unit() };
        self.conv_with(x, o, [k, k], window, clamp)
    }
    pub fn conv_with(
        &mut self,
        x: NodeId,
        o: usize,
        k: [usize; 2],
        window: ConvWindow,
        clamp: Option<Clamp>,
    ) -> NodeId {
        let c = self.dims(x)[1] / window.groups;
        let spread = (2.0 / (c * k[0] * k[1]) as f32).sqrt();
        let w = self.random(&[o, c, k[0], k[1]], spread);
        let b = self.random(&[o], 0.3);
        self.add(FloatOp::Conv(Conv { window, clamp }), &[x, w, b])
    }
    pub fn linear(&mut self, x: NodeId, n: usize) -> NodeId {
        let k = self.dims(x)[1];
        let w = self.random(&[n, k], (2.0 / k as f32).sqrt());
        let b = self.random(&[n], 0.3);
        self.add(FloatOp::Linear(Linear { clamp: None }), &[x, w, b])
    }
    pub fn unary(&mut self, x: NodeId, chain: &[UnaryFn]) -> NodeId {
        self.add(FloatOp::Unary(Unary { chain: chain.to_vec() }), &[x])
    }
    pub fn reshape(&mut self, x: NodeId, dims: &[usize]) -> NodeId {
        self.add(FloatOp::Reshape(Reshape { shape: dims.to_vec() }), &[x])
    }
    pub fn max_pool(&mut self, x: NodeId, k: usize, stride: usize) -> NodeId {
        let window = PoolWindow { stride: [stride; 2], ..PoolWindow::global(k, k) };
        self.add(FloatOp::MaxPool(window), &[x])
    }
    pub fn dims(&self, x: NodeId) -> Vec<usize> {
        self.graph.ty(x).shape.to_vec()
    }
    pub fn output(&mut self, x: NodeId) {
        let name = format!("output{}", self.graph.outputs.len());
        self.graph.add_output(name, x, Layout::Same);
    }
    pub fn samples(&mut self, count: usize) -> Vec<Vec<Tensor>> {
        let shapes: Vec<Vec<usize>> =
            self.graph.inputs.iter().map(|p| self.graph.ty(p.node).shape.to_vec()).collect();
        (0..count).map(|_| shapes.iter().map(|s| self.random.tensor(s, 1.0)).collect()).collect()
    }
}

/// Minimum and maximum of every value over the samples.
pub fn min_max(graph: &FloatGraph, samples: &[Vec<Tensor>]) -> Ranges {
    let mut map = std::collections::BTreeMap::new();
    for inputs in samples {
        interp::float::run_with(graph, inputs, &mut |id, t| {
            let range = map.entry(graph.node(id).name.clone()).or_insert((f32::MAX, f32::MIN));
            for v in t.as_f32().unwrap() {
                *range = (range.0.min(*v), range.1.max(*v));
            }
        })
        .unwrap();
    }
    Ranges { map, ..Ranges::default() }
}

/// Signal-to-quantization-noise ratio in decibel.
pub fn sqnr(reference: &[f32], value: &[f32]) -> f64 {
    assert_eq!(reference.len(), value.len());
    let power = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>();
    let signal = power(&mut reference.iter().map(|x| f64::from(*x)));
    let noise = power(&mut reference.iter().zip(value).map(|(a, b)| f64::from(a - b)));
    10.0 * (signal / noise.max(1e-30)).log10()
}

/// Checks everything that holds of every lowered graph.
pub fn check(graph: &IntGraph) {
    let plan = memory::plan(graph).unwrap();
    memory::check(graph, &plan).unwrap();
}

pub fn lowered(net: &mut Net, bits: &str, options: &Options) -> (IntGraph, Vec<Vec<Tensor>>) {
    let samples = net.samples(6);
    let ranges = min_max(&net.graph, &samples);
    let graph = lower(&net.graph, &ranges, &BitPlan::uniform(bits).unwrap(), options).unwrap();
    check(&graph);
    (graph, samples)
}

/// Lowers with both residual grids and compares all outputs with the float interpreter.
pub fn expect_sqnr(net: &mut Net, bits: &str, decibel: f64) -> IntGraph {
    let narrow = Options { residual_bits: 8, ..Options::default() };
    let mut result = None;
    for options in [narrow, Options::default()] {
        let (graph, samples) = lowered(net, bits, &options);
        for inputs in &samples[..2] {
            let want = interp::float::run(&net.graph, inputs).unwrap();
            let got = boundary::run_f32(&graph, inputs).unwrap();
            for (i, (want, got)) in want.iter().zip(&got).enumerate() {
                assert_eq!(want.shape(), got.shape());
                let ratio = sqnr(want.as_f32().unwrap(), got.as_f32().unwrap());
                assert!(ratio > decibel, "output {i}: {ratio:.1} dB with {options:?}");
            }
        }
        result = Some(graph);
    }
    result.unwrap()
}

pub fn no_attrs() -> NoAttrs {
    NoAttrs {}
}

impl Random {
    pub fn samples_like(&mut self, dims: &[usize]) -> Vec<Vec<Tensor>> {
        vec![vec![self.tensor(dims, 1.0)]]
    }
}
