//! Operators of the integer graph: NHWC, activations u8 (any zero point) or i16 (zero point 0), weights i8 or i4,
//! biases and accumulators i32. x̂ stands for x − zero_point(x).
use super::float::{Axis, NoAttrs, Reshape, Slice, Transpose};
use super::window::{ConvWindow, PoolWindow};
use crate::{
    Dyadic, Requant, Result,
    attr::{Attr, AttrValue},
    attributes, bail, operators,
};

operators! {
    /// An operator of the integer graph.
    pub enum IntOp("int") {
        /// x u8 [N,H,W,C], w i8|i4 [O,KH,KW,C/groups], b i32 [O] → u8|i16 [N,H',W',O]:
        /// requant(Σ x̂·w + b), one dyadic number per output channel or one for all.
        Conv(Conv) = "conv",
        /// x u8 [M,K], w i8|i4 [N,K], b i32 [N] → u8|i16 [M,N]: requant(Σ x̂·w + b).
        Linear(Linear) = "linear",
        /// a, b u8|i16 with broadcasting → u8|i16:
        /// clamp(rescale_a(â) ± rescale_b(b̂) + zero_point, lo, hi), each term rounded by itself.
        Add(Add) = "add",
        /// a, b u8 with broadcasting → u8|i16: requant(â·b̂).
        Mul(Rescale) = "mul",
        /// x u8|i16 → u8|i16: requant(x̂).
        Requant(Rescale) = "requant",
        /// x u8, table u8|i16 [1,256] or [C,256] → table\[channel or 0\]\[x\], channel = innermost index.
        Lut(NoAttrs) = "lut",
        /// x u8|i16 [N,H,W,C]: maximum of the taps inside the input.
        MaxPool(PoolWindow) = "max_pool",
        /// x u8|i16 [N,H,W,C] → u8|i16: requant(Σ x̂) with the dyadic number of the window's cell count.
        AvgPool(AvgPool) = "avg_pool",
        /// Tensors of equal quantization.
        Concat(Axis) = "concat",
        /// One tensor; steps are positive.
        Slice(Slice) = "slice",
        /// Constant padding with an integer.
        Pad(Pad) = "pad",
        /// Row-major reinterpretation.
        Reshape(Reshape) = "reshape",
        /// Permutation of dimensions.
        Transpose(Transpose) = "transpose",
        /// x [N,H,W,C] → x\[n, rows\[i\], columns\[j\], c\].
        ResizeNearest(ResizeNearest) = "resize_nearest",
        /// x u8 [N,H,W,C] → u8: (Σ wr·wc·x + 2²¹) >> 22 over the two rows and columns of each tap.
        ResizeLinear(ResizeLinear) = "resize_linear",
        /// x u8 […,C], table i32 [256] → i16 […,C] of scale 2⁻¹⁵: with e = table\[max − x\] and S = Σ e in i64,
        /// min((2¹⁵·e + S/2) / S, 32767), division truncating. Innermost dimension.
        Softmax(NoAttrs) = "softmax",
    }
}

attributes! {
    /// Attributes of [`IntOp::Conv`].
    pub struct Conv {
        /// Geometry.
        pub window: ConvWindow,
        /// Accumulator to result.
        pub requant: Requant,
    }
}

attributes! {
    /// Attributes of [`IntOp::Linear`].
    pub struct Linear {
        /// Accumulator to result.
        pub requant: Requant,
    }
}

attributes! {
    /// Attributes of [`IntOp::Mul`] and [`IntOp::Requant`].
    pub struct Rescale {
        /// Product or operand to result; one dyadic number.
        pub requant: Requant,
    }
}

attributes! {
    /// Attributes of [`IntOp::Add`].
    pub struct Add {
        /// Rescales the first operand.
        pub a: Dyadic,
        /// Rescales the second operand.
        pub b: Dyadic,
        /// Whether the second operand is subtracted.
        pub subtract: bool,
        /// Zero point of the result.
        pub zero_point: i32,
        /// Smallest result.
        pub lo: i32,
        /// Largest result.
        pub hi: i32,
    }
}

attributes! {
    /// Attributes of [`IntOp::AvgPool`].
    pub struct AvgPool {
        /// Geometry.
        pub window: PoolWindow,
        /// Sum to result. One dyadic number for each cell count: index count − 1, kernel rows × columns of them.
        pub requant: Requant,
    }
}

attributes! {
    /// Attributes of [`IntOp::Pad`].
    pub struct Pad {
        /// Elements added in front, for each dimension.
        pub before: Vec<usize>,
        /// Elements added behind, for each dimension.
        pub after: Vec<usize>,
        /// Value of the added elements, usually the zero point.
        pub value: i32,
    }
}

attributes! {
    /// Attributes of [`IntOp::ResizeNearest`].
    pub struct ResizeNearest {
        /// Operand row of each result row.
        pub rows: Vec<usize>,
        /// Operand column of each result column.
        pub columns: Vec<usize>,
    }
}

attributes! {
    /// Attributes of [`IntOp::ResizeLinear`].
    pub struct ResizeLinear {
        /// For each result row.
        pub rows: Vec<Tap>,
        /// For each result column.
        pub columns: Vec<Tap>,
    }
}

/// (2048 − weight)·x\[low\] + weight·x\[high\], weight in 0..=2048.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tap {
    /// First index.
    pub low: usize,
    /// Second index.
    pub high: usize,
    /// Weight of the second, in 1/2048.
    pub weight: i32,
}

impl AttrValue for Tap {
    fn to_attr(&self) -> Attr {
        Attr::Call("tap".into(), vec![self.low.to_attr(), self.high.to_attr(), self.weight.to_attr()])
    }
    fn from_attr(attr: &Attr) -> Result<Self> {
        match attr {
            Attr::Call(n, a) if n == "tap" && a.len() == 3 => Ok(Self {
                low: usize::from_attr(&a[0])?,
                high: usize::from_attr(&a[1])?,
                weight: i32::from_attr(&a[2])?,
            }),
            _ => bail!("expected tap(low, high, weight), got {attr:?}"),
        }
    }
}
