//! Eigenvalues of symmetric operators that are known by their products with vectors only.
//!
//! Solvers are state machines: they say which vector to multiply ([`Solver::vector`]) and take the product
//! ([`Solver::push`]). So one pass over the data serves the solvers of all layers, whoever computes the products.
mod density;
mod lanczos;
mod power;
mod tridiagonal;

pub use density::{Curve, curve};
pub use lanczos::Lanczos;
pub use power::Power;
pub use tridiagonal::{Eigen, eigen};

use super::profile::Eigenvalue;

/// How the largest eigenvalues are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Power iteration with deflation, as in HAWQ.
    Power,
    /// Lanczos with full reorthogonalisation: all of the top k from one Krylov space, with error bounds.
    Lanczos,
}

/// When a solver stops.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stop {
    /// Number of eigenvalues.
    pub top: usize,
    /// Relative error of the eigenvalues.
    pub tolerance: f64,
    /// Products per eigenvalue (power iteration) or in all (Lanczos).
    pub max_products: usize,
}

/// Products that are expected where nothing is known yet.
const TYPICAL: usize = 16;

impl Stop {
    /// Products until the error is within the tolerance, if it falls by the same factor each time.
    fn expected(&self, products: usize, error: f64) -> usize {
        let all = if error < 1.0 && self.tolerance < 1.0 {
            (products as f64 * self.tolerance.ln() / error.ln()).ceil() as usize
        } else {
            TYPICAL
        };
        all.max(products + 1).min(self.max_products)
    }
}

/// One of the two methods at work.
#[derive(Clone, Debug)]
pub enum Solver {
    /// Power iteration.
    Power(Power),
    /// Lanczos.
    Lanczos(Lanczos),
}

impl Solver {
    /// Starts from this vector, which is not 0.
    pub fn new(method: Method, start: Vec<f64>, stop: Stop) -> Self {
        match method {
            Method::Power => Self::Power(Power::new(start, stop)),
            Method::Lanczos => Self::Lanczos(Lanczos::new(start, stop)),
        }
    }

    /// The vector that waits for its product; `None` when done.
    pub fn vector(&self) -> Option<&[f64]> {
        match self {
            Self::Power(p) => p.vector(),
            Self::Lanczos(l) => l.vector(),
        }
    }

    /// Takes the product with [`Solver::vector`].
    pub fn push(&mut self, product: Vec<f64>) {
        match self {
            Self::Power(p) => p.push(product),
            Self::Lanczos(l) => l.push(product),
        }
    }

    /// Products in all, as far as one can tell now.
    pub fn expected(&self) -> usize {
        match self {
            Self::Power(p) => p.expected(),
            Self::Lanczos(l) => l.expected(),
        }
    }

    /// The eigenvalues of largest magnitude so far, largest first.
    pub fn eigenvalues(&self) -> Vec<Eigenvalue> {
        match self {
            Self::Power(p) => p.eigenvalues(),
            Self::Lanczos(l) => l.eigenvalues(),
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

/// Makes `a` a unit vector; returns its former length.
fn normalise(a: &mut [f64]) -> f64 {
    let length = norm(a);
    if length > 0.0 {
        a.iter_mut().for_each(|v| *v /= length);
    }
    length
}

/// Takes the part in the span of orthonormal vectors out of `a`; twice, which is enough (Parlett).
fn orthogonalise(a: &mut [f64], basis: &[Vec<f64>]) {
    for _ in 0..2 {
        for b in basis {
            let part = dot(a, b);
            a.iter_mut().zip(b).for_each(|(v, b)| *v -= part * b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A dense symmetric matrix with the given eigenvalues: Householder reflections of a diagonal.
    pub(super) fn matrix(values: &[f64]) -> Vec<Vec<f64>> {
        let n = values.len();
        let mut m: Vec<Vec<f64>> =
            (0..n).map(|i| (0..n).map(|j| if i == j { values[i] } else { 0.0 }).collect()).collect();
        for r in 1..4usize {
            let mut u: Vec<f64> = (0..n).map(|i| ((i * 7 + r * 13) % 11) as f64 - 5.0).collect();
            normalise(&mut u);
            let reflect = |x: &[f64]| -> Vec<f64> {
                let d = 2.0 * dot(x, &u);
                x.iter().zip(&u).map(|(x, u)| x - d * u).collect()
            };
            m = m.iter().map(|row| reflect(row)).collect();
            let columns: Vec<Vec<f64>> =
                (0..n).map(|j| reflect(&m.iter().map(|row| row[j]).collect::<Vec<_>>())).collect();
            m = (0..n).map(|i| columns.iter().map(|c| c[i]).collect()).collect();
        }
        m
    }

    pub(super) fn times(m: &[Vec<f64>], v: &[f64]) -> Vec<f64> {
        m.iter().map(|row| dot(row, v)).collect()
    }

    #[test]
    fn both_methods_find_the_top_of_the_spectrum_within_their_bounds() {
        let mut values: Vec<f64> = (0..40).map(|i| f64::from(i) / 40.0).collect();
        values.extend([5.0, -4.0, 3.0]);
        let m = matrix(&values);
        for method in [Method::Power, Method::Lanczos] {
            let stop = Stop { top: 3, tolerance: 1e-6, max_products: 200 };
            let start = (0..values.len()).map(|i| 1.0 + (i % 5) as f64).collect();
            let mut solver = Solver::new(method, start, stop);
            let mut products = 0;
            while let Some(v) = solver.vector() {
                let product = times(&m, v);
                assert!((products + 1..=600).contains(&solver.expected()), "{method:?}");
                solver.push(product);
                products += 1;
            }
            assert_eq!(solver.expected(), products);
            let found = solver.eigenvalues();
            assert_eq!(found.len(), 3, "{method:?}");
            for (e, want) in found.iter().zip([5.0, -4.0, 3.0]) {
                assert!((e.value - want).abs() <= 1e-5 * want.abs(), "{method:?} {e:?}");
                assert!((e.value - want).abs() <= e.residual + 1e-9, "{method:?} {e:?}");
            }
            assert!(products < if method == Method::Power { 200 } else { 30 }, "{method:?} {products}");
        }
    }

    #[test]
    fn zero_operators_and_tiny_dimensions_end() {
        for method in [Method::Power, Method::Lanczos] {
            for (n, factor) in [(1, 0.0), (5, 0.0), (1, 3.0), (2, -2.0)] {
                let stop = Stop { top: 4, tolerance: 1e-3, max_products: 50 };
                let mut solver = Solver::new(method, vec![1.0; n], stop);
                let mut products = 0;
                while let Some(v) = solver.vector() {
                    let product = v.iter().map(|x| factor * x).collect();
                    solver.push(product);
                    products += 1;
                    assert!(products < 250, "{method:?} n = {n}");
                }
                let found = solver.eigenvalues();
                assert!(!found.is_empty() && found.len() <= n.min(4), "{method:?} {found:?}");
                assert!((found[0].value - factor).abs() < 1e-12, "{method:?} {found:?}");
            }
        }
    }
}
