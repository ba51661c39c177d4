//! Concatenation along an axis.
use super::{super::Real, Forward, Operand, Point, Rule};
use goshawk_ir::Shape;

/// Blocks of the operands in turn.
pub struct Concat {
    operands: Vec<Operand>,
    /// Length of each operand's block.
    blocks: Vec<usize>,
    /// Blocks of each operand in one sample.
    outer: usize,
}

impl Concat {
    /// From the operands' shapes.
    pub fn new(x: &[&Shape], operands: &[Operand], axis: usize) -> Self {
        let blocks = x.iter().map(|s| s[axis..].iter().product()).collect();
        let outer = x.first().map_or(1, |s| s[..axis].iter().product());
        Self { operands: operands.to_vec(), blocks, outer }
    }
}

impl<T: Real> Rule<T> for Concat {
    fn forward(&self, samples: usize, x: &[&[T]]) -> Forward<T> {
        let mut y = Vec::new();
        for sample in 0..samples {
            for i in 0..self.outer {
                for ((x, operand), block) in x.iter().zip(&self.operands).zip(&self.blocks) {
                    y.extend_from_slice(&operand.of(x, sample)[i * block..][..*block]);
                }
            }
        }
        y.into()
    }
    fn jvp(&self, at: &Point<'_, T>, dx: &[Option<&[T]>]) -> Option<Vec<T>> {
        dx.iter().any(Option::is_some).then(|| {
            let mut dy = Vec::new();
            for sample in 0..at.samples {
                for i in 0..self.outer {
                    for ((dx, operand), block) in dx.iter().zip(&self.operands).zip(&self.blocks) {
                        match dx {
                            Some(d) => dy.extend_from_slice(&operand.of(d, sample)[i * block..][..*block]),
                            None => dy.resize(dy.len() + block, T::ZERO),
                        }
                    }
                }
            }
            dy
        })
    }
    fn vjp(&self, _: &Point<'_, T>, gy: &[T], need: &[bool]) -> Vec<Option<Vec<T>>> {
        let period: usize = self.blocks.iter().sum();
        let mut start = 0;
        let mut out = Vec::with_capacity(need.len());
        for (need, block) in need.iter().zip(&self.blocks) {
            out.push(
                need.then(|| {
                    gy.chunks_exact(period).flat_map(|g| &g[start..start + block]).copied().collect()
                }),
            );
            start += block;
        }
        out
    }
}
