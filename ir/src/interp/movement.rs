//! Operators that move elements and compute nothing; the same code for every element type.
use super::strided::{gather, offsets};
use crate::{Shape, op::float::Slice};

/// Elements along `axis` of all operands, one operand after the other.
pub fn concat<T: Copy>(operands: &[(Vec<T>, &Shape)], axis: usize) -> Vec<T> {
    let Some((_, first)) = operands.first() else { return Vec::new() };
    let outer: usize = first[..axis].iter().product();
    let mut out = Vec::with_capacity(operands.iter().map(|(v, _)| v.len()).sum());
    for i in 0..outer {
        for (values, shape) in operands {
            let block: usize = shape[axis..].iter().product();
            out.extend_from_slice(&values[i * block..(i + 1) * block]);
        }
    }
    out
}

/// start, start + step, … along every dimension.
pub fn slice<T: Copy>(values: &[T], shape: &Shape, a: &Slice) -> Vec<T> {
    let own = shape.strides();
    let start: usize = a.start.iter().zip(&own).map(|(i, s)| i * s).sum();
    let strides: Vec<i64> = a.step.iter().zip(&own).map(|(step, s)| step * *s as i64).collect();
    gather(values, &a.size, &strides, start as i64)
}

/// The operand inside a tensor of shape `to` filled with `fill`.
pub fn pad<T: Copy>(values: &[T], shape: &Shape, before: &[usize], to: &Shape, fill: T) -> Vec<T> {
    let mut out = vec![fill; to.count()];
    let strides = to.strides();
    let start: usize = before.iter().zip(&strides).map(|(b, s)| b * s).sum();
    let strides: Vec<i64> = strides.iter().map(|s| *s as i64).collect();
    let mut next = values.iter();
    offsets(shape, &strides, start as i64, &mut |i| {
        if let Some(v) = next.next() {
            out[i] = *v;
        }
    });
    out
}

/// Result dimension i is operand dimension `perm[i]`.
pub fn transpose<T: Copy>(values: &[T], shape: &Shape, perm: &[usize]) -> Vec<T> {
    let own = shape.strides();
    let dims: Vec<usize> = perm.iter().map(|p| shape[*p]).collect();
    let strides: Vec<i64> = perm.iter().map(|p| own[*p] as i64).collect();
    gather(values, &dims, &strides, 0)
}
