//! Mean and mean square of every input channel of every layer, for the choice of weight scales and for bias correction
//! ([`crate::quantize`]).
use crate::lower::layers;
use goshawk_ir::{FloatGraph, NodeId, Result, Tensor};
use std::collections::BTreeMap;

/// Moments of one channel.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moment {
    /// E\[x\].
    pub mean: f32,
    /// E\[x²\].
    pub square: f32,
}

/// Sums over all samples, in units of 2⁻⁴⁰: integers, so that the order of merging does not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sums {
    name: String,
    count: u64,
    channels: Vec<(i128, i128)>,
}

const UNIT: f64 = (1u64 << 40) as f64;

/// Collects the moments of the tensors that layers read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    values: BTreeMap<NodeId, Sums>,
}

impl Collector {
    /// A collector for a prepared graph: channels are dimension 1 of images and the columns of matrices.
    pub fn new(g: &FloatGraph) -> Self {
        let mut values = BTreeMap::new();
        for id in g.ids().filter(|id| layers::is_layer(g, *id)) {
            let Some(x) = g.node(id).operands().first().copied() else { continue };
            if let 2 | 4 = g.ty(x).shape.rank() {
                let channels = vec![(0, 0); g.ty(x).shape[1]];
                values.insert(x, Sums { name: g.node(x).name.clone(), count: 0, channels });
            }
        }
        Self { values }
    }

    /// Takes in what one sample makes of one value; values that no layer reads are ignored.
    ///
    /// # Errors
    /// The tensor is not f32.
    pub fn observe(&mut self, id: NodeId, value: &Tensor) -> Result<()> {
        let Some(sums) = self.values.get_mut(&id) else { return Ok(()) };
        let channels = sums.channels.len();
        let plane = value.shape()[2..].iter().product::<usize>();
        for (i, cells) in value.as_f32()?.chunks(plane).enumerate() {
            let (mut sum, mut square) = (0f64, 0f64);
            for v in cells.iter().map(|v| f64::from(*v)) {
                sum += v;
                square += v * v;
            }
            let into = &mut sums.channels[i % channels];
            into.0 += (sum * UNIT) as i128;
            into.1 += (square * UNIT) as i128;
        }
        sums.count += (value.shape().count() / channels) as u64;
        Ok(())
    }

    /// Adds what another collector of the same graph has seen.
    pub fn merge(&mut self, other: Self) {
        for (id, theirs) in other.values {
            if let Some(mine) = self.values.get_mut(&id) {
                mine.count += theirs.count;
                for (a, b) in mine.channels.iter_mut().zip(theirs.channels) {
                    *a = (a.0 + b.0, a.1 + b.1);
                }
            }
        }
    }

    /// The moments of every channel, by name of the value.
    pub fn finish(&self) -> BTreeMap<String, Vec<Moment>> {
        let seen = self.values.values().filter(|s| s.count > 0);
        seen.map(|s| {
            let part = |sum: i128| (sum as f64 / UNIT / s.count as f64) as f32;
            let moments = s.channels.iter().map(|c| Moment { mean: part(c.0), square: part(c.1) });
            (s.name.clone(), moments.collect())
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use goshawk_ir::{
        FloatOp, Layout, Shape, TensorType,
        interp::float,
        op::{float::Conv, window::ConvWindow},
    };

    #[test]
    fn moments_do_not_depend_on_the_order_of_samples() {
        let mut g = FloatGraph::new("g");
        let shape = |dims: &[usize]| Shape::new(dims).unwrap();
        let x = g.add_input("x", TensorType::f32(shape(&[2, 3, 1, 2])), Layout::Same);
        let w = g.add_const("w", Tensor::from_f32(shape(&[1, 3, 1, 1]), vec![1.0; 3]).unwrap(), None);
        let op = FloatOp::Conv(Conv { window: ConvWindow::unit(), clamp: None });
        let y = g.add("y", op, &[x, w], TensorType::f32(shape(&[2, 1, 1, 2])));
        g.add_output("y", y, Layout::Same);
        let samples: Vec<Tensor> = (0..5)
            .map(|s| (0..12).map(|i| ((i * 7 + s * 5) % 11) as f32 / 3.0).collect::<Vec<f32>>())
            .map(|v| Tensor::from_f32(shape(&[2, 3, 1, 2]), v).unwrap())
            .collect();
        let collect = |order: &[usize]| {
            let mut c = Collector::new(&g);
            for s in order {
                let input = std::slice::from_ref(&samples[*s]);
                float::run_with(&g, input, &mut |id, t| c.observe(id, t).unwrap()).unwrap();
            }
            c
        };
        let whole = collect(&[0, 1, 2, 3, 4]);
        let mut parts = collect(&[4, 2]);
        parts.merge(collect(&[3, 0, 1]));
        assert_eq!(whole, parts);
        let moments = &whole.finish()["x"];
        assert_eq!(whole.finish().len(), 1, "only what layers read");
        // Channel 1 is elements 2, 3, 8 and 9 of every sample.
        let cells = samples.iter().flat_map(|s| [2, 3, 8, 9].map(|i| f64::from(s.as_f32().unwrap()[i])));
        let (sum, square) = cells.fold((0.0, 0.0), |(s, q), v| (s + v, q + v * v));
        assert!((f64::from(moments[1].mean) - sum / 20.0).abs() < 1e-6);
        assert!((f64::from(moments[1].square) - square / 20.0).abs() < 1e-6);
    }
}
