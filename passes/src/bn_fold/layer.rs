//! Scales the outputs or inputs of a layer with constant weights by changing the weights.
use crate::rewrite::{add_const, const_values, replace_const};
use goshawk_ir::{FloatGraph, FloatOp, NodeId, Result, Shape, ensure};

/// Whether the node is a convolution or linear layer whose weight and bias are constants.
pub(crate) fn has_constant_weights(g: &FloatGraph, id: NodeId) -> bool {
    let node = g.node(id);
    matches!(node.op, FloatOp::Conv(_) | FloatOp::Linear(_))
        && node.operands()[1..].iter().all(|o| g.constant(*o).is_some())
}

/// Makes the layer give scale\[o\]·y + shift\[o\] for every output channel o. A fused activation is the caller's
/// concern.
///
/// # Errors
/// The node is not a layer with constant weights, or a result is not finite.
pub(crate) fn scale_outputs(g: &mut FloatGraph, id: NodeId, scale: &[f64], shift: &[f64]) -> Result<()> {
    let (weight, bias) = parameters(g, id)?;
    let per_channel = weight.len() / scale.len();
    let weight = weight.iter().enumerate().map(|(i, w)| w * scale[i / per_channel]).collect();
    let bias = bias.iter().enumerate().map(|(o, b)| b * scale[o] + shift[o]).collect();
    set_parameters(g, id, weight, bias)
}

/// Whether the layer `user` reads `x` as its data only, and can absorb scale·x + shift: padding cells hold 0, not
/// `shift`, so a padded convolution takes no shift.
pub(crate) fn takes_input_affine(g: &FloatGraph, user: NodeId, x: NodeId, shift: &[f64]) -> bool {
    let node = g.node(user);
    let as_data = node.operands()[0] == x && !node.operands()[1..].contains(&x);
    let unpadded = match &node.op {
        FloatOp::Conv(a) => a.window.pads == [0; 4],
        _ => true,
    };
    as_data && has_constant_weights(g, user) && (unpadded || shift.iter().all(|t| *t == 0.0))
}

/// Makes the layer compute from x what it computes now from scale\[i\]·x + shift\[i\], i being the input channel.
///
/// # Errors
/// As [`scale_outputs`].
pub(crate) fn scale_inputs(g: &mut FloatGraph, id: NodeId, scale: &[f64], shift: &[f64]) -> Result<()> {
    let (mut weight, mut bias) = parameters(g, id)?;
    let groups = match &g.node(id).op {
        FloatOp::Conv(a) => a.window.groups,
        _ => 1,
    };
    let outputs = bias.len();
    let inputs = scale.len() / groups;
    let taps = weight.len() / outputs / inputs;
    for o in 0..outputs {
        let first_channel = o / (outputs / groups) * inputs;
        for i in 0..inputs {
            let channel = first_channel + i;
            let begin = (o * inputs + i) * taps;
            for w in &mut weight[begin..begin + taps] {
                bias[o] += *w * shift[channel];
                *w *= scale[channel];
            }
        }
    }
    set_parameters(g, id, weight, bias)
}

/// Weight, and bias or zeros, in f64.
fn parameters(g: &FloatGraph, id: NodeId) -> Result<(Vec<f64>, Vec<f64>)> {
    let node = g.node(id);
    ensure!(has_constant_weights(g, id), "{} has no constant weights to fold into", node.name);
    let wide = |id: &NodeId| -> Vec<f64> {
        const_values(g, *id).unwrap_or(&[]).iter().map(|v| f64::from(*v)).collect()
    };
    let outputs = g.ty(node.operands()[1]).shape[0];
    let bias = node.operands().get(2).map_or_else(|| vec![0.0; outputs], wide);
    Ok((wide(&node.operands()[1]), bias))
}

/// Writes weight and bias, rounded to f32. A bias of zeros is not added where there was none.
fn set_parameters(g: &mut FloatGraph, id: NodeId, weight: Vec<f64>, bias: Vec<f64>) -> Result<()> {
    let name = g.node(id).name.clone();
    let narrow = |v: Vec<f64>| v.into_iter().map(|x| x as f32).collect::<Vec<f32>>();
    let (weight, bias) = (narrow(weight), narrow(bias));
    ensure!(
        weight.iter().chain(&bias).all(|v| v.is_finite()),
        "{name}: a weight or bias is not finite after folding what follows or precedes it; \
         the model's weights or normalisation statistics are broken"
    );
    let operands = g.node(id).operands().to_vec();
    let bias_shape = Shape::new([bias.len()])?;
    if operands.len() == 3 {
        replace_const(g, id, 2, bias_shape, bias)?;
    } else if bias.iter().any(|b| *b != 0.0) {
        let b = add_const(g, &format!("{name}.bias"), bias_shape, bias)?;
        g.set_operands(id, &[operands[0], operands[1], b]);
    }
    let shape = g.ty(operands[1]).shape.clone();
    replace_const(g, id, 1, shape, weight)
}
