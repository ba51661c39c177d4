//! Every operator against the integer interpreter, at every target level that this machine runs, and as an object for
//! every target.
mod convs;
mod elementwise;
mod movement;
mod network;
mod windows;

use super::{Options, Target, jit, object};
use cranelift_object::object::{Object as _, ObjectSymbol, read};
use goshawk_ir::{
    DType, Dyadic, IntGraph, IntOp, Layout, NodeId, QParams, Requant, Shape, Tensor, TensorType,
    interp::{boundary, int},
};
use goshawk_passes::memory;

const X64: &str = "x86_64-unknown-linux-gnu";
const ARM: &str = "aarch64-unknown-linux-gnu";
pub(super) const TARGETS: &[(&str, &str)] = &[
    (X64, "x86-64"),
    (X64, "x86-64-v2"),
    (X64, "x86-64-v3"),
    (X64, "x86-64-v4"),
    (X64, "avx512vnni"),
    (X64, "avx512vbmi"),
    (X64, "avxvnni"),
    (ARM, "generic"),
    (ARM, "generic+dotprod"),
    (ARM, "generic+i8mm"),
];

/// Deterministic numbers: splitmix64 (Steele et al. 2014).
pub(super) struct Rng(pub u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in lo..=hi.
    pub fn range(&mut self, lo: i32, hi: i32) -> i32 {
        lo + (self.next() % (i64::from(hi) - i64::from(lo) + 1) as u64) as i32
    }

    fn ints(&mut self, count: usize, lo: i32, hi: i32) -> Vec<i32> {
        (0..count).map(|_| self.range(lo, hi)).collect()
    }

    /// A dyadic number near `scale`, within a factor of four.
    fn dyadic(&mut self, scale: f64) -> Dyadic {
        Dyadic::from_f64(scale * 2f64.powf(f64::from(self.range(-1000, 1000)) / 1000.0)).expect("in range")
    }
}

pub(super) fn shape(dims: &[usize]) -> Shape {
    Shape::new(dims).expect("small")
}

pub(super) fn u8_type(dims: &[usize], zero_point: i32, bits: u8) -> TensorType {
    TensorType::quantized(DType::U8, shape(dims), QParams::per_tensor(0.05, zero_point, bits))
}

pub(super) fn i16_type(dims: &[usize]) -> TensorType {
    TensorType::quantized(DType::I16, shape(dims), QParams::per_tensor(0.01, 0, 16))
}

/// A requantization to the type's whole range.
pub(super) fn requant(ty: &TensorType, mult: Vec<Dyadic>) -> Requant {
    let q = ty.quant.as_ref().expect("quantized");
    let (lo, hi) = q.range(ty.dtype);
    Requant { mult, zero_point: q.zero_point, lo, hi }
}

pub(super) fn random_tensor(rng: &mut Rng, ty: &TensorType) -> Tensor {
    let (lo, hi) = ty.quant.as_ref().expect("quantized").range(ty.dtype);
    let extremes = rng.range(0, 3) == 0;
    let values: Vec<i32> = (0..ty.shape.count())
        .map(|_| if extremes { [lo, hi][rng.range(0, 1) as usize] } else { rng.range(lo, hi) })
        .collect();
    Tensor::from_ints(ty.dtype, ty.shape.clone(), &values).expect("in range")
}

/// A graph of one operator on inputs of these types, with constants appended as operands.
pub(super) fn single(
    op: IntOp,
    inputs: &[TensorType],
    constants: &[(Tensor, Option<QParams>)],
    out: TensorType,
) -> IntGraph {
    let mut g = IntGraph::new("single");
    let mut operands: Vec<NodeId> = inputs
        .iter()
        .enumerate()
        .map(|(i, t)| g.add_input(format!("in{i}"), t.clone(), Layout::Same))
        .collect();
    for (i, (value, quant)) in constants.iter().enumerate() {
        operands.push(g.add_const(format!("const{i}"), value.clone(), quant.clone()));
    }
    let node = g.add("result", op, &operands, out);
    g.add_output("out", node, Layout::Same);
    g
}

fn options(triple: &str, cpu: &str) -> Options {
    let target = Target::parse(Some(triple), cpu).expect("known");
    Options::new(target, "m")
}

/// Both entry points at every level that runs here, on a few random inputs.
pub(super) fn check(graph: &IntGraph, rng: &mut Rng) {
    let inputs: Vec<Vec<Tensor>> =
        (0..2).map(|_| graph.inputs.iter().map(|p| random_tensor(rng, graph.ty(p.node))).collect()).collect();
    let expected: Vec<_> = inputs.iter().map(|x| int::run(graph, x).expect("interpreter")).collect();
    let floats: Vec<Tensor> = graph
        .inputs
        .iter()
        .map(|p| {
            let shape = boundary::f32_shape(graph, p).expect("port");
            let values: Vec<f32> = (0..shape.count())
                .map(|i| if i == 0 { f32::NAN } else { rng.range(-400, 400) as f32 * 0.025 })
                .collect();
            Tensor::from_f32(shape, values).expect("count")
        })
        .collect();
    let expected_floats = boundary::run_f32(graph, &floats).expect("interpreter");
    for (triple, cpu) in TARGETS {
        let options = options(triple, cpu);
        let memory = super::arena(graph, &options).expect("plan");
        if !options.target.runs_here() {
            // Verification of the code dominates: one case in four will do.
            if rng.range(0, 3) > 0 {
                continue;
            }
            let object = object(graph, &memory, &options).expect("object");
            assert_self_contained(&object.bytes);
            continue;
        }
        let model = jit(graph, &memory, &options).expect("jit");
        for (x, y) in inputs.iter().zip(&expected) {
            let got = model.run(x).expect("run");
            assert!(got == *y, "{cpu}: {:?}\n{}", model.layers, first_difference(&got, y));
        }
        assert!(model.run_f32(&floats).expect("run_f32") == expected_floats, "{cpu}: f32 entry point");
    }
}

fn first_difference(got: &[Tensor], want: &[Tensor]) -> String {
    for (g, w) in got.iter().zip(want) {
        let (g, w) = (g.to_ints().expect("ints"), w.to_ints().expect("ints"));
        let wrong: Vec<_> = (0..g.len()).filter(|i| g[*i] != w[*i]).collect();
        if let Some(i) = wrong.first() {
            return format!("{} of {} differ, first at {i}: {} for {}", wrong.len(), g.len(), g[*i], w[*i]);
        }
    }
    "types differ".into()
}

/// No undefined symbol, and exactly the exported ones.
fn assert_self_contained(bytes: &[u8]) {
    let file = read::File::parse(bytes).expect("ELF");
    for symbol in file.symbols() {
        let name = symbol.name().unwrap_or_default();
        assert!(!symbol.is_undefined() || name.is_empty(), "undefined symbol {name}");
        if symbol.is_global() {
            assert!(["m_run", "m_run_f32", "m_info", "m_level"].contains(&name), "exported symbol {name}");
        }
    }
}
