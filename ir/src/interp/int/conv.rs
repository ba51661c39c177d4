//! Convolution and linear layers: requant(Σ x̂·w + b). Padding cells hold x̂ = 0.
//!
//! |x̂| ≤ 255 and |w| ≤ 128, so both are narrowed to i16 and the compiler turns the dot product into widening
//! multiply-adds. Sums cannot overflow i32: the verifier proves it ([`crate::range`]).
use super::{Operand, Options};
use crate::{
    Requant, Result, Shape,
    op::int::{Conv, Linear},
    op::window::ConvWindow,
};

fn narrow(values: &[i32]) -> Vec<i16> {
    values.iter().map(|v| *v as i16).collect()
}

fn dot(a: &[i16], b: &[i16]) -> i32 {
    a.iter().zip(b).map(|(x, y)| i32::from(*x) * i32::from(*y)).fold(0, i32::wrapping_add)
}

/// x [M,K], w [N,K], b [N] → [M,N].
pub fn linear(a: &Linear, operands: &[Operand<'_>], options: Options) -> Vec<i32> {
    let (x, w, b) = (narrow(&operands[0].centred()), narrow(&operands[1].values), &operands[2].values);
    let k = operands[0].ty.shape[1];
    let mut out = Vec::with_capacity(x.len() / k * b.len());
    for row in x.chunks(k) {
        out.extend(dots(row, &w, b, &a.requant, 0, options));
    }
    out
}

/// The output channels `first`, `first` + 1, … whose weights are the rows of `w`.
fn dots<'a>(
    row: &'a [i16],
    w: &'a [i16],
    b: &'a [i32],
    requant: &'a Requant,
    first: usize,
    options: Options,
) -> impl Iterator<Item = i32> + 'a {
    w.chunks(row.len())
        .zip(b)
        .enumerate()
        .map(move |(o, (w, b))| options.requant(requant, dot(row, w).wrapping_add(*b), first + o))
}

/// x [N,H,W,C], w [O,KH,KW,C/groups], b [O] → [N,H',W',O].
pub fn conv(a: &Conv, operands: &[Operand<'_>], shape: &Shape, options: Options) -> Result<Vec<i32>> {
    let (x, w, b) = (narrow(&operands[0].centred()), narrow(&operands[1].values), &operands[2].values);
    let [n, h, wd, c] = operands[0].ty.shape.dims4()?;
    let [o, kh, kw, cg] = operands[1].ty.shape.dims4()?;
    let [_, oh, ow, _] = shape.dims4()?;
    let groups = a.window.groups;
    let mut out = Vec::with_capacity(shape.count());
    let depthwise = groups == c && o == c;
    let by_tap = if depthwise { transposed(&w, o, kh * kw) } else { Vec::new() };
    let mut accumulators = vec![0i32; o];
    let mut patch = vec![0i16; kh * kw * cg];
    for i in 0..n {
        let image = &x[i * h * wd * c..(i + 1) * h * wd * c];
        for y in 0..oh {
            let rows = taps(&a.window, 0, y, kh, h);
            for z in 0..ow {
                let columns = taps(&a.window, 1, z, kw, wd);
                if depthwise {
                    accumulators.copy_from_slice(b);
                    for (ky, iy) in rows.clone() {
                        for (kx, ix) in columns.clone() {
                            let w = &by_tap[(ky * kw + kx) * o..][..o];
                            let x = &image[(iy * wd + ix) * c..][..c];
                            for ((acc, x), w) in accumulators.iter_mut().zip(x).zip(w) {
                                *acc = acc.wrapping_add(i32::from(*x) * i32::from(*w));
                            }
                        }
                    }
                    out.extend(
                        accumulators.iter().enumerate().map(|(o, z)| options.requant(&a.requant, *z, o)),
                    );
                    continue;
                }
                let og = o / groups;
                for g in 0..groups {
                    patch.fill(0);
                    for (ky, iy) in rows.clone() {
                        for (kx, ix) in columns.clone() {
                            patch[(ky * kw + kx) * cg..][..cg]
                                .copy_from_slice(&image[(iy * wd + ix) * c + g * cg..][..cg]);
                        }
                    }
                    let w = &w[g * og * patch.len()..(g + 1) * og * patch.len()];
                    out.extend(dots(&patch, w, &b[g * og..(g + 1) * og], &a.requant, g * og, options));
                }
            }
        }
    }
    Ok(out)
}

/// (kernel index, operand index) of the taps of output `out` that lie inside the operand.
fn taps(
    w: &ConvWindow,
    axis: usize,
    out: usize,
    kernel: usize,
    len: usize,
) -> impl Iterator<Item = (usize, usize)> + Clone {
    let (before, step) = (w.pads[axis], w.dilation[axis]);
    let start = out * w.stride[axis];
    (0..kernel)
        .filter_map(move |k| (start + k * step).checked_sub(before).filter(|i| *i < len).map(|i| (k, i)))
}

/// [rows, columns] → [columns, rows].
fn transposed(values: &[i16], rows: usize, columns: usize) -> Vec<i16> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}
