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

/// Rows of patches and weights are filled up with zeros to a multiple of this, so that dot products have no tail.
const LANES: usize = 16;

fn dot(a: &[i16], b: &[i16]) -> i32 {
    let mut sum = 0i32;
    for (a, b) in a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0) {
        for i in 0..LANES {
            sum = sum.wrapping_add(i32::from(a[i]) * i32::from(b[i]));
        }
    }
    sum
}

/// Rows of `k` values narrowed to i16 and filled up to a multiple of [`LANES`].
struct Rows {
    values: Vec<i16>,
    padded: usize,
}

impl Rows {
    fn new(values: &[i32], k: usize) -> Self {
        let padded = k.next_multiple_of(LANES);
        let mut rows = vec![0; values.len() / k * padded];
        for (row, source) in rows.chunks_mut(padded).zip(values.chunks(k)) {
            for (d, s) in row.iter_mut().zip(source) {
                *d = *s as i16;
            }
        }
        Self { values: rows, padded }
    }

    fn iter(&self) -> impl Iterator<Item = &[i16]> {
        self.values.chunks(self.padded)
    }
}

/// One output channel after the other.
struct Channels<'a> {
    weights: Rows,
    bias: &'a [i32],
    requant: &'a Requant,
    options: Options,
}

impl Channels<'_> {
    /// The output channels of group `group` of `groups` for the operand values `patch`.
    fn extend(&self, out: &mut Vec<i32>, patch: &[i16], group: usize, groups: usize) {
        let count = self.bias.len() / groups;
        let first = group * count;
        let channels = self.weights.iter().zip(self.bias).enumerate().skip(first).take(count);
        out.extend(
            channels.map(|(o, (w, b))| self.options.requant(self.requant, dot(patch, w).wrapping_add(*b), o)),
        );
    }
}

/// x [M,K], w [N,K], b [N] → [M,N].
pub fn linear(a: &Linear, operands: &[Operand<'_>], options: Options) -> Vec<i32> {
    let k = operands[0].ty.shape[1];
    let channels = Channels {
        weights: Rows::new(&operands[1].values, k),
        bias: &operands[2].values,
        requant: &a.requant,
        options,
    };
    let mut out = Vec::new();
    for row in Rows::new(&operands[0].centred(), k).iter() {
        channels.extend(&mut out, row, 0, 1);
    }
    out
}

/// x [N,H,W,C], w [O,KH,KW,C/groups], b [O] → [N,H',W',O].
pub fn conv(a: &Conv, operands: &[Operand<'_>], shape: &Shape, options: Options) -> Result<Vec<i32>> {
    let x: Vec<i16> = operands[0].centred().iter().map(|v| *v as i16).collect();
    let bias = &operands[2].values;
    let [n, h, wd, c] = operands[0].ty.shape.dims4()?;
    let [o, kh, kw, cg] = operands[1].ty.shape.dims4()?;
    let [_, oh, ow, _] = shape.dims4()?;
    let groups = a.window.groups;
    let mut out = Vec::with_capacity(shape.count());
    let mut pixel: Box<Pixel<'_>> = if groups == c && o == c {
        let by_tap = transposed(&operands[1].values, o, kh * kw);
        let mut sums = vec![0i32; o];
        let out = &mut out;
        Box::new(move |image, taps| {
            sums.copy_from_slice(bias);
            for tap in taps {
                let w = &by_tap[tap.kernel * o..][..o];
                let x = &image[tap.pixel * c..][..c];
                for ((sum, x), w) in sums.iter_mut().zip(x).zip(w) {
                    *sum = sum.wrapping_add(i32::from(*x) * i32::from(*w));
                }
            }
            out.extend(sums.iter().enumerate().map(|(o, z)| options.requant(&a.requant, *z, o)));
        })
    } else {
        let weights = Rows::new(&operands[1].values, kh * kw * cg);
        let mut patch = vec![0i16; weights.padded];
        let channels = Channels { weights, bias, requant: &a.requant, options };
        let out = &mut out;
        Box::new(move |image, taps| {
            for group in 0..groups {
                patch.fill(0);
                for tap in taps {
                    patch[tap.kernel * cg..][..cg]
                        .copy_from_slice(&image[tap.pixel * c + group * cg..][..cg]);
                }
                channels.extend(out, &patch, group, groups);
            }
        })
    };
    let mut taps = Vec::with_capacity(kh * kw);
    for i in 0..n {
        let image = &x[i * h * wd * c..(i + 1) * h * wd * c];
        for (y, z) in (0..oh * ow).map(|p| (p / ow, p % ow)) {
            taps.clear();
            for (ky, iy) in inside(&a.window, 0, y, kh, h) {
                taps.extend(
                    inside(&a.window, 1, z, kw, wd)
                        .map(|(kx, ix)| Tap { kernel: ky * kw + kx, pixel: iy * wd + ix }),
                );
            }
            pixel(image, &taps);
        }
    }
    drop(pixel);
    Ok(out)
}

/// Appends the output channels of one pixel, given the image and the taps inside it.
type Pixel<'a> = dyn FnMut(&[i16], &[Tap]) + 'a;

/// A kernel cell that lies inside the operand, and the pixel under it.
struct Tap {
    kernel: usize,
    pixel: usize,
}

/// (kernel index, operand index) of the taps of output `out` along `axis` that lie inside the operand.
fn inside(
    w: &ConvWindow,
    axis: usize,
    out: usize,
    kernel: usize,
    len: usize,
) -> impl Iterator<Item = (usize, usize)> {
    let (before, step) = (w.pads[axis], w.dilation[axis]);
    let start = out * w.stride[axis];
    (0..kernel)
        .filter_map(move |k| (start + k * step).checked_sub(before).filter(|i| *i < len).map(|i| (k, i)))
}

/// [rows, columns] → [columns, rows], narrowed to i16.
fn transposed(values: &[i32], rows: usize, columns: usize) -> Vec<i16> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c] as i16)).collect()
}
