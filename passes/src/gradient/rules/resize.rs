//! Resizing of images: nearest moves elements, linear averages four.
use super::{
    super::Real,
    Operand,
    linear::{Linear, Map},
    movement,
};
use goshawk_ir::{
    Result, Shape,
    op::float::{Resize, ResizeMode},
    resize as coordinates,
};

/// x [N,C,H,W] → [N,C,H',W'].
pub fn resize<T: Real>(a: &Resize, x: &Shape, operand: Operand) -> Result<Linear<T>> {
    let [n, c, h, w] = x.dims4()?;
    let [oh, ow] = a.size;
    Ok(match a.mode {
        ResizeMode::Nearest => {
            let rows = coordinates::nearest(a.coordinates, a.nearest, h, oh, a.scale[0]);
            let columns = coordinates::nearest(a.coordinates, a.nearest, w, ow, a.scale[1]);
            let mut index = Vec::with_capacity(n * c * oh * ow);
            for plane in 0..n * c {
                for r in &rows {
                    index.extend(columns.iter().map(|z| (plane * h * w + r * w + z) as u32));
                }
            }
            movement::gather(index, operand)
        }
        ResizeMode::Linear => {
            let rows = coordinates::linear(a.coordinates, h, oh, a.scale[0]);
            let columns = coordinates::linear(a.coordinates, w, ow, a.scale[1]);
            let mut cells = Vec::with_capacity(4 * oh * ow);
            for (r0, r1, fr) in &rows {
                for (c0, c1, fc) in &columns {
                    for (r, p) in [(r0, 1.0 - fr), (r1, *fr)] {
                        for (z, q) in [(c0, 1.0 - fc), (c1, *fc)] {
                            cells.push(((r * w + z) as u32, T::of(p * q)));
                        }
                    }
                }
            }
            let starts = (0..=oh * ow).map(|i| 4 * i).collect();
            let map = Map::Planes { plane: [h * w, oh * ow], rows: starts, cells };
            Linear { map, fill: T::ZERO, operand, count: n * c * oh * ow }
        }
    })
}
