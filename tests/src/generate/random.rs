//! splitmix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014): one word of state, the
//! same numbers on every machine.

/// A stream of random numbers.
pub struct Random(u64);

impl Random {
    /// The stream of a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// A number in lo..=hi.
    pub fn between(&mut self, lo: i32, hi: i32) -> i32 {
        let span = (i64::from(hi) - i64::from(lo) + 1) as usize;
        (i64::from(lo) + self.below(span) as i64) as i32
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of the items.
    pub fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `count` numbers in lo..=hi under one of several laws: uniform, only the two ends, mostly `zero`, or all one value.
    pub fn values(&mut self, count: usize, lo: i32, hi: i32, zero: i32) -> Vec<i32> {
        let law = self.below(8);
        let fixed = self.pick(&[lo, hi, zero]);
        (0..count)
            .map(|_| match law {
                0 => self.pick(&[lo, hi]),
                1 if !self.chance(10) => zero,
                2 => fixed,
                _ => self.between(lo, hi),
            })
            .collect()
    }
}
