//! Operators that move elements: Reshape, Slice, Transpose, Pad, DepthToSpace.
use super::{
    super::Real,
    Operand,
    linear::{Linear, Map, NOWHERE},
    walk,
};
use goshawk_ir::{
    Result, Shape,
    op::float::{DepthOrder, DepthToSpace, Pad, Slice},
};

/// Row-major reinterpretation.
pub fn reshape<T: Real>(operand: Operand) -> Linear<T> {
    Linear { map: Map::Copy, fill: T::ZERO, count: operand.count, operand }
}

/// A gather from the given elements.
pub fn gather<T: Real>(index: Vec<u32>, operand: Operand) -> Linear<T> {
    Linear { count: index.len(), map: Map::Gather(index), fill: T::ZERO, operand }
}

fn signed(strides: Vec<usize>) -> Vec<i64> {
    strides.into_iter().map(|s| s as i64).collect()
}

/// start, start + step, … along every dimension.
pub fn slice<T: Real>(a: &Slice, x: &Shape, operand: Operand) -> Linear<T> {
    let own = signed(x.strides());
    let start = a.start.iter().zip(&own).map(|(i, s)| *i as i64 * s).sum();
    let strides: Vec<i64> = a.step.iter().zip(&own).map(|(step, s)| step * s).collect();
    gather(walk(&a.size, &strides, start), operand)
}

/// Result dimension i is operand dimension `perm[i]`.
pub fn transpose<T: Real>(perm: &[usize], x: &Shape, operand: Operand) -> Linear<T> {
    let own = signed(x.strides());
    let dims: Vec<usize> = perm.iter().map(|p| x[*p]).collect();
    let strides: Vec<i64> = perm.iter().map(|p| own[*p]).collect();
    gather(walk(&dims, &strides, 0), operand)
}

/// Constant padding.
pub fn pad<T: Real>(a: &Pad, x: &Shape, y: &Shape, operand: Operand) -> Linear<T> {
    let strides = signed(y.strides());
    let start = a.before.iter().zip(&strides).map(|(b, s)| *b as i64 * s).sum();
    let mut index = vec![NOWHERE; y.count()];
    for (i, to) in walk(x, &strides, start).into_iter().enumerate() {
        index[to as usize] = i as u32;
    }
    Linear { fill: T::of(f64::from(a.value)), ..gather(index, operand) }
}

/// The reshape, transpose, reshape by which ONNX defines the operator.
pub fn depth_to_space<T: Real>(a: &DepthToSpace, x: &Shape, operand: Operand) -> Result<Linear<T>> {
    let ([n, c, h, w], b) = (x.dims4()?, a.block);
    let depth = c / (b * b);
    Ok(match a.order {
        DepthOrder::Dcr => transpose(&[0, 3, 4, 1, 5, 2], &Shape::new([n, b, b, depth, h, w])?, operand),
        DepthOrder::Crd => transpose(&[0, 1, 4, 2, 5, 3], &Shape::new([n, depth, b, b, h, w])?, operand),
    })
}
