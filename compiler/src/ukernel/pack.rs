//! Packing of weights and epilogue constants for the tiles.
//!
//! Weights of a block of `n` channels (a multiple of 16) lie as `[k/4][n][4]`: one 32-bit lane holds four consecutive
//! k of one channel, as `vpdpbusd` wants them. Channels beyond the last are zero.

use super::rescale;

/// Constants of one vector of `lanes` channels that are rescaled in f32: biases i32, then M/2^e as f32.
pub fn epilogue_float(channels: &[Channel], times16: bool, lanes: usize) -> Vec<u8> {
    let times = if times16 { 16 } else { 1 };
    let lane =
        |group: &[Channel], i: usize, value: &dyn Fn(&Channel) -> [u8; 4]| group.get(i).map_or([0; 4], value);
    channels
        .chunks(lanes)
        .flat_map(|group| {
            let biases =
                (0..lanes).flat_map(|i| lane(group, i, &|c| c.bias.wrapping_mul(times).to_le_bytes()));
            let scales = (0..lanes).flat_map(|i| {
                lane(group, i, &|c| (rescale::as_f32(c.mult, c.shift) / times as f32).to_le_bytes())
            });
            biases.chain(scales).collect::<Vec<_>>()
        })
        .collect()
}

/// Constants of 16 output channels, in bytes: bias i32 ×16 at 0; multipliers of the even channels at 64 and of the odd
/// ones at 128 (i64 ×8, low halves used); rounding 2^(e−1) of even and odd channels at 192 and 256; shifts e of
/// the even channels at 320; of the odd channels e − 32 at 384, or e where the tile has short shifts.
pub const EPILOGUE_BYTES: usize = 448;

/// Constants of 8 output channels for AVX2, in bytes: bias i32 ×8 at 0; multipliers i32 ×8 at 32, of the odd channels
/// as i64 ×4 at 64; rounding 2^(e−1) + 2⁶² of even and odd channels at 96 and 128; shifts of the even ones at 160, of the
/// odd ones at 192 (as in [`EPILOGUE_BYTES`]); zero point − 2^(62−e) as i32 ×8 at 224.
pub const AVX2_EPILOGUE_BYTES: usize = 256;

/// What requantization needs of one channel.
#[derive(Clone, Copy, Debug)]
pub struct Channel {
    /// Bias with −zero_point·Σw folded in.
    pub bias: i32,
    /// Dyadic multiplier.
    pub mult: i32,
    /// Dyadic shift.
    pub shift: u8,
}

/// Epilogue blocks of `channels`, padded to a multiple of 16. `times16` adapts them to [`super::Weights::Int4Times16`].
pub fn epilogue(channels: &[Channel], times16: bool, short_shift: bool) -> Vec<u8> {
    let mut out = vec![0u8; channels.len().div_ceil(16) * EPILOGUE_BYTES];
    for (block, group) in out.chunks_mut(EPILOGUE_BYTES).zip(channels.chunks(16)) {
        for i in 0..16 {
            // Padding channels shift a zero; any legal shift does.
            let Channel { bias, mult, shift } =
                group.get(i).copied().unwrap_or(Channel { bias: 0, mult: 0, shift: 32 });
            let (bias, shift) = if times16 {
                (bias.wrapping_mul(16), i64::from(shift) + 4)
            } else {
                (bias, i64::from(shift))
            };
            let rounding = 1i64 << (shift - 1);
            let lane = (i / 2) * 8;
            block[i * 4..i * 4 + 4].copy_from_slice(&bias.to_le_bytes());
            let (mult_at, round_at, shift_at, shift) = match (i % 2, short_shift) {
                (0, _) => (64, 192, 320, shift),
                (_, false) => (128, 256, 384, shift - 32),
                (_, true) => (128, 256, 384, shift),
            };
            block[mult_at + lane..][..8].copy_from_slice(&i64::from(mult).to_le_bytes());
            block[round_at + lane..][..8].copy_from_slice(&rounding.to_le_bytes());
            block[shift_at + lane..][..8].copy_from_slice(&shift.to_le_bytes());
        }
    }
    out
}

/// Epilogue blocks for AVX2 of `channels`, padded to a multiple of 8.
pub fn epilogue_avx2(channels: &[Channel], zero_point: i32, short_shift: bool) -> Vec<u8> {
    let mut out = vec![0u8; channels.len().div_ceil(8) * AVX2_EPILOGUE_BYTES];
    for (block, group) in out.chunks_mut(AVX2_EPILOGUE_BYTES).zip(channels.chunks(8)) {
        for i in 0..8 {
            let Channel { bias, mult, shift } =
                group.get(i).copied().unwrap_or(Channel { bias: 0, mult: 0, shift: 32 });
            let rounding = (1u64 << (shift - 1)) + (1 << 62);
            let back = i64::from(zero_point).wrapping_sub(1 << (62 - shift)) as i32;
            let lane = (i / 2) * 8;
            block[i * 4..][..4].copy_from_slice(&bias.to_le_bytes());
            block[32 + i * 4..][..4].copy_from_slice(&mult.to_le_bytes());
            block[224 + i * 4..][..4].copy_from_slice(&back.to_le_bytes());
            let odd_shift = if short_shift { u64::from(shift) } else { u64::from(shift).saturating_sub(32) };
            if i % 2 == 0 {
                block[96 + lane..][..8].copy_from_slice(&rounding.to_le_bytes());
                block[160 + lane..][..8].copy_from_slice(&u64::from(shift).to_le_bytes());
            } else {
                block[64 + lane..][..8].copy_from_slice(&i64::from(mult).to_le_bytes());
                block[128 + lane..][..8].copy_from_slice(&rounding.to_le_bytes());
                block[192 + lane..][..8].copy_from_slice(&odd_shift.to_le_bytes());
            }
        }
    }
    out
}

/// Packs `weights`, one slice of K bytes (a multiple of 4) per channel, into `[k/4][padded][4]`.
pub fn int8(weights: &[&[i8]], padded: usize) -> Vec<u8> {
    let depth = weights.first().map_or(0, |w| w.len());
    let mut out = vec![0u8; depth * padded];
    for (channel, w) in weights.iter().enumerate() {
        for (k, value) in w.iter().enumerate() {
            out[(k / 4) * padded * 4 + channel * 4 + k % 4] = *value as u8;
        }
    }
    out
}

/// As [`int8`] with 16-bit elements: the 32 bytes of 8 channels hold k 0 and 2 of each step, the next 32 k 1 and 3.
pub fn int16(weights: &[&[i8]], padded: usize) -> Vec<u8> {
    let bytes = int8(weights, padded);
    let wide = |lane: &[u8], k: usize| i16::from(lane[k] as i8).to_le_bytes();
    bytes
        .chunks(32)
        .flat_map(|vector| {
            let part = move |first: usize| {
                vector.chunks(4).flat_map(move |lane| [wide(lane, first), wide(lane, first + 2)].concat())
            };
            part(0).chain(part(1)).collect::<Vec<_>>()
        })
        .collect()
}

/// Packs values in −8..=7 like [`int8`], two vectors of `vector` bytes sharing one: the first of the pair in the low
/// nibbles, the second in the high ones, `offset` added to each. The number of vectors must be even: where a step has
/// one vector only, two steps of k share.
pub fn int4(weights: &[&[i8]], padded: usize, vector: usize, offset: u8) -> Vec<u8> {
    let nibble = |b: &u8| b.wrapping_add(offset) & 15;
    int8(weights, padded)
        .chunks(2 * vector)
        .flat_map(|pair| {
            let (low, high) = pair.split_at(vector.min(pair.len()));
            low.iter().zip(high).map(move |(l, h)| nibble(l) | (nibble(h) << 4)).collect::<Vec<_>>()
        })
        .collect()
}
