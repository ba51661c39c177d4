//! Reductions and softmax. Sums run in f64.
use crate::{Shape, interp::strided::offsets};

/// Folds all elements that fall on the same result element.
fn reduce<S: Copy>(x: &[f32], shape: &Shape, axes: &[usize], start: S, fold: impl Fn(S, f32) -> S) -> Vec<S> {
    let kept: Vec<usize> = (0..shape.rank()).map(|i| if axes.contains(&i) { 1 } else { shape[i] }).collect();
    // Strides of the result, 0 along reduced axes, walked in the operand's order.
    let mut strides = vec![0i64; shape.rank()];
    let mut count = 1;
    for i in (0..shape.rank()).rev() {
        if kept[i] > 1 {
            strides[i] = count as i64;
            count *= kept[i];
        }
    }
    let mut out = vec![start; count];
    let mut next = x.iter();
    offsets(shape, &strides, 0, &mut |i| {
        if let Some(v) = next.next() {
            out[i] = fold(out[i], *v);
        }
    });
    out
}

/// Sum over `axes`.
pub fn sum(x: &[f32], shape: &Shape, axes: &[usize]) -> Vec<f32> {
    reduce(x, shape, axes, 0.0, |s, v| s + f64::from(v)).into_iter().map(|s| s as f32).collect()
}

/// Mean over `axes`.
pub fn mean(x: &[f32], shape: &Shape, axes: &[usize]) -> Vec<f32> {
    let count: usize = axes.iter().map(|a| shape[*a]).product();
    let sums = reduce(x, shape, axes, 0.0, |s, v| s + f64::from(v));
    sums.into_iter().map(|s| (s / count as f64) as f32).collect()
}

/// Maximum over `axes`.
pub fn max(x: &[f32], shape: &Shape, axes: &[usize]) -> Vec<f32> {
    reduce(x, shape, axes, f32::NEG_INFINITY, |m, v| if v < m { m } else { v })
}

/// e^(x − max) / Σ e^(x − max) along `axis`.
pub fn softmax(x: &[f32], shape: &Shape, axis: usize) -> Vec<f32> {
    let inner: usize = shape[axis + 1..].iter().product();
    let len = shape[axis];
    let mut out = vec![0.0; x.len()];
    for block in (0..x.len()).step_by(len * inner) {
        for i in 0..inner {
            let at = |j: usize| block + j * inner + i;
            let max = (0..len).map(|j| x[at(j)]).fold(f32::NEG_INFINITY, f32::max);
            let terms: Vec<f64> = (0..len).map(|j| f64::from(x[at(j)] - max).exp()).collect();
            let sum: f64 = terms.iter().sum();
            for (j, t) in terms.iter().enumerate() {
                out[at(j)] = (t / sum) as f32;
            }
        }
    }
    out
}
