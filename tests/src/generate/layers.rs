//! Convolutions and linear layers.
use super::{Builder, Random, range, rms};
use goshawk_ir::{
    DType, IntOp, NodeId, QParams, Shape, TensorType,
    op::float::Reshape,
    op::int::{Conv, Linear},
    op::window::ConvWindow,
};

/// Largest number of multiplications of one layer: interpreters and tests stay fast.
const MAX_MACS: usize = 400_000;

impl Builder {
    /// Any geometry: 1×1, square, rectangular, strided, dilated, padded on each side by itself, grouped, depthwise.
    pub(super) fn conv(&mut self) -> Option<NodeId> {
        let x = self.recent(|t| t.dtype == DType::U8 && t.shape.rank() == 4)?;
        let [_, h, w, c] = self.graph.ty(x).shape.dims4().ok()?;
        let r = &mut self.random;
        let kernel = match r.below(11) {
            0..=2 => [1, 1],
            3..=6 => [3, 3],
            10 => [5, 5],
            7 => [1 + r.below(5), 1],
            8 => [1, 1 + r.below(7)],
            _ => [1 + r.below(5), 1 + r.below(5)],
        };
        let kernel = [kernel[0].min(h + 2), kernel[1].min(w + 2)];
        let mut pads = [0; 4];
        if r.chance(60) {
            for (i, p) in pads.iter_mut().enumerate() {
                *p = if r.chance(80) { kernel[i % 2] / 2 } else { r.below(kernel[i % 2] + 1) };
            }
        }
        let stride = if r.chance(65) { [1, 1] } else { [1 + r.below(3), 1 + r.below(3)] };
        let dilation = if r.chance(85) { [1, 1] } else { [1 + r.below(2), 1 + r.below(3)] };
        let out = r.pick(&[1, 2, 3, 5, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 64]);
        let divisors: Vec<usize> = (1..=c).filter(|d| c % d == 0).collect();
        let (groups, out) = match r.below(10) {
            0..=5 => (1, out),
            6..=8 => (c, c * r.pick(&[1, 1, 1, 2])),
            _ => {
                let groups = r.pick(&divisors);
                (groups, groups * (1 + r.below(5)))
            }
        };
        self.convolution(x, ConvWindow { stride, pads, dilation, groups }, kernel, out)
    }

    /// x̂ and a convolution of it that keeps its shape.
    pub(super) fn shape_keeping_conv(&mut self) -> Option<[NodeId; 2]> {
        let x = self.recent(|t| t.dtype == DType::U8 && t.shape.rank() == 4)?;
        let channels = self.graph.ty(x).shape[3];
        let reach = self.random.below(2);
        let window = ConvWindow { pads: [reach; 4], ..ConvWindow::unit() };
        Some([x, self.convolution(x, window, [1 + 2 * reach; 2], channels)?])
    }

    fn convolution(
        &mut self,
        x: NodeId,
        window: ConvWindow,
        kernel: [usize; 2],
        out: usize,
    ) -> Option<NodeId> {
        let [n, h, w, c] = self.graph.ty(x).shape.dims4().ok()?;
        let groups = window.groups;
        let [oh, ow] = window.out_size([h, w], kernel).ok()?;
        let k = kernel[0] * kernel[1] * (c / groups);
        let count = n * oh * ow * out;
        if count > self.options.elements || count * k > MAX_MACS {
            return None;
        }
        let weight = Shape::new([out, kernel[0], kernel[1], c / groups]).ok()?;
        let (operands, ty, requant) = self.weighted(x, weight, Shape::new([n, oh, ow, out]).ok()?);
        Some(self.push(IntOp::Conv(Conv { window, requant }), &operands, ty))
    }

    /// Over the last of two dimensions; values of higher rank are flattened first.
    pub(super) fn linear(&mut self) -> Option<NodeId> {
        let mut x = self.recent(|t| t.dtype == DType::U8 && t.shape.rank() >= 2)?;
        let dims = self.graph.ty(x).shape.to_vec();
        let (m, k) = (dims[0], dims[1..].iter().product::<usize>());
        let n = self.random.pick(&[1, 2, 3, 7, 10, 16, 19, 32, 100]);
        if m * n > self.options.elements || m * n * k > MAX_MACS {
            return None;
        }
        if dims.len() > 2 {
            x = self.keep(IntOp::Reshape(Reshape { shape: vec![m, k] }), &[x])?;
        }
        let (operands, ty, requant) = self.weighted(x, Shape::new([n, k]).ok()?, Shape::new([m, n]).ok()?);
        Some(self.push(IntOp::Linear(Linear { requant }), &operands, ty))
    }

    /// Weight and bias constants, result type and requantization of a layer.
    fn weighted(
        &mut self,
        x: NodeId,
        weight: Shape,
        result: Shape,
    ) -> (Vec<NodeId>, TensorType, goshawk_ir::Requant) {
        let bits: u8 =
            if self.options.usual { self.random.pick(&[4, 8, 8]) } else { self.random.between(2, 8) as u8 };
        // Few bits may also stand in i8.
        let dtype =
            if bits <= 4 && (self.options.usual || self.random.chance(80)) { DType::I4 } else { DType::I8 };
        let top = (1 << (bits - 1)) - 1;
        let (out, k) = (weight[0], weight.count() / weight[0]);
        let mut w = self.random.values(weight.count(), -top, top, 0);
        if self.random.chance(10) {
            // One sign in each channel: the largest accumulators.
            for row in w.chunks_mut(k) {
                let sign = self.random.pick(&[-1, 1]);
                row.iter_mut().for_each(|v| *v = sign * v.abs());
            }
        }
        let ty = self.any_type(result, 15);
        let x_type = self.graph.ty(x).clone();
        let (lo, hi) = range(&x_type);
        let largest = (lo - x_type.zero_point()).abs().max((hi - x_type.zero_point()).abs());
        let size = rms(&x_type) * (k as f64).sqrt() * f64::from(top) * 0.6;
        let extreme = self.random.chance(5);
        let bias: Vec<i32> = w
            .chunks(k)
            .map(|row| {
                let sum: i64 = row.iter().map(|v| i64::from(v.abs())).sum();
                let room = i64::from(i32::MAX) - sum * i64::from(largest);
                bias(&mut self.random, size, room, extreme)
            })
            .collect();
        let scales: Vec<f32> = (0..out).map(|_| self.scale()).collect();
        let q = if self.random.chance(85) {
            QParams::per_channel(0, scales, bits)
        } else {
            QParams::per_tensor(scales[0], 0, bits)
        };
        let w = self.constant("weight", dtype, weight, &w, Some(q));
        let bias_shape = Shape::new([out]).expect("one dimension");
        let b = self.constant("bias", DType::I32, bias_shape, &bias, None);
        let channels = if self.random.chance(75) { out } else { 1 };
        let requant = self.requant(size, channels, &ty);
        (vec![x, w, b], ty, requant)
    }
}

/// A bias of the accumulators' size, or the largest that the accumulator proof allows.
fn bias(random: &mut Random, size: f64, room: i64, extreme: bool) -> i32 {
    let value = if extreme { room } else { ((random.unit() - 0.5) * 2.0 * size) as i64 };
    let value = value.clamp(-room, room) as i32;
    if extreme && random.chance(50) { -value } else { value }
}
