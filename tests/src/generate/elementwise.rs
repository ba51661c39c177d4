//! Sums, products, tables, requantization and softmax.
use super::{Builder, range, rms};
use goshawk_ir::{
    DType, Dyadic, IntOp, NodeId, QParams, Shape, TensorType,
    op::float::NoAttrs,
    op::int::{Add, AvgPool, Conv, Rescale},
    op::window::{ConvWindow, PoolWindow},
};

impl Builder {
    /// A second operand for `x`: of the same shape, the value itself, one that broadcasts, or a constant.
    fn partner(&mut self, x: NodeId, only_u8: bool) -> Option<NodeId> {
        let ty = self.graph.ty(x).clone();
        let shape = ty.shape.clone();
        match self.random.below(10) {
            0 => Some(x).filter(|_| !only_u8 || ty.dtype == DType::U8),
            1..=3 => {
                // A constant that broadcasts along random dimensions.
                let keep = self.random.below(shape.rank() + 1);
                let dims: Vec<usize> =
                    shape[keep..].iter().map(|d| if self.random.chance(40) { 1 } else { *d }).collect();
                let shape = Shape::new(dims).ok()?;
                let ty = self.any_type(shape.clone(), if only_u8 { 0 } else { 20 });
                let (lo, hi) = range(&ty);
                let values = self.random.values(shape.count(), lo, hi, lo);
                Some(self.constant("operand", ty.dtype, shape, &values, ty.quant))
            }
            _ => self.recent(|t| {
                t.shape.broadcast(&shape).is_ok_and(|s| s == shape || s == t.shape)
                    && (!only_u8 || t.dtype == DType::U8)
            }),
        }
    }

    pub(super) fn add(&mut self, a: NodeId) -> Option<NodeId> {
        let b = self.partner(a, false)?;
        let operands = if self.random.chance(20) { [b, a] } else { [a, b] };
        let shapes = operands.map(|o| self.graph.ty(o).shape.clone());
        let shape = shapes[0].broadcast(&shapes[1]).ok().filter(|s| s.count() <= self.options.elements)?;
        let ty = self.any_type(shape, 35);
        Some(self.sum(operands, ty, 25))
    }

    /// requant(x + conv(x)), as residual networks have it: sum, and what reads it, on random grids.
    pub(super) fn residual_block(&mut self) -> Option<NodeId> {
        let [x, conv] = self.shape_keeping_conv()?;
        // Nobody else reads the convolution.
        self.values.retain(|v| *v != conv);
        let ty = self.any_type(self.graph.ty(conv).shape.clone(), 70);
        let operands = if self.random.chance(50) { [conv, x] } else { [x, conv] };
        let sum = self.sum(operands, ty, 10);
        if self.random.chance(70) { self.requant_any(sum) } else { Some(sum) }
    }

    pub(super) fn sum(&mut self, operands: [NodeId; 2], ty: TensorType, subtract: usize) -> NodeId {
        let sizes = operands.map(|o| rms(self.graph.ty(o)));
        let (lo, hi) = self.clamp(&ty);
        let [a, b] = sizes.map(|size| match self.random.chance(30) {
            true => Dyadic::from_f64(1.0).expect("in range"),
            false => self.dyadic(size, &ty),
        });
        let op = IntOp::Add(Add {
            a,
            b,
            subtract: self.random.chance(subtract),
            zero_point: ty.zero_point(),
            lo,
            hi,
        });
        self.push(op, &operands, ty)
    }

    pub(super) fn mul(&mut self, a: NodeId) -> Option<NodeId> {
        if self.graph.ty(a).dtype != DType::U8 {
            return None;
        }
        let b = self.partner(a, true)?;
        self.product([a, b])
    }

    fn product(&mut self, operands: [NodeId; 2]) -> Option<NodeId> {
        let types = operands.map(|o| self.graph.ty(o).clone());
        let shape =
            types[0].shape.broadcast(&types[1].shape).ok().filter(|s| s.count() <= self.options.elements)?;
        let ty = self.any_type(shape, 15);
        let requant = self.requant(rms(&types[0]) * rms(&types[1]), 1, &ty);
        Some(self.push(IntOp::Mul(Rescale { requant }), &operands, ty))
    }

    /// x · gate(conv(mean(x))): the block of squeeze-and-excitation networks.
    pub(super) fn squeeze_excite(&mut self) -> Option<NodeId> {
        let x = self.recent(|t| t.dtype == DType::U8 && t.shape.rank() == 4 && t.shape[3] <= 64)?;
        let x_type = self.graph.ty(x).clone();
        let [n, h, w, c] = x_type.shape.dims4().ok()?;
        let pooled = self.u8_type(Shape::new([n, 1, 1, c]).ok()?);
        let requant = self.requant(rms(&x_type) * (h * w) as f64, h * w, &pooled);
        let mean = IntOp::AvgPool(AvgPool { window: PoolWindow::global(h, w), requant });
        let pooled = self.push(mean, &[x], pooled);
        let bits = 4;
        let weights = self.random.values(c * c, -7, 7, 0);
        let q = QParams::per_tensor(0.25, 0, bits);
        let weight = self.constant("weight", DType::I4, Shape::new([c, 1, 1, c]).ok()?, &weights, Some(q));
        let bias = self.constant("bias", DType::I32, Shape::new([c]).ok()?, &vec![3; c], None);
        let ty = self.u8_type(Shape::new([n, 1, 1, c]).ok()?);
        let size = rms(self.graph.ty(pooled)) * 4.0 * (c as f64).sqrt();
        let requant = self.requant(size, 1, &ty);
        let conv = IntOp::Conv(Conv { window: ConvWindow::unit(), requant });
        let conv = self.push(conv, &[pooled, weight, bias], ty);
        let gate = self.table(conv, 0)?;
        self.product([x, gate])
    }

    pub(super) fn requant_any(&mut self, x: NodeId) -> Option<NodeId> {
        let shape = self.graph.ty(x).shape.clone();
        let ty = self.any_type(shape, 30);
        self.requant_to(x, ty)
    }

    pub(super) fn requant_to(&mut self, x: NodeId, ty: TensorType) -> Option<NodeId> {
        let size = rms(self.graph.ty(x));
        let requant = self.requant(size, 1, &ty);
        Some(self.push(IntOp::Requant(Rescale { requant }), &[x], ty))
    }

    pub(super) fn lut(&mut self) -> Option<NodeId> {
        let x = self.recent(|t| t.dtype == DType::U8)?;
        self.table(x, 20)
    }

    /// A table of random entries, for the tensor or for each channel; i16 in `wide` of 100 cases.
    fn table(&mut self, x: NodeId, wide: usize) -> Option<NodeId> {
        let shape = self.graph.ty(x).shape.clone();
        let channels = shape.last().copied().unwrap_or(1);
        let rows = if self.random.chance(30) && channels <= 64 { channels } else { 1 };
        let ty = self.any_type(shape, wide);
        let (lo, hi) = range(&ty);
        let entries: Vec<i32> = (0..rows * 256).map(|_| self.random.between(lo, hi)).collect();
        let table = self.constant("table", ty.dtype, Shape::new([rows, 256]).ok()?, &entries, None);
        Some(self.push(IntOp::Lut(NoAttrs {}), &[x, table], ty))
    }

    pub(super) fn softmax(&mut self) -> Option<NodeId> {
        let x = self.recent(|t| t.dtype == DType::U8 && t.shape.rank() >= 1)?;
        let shape = self.graph.ty(x).shape.clone();
        // Exponentials of any steepness; a flat or an extreme table now and then.
        let (top, slope) =
            (self.random.pick(&[1, 255, 1 << 15, 1 << 23, i32::MAX]), self.random.unit() * 0.5);
        let table: Vec<i32> = (0..256)
            .map(|i| ((f64::from(top) * (-slope * f64::from(i)).exp()) as i32).max(i32::from(i == 0)))
            .collect();
        let table = self.constant("exp", DType::I32, Shape::new([256]).ok()?, &table, None);
        let ty = TensorType::quantized(DType::I16, shape, QParams::per_tensor(1.0 / 32768.0, 0, 16));
        Some(self.push(IntOp::Softmax(NoAttrs {}), &[x, table], ty))
    }
}
