//! Weights and epilogue constants in the order in which GEMM kernels read them.
//!
//! Blocks of [`NR`] output channels. `k` runs over (kernel row, kernel column, input channel), padded with zeros to a
//! multiple of [`KSTEP`] (per kernel row where the kernel reads the tensor directly):
//!
//! | family | INT8 | INT4, two to a byte |
//! |---|---|---|
//! | dot4 | `[k/4][8][4]` | `[k/4][4][4]`: low nibble channels 0–3, high nibble channels 4–7 |
//! | pair | `[k/2][8][2]` | `[k/4][8][2]`: low nibble k pair 2i, high nibble k pair 2i+1 |
use super::rescale::{Lane, Scheme};

/// Output channels of a block.
pub(crate) const NR: usize = 8;
/// Elements of k that one iteration of a kernel takes: 16 bytes of activations.
pub(crate) const KSTEP: usize = 16;

/// Weights of one block: `weights(channel, k)` for k < `k`, a multiple of [`KSTEP`].
pub(crate) fn block(
    out: &mut Vec<u8>,
    k: usize,
    pair: bool,
    nibbles: bool,
    weight: impl Fn(usize, usize) -> i32,
) {
    let group = if pair { 2 } else { 4 };
    // One 16-byte (pair) or 32-byte (dot4) row of INT8 weights.
    let row = |step: usize| (0..NR * group).map(move |i| (i / group, step * group + i % group));
    if !nibbles {
        for step in 0..k / group {
            out.extend(row(step).map(|(c, k)| weight(c, k) as u8));
        }
        return;
    }
    let join = |low: i32, high: i32| (low as u8 & 15) | ((high as u8) << 4);
    if pair {
        for step in (0..k / group).step_by(2) {
            out.extend(row(step).zip(row(step + 1)).map(|(a, b)| join(weight(a.0, a.1), weight(b.0, b.1))));
        }
    } else {
        for step in 0..k / group {
            out.extend(row(step).take(16).map(|(c, k)| join(weight(c, k), weight(c + 4, k))));
        }
    }
}

/// Bytes of the epilogue constants of one block.
pub(crate) const fn epilogue_bytes(scheme: Scheme) -> usize {
    match scheme {
        Scheme::Uniform => 96,
        Scheme::PerLane => 192,
        Scheme::Scalar => 224,
    }
}

/// Constants of one block of eight channels (missing ones are zero): bias, then mult, then
/// * uniform: pre;
/// * per lane: pre, round (i64), post;
/// * scalar: round (i64), shift (i64), 32 bytes unused.
pub(crate) fn epilogue(out: &mut Vec<u8>, scheme: Scheme, bias: &[i32], lanes: &[Lane]) {
    let start = out.len();
    let lane = |c: usize| lanes.get(c).copied().unwrap_or_default();
    let mut i32s = |f: &dyn Fn(usize) -> i32| {
        for c in 0..NR {
            out.extend(f(c).to_le_bytes());
        }
    };
    i32s(&|c| bias.get(c).copied().unwrap_or(0));
    i32s(&|c| lane(c).mult);
    match scheme {
        Scheme::Uniform => i32s(&|c| lane(c).pre),
        Scheme::PerLane => {
            i32s(&|c| lane(c).pre);
            for c in 0..NR {
                out.extend(lane(c).round.to_le_bytes());
            }
            for c in 0..NR {
                out.extend(lane(c).post.to_le_bytes());
            }
        }
        Scheme::Scalar => {
            for c in 0..NR {
                out.extend(lane(c).round.to_le_bytes());
            }
            for c in 0..NR {
                out.extend(i64::from(lane(c).shift).to_le_bytes());
            }
        }
    }
    out.resize(start + epilogue_bytes(scheme), 0);
}
