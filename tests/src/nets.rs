//! Small integer networks for tests of artefacts: few operators, every kind of port.
use goshawk_ir::{
    DType, Dyadic, Graph, IntGraph, IntOp, Layout, NodeId, QParams, Requant, Result, Shape, Tensor,
    TensorType,
    op::{
        float::{Axis, Reshape},
        int::{Add, AvgPool, Conv, Linear, Rescale},
        window::{ConvWindow, PoolWindow},
    },
};

/// A fixed sequence of numbers (Knuth's MMIX generator), so that tests need no seed and no file.
pub struct Numbers(u64);

impl Numbers {
    /// The sequence with that name.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number in `lo..=hi`.
    pub fn next(&mut self, lo: i32, hi: i32) -> i32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        lo + ((self.0 >> 33) % (i64::from(hi) - i64::from(lo) + 1) as u64) as i32
    }

    /// A tensor of numbers within what the type's quantization allows.
    ///
    /// # Errors
    /// The type is not a quantized integer type.
    pub fn tensor(&mut self, ty: &TensorType) -> Result<Tensor> {
        let (lo, hi) = ty.qparams()?.range(ty.dtype);
        let values: Vec<i32> = (0..ty.shape.count()).map(|_| self.next(lo, hi)).collect();
        Tensor::from_ints(ty.dtype, ty.shape.clone(), &values)
    }

    /// f32 numbers that cover the type's range and a little more.
    ///
    /// # Errors
    /// The type is not quantized as a whole.
    pub fn floats(&mut self, ty: &TensorType) -> Result<Vec<f32>> {
        let q = ty.qparams()?;
        let (lo, hi) = q.range(ty.dtype);
        let scale = q.tensor_scale()?;
        let mut value = || scale * (self.next(lo * 8 - 40, hi * 8 + 40) as f32 / 8.0 - q.zero_point as f32);
        Ok((0..ty.shape.count()).map(|_| value()).collect())
    }
}

fn activation(shape: &[usize], scale: f32, zero_point: i32) -> Result<TensorType> {
    Ok(TensorType::quantized(DType::U8, Shape::new(shape)?, QParams::per_tensor(scale, zero_point, 8)))
}

fn wide(shape: &[usize], scale: f32) -> Result<TensorType> {
    Ok(TensorType::quantized(DType::I16, Shape::new(shape)?, QParams::per_tensor(scale, 0, 16)))
}

/// A requantization to `ty`: one ratio for each output channel, clamped to the type's range.
fn requant(ratios: &[f64], ty: &TensorType) -> Result<Requant> {
    let q = ty.qparams()?;
    let (lo, hi) = q.range(ty.dtype);
    let mult = ratios.iter().map(|r| Dyadic::from_f64(*r)).collect::<Result<_>>()?;
    Ok(Requant { mult, zero_point: q.zero_point, lo, hi })
}

/// Weights of `bits` bits and biases for `channels` output channels, as constants.
fn parameters(
    graph: &mut IntGraph,
    name: &str,
    numbers: &mut Numbers,
    shape: &[usize],
    bits: u8,
) -> Result<[NodeId; 2]> {
    let dtype = if bits <= 4 { DType::I4 } else { DType::I8 };
    let scales = vec![0.02f32; shape[0]];
    let ty = TensorType::quantized(dtype, Shape::new(shape)?, QParams::per_channel(0, scales.clone(), bits));
    let weights = numbers.tensor(&ty)?;
    let bias: Vec<i32> = (0..shape[0]).map(|_| numbers.next(-3000, 3000)).collect();
    let bias = Tensor::from_i32(Shape::new([shape[0]])?, bias)?;
    Ok([
        graph.add_const(format!("{name}.weight"), weights, ty.quant),
        graph.add_const(format!("{name}.bias"), bias, Some(QParams::per_channel(0, scales, 32))),
    ])
}

/// A residual network in small: 3×3 convolution, max pool, 1×1 convolution added on a 16-bit grid, average pool,
/// INT4 classifier. One NCHW input [1,3,9,7], one i16 output [1,10].
///
/// # Errors
/// None: the network is well formed.
pub fn residual() -> Result<IntGraph> {
    let mut n = Numbers::new(1);
    let mut g: IntGraph = Graph::new("residual");
    let x = g.add_input("image", activation(&[1, 9, 7, 3], 0.05, 117)?, Layout::Nchw);
    let [w, b] = parameters(&mut g, "stem", &mut n, &[16, 3, 3, 3], 8)?;
    let ty = activation(&[1, 9, 7, 16], 0.04, 0)?;
    let ratios: Vec<f64> = (0..16).map(|c| 0.002 + 0.0003 * f64::from(c)).collect();
    let window = ConvWindow { pads: [1, 1, 1, 1], ..ConvWindow::unit() };
    let stem = g.add("stem", IntOp::Conv(Conv { window, requant: requant(&ratios, &ty)? }), &[x, w, b], ty);
    let window = PoolWindow {
        kernel: [3, 3],
        stride: [2, 2],
        pads: [1, 1, 1, 1],
        dilation: [1, 1],
        ceil_mode: false,
        count_include_pad: false,
    };
    let pool = g.add("pool", IntOp::MaxPool(window), &[stem], activation(&[1, 5, 4, 16], 0.04, 0)?);
    let [w, b] = parameters(&mut g, "mix", &mut n, &[16, 1, 1, 16], 8)?;
    let ty = activation(&[1, 5, 4, 16], 0.03, 101)?;
    let op = IntOp::Conv(Conv { window: ConvWindow::unit(), requant: requant(&[0.0021], &ty)? });
    let mix = g.add("mix", op, &[pool, w, b], ty);
    let grid = wide(&[1, 5, 4, 16], 0.001)?;
    let add = IntOp::Add(Add {
        a: Dyadic::from_f64(40.0)?,
        b: Dyadic::from_f64(30.0)?,
        subtract: false,
        zero_point: 0,
        lo: 0,
        hi: 32767,
    });
    let sum = g.add("sum", add, &[pool, mix], grid);
    let ty = activation(&[1, 1, 1, 16], 0.05, 0)?;
    let ratios: Vec<f64> = (1..=20).map(|cells| 0.02 / f64::from(cells)).collect();
    let op = IntOp::AvgPool(AvgPool { window: PoolWindow::global(5, 4), requant: requant(&ratios, &ty)? });
    let mean = g.add("mean", op, &[sum], ty);
    let flat = g.add(
        "flat",
        IntOp::Reshape(Reshape { shape: vec![1, 16] }),
        &[mean],
        activation(&[1, 16], 0.05, 0)?,
    );
    let [w, b] = parameters(&mut g, "classifier", &mut n, &[10, 16], 4)?;
    let ty = wide(&[1, 10], 0.0005)?;
    let op = IntOp::Linear(Linear { requant: requant(&[1.7], &ty)? });
    let logits = g.add("logits", op, &[flat, w, b], ty);
    g.add_output("logits", logits, Layout::Same);
    Ok(g)
}

/// Two inputs and three outputs of odd sizes and awkward names, one of them also read by another layer, one of them an
/// input passed through.
///
/// # Errors
/// None: the network is well formed.
pub fn ports() -> Result<IntGraph> {
    let mut g: IntGraph = Graph::new("ports");
    let a = g.add_input("in:0", activation(&[1, 3, 5, 7], 0.1, 128)?, Layout::Nchw);
    let b = g.add_input("register", activation(&[1, 3, 5, 7], 0.2, 3)?, Layout::Same);
    let ty = activation(&[1, 3, 5, 7], 0.15, 90)?;
    let product = g.add("mul", IntOp::Mul(Rescale { requant: requant(&[0.013], &ty)? }), &[a, b], ty.clone());
    let both = g.add(
        "cat",
        IntOp::Concat(Axis { axis: 3 }),
        &[product, product],
        activation(&[1, 3, 5, 14], 0.15, 90)?,
    );
    let ty = wide(&[1, 3, 5, 14], 0.01)?;
    let last = g.add("scale", IntOp::Requant(Rescale { requant: requant(&[15.0], &ty)? }), &[both], ty);
    g.add_output("mul", product, Layout::Nchw);
    g.add_output("out/1", last, Layout::Same);
    g.add_output("in:0", a, Layout::Same);
    Ok(g)
}

/// A network whose layers are worth sharing between threads: padded convolutions along pixels (INT8 and INT4), one that
/// sees a long row, one with more weights than pixels. One NCHW input [1,32,24,24], one i16 output [1,10].
///
/// # Errors
/// None: the network is well formed.
pub fn broad() -> Result<IntGraph> {
    let mut n = Numbers::new(3);
    let mut g: IntGraph = Graph::new("broad");
    let mut x = g.add_input("image", activation(&[1, 24, 24, 32], 0.05, 120)?, Layout::Nchw);
    // (input channels, output channels, kernel, stride, size of the result, bits of the weights, ratio)
    for (i, (ci, co, kernel, stride, size, bits, ratio)) in [
        (32, 64, 3, 1, 24, 8, 0.0007),
        (64, 96, 3, 2, 12, 4, 0.008),
        (96, 128, 1, 1, 12, 8, 0.001),
        (128, 512, 3, 3, 4, 8, 0.0003),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("conv{i}");
        let [w, b] = parameters(&mut g, &name, &mut n, &[co, kernel, kernel, ci], bits)?;
        let ty = activation(&[1, size, size, co], 0.04, 9)?;
        let pad = kernel / 2;
        let window = ConvWindow { stride: [stride; 2], pads: [pad; 4], ..ConvWindow::unit() };
        let ratios: Vec<f64> = (0..co).map(|c| ratio * (1.0 + 0.01 * c as f64)).collect();
        let op = IntOp::Conv(Conv { window, requant: requant(&ratios, &ty)? });
        x = g.add(name, op, &[x, w, b], ty);
    }
    let ty = activation(&[1, 1, 1, 512], 0.05, 0)?;
    let ratios: Vec<f64> = (1..=16).map(|cells| 1.5 / f64::from(cells)).collect();
    let op = IntOp::AvgPool(AvgPool { window: PoolWindow::global(4, 4), requant: requant(&ratios, &ty)? });
    let mean = g.add("mean", op, &[x], ty);
    let reshape = IntOp::Reshape(Reshape { shape: vec![1, 512] });
    let flat = g.add("flat", reshape, &[mean], activation(&[1, 512], 0.05, 0)?);
    let [w, b] = parameters(&mut g, "classifier", &mut n, &[10, 512], 8)?;
    let ty = wide(&[1, 10], 0.0005)?;
    let op = IntOp::Linear(Linear { requant: requant(&[0.05], &ty)? });
    let logits = g.add("logits", op, &[flat, w, b], ty);
    g.add_output("logits", logits, Layout::Same);
    Ok(g)
}

/// The networks with their names.
///
/// # Errors
/// None: they are well formed.
pub fn all() -> Result<Vec<IntGraph>> {
    Ok(vec![residual()?, ports()?, broad()?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use goshawk_ir::interp::int;

    #[test]
    fn outputs_use_their_range() {
        for graph in all().expect("well formed") {
            let mut n = Numbers::new(7);
            let inputs: Vec<_> =
                graph.inputs.iter().map(|p| n.tensor(graph.ty(p.node)).expect("quantized")).collect();
            for (port, value) in graph.outputs.iter().zip(int::run(&graph, &inputs).expect("runs")) {
                let values = value.to_ints().expect("integers");
                let distinct: std::collections::BTreeSet<_> = values.iter().collect();
                assert!(distinct.len() * 2 > values.len().min(40), "{}: {values:?}", port.name);
            }
        }
    }
}
