//! `goshawk run`: tensors in, tensors out.
use super::{engine::Engine, progress::Progress};
use crate::{Code, Error, Result, data::Dataset};
use goshawk_ir::{Shape, Tensor};
use std::collections::BTreeMap;

/// Runs the engine on every sample and stacks the results along the outermost dimension, by output name.
///
/// # Errors
/// [`Code::DATA`] where a sample cannot be read, [`Code::RUN`] where the engine fails.
pub fn run(
    engine: Engine<'_>,
    outputs: &[String],
    data: &Dataset,
    progress: &dyn Progress,
) -> Result<BTreeMap<String, Tensor>> {
    let mut values: Vec<(Vec<usize>, Vec<f32>)> = vec![Default::default(); outputs.len()];
    progress.begin("running", data.len());
    for sample in 0..data.len() {
        super::progress::check(progress)?;
        let results = engine.run(&data.sample(sample)?)?;
        if results.len() != outputs.len() {
            return Err(Error::new(Code::INTERNAL, "the engine gave another number of outputs"));
        }
        for ((dims, all), tensor) in values.iter_mut().zip(&results) {
            *dims = tensor.shape().to_vec();
            all.extend(tensor.as_f32().map_err(|e| Error::internal(&e))?);
        }
        progress.step();
    }
    progress.end();
    let stack = |(name, (mut dims, all)): (&String, (Vec<usize>, Vec<f32>))| {
        match dims.first_mut() {
            Some(n) => *n *= data.len(),
            None => dims.push(data.len()),
        }
        let tensor = Shape::new(dims).and_then(|shape| Tensor::from_f32(shape, all));
        tensor
            .map(|t| (name.clone(), t))
            .map_err(|e| Error::from_ir(Code::DATA, e).help("give fewer samples at once"))
    };
    outputs.iter().zip(values).map(stack).collect()
}
