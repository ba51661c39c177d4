//! Speed and memory of the gradient engine on networks of known sizes, with weights of their own:
//! `cargo run --release -p goshawk-passes --example gradient_speed [resnet20|resnet18|mobilenetv2] [threads …]`.
//!
//! Prints, as the smallest of three runs, seconds and in parentheses processor seconds of all threads: forward and backward with everything kept, one more Hessian-vector product over
//! all weights, products of all layers one by one, and one Gauss-Newton noise probe.
#![allow(clippy::print_stdout)]
#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/threads.rs"]
mod threads;

use common::{Net, window};
use goshawk_ir::{
    FloatGraph, FloatOp, NodeId, Tensor,
    op::float::{Binary, BinaryFn, Clamp, Conv},
    op::window::ConvWindow,
};
use goshawk_passes::gradient::{Engine, Keep, Loss, Noise, Parts, Rows, random};
use std::time::Instant;
use threads::Threads;

const RELU6: Clamp = Clamp { lo: 0.0, hi: 6.0 };

/// He initialisation, padding of half the kernel.
fn conv(
    n: &mut Net,
    x: NodeId,
    out: usize,
    k: usize,
    stride: usize,
    groups: usize,
    clamp: Option<Clamp>,
) -> NodeId {
    let c = n.shape(x)[1];
    let limit = (6.0 / (c / groups * k * k) as f32).sqrt() * if clamp.is_some() { 1.0 } else { 0.5 };
    let w = n.random(&[out, c / groups, k, k], -limit, limit);
    let b = n.random(&[out], -0.1, 0.1);
    let window = ConvWindow { stride: [stride; 2], pads: [k / 2; 4], groups, ..ConvWindow::unit() };
    n.op(FloatOp::Conv(Conv { window, clamp }), &[x, w, b])
}

/// Two 3×3 convolutions and a shortcut.
fn basic(n: &mut Net, x: NodeId, out: usize, stride: usize) -> NodeId {
    let a = conv(n, x, out, 3, stride, 1, Some(Clamp::RELU));
    let b = conv(n, a, out, 3, 1, 1, None);
    let short = if stride > 1 || n.shape(x)[1] != out { conv(n, x, out, 1, stride, 1, None) } else { x };
    n.op(FloatOp::Binary(Binary { function: BinaryFn::Add, clamp: Some(Clamp::RELU) }), &[b, short])
}

fn head(mut n: Net, x: NodeId, classes: usize) -> FloatGraph {
    let mean = n.spatial_mean(x);
    let c = n.shape(mean)[1];
    let flat = n.reshape(mean, &[1, c]);
    let y = n.linear(flat, classes, true);
    n.done(&[y])
}

fn resnet20() -> FloatGraph {
    let mut n = Net::new(20);
    let x = n.input(&[1, 3, 32, 32]);
    let mut x = conv(&mut n, x, 16, 3, 1, 1, Some(Clamp::RELU));
    for (out, stride) in [(16, 1), (16, 1), (16, 1), (32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1)] {
        x = basic(&mut n, x, out, stride);
    }
    head(n, x, 10)
}

fn resnet18() -> FloatGraph {
    let mut n = Net::new(18);
    let x = n.input(&[1, 3, 224, 224]);
    let x = conv(&mut n, x, 64, 7, 2, 1, Some(Clamp::RELU));
    let mut x = n.max_pool(x, window(3, 2, 1));
    for (out, stride) in [(64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)] {
        x = basic(&mut n, x, out, stride);
    }
    head(n, x, 1000)
}

fn mobilenetv2() -> FloatGraph {
    let mut n = Net::new(2);
    let x = n.input(&[1, 3, 224, 224]);
    let mut x = conv(&mut n, x, 32, 3, 2, 1, Some(RELU6));
    // Expansion, channels, repetitions, stride (Sandler et al., "MobileNetV2", 2018, table 2).
    let table = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ];
    for (expansion, out, repetitions, stride) in table {
        for i in 0..repetitions {
            let c = n.shape(x)[1];
            let wide = c * expansion;
            let a = if expansion > 1 { conv(&mut n, x, wide, 1, 1, 1, Some(RELU6)) } else { x };
            let b = conv(&mut n, a, wide, 3, if i == 0 { stride } else { 1 }, wide, Some(RELU6));
            let y = conv(&mut n, b, out, 1, 1, 1, None);
            x = if i > 0 && c == out { n.add(x, y) } else { y };
        }
    }
    let x = conv(&mut n, x, 1280, 1, 1, 1, Some(RELU6));
    head(n, x, 1000)
}

/// A line of /proc/self/status in MiB; 0 where there is none.
fn status(name: &str) -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with(name)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|v| v.parse::<usize>().ok()).unwrap_or(0) / 1024
}

/// Seconds of processor time so far, of all threads, in ticks of 10 ms; 0 where there is no /proc.
fn processor() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name in parentheses: fields 12 and 13 are user and system time.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|v| v.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// The smallest of some runs: "wall seconds (processor seconds)".
fn best<R>(rounds: usize, mut f: impl FnMut() -> R) -> (String, R) {
    let mut best = (f64::INFINITY, f64::INFINITY);
    let mut last = None;
    for _ in 0..rounds {
        let (start, used) = (Instant::now(), processor());
        last = Some(f());
        best = (best.0.min(start.elapsed().as_secs_f64()), best.1.min(processor() - used));
    }
    (format!("{:.3} s ({:.2})", best.0, best.1), last.unwrap())
}

fn measure(name: &str, g: &FloatGraph, samples: usize, threads: &[usize]) {
    let engine = Engine::<f32>::new(g).unwrap();
    let shape = g.ty(g.inputs[0].node).shape.clone();
    let x: Vec<Vec<Tensor>> = (0..samples)
        .map(|i| {
            vec![
                Tensor::from_f32(shape.clone(), random::gaussian::<f32>(1, i as u64, shape.count())).unwrap(),
            ]
        })
        .collect();
    let labels: Vec<usize> = (0..samples).map(|i| i % 10).collect();
    let mut v = Parts::new();
    for (l, layer) in engine.layers().iter().enumerate() {
        v.weights.insert(l, random::rademacher(2, l as u64, layer.shape.iter().product()));
    }
    for &threads in threads {
        let workers = Threads(threads);
        let loss = Loss::CrossEntropy(&labels);
        let (gradient, _) = best(3, || engine.linearise(&x, &loss, Keep::Nothing, &workers).unwrap().loss);
        let (linearise, lin) = best(3, || engine.linearise(&x, &loss, Keep::Everything, &workers).unwrap());
        let (probe, _) = best(3, || lin.hvp(&v, Rows::Weights, &workers).unwrap());
        let (each, _) = best(1, || {
            for l in 0..engine.layers().len() {
                let mut own = Parts::new();
                own.weights.insert(l, v.weights[&l].clone());
                lin.hvp(&own, Rows::Same, &workers).unwrap();
            }
        });
        let (noise, _) = best(3, || lin.squares(Noise::Rademacher(1), &workers).unwrap());
        println!(
            "{name} batch {samples}, {threads} threads: forward+backward {gradient}, kept {linearise}, product {probe}, \
             each layer's own {each}, noise probe {noise}; kept {} MiB of {} MiB stated, process {} MiB (peak {})",
            lin.bytes() >> 20,
            engine.memory(samples, Keep::Everything) >> 20,
            status("VmRSS:"),
            status("VmHWM:"),
        );
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let threads: Vec<usize> = args.iter().filter_map(|a| a.parse().ok()).collect();
    let threads = if threads.is_empty() { vec![1, 2] } else { threads };
    let all = args.iter().all(|a| a.parse::<usize>().is_ok());
    let wanted = |name: &str| all || args.iter().any(|a| a == name);
    if wanted("resnet20") {
        measure("resnet20", &resnet20(), 128, &threads);
    }
    if wanted("resnet18") {
        measure("resnet18", &resnet18(), 8, &threads);
    }
    if wanted("mobilenetv2") {
        measure("mobilenetv2", &mobilenetv2(), 8, &threads);
    }
}
