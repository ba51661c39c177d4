//! With AVX2: data and filters 32 bytes an instruction, products by `vpmaddubsw`, sums in i16 for as long as they fit.
pub mod data;
pub mod filters;
mod outcome;
pub mod product;
