//! Walks over strided views: broadcasting, slices and permutations are the same walk with other strides.
use crate::{Result, Shape};

/// Calls `f` with the offset of each element of the view, in row-major order of `dims`.
pub fn offsets(dims: &[usize], strides: &[i64], start: i64, f: &mut impl FnMut(usize)) {
    let (Some((&last, outer)), Some((&step, outer_strides))) = (dims.split_last(), strides.split_last())
    else {
        f(start as usize);
        return;
    };
    let mut index = vec![0usize; outer.len()];
    let mut row = start;
    loop {
        for i in 0..last as i64 {
            f((row + i * step) as usize);
        }
        // Odometer over the outer dimensions.
        let mut d = outer.len();
        loop {
            if d == 0 {
                return;
            }
            d -= 1;
            index[d] += 1;
            row += outer_strides[d];
            if index[d] < outer[d] {
                break;
            }
            row -= outer_strides[d] * outer[d] as i64;
            index[d] = 0;
        }
    }
}

/// The elements of the view, in row-major order of `dims`.
pub fn gather<T: Copy>(source: &[T], dims: &[usize], strides: &[i64], start: i64) -> Vec<T> {
    let mut out = Vec::with_capacity(dims.iter().product());
    offsets(dims, strides, start, &mut |i| out.push(source[i]));
    out
}

/// `source` of shape `from` repeated to shape `to`, numpy style.
pub fn broadcast<T: Copy>(source: Vec<T>, from: &Shape, to: &Shape) -> Result<Vec<T>> {
    if from == to {
        return Ok(source);
    }
    let strides: Vec<i64> = from.broadcast_strides(to)?.iter().map(|s| *s as i64).collect();
    Ok(gather(&source, to, &strides, 0))
}
