//! The float interpreter against definitions written another way, and its speed.
use goshawk_ir::{
    FloatOp, Shape, Tensor,
    interp::float::evaluate,
    op::float::{
        Axis, BatchNorm, Binary, BinaryFn, Clamp, Conv, Coordinates, DepthOrder, DepthToSpace, Linear,
        NearestRule, NoAttrs, Pad, Reduce, Resize, ResizeMode, Slice, Transpose, Unary, UnaryFn,
    },
    op::window::{ConvWindow, PoolWindow},
};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }
    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }
    fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next() as f32 / 2f32.powi(30) - 1.0).collect()
    }
}

fn tensor(dims: &[usize], values: Vec<f32>) -> Tensor {
    Tensor::from_f32(Shape::new(dims).unwrap(), values).unwrap()
}

fn iota(dims: &[usize]) -> Tensor {
    tensor(dims, (0..dims.iter().product::<usize>()).map(|i| i as f32).collect())
}

fn eval(op: FloatOp, operands: &[&Tensor]) -> Vec<f32> {
    evaluate(&op, operands).unwrap().as_f32().unwrap().to_vec()
}

#[test]
fn convolutions_equal_their_definition() {
    let mut random = Random(5);
    for i in 0..300 {
        let groups = [1, 1, 2, 3][i % 4];
        let (cg, og) = (1 + random.below(5), 1 + random.below(7));
        let (c, o) = (cg * groups, og * groups);
        let [kh, kw] = [1 + random.below(4), 1 + random.below(4)];
        let (n, h, w) = (1 + random.below(2), 7 + random.below(4), 7 + random.below(4));
        let window = ConvWindow {
            stride: [1 + random.below(3), 1 + random.below(3)],
            pads: [0; 4].map(|_| random.below(4)),
            dilation: [1 + random.below(2), 1 + random.below(2)],
            groups,
        };
        let x = tensor(&[n, c, h, w], random.floats(n * c * h * w));
        let k = tensor(&[o, cg, kh, kw], random.floats(o * cg * kh * kw));
        let b = tensor(&[o], random.floats(o));
        let got =
            evaluate(&FloatOp::Conv(Conv { window: window.clone(), clamp: None }), &[&x, &k, &b]).unwrap();
        let [_, _, oh, ow] = got.shape().dims4().unwrap();
        let (xs, ks) = (x.as_f32().unwrap(), k.as_f32().unwrap());
        for (at, value) in got.as_f32().unwrap().iter().enumerate() {
            let (ni, oi, y, z) = (at / ow / oh / o, at / ow / oh % o, at / ow % oh, at % ow);
            let mut sum = f64::from(b.as_f32().unwrap()[oi]);
            for (ci, ky, kx) in (0..cg * kh * kw).map(|t| (t / kw / kh, t / kw % kh, t % kw)) {
                let iy = (y * window.stride[0] + ky * window.dilation[0]) as i64 - window.pads[0] as i64;
                let ix = (z * window.stride[1] + kx * window.dilation[1]) as i64 - window.pads[1] as i64;
                if (0..h as i64).contains(&iy) && (0..w as i64).contains(&ix) {
                    let channel = oi / og * cg + ci;
                    let xv = xs[((ni * c + channel) * h + iy as usize) * w + ix as usize];
                    sum += f64::from(xv) * f64::from(ks[((oi * cg + ci) * kh + ky) * kw + kx]);
                }
            }
            assert!((f64::from(*value) - sum).abs() < 1e-5, "{value} {sum} {window:?} {kh}x{kw} {groups}");
        }
    }
}

#[test]
fn products() {
    let (a, b) = (iota(&[2, 2, 3]), iota(&[3, 1]));
    assert_eq!(eval(FloatOp::MatMul(NoAttrs {}), &[&a, &b]), [5.0, 14.0, 23.0, 32.0]);
    // Broadcast of the leading dimensions: [2,1,1,2] · [3,2,1] → [2,3,1,1].
    let (a, b) = (iota(&[2, 1, 1, 2]), iota(&[3, 2, 1]));
    assert_eq!(eval(FloatOp::MatMul(NoAttrs {}), &[&a, &b]), [1.0, 3.0, 5.0, 3.0, 13.0, 23.0]);
    let (x, w, bias) = (iota(&[2, 9]), iota(&[2, 9]), tensor(&[2], vec![1.0, -1000.0]));
    let linear = FloatOp::Linear(Linear { clamp: Some(Clamp { lo: -10.0, hi: 900.0 }) });
    // 0·0 + … + 8·8 = 204; Σ i·(9 + i) = 528; Σ (9 + i)² = 1581.
    assert_eq!(eval(linear, &[&x, &w, &bias]), [205.0, -10.0, 529.0, 581.0]);
}

#[test]
fn pools() {
    let x = iota(&[1, 1, 3, 3]);
    let w = PoolWindow { kernel: [2, 2], stride: [2, 2], pads: [1, 1, 0, 0], ..PoolWindow::global(1, 1) };
    assert_eq!(eval(FloatOp::MaxPool(w.clone()), &[&x]), [0.0, 2.0, 6.0, 8.0]);
    assert_eq!(eval(FloatOp::AvgPool(w.clone()), &[&x]), [0.0, 1.5, 4.5, 6.0]);
    let counted = PoolWindow { count_include_pad: true, ..w };
    assert_eq!(eval(FloatOp::AvgPool(counted), &[&x]), [0.0, 0.75, 2.25, 6.0]);
    // ceil_mode: the last window hangs over, and what lies beyond the padding never counts.
    let w = PoolWindow {
        kernel: [2, 2],
        stride: [2, 2],
        ceil_mode: true,
        count_include_pad: true,
        ..PoolWindow::global(1, 1)
    };
    assert_eq!(eval(FloatOp::AvgPool(w), &[&x]), [2.0, 3.5, 6.5, 8.0]);
}

#[test]
fn movement() {
    let x = iota(&[2, 3]);
    let concat = FloatOp::Concat(Axis { axis: 1 });
    assert_eq!(eval(concat, &[&x, &iota(&[2, 1])]), [0.0, 1.0, 2.0, 0.0, 3.0, 4.0, 5.0, 1.0]);
    let slice = Slice { start: vec![1, 2], step: vec![-1, -2], size: vec![2, 2] };
    assert_eq!(eval(FloatOp::Slice(slice), &[&x]), [5.0, 3.0, 2.0, 0.0]);
    let pad = Pad { before: vec![0, 1], after: vec![1, 0], value: 9.0 };
    let padded = [9.0, 0.0, 1.0, 2.0, 9.0, 3.0, 4.0, 5.0, 9.0, 9.0, 9.0, 9.0];
    assert_eq!(eval(FloatOp::Pad(pad), &[&x]), padded);
    let transpose = Transpose { perm: vec![2, 0, 1] };
    assert_eq!(eval(FloatOp::Transpose(transpose), &[&iota(&[2, 1, 3])]), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    let depth = |order| FloatOp::DepthToSpace(DepthToSpace { block: 2, order });
    let x = iota(&[1, 8, 1, 1]);
    assert_eq!(eval(depth(DepthOrder::Dcr), &[&x]), [0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0]);
    assert_eq!(eval(depth(DepthOrder::Crd), &[&x]), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
}

#[test]
fn reductions_and_softmax() {
    let x = iota(&[2, 3]);
    let over = |axes: &[usize]| Reduce { axes: axes.to_vec(), keep_dims: false };
    assert_eq!(eval(FloatOp::ReduceMean(over(&[1])), &[&x]), [1.0, 4.0]);
    assert_eq!(eval(FloatOp::ReduceSum(over(&[0])), &[&x]), [3.0, 5.0, 7.0]);
    assert_eq!(eval(FloatOp::ReduceMax(over(&[0, 1])), &[&x]), [5.0]);
    let x = tensor(&[2, 2], vec![0.0, 1000.0, 3f32.ln(), 1000.0]);
    let soft = eval(FloatOp::Softmax(Axis { axis: 0 }), &[&x]);
    assert!(soft.iter().zip([0.25, 0.5, 0.75, 0.5]).all(|(a, b)| (a - b).abs() < 1e-6), "{soft:?}");
}

#[test]
fn resizing() {
    let x = iota(&[1, 1, 1, 4]);
    let resize = |mode, coordinates, columns, scale| {
        FloatOp::Resize(Resize {
            mode,
            coordinates,
            nearest: NearestRule::RoundPreferFloor,
            size: [1, columns],
            scale: [1.0, scale],
        })
    };
    let nearest = resize(ResizeMode::Nearest, Coordinates::HalfPixel, 8, 2.0);
    assert_eq!(eval(nearest, &[&x]), [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]);
    let linear = resize(ResizeMode::Linear, Coordinates::HalfPixel, 8, 2.0);
    assert_eq!(eval(linear, &[&x]), [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]);
    let corners = resize(ResizeMode::Linear, Coordinates::AlignCorners, 7, 1.75);
    assert_eq!(eval(corners, &[&x]), [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]);
}

#[test]
fn elementwise() {
    let x = tensor(&[2, 2], vec![-1.0, 2.0, 7.0, f32::NAN]);
    let chain = FloatOp::Unary(Unary {
        chain: vec![UnaryFn::Affine(2.0, 1.0), UnaryFn::Clip(Clamp { lo: 0.0, hi: 6.0 })],
    });
    let y = eval(chain, &[&x]);
    assert_eq!(y[..3], [0.0, 5.0, 6.0]);
    assert!(y[3].is_nan(), "clipping keeps NaN");
    let slope = tensor(&[2, 1], vec![0.5, 0.25]);
    assert_eq!(eval(FloatOp::PRelu(NoAttrs {}), &[&x, &slope])[..3], [-0.5, 2.0, 7.0]);
    let sub = FloatOp::Binary(Binary { function: BinaryFn::Sub, clamp: Some(Clamp::RELU) });
    assert_eq!(eval(sub, &[&iota(&[2, 1]), &iota(&[3])]), [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
    let ones = |v: f32| tensor(&[2], vec![v; 2]);
    let bn = FloatOp::BatchNorm(BatchNorm { epsilon: 0.25 });
    let y = eval(bn, &[&iota(&[1, 2, 1]), &ones(3.0), &ones(1.0), &ones(2.0), &ones(2.0)]);
    assert_eq!(y, [-3.0, -1.0]);
}

#[test]
fn functions_at_known_points() {
    use UnaryFn::*;
    // Values to nine digits from the definitions (mpmath).
    let table: [(UnaryFn, f32, f32); 24] = [
        (LeakyRelu(0.1), -2.0, -0.2),
        (Elu(2.0), -1.0, -1.264_241_1),
        (HardSwish, 1.0, 0.666_666_7),
        (HardSigmoid(0.2, 0.5), 1.0, 0.7),
        (Sigmoid, 1.0, 0.731_058_6),
        (Silu, 1.0, 0.731_058_6),
        (Silu, f32::NEG_INFINITY, 0.0),
        (Mish, 1.0, 0.865_098_4),
        (Mish, f32::NEG_INFINITY, 0.0),
        (Tanh, 1.0, 0.761_594_2),
        (Gelu, 1.0, 0.841_344_8),
        (Gelu, -100.0, 0.0),
        (GeluTanh, 1.0, 0.841_192),
        (GeluTanh, f32::NEG_INFINITY, 0.0),
        (Erf, 0.5, 0.520_499_9),
        (Softplus, 1.0, 1.313_261_7),
        (Softplus, 200.0, 200.0),
        (Exp, 1.0, 2.718_281_7),
        (Log, 5.0, 1.609_438),
        (Sqrt, 3.0, 1.732_050_8),
        (Abs, -3.0, 3.0),
        (Pow(3.0), -2.0, -8.0),
        (Affine(2.0, 1.0), 3.0, 7.0),
        (Reciprocal(3.0), 4.0, 0.75),
    ];
    for (function, x, y) in table {
        let got = function.eval(x);
        assert!((got - y).abs() <= 1.2e-7 * y.abs(), "{function:?}({x}) = {got}, not {y}");
    }
    assert_eq!(
        [BinaryFn::Min.eval(1.0, 2.0), BinaryFn::Max.eval(1.0, 2.0), BinaryFn::Pow.eval(2.0, 3.0)],
        [1.0, 2.0, 8.0]
    );
    assert_eq!([BinaryFn::Sub.eval(1.0, 2.0), BinaryFn::Div.eval(1.0, 2.0)], [-1.0, 0.5]);
    assert!(BinaryFn::Max.eval(1.0, f32::NAN).is_nan() && BinaryFn::Min.eval(f32::NAN, 1.0).is_nan());
}

/// `cargo test --release -p goshawk-ir -- --ignored --nocapture speed`
#[test]
#[ignore = "measures time"]
fn speed() {
    let layers = [
        ("1x1 256→64 @56", [1, 256, 56, 56], [64, 256, 1, 1], 1),
        ("3x3 64→64 @56", [1, 64, 56, 56], [64, 64, 3, 3], 1),
        ("3x3 512→512 @7", [1, 512, 7, 7], [512, 512, 3, 3], 1),
        ("7x7 3→64 @112", [1, 3, 112, 112], [64, 3, 7, 7], 1),
        ("depthwise 3x3 256 @56", [1, 256, 56, 56], [256, 1, 3, 3], 256),
    ];
    for (name, x, w, groups) in layers {
        let pad = w[2] / 2;
        let window = ConvWindow { pads: [pad; 4], groups, ..ConvWindow::unit() };
        let mut random = Random(1);
        let xs = tensor(&x, random.floats(x.iter().product()));
        let ws = tensor(&w, random.floats(w.iter().product()));
        let op = FloatOp::Conv(Conv { window, clamp: None });
        let best = (0..6)
            .map(|_| {
                let start = std::time::Instant::now();
                evaluate(&op, &[&xs, &ws]).unwrap();
                start.elapsed().as_secs_f64()
            })
            .fold(f64::INFINITY, f64::min);
        let macs = x[2] * x[3] * w.iter().product::<usize>();
        eprintln!("{name}: {:.2} GMAC/s", macs as f64 / best / 1e9);
    }
}
