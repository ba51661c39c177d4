//! Deterministic random numbers: an integer hash of (seed, stream, index), so that any element of any probe can be
//! made anywhere, in any order, and by another program.
//!
//! `hash(seed, stream, index) = mix(mix(mix(seed) + stream) + index)` with wrapping 64-bit sums, where `mix` is one step
//! of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
use super::Real;

/// One step of SplitMix64.
fn mix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// 64 bits that are a function of the arguments.
pub fn hash(seed: u64, stream: u64, index: u64) -> u64 {
    mix(mix(mix(seed).wrapping_add(stream)).wrapping_add(index))
}

/// In [0, 1), from the upper 53 bits.
pub fn uniform(seed: u64, stream: u64, index: u64) -> f64 {
    (hash(seed, stream, index) >> 11) as f64 / (1u64 << 53) as f64
}

/// +1 where the uppermost bit is 0, else −1.
pub fn sign(seed: u64, stream: u64, index: u64) -> f64 {
    if hash(seed, stream, index) >> 63 == 0 { 1.0 } else { -1.0 }
}

/// Standard normal, by Box and Muller from the uniform numbers 2·index and 2·index + 1.
pub fn normal(seed: u64, stream: u64, index: u64) -> f64 {
    // 1 − u is in (0, 1], where the logarithm is finite.
    let radius = (-2.0 * (1.0 - uniform(seed, stream, 2 * index)).ln()).sqrt();
    radius * (std::f64::consts::TAU * uniform(seed, stream, 2 * index + 1)).cos()
}

/// `count` numbers ±1.
pub fn rademacher<T: Real>(seed: u64, stream: u64, count: usize) -> Vec<T> {
    (0..count as u64).map(|i| T::of(sign(seed, stream, i))).collect()
}

/// `count` standard normal numbers.
pub fn gaussian<T: Real>(seed: u64, stream: u64, count: usize) -> Vec<T> {
    (0..count as u64).map(|i| T::of(normal(seed, stream, i))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_what_the_documentation_says() {
        // SplitMix64 with seed 0 starts with this number (published test vector).
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(hash(1, 2, 3), mix(mix(mix(1) + 2) + 3));
        assert_eq!(rademacher::<f32>(7, 0, 64), rademacher::<f32>(7, 0, 64));
        assert_ne!(rademacher::<f32>(7, 0, 64), rademacher::<f32>(7, 1, 64));
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let n = 20_000;
        let mean = |f: &dyn Fn(u64) -> f64| (0..n).map(f).sum::<f64>() / n as f64;
        // Standard errors: 0.007, 0.002, 0.007, 0.010.
        assert!(mean(&|i| sign(1, 1, i)).abs() < 0.03);
        assert!((mean(&|i| uniform(1, 2, i)) - 0.5).abs() < 0.01);
        assert!(mean(&|i| normal(1, 3, i)).abs() < 0.03);
        assert!((mean(&|i| normal(1, 3, i).powi(2)) - 1.0).abs() < 0.05);
    }
}
