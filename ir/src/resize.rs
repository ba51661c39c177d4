//! Coordinates of Resize along one axis, shared by the float interpreter and the integer lowering.
use crate::op::float::{Coordinates, NearestRule};

/// Operand coordinate of result index `out`.
fn source(coordinates: Coordinates, out: usize, input: usize, output: usize, scale: f32) -> f64 {
    let (x, scale) = (out as f64, f64::from(scale));
    match coordinates {
        Coordinates::HalfPixel => (x + 0.5) / scale - 0.5,
        Coordinates::PytorchHalfPixel if output == 1 => 0.0,
        Coordinates::PytorchHalfPixel => (x + 0.5) / scale - 0.5,
        Coordinates::AlignCorners if output == 1 => 0.0,
        Coordinates::AlignCorners => x * (input as f64 - 1.0) / (output as f64 - 1.0),
        Coordinates::Asymmetric => x / scale,
        Coordinates::TfHalfPixelForNn => (x + 0.5) / scale,
    }
}

/// Operand index of every result index.
pub fn nearest(
    coordinates: Coordinates,
    rule: NearestRule,
    input: usize,
    output: usize,
    scale: f32,
) -> Vec<usize> {
    (0..output)
        .map(|out| {
            let x = source(coordinates, out, input, output, scale);
            let i = match rule {
                NearestRule::RoundPreferFloor => (x - 0.5).ceil(),
                NearestRule::RoundPreferCeil => (x + 0.5).floor(),
                NearestRule::Floor => x.floor(),
                NearestRule::Ceil => x.ceil(),
            };
            i.clamp(0.0, input as f64 - 1.0) as usize
        })
        .collect()
}

/// (low index, high index, weight of high) of every result index.
pub fn linear(coordinates: Coordinates, input: usize, output: usize, scale: f32) -> Vec<(usize, usize, f64)> {
    let last = input as f64 - 1.0;
    (0..output)
        .map(|out| {
            let x = source(coordinates, out, input, output, scale).clamp(0.0, last);
            let low = x.floor();
            (low as usize, (low + 1.0).min(last) as usize, x - low)
        })
        .collect()
}
