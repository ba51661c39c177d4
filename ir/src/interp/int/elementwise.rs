//! Elementwise operators and softmax.
use super::{Operand, Options};
use crate::{
    Result, Shape, bail,
    interp::strided::broadcast,
    op::int::{Add, Rescale},
};

/// clamp(rescale_a(â) ± rescale_b(b̂) + zero_point, lo, hi).
pub fn add(p: &Add, operands: &[Operand<'_>], shape: &Shape, options: Options) -> Result<Vec<i32>> {
    let a = broadcast(operands[0].centred(), &operands[0].ty.shape, shape)?;
    let b = broadcast(operands[1].centred(), &operands[1].ty.shape, shape)?;
    let (zp, lo, hi) = (i64::from(p.zero_point), i64::from(p.lo), i64::from(p.hi));
    let term = |a: i32, b: i32| {
        let (a, b) = (options.rescale(p.a, a), options.rescale(p.b, b));
        let sum = if p.subtract { a - b } else { a + b };
        (sum + zp).clamp(lo, hi) as i32
    };
    Ok(a.iter().zip(&b).map(|(a, b)| term(*a, *b)).collect())
}

/// requant(â·b̂).
pub fn mul(p: &Rescale, operands: &[Operand<'_>], shape: &Shape, options: Options) -> Result<Vec<i32>> {
    let a = broadcast(operands[0].centred(), &operands[0].ty.shape, shape)?;
    let b = broadcast(operands[1].centred(), &operands[1].ty.shape, shape)?;
    Ok(a.iter().zip(&b).map(|(a, b)| options.requant(&p.requant, a.wrapping_mul(*b), 0)).collect())
}

/// requant(x̂).
pub fn requant(p: &Rescale, x: &Operand<'_>, options: Options) -> Vec<i32> {
    x.centred().iter().map(|x| options.requant(&p.requant, *x, 0)).collect()
}

/// table[channel or 0][x], the channel being the innermost index.
pub fn lut(x: &Operand<'_>, table: &Operand<'_>) -> Result<Vec<i32>> {
    let channels = table.ty.shape[0];
    x.values
        .iter()
        .enumerate()
        .map(|(i, v)| match usize::try_from(*v) {
            Ok(v) if v < 256 => Ok(table.values[i % channels * 256 + v]),
            _ => bail!("{v} is outside a table of 256 entries"),
        })
        .collect()
}

/// Along the innermost dimension: with e = table[max − x] and S = Σ e, min((2¹⁵·e + S/2) / S, 32767).
pub fn softmax(x: &Operand<'_>, table: &Operand<'_>) -> Result<Vec<i32>> {
    let len = x.ty.shape.last().copied().unwrap_or(1);
    let mut out = Vec::with_capacity(x.values.len());
    for row in x.values.chunks(len) {
        let max = row.iter().copied().max().unwrap_or(0);
        let mut terms = Vec::with_capacity(len);
        for v in row {
            match table.values.get(max.abs_diff(*v) as usize) {
                Some(e) => terms.push(i64::from(*e)),
                None => bail!("a difference of {} is outside a table of 256 entries", max.abs_diff(*v)),
            }
        }
        let sum: i64 = terms.iter().sum();
        if sum <= 0 {
            bail!("the exponentials of a row sum up to {sum}");
        }
        out.extend(terms.iter().map(|e| (((e << 15) + sum / 2) / sum).min(32767) as i32));
    }
    Ok(out)
}
