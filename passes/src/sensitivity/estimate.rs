//! Numbers with standard errors.

/// A mean with its standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// The estimate.
    pub mean: f64,
    /// Standard error of `mean`; 0 for exact numbers and for figures that were imported without one.
    pub std_error: f64,
    /// Number of draws behind the estimate; 0 where that means nothing.
    pub samples: u64,
}

impl Estimate {
    /// A number without an error.
    pub const fn exact(mean: f64) -> Self {
        Self { mean, std_error: 0.0, samples: 0 }
    }

    /// This times a number.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self { mean: self.mean * factor, std_error: self.std_error * factor.abs(), ..self }
    }

    /// The sum of two independent estimates.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            mean: self.mean + other.mean,
            std_error: self.std_error.hypot(other.std_error),
            samples: self.samples.max(other.samples),
        }
    }

    /// Standard error over |mean|: 0 for an exact 0, infinite for an inexact one.
    pub fn relative_error(self) -> f64 {
        if self.std_error == 0.0 { 0.0 } else { self.std_error / self.mean.abs() }
    }

    /// The estimate with the smallest error that two independent ones of the same quantity give: weights 1/σ². An exact
    /// one wins; two exact ones are averaged by their numbers of samples.
    #[must_use]
    pub fn pooled(self, other: Self) -> Self {
        let samples = self.samples + other.samples;
        let (a, b) = (self.std_error, other.std_error);
        match (a > 0.0, b > 0.0) {
            (true, true) => {
                let (wa, wb) = (1.0 / (a * a), 1.0 / (b * b));
                let mean = (wa * self.mean + wb * other.mean) / (wa + wb);
                Self { mean, std_error: (wa + wb).recip().sqrt(), samples }
            }
            (false, true) => Self { samples, ..self },
            (true, false) => Self { samples, ..other },
            (false, false) => {
                let (na, nb) = (self.samples.max(1) as f64, other.samples.max(1) as f64);
                Self::exact((na * self.mean + nb * other.mean) / (na + nb)).of(samples)
            }
        }
    }

    /// The estimate of the union of two samples: means weighted by numbers of draws, as when both had been one run.
    #[must_use]
    pub fn joined(self, other: Self, (na, nb): (f64, f64)) -> Self {
        let (wa, wb) = (na / (na + nb), nb / (na + nb));
        Self {
            mean: wa * self.mean + wb * other.mean,
            std_error: (wa * self.std_error).hypot(wb * other.std_error),
            samples: self.samples + other.samples,
        }
    }

    const fn of(self, samples: u64) -> Self {
        Self { samples, ..self }
    }
}

/// Count, mean and spread of values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    /// Number of values.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Sum of squared distances from the mean.
    pub m2: f64,
}

impl Moments {
    /// Takes in a value (Welford 1962: no cancellation).
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        let delta = value - self.mean;
        self.mean += delta / self.count as f64;
        self.m2 += delta * (value - self.mean);
    }

    /// Adds the values that another one has taken in.
    pub fn merge(&mut self, other: Self) {
        let (a, b) = (self.count as f64, other.count as f64);
        if other.count > 0 {
            let delta = other.mean - self.mean;
            self.mean += delta * b / (a + b);
            self.m2 += other.m2 + delta * delta * a * b / (a + b);
            self.count += other.count;
        }
    }

    /// The mean of all values with its standard error; infinite for a single value.
    pub fn estimate(&self) -> Estimate {
        let n = self.count as f64;
        let std_error = if self.count < 2 { f64::INFINITY } else { (self.m2 / (n - 1.0) / n).sqrt() };
        Estimate { mean: self.mean, std_error, samples: self.count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_give_the_textbook_error() {
        let mut m = Moments::default();
        [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0].into_iter().for_each(|v| m.add(v));
        let e = m.estimate();
        assert!((e.mean - 5.0).abs() < 1e-15);
        assert!((e.std_error - (32.0f64 / 7.0 / 8.0).sqrt()).abs() < 1e-15);
        assert_eq!(e.samples, 8);
        let mut one = Moments::default();
        one.add(1.0);
        assert_eq!(one.estimate().std_error, f64::INFINITY);
        let mut halves = [Moments::default(); 3];
        [2.0, 4.0, 4.0].into_iter().for_each(|v| halves[1].add(v));
        [4.0, 5.0, 5.0, 7.0, 9.0].into_iter().for_each(|v| halves[2].add(v));
        let [mut all, first, second] = halves;
        [first, second].into_iter().for_each(|h| all.merge(h));
        assert!((all.mean - m.mean).abs() < 1e-12 && (all.m2 - m.m2).abs() < 1e-12 && all.count == 8);
    }

    #[test]
    fn pooling_prefers_the_better_estimate() {
        let (a, b) = (
            Estimate { mean: 1.0, std_error: 0.1, samples: 10 },
            Estimate { mean: 2.0, std_error: 0.2, samples: 10 },
        );
        let p = a.pooled(b);
        assert!((p.mean - 1.2).abs() < 1e-12 && p.std_error < 0.1 && p.samples == 20);
        assert_eq!(Estimate::exact(3.0).pooled(a).mean, 3.0);
        let j = a.joined(b, (1.0, 3.0));
        assert!((j.mean - 1.75).abs() < 1e-12 && (j.std_error - 0.025f64.hypot(0.15)).abs() < 1e-12);
    }
}
