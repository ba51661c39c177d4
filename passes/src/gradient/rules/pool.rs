//! Pools: averages are linear, maxima choose.
use super::{
    super::Real,
    Operand,
    linear::{Linear, Map, Maximum},
};
use goshawk_ir::{Result, Shape, ensure, op::window::PoolWindow};

/// For each result of a plane the elements in its window, and the number of cells that count in an average.
fn windows(w: &PoolWindow, x: &Shape, y: &Shape) -> Result<Vec<(Vec<u32>, usize)>> {
    let ([_, _, h, wd], [_, _, oh, ow]) = (x.dims4()?, y.dims4()?);
    let rows: Vec<_> = (0..oh).map(|i| w.taps(0, i, h)).collect();
    let columns: Vec<_> = (0..ow).map(|i| w.taps(1, i, wd)).collect();
    let mut out = Vec::with_capacity(oh * ow);
    for (rows, r) in &rows {
        for (columns, c) in &columns {
            let cells: Vec<u32> =
                rows.iter().flat_map(|y| columns.iter().map(move |x| (y * wd + x) as u32)).collect();
            ensure!(!cells.is_empty(), "a window has no tap inside the operand");
            out.push((cells, r * c));
        }
    }
    Ok(out)
}

/// Starts of consecutive runs of these lengths.
fn starts(lengths: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut rows = vec![0];
    let mut end = 0;
    rows.extend(lengths.map(|n| {
        end += n;
        end
    }));
    rows
}

/// Mean of the cells that count.
pub fn average<T: Real>(w: &PoolWindow, x: &Shape, y: &Shape, operand: Operand) -> Result<Linear<T>> {
    let windows = windows(w, x, y)?;
    let rows = starts(windows.iter().map(|w| w.0.len()));
    let plane = [x[2] * x[3], y[2] * y[3]];
    let cells =
        windows.iter().flat_map(|(cells, n)| cells.iter().map(|i| (*i, T::ONE / T::of(*n as f64)))).collect();
    Ok(Linear { map: Map::Planes { plane, rows, cells }, fill: T::ZERO, operand, count: y.count() })
}

/// Maximum of the elements inside.
pub fn maximum(w: &PoolWindow, x: &Shape, y: &Shape, operand: Operand) -> Result<Maximum> {
    let windows = windows(w, x, y)?;
    let rows = starts(windows.iter().map(|w| w.0.len()));
    let candidates = windows.into_iter().flat_map(|w| w.0).collect();
    Ok(Maximum { rows, candidates, block: [x[2] * x[3], y[2] * y[3]], operand })
}
