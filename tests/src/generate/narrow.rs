//! 3×3 convolutions of few bits, the layers that Winograd can compute: sizes from 1×1 up, any padding, tails of channels,
//! operands at the ends of their ranges, results inside a Concat, sums with a residual.
use super::{Builder, Options, Random, rms};
use goshawk_ir::{
    DType, IntGraph, IntOp, Layout, NodeId, QParams, Shape, TensorType,
    op::float::{Axis, NoAttrs},
    op::int::Conv,
    op::window::ConvWindow,
};

/// The graph of a seed: bytes, a table that makes them few bits, one convolution or two side by side. Widths are drawn from those
/// given, of weights at most six.
pub fn narrow_convolution(seed: u64, weights: &[u8], activations: &[u8]) -> IntGraph {
    let mut b = Builder {
        graph: IntGraph::new(format!("narrow{seed}")),
        random: Random::new(seed ^ 0x3a3),
        options: Options::default(),
        values: Vec::new(),
    };
    let r = &mut b.random;
    let most = r.pick(&[3, 9, 20]);
    let channels = r.pick(&[1, 3, 4, 8, 12, 16, 31, 32, 64, 65, 80, 128]);
    let dims = [r.pick(&[1, 1, 1, 2, 3]), 1 + r.below(most), 1 + r.below(most), channels];
    let shape = Shape::new(dims).expect("small dimensions");
    let bytes = TensorType::quantized(DType::U8, shape.clone(), QParams::per_tensor(0.1, 0, 8));
    let x = b.graph.add_input("x", bytes, Layout::Same);
    let bits = b.random.pick(activations);
    let width = b.random.pick(weights);
    let top = (1 << bits) - 1;
    let zero_point = b.random.pick(&[0, 0, top, top / 2]);
    let entries = b.random.values(256, 0, top, zero_point);
    let table = b.constant("table", DType::U8, Shape::new([1, 256]).expect("small"), &entries, None);
    let q = QParams::per_tensor(0.1, zero_point, bits);
    let x = b.push(IntOp::Lut(NoAttrs {}), &[x, table], TensorType::quantized(DType::U8, shape, q));
    let mut pads = [1; 4];
    if b.random.chance(40) {
        pads = pads.map(|_| b.random.below(3));
    }
    let window = ConvWindow { stride: [1, 1], pads, dilation: [1, 1], groups: 1 };
    let window = match window.out_size([dims[1], dims[2]], [3, 3]) {
        Ok(_) => window,
        Err(_) => ConvWindow { pads: [1; 4], ..window },
    };
    let first = b.narrow(x, &window, width, None);
    let mut result = first;
    let kind = b.random.below(10);
    if kind < 3 {
        let ty = b.graph.ty(first).clone();
        let second = b.narrow(x, &window, width, Some((&ty, None)));
        let channels = ty.shape[3] + b.graph.ty(second).shape[3];
        let shape = Shape::new([ty.shape[0], ty.shape[1], ty.shape[2], channels]).expect("small dimensions");
        let ty = TensorType { shape, ..ty };
        result = b.push(IntOp::Concat(Axis { axis: 3 }), &[first, second], ty);
    }
    if (3..7).contains(&kind) {
        let residual = b.graph.ty(first).clone();
        let like = b.any_type(residual.shape.clone(), 30);
        let second = b.narrow(x, &window, width, Some((&like, Some(residual.shape[3]))));
        let ty = b.any_type(residual.shape, 70);
        result = b.sum([first, second], ty, 0);
        b.graph.add_output("sum", result, Layout::Same);
        if b.random.chance(70) {
            result = b.requant_any(result).expect("any type fits");
        }
    }
    b.graph.add_output("y", result, Layout::Same);
    goshawk_passes::short_multipliers::run(&mut b.graph).expect("a small graph has no cycle");
    b.graph
}

impl Builder {
    /// A convolution with weights of so many bits, its result on a grid and of so many channels if they are given.
    fn narrow(
        &mut self,
        x: NodeId,
        window: &ConvWindow,
        width: u8,
        like: Option<(&TensorType, Option<usize>)>,
    ) -> NodeId {
        let dims = self.graph.ty(x).shape.dims4().expect("an image");
        let [n, h, w, c] = dims;
        let any = self.random.pick(&[1, 5, 16, 17, 32, 33, 48, 64, 72]);
        let out = like.and_then(|(_, out)| out).unwrap_or(any);
        let weight = Shape::new([out, 3, 3, c]).expect("small dimensions");
        let k = 9 * c;
        let (lo, hi) = (-1 << (width - 1), (1 << (width - 1)) - 1);
        let mut values = self.random.values(weight.count(), lo, hi, 0);
        if self.random.chance(20) {
            for row in values.chunks_mut(k) {
                row.fill(self.random.pick(&[lo, hi]));
            }
        }
        let scale = QParams::per_channel(0, vec![0.1; out], width);
        let dtype = if width > 4 { DType::I8 } else { DType::I4 };
        let weights = self.constant("weight", dtype, weight, &values, Some(scale));
        let bias: Vec<i32> = (0..out).map(|_| self.random.between(-9999, 9999)).collect();
        let bias = self.constant("bias", DType::I32, Shape::new([out]).expect("one dimension"), &bias, None);
        let [oh, ow] = window.out_size([h, w], [3, 3]).expect("the kernel fits");
        let shape = Shape::new([n, oh, ow, out]).expect("small dimensions");
        let ty = match like {
            Some((ty, _)) => TensorType { shape, ..ty.clone() },
            None => self.any_type(shape, 30),
        };
        let size = rms(self.graph.ty(x)) * (k as f64).sqrt() * 4.0;
        let requant = self.requant(size, out, &ty);
        self.push(IntOp::Conv(Conv { window: window.clone(), requant }), &[x, weights, bias], ty)
    }
}
