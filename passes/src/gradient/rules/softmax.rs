//! Softmax along an axis: y = eˣ / Σ eˣ, ∂x = y∘(∂y − ⟨y, ∂y⟩).
use super::{super::Real, Forward, Operand, Point, Rule};
use goshawk_ir::Shape;

/// Softmax along an axis.
pub struct Softmax {
    len: usize,
    inner: usize,
    operand: Operand,
}

impl Softmax {
    /// From the operand's shape.
    pub fn new(x: &Shape, axis: usize, operand: Operand) -> Self {
        Self { len: x[axis], inner: x[axis + 1..].iter().product(), operand }
    }

    /// Starts of all lanes in a buffer of `count` elements.
    fn lanes(&self, count: usize) -> impl Iterator<Item = usize> + use<> {
        let (inner, block) = (self.inner, self.len * self.inner);
        (0..count).step_by(block).flat_map(move |b| (0..inner).map(move |i| b + i))
    }

    /// y∘(v − ⟨y, v⟩): the derivative, which is symmetric.
    fn derivative<T: Real>(&self, y: &[T], v: &[T]) -> Vec<T> {
        let mut out = vec![T::ZERO; y.len()];
        for lane in self.lanes(y.len()) {
            let at = |j: usize| lane + j * self.inner;
            let mut mean = T::ZERO;
            (0..self.len).for_each(|j| mean += y[at(j)] * v[at(j)]);
            (0..self.len).for_each(|j| out[at(j)] = y[at(j)] * (v[at(j)] - mean));
        }
        out
    }
}

/// Softmax of `len` elements `inner` apart, in place from `start`.
pub fn softmax<T: Real>(x: &mut [T], start: usize, len: usize, inner: usize) {
    let at = |j: usize| start + j * inner;
    let max = (0..len).map(|j| x[at(j)].f64()).fold(f64::NEG_INFINITY, f64::max);
    let terms: Vec<f64> = (0..len).map(|j| (x[at(j)].f64() - max).exp()).collect();
    let sum: f64 = terms.iter().sum();
    terms.iter().enumerate().for_each(|(j, t)| x[at(j)] = T::of(t / sum));
}

impl<T: Real> Rule<T> for Softmax {
    fn reads_result(&self) -> bool {
        true
    }
    fn has_second(&self) -> bool {
        true
    }
    fn curved(&self, _: &[bool]) -> bool {
        true
    }
    fn forward(&self, samples: usize, x: &[&[T]]) -> Forward<T> {
        let mut y: Vec<T> = (0..samples).flat_map(|s| self.operand.of(x[0], s)).copied().collect();
        for lane in self.lanes(y.len()) {
            softmax(&mut y, lane, self.len, self.inner);
        }
        y.into()
    }
    fn jvp(&self, at: &Point<'_, T>, dx: &[Option<&[T]>]) -> Option<Vec<T>> {
        dx[0].map(|d| self.derivative(at.y(), d))
    }
    fn vjp(&self, at: &Point<'_, T>, gy: &[T], _: &[bool]) -> Vec<Option<Vec<T>>> {
        vec![Some(self.derivative(at.y(), gy))]
    }
    /// With dy = J·dx: dy∘(∂y − ⟨y, ∂y⟩) − y·⟨dy, ∂y⟩.
    fn second(&self, at: &Point<'_, T>, dx: &[Option<&[T]>], gy: &[T], _: &[bool]) -> Vec<Option<Vec<T>>> {
        vec![dx[0].map(|d| {
            let y = at.y();
            let dy = self.derivative(y, d);
            let mut out = vec![T::ZERO; y.len()];
            for lane in self.lanes(y.len()) {
                let at = |j: usize| lane + j * self.inner;
                let (mut mean, mut change) = (T::ZERO, T::ZERO);
                for j in 0..self.len {
                    mean += y[at(j)] * gy[at(j)];
                    change += dy[at(j)] * gy[at(j)];
                }
                (0..self.len).for_each(|j| out[at(j)] = dy[at(j)] * (gy[at(j)] - mean) - y[at(j)] * change);
            }
            out
        })]
    }
}
