//! A per-channel affine map with no layer to fold into becomes a depthwise 1×1 convolution: w = scale, b = shift.
//! Where the channels are not dimension 1 of an image tensor, the tensor is seen as [outer, C, 1, inner] meanwhile.
use super::channel_affine::ChannelAffine;
use crate::rewrite::{add_const, add_op};
use goshawk_ir::{
    FloatGraph, FloatOp, NodeId, Result, Shape, ensure,
    op::float::{Conv, Reshape},
    op::window::ConvWindow,
};

/// Replaces the node. The convolution takes over its name: it is the layer that users see.
///
/// # Errors
/// A parameter is not finite in f32, or the shapes are beyond the limits of [`Shape`].
pub(super) fn convert(g: &mut FloatGraph, id: NodeId, affine: &ChannelAffine) -> Result<()> {
    let shape = g.ty(id).shape.clone();
    let name = g.node(id).name.clone();
    let channels = affine.scale.len();
    let narrow = |v: &[f64]| v.iter().map(|x| *x as f32).collect::<Vec<f32>>();
    let finite = affine.scale.iter().chain(&affine.shift).all(|v| (*v as f32).is_finite());
    ensure!(
        finite,
        "{name}: a factor or summand of a channel is not finite in f32; the model's parameters are broken"
    );
    let weight =
        add_const(g, &format!("{name}.weight"), Shape::new([channels, 1, 1, 1])?, narrow(&affine.scale))?;
    let bias = add_const(g, &format!("{name}.bias"), Shape::new([channels])?, narrow(&affine.shift))?;
    let window = ConvWindow { groups: channels, ..ConvWindow::unit() };
    let conv = FloatOp::Conv(Conv { window, clamp: None });
    if shape.rank() == 4 && affine.axis == 1 {
        g.node_mut(id).op = conv;
        g.set_operands(id, &[affine.x, weight, bias]);
        return Ok(());
    }
    let outer: usize = shape[..affine.axis].iter().product();
    let inner: usize = shape[affine.axis + 1..].iter().product();
    let image = vec![outer, channels, 1, inner];
    let reshaped_name = g.fresh_name(&format!("{name}.shape"));
    g.node_mut(id).name = reshaped_name;
    let seen = add_op(g, &format!("{name}.image"), FloatOp::Reshape(Reshape { shape: image }), &[affine.x])?;
    let layer = add_op(g, &name, conv, &[seen, weight, bias])?;
    g.node_mut(id).op = FloatOp::Reshape(Reshape { shape: shape.to_vec() });
    g.set_operands(id, &[layer]);
    Ok(())
}
