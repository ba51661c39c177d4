//! Matrix products: Linear (y = x·wᵀ + b) and MatMul (y = a·b with broadcast leading dimensions).
use super::{
    super::{
        Real,
        kernels::{Correlation, Dots, Source, correlate, dots, panels},
    },
    Operand, Point, Rule,
};
use goshawk_ir::{Result, Shape};

/// Linear of one network run.
#[derive(Clone, Debug)]
pub struct Linear {
    /// Rows of x in one run.
    pub rows: usize,
    /// Columns of x.
    pub inputs: usize,
    /// Columns of y.
    pub outputs: usize,
}

impl Linear {
    /// Σ x·wᵀ over the pairs (x, w), plus b.
    pub fn forward<T: Real>(&self, samples: usize, pairs: &[(&[T], &[T])], bias: Option<&[T]>) -> Vec<T> {
        let rows = samples * self.rows;
        let mut y = match bias {
            Some(b) => b.repeat(rows),
            None => vec![T::ZERO; rows * self.outputs],
        };
        for (x, w) in pairs {
            times_transposed(x, w, [rows, self.inputs, self.outputs], &mut y);
        }
        y
    }

    /// Σ ∂y·w over the pairs (∂y, w).
    pub fn input_gradient<T: Real>(&self, samples: usize, pairs: &[(&[T], &[T])]) -> Vec<T> {
        let rows = samples * self.rows;
        let mut x = vec![T::ZERO; rows * self.inputs];
        times(pairs, [rows, self.outputs, self.inputs], &mut x);
        x
    }

    /// Adds Σ ∂yᵀ·x over the pairs (∂y, x) to `sum`.
    pub fn weight_gradient<T: Real>(&self, samples: usize, pairs: &[(&[T], &[T])], sum: &mut [T]) {
        let rows = samples * self.rows;
        let columns: Vec<Vec<T>> = pairs.iter().map(|(gy, _)| transpose(gy, rows, self.outputs)).collect();
        let pairs: Vec<_> = columns.iter().zip(pairs).map(|(gy, (_, x))| (&gy[..], *x)).collect();
        let mut product = vec![T::ZERO; self.outputs * self.inputs];
        times(&pairs, [self.outputs, rows, self.inputs], &mut product);
        sum.iter_mut().zip(product).for_each(|(s, p)| *s += p);
    }

    /// For each sample and output the squared norm of that sample's gradient in w: ‖Σ over rows of ∂y·x‖², where for
    /// one row ∂y leaves the norm.
    pub fn squares<T: Real>(&self, samples: usize, gy: &[T], x: &[T]) -> Vec<f64> {
        let mut out = Vec::with_capacity(samples * self.outputs);
        let (from, to) = (self.rows * self.inputs, self.rows * self.outputs);
        for (x, gy) in x.chunks_exact(from).zip(gy.chunks_exact(to)) {
            if self.rows == 1 {
                let norm = super::square(x);
                out.extend(gy.iter().map(|g| g.f64() * g.f64() * norm));
            } else {
                let mut gradient = vec![T::ZERO; self.outputs * self.inputs];
                self.weight_gradient(1, &[(gy, x)], &mut gradient);
                out.extend(gradient.chunks_exact(self.inputs).map(super::square));
            }
        }
        out
    }
}

/// out = Σ a·b over the pairs, a [m,k] and b [k,n].
fn times<T: Real>(pairs: &[(&[T], &[T])], [m, k, n]: [usize; 3], out: &mut [T]) {
    let packed: Vec<Vec<T>> = pairs.iter().map(|(a, _)| panels(a, 1, k)).collect();
    let sources: Vec<_> =
        pairs.iter().zip(&packed).map(|((_, b), a)| Source { planes: b, weights: a }).collect();
    let shape = Correlation {
        groups: 1,
        inputs: k,
        outputs: m,
        plane: n,
        step: 1,
        taps: &[(0, 0)],
        len: n,
        pitch: n,
    };
    correlate(&shape, &sources, out);
}

/// out += a·bᵀ, a [m,k] and b [n,k].
fn times_transposed<T: Real>(a: &[T], b: &[T], [m, k, n]: [usize; 3], out: &mut [T]) {
    let starts: Vec<usize> = (0..n).map(|j| j * k).collect();
    dots(&Dots { a, pitch: k, rows: m, b, starts: &starts, len: k }, out);
}

/// The transpose of a [rows, columns].
fn transpose<T: Real>(a: &[T], rows: usize, columns: usize) -> Vec<T> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| a[r * columns + c])).collect()
}

/// MatMul of one network run.
pub struct MatMul {
    m: usize,
    k: usize,
    n: usize,
    /// For each result matrix the matrices that it reads.
    reads: Vec<(usize, usize)>,
    operands: [Operand; 2],
}

impl MatMul {
    /// From the operands' shapes and that of the result.
    pub fn new(a: &Shape, b: &Shape, y: &Shape, operands: [Operand; 2]) -> Result<Self> {
        let lead = Shape::new(&y[..y.rank() - 2])?;
        let matrices = |own: &Shape| -> Result<Vec<usize>> {
            super::broadcast_index(&Shape::new(&own[..own.rank() - 2])?, &lead)
        };
        let reads = matrices(a)?.into_iter().zip(matrices(b)?).collect();
        Ok(Self { m: y[y.rank() - 2], k: a[a.rank() - 1], n: y[y.rank() - 1], reads, operands })
    }

    /// Σ a·b over the pairs.
    fn product<T: Real>(&self, samples: usize, pairs: &[(&[T], &[T])]) -> Vec<T> {
        let [m, k, n] = [self.m, self.k, self.n];
        let mut y = vec![T::ZERO; samples * self.reads.len() * m * n];
        for (i, y) in y.chunks_exact_mut(m * n).enumerate() {
            let (sample, (ia, ib)) = (i / self.reads.len(), self.reads[i % self.reads.len()]);
            let pairs: Vec<_> = pairs
                .iter()
                .map(|(a, b)| {
                    let a = &self.operands[0].of(a, sample)[ia * m * k..][..m * k];
                    (a, &self.operands[1].of(b, sample)[ib * k * n..][..k * n])
                })
                .collect();
            times(&pairs, [m, k, n], y);
        }
        y
    }

    /// ∂y·bᵀ
    fn left<T: Real>(&self, samples: usize, gy: &[T], b: &[T]) -> Vec<T> {
        let [m, k, n] = [self.m, self.k, self.n];
        let count = self.operands[0].count;
        let mut out = vec![T::ZERO; samples * count];
        for (i, gy) in gy.chunks_exact(m * n).enumerate() {
            let (sample, (ia, ib)) = (i / self.reads.len(), self.reads[i % self.reads.len()]);
            let b = &self.operands[1].of(b, sample)[ib * k * n..][..k * n];
            times_transposed(gy, b, [m, n, k], &mut out[sample * count + ia * m * k..][..m * k]);
        }
        out
    }

    /// aᵀ·∂y
    fn right<T: Real>(&self, samples: usize, gy: &[T], a: &[T]) -> Vec<T> {
        let [m, k, n] = [self.m, self.k, self.n];
        let count = self.operands[1].count;
        let mut out = vec![T::ZERO; samples * count];
        let mut product = vec![T::ZERO; k * n];
        for (i, gy) in gy.chunks_exact(m * n).enumerate() {
            let (sample, (ia, ib)) = (i / self.reads.len(), self.reads[i % self.reads.len()]);
            let a = transpose(&self.operands[0].of(a, sample)[ia * m * k..][..m * k], m, k);
            times(&[(&a, gy)], [k, m, n], &mut product);
            let to = &mut out[sample * count + ib * k * n..][..k * n];
            to.iter_mut().zip(&product).for_each(|(t, p)| *t += *p);
        }
        out
    }
}

impl<T: Real> Rule<T> for MatMul {
    fn reads_operand(&self, operand: usize) -> bool {
        // The gradient in one operand reads the other.
        !self.operands[1 - operand].constant
    }
    fn curved(&self, varies: &[bool]) -> bool {
        varies.iter().all(|v| *v)
    }
    fn has_second(&self) -> bool {
        self.operands.iter().all(|o| !o.constant)
    }
    fn forward(&self, samples: usize, x: &[&[T]]) -> super::Forward<T> {
        self.product(samples, &[(x[0], x[1])]).into()
    }
    fn jvp(&self, at: &Point<'_, T>, dx: &[Option<&[T]>]) -> Option<Vec<T>> {
        let pairs: Vec<_> =
            [dx[0].map(|d| (d, at.x(1))), dx[1].map(|d| (at.x(0), d))].into_iter().flatten().collect();
        (!pairs.is_empty()).then(|| self.product(at.samples, &pairs))
    }
    fn vjp(&self, at: &Point<'_, T>, gy: &[T], need: &[bool]) -> Vec<Option<Vec<T>>> {
        vec![
            need[0].then(|| self.left(at.samples, gy, at.x(1))),
            need[1].then(|| self.right(at.samples, gy, at.x(0))),
        ]
    }
    fn second(&self, at: &Point<'_, T>, dx: &[Option<&[T]>], gy: &[T], need: &[bool]) -> Vec<Option<Vec<T>>> {
        vec![
            dx[1].filter(|_| need[0]).map(|d| self.left(at.samples, gy, d)),
            dx[0].filter(|_| need[1]).map(|d| self.right(at.samples, gy, d)),
        ]
    }
}
