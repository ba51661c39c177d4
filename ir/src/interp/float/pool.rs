//! Pools and resizing, NCHW.
use crate::{
    Result, Shape, ensure,
    op::float::{Resize, ResizeMode},
    op::window::PoolWindow,
    resize,
};

/// Folds the taps of every window with `fold` from `start`; `finish` gets the number of cells in the divisor.
fn pool(
    w: &PoolWindow,
    x: &[f32],
    from: &Shape,
    to: &Shape,
    start: f32,
    fold: impl Fn(f32, f32) -> f32,
    finish: impl Fn(f32, usize) -> f32,
) -> Result<Vec<f32>> {
    let ([_, _, h, wd], [_, _, oh, ow]) = (from.dims4()?, to.dims4()?);
    let rows: Vec<_> = (0..oh).map(|y| w.taps(0, y, h)).collect();
    let columns: Vec<_> = (0..ow).map(|z| w.taps(1, z, wd)).collect();
    ensure!(
        rows.iter().chain(&columns).all(|(taps, _)| !taps.is_empty()),
        "a window has no tap inside the operand"
    );
    let mut out = Vec::with_capacity(to.count());
    for plane in x.chunks(h * wd) {
        for (rows, row_cells) in &rows {
            for (columns, column_cells) in &columns {
                let mut sum = start;
                for r in rows {
                    for z in columns {
                        sum = fold(sum, plane[r * wd + z]);
                    }
                }
                out.push(finish(sum, row_cells * column_cells));
            }
        }
    }
    Ok(out)
}

/// Maximum of the taps inside the operand.
pub fn max_pool(w: &PoolWindow, x: &[f32], from: &Shape, to: &Shape) -> Result<Vec<f32>> {
    pool(w, x, from, to, f32::NEG_INFINITY, |m, v| if v < m { m } else { v }, |m, _| m)
}

/// Mean of the cells that count.
pub fn avg_pool(w: &PoolWindow, x: &[f32], from: &Shape, to: &Shape) -> Result<Vec<f32>> {
    pool(w, x, from, to, 0.0, |s, v| s + v, |s, cells| s / cells as f32)
}

/// x [N,C,H,W] → [N,C,H',W'].
pub fn resize(a: &Resize, x: &[f32], from: &Shape) -> Result<Vec<f32>> {
    let [n, c, h, w] = from.dims4()?;
    let [oh, ow] = a.size;
    let mut out = Vec::with_capacity(n * c * oh * ow);
    match a.mode {
        ResizeMode::Nearest => {
            let rows = resize::nearest(a.coordinates, a.nearest, h, oh, a.scale[0]);
            let columns = resize::nearest(a.coordinates, a.nearest, w, ow, a.scale[1]);
            for plane in x.chunks(h * w) {
                out.extend(rows.iter().flat_map(|r| columns.iter().map(move |z| plane[r * w + z])));
            }
        }
        ResizeMode::Linear => {
            let rows = resize::linear(a.coordinates, h, oh, a.scale[0]);
            let columns = resize::linear(a.coordinates, w, ow, a.scale[1]);
            for plane in x.chunks(h * w) {
                for (r0, r1, fr) in &rows {
                    for (c0, c1, fc) in &columns {
                        let at = |r: usize, z: usize| f64::from(plane[r * w + z]);
                        let low = at(*r0, *c0) * (1.0 - fc) + at(*r0, *c1) * fc;
                        let high = at(*r1, *c0) * (1.0 - fc) + at(*r1, *c1) * fc;
                        out.push((low * (1.0 - fr) + high * fr) as f32);
                    }
                }
            }
        }
    }
    Ok(out)
}
