//! ‖Q_b(x) − x‖² of weights and activations with this project's own quantizers ([`crate::quantize`]).
use super::layers::Layer;
use crate::{calibrate::Ranges, lower::Options, quantize};
use goshawk_ir::{DType, FloatGraph, QParams, Result, Tensor, bail, ensure, quant};
use std::collections::BTreeMap;

/// Weights rounded to some width, with the bias that goes with them.
#[derive(Clone, Debug)]
pub struct Rounded {
    /// Rounded values, output channels outermost.
    pub rows: Vec<f32>,
    /// The bias of the layer, corrected for the rounding where lowering would; `None` for no bias at all.
    pub bias: Option<Vec<f32>>,
}

/// The weight of a layer as lowering rounds it to `bits` bits.
///
/// # Errors
/// The width is outside 2..=8 or a weight is not finite.
pub fn round_weight(
    graph: &FloatGraph,
    layer: &Layer,
    bits: u8,
    ranges: &Ranges,
    options: &Options,
) -> Result<Rounded> {
    let rows = layer.rows(graph)?;
    let moments = layer.moments(graph, ranges);
    let floor = vec![0.0; layer.channels];
    let q = quantize::quantize_weight(&rows, layer.channels, bits, options.clip(bits), &floor, &moments)
        .map_err(|e| e.at(&layer.name))?;
    let row = rows.len() / layer.channels.max(1);
    let values = q.values.iter().enumerate().map(|(i, v)| q.scales[i / row.max(1)] * *v as f32).collect();
    let own = graph.node(layer.node).operands().get(2).and_then(|b| graph.constant(*b));
    let own = own.map(|b| b.as_f32().map(<[f32]>::to_vec)).transpose()?;
    let bias = match own {
        _ if !options.bias_correction || bits > 6 || moments.is_empty() => own,
        own => {
            let bias = own.unwrap_or_else(|| vec![0.0; layer.channels]);
            Some(quantize::bias::corrected(&bias, &rows, &q, &moments))
        }
    };
    Ok(Rounded { rows: values, bias })
}

/// ‖Q_b(W) − W‖² of every output channel.
///
/// # Errors
/// As [`round_weight`].
pub fn weight_errors(
    graph: &FloatGraph,
    layer: &Layer,
    bits: u8,
    ranges: &Ranges,
    options: &Options,
) -> Result<Vec<f64>> {
    let (rows, rounded) = (layer.rows(graph)?, round_weight(graph, layer, bits, ranges, options)?);
    let row = (rows.len() / layer.channels.max(1)).max(1);
    let square = |a: &f32, b: &f32| (f64::from(*a) - f64::from(*b)).powi(2);
    let channel = |(a, b): (&[f32], &[f32])| a.iter().zip(b).map(|(a, b)| square(a, b)).sum();
    Ok(rows.chunks(row).zip(rounded.rows.chunks(row)).map(channel).collect())
}

/// The quantizer of what a layer reads at `bits` bits.
///
/// # Errors
/// No range, or one that is not usable.
pub fn activation_quantizer(layer: &Layer, bits: u8, ranges: &Ranges) -> Result<QParams> {
    match ranges.get(&layer.input) {
        Some(range) => quantize::activation(range, bits).map_err(|e| e.at(&layer.input)),
        None => bail!("{}: {} has no calibrated range", layer.name, layer.input),
    }
}

/// The values after a trip through the quantizer.
///
/// # Errors
/// The tensor is not f32, or the quantizer has several scales.
pub fn round_activation(x: &Tensor, q: &QParams) -> Result<Tensor> {
    let (scale, bounds) = (q.tensor_scale()?, q.range(DType::U8));
    let round =
        |v: &f32| quant::dequantize(quant::quantize(*v, scale, q.zero_point, bounds), scale, q.zero_point);
    Tensor::from_f32(x.shape().clone(), x.as_f32()?.iter().map(round).collect::<Vec<_>>())
}

/// Sums of squared activation errors, by layer and width and channel, over samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ActivationErrors {
    quantizers: Vec<BTreeMap<u8, QParams>>,
    sums: Vec<BTreeMap<u8, Vec<f64>>>,
    samples: u64,
}

impl ActivationErrors {
    /// Nothing seen yet; `ranges` gives the ranges for a width.
    ///
    /// # Errors
    /// A layer reads a value without a usable range.
    pub fn new(graph: &FloatGraph, layers: &[Layer], ranges: &BTreeMap<u8, Ranges>) -> Result<Self> {
        let (mut quantizers, mut sums) = (Vec::new(), Vec::new());
        for layer in layers {
            let channels = channels(&graph.ty(layer.operand).shape);
            let mut own = BTreeMap::new();
            for (bits, ranges) in ranges {
                own.insert(*bits, activation_quantizer(layer, *bits, ranges)?);
            }
            sums.push(own.keys().map(|b| (*b, vec![0.0; channels])).collect());
            quantizers.push(own);
        }
        Ok(Self { quantizers, sums, samples: 0 })
    }

    /// Takes in what one sample makes of the operand of layer `i`.
    ///
    /// # Errors
    /// The tensor is not f32.
    pub fn observe(&mut self, i: usize, x: &Tensor) -> Result<()> {
        let values = x.as_f32()?;
        for (bits, q) in &self.quantizers[i] {
            let (scale, bounds, zero) = (q.tensor_scale()?, q.range(DType::U8), q.zero_point);
            let Some(sums) = self.sums[i].get_mut(bits) else { continue };
            let plane = x.shape().iter().skip(2).product::<usize>().max(1);
            for (p, cells) in values.chunks(plane).enumerate() {
                let error = |v: &f32| {
                    let back = quant::dequantize(quant::quantize(*v, scale, zero, bounds), scale, zero);
                    (f64::from(*v) - f64::from(back)).powi(2)
                };
                let channel = p % sums.len();
                sums[channel] += cells.iter().map(error).sum::<f64>();
            }
        }
        Ok(())
    }

    /// Counts a sample whose operands were observed.
    pub fn count(&mut self) {
        self.samples += 1;
    }

    /// Adds what another accumulator of the same layers has seen.
    ///
    /// # Errors
    /// The other one is of other layers.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        ensure!(self.quantizers == other.quantizers, "errors of different quantizers do not add up");
        self.samples += other.samples;
        for (mine, theirs) in self.sums.iter_mut().zip(&other.sums) {
            for (a, b) in mine.values_mut().zip(theirs.values()) {
                a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
            }
        }
        Ok(())
    }

    /// Mean over samples for layer `i`, by width and channel.
    pub fn finish(&self, i: usize) -> BTreeMap<u8, Vec<f64>> {
        let n = self.samples.max(1) as f64;
        self.sums[i].iter().map(|(b, s)| (*b, s.iter().map(|v| v / n).collect())).collect()
    }
}

/// Channels of what a layer reads: dimension 1, or the only one.
pub fn channels(dims: &[usize]) -> usize {
    dims.get(1).copied().unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use goshawk_ir::Shape;

    #[test]
    fn rounding_an_activation_is_the_grid_of_the_quantizer() {
        let q = quantize::activation((-1.0, 2.0), 2).expect("usable");
        let x = Tensor::from_f32(Shape::new([4]).expect("shape"), vec![-5.0, 0.4, 0.6, 9.0]).expect("tensor");
        assert_eq!(round_activation(&x, &q).expect("f32").as_f32().expect("f32"), [-1.0, 0.0, 1.0, 2.0]);
    }

    #[test]
    fn errors_of_shards_add_up() {
        let q = BTreeMap::from([(8u8, quantize::activation((0.0, 2.55), 8).expect("usable"))]);
        let new = || ActivationErrors {
            quantizers: vec![q.clone()],
            sums: vec![BTreeMap::from([(8, vec![0.0; 2])])],
            samples: 0,
        };
        let x = |v: f32| {
            let values = vec![v, 0.0, 0.0, v, v, v];
            Tensor::from_f32(Shape::new([1, 2, 3]).expect("shape"), values).expect("tensor")
        };
        let (mut a, mut b) = (new(), new());
        a.observe(0, &x(0.004)).expect("f32");
        a.count();
        b.observe(0, &x(0.01)).expect("f32");
        b.count();
        a.merge(&b).expect("same");
        let e = &a.finish(0)[&8];
        assert!((e[0] - 0.5 * 1.6e-5).abs() < 1e-8 && (e[1] - 1.5 * 1.6e-5).abs() < 1e-8, "{e:?}");
    }
}
