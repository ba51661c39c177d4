//! Passes that make the graph smaller without looking at weights: every one preserves the function.
pub mod constants;
pub mod dead;
pub mod identity;
pub mod matmul;
pub mod pad;
pub mod reshape;
pub mod scalar;
pub mod slice;
pub mod subexpression;
pub mod transpose;
