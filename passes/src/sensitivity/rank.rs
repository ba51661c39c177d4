//! Rank correlation: how well one order of the layers agrees with another.

/// Spearman's ρ: Pearson's correlation of the ranks, equal values sharing their mean rank. `None` for fewer than two
/// pairs, or where one side is constant.
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() != b.len() || a.len() < 2 {
        return None;
    }
    pearson(&ranks(a), &ranks(b))
}

/// Kendall's τ-b: concordant less discordant pairs, over the geometric mean of the pairs that each side tells apart.
pub fn kendall(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() != b.len() || a.len() < 2 {
        return None;
    }
    let sign = |x: f64| if x > 0.0 { 1i64 } else { -i64::from(x < 0.0) };
    let (mut score, mut pairs_a, mut pairs_b) = (0, 0, 0);
    for i in 0..a.len() {
        for j in 0..i {
            let (da, db) = (sign(a[i] - a[j]), sign(b[i] - b[j]));
            score += da * db;
            pairs_a += da.abs();
            pairs_b += db.abs();
        }
    }
    let pairs = ((pairs_a * pairs_b) as f64).sqrt();
    (pairs > 0.0).then(|| score as f64 / pairs)
}

/// Pearson's r; `None` where one side is constant.
pub fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    let n = a.len() as f64;
    let (ma, mb) = (a.iter().sum::<f64>() / n, b.iter().sum::<f64>() / n);
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(x, y)| f(x - ma, y - mb)).sum::<f64>();
    let (ab, aa, bb) = (sum(&|x, y| x * y), sum(&|x, _| x * x), sum(&|_, y| y * y));
    (aa > 0.0 && bb > 0.0).then(|| ab / (aa * bb).sqrt())
}

/// Ranks from 0, ascending.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let equal = order[start..].iter().take_while(|i| values[**i] == values[order[start]]).count();
        for i in &order[start..start + equal.max(1)] {
            ranks[*i] = start as f64 + (equal.max(1) - 1) as f64 / 2.0;
        }
        start += equal.max(1);
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_cases() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0];
        assert_eq!(spearman(&a, &[10.0, 20.0, 30.0, 40.0, 1e9]), Some(1.0));
        assert_eq!(kendall(&a, &[5.0, 4.0, 3.0, 2.0, 1.0]), Some(-1.0));
        // scipy.stats.spearmanr and kendalltau.
        let b = [5.0, 6.0, 7.0, 8.0, 7.0];
        assert!((spearman(&a, &b).expect("defined") - 0.820_782_681_668_123_3).abs() < 1e-12);
        assert!((kendall(&a, &b).expect("defined") - 0.737_864_787_372_621_8).abs() < 1e-12);
    }

    #[test]
    fn undefined_cases() {
        assert_eq!(spearman(&[1.0], &[1.0]), None);
        assert_eq!(kendall(&[1.0, 2.0], &[3.0, 3.0]), None);
        assert_eq!(spearman(&[1.0, 2.0], &[3.0, 3.0]), None);
    }
}
