//! Resize (opset 10, 11, 13, 18, 19) and its predecessor Upsample (7, 9).
use crate::import::{
    attrs,
    cx::{Cx, Value},
    refusal::{Result, malformed, unsupported},
};
use goshawk_ir::{
    FloatOp, NodeId, Shape,
    op::float::{self, Coordinates, NearestRule, Reshape, ResizeMode},
};

fn mode(cx: &Cx<'_, '_>) -> Result<ResizeMode> {
    match cx.attrs.string("mode", "nearest")? {
        "nearest" => Ok(ResizeMode::Nearest),
        "linear" | "bilinear" => Ok(ResizeMode::Linear),
        other => Err(unsupported(format!("resize of mode {other:?}")).help("use nearest or linear")),
    }
}

/// Scales are an attribute in opset 7, an operand in 9; coordinates are those of Resize 10.
pub fn upsample(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let scales = match cx.attrs.floats("scales")? {
        Some(s) => s.to_vec(),
        None => cx.floats(1, "the scales")?.ok_or_else(|| malformed("the scales are missing"))?,
    };
    let dims = cx.dims(0)?;
    let axes: Vec<usize> = (0..dims.len()).collect();
    let target = from_scales(&dims, &axes, &scales)?;
    emit(cx, target, mode(cx)?, Coordinates::Asymmetric, NearestRule::Floor)
}

/// Result dimensions with the scales as f32.
struct Target {
    dims: Vec<usize>,
    scales: Vec<f32>,
}

fn from_scales(dims: &[usize], axes: &[usize], scales: &[f32]) -> Result<Target> {
    if scales.len() != axes.len() {
        return Err(malformed(format!("{} scales for {} axes", scales.len(), axes.len())));
    }
    let mut t = Target { dims: dims.to_vec(), scales: vec![1.0; dims.len()] };
    for (i, s) in axes.iter().zip(scales) {
        if !(s.is_finite() && *s > 0.0) {
            return Err(malformed(format!("scales {scales:?} must be positive")));
        }
        // ONNX: floor(length · scale). f32, as the product in exporters and runtimes.
        let len = (dims[*i] as f32 * s).floor();
        if !(1.0..=1e9).contains(&len) {
            return Err(malformed(format!("scale {s} gives a length of {len}")));
        }
        (t.dims[*i], t.scales[*i]) = (len as usize, *s);
    }
    Ok(t)
}

fn from_sizes(dims: &[usize], axes: &[usize], sizes: &[i64], policy: &str) -> Result<Target> {
    let bad = || malformed(format!("sizes {sizes:?} for axes {axes:?}"));
    let sizes = attrs::sizes(sizes).filter(|s| s.len() == axes.len() && !s.contains(&0)).ok_or_else(bad)?;
    let ratios = axes.iter().zip(&sizes).map(|(i, s)| *s as f64 / dims[*i] as f64);
    let common = match policy {
        "stretch" => None,
        "not_larger" => Some(ratios.fold(f64::INFINITY, f64::min)),
        "not_smaller" => Some(ratios.fold(0.0, f64::max)),
        other => return Err(malformed(format!("attribute \"keep_aspect_ratio_policy\" is {other:?}"))),
    };
    let mut t = Target { dims: dims.to_vec(), scales: vec![1.0; dims.len()] };
    for (i, s) in axes.iter().zip(&sizes) {
        let len = match common {
            None => *s,
            // ONNX: round half up.
            Some(r) => ((dims[*i] as f64 * r + 0.5).floor() as usize).max(1),
        };
        let scale = common.unwrap_or(*s as f64 / dims[*i] as f64);
        (t.dims[*i], t.scales[*i]) = (len, scale as f32);
    }
    Ok(t)
}

pub fn resize(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let dims = cx.dims(0)?;
    if cx.opset < 11 {
        let scales = cx.floats(1, "the scales")?.ok_or_else(|| malformed("the scales are missing"))?;
        let target = from_scales(&dims, &(0..dims.len()).collect::<Vec<_>>(), &scales)?;
        return emit(cx, target, mode(cx)?, Coordinates::Asymmetric, NearestRule::Floor);
    }
    let axes = match cx.attrs.ints("axes")? {
        Some(a) => {
            attrs::axes(a, dims.len())?;
            a.iter().map(|a| attrs::axis(*a, dims.len())).collect::<Result<Vec<_>>>()?
        }
        None => (0..dims.len()).collect(),
    };
    // An absent operand may also be an empty tensor.
    let scales = cx.floats(2, "the scales")?.filter(|s| !s.is_empty());
    let sizes = cx.ints(3, "the sizes")?.filter(|s| !s.is_empty());
    let policy = cx.attrs.string("keep_aspect_ratio_policy", "stretch")?;
    let target = match (scales, sizes) {
        (Some(s), None) => from_scales(&dims, &axes, &s)?,
        (None, Some(s)) => from_sizes(&dims, &axes, &s, policy)?,
        _ => return Err(malformed("exactly one of scales and sizes must be given")),
    };
    if cx.attrs.flag("antialias", false)? && target.scales.iter().any(|s| *s < 1.0) {
        return Err(unsupported("downsampling with antialiasing")
            .help("resize without antialias, or outside the model"));
    }
    let nearest = match cx.attrs.string("nearest_mode", "round_prefer_floor")? {
        "round_prefer_floor" | "" => NearestRule::RoundPreferFloor,
        "round_prefer_ceil" => NearestRule::RoundPreferCeil,
        "floor" => NearestRule::Floor,
        "ceil" => NearestRule::Ceil,
        other => return Err(malformed(format!("attribute \"nearest_mode\" is {other:?}"))),
    };
    let exact = (0..dims.len()).all(|i| dims[i] as f32 * target.scales[i] == target.dims[i] as f32);
    let coordinates = match cx.attrs.string("coordinate_transformation_mode", "half_pixel")? {
        "half_pixel" => Coordinates::HalfPixel,
        // They differ only where length · scale is not a whole number.
        "half_pixel_symmetric" if exact => Coordinates::HalfPixel,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        "tf_half_pixel_for_nn" => Coordinates::TfHalfPixelForNn,
        other => {
            return Err(unsupported(format!("resize with coordinate_transformation_mode {other:?}"))
                .help("use half_pixel, align_corners or asymmetric"));
        }
    };
    emit(cx, target, mode(cx)?, coordinates, nearest)
}

fn emit(
    cx: &mut Cx<'_, '_>,
    target: Target,
    mode: ResizeMode,
    coordinates: Coordinates,
    nearest: NearestRule,
) -> Result<Vec<Value>> {
    let dims = cx.dims(0)?;
    let image = |d: &[usize]| match *d {
        [n, c, h, w] => Some([n, c, h, w]),
        [n, c, w] => Some([n, c, 1, w]),
        [h, w] => Some([1, 1, h, w]),
        _ => None,
    };
    let spatial = dims.len().min(4).saturating_sub(2);
    let (Some(from), Some(to)) = (image(&dims), image(&target.dims)) else {
        return Err(
            unsupported(format!("resize of rank {}", dims.len())).help("goshawk resizes images [N,C,H,W]")
        );
    };
    if from[..2] != to[..2]
        || target.scales[..spatial.min(dims.len())].iter().any(|s| dims.len() > 2 && *s != 1.0)
    {
        return Err(unsupported(format!("resize of batch or channels, {dims:?} to {:?}", target.dims))
            .help("goshawk resizes rows and columns"));
    }
    let scale = match target.scales[..] {
        [.., h, w] if dims.len() != 3 => [h, w],
        [.., w] => [1.0, w],
        [] => [1.0, 1.0],
    };
    let x = cx.operand(0)?;
    let op = FloatOp::Resize(float::Resize { mode, coordinates, nearest, size: [to[2], to[3]], scale });
    if dims.len() == 4 {
        return cx.emit(op, &[x]);
    }
    let x: NodeId = cx.step("image", FloatOp::Reshape(Reshape { shape: from.to_vec() }), &[x])?;
    let y = cx.step("resized", op, &[x])?;
    let shape = Shape::new(target.dims)?;
    cx.emit(FloatOp::Reshape(Reshape { shape: shape.to_vec() }), &[y])
}
