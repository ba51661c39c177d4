//! out\[n\]\[o\] = Σ over sources and positions of a\[position\]\[o\] · b\[n\]\[position\]: outer products.
//!
//! Vectors run along o, so that no sum has to be added up across lanes, and a broadcast element of b needs no alignment. A
//! register tile holds a few columns n times a few vectors; the left operand is cut into slices of outputs and read in
//! blocks of positions that stay in the first cache while all columns pass over them.
use super::LANES;
use crate::gradient::Real;
use pulp::{Arch, Simd, WithSimd};

/// Outputs of a slice.
const SLICE: usize = 4 * LANES;
/// Bytes of the left operand that are read again and again: well below 32 KiB.
const BLOCK: usize = 20 << 10;

/// One product of the sum.
#[derive(Clone, Copy)]
pub struct Product<'a, T> {
    /// Left operand as [`slices`] makes it.
    pub a: &'a [T],
    /// Right operand.
    pub b: &'a [T],
}

/// The shape of the sum; the same for all products.
#[derive(Clone, Copy)]
pub struct Outer<'a> {
    /// Outputs.
    pub outputs: usize,
    /// Where each column starts in `b`.
    pub columns: &'a [usize],
    /// Where each line of positions starts in a column.
    pub lines: &'a [usize],
    /// Positions of a line.
    pub len: usize,
}

/// Outputs of the slice that comes next when `left` are left, with padding.
fn width(left: usize) -> usize {
    left.next_multiple_of(LANES).min(SLICE)
}

/// Rows \[outputs\]\[positions\], `distance` from one image's to the next one's, as slices \[positions of all images\]\[width\],
/// filled up with zeros.
pub fn slices<T: Real>(
    rows: &[T],
    outputs: usize,
    positions: usize,
    images: usize,
    distance: usize,
    to: &mut Vec<T>,
) {
    to.clear();
    to.resize(outputs.next_multiple_of(LANES) * positions * images, T::ZERO);
    let (mut first, mut rest) = (0, &mut to[..]);
    while first < outputs {
        let width = width(outputs - first);
        let (slice, behind) = rest.split_at_mut(width * positions * images);
        for (g, slice) in slice.chunks_exact_mut(width * positions).enumerate() {
            for o in (0..width.min(outputs - first)).step_by(LANES) {
                let count = LANES.min(outputs - first - o);
                let lines: [&[T]; LANES] = std::array::from_fn(|i| {
                    &rows[g * distance + (first + o + i.min(count - 1)) * positions..][..positions]
                });
                for p in 0..positions {
                    let to = &mut slice[p * width + o..][..LANES];
                    for i in 0..LANES {
                        to[i] = lines[i][p];
                    }
                    // Beyond the last output the rows were read once more.
                    to[count..].fill(T::ZERO);
                }
            }
        }
        (first, rest) = (first + width, behind);
    }
}

/// The sums of a slice of outputs.
#[derive(Clone, Copy)]
pub struct Sums<'a, T> {
    /// The first output.
    pub first: usize,
    /// Outputs.
    pub count: usize,
    /// \[columns\]\[width\]
    pub values: &'a [T],
    /// Outputs with padding.
    pub width: usize,
}

impl<T: Real> Sums<'_, T> {
    /// Adds them to rows \[outputs\]\[columns\], the first of which is that of the first output.
    pub fn add_to(&self, rows: &mut [T], columns: usize) {
        for first in (0..columns).step_by(LANES) {
            let count = LANES.min(columns - first);
            for (o, row) in rows.chunks_exact_mut(columns).take(self.count).enumerate() {
                for (i, v) in row[first..first + count].iter_mut().enumerate() {
                    *v += self.values[(first + i) * self.width + o];
                }
            }
        }
    }
}

/// Gives the sums to `sink`, slice by slice.
pub fn outer<T: Real>(
    shape: &Outer<'_>,
    products: &[Product<'_, T>],
    scratch: &mut Vec<T>,
    sink: &mut dyn FnMut(Sums<'_, T>),
) {
    let positions = shape.lines.len() * shape.len;
    let (mut first, mut at) = (0, 0);
    while first < shape.outputs {
        let width = width(shape.outputs - first);
        scratch.clear();
        scratch.resize(shape.columns.len() * width, T::ZERO);
        for product in products {
            let a = &product.a[at..][..positions * width];
            Arch::new().dispatch(Kernel { shape, a, b: product.b, width, sums: scratch });
        }
        sink(Sums { first, count: width.min(shape.outputs - first), values: scratch, width });
        first += width;
        at += positions * width;
    }
}

struct Kernel<'a, T> {
    shape: &'a Outer<'a>,
    a: &'a [T],
    b: &'a [T],
    width: usize,
    sums: &'a mut [T],
}

impl<T: Real> WithSimd for Kernel<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { shape, a, b, width, sums } = self;
        let lanes = size_of::<T::Vector<S>>() / size_of::<T>();
        // 32 registers of 64 bytes, or 16 of 32, for the sums, a row of the left operand and the columns' elements.
        let wide = size_of::<T::Vector<S>>() == 64;
        let together = (BLOCK / size_of::<T>() / width / shape.len).max(1);
        for (lines, a) in shape.lines.chunks(together).zip(a.chunks(together * shape.len * width)) {
            let mut o = 0;
            while o < width {
                let block = Block { shape, lines, a, b, width, o };
                o += lanes
                    * match ((width - o) / lanes, wide) {
                        (4.., true) => columns::<T, S, 5, 4>(simd, &block, sums),
                        (3.., true) => columns::<T, S, 6, 3>(simd, &block, sums),
                        (3.., false) => columns::<T, S, 3, 3>(simd, &block, sums),
                        (2, true) => columns::<T, S, 8, 2>(simd, &block, sums),
                        (2, false) => columns::<T, S, 4, 2>(simd, &block, sums),
                        (_, true) => columns::<T, S, 12, 1>(simd, &block, sums),
                        _ => columns::<T, S, 6, 1>(simd, &block, sums),
                    };
            }
        }
    }
}

/// Some lines of positions, and the vectors of outputs from `o` on.
struct Block<'a, T> {
    shape: &'a Outer<'a>,
    lines: &'a [usize],
    a: &'a [T],
    b: &'a [T],
    width: usize,
    o: usize,
}

/// All columns; the number of vectors.
#[inline(always)]
fn columns<T: Real, S: Simd, const M: usize, const V: usize>(
    simd: S,
    block: &Block<'_, T>,
    sums: &mut [T],
) -> usize {
    let count = block.shape.columns.len();
    let mut n = 0;
    while n + M <= count {
        tile::<T, S, M, V>(simd, block, n, sums);
        n += M;
    }
    while n + 2 <= count {
        tile::<T, S, 2, V>(simd, block, n, sums);
        n += 2;
    }
    if n < count {
        tile::<T, S, 1, V>(simd, block, n, sums);
    }
    V
}

#[inline(always)]
fn tile<T: Real, S: Simd, const M: usize, const V: usize>(
    simd: S,
    block: &Block<'_, T>,
    n: usize,
    out: &mut [T],
) {
    let Block { shape, lines, a, b, width, o } = *block;
    let lanes = size_of::<T::Vector<S>>() / size_of::<T>();
    let len = shape.len;
    let mut sums = [[T::splat(simd, T::ZERO); V]; M];
    for i in 0..M {
        let from = &out[(n + i) * width + o..][..V * lanes];
        sums[i].copy_from_slice(T::vectors::<S>(from).0);
    }
    for (l, line) in lines.iter().enumerate() {
        let x: [&[T]; M] = std::array::from_fn(|i| &b[shape.columns[n + i] + line..][..len]);
        let rows = &a[l * len * width..][..len * width];
        for q in 0..len {
            let row = T::vectors::<S>(&rows[q * width + o..][..V * lanes]).0;
            let row: [T::Vector<S>; V] = std::array::from_fn(|j| row[j]);
            for i in 0..M {
                let w = T::splat(simd, x[i][q]);
                for j in 0..V {
                    sums[i][j] = T::mul_add(simd, w, row[j], sums[i][j]);
                }
            }
        }
    }
    for i in 0..M {
        let to = &mut out[(n + i) * width + o..][..V * lanes];
        T::vectors_mut::<S>(to).0.copy_from_slice(&sums[i]);
    }
}
