//! Pools and resizing, NHWC.
use super::{Operand, Options};
use crate::{
    Result, Shape, ensure,
    op::int::{AvgPool, ResizeLinear, ResizeNearest},
    op::window::PoolWindow,
};

/// Calls `cell` for each image and output position with the operand offsets of the pixels of the window and the
/// number of cells in the divisor of an average.
fn windows(
    w: &PoolWindow,
    x: &Shape,
    out: &Shape,
    cell: &mut dyn FnMut(&[usize], usize) -> Result<()>,
) -> Result<()> {
    let [n, h, wd, c] = x.dims4()?;
    let [_, oh, ow, _] = out.dims4()?;
    let columns: Vec<_> = (0..ow).map(|z| w.taps(1, z, wd)).collect();
    let mut pixels = Vec::new();
    for i in 0..n {
        for y in 0..oh {
            let (rows, row_cells) = w.taps(0, y, h);
            for (columns, column_cells) in &columns {
                pixels.clear();
                for r in &rows {
                    pixels.extend(columns.iter().map(|z| ((i * h + r) * wd + z) * c));
                }
                ensure!(!pixels.is_empty(), "a window has no tap inside the operand");
                cell(&pixels, row_cells * column_cells)?;
            }
        }
    }
    Ok(())
}

/// Maximum of the taps inside the operand.
pub fn max_pool(w: &PoolWindow, x: &Operand<'_>, shape: &Shape) -> Result<Vec<i32>> {
    let c = shape[3];
    let mut out = Vec::with_capacity(shape.count());
    windows(w, &x.ty.shape, shape, &mut |pixels, _| {
        let at = out.len();
        out.resize(at + c, i32::MIN);
        for p in pixels {
            for (m, v) in out[at..].iter_mut().zip(&x.values[*p..*p + c]) {
                *m = (*m).max(*v);
            }
        }
        Ok(())
    })?;
    Ok(out)
}

/// requant(Σ x̂) with the dyadic number of the window's cell count.
pub fn avg_pool(a: &AvgPool, x: &Operand<'_>, shape: &Shape, options: Options) -> Result<Vec<i32>> {
    let c = shape[3];
    let centred = x.centred();
    let mut sums = vec![0i32; c];
    let mut out = Vec::with_capacity(shape.count());
    windows(&a.window, &x.ty.shape, shape, &mut |pixels, cells| {
        sums.fill(0);
        for p in pixels {
            for (s, v) in sums.iter_mut().zip(&centred[*p..*p + c]) {
                *s = s.wrapping_add(*v);
            }
        }
        let Some(dyadic) = cells.checked_sub(1).and_then(|i| a.requant.mult.get(i)) else {
            crate::bail!("there is no dyadic number for {cells} cells");
        };
        out.extend(sums.iter().map(|s| a.requant.finish(options.rescale(*dyadic, *s))));
        Ok(())
    })?;
    Ok(out)
}

/// x[n, rows[i], columns[j], c].
pub fn resize_nearest(a: &ResizeNearest, x: &Operand<'_>) -> Result<Vec<i32>> {
    let [n, h, w, c] = x.ty.shape.dims4()?;
    let mut out = Vec::with_capacity(n * a.rows.len() * a.columns.len() * c);
    for i in 0..n {
        for r in &a.rows {
            for z in &a.columns {
                out.extend_from_slice(&x.values[((i * h + r) * w + z) * c..][..c]);
            }
        }
    }
    Ok(out)
}

/// (Σ wr·wc·x + 2²¹) >> 22 over the two rows and columns of each tap.
pub fn resize_linear(a: &ResizeLinear, x: &Operand<'_>) -> Result<Vec<i32>> {
    let [n, h, w, c] = x.ty.shape.dims4()?;
    let mut out = Vec::with_capacity(n * a.rows.len() * a.columns.len() * c);
    for i in 0..n {
        let pixel = |r: usize, z: usize| &x.values[((i * h + r) * w + z) * c..][..c];
        for r in &a.rows {
            for z in &a.columns {
                let corners = [
                    ((2048 - r.weight) * (2048 - z.weight), pixel(r.low, z.low)),
                    ((2048 - r.weight) * z.weight, pixel(r.low, z.high)),
                    (r.weight * (2048 - z.weight), pixel(r.high, z.low)),
                    (r.weight * z.weight, pixel(r.high, z.high)),
                ];
                for ch in 0..c {
                    let sum: i32 = corners.iter().map(|(weight, p)| weight * p[ch]).sum();
                    out.push((sum + (1 << 21)) >> 22);
                }
            }
        }
    }
    Ok(out)
}
