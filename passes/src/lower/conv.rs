//! Convolutions, linear layers and products with a constant matrix.
//!
//! acc = Σ x̂·w + b in i32 with b in units of scale_x·scale_w\[c\], then one dyadic number per output channel. The
//! activation fused into the layer is the clamp of that rescale.
use super::context::{Lowerer, Value, requant};
use crate::bits::LayerBits;
use crate::calibrate::Moment;
use crate::quantize::{bias, quantize_weight};
use goshawk_ir::{
    DType, Dyadic, IntOp, NodeId, QParams, Requant, Result, Shape, Tensor, bail, ensure,
    op::{
        float::{self, Clamp},
        int,
        window::ConvWindow,
    },
    range,
};

/// A float weight with output channels first, and how it is to be stored.
pub struct Weight<'w> {
    /// Values, output channel outermost.
    pub values: &'w [f32],
    /// Shape of the integer weight.
    pub shape: Shape,
    /// Names the constants.
    pub name: String,
    /// One bias per output channel; empty for none.
    pub bias: &'w [f32],
    /// Bits.
    pub bits: u8,
    /// For each group of output channels, the moments of the input that each element of a row multiplies; empty where
    /// they are not known.
    pub moments: Vec<Vec<Moment>>,
}

/// Quantizes weight and bias for operand `x` and result `id`: the operands of the integer node and its rescale.
///
/// # Errors
/// Values that are not finite, an accumulator that could overflow, or scales that no dyadic number expresses.
pub fn quantized(
    l: &mut Lowerer<'_>,
    id: NodeId,
    x: &Value,
    w: &Weight<'_>,
    clamp: Option<Clamp>,
) -> Result<(Vec<NodeId>, Requant)> {
    let x_ty = l.out.ty(x.node);
    let x_quant = x_ty.qparams()?.clone();
    let scale_x = x_quant.tensor_scale()?;
    let channels = w.shape[0];
    let zeros;
    let bias_f32 = if w.bias.is_empty() {
        zeros = vec![0.0; channels];
        &zeros[..]
    } else {
        w.bias
    };
    ensure!(bias_f32.len() == channels, "{} biases for {channels} channels", bias_f32.len());
    let floor = bias::scale_floor(bias_f32, scale_x);
    let q = quantize_weight(w.values, channels, w.bits, l.options.clip(w.bits), &floor, &w.moments)?;
    let moments = if l.options.bias_correction && w.bits <= 6 { &w.moments[..] } else { &[] };
    let corrected = bias::corrected(bias_f32, w.values, &q, moments);
    let b = bias::quantize_bias(&corrected, scale_x, &q.scales)?;
    bias::prove_accumulator(&q.values, &b, range::max_centred(l.out.ty(x.node))?)?;

    let home = l.home(id)?;
    let scale_y = home.quant.tensor_scale()?;
    let mult =
        q.scales.iter().map(|s| Dyadic::from_scales(scale_x, *s, scale_y)).collect::<Result<Vec<_>>>()?;
    let requant = requant(mult, home.dtype, &home.quant, clamp)?;

    let dtype = if w.bits <= 4 { DType::I4 } else { DType::I8 };
    let accumulator: Vec<f32> = q.scales.iter().map(|s| scale_x * s).collect();
    let weight = Tensor::from_ints(dtype, w.shape.clone(), &q.values)?;
    let weight = l.add_const(&w.name, weight, Some(QParams::per_channel(0, q.scales, w.bits)));
    let bias = Tensor::from_i32(Shape::new([channels])?, b)?;
    let bias_name = format!("{}.bias", l.name(id));
    let bias = l.add_const(&bias_name, bias, Some(QParams::per_channel(0, accumulator, 32)));
    Ok((vec![x.node, weight, bias], requant))
}

fn bits(l: &Lowerer<'_>, id: NodeId) -> LayerBits {
    l.bits.get(&l.src.node(id).name).copied().unwrap_or(LayerBits::W8A8)
}

fn optional<'a>(l: &Lowerer<'a>, id: NodeId, position: usize) -> Result<&'a [f32]> {
    if l.src.node(id).operands().len() > position { l.constant(id, position) } else { Ok(&[]) }
}

/// [`goshawk_ir::FloatOp::Conv`]: weight [O,C/g,KH,KW] → [O,KH,KW,C/g].
pub fn conv(l: &mut Lowerer<'_>, id: NodeId, a: &float::Conv) -> Result<()> {
    let bits = bits(l, id);
    let x = l.canonical_bytes(id, 0, bits.activations)?;
    let operand = l.operand(id, 1)?;
    let (w, dims) = (l.constant(id, 1)?, l.src.ty(operand).shape.dims4()?);
    let weight = Weight {
        values: &channels_last(w, dims),
        shape: Shape::new([dims[0], dims[2], dims[3], dims[1]])?,
        name: l.name(operand),
        bias: optional(l, id, 2)?,
        bits: bits.weights,
        moments: conv_moments(l, id, dims, a.window.groups)?,
    };
    emit_conv(l, id, &x, &weight, a.window.clone(), a.clamp)
}

/// A convolution whose operand is ready.
///
/// # Errors
/// As [`quantized`].
pub fn emit_conv(
    l: &mut Lowerer<'_>,
    id: NodeId,
    x: &Value,
    weight: &Weight<'_>,
    window: ConvWindow,
    clamp: Option<Clamp>,
) -> Result<()> {
    let (operands, requant) = quantized(l, id, x, weight, clamp)?;
    l.define(id, IntOp::Conv(int::Conv { window, requant }), &operands, vec![0, 2, 3, 1])
}

/// Moments for the rows of a convolution's weight, [KH,KW,C/g] for each group.
fn conv_moments(
    l: &Lowerer<'_>,
    id: NodeId,
    [_, i, h, w]: [usize; 4],
    groups: usize,
) -> Result<Vec<Vec<Moment>>> {
    let Some(moments) = l.moments(l.operand(id, 0)?).filter(|m| m.len() == i * groups) else {
        return Ok(Vec::new());
    };
    Ok(moments.chunks(i).map(|group| group.repeat(h * w)).collect())
}

/// Moments for the rows of a linear layer's weight.
fn linear_moments(l: &Lowerer<'_>, source: NodeId, x: &Value) -> Vec<Vec<Moment>> {
    let Some(moments) = l.moments(source).filter(|m| m.len() == x.logical[1]) else { return Vec::new() };
    vec![match &x.columns {
        Some(columns) => columns.iter().map(|c| moments[*c]).collect(),
        None => moments.to_vec(),
    }]
}

/// [O,I,H,W] → [O,H,W,I].
fn channels_last(w: &[f32], [o, i, h, wd]: [usize; 4]) -> Vec<f32> {
    let mut out = Vec::with_capacity(w.len());
    for filter in w.chunks(i * h * wd).take(o) {
        for cell in 0..h * wd {
            out.extend((0..i).map(|c| filter[c * h * wd + cell]));
        }
    }
    out
}

/// [`goshawk_ir::FloatOp::Linear`]. A flattened image is read as it lies (NHWC): the columns of the weight are
/// permuted instead of the data.
pub fn linear(l: &mut Lowerer<'_>, id: NodeId, clamp: Option<Clamp>) -> Result<()> {
    let bits = bits(l, id);
    let source = l.operand(id, 0)?;
    let x = l.bytes(source, bits.activations)?;
    let x = if x.columns.is_some() { x } else { l.canonical(&x)? };
    let operand = l.operand(id, 1)?;
    let (w, shape) = (l.constant(id, 1)?, l.src.ty(operand).shape.clone());
    let permuted;
    let values = match &x.columns {
        Some(columns) => {
            permuted =
                w.chunks(columns.len()).flat_map(|row| columns.iter().map(|c| row[*c])).collect::<Vec<f32>>();
            &permuted
        }
        None => w,
    };
    let weight = Weight {
        values,
        shape,
        name: l.name(operand),
        bias: optional(l, id, 2)?,
        bits: bits.weights,
        moments: linear_moments(l, source, &x),
    };
    let (operands, requant) = quantized(l, id, &x, &weight, clamp)?;
    l.define(id, IntOp::Linear(int::Linear { requant }), &operands, vec![0, 1])
}

/// [`goshawk_ir::FloatOp::MatMul`] with a constant second operand [K,M]: a linear layer over all leading dimensions.
pub fn matmul(l: &mut Lowerer<'_>, id: NodeId) -> Result<()> {
    let (left, right) = (l.operand(id, 0)?, l.operand(id, 1)?);
    let shape = l.src.ty(right).shape.clone();
    if l.src.constant(right).is_none() || l.src.constant(left).is_some() || shape.rank() != 2 {
        bail!(
            "a product of two computed matrices (or with a stack of constant ones) has no integer form here: only \
             products x · constant [K,N] are layers; attention blocks are not supported"
        );
    }
    let bits = bits(l, id);
    let (k, n) = (shape[0], shape[1]);
    let x = l.bytes(left, bits.activations)?;
    let logical: Vec<usize> = (0..x.logical.len()).collect();
    let x = l.ordered(&x, logical)?;
    let rows = x.logical.iter().product::<usize>() / k;
    let x = l.viewed(&x, &[rows, k], true)?;
    let w = l.constant(id, 1)?;
    let transposed: Vec<f32> = (0..n).flat_map(|j| (0..k).map(move |i| w[i * n + j])).collect();
    let weight = Weight {
        values: &transposed,
        shape: Shape::new([n, k])?,
        name: l.name(right),
        bias: &[],
        bits: bits.weights,
        moments: Vec::new(),
    };
    let (operands, requant) = quantized(l, id, &x, &weight, None)?;
    let order: Vec<usize> = (0..l.dims(id).len()).collect();
    l.define_as(id, IntOp::Linear(int::Linear { requant }), &operands, vec![rows, n], order)
}
