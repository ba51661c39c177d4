//! Lanczos iteration with full reorthogonalisation: Ritz values approach the ends of the spectrum first, and
//! β_m·|last component| bounds the error of each.
use super::{Eigen, Stop, dot, eigen, normalise, orthogonalise};
use crate::sensitivity::profile::Eigenvalue;

/// A Lanczos run.
#[derive(Clone, Debug)]
pub struct Lanczos {
    stop: Stop,
    /// Orthonormal vectors; the last one waits for its product.
    basis: Vec<Vec<f64>>,
    alpha: Vec<f64>,
    beta: Vec<f64>,
    done: bool,
}

impl Lanczos {
    /// Starts from this vector, which is not 0.
    pub fn new(mut start: Vec<f64>, stop: Stop) -> Self {
        normalise(&mut start);
        Self { stop, basis: vec![start], alpha: Vec::new(), beta: Vec::new(), done: false }
    }

    /// The vector that waits for its product; `None` when done.
    pub fn vector(&self) -> Option<&[f64]> {
        if self.done { None } else { self.basis.last().map(Vec::as_slice) }
    }

    /// Takes the product with [`Lanczos::vector`].
    pub fn push(&mut self, mut product: Vec<f64>) {
        let Some(v) = self.basis.last().filter(|_| !self.done) else { return };
        self.alpha.push(dot(v, &product));
        orthogonalise(&mut product, &self.basis);
        let beta = normalise(&mut product);
        self.beta.push(beta);
        let steps = self.alpha.len();
        let size = self.alpha.iter().chain(&self.beta).fold(0f64, |m, v| m.max(v.abs()));
        // The space is exhausted: all Ritz values are eigenvalues.
        let exhausted = steps >= v.len() || beta <= 1e-12 * size;
        if exhausted {
            self.beta[steps - 1] = 0.0;
        }
        self.done = exhausted || steps >= self.stop.max_products || self.converged();
        if !self.done {
            self.basis.push(product);
        }
    }

    /// Ritz values with the first components of their vectors, squared: the nodes and weights of Gauss quadrature.
    pub fn quadrature(&self) -> Vec<(f64, f64)> {
        let Eigen { values, vectors } = self.ritz();
        values.into_iter().zip(vectors).map(|(x, v)| (x, v[0] * v[0])).collect()
    }

    /// The eigenvalues of largest magnitude so far, largest first.
    pub fn eigenvalues(&self) -> Vec<Eigenvalue> {
        let mut found = self.bounded();
        found.truncate(self.stop.top);
        found
    }

    fn ritz(&self) -> Eigen {
        let steps = self.alpha.len();
        eigen(&self.alpha, self.beta.get(..steps.saturating_sub(1)).unwrap_or_default())
    }

    /// All Ritz values with residuals, largest magnitude first.
    fn bounded(&self) -> Vec<Eigenvalue> {
        let Eigen { values, vectors } = self.ritz();
        let beta = self.beta.last().copied().unwrap_or(0.0);
        let products = self.alpha.len() as u64;
        let residual = |v: &[f64]| beta * v.last().map_or(0.0, |x| x.abs());
        let mut all: Vec<_> = values
            .into_iter()
            .zip(&vectors)
            .map(|(value, v)| Eigenvalue { value, residual: residual(v), products })
            .collect();
        all.sort_by(|a, b| b.value.abs().total_cmp(&a.value.abs()));
        all
    }

    /// Products in all, as far as one can tell.
    pub fn expected(&self) -> usize {
        let products = self.alpha.len();
        if self.done { products } else { self.stop.expected(products, self.error()) }
    }

    fn converged(&self) -> bool {
        self.error() <= self.stop.tolerance
    }

    /// Largest relative error of the top eigenvalues by the smaller of the two bounds: residual, and residual² over the
    /// gap to the other Ritz values (Kato, Temple).
    fn error(&self) -> f64 {
        let all = self.bounded();
        // One more than asked for: a Ritz value that has just split off has no reliable gap yet.
        if all.len() <= self.stop.top {
            return f64::INFINITY;
        }
        let errors = all.iter().take(self.stop.top).enumerate().map(|(i, e)| {
            let gap = all
                .iter()
                .enumerate()
                .filter(|(j, _)| *j != i)
                .map(|(_, other)| (e.value - other.value).abs() - other.residual)
                .fold(f64::INFINITY, f64::min);
            let bound =
                if gap > e.residual { e.residual.min(e.residual * e.residual / gap) } else { e.residual };
            match bound / e.value.abs() {
                _ if bound == 0.0 => 0.0,
                // `max` would pass over it: what is not a number has not converged.
                error if error.is_nan() => f64::INFINITY,
                error => error,
            }
        });
        errors.fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{matrix, times};
    use super::*;

    #[test]
    fn quadrature_integrates_polynomials_of_twice_its_degree() {
        let values: Vec<f64> = (0..25).map(|i| f64::from(i * i) / 100.0 - 1.0).collect();
        let m = matrix(&values);
        let start: Vec<f64> = (0..25).map(|i| if i % 3 == 0 { 1.0 } else { -1.0 }).collect();
        let stop = Stop { top: 25, tolerance: 0.0, max_products: 6 };
        let mut lanczos = Lanczos::new(start.clone(), stop);
        while let Some(v) = lanczos.vector() {
            let product = times(&m, v);
            lanczos.push(product);
        }
        let mut power = start.clone();
        for degree in 0..12 {
            let exact = dot(&start, &power) / 25.0;
            let got: f64 = lanczos.quadrature().iter().map(|(x, w)| w * x.powi(degree)).sum();
            assert!((got - exact).abs() < 1e-9 * exact.abs().max(1.0), "{degree}: {got} {exact}");
            power = times(&m, &power);
        }
    }
}
