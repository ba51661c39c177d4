//! Operators of the float graph: NCHW, f32, ONNX semantics.
use super::window::{ConvWindow, PoolWindow};
use crate::{
    Result,
    attr::{Attr, AttrValue},
    attributes, bail, operators, words,
};

operators! {
    /// An operator of the float graph.
    pub enum FloatOp("float") {
        /// x [N,C,H,W], w [O,C/groups,KH,KW], optional b [O] → [N,O,H',W'].
        Conv(Conv) = "conv",
        /// x [N,C,…], gamma, beta, mean, variance [C]: gamma·(x − mean)/√(variance + epsilon) + beta.
        BatchNorm(BatchNorm) = "batch_norm",
        /// x [M,K], w [N,K], optional b [N] → x·wᵀ + b, [M,N].
        Linear(Linear) = "linear",
        /// a […,M,K], b […,K,N] → […,M,N], leading dimensions broadcast (ONNX MatMul, rank ≥ 2).
        MatMul(NoAttrs) = "matmul",
        /// Elementwise functions of one tensor, applied in order.
        Unary(Unary) = "unary",
        /// x, slope (broadcasts to x): x where x ≥ 0, slope·x elsewhere.
        PRelu(NoAttrs) = "prelu",
        /// a, b with broadcasting.
        Binary(Binary) = "binary",
        /// Any number of tensors.
        Concat(Axis) = "concat",
        /// One tensor.
        Slice(Slice) = "slice",
        /// x [N,C,H,W].
        MaxPool(PoolWindow) = "max_pool",
        /// x [N,C,H,W].
        AvgPool(PoolWindow) = "avg_pool",
        /// Mean over axes.
        ReduceMean(Reduce) = "reduce_mean",
        /// Maximum over axes.
        ReduceMax(Reduce) = "reduce_max",
        /// Sum over axes.
        ReduceSum(Reduce) = "reduce_sum",
        /// Row-major reinterpretation.
        Reshape(Reshape) = "reshape",
        /// Permutation of dimensions.
        Transpose(Transpose) = "transpose",
        /// Constant padding.
        Pad(Pad) = "pad",
        /// x [N,C,H,W] → [N,C,H',W'].
        Resize(Resize) = "resize",
        /// Along one axis.
        Softmax(Axis) = "softmax",
        /// x [N,C,H,W] → [N,C/b²,H·b,W·b].
        DepthToSpace(DepthToSpace) = "depth_to_space",
    }
}

attributes! {
    /// No attributes.
    pub struct NoAttrs {}
}

attributes! {
    /// Bounds of a fused activation: Relu is [0, ∞], Relu6 [0, 6].
    #[derive(Copy)]
    pub struct Clamp {
        /// Lower bound.
        pub lo: f32,
        /// Upper bound.
        pub hi: f32,
    }
}

impl Clamp {
    /// Relu.
    pub const RELU: Self = Self { lo: 0.0, hi: f32::INFINITY };

    /// x limited to the bounds; NaN stays.
    pub fn apply(&self, x: f32) -> f32 {
        if x < self.lo {
            self.lo
        } else if x > self.hi {
            self.hi
        } else {
            x
        }
    }
}

impl AttrValue for Clamp {
    fn to_attr(&self) -> Attr {
        Attr::Call("clip".into(), vec![self.lo.to_attr(), self.hi.to_attr()])
    }
    fn from_attr(attr: &Attr) -> Result<Self> {
        match attr {
            Attr::Call(n, a) if n == "clip" && a.len() == 2 => {
                Ok(Self { lo: f32::from_attr(&a[0])?, hi: f32::from_attr(&a[1])? })
            }
            _ => bail!("expected clip(lo, hi), got {attr:?}"),
        }
    }
}

impl AttrValue for ConvWindow {
    fn to_attr(&self) -> Attr {
        window_attr(self)
    }
    fn from_attr(attr: &Attr) -> Result<Self> {
        window_from_attr(attr)
    }
}

impl AttrValue for PoolWindow {
    fn to_attr(&self) -> Attr {
        window_attr(self)
    }
    fn from_attr(attr: &Attr) -> Result<Self> {
        window_from_attr(attr)
    }
}

/// A struct of attributes inside another one: `window(stride([1, 1]), …)`.
fn window_attr(w: &impl crate::attr::Attributes) -> Attr {
    let fields = w.to_attrs().into_iter().map(|(n, v)| Attr::Call(n.into(), vec![v])).collect();
    Attr::Call("window".into(), fields)
}

fn window_from_attr<T: crate::attr::Attributes>(attr: &Attr) -> Result<T> {
    let Attr::Call(name, fields) = attr else { bail!("expected window(…), got {attr:?}") };
    if name != "window" {
        bail!("expected window(…), got {name}");
    }
    let mut attrs = Vec::new();
    for field in fields {
        match field {
            Attr::Call(n, v) if v.len() == 1 => attrs.push((n.clone(), v[0].clone())),
            _ => bail!("expected name(value), got {field:?}"),
        }
    }
    T::from_attrs(&attrs)
}

attributes! {
    /// Attributes of [`FloatOp::Conv`].
    pub struct Conv {
        /// Geometry.
        pub window: ConvWindow,
        /// Fused activation.
        pub clamp: Option<Clamp>,
    }
}

attributes! {
    /// Attributes of [`FloatOp::BatchNorm`].
    pub struct BatchNorm {
        /// Added to the variance.
        pub epsilon: f32,
    }
}

attributes! {
    /// Attributes of [`FloatOp::Linear`].
    pub struct Linear {
        /// Fused activation.
        pub clamp: Option<Clamp>,
    }
}

attributes! {
    /// Attributes of [`FloatOp::Unary`].
    pub struct Unary {
        /// Functions in the order of application.
        pub chain: Vec<UnaryFn>,
    }
}

/// An elementwise function of one variable.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum UnaryFn {
    /// Relu, Relu6, Clip.
    Clip(Clamp),
    /// x where x ≥ 0, α·x elsewhere.
    LeakyRelu(f32),
    /// α·(eˣ − 1) where x < 0.
    Elu(f32),
    /// x · clip(x/6 + ½, 0, 1).
    HardSwish,
    /// clip(α·x + β, 0, 1).
    HardSigmoid(f32, f32),
    /// 1/(1 + e⁻ˣ).
    Sigmoid,
    /// x · sigmoid(x).
    Silu,
    /// x · tanh(ln(1 + eˣ)).
    Mish,
    /// Hyperbolic tangent.
    Tanh,
    /// x·Φ(x), with the error function.
    Gelu,
    /// The tanh approximation of Gelu.
    GeluTanh,
    /// Error function.
    Erf,
    /// ln(1 + eˣ).
    Softplus,
    /// eˣ.
    Exp,
    /// Natural logarithm.
    Log,
    /// Square root.
    Sqrt,
    /// Absolute value.
    Abs,
    /// x^p.
    Pow(f32),
    /// a·x + b: scalar Add, Sub, Mul, Div and Neg.
    Affine(f32, f32),
    /// a / x.
    Reciprocal(f32),
}

impl UnaryFn {
    /// Relu.
    pub const RELU: Self = Self::Clip(Clamp::RELU);

    fn parts(self) -> (&'static str, Vec<f32>) {
        match self {
            Self::Clip(c) => ("clip", vec![c.lo, c.hi]),
            Self::LeakyRelu(a) => ("leaky_relu", vec![a]),
            Self::Elu(a) => ("elu", vec![a]),
            Self::HardSwish => ("hard_swish", vec![]),
            Self::HardSigmoid(a, b) => ("hard_sigmoid", vec![a, b]),
            Self::Sigmoid => ("sigmoid", vec![]),
            Self::Silu => ("silu", vec![]),
            Self::Mish => ("mish", vec![]),
            Self::Tanh => ("tanh", vec![]),
            Self::Gelu => ("gelu", vec![]),
            Self::GeluTanh => ("gelu_tanh", vec![]),
            Self::Erf => ("erf", vec![]),
            Self::Softplus => ("softplus", vec![]),
            Self::Exp => ("exp", vec![]),
            Self::Log => ("log", vec![]),
            Self::Sqrt => ("sqrt", vec![]),
            Self::Abs => ("abs", vec![]),
            Self::Pow(p) => ("pow", vec![p]),
            Self::Affine(a, b) => ("affine", vec![a, b]),
            Self::Reciprocal(a) => ("reciprocal", vec![a]),
        }
    }
}

impl AttrValue for UnaryFn {
    fn to_attr(&self) -> Attr {
        let (name, args) = self.parts();
        Attr::Call(name.into(), args.iter().map(AttrValue::to_attr).collect())
    }
    fn from_attr(attr: &Attr) -> Result<Self> {
        let Attr::Call(name, args) = attr else { bail!("expected function(…), got {attr:?}") };
        let args: Vec<f32> = args.iter().map(f32::from_attr).collect::<Result<_>>()?;
        Ok(match (name.as_str(), &args[..]) {
            ("clip", [lo, hi]) => Self::Clip(Clamp { lo: *lo, hi: *hi }),
            ("leaky_relu", [a]) => Self::LeakyRelu(*a),
            ("elu", [a]) => Self::Elu(*a),
            ("hard_swish", []) => Self::HardSwish,
            ("hard_sigmoid", [a, b]) => Self::HardSigmoid(*a, *b),
            ("sigmoid", []) => Self::Sigmoid,
            ("silu", []) => Self::Silu,
            ("mish", []) => Self::Mish,
            ("tanh", []) => Self::Tanh,
            ("gelu", []) => Self::Gelu,
            ("gelu_tanh", []) => Self::GeluTanh,
            ("erf", []) => Self::Erf,
            ("softplus", []) => Self::Softplus,
            ("exp", []) => Self::Exp,
            ("log", []) => Self::Log,
            ("sqrt", []) => Self::Sqrt,
            ("abs", []) => Self::Abs,
            ("pow", [p]) => Self::Pow(*p),
            ("affine", [a, b]) => Self::Affine(*a, *b),
            ("reciprocal", [a]) => Self::Reciprocal(*a),
            _ => bail!("unknown function {name} with {} arguments", args.len()),
        })
    }
}

words! {
    /// An elementwise function of two variables.
    pub enum BinaryFn {
        /// a + b
        Add = "add",
        /// a − b
        Sub = "sub",
        /// a · b
        Mul = "mul",
        /// a / b
        Div = "div",
        /// min(a, b)
        Min = "min",
        /// max(a, b)
        Max = "max",
        /// a^b
        Pow = "pow",
    }
}

attributes! {
    /// Attributes of [`FloatOp::Binary`].
    pub struct Binary {
        /// The function.
        pub function: BinaryFn,
        /// Fused activation.
        pub clamp: Option<Clamp>,
    }
}

attributes! {
    /// An axis.
    pub struct Axis {
        /// Counted from the outermost dimension.
        pub axis: usize,
    }
}

attributes! {
    /// start, start + step, … : `size` elements along every dimension.
    pub struct Slice {
        /// First index along each dimension.
        pub start: Vec<usize>,
        /// Step along each dimension; may be negative.
        pub step: Vec<i64>,
        /// Number of elements along each dimension.
        pub size: Vec<usize>,
    }
}

attributes! {
    /// Reduction over axes.
    pub struct Reduce {
        /// Axes, ascending.
        pub axes: Vec<usize>,
        /// Whether reduced dimensions stay with length 1.
        pub keep_dims: bool,
    }
}

attributes! {
    /// Target of a reshape.
    pub struct Reshape {
        /// The new dimensions.
        pub shape: Vec<usize>,
    }
}

attributes! {
    /// Permutation of dimensions.
    pub struct Transpose {
        /// Result dimension i is operand dimension perm\[i\].
        pub perm: Vec<usize>,
    }
}

attributes! {
    /// Constant padding.
    pub struct Pad {
        /// Elements added in front, for each dimension.
        pub before: Vec<usize>,
        /// Elements added behind, for each dimension.
        pub after: Vec<usize>,
        /// Value of the added elements.
        pub value: f32,
    }
}

words! {
    /// Interpolation of [`FloatOp::Resize`].
    pub enum ResizeMode {
        /// Nearest element, by the rule of [`NearestRule`].
        Nearest = "nearest",
        /// Linear in both directions.
        Linear = "linear",
    }
}

words! {
    /// ONNX `coordinate_transformation_mode`.
    pub enum Coordinates {
        /// (x + ½)/scale − ½
        HalfPixel = "half_pixel",
        /// As half_pixel, but 0 where the result has length 1.
        PytorchHalfPixel = "pytorch_half_pixel",
        /// x·(in − 1)/(out − 1)
        AlignCorners = "align_corners",
        /// x/scale
        Asymmetric = "asymmetric",
        /// (x + ½)/scale: TensorFlow's nearest.
        TfHalfPixelForNn = "tf_half_pixel_for_nn",
    }
}

words! {
    /// ONNX `nearest_mode`.
    pub enum NearestRule {
        /// Half rounds down.
        RoundPreferFloor = "round_prefer_floor",
        /// Half rounds up.
        RoundPreferCeil = "round_prefer_ceil",
        /// Down.
        Floor = "floor",
        /// Up.
        Ceil = "ceil",
    }
}

attributes! {
    /// Attributes of [`FloatOp::Resize`].
    pub struct Resize {
        /// Interpolation.
        pub mode: ResizeMode,
        /// How result coordinates map to operand coordinates.
        pub coordinates: Coordinates,
        /// Rounding of nearest.
        pub nearest: NearestRule,
        /// Result rows and columns.
        pub size: [usize; 2],
        /// Scale of rows and columns as the model gives it; result/operand length where it gives sizes.
        pub scale: [f32; 2],
    }
}

words! {
    /// Channel order of [`FloatOp::DepthToSpace`].
    pub enum DepthOrder {
        /// Depth, column, row: channel = (by·b + bx)·C' + c.
        Dcr = "dcr",
        /// Column, row, depth: channel = c·b² + by·b + bx.
        Crd = "crd",
    }
}

attributes! {
    /// Attributes of [`FloatOp::DepthToSpace`].
    pub struct DepthToSpace {
        /// Block size b.
        pub block: usize,
        /// Channel order.
        pub order: DepthOrder,
    }
}
