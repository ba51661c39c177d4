//! The importer and the float interpreter against tract-onnx, an independent implementation: real models (where they
//! are) and a hundred random networks in the shapes that exporters write.
#![allow(clippy::print_stdout, reason = "the figures belong in the log of the test")]

use goshawk_compiler::import::{
    self, Options,
    proto::{AttributeProto as A, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto},
};
use goshawk_ir::{FloatGraph, Tensor, interp};
use goshawk_tests::{
    assets,
    models::{Random, random},
};
use libtest_mimic::{Arguments, Failed, Trial};
use prost::Message;
use tract_onnx::prelude::*;

type Outcome<T> = Result<T, String>;

/// Largest difference, relative to the largest value of the output.
const TOLERANCE: f32 = 1e-4;

fn inputs(graph: &FloatGraph, seed: u64) -> Outcome<Vec<goshawk_ir::Tensor>> {
    let mut rng = Random(seed);
    let shapes = graph.inputs.iter().map(|p| graph.ty(p.node).shape.clone());
    shapes
        .map(|s| Tensor::from_f32(s.clone(), rng.floats(s.count())))
        .collect::<Result<_, _>>()
        .map_err(|e| e.to_string())
}

/// Outputs of tract for the same inputs: (dimensions, values).
fn oracle(bytes: &[u8], inputs: &[goshawk_ir::Tensor]) -> Outcome<Vec<(Vec<usize>, Vec<f32>)>> {
    let run = || -> TractResult<_> {
        let mut model = tract_onnx::onnx().model_for_read(&mut &bytes[..])?;
        for (i, t) in inputs.iter().enumerate() {
            model.set_input_fact(i, f32::fact(&t.shape()[..]).into())?;
        }
        let plan = model.into_typed()?.into_runnable()?;
        let mut values = tvec!();
        for t in inputs {
            let data = t.as_f32().map_err(|e| TractError::msg(e.to_string()))?;
            values.push(tract_onnx::prelude::Tensor::from_shape(&t.shape()[..], data)?.into());
        }
        let outputs = plan.run(values)?;
        outputs
            .iter()
            .map(|t| {
                let view = t.to_plain_array_view::<f32>()?;
                Ok((view.shape().to_vec(), view.iter().copied().collect()))
            })
            .collect()
    };
    run().map_err(|e| format!("tract: {e:#}"))
}

fn compare(bytes: &[u8], seed: u64) -> Outcome<f32> {
    let graph = import::load(&bytes.to_vec(), &Options::default()).map_err(|e| e.to_string())?;
    goshawk_ir::verify::float(&graph).map_err(|e| e[0].to_string())?;
    let data = inputs(&graph, seed)?;
    let ours = interp::float::run(&graph, &data).map_err(|e| e.to_string())?;
    let theirs = oracle(bytes, &data)?;
    if ours.len() != theirs.len() {
        return Err(format!("{} outputs, tract has {}", ours.len(), theirs.len()));
    }
    let mut worst = 0f32;
    for (k, (a, (shape, b))) in ours.iter().zip(&theirs).enumerate() {
        if a.shape()[..] != shape[..] {
            return Err(format!("output {k}: shape {}, tract has {shape:?}", a.shape()));
        }
        let a = a.as_f32().map_err(|e| e.to_string())?;
        let largest = b.iter().fold(0f32, |m, v| m.max(v.abs())).max(1e-6);
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            let difference = (a - b).abs() / largest;
            if difference.is_nan() || difference > TOLERANCE {
                return Err(format!("output {k}, element {i}: {a}, tract has {b} (largest {largest})"));
            }
            worst = worst.max(difference);
        }
    }
    Ok(worst)
}

fn real_model(name: &str) -> Result<(), Failed> {
    let path = assets::model(name).ok_or("the model is not there")?;
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    let worst = compare(&bytes, 1)?;
    println!("{name}: largest difference {worst:.1e} of the largest value");
    Ok(())
}

/// A network under construction: [1,C,H,W] all the way, a Gemm at the end.
struct Network {
    rng: Random,
    graph: GraphProto,
    value: String,
    shape: [i64; 4],
}

impl Network {
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.rng.below(of.len())]
    }

    fn weight(&mut self, dims: &[i64]) -> String {
        let name = format!("w{}", self.graph.initializer.len());
        let tensor = random(&mut self.rng, &name, dims);
        self.graph.initializer.push(tensor);
        name
    }

    fn ints(&mut self, values: &[i64]) -> String {
        let name = format!("w{}", self.graph.initializer.len());
        self.graph.initializer.push(TensorProto::i64(&name, &[values.len() as i64], values));
        name
    }

    fn add(&mut self, op: &str, more: &[&str], attributes: Vec<A>) -> String {
        let name = format!("v{}", self.graph.node.len());
        let operands = [&[self.value.as_str()], more].concat();
        self.graph.node.push(NodeProto::new(op, &operands, &[&name], attributes));
        self.value = name.clone();
        name
    }

    fn conv(&mut self) {
        let [_, c, h, w] = self.shape;
        let groups = self.pick(&[1, 1, c, if c % 2 == 0 { 2 } else { 1 }]);
        let out = groups * self.pick(&[1, 2, 3]);
        let (mut k, stride, mut dilation) =
            (self.pick(&[1, 3, 3, 5]), self.pick(&[1, 1, 2]), self.pick(&[1, 1, 2]));
        if k == 1 || (k - 1) * dilation > h.min(w) {
            (k, dilation) = (1, 1);
        }
        let weights = self.weight(&[out, c / groups, k, k]);
        let mut attributes = vec![
            A::ints("strides", &[stride, stride]),
            A::ints("dilations", &[dilation, dilation]),
            A::int("group", groups),
        ];
        let extent = (k - 1) * dilation + 1;
        // Odd kernels only, so half the extent on each side keeps the size; sometimes less at the end.
        let (before, after) = (extent / 2, (extent / 2 - self.pick(&[0, 0, 1])).max(0));
        if dilation == 1 && self.rng.below(4) == 0 {
            attributes.push(A::string("auto_pad", self.pick(&["SAME_UPPER", "SAME_LOWER"])));
            self.shape = [1, out, (h + stride - 1) / stride, (w + stride - 1) / stride];
        } else {
            attributes.push(A::ints("pads", &[before, before, after, after]));
            let len = |n: i64| (n + before + after - extent) / stride + 1;
            self.shape = [1, out, len(h), len(w)];
        }
        if self.rng.below(2) == 0 {
            let bias = self.weight(&[out]);
            self.add("Conv", &[&weights, &bias], attributes);
        } else {
            self.add("Conv", &[&weights], attributes);
        }
    }

    fn batch_norm(&mut self) {
        let c = self.shape[1];
        let (gamma, beta, mean) = (self.weight(&[c]), self.weight(&[c]), self.weight(&[c]));
        let variance = format!("w{}", self.graph.initializer.len());
        let values: Vec<f32> = (0..c).map(|_| 0.5 + self.rng.float().abs()).collect();
        self.graph.initializer.push(TensorProto::f32(&variance, &[c], &values));
        self.add("BatchNormalization", &[&gamma, &beta, &mean, &variance], vec![A::float("epsilon", 1e-3)]);
    }

    fn activation(&mut self) {
        match self.rng.below(10) {
            0 => drop(self.add("Relu", &[], vec![])),
            1 => {
                let (lo, hi) = ("lo", "hi");
                if !self.graph.initializer.iter().any(|t| t.name == lo) {
                    self.graph.initializer.push(TensorProto::f32(lo, &[], &[-0.5]));
                    self.graph.initializer.push(TensorProto::f32(hi, &[], &[1.5]));
                }
                self.add("Clip", &[lo, hi], vec![]);
            }
            2 => drop(self.add("LeakyRelu", &[], vec![A::float("alpha", 0.1)])),
            3 => drop(self.add("Sigmoid", &[], vec![])),
            4 => drop(self.add("Tanh", &[], vec![])),
            5 => drop(self.add("HardSigmoid", &[], vec![])),
            6 => drop(self.add("Elu", &[], vec![A::float("alpha", 0.7)])),
            7 => drop(self.add("HardSwish", &[], vec![])),
            8 => {
                let slope = self.weight(&[self.shape[1], 1, 1]);
                self.add("PRelu", &[&slope], vec![]);
            }
            // x · sigmoid(x), as PyTorch writes SiLU.
            _ => {
                let x = self.value.clone();
                self.add("Sigmoid", &[], vec![]);
                self.add("Mul", &[&x], vec![]);
            }
        }
    }

    fn pool(&mut self) {
        let [_, c, h, w] = self.shape;
        let k = self.pick(&[2, 3]);
        if h < k + 1 || w < k + 1 {
            return;
        }
        let pad = self.pick(&[0, 1]);
        let mut attributes =
            vec![A::ints("kernel_shape", &[k, k]), A::ints("strides", &[2, 2]), A::ints("pads", &[pad; 4])];
        let op = self.pick(&["MaxPool", "AveragePool"]);
        if op == "AveragePool" {
            attributes.push(A::int("count_include_pad", self.rng.below(2) as i64));
        }
        self.shape = [1, c, (h + 2 * pad - k) / 2 + 1, (w + 2 * pad - k) / 2 + 1];
        self.add(op, &[], attributes);
    }

    /// A branch that comes back by Add, Mul or Concat.
    fn branch(&mut self) {
        let x = self.value.clone();
        let [_, c, h, w] = self.shape;
        let weights = self.weight(&[c, c, 1, 1]);
        self.add("Conv", &[&weights], vec![]);
        match self.rng.below(4) {
            0 => drop(self.add("Add", &[&x], vec![])),
            1 => drop(self.add("Mul", &[&x], vec![])),
            2 => {
                self.add("Concat", &[&x], vec![A::int("axis", 1)]);
                self.shape = [1, 2 * c, h, w];
            }
            // Squeeze and excitation.
            _ => {
                self.value = x.clone();
                self.add("GlobalAveragePool", &[], vec![]);
                self.add("Conv", &[&weights], vec![]);
                self.add("Sigmoid", &[], vec![]);
                self.add("Mul", &[&x], vec![]);
            }
        }
    }

    fn movement(&mut self) {
        let [_, c, h, w] = self.shape;
        match self.rng.below(4) {
            0 if c % 2 == 0 => {
                // Channel shuffle.
                let (split, whole) = (self.ints(&[1, 2, c / 2, h, w]), self.ints(&[0, -1, h, w]));
                self.add("Reshape", &[&split], vec![]);
                self.add("Transpose", &[], vec![A::ints("perm", &[0, 2, 1, 3, 4])]);
                self.add("Reshape", &[&whole], vec![]);
            }
            1 if h > 3 => {
                let (start, end, axis) = (self.ints(&[1]), self.ints(&[-1]), self.ints(&[2]));
                self.add("Slice", &[&start, &end, &axis], vec![]);
                self.shape[2] = h - 2;
            }
            2 => {
                let amounts = self.ints(&[0, 0, 1, 0, 0, 0, 0, 2]);
                self.add("Pad", &[&amounts], vec![]);
                self.shape = [1, c, h + 1, w + 2];
            }
            _ if h * w <= 144 => {
                let name = format!("w{}", self.graph.initializer.len());
                self.graph.initializer.push(TensorProto::f32(&name, &[4], &[1.0, 1.0, 2.0, 2.0]));
                let (mode, coordinates) = self.pick(&[
                    ("nearest", "asymmetric"),
                    ("linear", "half_pixel"),
                    ("linear", "align_corners"),
                ]);
                let mut attributes =
                    vec![A::string("mode", mode), A::string("coordinate_transformation_mode", coordinates)];
                if mode == "nearest" {
                    attributes.push(A::string("nearest_mode", "floor"));
                }
                self.add("Resize", &["", &name], attributes);
                self.shape = [1, c, 2 * h, 2 * w];
            }
            _ => {}
        }
    }

    fn head(&mut self) {
        if self.rng.below(2) == 0 {
            self.add("GlobalAveragePool", &[], vec![]);
            self.shape = [1, self.shape[1], 1, 1];
        }
        self.add("Flatten", &[], vec![]);
        let k = self.shape.iter().product();
        if self.rng.below(2) == 0 {
            let (w, b) = (self.weight(&[10, k]), self.weight(&[10]));
            self.add(
                "Gemm",
                &[&w, &b],
                vec![A::int("transB", 1), A::float("alpha", 0.5), A::float("beta", 2.0)],
            );
        } else {
            let (w, b) = (self.weight(&[k, 10]), self.weight(&[10]));
            self.add("MatMul", &[&w], vec![]);
            self.add("Add", &[&b], vec![]);
        }
        if self.rng.below(2) == 0 {
            self.add("Softmax", &[], vec![A::int("axis", 1)]);
        }
    }
}

fn random_network(seed: u64) -> ModelProto {
    let mut rng = Random(seed);
    let shape = [1, 1 + rng.below(4) as i64, 8 + rng.below(8) as i64, 8 + rng.below(8) as i64];
    let graph = GraphProto {
        name: "random".into(),
        input: vec![ValueInfoProto::f32("x", &shape)],
        ..Default::default()
    };
    let mut n = Network { rng, graph, value: "x".into(), shape };
    for _ in 0..4 + n.rng.below(6) {
        match n.rng.below(6) {
            0 | 1 => n.conv(),
            2 => n.batch_norm(),
            3 => n.activation(),
            4 => n.branch(),
            _ if n.rng.below(2) == 0 => n.pool(),
            _ => n.movement(),
        }
    }
    n.head();
    n.graph.output = vec![ValueInfoProto::f32(&n.value, &[1, 10])];
    ModelProto::new(n.graph, 14)
}

fn main() {
    let mut trials: Vec<Trial> = assets::MODELS
        .iter()
        .map(|name| {
            Trial::test(*name, move || real_model(name)).with_ignored_flag(assets::model(name).is_none())
        })
        .collect();
    trials.extend((0..100).map(|seed| {
        let run =
            move || compare(&random_network(seed).encode_to_vec(), seed).map(|_| ()).map_err(Failed::from);
        Trial::test(format!("random_network_{seed}"), run)
    }));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
