//! What each operator does in the four sweeps of the engine.
//!
//! An operator y = f(x) has four rules: the value, the tangent dy = f'(x)·dx (jvp), the gradient ∂x = f'(x)ᵀ·∂y (vjp), and
//! the tangent of that gradient, which by Pearlmutter ("Fast exact multiplication by the Hessian", 1994) is
//! vjp(d∂y) + (d/dx of vjp)(∂y)·dx. The second term is the rule [`Rule::second`]; it is absent where f is piecewise linear.
//!
//! All operands and results hold the declared tensor once for each sample, one after the other; constants hold it once.
mod binary;
mod concat;
pub mod convolution;
mod linear;
mod movement;
mod normalise;
mod pool;
pub mod product;
mod reduce;
mod resize;
pub mod softmax;
pub mod unary;

use super::Real;
use goshawk_ir::{FloatOp, Result, Shape, bail, op::float::Clamp};

/// An operand as declared.
#[derive(Clone, Debug)]
pub struct Operand {
    /// Whether all samples share it.
    pub constant: bool,
    /// Elements for one sample.
    pub count: usize,
}

impl Operand {
    /// The elements of a sample.
    pub fn of<'a, T>(&self, data: &'a [T], sample: usize) -> &'a [T] {
        if self.constant { data } else { &data[sample * self.count..][..self.count] }
    }
}

/// What a value rule gives.
pub struct Forward<T> {
    /// The result.
    pub value: Vec<T>,
    /// For operators that choose elements: the chosen element of each result.
    pub chosen: Vec<u32>,
}

impl<T> From<Vec<T>> for Forward<T> {
    fn from(value: Vec<T>) -> Self {
        Self { value, chosen: Vec::new() }
    }
}

/// Where a rule is linearised: the values that it asked to be kept.
pub struct Point<'a, T> {
    /// Samples.
    pub samples: usize,
    /// Operands.
    pub operands: Vec<Option<&'a [T]>>,
    /// Result.
    pub result: Option<&'a [T]>,
    /// Of [`Forward::chosen`].
    pub chosen: &'a [u32],
}

impl<'a, T> Point<'a, T> {
    /// The value of an operand.
    pub fn x(&self, operand: usize) -> &'a [T] {
        self.operands[operand].expect("kept, since the rule's reads_operand says so")
    }

    /// The value of the result.
    pub fn y(&self) -> &'a [T] {
        self.result.expect("kept, since the rule's reads_result says so")
    }
}

/// The rules of one operator of a graph.
pub trait Rule<T: Real>: Send + Sync {
    /// Whether the derivative rules read the operand's value.
    fn reads_operand(&self, _operand: usize) -> bool {
        false
    }
    /// Whether the derivative rules read the result.
    fn reads_result(&self) -> bool {
        false
    }
    /// Whether [`Rule::second`] gives anything.
    fn has_second(&self) -> bool {
        false
    }
    /// Whether the result is not piecewise linear in those operands that vary, taken together.
    fn curved(&self, _varies: &[bool]) -> bool {
        false
    }
    /// The value.
    fn forward(&self, samples: usize, x: &[&[T]]) -> Forward<T>;
    /// The tangent; `None` is zero.
    fn jvp(&self, at: &Point<'_, T>, dx: &[Option<&[T]>]) -> Option<Vec<T>>;
    /// The gradient in each needed operand.
    fn vjp(&self, at: &Point<'_, T>, gy: &[T], need: &[bool]) -> Vec<Option<Vec<T>>>;
    /// The derivative of the gradient along dx while ∂y stays.
    fn second(
        &self,
        _at: &Point<'_, T>,
        _dx: &[Option<&[T]>],
        _gy: &[T],
        need: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        vec![None; need.len()]
    }
}

/// The rules of an operator, and its fused activation, which the sweeps apply.
pub enum Prepared<T> {
    /// A network input or a constant.
    Leaf,
    /// A convolution; its weights are operand 1, its bias operand 2.
    Convolution(convolution::Convolution, Option<Clamp>),
    /// A linear layer, likewise.
    Linear(product::Linear, Option<Clamp>),
    /// Any other operator.
    Rule(Box<dyn Rule<T>>, Option<Clamp>),
}

/// Looks up the rules. `x` and `operands` describe the operands, `constants` holds the values of the constant ones.
///
/// # Errors
/// The operator has no derivative in this form.
pub fn prepare<T: Real>(
    op: &FloatOp,
    x: &[&Shape],
    operands: &[Operand],
    constants: &[Option<&[T]>],
    y: &Shape,
) -> Result<Prepared<T>> {
    let rule = |rule: Box<dyn Rule<T>>| Prepared::Rule(rule, None);
    let two = || [operands[0].clone(), operands[1].clone()];
    Ok(match op {
        FloatOp::Input | FloatOp::Const(_) => Prepared::Leaf,
        FloatOp::Conv(a) => {
            parameters(operands, "weights or bias of a convolution")?;
            Prepared::Convolution(convolution::Convolution::new(&a.window, x[0], x[1], y)?, a.clamp)
        }
        FloatOp::Linear(a) => {
            parameters(operands, "weights or bias of a linear layer")?;
            Prepared::Linear(product::Linear { rows: x[0][0], inputs: x[0][1], outputs: x[1][0] }, a.clamp)
        }
        FloatOp::BatchNorm(a) => {
            parameters(operands, "parameters of a batch normalisation")?;
            rule(Box::new(normalise::Affine::batch_norm(a, constants, x[0])))
        }
        FloatOp::MatMul(_) => rule(Box::new(product::MatMul::new(x[0], x[1], y, two())?)),
        FloatOp::Unary(a) => rule(Box::new(unary::Chain::new(&a.chain))),
        FloatOp::PRelu(_) => rule(Box::new(binary::Elementwise::prelu([x[0], x[1]], y, two())?)),
        FloatOp::Binary(a) => {
            Prepared::Rule(Box::new(binary::Elementwise::new(a.function, [x[0], x[1]], y, two())?), a.clamp)
        }
        FloatOp::Concat(a) => rule(Box::new(concat::Concat::new(x, operands, a.axis))),
        FloatOp::Slice(a) => rule(Box::new(movement::slice(a, x[0], operands[0].clone()))),
        FloatOp::MaxPool(w) => rule(Box::new(pool::maximum(w, x[0], y, operands[0].clone())?)),
        FloatOp::AvgPool(w) => rule(Box::new(pool::average(w, x[0], y, operands[0].clone())?)),
        FloatOp::ReduceMean(a) => rule(Box::new(reduce::mean(a, x[0], operands[0].clone()))),
        FloatOp::ReduceMax(a) => rule(Box::new(reduce::maximum(a, x[0], operands[0].clone()))),
        FloatOp::ReduceSum(a) => rule(Box::new(reduce::sum(a, x[0], operands[0].clone()))),
        FloatOp::Reshape(_) => rule(Box::new(movement::reshape(operands[0].clone()))),
        FloatOp::Transpose(a) => rule(Box::new(movement::transpose(&a.perm, x[0], operands[0].clone()))),
        FloatOp::Pad(a) => rule(Box::new(movement::pad(a, x[0], y, operands[0].clone()))),
        FloatOp::Resize(a) => rule(Box::new(resize::resize(a, x[0], operands[0].clone())?)),
        FloatOp::Softmax(a) => rule(Box::new(softmax::Softmax::new(x[0], a.axis, operands[0].clone()))),
        FloatOp::DepthToSpace(a) => rule(Box::new(movement::depth_to_space(a, x[0], operands[0].clone())?)),
    })
}

/// Operands after the first must be constants.
fn parameters(operands: &[Operand], what: &str) -> Result<()> {
    if operands.iter().skip(1).all(|o| o.constant) {
        Ok(())
    } else {
        bail!(
            "computed {what} have no derivative here: only constant ones are layers; export the model with them folded"
        )
    }
}

/// Sum of squares, in f64.
pub fn square<T: Real>(x: &[T]) -> f64 {
    // Eight partial sums: short chains of additions and small rounding errors.
    let (blocks, rest) = x.as_chunks::<8>();
    let mut sums = [0.0f64; 8];
    for block in blocks {
        for (s, v) in sums.iter_mut().zip(block) {
            *s += v.f64() * v.f64();
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|v| v.f64() * v.f64()).sum::<f64>()
}

/// The elements of a view with these strides, in row-major order of `dims`.
pub fn walk(dims: &[usize], strides: &[i64], start: i64) -> Vec<u32> {
    let count: usize = dims.iter().product();
    let mut index = vec![0usize; dims.len()];
    let mut at = start;
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        out.push(at as u32);
        for d in (0..dims.len()).rev() {
            index[d] += 1;
            at += strides[d];
            if index[d] < dims[d] {
                break;
            }
            at -= strides[d] * dims[d] as i64;
            index[d] = 0;
        }
    }
    out
}

/// For each element of `to` the element of `from` that broadcasting puts there.
fn broadcast_index(from: &Shape, to: &Shape) -> Result<Vec<usize>> {
    let strides: Vec<i64> = from.broadcast_strides(to)?.iter().map(|s| *s as i64).collect();
    Ok(walk(to, &strides, 0).into_iter().map(|i| i as usize).collect())
}
