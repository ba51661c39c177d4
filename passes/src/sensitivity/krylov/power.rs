//! Power iteration with deflation (HAWQ): v ← H v / ‖H v‖, λ = vᵀ H v; found eigenvectors are kept out of later ones.
use super::{Stop, dot, norm, normalise, orthogonalise};
use crate::sensitivity::profile::Eigenvalue;

/// Power iteration for one eigenvalue after the other.
#[derive(Clone, Debug)]
pub struct Power {
    stop: Stop,
    start: Vec<f64>,
    /// Waits for its product.
    v: Vec<f64>,
    /// Eigenvectors that were found.
    deflated: Vec<Vec<f64>>,
    found: Vec<Eigenvalue>,
    current: Option<Eigenvalue>,
    /// Consecutive small changes of λ.
    calm: usize,
    done: bool,
}

impl Power {
    /// Starts from this vector, which is not 0.
    pub fn new(mut start: Vec<f64>, stop: Stop) -> Self {
        normalise(&mut start);
        let v = start.clone();
        let (deflated, found) = (Vec::new(), Vec::new());
        Self { stop, start, v, deflated, found, current: None, calm: 0, done: false }
    }

    /// The vector that waits for its product; `None` when done.
    pub fn vector(&self) -> Option<&[f64]> {
        if self.done { None } else { Some(&self.v) }
    }

    /// Takes the product with [`Power::vector`].
    pub fn push(&mut self, mut product: Vec<f64>) {
        if self.done {
            return;
        }
        let value = dot(&self.v, &product);
        let rest: Vec<f64> = product.iter().zip(&self.v).map(|(p, v)| p - value * v).collect();
        let residual = norm(&rest);
        let products = self.current.map_or(0, |e| e.products) + 1;
        let change = self.current.map_or(f64::INFINITY, |e| (value - e.value).abs());
        self.current = Some(Eigenvalue { value, residual, products });
        // λ converges twice as fast as v. A small change alone can be a plateau: it must come twice, and be well below
        // the tolerance, because the rest of a geometric series is longer than its last term.
        self.calm = if change <= 0.1 * self.stop.tolerance * value.abs() { self.calm + 1 } else { 0 };
        let converged = residual <= self.stop.tolerance * value.abs() || self.calm >= 2;
        orthogonalise(&mut product, &self.deflated);
        let length = normalise(&mut product);
        let nothing_left = length <= f64::MIN_POSITIVE;
        if converged || nothing_left || products >= self.stop.max_products as u64 {
            self.next(if nothing_left { self.v.clone() } else { product });
        } else {
            self.v = product;
        }
    }

    /// Products in all, as far as one can tell.
    pub fn expected(&self) -> usize {
        let behind: u64 = self.found.iter().map(|e| e.products).sum();
        if self.done {
            return behind as usize;
        }
        let (products, error) =
            self.current.map_or((0, f64::INFINITY), |e| (e.products, e.residual / e.value.abs()));
        let this = self.stop.expected(products as usize, error);
        behind as usize + this * (self.stop.top - self.found.len())
    }

    /// Files the current eigenvalue and starts on the next one.
    fn next(&mut self, vector: Vec<f64>) {
        self.found.extend(self.current.take());
        self.deflated.push(vector);
        self.calm = 0;
        self.v.clone_from(&self.start);
        // The start vector may lie in the span of what was found; shifting it finds another direction.
        for shift in 0..self.start.len() {
            self.v.rotate_right(usize::from(shift > 0));
            orthogonalise(&mut self.v, &self.deflated);
            if normalise(&mut self.v) > 1e-6 {
                break;
            }
            self.v.clone_from(&self.start);
            self.v.rotate_right(shift);
        }
        self.done = self.found.len() >= self.stop.top.min(self.v.len()) || norm(&self.v) == 0.0;
    }

    /// The eigenvalues so far, largest magnitude first.
    pub fn eigenvalues(&self) -> Vec<Eigenvalue> {
        let mut all: Vec<_> = self.found.iter().copied().chain(self.current).collect();
        all.sort_by(|a, b| b.value.abs().total_cmp(&a.value.abs()));
        all
    }
}
