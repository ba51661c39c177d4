//! Kernels, one file for each family of operators. Each defines one function of pointers: operands, result, and for
//! convolutions the scratch area.
pub(crate) mod boundary;
pub(crate) mod conv;
pub(crate) mod depthwise;
pub(crate) mod edge;
pub(crate) mod elementwise;
pub(crate) mod gemm;
pub(crate) mod line;
pub(crate) mod movement;
pub(crate) mod nonlinear;
pub(crate) mod pack;
pub(crate) mod pool;
pub(crate) mod rescale;
pub(crate) mod rows;
mod tile_shape;
pub(crate) mod tiles;
pub(crate) mod window;
pub(crate) mod winograd;
