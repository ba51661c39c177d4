//! Sum, mean and maximum over axes.
use super::{
    super::Real,
    Operand,
    linear::{Linear, Map, Maximum},
    walk,
};
use goshawk_ir::{Shape, op::float::Reduce};

/// For each element the result that it falls on, and the number of results.
fn targets(a: &Reduce, x: &Shape) -> (Vec<u32>, usize) {
    let mut strides = vec![0i64; x.rank()];
    let mut count = 1;
    for i in (0..x.rank()).rev().filter(|i| !a.axes.contains(i)) {
        strides[i] = count as i64;
        count *= x[i];
    }
    (walk(x, &strides, 0), count)
}

fn scaled<T: Real>(a: &Reduce, x: &Shape, operand: Operand, factor: f64) -> Linear<T> {
    let (index, count) = targets(a, x);
    Linear { map: Map::Scatter(index, T::of(factor)), fill: T::ZERO, operand, count }
}

/// Sum over axes.
pub fn sum<T: Real>(a: &Reduce, x: &Shape, operand: Operand) -> Linear<T> {
    scaled(a, x, operand, 1.0)
}

/// Mean over axes.
pub fn mean<T: Real>(a: &Reduce, x: &Shape, operand: Operand) -> Linear<T> {
    let terms: usize = a.axes.iter().map(|i| x[*i]).product();
    scaled(a, x, operand, 1.0 / terms as f64)
}

/// Maximum over axes.
pub fn maximum(a: &Reduce, x: &Shape, operand: Operand) -> Maximum {
    let (index, count) = targets(a, x);
    let mut candidates: Vec<u32> = (0..index.len() as u32).collect();
    candidates.sort_by_key(|i| index[*i as usize]);
    let terms = index.len() / count;
    let rows = (0..=count).map(|i| i * terms).collect();
    Maximum { rows, candidates, block: [x.count(), count], operand }
}
