//! Pools, resizing and operators that move elements.
use super::{Builder, range, rms};
use goshawk_ir::{
    DType, Dyadic, IntOp, NodeId, Shape,
    op::float::{Axis, Reshape, Slice, Transpose},
    op::int::{AvgPool, Pad, ResizeLinear, ResizeNearest, Tap},
    op::window::PoolWindow,
};

impl Builder {
    /// A window that fits the operand, with a tap of it in every position.
    fn window(&mut self, x: NodeId) -> Option<PoolWindow> {
        let [_, h, w, _] = self.graph.ty(x).shape.dims4().ok()?;
        let r = &mut self.random;
        if r.chance(15) {
            return Some(PoolWindow::global(h, w));
        }
        let kernel = [1 + r.below(4), 1 + r.below(4)];
        let mut pads = [0; 4];
        if r.chance(50) {
            for (i, p) in pads.iter_mut().enumerate() {
                *p = r.below(kernel[i % 2]);
            }
        }
        let window = PoolWindow {
            kernel,
            stride: [1 + r.below(3), 1 + r.below(3)],
            pads,
            dilation: if r.chance(85) { [1, 1] } else { [1 + r.below(2), 1 + r.below(2)] },
            ceil_mode: r.chance(40),
            count_include_pad: r.chance(40),
        };
        let out = window.out_size([h, w]).ok()?;
        let covered = (0..2).all(|a| (0..out[a]).all(|o| !window.taps(a, o, [h, w][a]).0.is_empty()));
        covered.then_some(window)
    }

    pub(super) fn max_pool(&mut self, x: NodeId) -> Option<NodeId> {
        let window = self.window(x)?;
        self.keep(IntOp::MaxPool(window), &[x])
    }

    pub(super) fn avg_pool(&mut self, x: NodeId) -> Option<NodeId> {
        let window = self.window(x)?;
        let cells = window.kernel[0] * window.kernel[1];
        let size = rms(self.graph.ty(x));
        let wide = self.graph.ty(x).dtype == DType::I16;
        let ty = self.any_type(Shape::scalar(), if wide { 50 } else { 10 });
        let one = self.dyadic(size, &ty);
        let (lo, hi) = self.clamp(&ty);
        // As a compiler would: one ratio divided by each cell count.
        let mult = (1..=cells)
            .map(|n| {
                let ratio = (one.value() / n as f64).max(2f64.powi(-50));
                Dyadic::from_f64(ratio).expect("the ratio is positive and small")
            })
            .collect();
        let requant = goshawk_ir::Requant { mult, zero_point: ty.zero_point(), lo, hi };
        let op = IntOp::AvgPool(AvgPool { window, requant });
        let shape = self.shape(&op, &[x])?;
        Some(self.push(op, &[x], goshawk_ir::TensorType { shape, ..ty }))
    }

    /// Two to four operands; those that are not `x` itself are requantized to its type first.
    pub(super) fn concat(&mut self, x: NodeId) -> Option<NodeId> {
        let ty = self.graph.ty(x).clone();
        if ty.shape.rank() == 0 {
            return None;
        }
        let axis =
            if self.random.chance(70) { ty.shape.rank() - 1 } else { self.random.below(ty.shape.rank()) };
        let mut operands = vec![x];
        for _ in 0..1 + self.random.below(3) {
            let fits = |s: &Shape| {
                s.rank() == ty.shape.rank() && (0..s.rank()).all(|i| i == axis || s[i] == ty.shape[i])
            };
            let other = self.recent(|t| fits(&t.shape))?;
            let same = self.graph.ty(other).quant == ty.quant && self.graph.ty(other).dtype == ty.dtype;
            let shape = self.graph.ty(other).shape.clone();
            let to = goshawk_ir::TensorType { shape, ..ty.clone() };
            operands.push(if same { other } else { self.requant_to(other, to)? });
        }
        if self.random.chance(50) {
            operands.reverse();
        }
        self.keep(IntOp::Concat(Axis { axis }), &operands)
    }

    pub(super) fn slice(&mut self, x: NodeId) -> Option<NodeId> {
        let dims = self.graph.ty(x).shape.to_vec();
        let (mut start, mut step, mut size) = (Vec::new(), Vec::new(), Vec::new());
        for d in dims {
            let first = if self.random.chance(60) { 0 } else { self.random.below(d) };
            let by = if self.random.chance(80) { 1 } else { 1 + self.random.below(3) };
            let most = (d - first).div_ceil(by);
            start.push(first);
            step.push(by as i64);
            size.push(if self.random.chance(60) { most } else { 1 + self.random.below(most) });
        }
        self.keep(IntOp::Slice(Slice { start, step, size }), &[x])
    }

    pub(super) fn pad(&mut self, x: NodeId) -> Option<NodeId> {
        let ty = self.graph.ty(x).clone();
        let mut side = || {
            (0..ty.shape.rank())
                .map(|_| if self.random.chance(60) { 0 } else { self.random.below(3) })
                .collect()
        };
        let (before, after) = (side(), side());
        let (lo, hi) = range(&ty);
        let value =
            if self.random.chance(60) { ty.zero_point().clamp(lo, hi) } else { self.random.between(lo, hi) };
        self.keep(IntOp::Pad(Pad { before, after, value }), &[x])
    }

    /// Merges two neighbouring dimensions, splits one, or flattens.
    pub(super) fn reshape(&mut self, x: NodeId) -> Option<NodeId> {
        let mut dims = self.graph.ty(x).shape.to_vec();
        let at = self.random.below(dims.len().max(1));
        match self.random.below(3) {
            0 if dims.len() >= 2 => {
                let at = at.min(dims.len() - 2);
                let merged = dims.remove(at) * dims[at];
                dims[at] = merged;
            }
            1 if !dims.is_empty() && dims.len() < 6 => {
                let divisors: Vec<usize> = (1..=dims[at]).filter(|d| dims[at].is_multiple_of(*d)).collect();
                let inner = self.random.pick(&divisors);
                dims[at] /= inner;
                dims.insert(at + 1, inner);
            }
            _ => dims = vec![dims.first().copied().unwrap_or(1), dims.iter().skip(1).product()],
        }
        self.keep(IntOp::Reshape(Reshape { shape: dims }), &[x])
    }

    pub(super) fn transpose(&mut self, x: NodeId) -> Option<NodeId> {
        let mut perm: Vec<usize> = (0..self.graph.ty(x).shape.rank()).collect();
        for i in (1..perm.len()).rev() {
            perm.swap(i, self.random.below(i + 1));
        }
        self.keep(IntOp::Transpose(Transpose { perm }), &[x])
    }

    /// Nearest or linear, with the indices of a real resize or arbitrary ones.
    pub(super) fn resize(&mut self, x: NodeId) -> Option<NodeId> {
        let ty = self.graph.ty(x).clone();
        let [_, h, w, _] = ty.shape.dims4().ok()?;
        let mut axis = |input: usize| -> Vec<Tap> {
            let output = 1 + self.random.below(2 * input + 2);
            let real = self.random.chance(70);
            (0..output)
                .map(|o| {
                    if !real {
                        let [low, high] = [self.random.below(input), self.random.below(input)];
                        return Tap { low, high, weight: self.random.between(0, 2048) };
                    }
                    let at = ((o as f64 + 0.5) * input as f64 / output as f64 - 0.5).max(0.0);
                    let low = (at as usize).min(input - 1);
                    let weight = ((at - low as f64) * 2048.0).round().min(2048.0) as i32;
                    Tap { low, high: (low + 1).min(input - 1), weight }
                })
                .collect()
        };
        let (rows, columns) = (axis(h), axis(w));
        let low = |taps: &[Tap]| taps.iter().map(|t| t.low).collect();
        let op = if ty.dtype == DType::I16 || self.random.chance(50) {
            IntOp::ResizeNearest(ResizeNearest { rows: low(&rows), columns: low(&columns) })
        } else {
            IntOp::ResizeLinear(ResizeLinear { rows, columns })
        };
        self.keep(op, &[x])
    }
}
