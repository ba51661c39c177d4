//! Elementwise functions of one variable, with first and second derivatives.
use super::{super::Real, Forward, Point, Rule};
use goshawk_ir::{
    interp::float::erf,
    op::float::{Clamp, UnaryFn},
};
use std::f64::consts::{FRAC_2_SQRT_PI, PI, SQRT_2};

/// Functions in the order of application.
pub struct Chain {
    chain: Vec<UnaryFn>,
    /// Where the chain is one clip, its derivative is seen in the result.
    clip: Option<Clamp>,
}

impl Chain {
    /// The chain of an operator.
    pub fn new(chain: &[UnaryFn]) -> Self {
        let clip = match chain {
            [UnaryFn::Clip(c)] => Some(*c),
            _ => None,
        };
        Self { chain: chain.to_vec(), clip }
    }

    /// Value, first and second derivative of the whole chain.
    fn at(&self, x: f64) -> [f64; 3] {
        self.chain.iter().fold([x, 1.0, 0.0], |[x, first, second], f| {
            let [y, d, dd] = derivatives(*f, x);
            [y, d * first, dd * first * first + d * second]
        })
    }

    fn scaled<T: Real>(&self, at: &Point<'_, T>, v: &[T]) -> Vec<T> {
        match self.clip {
            Some(c) => at.y().iter().zip(v).map(|(y, v)| if inside(c, *y) { *v } else { T::ZERO }).collect(),
            None => at.x(0).iter().zip(v).map(|(x, v)| T::of(self.at(x.f64())[1]) * *v).collect(),
        }
    }
}

/// Whether a clip passes on tangents and gradients where its result is `y`. At the bounds it does not, as in PyTorch.
pub fn inside<T: Real>(c: Clamp, y: T) -> bool {
    T::of(f64::from(c.lo)) < y && y < T::of(f64::from(c.hi))
}

impl<T: Real> Rule<T> for Chain {
    fn reads_operand(&self, _: usize) -> bool {
        self.clip.is_none()
    }
    fn reads_result(&self) -> bool {
        self.clip.is_some()
    }
    fn has_second(&self) -> bool {
        self.chain.iter().any(|f| is_curved(*f))
    }
    fn curved(&self, _: &[bool]) -> bool {
        self.chain.iter().any(|f| is_curved(*f))
    }
    fn forward(&self, _: usize, x: &[&[T]]) -> Forward<T> {
        x[0].iter().map(|x| T::of(self.at(x.f64())[0])).collect::<Vec<T>>().into()
    }
    fn jvp(&self, at: &Point<'_, T>, dx: &[Option<&[T]>]) -> Option<Vec<T>> {
        dx[0].map(|d| self.scaled(at, d))
    }
    fn vjp(&self, at: &Point<'_, T>, gy: &[T], _: &[bool]) -> Vec<Option<Vec<T>>> {
        vec![Some(self.scaled(at, gy))]
    }
    fn second(&self, at: &Point<'_, T>, dx: &[Option<&[T]>], gy: &[T], _: &[bool]) -> Vec<Option<Vec<T>>> {
        vec![dx[0].map(|d| {
            let terms = at.x(0).iter().zip(d).zip(gy);
            terms.map(|((x, d), g)| T::of(self.at(x.f64())[2]) * *d * *g).collect()
        })]
    }
}

/// Whether the function is not piecewise linear.
fn is_curved(f: UnaryFn) -> bool {
    match f {
        UnaryFn::Clip(_)
        | UnaryFn::LeakyRelu(_)
        | UnaryFn::HardSigmoid(..)
        | UnaryFn::Abs
        | UnaryFn::Affine(..) => false,
        UnaryFn::Elu(_)
        | UnaryFn::HardSwish
        | UnaryFn::Sigmoid
        | UnaryFn::Silu
        | UnaryFn::Mish
        | UnaryFn::Tanh
        | UnaryFn::Gelu
        | UnaryFn::GeluTanh
        | UnaryFn::Erf
        | UnaryFn::Softplus
        | UnaryFn::Exp
        | UnaryFn::Log
        | UnaryFn::Sqrt
        | UnaryFn::Pow(_)
        | UnaryFn::Reciprocal(_) => true,
    }
}

/// Value, first and second derivative.
fn derivatives(f: UnaryFn, x: f64) -> [f64; 3] {
    match f {
        UnaryFn::Clip(c) => {
            let (lo, hi) = (f64::from(c.lo), f64::from(c.hi));
            let y = if x < lo {
                lo
            } else if x > hi {
                hi
            } else {
                x
            };
            [y, f64::from(u8::from(lo < x && x < hi)), 0.0]
        }
        UnaryFn::LeakyRelu(a) => {
            let slope = if x < 0.0 { f64::from(a) } else { 1.0 };
            [slope * x, slope, 0.0]
        }
        UnaryFn::Elu(a) if x < 0.0 => {
            let a = f64::from(a);
            [a * x.exp_m1(), a * x.exp(), a * x.exp()]
        }
        UnaryFn::Elu(_) => [x, 1.0, 0.0],
        UnaryFn::HardSwish if x <= -3.0 => [0.0, 0.0, 0.0],
        UnaryFn::HardSwish if x >= 3.0 => [x, 1.0, 0.0],
        UnaryFn::HardSwish => [x * (x / 6.0 + 0.5), x / 3.0 + 0.5, 1.0 / 3.0],
        UnaryFn::HardSigmoid(a, b) => {
            let y = f64::from(a) * x + f64::from(b);
            [y.clamp(0.0, 1.0), if 0.0 < y && y < 1.0 { f64::from(a) } else { 0.0 }, 0.0]
        }
        UnaryFn::Sigmoid => {
            let s = sigmoid(x);
            [s, s * (1.0 - s), s * (1.0 - s) * (1.0 - 2.0 * s)]
        }
        UnaryFn::Silu => {
            let s = sigmoid(x);
            let slope = s * (1.0 - s);
            [x * s, s + x * slope, slope * (2.0 + x * (1.0 - 2.0 * s))]
        }
        UnaryFn::Mish => {
            let (s, t) = (sigmoid(x), softplus(x).tanh());
            let first = (1.0 - t * t) * s;
            let second = (1.0 - t * t) * s * (1.0 - s) - 2.0 * t * first * s;
            [x * t, t + x * first, 2.0 * first + x * second]
        }
        UnaryFn::Tanh => {
            let t = x.tanh();
            [t, 1.0 - t * t, -2.0 * t * (1.0 - t * t)]
        }
        UnaryFn::Gelu => {
            let density = (-0.5 * x * x).exp() / (2.0 * PI).sqrt();
            let below = 0.5 * (1.0 + erf(x / SQRT_2));
            [x * below, below + x * density, density * (2.0 - x * x)]
        }
        UnaryFn::GeluTanh => {
            // Coefficients of the approximation by Hendrycks and Gimpel ("Gaussian error linear units", 2016).
            let (scale, cubic) = ((2.0 / PI).sqrt(), 0.044715);
            let t = (scale * (x + cubic * x * x * x)).tanh();
            let inner = scale * (1.0 + 3.0 * cubic * x * x);
            let first = (1.0 - t * t) * inner;
            let second = (1.0 - t * t) * scale * 6.0 * cubic * x - 2.0 * t * first * inner;
            [0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * first, first + 0.5 * x * second]
        }
        UnaryFn::Erf => {
            let slope = FRAC_2_SQRT_PI * (-x * x).exp();
            [erf(x), slope, -2.0 * x * slope]
        }
        UnaryFn::Softplus => {
            let s = sigmoid(x);
            [softplus(x), s, s * (1.0 - s)]
        }
        UnaryFn::Exp => [x.exp(); 3],
        UnaryFn::Log => [x.ln(), 1.0 / x, -1.0 / (x * x)],
        UnaryFn::Sqrt => [x.sqrt(), 0.5 / x.sqrt(), -0.25 / (x * x.sqrt())],
        UnaryFn::Abs => [x.abs(), if x == 0.0 { 0.0 } else { x.signum() }, 0.0],
        UnaryFn::Pow(p) => {
            let p = f64::from(p);
            [x.powf(p), power(p, x, p - 1.0), power(p * (p - 1.0), x, p - 2.0)]
        }
        UnaryFn::Affine(a, b) => [f64::from(a) * x + f64::from(b), f64::from(a), 0.0],
        UnaryFn::Reciprocal(a) => {
            let a = f64::from(a);
            [a / x, -a / (x * x), 2.0 * a / (x * x * x)]
        }
    }
}

/// factor·x^p, where a factor of 0 wins over an infinite power.
pub fn power(factor: f64, x: f64, p: f64) -> f64 {
    if factor == 0.0 { 0.0 } else { factor * x.powf(p) }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// ln(1 + eˣ) without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}
