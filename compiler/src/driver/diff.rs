//! Where quantization hurts: every tensor of the integer network compared with the float network's.
//!
//! For each value that both networks have: SQNR = 10·log₁₀(Σx² / Σ(x − q)²) in dB, cosine similarity, largest error.
//! Errors add up along the network, so the value to look at is the one where SQNR falls most against its operands.
use super::{
    model::{Model, Quantized},
    parallel,
    progress::Progress,
};
use crate::{Code, Error, Result, data::Dataset};
use goshawk_ir::{NodeId, Tensor, interp, quant};
use serde::Serialize;
use std::collections::BTreeMap;

/// Comparison of one value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layer {
    /// Name of the tensor.
    pub name: String,
    /// Operator of the float network.
    pub op: String,
    /// Element type in the integer network.
    pub dtype: String,
    /// Signal-to-quantization-noise ratio in dB; infinite where nothing differs.
    pub sqnr_db: f64,
    /// Lowest SQNR of the operands minus this one: what this layer loses by itself. Absent where no operand is compared.
    pub loss_db: Option<f64>,
    /// Cosine of the angle between the tensors.
    pub cosine: f64,
    /// Largest absolute error.
    pub max_error: f64,
    /// Largest absolute value of the float tensor.
    pub max_value: f64,
}

#[derive(Clone, Copy, Default)]
struct Sums {
    xx: f64,
    qq: f64,
    xq: f64,
    dd: f64,
    max_error: f64,
    max_value: f64,
}

impl Sums {
    fn add(&mut self, x: f32, q: f32) {
        let (x, q) = (f64::from(x), f64::from(q));
        self.xx += x * x;
        self.qq += q * q;
        self.xq += x * q;
        self.dd += (x - q) * (x - q);
        self.max_error = self.max_error.max((x - q).abs());
        self.max_value = self.max_value.max(x.abs());
    }

    fn merge(&mut self, o: &Self) {
        self.xx += o.xx;
        self.qq += o.qq;
        self.xq += o.xq;
        self.dd += o.dd;
        self.max_error = self.max_error.max(o.max_error);
        self.max_value = self.max_value.max(o.max_value);
    }

    fn sqnr_db(&self) -> f64 {
        if self.dd == 0.0 { f64::INFINITY } else { 10.0 * (self.xx / self.dd).log10() }
    }

    fn cosine(&self) -> f64 {
        let norm = (self.xx * self.qq).sqrt();
        if norm == 0.0 { f64::from(u8::from(self.xx == self.qq)) } else { self.xq / norm }
    }
}

/// Compares the networks on every sample; values in the order of the float network.
///
/// # Errors
/// [`Code::DATA`] where a sample cannot be read.
pub fn compare(
    model: &Model,
    quantized: &Quantized,
    data: &Dataset,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Vec<Layer>> {
    let pairs = pairs(model, quantized)?;
    progress.begin("comparing", data.len());
    let shards = parallel::shards(data.len(), threads, progress, BTreeMap::new, |sums, sample| {
        let inputs = data.sample(sample)?;
        compare_sample(model, quantized, &pairs, &inputs, sums)
    });
    progress.end();
    let mut sums: BTreeMap<NodeId, Sums> = BTreeMap::new();
    for shard in shards? {
        for (id, s) in &shard {
            sums.entry(*id).or_default().merge(s);
        }
    }
    let mut layers = Vec::new();
    for id in model.graph.topo_order().map_err(|e| Error::internal(&e))? {
        let Some(s) = sums.get(&id) else { continue };
        let node = model.graph.node(id);
        let before = node.operands().iter().filter_map(|o| sums.get(o)).map(Sums::sqnr_db).reduce(f64::min);
        let dtype = pairs.get(&id).map(|p| quantized.graph.ty(p.int).dtype.name());
        layers.push(Layer {
            name: node.name.clone(),
            op: goshawk_ir::Operator::name(&node.op).to_owned(),
            dtype: dtype.unwrap_or_default().to_owned(),
            sqnr_db: s.sqnr_db(),
            loss_db: before.map(|b| b - s.sqnr_db()).filter(|l| l.is_finite()),
            cosine: s.cosine(),
            max_error: s.max_error,
            max_value: s.max_value,
        });
    }
    Ok(layers)
}

/// A value of the integer network and how it lies compared with the float network's.
struct Pair {
    int: NodeId,
    order: Vec<usize>,
}

/// Integer values by float node.
fn pairs(model: &Model, quantized: &Quantized) -> Result<BTreeMap<NodeId, Pair>> {
    let by_name: BTreeMap<&str, NodeId> =
        quantized.graph.ids().map(|id| (quantized.graph.node(id).name.as_str(), id)).collect();
    let mut pairs = BTreeMap::new();
    for id in model.graph.ids().filter(|id| model.graph.constant(*id).is_none()) {
        let name = &model.graph.node(id).name;
        if let (Some(int), Some(order)) = (by_name.get(name.as_str()), quantized.orders.get(name)) {
            pairs.insert(id, Pair { int: *int, order: order.clone() });
        }
    }
    match pairs.is_empty() {
        true => Err(Error::new(Code::INTERNAL, "the integer network shares no value with the float network")),
        false => Ok(pairs),
    }
}

fn compare_sample(
    model: &Model,
    quantized: &Quantized,
    pairs: &BTreeMap<NodeId, Pair>,
    inputs: &[Tensor],
    sums: &mut BTreeMap<NodeId, Sums>,
) -> Result<()> {
    let run_error = |e| Error::from_ir(Code::RUN, e);
    let wanted: BTreeMap<NodeId, ()> = pairs.values().map(|p| (p.int, ())).collect();
    let mut ints: BTreeMap<NodeId, Tensor> = BTreeMap::new();
    let quantized_inputs = interp::boundary::quantize_inputs(&quantized.graph, inputs).map_err(run_error)?;
    interp::int::run_with(&quantized.graph, &quantized_inputs, &mut |id, t| {
        if wanted.contains_key(&id) {
            ints.insert(id, t.clone());
        }
    })
    .map_err(run_error)?;
    let mut failed = None;
    interp::float::run_with(&model.graph, inputs, &mut |id, x| {
        let Some(pair) = pairs.get(&id) else { return };
        let Some(q) = ints.get(&pair.int) else { return };
        let sum = sums.entry(id).or_default();
        if let Err(e) = add_tensor(quantized, pair, x, q, sum) {
            failed.get_or_insert(e);
        }
    })
    .map_err(run_error)?;
    failed.map_or(Ok(()), |e| Err(Error::internal(&e)))
}

/// Adds all elements: stored dimension j of the integer tensor is dimension `order[j]` of the float tensor.
fn add_tensor(
    quantized: &Quantized,
    pair: &Pair,
    x: &Tensor,
    q: &Tensor,
    sums: &mut Sums,
) -> goshawk_ir::Result<()> {
    let params = quantized.graph.ty(pair.int).qparams()?;
    let (scale, zero_point) = (params.tensor_scale()?, params.zero_point);
    let (values, ints) = (x.as_f32()?, q.to_ints()?);
    goshawk_ir::ensure!(
        values.len() == ints.len() && pair.order.len() == x.shape().rank(),
        "float {} and integer {} differ in size",
        x.shape(),
        q.shape()
    );
    let strides = x.shape().strides();
    let steps: Vec<usize> = pair.order.iter().map(|d| strides[*d]).collect();
    let dims: Vec<usize> = pair.order.iter().map(|d| x.shape()[*d]).collect();
    let mut index = vec![0; dims.len()];
    let mut offset = 0;
    for int in ints {
        sums.add(values[offset], quant::dequantize(int, scale, zero_point));
        for d in (0..dims.len()).rev() {
            index[d] += 1;
            offset += steps[d];
            if index[d] < dims[d] {
                break;
            }
            offset -= steps[d] * dims[d];
            index[d] = 0;
        }
    }
    Ok(())
}

/// The `count` values that lose most by themselves, the worst first.
pub fn worst(layers: &[Layer], count: usize) -> Vec<&Layer> {
    let mut sorted: Vec<&Layer> = layers.iter().filter(|l| l.loss_db.is_some()).collect();
    sorted.sort_by(|a, b| b.loss_db.partial_cmp(&a.loss_db).unwrap_or(std::cmp::Ordering::Equal));
    sorted.truncate(count);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_by_hand() {
        let mut s = Sums::default();
        for (x, q) in [(3.0, 3.0), (4.0, 4.5)] {
            s.add(x, q);
        }
        assert!((s.sqnr_db() - 20.0).abs() < 1e-9, "25 / 0.25 = 100 = 20 dB");
        assert!((s.cosine() - 27.0 / (25.0f64 * 29.25).sqrt()).abs() < 1e-12);
        assert_eq!((s.max_error, s.max_value), (0.5, 4.0));
        assert_eq!(Sums::default().cosine(), 1.0);
    }
}
