//! Matrix products in safe Rust with a fixed order of summation.
//!
//! Blocking follows Goto and van de Geijn ("Anatomy of High-Performance Matrix Multiplication", 2008): the left
//! operand is packed in panels of [`ROWS`] rows, the right one in panels of [`COLUMNS`] columns, and the innermost
//! loop keeps a tile of ROWS × COLUMNS sums in registers. Each sum runs over k in ascending order.
use crate::interp::strided::gather;
use crate::{Result, Shape};

/// Rows of a register tile: 4 × 2 SSE registers of sums leave room for the operands.
pub const ROWS: usize = 4;
/// Columns of a register tile.
pub const COLUMNS: usize = 8;
/// Panels of the right operand that stay in the cache while the left one streams by.
const GROUP: usize = 4;

/// The left operand [m,k], packed.
pub struct Left {
    panels: Vec<[f32; ROWS]>,
    m: usize,
    k: usize,
}

impl Left {
    /// Packs a row-major matrix.
    pub fn new(a: &[f32], m: usize, k: usize) -> Self {
        let mut panels = vec![[0.0; ROWS]; m.div_ceil(ROWS) * k];
        for (r, row) in a.chunks(k).enumerate() {
            let panel = &mut panels[r / ROWS * k..][..k];
            for (cell, v) in panel.iter_mut().zip(row) {
                cell[r % ROWS] = *v;
            }
        }
        Self { panels, m, k }
    }

    /// Left · right, right being [k,n], into `out` [m,n] row-major; each sum starts at `bias` of its row. `fill`
    /// writes the right operand's columns from the given one on, as rows of [`COLUMNS`] values that are 0 beyond n.
    pub fn times(
        &self,
        n: usize,
        bias: Option<&[f32]>,
        fill: &mut dyn FnMut(&mut [[f32; COLUMNS]], usize),
        out: &mut [f32],
    ) {
        let k = self.k;
        let mut right = vec![[0.0; COLUMNS]; k * GROUP];
        for first in (0..n).step_by(COLUMNS * GROUP) {
            let columns: Vec<usize> = (first..n.min(first + COLUMNS * GROUP)).step_by(COLUMNS).collect();
            for (panel, column) in right.chunks_mut(k).zip(&columns) {
                fill(panel, *column);
            }
            for (row, left) in (0..self.m).step_by(ROWS).zip(self.panels.chunks(k)) {
                for (panel, column) in right.chunks(k).zip(&columns) {
                    let sums = tile(left, panel);
                    let width = COLUMNS.min(n - column);
                    for (r, sums) in sums.iter().enumerate().take(self.m - row) {
                        let start = bias.map_or(0.0, |b| b[row + r]);
                        let to = &mut out[(row + r) * n + column..][..width];
                        for (o, s) in to.iter_mut().zip(sums) {
                            *o = s + start;
                        }
                    }
                }
            }
        }
    }
}

/// One register tile: Σ over k of left\[k\]\[r\]·right\[k\]\[c\].
fn tile(left: &[[f32; ROWS]], right: &[[f32; COLUMNS]]) -> [[f32; COLUMNS]; ROWS] {
    let mut sums = [[0.0f32; COLUMNS]; ROWS];
    for (l, r) in left.iter().zip(right) {
        for i in 0..ROWS {
            for j in 0..COLUMNS {
                sums[i][j] += l[i] * r[j];
            }
        }
    }
    sums
}

/// x [M,K], w [N,K], b [N] → x·wᵀ + b.
pub fn linear(x: &[f32], w: &[f32], b: Option<&[f32]>, k: usize) -> Vec<f32> {
    let rows = x.chunks(k).flat_map(|row| w.chunks(k).map(move |w| dot(row, w)).enumerate());
    rows.map(|(o, sum)| sum + b.map_or(0.0, |b| b[o])).collect()
}

/// Σ a·b in eight interleaved partial sums.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0.0f32; 8];
    for (a, b) in a.iter().zip(b) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    let tail: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + tail
}

/// a […,M,K], b […,K,N] → […,M,N], leading dimensions broadcast.
pub fn matmul(a: (&[f32], &Shape), b: (&[f32], &Shape), shape: &Shape) -> Result<Vec<f32>> {
    let (m, n, k) = (shape[shape.rank() - 2], shape[shape.rank() - 1], a.1[a.1.rank() - 1]);
    let lead = Shape::new(&shape[..shape.rank() - 2])?;
    // Index of the matrix that each result matrix reads.
    let matrices = |own: &Shape| -> Result<Vec<usize>> {
        let own = Shape::new(&own[..own.rank() - 2])?;
        let strides: Vec<i64> = own.broadcast_strides(&lead)?.iter().map(|s| *s as i64).collect();
        Ok(gather(&(0..own.count()).collect::<Vec<_>>(), &lead, &strides, 0))
    };
    let mut out = vec![0.0; shape.count()];
    for ((out, i), j) in out.chunks_mut(m * n).zip(matrices(a.1)?).zip(matrices(b.1)?) {
        let left = Left::new(&a.0[i * m * k..][..m * k], m, k);
        let right = &b.0[j * k * n..][..k * n];
        let fill = &mut |panel: &mut [[f32; COLUMNS]], column: usize| {
            let width = COLUMNS.min(n - column);
            for (cell, row) in panel.iter_mut().zip(right.chunks(n)) {
                cell[..width].copy_from_slice(&row[column..column + width]);
                cell[width..].fill(0.0);
            }
        };
        left.times(n, None, fill, out);
    }
    Ok(out)
}
