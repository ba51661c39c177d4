//! out\[o\]\[q\] = Σ over sources, inputs and taps of weight · plane\[q + offset\].
//!
//! A register tile holds a few outputs times a few vectors of positions; per input and tap it loads the vectors once
//! and broadcasts one weight per output, as in a matrix product whose right operand is never copied.
use super::panels;
use crate::gradient::Real;
use pulp::{Arch, Simd, WithSimd};
use std::ops::Range;

/// One product of the sum.
#[derive(Clone, Copy)]
pub struct Source<'a, T> {
    /// Input planes.
    pub planes: &'a [T],
    /// Weights as [`panels::panels`].
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
    /// Weights of one input for one output.
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

/// What a sweep over outputs and positions sums.
#[derive(Clone)]
struct Terms<'a, T> {
    sources: &'a [Source<'a, T>],
    inputs: Range<usize>,
    /// Whether the sums start from zero and not from what `out` holds.
    fresh: bool,
}

/// Inputs whose lines at some fifty positions stay in half of the first cache with one tap, and with several; the weights
/// that go with them stay in the second one.
const INPUTS: [usize; 4] = [64, 64, 32, 16];

impl<T: Real> WithSimd for Kernel<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { shape, sources, out } = self;
        let lanes = size_of::<T::Vector<S>>() / size_of::<T>();
        let together = INPUTS[shape.taps.len().min(3)];
        let terms: Vec<Terms<'_, T>> = sources
            .iter()
            .flat_map(|source| {
                let inputs = (0..shape.inputs).step_by(together);
                inputs.map(move |i| (std::slice::from_ref(source), i..shape.inputs.min(i + together)))
            })
            .enumerate()
            .map(|(n, (sources, inputs))| Terms { sources, inputs, fresh: n == 0 })
            .collect();
        let whole = shape.len / lanes * lanes;
        for group in 0..shape.groups {
            let out = &mut out[group * shape.outputs * shape.pitch..];
            // A few outputs are one or two tiles: then positions are not read again.
            let block = if shape.outputs < 8 { whole.max(1) } else { 3 * lanes };
            for terms in &terms {
                let mut q = 0;
                while q < whole {
                    let end = if whole - q < 2 * block { whole } else { q + block };
                    outputs(simd, shape, terms, group, q..end, out);
                    q = end;
                }
            }
            if whole < shape.len {
                let all = Terms { sources, inputs: 0..shape.inputs, fresh: true };
                // The last positions once more, with the rest: their sums come out the same but for rounding.
                let from = shape.len.saturating_sub(lanes);
                outputs(simd, shape, &all, group, from..shape.len, out);
            }
        }
    }
}

/// All outputs of a group at some positions.
#[inline(always)]
fn outputs<T: Real, S: Simd>(
    simd: S,
    shape: &Correlation<'_>,
    terms: &Terms<'_, T>,
    group: usize,
    q: Range<usize>,
    out: &mut [T],
) {
    // 32 registers of 64 bytes, or 16 of 32: 24 or 12 of them hold sums.
    let wide = size_of::<T::Vector<S>>() == 64;
    let mut o = 0;
    while o < shape.outputs {
        let height = panels::height(shape.outputs - o);
        let at = At { group, output: o, height, row: 0 };
        match (height, wide) {
            (8, true) => positions::<T, S, 8, 3, 1>(simd, shape, terms, at, q.clone(), out),
            (8, false) => {
                positions::<T, S, 4, 3, 1>(simd, shape, terms, at, q.clone(), out);
                positions::<T, S, 4, 3, 1>(simd, shape, terms, At { row: 4, ..at }, q.clone(), out);
            }
            (4, true) => positions::<T, S, 4, 6, 2>(simd, shape, terms, at, q.clone(), out),
            (4, false) => positions::<T, S, 4, 3, 1>(simd, shape, terms, at, q.clone(), out),
            (2, _) => positions::<T, S, 2, 4, 1>(simd, shape, terms, at, q.clone(), out),
            _ => positions::<T, S, 1, 8, 2>(simd, shape, terms, at, q.clone(), out),
        }
        o += height;
    }
}

/// A panel of weights and the first of its rows that a tile takes.
#[derive(Clone, Copy)]
struct At {
    group: usize,
    output: usize,
    height: usize,
    row: usize,
}

/// M outputs at a range of positions, by tiles of V, then H, then one vector.
#[inline(always)]
fn positions<T: Real, S: Simd, const M: usize, const V: usize, const H: usize>(
    simd: S,
    shape: &Correlation<'_>,
    terms: &Terms<'_, T>,
    at: At,
    range: Range<usize>,
    out: &mut [T],
) {
    let lanes = size_of::<T::Vector<S>>() / size_of::<T>();
    let mut q = range.start;
    while q + V * lanes <= range.end {
        tile::<T, S, M, V>(simd, shape, terms, at, q, out);
        q += V * lanes;
    }
    while H > 1 && q + H * lanes <= range.end {
        tile::<T, S, M, H>(simd, shape, terms, at, q, out);
        q += H * lanes;
    }
    while q + lanes <= range.end {
        tile::<T, S, M, 1>(simd, shape, terms, at, q, out);
        q += lanes;
    }
    for q in q..range.end {
        for i in 0..M {
            out[(at.output + at.row + i) * shape.pitch + q] = single(shape, terms, at, i, q);
        }
    }
}

/// The panel that a tile reads.
#[inline(always)]
fn panel<'a, T>(shape: &Correlation<'_>, source: &Source<'a, T>, at: At) -> &'a [T] {
    let terms = shape.inputs * shape.step;
    &source.weights[(at.group * shape.outputs + at.output) * terms..][..at.height * terms]
}

#[inline(always)]
fn tile<T: Real, S: Simd, const M: usize, const V: usize>(
    simd: S,
    shape: &Correlation<'_>,
    terms: &Terms<'_, T>,
    at: At,
    q: usize,
    out: &mut [T],
) {
    let lanes = size_of::<T::Vector<S>>() / size_of::<T>();
    let mut sums = [[T::splat(simd, T::ZERO); V]; M];
    if !terms.fresh {
        for i in 0..M {
            let from = &out[(at.output + at.row + i) * shape.pitch + q..][..V * lanes];
            sums[i].copy_from_slice(T::vectors::<S>(from).0);
        }
    }
    for source in terms.sources {
        let panel = panel(shape, source, at);
        for input in terms.inputs.clone() {
            let plane = &source.planes[(at.group * shape.inputs + input) * shape.plane + q..];
            let panel = &panel[input * shape.step * at.height + at.row..];
            for (offset, weight) in shape.taps {
                let x = T::vectors::<S>(&plane[*offset..*offset + V * lanes]).0;
                let w = &panel[*weight * at.height..][..M];
                for i in 0..M {
                    let w = T::splat(simd, w[i]);
                    for j in 0..V {
                        sums[i][j] = T::mul_add(simd, w, x[j], sums[i][j]);
                    }
                }
            }
        }
    }
    for i in 0..M {
        let to = &mut out[(at.output + at.row + i) * shape.pitch + q..][..V * lanes];
        T::vectors_mut::<S>(to).0.copy_from_slice(&sums[i]);
    }
}

/// One sum, where there are fewer positions than a vector holds.
#[inline(always)]
fn single<T: Real>(shape: &Correlation<'_>, terms: &Terms<'_, T>, at: At, row: usize, q: usize) -> T {
    let mut sum = T::ZERO;
    for source in terms.sources {
        let panel = panel(shape, source, at);
        for input in terms.inputs.clone() {
            let plane = &source.planes[(at.group * shape.inputs + input) * shape.plane + q..];
            for (offset, weight) in shape.taps {
                sum += panel[(input * shape.step + weight) * at.height + at.row + row] * plane[*offset];
            }
        }
    }
    sum
}
