//! Elementwise functions of two variables with broadcasting, and PRelu, which is one.
use super::{super::Real, Forward, Operand, Point, Rule, unary::power, walk};
use goshawk_ir::{Result, Shape, op::float::BinaryFn};

/// What is computed.
#[derive(Clone, Copy, PartialEq)]
enum Function {
    Binary(BinaryFn),
    /// a where a ≥ 0, a·b elsewhere.
    PRelu,
}

/// Value and derivatives at a point.
struct Partials<T> {
    value: T,
    a: T,
    b: T,
    aa: T,
    ab: T,
    bb: T,
}

/// f(a, b) for each element.
pub struct Elementwise {
    function: Function,
    operands: [Operand; 2],
    /// Element of each operand for each result; `None` where the shapes are equal.
    index: [Option<Vec<u32>>; 2],
    count: usize,
}

impl Elementwise {
    /// A binary function.
    pub fn new(f: BinaryFn, x: [&Shape; 2], y: &Shape, operands: [Operand; 2]) -> Result<Self> {
        Self::of(Function::Binary(f), x, y, operands)
    }

    /// x, slope.
    pub fn prelu(x: [&Shape; 2], y: &Shape, operands: [Operand; 2]) -> Result<Self> {
        Self::of(Function::PRelu, x, y, operands)
    }

    fn of(function: Function, x: [&Shape; 2], y: &Shape, operands: [Operand; 2]) -> Result<Self> {
        let index = |x: &Shape| -> Result<Option<Vec<u32>>> {
            if x.count() == y.count() {
                return Ok(None);
            }
            let strides: Vec<i64> = x.broadcast_strides(y)?.iter().map(|s| *s as i64).collect();
            Ok(Some(walk(y, &strides, 0)))
        };
        Ok(Self { function, index: [index(x[0])?, index(x[1])?], operands, count: y.count() })
    }

    /// Calls `f` with (result, element of a, element of b), buffers taken as a whole.
    fn each(&self, samples: usize, mut f: impl FnMut(usize, usize, usize)) {
        let stride = |o: &Operand| if o.constant { 0 } else { o.count };
        let (sa, sb) = (stride(&self.operands[0]), stride(&self.operands[1]));
        for s in 0..samples {
            for i in 0..self.count {
                let at = |index: &Option<Vec<u32>>| index.as_ref().map_or(i, |x| x[i] as usize);
                f(s * self.count + i, s * sa + at(&self.index[0]), s * sb + at(&self.index[1]));
            }
        }
    }

    /// Whether derivatives are the constants 1 and ±1.
    fn is_sum(&self) -> bool {
        matches!(self.function, Function::Binary(BinaryFn::Add | BinaryFn::Sub))
    }

    /// The sign of b where this is a sum or difference of two computed tensors of one shape: residual additions.
    fn plain_sum(&self) -> Option<f64> {
        let equal = self.index.iter().all(Option::is_none) && self.operands.iter().all(|o| !o.constant);
        let sign = if self.function == Function::Binary(BinaryFn::Sub) { -1.0 } else { 1.0 };
        (self.is_sum() && equal).then_some(sign)
    }

    /// Adds `term(i, a, b)` over all results to the elements of an operand.
    fn reduced<T: Real>(
        &self,
        samples: usize,
        operand: usize,
        term: impl Fn(usize, usize, usize) -> T,
    ) -> Vec<T> {
        let mut out = vec![T::ZERO; samples * self.operands[operand].count];
        self.each(samples, |i, a, b| out[[a, b][operand]] += term(i, a, b));
        out
    }
}

impl<T: Real> Rule<T> for Elementwise {
    fn reads_operand(&self, operand: usize) -> bool {
        match self.function {
            Function::Binary(BinaryFn::Add | BinaryFn::Sub) => false,
            Function::Binary(BinaryFn::Mul) => !self.operands[1 - operand].constant,
            Function::Binary(BinaryFn::Div | BinaryFn::Min | BinaryFn::Max | BinaryFn::Pow)
            | Function::PRelu => true,
        }
    }
    fn has_second(&self) -> bool {
        Rule::<T>::curved(self, &[!self.operands[0].constant, !self.operands[1].constant])
    }
    fn curved(&self, varies: &[bool]) -> bool {
        match self.function {
            Function::Binary(BinaryFn::Add | BinaryFn::Sub | BinaryFn::Min | BinaryFn::Max) => false,
            Function::Binary(BinaryFn::Mul) | Function::PRelu => varies[0] && varies[1],
            Function::Binary(BinaryFn::Div) => varies[1],
            Function::Binary(BinaryFn::Pow) => true,
        }
    }
    fn forward(&self, samples: usize, x: &[&[T]]) -> Forward<T> {
        if let Some(sign) = self.plain_sum() {
            return x[0].iter().zip(x[1]).map(|(a, b)| *a + T::of(sign) * *b).collect::<Vec<T>>().into();
        }
        let mut y = Vec::with_capacity(samples * self.count);
        let f = self.function;
        self.each(samples, |_, a, b| y.push(partials(f, x[0][a], x[1][b]).value));
        y.into()
    }
    fn jvp(&self, at: &Point<'_, T>, dx: &[Option<&[T]>]) -> Option<Vec<T>> {
        if dx.iter().all(Option::is_none) {
            return None;
        }
        if let Some(sign) = self.plain_sum().map(T::of) {
            return match (dx[0], dx[1]) {
                (Some(a), Some(b)) => Some(a.iter().zip(b).map(|(a, b)| *a + sign * *b).collect()),
                (Some(a), None) => Some(a.to_vec()),
                (None, Some(b)) => Some(b.iter().map(|b| sign * *b).collect()),
                (None, None) => None,
            };
        }
        let mut dy = vec![T::ZERO; at.samples * self.count];
        if self.is_sum() {
            let sign = if self.function == Function::Binary(BinaryFn::Sub) { -T::ONE } else { T::ONE };
            if let Some(d) = dx[0] {
                self.each(at.samples, |i, a, _| dy[i] = d[a]);
            }
            if let Some(d) = dx[1] {
                self.each(at.samples, |i, _, b| dy[i] += sign * d[b]);
            }
            return Some(dy);
        }
        let value = |x: Option<&[T]>, i: usize| x.map_or(T::ZERO, |x| x[i]);
        self.each(at.samples, |i, a, b| {
            let p = partials(self.function, value(at.operands[0], a), value(at.operands[1], b));
            if let Some(d) = dx[0] {
                dy[i] += p.a * d[a];
            }
            if let Some(d) = dx[1] {
                dy[i] += p.b * d[b];
            }
        });
        Some(dy)
    }
    fn vjp(&self, at: &Point<'_, T>, gy: &[T], need: &[bool]) -> Vec<Option<Vec<T>>> {
        let gradient = |operand: usize| {
            if self.is_sum() {
                let negative = operand == 1 && self.function == Function::Binary(BinaryFn::Sub);
                if self.index[operand].is_none() && !negative {
                    return gy.to_vec();
                }
                return self.reduced(at.samples, operand, |i, _, _| if negative { -gy[i] } else { gy[i] });
            }
            let value = |x: Option<&[T]>, i: usize| x.map_or(T::ZERO, |x| x[i]);
            self.reduced(at.samples, operand, |i, a, b| {
                let p = partials(self.function, value(at.operands[0], a), value(at.operands[1], b));
                gy[i] * if operand == 0 { p.a } else { p.b }
            })
        };
        (0..2).map(|o| need[o].then(|| gradient(o))).collect()
    }
    fn second(&self, at: &Point<'_, T>, dx: &[Option<&[T]>], gy: &[T], need: &[bool]) -> Vec<Option<Vec<T>>> {
        let value = |x: Option<&[T]>, i: usize| x.map_or(T::ZERO, |x| x[i]);
        let term = |operand: usize| {
            self.reduced(at.samples, operand, |i, a, b| {
                let p = partials(self.function, value(at.operands[0], a), value(at.operands[1], b));
                let (own, other) = if operand == 0 { (p.aa, p.ab) } else { (p.ab, p.bb) };
                gy[i] * (own * value(dx[0], a) + other * value(dx[1], b))
            })
        };
        let any = dx.iter().any(Option::is_some);
        (0..2).map(|o| (need[o] && any).then(|| term(o))).collect()
    }
}

/// Value and derivatives. Minimum and maximum follow the interpreter where the operands are equal.
#[inline]
fn partials<T: Real>(f: Function, a: T, b: T) -> Partials<T> {
    let (zero, one) = (T::ZERO, T::ONE);
    let flat = |value, a, b| Partials { value, a, b, aa: zero, ab: zero, bb: zero };
    let choose = |first: bool| if first { flat(a, one, zero) } else { flat(b, zero, one) };
    match f {
        Function::Binary(BinaryFn::Add) => flat(a + b, one, one),
        Function::Binary(BinaryFn::Sub) => flat(a - b, one, -one),
        Function::Binary(BinaryFn::Mul) => Partials { ab: one, ..flat(a * b, b, a) },
        Function::Binary(BinaryFn::Div) => {
            let inverse = one / b;
            let slope = -(a * inverse * inverse);
            Partials {
                ab: -(inverse * inverse),
                bb: (slope + slope) * -inverse,
                ..flat(a / b, inverse, slope)
            }
        }
        Function::Binary(BinaryFn::Min) => choose(a < b),
        Function::Binary(BinaryFn::Max) => choose(a > b),
        Function::Binary(BinaryFn::Pow) => {
            let (x, p) = (a.f64(), b.f64());
            let (value, log) = (x.powf(p), x.ln());
            // Where the base is not positive, the power is a function of the base only.
            let along = |v: f64| if x > 0.0 { v } else { 0.0 };
            let of = T::of;
            Partials {
                value: of(value),
                a: of(power(p, x, p - 1.0)),
                b: of(along(value * log)),
                aa: of(power(p * (p - 1.0), x, p - 2.0)),
                ab: of(along(x.powf(p - 1.0) * (1.0 + p * log))),
                bb: of(along(value * log * log)),
            }
        }
        Function::PRelu if a < zero => Partials { ab: one, ..flat(a * b, b, a) },
        Function::PRelu => flat(a, one, zero),
    }
}
