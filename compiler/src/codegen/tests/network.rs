//! Whole graphs: value placement, ports, entry-point checks, determinism, widths.
use super::*;
use crate::Code;
use goshawk_ir::op::{
    float::Reshape,
    int::{Add, Conv, Rescale},
    window::{ConvWindow, PoolWindow},
};

/// Two convolutions with a residual connection, shared and repeated outputs, an input that is an output.
fn residual() -> IntGraph {
    let mut rng = Rng(41);
    let mut g = IntGraph::new("residual");
    let dims = [1, 8, 8, 16];
    let x = g.add_input("x", u8_type(&dims, 0, 8), Layout::Nchw);
    let conv = |g: &mut IntGraph, rng: &mut Rng, name: &str, from| {
        let w =
            Tensor::from_ints(DType::I8, shape(&[16, 3, 3, 16]), &rng.ints(2304, -127, 127)).expect("fits");
        let w = g.add_const(format!("{name}.w"), w, Some(QParams::per_channel(0, vec![0.01; 16], 8)));
        let b = Tensor::from_ints(DType::I32, shape(&[16]), &rng.ints(16, -9999, 9999)).expect("fits");
        let b = g.add_const(format!("{name}.b"), b, None);
        let out = u8_type(&dims, 0, 8);
        let window = ConvWindow { pads: [1; 4], ..ConvWindow::unit() };
        let requant = requant(&out, (0..16).map(|_| rng.dyadic(1e-4)).collect());
        g.add(name, IntOp::Conv(Conv { window, requant }), &[from, w, b], out)
    };
    let a = conv(&mut g, &mut rng, "a", x);
    let b = conv(&mut g, &mut rng, "b", a);
    let half = Dyadic::from_f64(0.5).expect("ok");
    let add = Add { a: half, b: half, subtract: false, zero_point: 0, lo: 0, hi: 255 };
    let sum = g.add("sum", IntOp::Add(add), &[b, x], u8_type(&dims, 0, 8));
    let pool = PoolWindow { kernel: [2, 2], stride: [2, 2], ..PoolWindow::global(2, 2) };
    let pooled = g.add("pool", IntOp::MaxPool(pool), &[sum], u8_type(&[1, 4, 4, 16], 0, 8));
    let flat =
        g.add("flat", IntOp::Reshape(Reshape { shape: vec![1, 256] }), &[pooled], u8_type(&[1, 256], 0, 8));
    let wide = i16_type(&[1, 256]);
    let last = Rescale { requant: requant(&wide, vec![Dyadic::from_f64(90.0).expect("ok")]) };
    let last = g.add("last", IntOp::Requant(last), &[flat], wide);
    g.add_output("logits", last, Layout::Same);
    g.add_output("sum", sum, Layout::Nchw);
    g.add_output("sum again", sum, Layout::Same);
    g.add_output("x", x, Layout::Nchw);
    g
}

#[test]
fn residual_network() {
    check(&residual(), &mut Rng(42));
}

#[test]
fn objects_are_deterministic_and_state_their_stack() {
    let g = residual();
    let memory = memory::plan(&g).expect("plan");
    for (triple, cpu) in TARGETS {
        let mut options = options(triple, cpu);
        options.listing = true;
        let plan = super::super::plan(&g, &memory, &options).expect("plan");
        options.info = vec![0; size_of::<goshawk_runtime::abi::ModelRecord>()];
        options.info[8..16].copy_from_slice(&(plan.arena_bytes as u64).to_le_bytes());
        let first = object(&g, &memory, &options).expect("object");
        assert_self_contained(&first.bytes);
        assert_eq!(first.bytes, object(&g, &memory, &options).expect("object").bytes);
        assert!((64..65536).contains(&first.stack_bytes), "{cpu}: {} bytes of stack", first.stack_bytes);
        assert!(first.asm.contains("m_body:"));
        options.info[8] ^= 1;
        assert_eq!(object(&g, &memory, &options).expect_err("wrong arena").code, Code::INTERNAL);
    }
}

#[test]
fn wrong_inputs_are_refused() {
    let g = residual();
    let memory = memory::plan(&g).expect("plan");
    let model = jit(&g, &memory, &Options::new(Target::native().expect("host"), "m")).expect("jit");
    assert_eq!(model.run(&[]).expect_err("none").code, Code::RUN);
    let x = Tensor::from_ints(DType::U8, shape(&[1]), &[0]).expect("fits");
    assert_eq!(model.run(&[x]).expect_err("shape").code, Code::RUN);
    let other = Target::parse(Some(ARM), "generic").expect("known");
    assert_eq!(jit(&g, &memory, &Options::new(other, "m")).err().map(|e| e.code), Some(Code::TARGET));
}
