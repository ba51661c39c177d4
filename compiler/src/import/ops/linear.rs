//! Gemm and MatMul. Where the right operand is a constant matrix they become Linear with weights [N,K].
use crate::import::{
    cx::{Cx, Value},
    host_ops,
    refusal::{Result, malformed},
};
use goshawk_ir::{
    FloatOp, NodeId, Shape,
    op::float::{Binary, BinaryFn, Linear, NoAttrs, Reshape, Transpose, Unary, UnaryFn},
};

const LINEAR: FloatOp = FloatOp::Linear(Linear { clamp: None });
const MATMUL: FloatOp = FloatOp::MatMul(NoAttrs {});

fn affine(a: f32, b: f32) -> FloatOp {
    FloatOp::Unary(Unary { chain: vec![UnaryFn::Affine(a, b)] })
}

/// A constant matrix as weights [N,K], times `alpha`; `None` if the operand is not a constant matrix.
fn weights(cx: &mut Cx<'_, '_>, i: usize, transposed: bool, alpha: f32) -> Result<Option<NodeId>> {
    let Some(host) = cx.constant(i).filter(|h| h.dims.len() == 2 && h.as_floats().is_some()).cloned() else {
        return Ok(None);
    };
    if transposed && alpha == 1.0 {
        return cx.operand(i).map(Some);
    }
    cx.builder.charge(&host.dims)?;
    let host = if transposed { host } else { host_ops::transpose(&host, &[1, 0]) };
    let shape = Shape::new(host.dims.clone())?;
    let values = host.as_floats().map(|v| v.iter().map(|x| x * alpha).collect()).unwrap_or_default();
    cx.derived_constant(i, shape, values).map(Some)
}

/// C of Gemm as a bias [N], times beta; `None` if it varies over rows or is not constant.
fn bias(cx: &mut Cx<'_, '_>, n: usize, beta: f32) -> Result<Option<NodeId>> {
    let Some(host) = cx.constant(2).cloned() else { return Ok(None) };
    let per_column = match host.dims[..] {
        [] => true,
        [c] | [1, c] => c == 1 || c == n,
        _ => false,
    };
    let Some(values) = host.as_floats().filter(|_| per_column) else { return Ok(None) };
    if beta == 1.0 && host.dims == [n] {
        return cx.operand(2).map(Some);
    }
    let values: Vec<f32> = (0..n).map(|i| values[i % values.len()] * beta).collect();
    cx.derived_constant(2, Shape::new([n])?, values).map(Some)
}

pub fn gemm(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let (alpha, beta) = (cx.attrs.float("alpha", 1.0)?, cx.attrs.float("beta", 1.0)?);
    let (trans_a, trans_b) = (cx.attrs.flag("transA", false)?, cx.attrs.flag("transB", false)?);
    let mut a = cx.operand(0)?;
    let (da, db) = (cx.shape(a).to_vec(), cx.dims(1)?);
    if da.len() != 2 || db.len() != 2 {
        return Err(malformed(format!("Gemm of {da:?} and {db:?}: expected matrices")));
    }
    if trans_a {
        a = cx.step("a_t", FloatOp::Transpose(Transpose { perm: vec![1, 0] }), &[a])?;
    }
    let has_c = cx.input(2).is_some() && beta != 0.0;
    let n = if trans_b { db[0] } else { db[1] };
    if let Some(w) = weights(cx, 1, trans_b, alpha)? {
        let b = if has_c { bias(cx, n, beta)? } else { None };
        return match (has_c, b) {
            (true, Some(b)) => cx.emit(LINEAR, &[a, w, b]),
            (false, _) => cx.emit(LINEAR, &[a, w]),
            (true, None) => {
                let product = cx.step("product", LINEAR, &[a, w])?;
                add_c(cx, product, beta)
            }
        };
    }
    let mut b = cx.operand(1)?;
    if trans_b {
        b = cx.step("b_t", FloatOp::Transpose(Transpose { perm: vec![1, 0] }), &[b])?;
    }
    if !has_c && alpha == 1.0 {
        return cx.emit(MATMUL, &[a, b]);
    }
    let mut product = cx.step("product", MATMUL, &[a, b])?;
    if !has_c {
        return cx.emit(affine(alpha, 0.0), &[product]);
    }
    if alpha != 1.0 {
        product = cx.step("scaled", affine(alpha, 0.0), &[product])?;
    }
    add_c(cx, product, beta)
}

fn add_c(cx: &mut Cx<'_, '_>, product: NodeId, beta: f32) -> Result<Vec<Value>> {
    let mut c = cx.operand(2)?;
    if beta != 1.0 {
        c = cx.step("c_scaled", affine(beta, 0.0), &[c])?;
    }
    let want = cx.shape(product).clone();
    if cx.shape(c).broadcast(&want)? != want {
        return Err(malformed(format!("C of {} does not broadcast to {want}", cx.shape(c))));
    }
    cx.emit(FloatOp::Binary(Binary { function: BinaryFn::Add, clamp: None }), &[product, c])
}

fn reshape(shape: Vec<usize>) -> FloatOp {
    FloatOp::Reshape(Reshape { shape })
}

pub fn matmul(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let (da, db) = (cx.dims(0)?, cx.dims(1)?);
    if da.is_empty() || db.is_empty() {
        return Err(malformed("MatMul of a scalar"));
    }
    if db.len() == 2 && da.len() >= 2 {
        let mut a = cx.operand(0)?;
        if let Some(w) = weights(cx, 1, false, 1.0)? {
            if da.len() == 2 {
                return cx.emit(LINEAR, &[a, w]);
            }
            // The leading dimensions of A are rows like any others.
            let (lead, k) = da.split_at(da.len() - 1);
            a = cx.step("rows", reshape(vec![lead.iter().product(), k[0]]), &[a])?;
            let y = cx.step("product", LINEAR, &[a, w])?;
            return cx.emit(reshape([lead, &[db[1]]].concat()), &[y]);
        }
    }
    // A vector is a row on the left and a column on the right; its dimension disappears from the result.
    let (mut a, mut b) = (cx.operand(0)?, cx.operand(1)?);
    if da.len() == 1 {
        a = cx.step("row", reshape(vec![1, da[0]]), &[a])?;
    }
    if db.len() == 1 {
        b = cx.step("column", reshape(vec![db[0], 1]), &[b])?;
    }
    if da.len() > 1 && db.len() > 1 {
        return cx.emit(MATMUL, &[a, b]);
    }
    let y = cx.step("product", MATMUL, &[a, b])?;
    let mut dims = cx.shape(y).to_vec();
    if db.len() == 1 {
        dims.pop();
    }
    if da.len() == 1 {
        let row = dims.len() - usize::from(db.len() > 1) - 1;
        dims.remove(row);
    }
    cx.emit(reshape(dims), &[y])
}
