//! Operator importers, by family. Each turns one ONNX node into canonical float operators (see the conventions in
//! `ARCHITECTURE.md`), or into a constant where its operands are constants.
//! Specification: <https://onnx.ai/onnx/operators/>.
mod activation;
mod arithmetic;
mod constant;
mod conv;
mod layout;
mod linear;
mod norm;
mod pad;
mod pool;
mod reduce;
mod resize;
mod select;
mod shape;
mod slice;
mod window;

use super::{
    cx::{Cx, Value},
    host_ops::{Fold, Two},
    refusal::Result,
};
use goshawk_ir::op::float::{BinaryFn, UnaryFn};

/// Imports one node: its results in order.
pub type Import = fn(&mut Cx<'_, '_>) -> Result<Vec<Value>>;

/// Writes the table of importers twice: as names to list, and as a function to find one.
macro_rules! importers {
    ($($name:literal => $import:expr,)*) => {
        /// Standard operators that have an importer.
        pub const NAMES: &[&str] = &[$($name),*];

        /// The importer of a standard operator.
        pub fn find(op_type: &str) -> Option<Import> {
            Some(match op_type {
                $($name => $import,)*
                _ => return None,
            })
        }
    };
}

importers! {
    "Conv" => conv::conv,
    "BatchNormalization" => norm::batch_norm,
    "Gemm" => linear::gemm,
    "MatMul" => linear::matmul,

    "Relu" => |cx| activation::simple(cx, UnaryFn::RELU),
    "Sigmoid" => |cx| activation::simple(cx, UnaryFn::Sigmoid),
    "Tanh" => |cx| activation::simple(cx, UnaryFn::Tanh),
    "HardSwish" => |cx| activation::simple(cx, UnaryFn::HardSwish),
    "Mish" => |cx| activation::simple(cx, UnaryFn::Mish),
    "Softplus" => |cx| activation::simple(cx, UnaryFn::Softplus),
    "Erf" => |cx| activation::simple(cx, UnaryFn::Erf),
    "Exp" => |cx| activation::simple(cx, UnaryFn::Exp),
    "Log" => |cx| activation::simple(cx, UnaryFn::Log),
    "Sqrt" => |cx| activation::sqrt(cx),
    "Abs" => |cx| activation::abs(cx),
    "Neg" => |cx| activation::neg(cx),
    "Reciprocal" => |cx| activation::simple(cx, UnaryFn::Reciprocal(1.0)),
    "Clip" => activation::clip,
    "LeakyRelu" => activation::leaky_relu,
    "PRelu" => activation::prelu,
    "Elu" => activation::elu,
    "Selu" => activation::selu,
    "Celu" => activation::celu,
    "HardSigmoid" => activation::hard_sigmoid,
    "Gelu" => activation::gelu,
    "Floor" => |cx| activation::rounding(cx, f32::floor),
    "Ceil" => |cx| activation::rounding(cx, f32::ceil),
    "Round" => |cx| activation::rounding(cx, f32::round_ties_even),
    "Softmax" => select::softmax,
    "LogSoftmax" => select::log_softmax,

    "Add" => |cx| arithmetic::binary(cx, BinaryFn::Add),
    "Sub" => |cx| arithmetic::binary(cx, BinaryFn::Sub),
    "Mul" => |cx| arithmetic::binary(cx, BinaryFn::Mul),
    "Div" => |cx| arithmetic::binary(cx, BinaryFn::Div),
    "Pow" => |cx| arithmetic::binary(cx, BinaryFn::Pow),
    "Min" => |cx| arithmetic::variadic(cx, BinaryFn::Min),
    "Max" => |cx| arithmetic::variadic(cx, BinaryFn::Max),
    "Sum" => |cx| arithmetic::variadic(cx, BinaryFn::Add),
    "Mean" => arithmetic::mean,
    "Mod" => arithmetic::modulo,
    "Equal" => |cx| arithmetic::constant_only(cx, Two::Equal),
    "Less" => |cx| arithmetic::constant_only(cx, Two::Less),
    "LessOrEqual" => |cx| arithmetic::constant_only(cx, Two::LessOrEqual),
    "Greater" => |cx| arithmetic::constant_only(cx, Two::Greater),
    "GreaterOrEqual" => |cx| arithmetic::constant_only(cx, Two::GreaterOrEqual),
    "And" => |cx| arithmetic::constant_only(cx, Two::And),
    "Or" => |cx| arithmetic::constant_only(cx, Two::Or),
    "Not" => arithmetic::not,
    "Where" => select::select,

    "MaxPool" => pool::max_pool,
    "AveragePool" => pool::average_pool,
    "GlobalAveragePool" => |cx| reduce::global(cx, Fold::Mean),
    "GlobalMaxPool" => |cx| reduce::global(cx, Fold::Max),
    "ReduceMean" => |cx| reduce::reduce(cx, Fold::Mean),
    "ReduceMax" => |cx| reduce::reduce(cx, Fold::Max),
    "ReduceMin" => |cx| reduce::reduce(cx, Fold::Min),
    "ReduceSum" => |cx| reduce::reduce(cx, Fold::Sum),
    "ReduceProd" => |cx| reduce::reduce(cx, Fold::Prod),

    "Reshape" => shape::reshape,
    "Flatten" => shape::flatten,
    "Squeeze" => shape::squeeze,
    "Unsqueeze" => shape::unsqueeze,
    "Expand" => shape::expand,
    "Shape" => shape::shape,
    "Size" => shape::size,
    "Transpose" => layout::transpose,
    "Concat" => layout::concat,
    "DepthToSpace" => layout::depth_to_space,
    "SpaceToDepth" => layout::space_to_depth,
    "Tile" => layout::tile,
    "Slice" => slice::slice,
    "Split" => slice::split,
    "Gather" => slice::gather,
    "Pad" => pad::pad,
    "Resize" => resize::resize,
    "Upsample" => resize::upsample,

    "Identity" => constant::identity,
    "Dropout" => constant::dropout,
    "Cast" => constant::cast,
    "CastLike" => constant::cast_like,
    "Constant" => constant::constant,
    "ConstantOfShape" => constant::constant_of_shape,
    "Range" => constant::range,
}
