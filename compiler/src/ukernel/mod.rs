//! Assembled micro-kernels: leaf functions for the inner tiles of convolutions and linear layers on x86-64.
//!
//! Cranelift's vectors stop at 128 bits, so the tiles that do nearly all the work are assembled with `iced-x86` and
//! handed to the same module as raw bytes. Cranelift still emits the loops around them.
//!
//! Contract of a leaf:
//! * System V; tiles take `(rdi = activations, rsi = packed weights, rdx = output, rcx = epilogue block, r8 = scratch, or what to fetch)`, those that
//!   add a residual ([`join`]) also `(r9 = residual, [rsp + 8] = second result)`, row
//!   kernels `(rdi = table of input rows, rsi = constants, rdx = output row)`; strides, sizes and shape are immediates;
//! * clobbers only caller-saved registers; makes no calls; uses no stack; holds no state;
//! * reads exactly the bytes of the tile's operands and writes exactly the bytes of its results: edge tiles are kernels
//!   of their own, with fewer rows or masked columns, never over-reads.
//!
//! | family | ISA | main instruction | tile (rows × channels) | weights |
//! |---|---|---|---|---|
//! | [`x64::vnni512`] | AVX-512 VNNI | `vpdpbusd zmm` | 28×16, 14×32, 7×64 | [`pack::int8`], [`pack::int4`] times 16 |
//! | [`x64::avx2`] | AVX2 | `vpmaddubsw`, `vpmaddwd` | 12×8, 6×16 | [`pack::int8`], [`pack::int16`], [`pack::int4`] plus 8 |
//! | [`x64::avx2`] | AVX-VNNI, AVX-512 VNNI and VL | `vpdpbusd ymm` | 12×8, 6×16 | [`pack::int8`], [`pack::int4`] times 16 |
//!
//! | row kernel | AVX-512 VNNI | AVX2 |
//! |---|---|---|
//! | [`depthwise`] up to 5×5 | four taps a lane, `vpdpbusd zmm` | two taps a lane, `vpmaddwd ymm` |
//! | average pool up to 5×5 | the same with weights of one | the same |
//! | [`max_pool`] up to 5×5 | `vpmaxub`, `vpmaxsw zmm` | `vpmaxub`, `vpmaxsw ymm` |
//!
//! [`winograd`] describes the kernels of Winograd's algorithm in two dimensions, for both; [`line`] those in one, for AVX-512 VNNI.
//!
//! [`edge`] describes the kernels around the tiles: quantization, element-wise arithmetic, tables, copies.

pub mod depthwise;
pub mod edge;
pub mod isa;
pub mod join;
pub mod line;
pub mod max_pool;
pub mod pack;
pub mod probe;
pub mod rescale;
pub mod row;
pub mod tile;
pub mod winograd;
pub mod x64;

pub use depthwise::Depthwise;
pub use isa::Isa;
pub use join::Join;
pub use max_pool::MaxPool;
pub use tile::{Dot, Grid, Rescale, Tile, Weights};
