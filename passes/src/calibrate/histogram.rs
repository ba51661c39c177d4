//! A histogram that grows with its data and merges exactly.
//!
//! Bins are 2ᵉ wide and aligned at 0, so bin ⌊|x|/2ᵉ⁺¹⌋ of the next coarser histogram is the union of two bins of this
//! one: growing by merging pairs gives the counts that the coarser histogram would have had from the start. The final
//! width depends on the largest magnitude alone, hence the result does not depend on the order of the data or on how
//! it was dealt out to threads. Zeros, of which there are many after Relu and which every quantizer represents
//! exactly, are counted apart.

/// Bins for each sign. The largest magnitude falls into the upper half, so at least 2048 are in use.
const BINS: usize = 4096;

/// Counts of magnitudes for each sign.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Histogram {
    /// Bins are 2^exponent wide; `None` until a value other than 0 comes.
    exponent: Option<i32>,
    negative: Vec<u64>,
    positive: Vec<u64>,
    /// Number of zeros.
    pub zeros: u64,
}

/// Values in (low, high), all on one side of 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bin {
    /// Lower edge.
    pub low: f64,
    /// Upper edge.
    pub high: f64,
    /// Number of values.
    pub count: f64,
}

impl Histogram {
    /// Nothing counted.
    pub fn new() -> Self {
        Self { exponent: None, negative: vec![0; BINS], positive: vec![0; BINS], zeros: 0 }
    }

    /// Counts finite values.
    pub fn add(&mut self, values: &[f32]) {
        let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        if largest > 0.0 {
            self.grow_to(exponent_for(largest));
        }
        let per_width = 2f64.powi(-self.exponent.unwrap_or(0));
        for value in values {
            let side = if *value > 0.0 {
                &mut self.positive
            } else if *value < 0.0 {
                &mut self.negative
            } else {
                self.zeros += 1;
                continue;
            };
            // Below BINS by the choice of the exponent; the product with a power of two is exact.
            let bin = (f64::from(value.abs()) * per_width) as usize;
            side[bin.min(BINS - 1)] += 1;
        }
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, mut other: Self) {
        self.zeros += other.zeros;
        let Some(theirs) = other.exponent else { return };
        self.grow_to(theirs);
        other.grow_to(self.exponent.unwrap_or(theirs));
        for (to, from) in [(&mut self.negative, &other.negative), (&mut self.positive, &other.positive)] {
            to.iter_mut().zip(from).for_each(|(a, b)| *a += b);
        }
    }

    /// Makes bins at least 2^exponent wide.
    fn grow_to(&mut self, exponent: i32) {
        let doublings = exponent - *self.exponent.get_or_insert(exponent);
        if doublings <= 0 {
            return;
        }
        self.exponent = Some(exponent);
        for side in [&mut self.negative, &mut self.positive] {
            let mut grown = vec![0; BINS];
            for (i, count) in side.iter().enumerate() {
                grown[i.checked_shr(doublings.unsigned_abs()).unwrap_or(0)] += count;
            }
            *side = grown;
        }
    }

    /// Number of values.
    pub fn total(&self) -> u64 {
        self.zeros + self.negative.iter().sum::<u64>() + self.positive.iter().sum::<u64>()
    }

    /// Width of a bin, 0 while there are only zeros.
    pub fn width(&self) -> f64 {
        self.exponent.map_or(0.0, |e| 2f64.powi(e))
    }

    /// Counts by magnitude, negative and positive.
    pub fn sides(&self) -> (&[u64], &[u64]) {
        (&self.negative, &self.positive)
    }

    /// Bins that hold something, in ascending order, without the zeros.
    pub fn bins(&self) -> Vec<Bin> {
        let width = self.width();
        let occupied = |side: &[u64]| -> Vec<(f64, f64)> {
            side.iter().enumerate().filter(|(_, n)| **n > 0).map(|(i, n)| (i as f64, *n as f64)).collect()
        };
        let negative = occupied(&self.negative).into_iter().rev();
        let positive = occupied(&self.positive);
        negative
            .map(|(i, count)| Bin { low: -(i + 1.0) * width, high: -i * width, count })
            .chain(positive.into_iter().map(|(i, count)| Bin {
                low: i * width,
                high: (i + 1.0) * width,
                count,
            }))
            .collect()
    }
}

/// The exponent with which `largest` falls into the upper half of the bins.
fn exponent_for(largest: f32) -> i32 {
    // The exponent field of f64: every f32, subnormal ones too, is a normal f64.
    let log2 = (f64::from(largest).to_bits() >> 52) as i32 - 1023;
    log2 + 1 - BINS.ilog2() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_sharding_do_not_matter() {
        let values: Vec<f32> =
            (0..3000).map(|i| (i as f32 * 0.7).sin() * 1.3f32.powi(i % 60 - 30)).chain([0.0, -0.0]).collect();
        let mut whole = Histogram::new();
        whole.add(&values);
        let mut one_by_one = Histogram::new();
        values.iter().for_each(|v| one_by_one.add(&[*v]));
        assert_eq!(whole, one_by_one);
        let mut merged = Histogram::new();
        for part in values.rchunks(701) {
            let mut shard = Histogram::new();
            shard.add(part);
            merged.merge(shard);
        }
        assert_eq!(whole, merged);
        assert_eq!((whole.total(), whole.zeros), (3002, 3));
    }

    #[test]
    fn bins_cover_what_was_counted() {
        let mut h = Histogram::new();
        h.add(&[-1.5, 0.25, 3.0, f32::MAX, f32::MIN_POSITIVE]);
        let bins = h.bins();
        assert_eq!(bins.iter().map(|b| b.count).sum::<f64>(), 5.0);
        assert!(bins.windows(2).all(|w| w[0].high <= w[1].low));
        assert!(bins.last().is_some_and(|b| b.low <= f64::from(f32::MAX) && f64::from(f32::MAX) < b.high));
        let mut tiny = Histogram::new();
        tiny.add(&[f32::from_bits(1)]);
        assert_eq!(tiny.bins().len(), 1);
        let mut none = Histogram::new();
        none.add(&[0.0; 4]);
        assert_eq!((none.total(), none.bins().len()), (4, 0));
    }
}
