//! Concat, Slice, Pad, Reshape, Transpose, resizing.
use super::*;
use goshawk_ir::op::{
    float::{Axis, Reshape, Slice, Transpose},
    int::{Pad, ResizeLinear, ResizeNearest, Tap},
};

fn both(dims: &[usize]) -> [TensorType; 2] {
    [u8_type(dims, 5, 8), i16_type(dims)]
}

#[test]
fn concat() {
    let mut rng = Rng(21);
    for axis in 0..4 {
        let mut dims = [2, 3, 4, 5];
        let parts: Vec<[usize; 4]> = (1..=3)
            .map(|i| {
                dims[axis] = i;
                dims
            })
            .collect();
        dims[axis] = 6;
        for i in 0..2 {
            let inputs: Vec<TensorType> = parts.iter().map(|d| both(d)[i].clone()).collect();
            check(&single(IntOp::Concat(Axis { axis }), &inputs, &[], both(&dims)[i].clone()), &mut rng);
        }
    }
}

#[test]
fn slice_pad_transpose_reshape() {
    let mut rng = Rng(22);
    for i in 0..2 {
        let x = both(&[2, 6, 5, 9])[i].clone();
        let op = Slice { start: vec![0, 1, 4, 2], step: vec![1, 2, 1, 3], size: vec![2, 3, 1, 2] };
        check(
            &single(IntOp::Slice(op), std::slice::from_ref(&x), &[], both(&[2, 3, 1, 2])[i].clone()),
            &mut rng,
        );
        let op = Pad { before: vec![0, 1, 2, 0], after: vec![1, 0, 0, 3], value: 5 };
        check(
            &single(IntOp::Pad(op), std::slice::from_ref(&x), &[], both(&[3, 7, 7, 12])[i].clone()),
            &mut rng,
        );
        let op = Transpose { perm: vec![3, 0, 2, 1] };
        check(
            &single(IntOp::Transpose(op), std::slice::from_ref(&x), &[], both(&[9, 2, 5, 6])[i].clone()),
            &mut rng,
        );
        let op = Reshape { shape: vec![12, 45] };
        check(
            &single(IntOp::Reshape(op), std::slice::from_ref(&x), &[], both(&[12, 45])[i].clone()),
            &mut rng,
        );
    }
}

#[test]
fn resizing() {
    let mut rng = Rng(23);
    for c in [3, 16] {
        for i in 0..2 {
            let x = both(&[2, 4, 5, c])[i].clone();
            let op = ResizeNearest { rows: vec![0, 0, 1, 3, 3], columns: vec![4, 2, 0] };
            check(&single(IntOp::ResizeNearest(op), &[x], &[], both(&[2, 5, 3, c])[i].clone()), &mut rng);
        }
        let tap = |low, high, weight| Tap { low, high, weight };
        let rows = vec![tap(0, 0, 0), tap(0, 1, 700), tap(2, 3, 2048)];
        let columns = vec![tap(1, 2, 1024), tap(4, 4, 3), tap(0, 3, 2047), tap(3, 4, 0)];
        let op = ResizeLinear { rows, columns };
        check(
            &single(
                IntOp::ResizeLinear(op),
                &[u8_type(&[2, 4, 5, c], 5, 8)],
                &[],
                u8_type(&[2, 3, 4, c], 5, 8),
            ),
            &mut rng,
        );
    }
}
