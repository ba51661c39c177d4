//! Speed of what surrounds the convolutions, in one interleaved run: `cargo test --release -p goshawk-tests --test
//! edge_speed -- --ignored --nocapture`. Levels: 128-bit Cranelift code, AVX2, AVX-512. A layer is a network of its own.
#![allow(clippy::print_stdout)]

use goshawk_compiler::codegen::Target;
use goshawk_ir::{
    DType, Dyadic, IntGraph, IntOp, Layout, NodeId, QParams, Requant, Shape, Tensor, TensorType,
    op::{
        float::{Axis, NoAttrs, Slice},
        int::{Add, Linear, Rescale},
    },
};
use goshawk_runtime::{Library, Session, TensorInfo, latency};
use goshawk_tests::{generate::Random, whole};

const LEVELS: [&str; 3] = ["x86-64-v3-fma", "x86-64-v3", "avx512vnni"];

fn ty(dtype: DType, dims: &[usize]) -> TensorType {
    let (zero_point, bits) = if dtype == DType::U8 { (117, 8) } else { (0, 16) };
    TensorType::quantized(
        dtype,
        Shape::new(dims).expect("small"),
        QParams::per_tensor(0.05, zero_point, bits),
    )
}

fn dyadic(value: f64) -> Dyadic {
    Dyadic::from_f64(value).expect("in range")
}

fn requant(out: &TensorType, ratio: f64) -> Requant {
    let q = out.quant.as_ref().expect("quantized");
    let (lo, hi) = q.range(out.dtype);
    Requant { mult: vec![dyadic(ratio)], zero_point: q.zero_point, lo, hi }
}

/// A network of one operator on `inputs`, the last ones constants.
fn one(op: IntOp, inputs: &[TensorType], table: Option<Tensor>, out: TensorType, layout: Layout) -> IntGraph {
    let mut g = IntGraph::new("one");
    let mut operands: Vec<NodeId> =
        inputs.iter().enumerate().map(|(i, t)| g.add_input(format!("in{i}"), t.clone(), layout)).collect();
    operands.extend(table.map(|t| g.add_const("table", t, None)));
    let node = g.add("result", op, &operands, out);
    g.add_output("out", node, layout);
    g
}

/// (name, elements, network, whether the float entry point is measured).
fn cases() -> Vec<(&'static str, usize, IntGraph, bool)> {
    let image = [1, 224, 224, 3];
    let corner = Slice { start: vec![0; 4], step: vec![1; 4], size: vec![1, 1, 1, 3] };
    let quantize =
        one(IntOp::Slice(corner), &[ty(DType::U8, &image)], None, ty(DType::U8, &[1, 1, 1, 3]), Layout::Nchw);
    let heads = ty(DType::I16, &[1, 52, 52, 18]);
    let small = ty(DType::U8, &[1, 52, 52, 18]);
    let dequantize =
        one(IntOp::Requant(Rescale { requant: requant(&heads, 100.3) }), &[small], None, heads, Layout::Nchw);
    let big = ty(DType::U8, &[1, 56, 56, 256]);
    let add = Add { a: dyadic(0.713), b: dyadic(0.377), subtract: false, zero_point: 117, lo: 0, hi: 255 };
    let add = one(IntOp::Add(add), &[big.clone(), big.clone()], None, big.clone(), Layout::Same);
    let mul = IntOp::Mul(Rescale { requant: requant(&big, 0.0039) });
    let mul = one(mul, &[big.clone(), ty(DType::U8, &[1, 1, 1, 256])], None, big.clone(), Layout::Same);
    let table = Tensor::from_ints(
        DType::U8,
        Shape::new([1, 256]).expect("small"),
        &(0..256).map(|i| (i * 37) % 256).collect::<Vec<i32>>(),
    );
    let lut = one(
        IntOp::Lut(NoAttrs {}),
        std::slice::from_ref(&big),
        Some(table.expect("fits")),
        big.clone(),
        Layout::Same,
    );
    let parts: Vec<_> = [64, 96, 32].iter().map(|c| ty(DType::U8, &[1, 55, 55, *c])).collect();
    let concat =
        one(IntOp::Concat(Axis { axis: 3 }), &parts, None, ty(DType::U8, &[1, 55, 55, 192]), Layout::Same);
    vec![
        ("quantize 3x224x224", 3 * 224 * 224, quantize, true),
        ("dequantize i16 18x52x52", 18 * 52 * 52, dequantize, true),
        ("add 56x56x256", 56 * 56 * 256, add, false),
        ("mul by channel 56x56x256", 56 * 56 * 256, mul, false),
        ("lut 56x56x256", 56 * 56 * 256, lut, false),
        ("concat 55x55x(64+96+32)", 55 * 55 * 192, concat, false),
    ]
}

/// A session with its buffers.
struct Runner<'l> {
    session: Session<'l>,
    float: bool,
    inputs: Vec<Vec<u8>>,
    floats: Vec<Vec<f32>>,
    outputs: Vec<Vec<u8>>,
    results: Vec<Vec<f32>>,
}

impl<'l> Runner<'l> {
    fn new(library: &'l Library, float: bool) -> Self {
        let info = library.info();
        let mut r = Random::new(5);
        let inputs: Vec<Vec<u8>> =
            info.inputs.iter().map(|t| (0..t.bytes()).map(|_| r.below(256) as u8).collect()).collect();
        let elements = |t: &TensorInfo| t.f32_dims.iter().product::<usize>();
        Self {
            session: library.session(),
            float,
            inputs,
            floats: info
                .inputs
                .iter()
                .map(|t| (0..elements(t)).map(|_| r.below(2000) as f32 * 0.01 - 9.0).collect())
                .collect(),
            outputs: info.outputs.iter().map(|t| vec![0; t.bytes()]).collect(),
            results: info.outputs.iter().map(|t| vec![0.0; elements(t)]).collect(),
        }
    }

    fn run(&mut self) -> Result<(), String> {
        let done = if self.float {
            let inputs: Vec<&[f32]> = self.floats.iter().map(Vec::as_slice).collect();
            let mut outputs: Vec<&mut [f32]> = self.results.iter_mut().map(Vec::as_mut_slice).collect();
            self.session.run_f32(&inputs, &mut outputs)
        } else {
            let inputs: Vec<&[u8]> = self.inputs.iter().map(Vec::as_slice).collect();
            let mut outputs: Vec<&mut [u8]> = self.outputs.iter_mut().map(Vec::as_mut_slice).collect();
            self.session.run(&inputs, &mut outputs)
        };
        done.map_err(|e| e.to_string())
    }
}

fn runs_here(cpu: &str) -> bool {
    Target::parse(None, cpu).is_ok_and(|t| t.runs_here())
}

/// Minimum of each library in microseconds, all measured in turns.
fn measure(libraries: &[(Library, bool)], runs: usize) -> Vec<f64> {
    let mut runners: Vec<_> = libraries.iter().map(|(l, float)| Runner::new(l, *float)).collect();
    let mut calls: Vec<_> = runners.iter_mut().map(|r| || r.run()).collect();
    let mut calls: Vec<&mut dyn FnMut() -> Result<(), String>> =
        calls.iter_mut().map(|c| c as &mut dyn FnMut() -> Result<(), String>).collect();
    let options = latency::Options { warm_up: 3, runs, ..latency::Options::default() };
    let summaries = latency::compare(options, &mut calls).expect("runs");
    summaries.iter().map(|s| s.min.as_secs_f64() * 1e6).collect()
}

fn compile(g: &IntGraph, cpu: &str) -> Library {
    let folder = tempfile::tempdir().expect("temporary folder");
    whole::library(g, cpu, folder.path()).expect("compiles")
}

#[test]
#[ignore = "measures"]
fn edges() {
    let levels: Vec<&str> = LEVELS.into_iter().filter(|cpu| runs_here(cpu)).collect();
    let cases = cases();
    let libraries: Vec<(Library, bool)> = cases
        .iter()
        .flat_map(|(_, _, g, float)| levels.iter().map(|cpu| (compile(g, cpu), *float)))
        .collect();
    let times = measure(&libraries, 300);
    println!("minimum in µs (G elements/s); levels: {levels:?}");
    for ((name, elements, ..), row) in cases.iter().zip(times.chunks(levels.len())) {
        let cells: Vec<String> =
            row.iter().map(|us| format!("{us:9.1} ({:5.2})", *elements as f64 / us / 1e3)).collect();
        println!("{name:28} {}  {:.1}x", cells.join(" "), row[0] / row[row.len() - 1]);
    }
}

/// `layers` fully connected layers on one input, whose weights together exceed the caches.
fn classifiers(int4: bool, layers: usize) -> IntGraph {
    let (k, n) = (2048, 1000);
    let mut g = IntGraph::new("linear");
    let x = g.add_input("x", ty(DType::U8, &[1, k]), Layout::Same);
    let mut r = Random::new(9);
    let out = ty(DType::U8, &[1, n]);
    for i in 0..layers {
        let (dtype, max) = if int4 { (DType::I4, 7) } else { (DType::I8, 127) };
        let weights: Vec<i32> = (0..n * k).map(|_| r.between(-max, max)).collect();
        let weights = Tensor::from_ints(dtype, Shape::new([n, k]).expect("small"), &weights).expect("fits");
        let quant = QParams::per_channel(0, vec![0.01; n], if int4 { 4 } else { 8 });
        let w = g.add_const(format!("w{i}"), weights, Some(quant));
        let bias = Tensor::from_ints(DType::I32, Shape::new([n]).expect("small"), &vec![i as i32; n]);
        let b = g.add_const(format!("b{i}"), bias.expect("fits"), None);
        let op = IntOp::Linear(Linear { requant: requant(&out, 1e-4) });
        let node = g.add(format!("linear{i}"), op, &[x, w, b], out.clone());
        g.add_output(format!("out{i}"), node, Layout::Same);
    }
    g
}

/// INT4 halves the bytes of a layer that waits for memory.
#[test]
#[ignore = "measures"]
fn fully_connected_from_memory() {
    for cpu in LEVELS[1..].iter().filter(|cpu| runs_here(cpu)) {
        // 64 MB of INT8, 64 MB of INT4.
        let libraries =
            [(compile(&classifiers(false, 32), cpu), false), (compile(&classifiers(true, 64), cpu), false)];
        let times = measure(&libraries, 20);
        let (int8, int4) = (times[0] / 32.0, times[1] / 64.0);
        let gbs = |us: f64, bytes: f64| bytes / us / 1e3;
        println!(
            "{cpu}: 2048 to 1000, from memory: int8 {int8:.1} µs ({:.1} GB/s), int4 {int4:.1} µs ({:.1} GB/s), {:.2}x",
            gbs(int8, 2.048e6),
            gbs(int4, 1.024e6),
            int8 / int4
        );
    }
}
