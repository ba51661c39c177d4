//! The integer interpreter against the definition of a convolution, and its speed.
use goshawk_ir::{
    DType, Dyadic, IntGraph, IntOp, Layout, QParams, Requant, Shape, Tensor, TensorType, interp::int,
    op::int::Conv, op::window::ConvWindow,
};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }
    fn between(&mut self, lo: i32, hi: i32) -> i32 {
        lo + (self.next() % (hi - lo + 1) as u64) as i32
    }
    fn ints(&mut self, count: usize, lo: i32, hi: i32) -> Vec<i32> {
        (0..count).map(|_| self.between(lo, hi)).collect()
    }
}

struct Case {
    x: [usize; 4],
    w: [usize; 4],
    window: ConvWindow,
    zero_point: i32,
}

fn build(case: &Case, random: &mut Random) -> (IntGraph, Tensor, Vec<i32>, Vec<i32>) {
    let shape = |d: &[usize]| Shape::new(d).unwrap();
    let mut g = IntGraph::new("conv");
    let q = QParams::per_tensor(0.5, case.zero_point, 8);
    let x = g.add_input("x", TensorType::quantized(DType::U8, shape(&case.x), q.clone()), Layout::Same);
    let w = random.ints(case.w.iter().product(), -127, 127);
    let b = random.ints(case.w[0], -9999, 9999);
    let scales = vec![0.25; case.w[0]];
    let wt = Tensor::from_ints(DType::I8, shape(&case.w), &w).unwrap();
    let bt = Tensor::from_ints(DType::I32, shape(&case.w[..1]), &b).unwrap();
    let wn = g.add_const("w", wt, Some(QParams::per_channel(0, scales.clone(), 8)));
    let bn = g.add_const("b", bt, Some(QParams::per_channel(0, scales, 32)));
    let mult =
        (0..case.w[0]).map(|_| Dyadic { mult: random.between(1 << 30, i32::MAX), shift: 43 }).collect();
    let op = IntOp::Conv(Conv {
        window: case.window.clone(),
        requant: Requant { mult, zero_point: 100, lo: 3, hi: 250 },
    });
    let [oh, ow] = case.window.out_size([case.x[1], case.x[2]], [case.w[1], case.w[2]]).unwrap();
    let ty = TensorType::quantized(
        DType::U8,
        shape(&[case.x[0], oh, ow, case.w[0]]),
        QParams::per_tensor(1.0, 100, 8),
    );
    let y = g.add("y", op, &[x, wn, bn], ty);
    g.add_output("y", y, Layout::Same);
    let xs = random.ints(case.x.iter().product(), 0, 255);
    (g, Tensor::from_ints(DType::U8, shape(&case.x), &xs).unwrap(), w, b)
}

/// Σ over every tap, straight from the definition, in i64.
fn definition(case: &Case, g: &IntGraph, x: &[i32], w: &[i32], b: &[i32]) -> Vec<i32> {
    let y = g.outputs[0].node;
    let IntOp::Conv(a) = &g.node(y).op else { panic!("a convolution") };
    let [n, oh, ow, oc] = g.ty(y).shape.dims4().unwrap();
    let ([_, h, wd, c], [_, kh, kw, cg]) = (case.x, case.w);
    let mut out = Vec::new();
    for (i, oy, ox, o) in
        (0..n * oh * ow * oc).map(|k| (k / oc / ow / oh, k / oc / ow % oh, k / oc % ow, k % oc))
    {
        let mut acc = i64::from(b[o]);
        for (ky, kx, k) in (0..kh * kw * cg).map(|t| (t / cg / kw, t / cg % kw, t % cg)) {
            let iy = (oy * a.window.stride[0] + ky * a.window.dilation[0]) as i64 - a.window.pads[0] as i64;
            let ix = (ox * a.window.stride[1] + kx * a.window.dilation[1]) as i64 - a.window.pads[1] as i64;
            if (0..h as i64).contains(&iy) && (0..wd as i64).contains(&ix) {
                let channel = o / (oc / a.window.groups) * cg + k;
                let at = ((i * h + iy as usize) * wd + ix as usize) * c + channel;
                let weight = w[((o * kh + ky) * kw + kx) * cg + k];
                acc += i64::from(x[at] - case.zero_point) * i64::from(weight);
            }
        }
        out.push(a.requant.apply(i32::try_from(acc).unwrap(), o));
    }
    out
}

#[test]
fn convolutions_equal_their_definition() {
    let mut random = Random(7);
    for i in 0..300 {
        let groups = [1, 1, 2, 3][i % 4];
        let depthwise = i % 5 == 0;
        let (cg, og) = (random.between(1, 5) as usize, random.between(1, 4) as usize);
        let (c, o, groups, cg) =
            if depthwise { (cg, cg, cg, 1) } else { (cg * groups, og * groups, groups, cg) };
        let kernel = [random.between(1, 4) as usize, random.between(1, 4) as usize];
        let case = Case {
            x: [
                random.between(1, 2) as usize,
                random.between(7, 9) as usize,
                random.between(7, 9) as usize,
                c,
            ],
            w: [o, kernel[0], kernel[1], cg],
            window: ConvWindow {
                stride: [random.between(1, 3) as usize, random.between(1, 3) as usize],
                pads: [0; 4].map(|_| random.between(0, 3) as usize),
                dilation: [random.between(1, 2) as usize, random.between(1, 2) as usize],
                groups,
            },
            zero_point: random.between(0, 255),
        };
        let (g, x, w, b) = build(&case, &mut random);
        let want = definition(&case, &g, &x.to_ints().unwrap(), &w, &b);
        let got = int::run(&g, &[x]).unwrap();
        assert_eq!(got[0].to_ints().unwrap(), want, "{:?} {:?} {:?}", case.x, case.w, case.window);
    }
}

/// `cargo test --release -p goshawk-ir -- --ignored --nocapture speed`
#[test]
#[ignore = "measures time"]
fn speed() {
    let layers = [
        ("1x1 256→64", [1, 28, 28, 256], [64, 1, 1, 256], 1),
        ("3x3 64→64", [1, 28, 28, 64], [64, 3, 3, 64], 1),
        ("3x3 3→32", [1, 112, 112, 3], [32, 3, 3, 3], 1),
        ("depthwise 3x3 256", [1, 56, 56, 256], [256, 3, 3, 1], 256),
    ];
    for (name, x, w, groups) in layers {
        let pad = w[1] / 2;
        let window = ConvWindow { pads: [pad; 4], groups, ..ConvWindow::unit() };
        let case = Case { x, w, window, zero_point: 3 };
        let (g, x, ..) = build(&case, &mut Random(1));
        let best = (0..8)
            .map(|_| {
                let start = std::time::Instant::now();
                int::run(&g, std::slice::from_ref(&x)).unwrap();
                start.elapsed().as_secs_f64()
            })
            .fold(f64::INFINITY, f64::min);
        let macs = g.ty(g.outputs[0].node).shape.count() * w[1] * w[2] * w[3];
        eprintln!("{name}: {:.2} GMAC/s", macs as f64 / best / 1e9);
    }
}
