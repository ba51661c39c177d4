//! Shapes with checked arithmetic: a shape that exists has a count and strides that do not overflow.
use crate::{Result, bail, ensure};
use std::{fmt, ops::Deref};

/// Largest rank. ONNX exporters stay at 6; 8 leaves room for DepthToSpace as reshape + transpose.
pub const MAX_RANK: usize = 8;
/// Largest number of elements of one tensor: indices fit in i32, byte offsets of f32 in u64 with room to spare.
pub const MAX_ELEMENTS: usize = i32::MAX as usize;

/// Static dimensions of a tensor, outermost first. Rank 0 is a scalar. Dimensions of 0 are refused: no operator
/// of a compiled network is meaningful on them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape(Vec<usize>);

impl Shape {
    /// Checks rank and element count.
    ///
    /// # Errors
    /// Rank above [`MAX_RANK`], a dimension of 0, or more than [`MAX_ELEMENTS`] elements.
    pub fn new(dims: impl Into<Vec<usize>>) -> Result<Self> {
        let dims = dims.into();
        ensure!(dims.len() <= MAX_RANK, "rank {} is above the limit of {MAX_RANK}", dims.len());
        let mut count = 1usize;
        for &d in &dims {
            ensure!(d > 0, "shape {dims:?} has a dimension of 0");
            count = match count.checked_mul(d) {
                Some(c) if c <= MAX_ELEMENTS => c,
                _ => bail!("shape {dims:?} has more than {MAX_ELEMENTS} elements"),
            };
        }
        Ok(Self(dims))
    }

    /// The shape of a scalar.
    pub const fn scalar() -> Self {
        Self(Vec::new())
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.0.iter().product()
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Row-major strides in elements.
    pub fn strides(&self) -> Vec<usize> {
        let mut strides = vec![1; self.rank()];
        for i in (1..self.rank()).rev() {
            strides[i - 1] = strides[i] * self.0[i];
        }
        strides
    }

    /// The result of numpy-style broadcasting.
    ///
    /// # Errors
    /// Two dimensions differ and neither is 1.
    pub fn broadcast(&self, other: &Self) -> Result<Self> {
        let rank = self.rank().max(other.rank());
        let at = |s: &Self, i: usize| (i + s.rank()).checked_sub(rank).map_or(1, |j| s.0[j]);
        let mut dims = Vec::with_capacity(rank);
        for i in 0..rank {
            dims.push(match (at(self, i), at(other, i)) {
                (a, b) if a == b => a,
                (1, b) => b,
                (a, 1) => a,
                _ => bail!("shapes {self} and {other} do not broadcast"),
            });
        }
        Self::new(dims)
    }

    /// Strides with which a tensor of this shape is read as `target`: 0 along broadcast dimensions.
    ///
    /// # Errors
    /// This shape does not broadcast to `target`.
    pub fn broadcast_strides(&self, target: &Self) -> Result<Vec<usize>> {
        ensure!(self.broadcast(target)? == *target, "shape {self} does not broadcast to {target}");
        let skip = target.rank() - self.rank();
        let own = self.strides();
        Ok((0..target.rank())
            .map(|i| if i < skip || self.0[i - skip] == 1 { 0 } else { own[i - skip] })
            .collect())
    }

    /// The four dimensions of an image tensor (NCHW in the float graph, NHWC in the integer graph).
    ///
    /// # Errors
    /// Another rank.
    pub fn dims4(&self) -> Result<[usize; 4]> {
        match self.0[..] {
            [a, b, c, d] => Ok([a, b, c, d]),
            _ => bail!("shape {self} must have rank 4"),
        }
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.0.iter().enumerate() {
            write!(f, "{}{d}", if i == 0 { "" } else { "," })?;
        }
        f.write_str("]")
    }
}
