//! Operators that are linear in their one operand (movement, averages, interpolation), and those that are linear once
//! each result has chosen its element (maxima). Each is data: indices, and weights where there are any.
use super::{super::Real, Forward, Operand, Point, Rule};

/// No element: the result is the constant of [`Linear::fill`].
pub const NOWHERE: u32 = u32::MAX;

/// A linear map of one sample.
pub enum Map<T> {
    /// The identity.
    Copy,
    /// Result i is the given element.
    Gather(Vec<u32>),
    /// Element i is added, times the factor, to the given result.
    Scatter(Vec<u32>, T),
    /// The same sums for every plane: result i of a plane is Σ of the cells rows\[i\]..rows\[i + 1\], each (element, weight).
    Planes {
        /// Elements and results of a plane.
        plane: [usize; 2],
        /// Where the cells of each result start.
        rows: Vec<usize>,
        /// Elements and weights.
        cells: Vec<(u32, T)>,
    },
}

/// A linear operator.
pub struct Linear<T> {
    /// What it does to one sample.
    pub map: Map<T>,
    /// Value of results that read nothing.
    pub fill: T,
    /// Its operand.
    pub operand: Operand,
    /// Results for one sample.
    pub count: usize,
}

impl<T: Real> Linear<T> {
    fn apply(&self, samples: usize, x: &[T], fill: T) -> Vec<T> {
        let mut y = Vec::with_capacity(samples * self.count);
        for sample in 0..samples {
            let x = self.operand.of(x, sample);
            match &self.map {
                Map::Copy => y.extend_from_slice(x),
                Map::Gather(index) => {
                    y.extend(index.iter().map(|i| if *i == NOWHERE { fill } else { x[*i as usize] }));
                }
                Map::Scatter(index, factor) => {
                    let start = y.len();
                    y.resize(start + self.count, T::ZERO);
                    let y = &mut y[start..];
                    for (v, i) in x.iter().zip(index) {
                        y[*i as usize] += *v;
                    }
                    y.iter_mut().for_each(|v| *v *= *factor);
                }
                Map::Planes { plane, rows, cells } => {
                    for x in x.chunks_exact(plane[0]) {
                        y.extend(rows.windows(2).map(|r| {
                            let mut sum = T::ZERO;
                            for (i, w) in &cells[r[0]..r[1]] {
                                sum += *w * x[*i as usize];
                            }
                            sum
                        }));
                    }
                }
            }
        }
        y
    }

    fn adjoint(&self, samples: usize, gy: &[T]) -> Vec<T> {
        if matches!(self.map, Map::Copy) {
            return gy.to_vec();
        }
        let mut gx = vec![T::ZERO; samples * self.operand.count];
        for (gx, gy) in gx.chunks_exact_mut(self.operand.count).zip(gy.chunks_exact(self.count)) {
            match &self.map {
                Map::Copy => gx.copy_from_slice(gy),
                Map::Gather(index) => {
                    for (g, i) in gy.iter().zip(index).filter(|(_, i)| **i != NOWHERE) {
                        gx[*i as usize] += *g;
                    }
                }
                Map::Scatter(index, factor) => {
                    gx.iter_mut().zip(index).for_each(|(g, i)| *g = gy[*i as usize] * *factor);
                }
                Map::Planes { plane, rows, cells } => {
                    for (gx, gy) in gx.chunks_exact_mut(plane[0]).zip(gy.chunks_exact(plane[1])) {
                        for (r, g) in rows.windows(2).zip(gy) {
                            for (i, w) in &cells[r[0]..r[1]] {
                                gx[*i as usize] += *w * *g;
                            }
                        }
                    }
                }
            }
        }
        gx
    }
}

impl<T: Real> Rule<T> for Linear<T> {
    fn forward(&self, samples: usize, x: &[&[T]]) -> Forward<T> {
        self.apply(samples, x[0], self.fill).into()
    }
    fn jvp(&self, at: &Point<'_, T>, dx: &[Option<&[T]>]) -> Option<Vec<T>> {
        dx[0].map(|d| self.apply(at.samples, d, T::ZERO))
    }
    fn vjp(&self, at: &Point<'_, T>, gy: &[T], _: &[bool]) -> Vec<Option<Vec<T>>> {
        vec![Some(self.adjoint(at.samples, gy))]
    }
}

/// Each result is the largest of its candidates; the first one where several are equal.
pub struct Maximum {
    /// Where the candidates of each result start.
    pub rows: Vec<usize>,
    /// Candidates.
    pub candidates: Vec<u32>,
    /// Elements and results of a block; the operand is a number of equal blocks.
    pub block: [usize; 2],
    /// The operand.
    pub operand: Operand,
}

impl Maximum {
    fn sizes(&self) -> [usize; 2] {
        let blocks = self.operand.count / self.block[0];
        [self.operand.count, blocks * self.block[1]]
    }
}

impl<T: Real> Rule<T> for Maximum {
    fn forward(&self, samples: usize, x: &[&[T]]) -> Forward<T> {
        let count = samples * self.sizes()[1];
        let (mut value, mut chosen) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for sample in 0..samples {
            for (b, x) in self.operand.of(x[0], sample).chunks_exact(self.block[0]).enumerate() {
                for r in self.rows.windows(2) {
                    let candidates = &self.candidates[r[0]..r[1]];
                    let mut best = candidates[0];
                    for i in candidates {
                        let v = x[*i as usize];
                        // NaN wins, as in the interpreter.
                        if v > x[best as usize] || v.f64().is_nan() {
                            best = *i;
                        }
                    }
                    value.push(x[best as usize]);
                    chosen.push((b * self.block[0]) as u32 + best);
                }
            }
        }
        Forward { value, chosen }
    }
    fn jvp(&self, at: &Point<'_, T>, dx: &[Option<&[T]>]) -> Option<Vec<T>> {
        let [_, count] = self.sizes();
        let dx = dx[0]?;
        let samples = at.chosen.chunks_exact(count).enumerate();
        Some(
            samples
                .flat_map(|(s, chosen)| {
                    let dx = self.operand.of(dx, s);
                    chosen.iter().map(|i| dx[*i as usize])
                })
                .collect(),
        )
    }
    fn vjp(&self, at: &Point<'_, T>, gy: &[T], _: &[bool]) -> Vec<Option<Vec<T>>> {
        let [from, count] = self.sizes();
        let mut gx = vec![T::ZERO; at.samples * from];
        let samples =
            gx.chunks_exact_mut(from).zip(gy.chunks_exact(count)).zip(at.chosen.chunks_exact(count));
        for ((gx, gy), chosen) in samples {
            for (g, i) in gy.iter().zip(chosen) {
                gx[*i as usize] += *g;
            }
        }
        vec![Some(gx)]
    }
}
