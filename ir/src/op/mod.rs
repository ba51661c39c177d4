//! Operators of the two graphs. Matches over them are exhaustive, without `_` arms: the compiler is the checklist
//! of whoever adds one.
pub mod float;
pub mod int;
pub mod window;
