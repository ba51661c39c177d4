//! Elementwise functions. Transcendental ones are computed in f64 and rounded once, so that tables made from them
//! do not depend on the accuracy of a single-precision library.
use super::erf;
use crate::{
    Shape,
    op::float::{BinaryFn, UnaryFn},
};

impl UnaryFn {
    /// The function at `x`.
    pub fn eval(self, x: f32) -> f32 {
        let d = f64::from(x);
        match self {
            Self::Clip(c) => c.apply(x),
            Self::LeakyRelu(a) => {
                if x < 0.0 {
                    a * x
                } else {
                    x
                }
            }
            Self::Elu(a) => {
                if x < 0.0 {
                    (f64::from(a) * d.exp_m1()) as f32
                } else {
                    x
                }
            }
            Self::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Self::HardSigmoid(a, b) => (a * x + b).clamp(0.0, 1.0),
            Self::Sigmoid => sigmoid(d) as f32,
            // −∞ · 0 would be NaN.
            Self::Silu => {
                if x == f32::NEG_INFINITY {
                    0.0
                } else {
                    (d * sigmoid(d)) as f32
                }
            }
            Self::Mish => {
                if x == f32::NEG_INFINITY {
                    0.0
                } else {
                    (d * softplus(d).tanh()) as f32
                }
            }
            Self::Tanh => d.tanh() as f32,
            Self::Gelu => {
                if x == f32::NEG_INFINITY {
                    0.0
                } else {
                    (0.5 * d * (1.0 + erf(d / 2f64.sqrt()))) as f32
                }
            }
            Self::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (d + 0.044715 * d * d * d);
                if x == f32::NEG_INFINITY { 0.0 } else { (0.5 * d * (1.0 + inner.tanh())) as f32 }
            }
            Self::Erf => erf(d) as f32,
            Self::Softplus => softplus(d) as f32,
            Self::Exp => d.exp() as f32,
            Self::Log => d.ln() as f32,
            Self::Sqrt => x.sqrt(),
            Self::Abs => x.abs(),
            Self::Pow(p) => d.powf(f64::from(p)) as f32,
            Self::Affine(a, b) => a * x + b,
            Self::Reciprocal(a) => a / x,
        }
    }
}

impl BinaryFn {
    /// The function at (`a`, `b`). NaN wins minima and maxima, as in numpy.
    pub fn eval(self, a: f32, b: f32) -> f32 {
        match self {
            Self::Add => a + b,
            Self::Sub => a - b,
            Self::Mul => a * b,
            Self::Div => a / b,
            Self::Min => {
                if a < b || a.is_nan() {
                    a
                } else {
                    b
                }
            }
            Self::Max => {
                if a > b || a.is_nan() {
                    a
                } else {
                    b
                }
            }
            Self::Pow => f64::from(a).powf(f64::from(b)) as f32,
        }
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// ln(1 + eˣ) without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// gamma·(x − mean)/√(variance + epsilon) + beta; operands x, gamma, beta, mean, variance.
pub fn batch_norm(epsilon: f32, operands: &[&[f32]], shape: &Shape) -> Vec<f32> {
    let channels = shape[1];
    let inner: usize = shape[2..].iter().product();
    let mut out = Vec::with_capacity(shape.count());
    for (i, plane) in operands[0].chunks(inner).enumerate() {
        let [gamma, beta, mean, variance] = [1, 2, 3, 4].map(|p: usize| f64::from(operands[p][i % channels]));
        let factor = gamma / (variance + f64::from(epsilon)).sqrt();
        out.extend(plane.iter().map(|x| (factor * (f64::from(*x) - mean) + beta) as f32));
    }
    out
}
