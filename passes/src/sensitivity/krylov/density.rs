//! Spectral density by stochastic Lanczos quadrature (Ubaru, Chen, Saad 2017; Ghorbani, Krishnan, Xiao 2019): the mean of
//! the quadratures of several random start vectors, each node widened to a Gaussian for drawing.
use crate::sensitivity::profile::Spectrum;

/// A density on a grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// Eigenvalue and density per unit.
    pub points: Vec<(f64, f64)>,
    /// Standard deviation of the Gaussians.
    pub width: f64,
}

/// The density on `count` points that span all nodes, smoothed by 1/100 of the span.
pub fn curve(spectrum: &Spectrum, count: usize) -> Curve {
    let nodes = || spectrum.runs.iter().flatten();
    let lo = nodes().map(|n| n.0).fold(f64::INFINITY, f64::min);
    let hi = nodes().map(|n| n.0).fold(f64::NEG_INFINITY, f64::max);
    if lo > hi || count < 2 {
        return Curve { points: Vec::new(), width: 0.0 };
    }
    let span = if hi > lo { hi - lo } else { hi.abs().max(1e-12) };
    let width = span / 100.0;
    let (from, to) = (lo - 4.0 * width, hi + 4.0 * width);
    let scale = 1.0 / (spectrum.runs.len() as f64 * width * (2.0 * std::f64::consts::PI).sqrt());
    let density = |x: f64| {
        scale * nodes().map(|(node, w)| w * (-0.5 * ((x - node) / width).powi(2)).exp()).sum::<f64>()
    };
    let at = |i: usize| from + (to - from) * i as f64 / (count - 1) as f64;
    Curve { points: (0..count).map(|i| (at(i), density(at(i)))).collect(), width }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_density_integrates_to_one_and_peaks_at_the_nodes() {
        let runs = vec![vec![(0.0, 0.9), (10.0, 0.1)], vec![(0.0, 0.7), (10.0, 0.3)]];
        let c = curve(&Spectrum { dimension: 9, steps: 2, runs }, 2001);
        let step = c.points[1].0 - c.points[0].0;
        let area: f64 = c.points.iter().map(|p| p.1 * step).sum();
        assert!((area - 1.0).abs() < 1e-3, "{area}");
        let peak = c.points.iter().max_by(|a, b| a.1.total_cmp(&b.1)).expect("points");
        assert!(peak.0.abs() < 0.01);
        let right: f64 = c.points.iter().filter(|p| p.0 > 5.0).map(|p| p.1 * step).sum();
        assert!((right - 0.2).abs() < 1e-3);
        assert!(curve(&Spectrum::default(), 9).points.is_empty());
    }
}
