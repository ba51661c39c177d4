//! out\[m\]\[n\] += Σ over q of a\[m\]\[q\]·b\[n\]\[q\], with the rows of b anywhere.
//!
//! A register tile holds a few rows times a few columns of vector sums, added across the lanes at the end.
use crate::gradient::Real;
use pulp::{Arch, Simd, WithSimd};

/// Operands and shape.
#[derive(Clone, Copy)]
pub struct Dots<'a, T> {
    /// Left rows.
    pub a: &'a [T],
    /// From one left row to the next.
    pub pitch: usize,
    /// Number of left rows.
    pub rows: usize,
    /// Right rows.
    pub b: &'a [T],
    /// Where each right row starts.
    pub starts: &'a [usize],
    /// Terms of each sum.
    pub len: usize,
}

/// Adds to `out`, row-major with one column for each right row.
pub fn dots<T: Real>(shape: &Dots<'_, T>, out: &mut [T]) {
    Arch::new().dispatch(Kernel { shape, out });
}

struct Kernel<'a, T> {
    shape: &'a Dots<'a, T>,
    out: &'a mut [T],
}

impl<T: Real> WithSimd for Kernel<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { shape, out } = self;
        // 32 registers of 64 bytes, or 16 of 32: 24 or 12 of them hold sums.
        let wide = size_of::<T::Vector<S>>() == 64;
        let mut m = 0;
        while m < shape.rows {
            m += if shape.rows - m >= 4 {
                if wide {
                    columns::<T, S, 4, 6>(simd, shape, m, out);
                } else {
                    columns::<T, S, 4, 3>(simd, shape, m, out);
                }
                4
            } else {
                columns::<T, S, 1, 6>(simd, shape, m, out);
                1
            };
        }
    }
}

#[inline(always)]
fn columns<T: Real, S: Simd, const M: usize, const N: usize>(
    simd: S,
    shape: &Dots<'_, T>,
    m: usize,
    out: &mut [T],
) {
    let mut n = 0;
    while n + N <= shape.starts.len() {
        tile::<T, S, M, N>(simd, shape, m, n, out);
        n += N;
    }
    while n < shape.starts.len() {
        tile::<T, S, M, 1>(simd, shape, m, n, out);
        n += 1;
    }
}

#[inline(always)]
fn tile<T: Real, S: Simd, const M: usize, const N: usize>(
    simd: S,
    shape: &Dots<'_, T>,
    m: usize,
    n: usize,
    out: &mut [T],
) {
    let mut sums = [[T::splat(simd, T::ZERO); N]; M];
    let a: [_; M] = std::array::from_fn(|i| T::vectors::<S>(&shape.a[(m + i) * shape.pitch..][..shape.len]));
    let b: [_; N] = std::array::from_fn(|j| T::vectors::<S>(&shape.b[shape.starts[n + j]..][..shape.len]));
    for q in 0..a[0].0.len() {
        let right: [_; N] = std::array::from_fn(|j| b[j].0[q]);
        for i in 0..M {
            let left = a[i].0[q];
            for j in 0..N {
                sums[i][j] = T::mul_add(simd, left, right[j], sums[i][j]);
            }
        }
    }
    for i in 0..M {
        for j in 0..N {
            let mut sum = T::sum(simd, sums[i][j]);
            for (a, b) in a[i].1.iter().zip(b[j].1) {
                sum += *a * *b;
            }
            out[(m + i) * shape.starts.len() + n + j] += sum;
        }
    }
}
