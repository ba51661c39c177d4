//! out\[o\]\[q\] = Σ over sources, inputs and taps of weight · plane\[q + offset\].
//!
//! A register tile holds a few outputs times a few vectors of positions; per input and tap it loads the vectors once
//! and broadcasts one weight per output, as in a matrix product whose right operand is never copied.
use crate::gradient::Real;
use pulp::{Arch, Simd, WithSimd};

/// One product of the sum.
#[derive(Clone, Copy)]
pub struct Source<'a, T> {
    /// Input planes.
    pub planes: &'a [T],
    /// Weights.
    pub weights: &'a [T],
}

/// The shape of the sum; the same for all sources.
#[derive(Clone, Copy)]
pub struct Correlation<'a> {
    /// Independent groups.
    pub groups: usize,
    /// Inputs of a group.
    pub inputs: usize,
    /// Outputs of a group.
    pub outputs: usize,
    /// From one input plane to the next.
    pub plane: usize,
    /// From the weights of one output to those of the next.
    pub row: usize,
    /// From the weights of one input to those of the next.
    pub step: usize,
    /// For each tap its offset in the plane and its weight's offset.
    pub taps: &'a [(usize, usize)],
    /// Positions.
    pub len: usize,
    /// From one output to the next.
    pub pitch: usize,
}

/// Overwrites `out`.
pub fn correlate<T: Real>(shape: &Correlation<'_>, sources: &[Source<'_, T>], out: &mut [T]) {
    Arch::new().dispatch(Kernel { shape, sources, out });
}

struct Kernel<'a, T> {
    shape: &'a Correlation<'a>,
    sources: &'a [Source<'a, T>],
    out: &'a mut [T],
}

impl<T: Real> WithSimd for Kernel<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { shape, sources, out } = self;
        for group in 0..shape.groups {
            let out = &mut out[group * shape.outputs * shape.pitch..];
            // Whatever is larger, weights or planes, passes through the caches once.
            if shape.outputs * shape.taps.len() > shape.len {
                outputs(simd, shape, sources, group, 0..shape.len, out);
            } else {
                let block = 3 * size_of::<T::Vector<S>>() / size_of::<T>();
                let mut q = 0;
                while q < shape.len {
                    let end = if shape.len - q < 2 * block { shape.len } else { q + block };
                    outputs(simd, shape, sources, group, q..end, out);
                    q = end;
                }
            }
        }
    }
}

/// All outputs of a group at some positions.
#[inline(always)]
fn outputs<T: Real, S: Simd>(
    simd: S,
    shape: &Correlation<'_>,
    sources: &[Source<'_, T>],
    group: usize,
    q: std::ops::Range<usize>,
    out: &mut [T],
) {
    // 32 registers of 64 bytes, or 16 of 32: 24 or 12 of them hold sums.
    let wide = size_of::<T::Vector<S>>() == 64;
    let mut o = 0;
    while o < shape.outputs {
        let left = shape.outputs - o;
        let at = At { group, output: o };
        o += if wide && left >= 8 {
            positions::<T, S, 8, 3>(simd, shape, sources, at, q.clone(), out);
            8
        } else if wide && left >= 4 {
            positions::<T, S, 4, 6>(simd, shape, sources, at, q.clone(), out);
            4
        } else if left >= 4 {
            positions::<T, S, 4, 3>(simd, shape, sources, at, q.clone(), out);
            4
        } else if left >= 2 {
            positions::<T, S, 2, 4>(simd, shape, sources, at, q.clone(), out);
            2
        } else {
            positions::<T, S, 1, 8>(simd, shape, sources, at, q.clone(), out);
            1
        };
    }
}

#[derive(Clone, Copy)]
struct At {
    group: usize,
    output: usize,
}

#[inline(always)]
fn positions<T: Real, S: Simd, const M: usize, const V: usize>(
    simd: S,
    shape: &Correlation<'_>,
    sources: &[Source<'_, T>],
    at: At,
    range: std::ops::Range<usize>,
    out: &mut [T],
) {
    let lanes = size_of::<T::Vector<S>>() / size_of::<T>();
    let mut q = range.start;
    while q + V * lanes <= range.end {
        tile::<T, S, M, V>(simd, shape, sources, at, q, out);
        q += V * lanes;
    }
    while q + lanes <= range.end {
        tile::<T, S, M, 1>(simd, shape, sources, at, q, out);
        q += lanes;
    }
    for q in q..range.end {
        for i in 0..M {
            out[(at.output + i) * shape.pitch + q] = single(shape, sources, at.group, at.output + i, q);
        }
    }
}

#[inline(always)]
fn tile<T: Real, S: Simd, const M: usize, const V: usize>(
    simd: S,
    shape: &Correlation<'_>,
    sources: &[Source<'_, T>],
    at: At,
    q: usize,
    out: &mut [T],
) {
    let lanes = size_of::<T::Vector<S>>() / size_of::<T>();
    let mut sums = [[T::splat(simd, T::ZERO); V]; M];
    for source in sources {
        let first = at.group * shape.outputs + at.output;
        let rows: [&[T]; M] =
            std::array::from_fn(|i| &source.weights[(first + i) * shape.row..][..shape.row]);
        for input in 0..shape.inputs {
            let plane = &source.planes[(at.group * shape.inputs + input) * shape.plane + q..];
            for (offset, weight) in shape.taps {
                let x = T::vectors::<S>(&plane[*offset..*offset + V * lanes]).0;
                let k = input * shape.step + weight;
                for i in 0..M {
                    let w = T::splat(simd, rows[i][k]);
                    for j in 0..V {
                        sums[i][j] = T::mul_add(simd, w, x[j], sums[i][j]);
                    }
                }
            }
        }
    }
    for i in 0..M {
        let to = &mut out[(at.output + i) * shape.pitch + q..][..V * lanes];
        T::vectors_mut::<S>(to).0.copy_from_slice(&sums[i]);
    }
}

/// One sum, for the positions that do not fill a vector.
#[inline(always)]
fn single<T: Real>(
    shape: &Correlation<'_>,
    sources: &[Source<'_, T>],
    group: usize,
    output: usize,
    q: usize,
) -> T {
    let mut sum = T::ZERO;
    for source in sources {
        let row = &source.weights[(group * shape.outputs + output) * shape.row..];
        for input in 0..shape.inputs {
            let plane = &source.planes[(group * shape.inputs + input) * shape.plane + q..];
            for (offset, weight) in shape.taps {
                sum += row[input * shape.step + weight] * plane[*offset];
            }
        }
    }
    sum
}
