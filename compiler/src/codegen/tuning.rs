//! Which tiles layers get instead of those that the static rule chooses, by measurement (`goshawk compile --tune`).
//!
//! The widest tile of a layer decides how often its weights and how often its pixels are read: 7 rows × 64 channels reads
//! few pixels and many weights for each product, 28 × 16 the reverse. Which is faster depends on the caches, so it may be
//! measured. Every choice computes the same bytes. The static rule (`ops::tile_shape`) serves layers without a choice.
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Tiles of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TileChoice {
    /// Vectors of output channels of the widest tile.
    pub vectors: usize,
    /// Rows of the image in a tile; as many as fit, if that is less. Of Winograd in two dimensions, rows of tiles in a section:
    /// where the image has no more, the order is by channels. Of Winograd in one, lines of a group.
    pub lines: usize,
    /// What computes the layer, where it is exact.
    #[serde(default)]
    pub algorithm: Algorithm,
}

/// Ways to compute a convolution by tiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// Every product.
    #[default]
    #[serde(rename = "direct")]
    Direct,
    /// Winograd's F(2×2, 3×3).
    #[serde(rename = "winograd 2x2")]
    Square,
    /// Winograd's F(2, 3) along lines.
    #[serde(rename = "winograd 1x2")]
    Line,
}

/// What is preferred where speed costs memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefer {
    /// Speed.
    #[default]
    Speed,
    /// A small arena and a small file: no scratch areas for transformed data, transformed filters and unpacked weights, no
    /// filters transformed when compiling.
    Size,
}

/// Choices by layer shape ([`super::LayerReport::tiles`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// What each shape gets.
    pub choices: BTreeMap<String, TileChoice>,
    /// What every other layer gets instead of the static rule's tiles: for measuring.
    pub all: Option<TileChoice>,
    /// What is preferred where speed costs memory.
    pub prefer: Prefer,
}

impl Tuning {
    /// The same for every layer.
    pub fn all(choice: Option<TileChoice>) -> Self {
        Self { all: choice, ..Self::default() }
    }

    /// Tiles for the shape, if they were chosen.
    pub fn choice(&self, shape: &str) -> Option<TileChoice> {
        self.choices.get(shape).copied().or(self.all)
    }
}
