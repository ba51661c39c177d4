//! Weights in the order that [`super::correlate`] reads them.
//!
//! The rows of a few outputs are interleaved term by term, so that a tile finds the weights of one term side by side
//! behind one pointer, with one check of bounds.

/// Outputs of the panel that comes next when `left` outputs are left.
pub const fn height(left: usize) -> usize {
    match left {
        8.. => 8,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

/// Rows of `terms` weights, one for each output, as panels. The panel of the outputs from o on starts at o · `terms`.
pub fn panels<T: Copy>(rows: &[T], groups: usize, terms: usize) -> Vec<T> {
    let mut to = Vec::with_capacity(rows.len());
    let group = (rows.len() / groups.max(1)).max(1);
    for rows in rows.chunks_exact(group) {
        let mut rest = rows;
        while !rest.is_empty() {
            let (panel, behind) = rest.split_at(height(rest.len() / terms) * terms);
            for k in 0..terms {
                to.extend(panel.iter().skip(k).step_by(terms));
            }
            rest = behind;
        }
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_interleaved_by_eights_fours_twos_and_ones() {
        // Row o, term k of 13 rows: 10·o + k.
        let rows: Vec<usize> = (0..13).flat_map(|o| [10 * o, 10 * o + 1]).collect();
        let found = panels(&rows, 1, 2);
        assert_eq!(found[..8], [0, 10, 20, 30, 40, 50, 60, 70]);
        assert_eq!(found[8..16], [1, 11, 21, 31, 41, 51, 61, 71]);
        assert_eq!(found[16..24], [80, 90, 100, 110, 81, 91, 101, 111]);
        assert_eq!(found[24..], [120, 121]);
        // Groups do not share panels.
        assert_eq!(panels(&[0, 1, 2, 3], 2, 2), [0, 1, 2, 3]);
        assert_eq!(panels(&[0, 1, 2, 3], 1, 2), [0, 2, 1, 3]);
    }
}
