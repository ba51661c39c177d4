//! The text form of graphs, `.gir` files. [`print()`] and [`parse`] round-trip exactly, every bit of every float
//! included.
//!
//! ```text
//! gir 1 int "tiny"
//!
//! input "x" = %x nchw
//! %x: u8[1,2,2,1] q(0.5, 3, 8) = input
//! %w: i8[1,1,1,1] q(axis(0, [0.25]), 0, 8) = const [-7]
//! %b: i32[1] q(axis(0, [0.125]), 0, 32) = const [12]
//! %y: u8[1,2,2,1] q(1.0, 0, 8) = conv(%x, %w, %b) {window = window(stride([1, 1]), …), requant = requant(…)}
//! output "y" = %y nchw
//! ```
//!
//! * The header gives the format version, the kind (`float` or `int`) and the network's name.
//! * Names stand bare where they consist of letters, digits and `_./-`, otherwise in quotes with the escapes
//!   `\"`, `\\` and `\u{…}`.
//! * A type is the element type, the shape, and `q(scale, zero point, bits)` where the tensor is quantized; scales
//!   per channel are `axis(dimension, [scale, …])`.
//! * Constants are lists of values in row-major order, or `hex(…)`: the little-endian bytes, 4-bit types packed.
//! * Floats have a point or an exponent, or are `inf`, `-inf`, `nan` or, for other NaNs, `nan(0xbits)`.
//! * `;` starts a comment that ends with the line. Nodes are defined before they are used.
mod lexer;
mod parser;
mod print;

pub use parser::parse;
pub use print::{print, type_text};

/// Version of the format.
pub const VERSION: i64 = 1;
