//! Batch normalisation in evaluation mode: a factor and a summand for each channel.
use super::{super::Real, Forward, Point, Rule};
use goshawk_ir::{Shape, op::float::BatchNorm};

/// y = factor·x + summand, by channel.
pub struct Affine<T> {
    factor: Vec<T>,
    summand: Vec<T>,
    /// Elements of a channel of one image.
    inner: usize,
}

impl<T: Real> Affine<T> {
    /// gamma·(x − mean)/√(variance + epsilon) + beta; `constants` are x (absent), gamma, beta, mean, variance.
    pub fn batch_norm(a: &BatchNorm, constants: &[Option<&[T]>], x: &Shape) -> Self {
        let [gamma, beta, mean, variance] = [1, 2, 3, 4].map(|i: usize| constants[i].unwrap_or(&[]));
        let factor: Vec<T> = gamma
            .iter()
            .zip(variance)
            .map(|(g, v)| T::of(g.f64() / (v.f64() + f64::from(a.epsilon)).sqrt()))
            .collect();
        let summand = factor.iter().zip(mean).zip(beta).map(|((f, m), b)| *b - *f * *m).collect();
        Self { factor, summand, inner: x[2..].iter().product() }
    }

    fn scaled(&self, x: &[T]) -> Vec<T> {
        let planes = x.chunks_exact(self.inner).zip(self.factor.iter().cycle());
        planes.flat_map(|(plane, f)| plane.iter().map(|v| *v * *f)).collect()
    }
}

impl<T: Real> Rule<T> for Affine<T> {
    fn forward(&self, _: usize, x: &[&[T]]) -> Forward<T> {
        let planes = x[0].chunks_exact(self.inner).zip(self.factor.iter().zip(&self.summand).cycle());
        let y: Vec<T> = planes.flat_map(|(plane, (f, s))| plane.iter().map(|v| *v * *f + *s)).collect();
        y.into()
    }
    fn jvp(&self, _: &Point<'_, T>, dx: &[Option<&[T]>]) -> Option<Vec<T>> {
        dx[0].map(|d| self.scaled(d))
    }
    fn vjp(&self, _: &Point<'_, T>, gy: &[T], _: &[bool]) -> Vec<Option<Vec<T>>> {
        vec![Some(self.scaled(gy))]
    }
}
