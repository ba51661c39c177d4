//! Eigenvalues and eigenvectors of a symmetric tridiagonal matrix by the implicit QL algorithm (Bowdler, Martin, Reinsch,
//! Wilkinson 1968, Wilkinson shifts).

/// Eigenvalues, ascending, with unit eigenvectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Eigen {
    /// Eigenvalues.
    pub values: Vec<f64>,
    /// `vectors[i]` belongs to `values[i]`.
    pub vectors: Vec<Vec<f64>>,
}

/// Sweeps for one eigenvalue; two or three are usual.
const MAX_SWEEPS: usize = 60;

/// Of the matrix with this diagonal and these off-diagonal elements (one fewer).
pub fn eigen(diagonal: &[f64], off_diagonal: &[f64]) -> Eigen {
    let n = diagonal.len();
    let mut d = diagonal.to_vec();
    let mut e = off_diagonal.to_vec();
    e.resize(n, 0.0);
    // z[i] is the column of eigenvector i: rotations mix neighbouring columns.
    let mut z: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| f64::from(i == j)).collect()).collect();
    for l in 0..n {
        for _ in 0..MAX_SWEEPS {
            let small = |m: &usize| e[*m].abs() <= f64::EPSILON * (d[*m].abs() + d[*m + 1].abs());
            let m = (l..n - 1).find(small).unwrap_or(n - 1);
            if m == l {
                break;
            }
            sweep(&mut d, &mut e, &mut z, l, m);
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| d[*a].total_cmp(&d[*b]));
    Eigen {
        values: order.iter().map(|i| d[*i]).collect(),
        vectors: order.iter().map(|i| std::mem::take(&mut z[*i])).collect(),
    }
}

/// One implicit QL sweep from m up to l.
fn sweep(d: &mut [f64], e: &mut [f64], z: &mut [Vec<f64>], l: usize, m: usize) {
    let g = (d[l + 1] - d[l]) / (2.0 * e[l]);
    let r = g.hypot(1.0);
    let mut g = d[m] - d[l] + e[l] / (g + if g < 0.0 { -r } else { r });
    let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
    for i in (l..m).rev() {
        let (f, b) = (s * e[i], c * e[i]);
        let r = f.hypot(g);
        e[i + 1] = r;
        if r == 0.0 {
            d[i + 1] -= p;
            e[m] = 0.0;
            return;
        }
        (s, c) = (f / r, g / r);
        g = d[i + 1] - p;
        let r = (d[i] - g) * s + 2.0 * c * b;
        p = s * r;
        d[i + 1] = g + p;
        g = c * r - b;
        let (low, high) = z.split_at_mut(i + 1);
        for (a, b) in low[i].iter_mut().zip(&mut high[0]) {
            (*a, *b) = (c * *a - s * *b, s * *a + c * *b);
        }
    }
    d[l] -= p;
    e[l] = g;
    e[m] = 0.0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_difference_matrix_has_known_eigenvalues() {
        let n = 30;
        let eigen = eigen(&vec![2.0; n], &vec![-1.0; n - 1]);
        for (i, (value, vector)) in eigen.values.iter().zip(&eigen.vectors).enumerate() {
            let angle = std::f64::consts::PI * (i + 1) as f64 / (n + 1) as f64;
            assert!((value - (2.0 - 2.0 * angle.cos())).abs() < 1e-12, "{i}");
            for j in 0..n {
                let left = if j > 0 { vector[j - 1] } else { 0.0 };
                let right = if j + 1 < n { vector[j + 1] } else { 0.0 };
                assert!((2.0 * vector[j] - left - right - value * vector[j]).abs() < 1e-12);
            }
            assert!((vector.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn blocks_that_split_and_the_smallest_cases() {
        let e = eigen(&[3.0, 1.0, 2.0], &[0.0, 0.0]);
        assert_eq!(e.values, [1.0, 2.0, 3.0]);
        assert_eq!(e.vectors[2], [1.0, 0.0, 0.0]);
        assert_eq!(eigen(&[5.0], &[]).values, [5.0]);
        assert!(eigen(&[], &[]).values.is_empty());
        let e = eigen(&[0.0, 0.0], &[1.0]);
        assert!((e.values[0] + 1.0).abs() < 1e-15 && (e.values[1] - 1.0).abs() < 1e-15);
    }
}
