//! Shape inference: one arm per operator. It also checks operand counts, ranks and attribute ranges, so that the
//! interpreters and the code generator may rely on them.
#![deny(clippy::wildcard_enum_match_arm)]
use crate::op::{float, float::FloatOp, int, int::IntOp};
use crate::{Result, Shape, bail, ensure};

/// Shape of the result of a float operator.
///
/// # Errors
/// Operands or attributes do not fit the operator. `Input` and `Const` have no inferred shape.
pub fn float_shape(op: &FloatOp, operands: &[&Shape]) -> Result<Shape> {
    match op {
        FloatOp::Input | FloatOp::Const(_) => bail!("inputs and constants declare their shape"),
        FloatOp::Conv(a) => {
            let (x, w) = conv_operands(operands)?;
            let [n, c, h, wd] = x.dims4()?;
            let [o, cg, kh, kw] = w.dims4()?;
            check_groups(a.window.groups, c, o, cg)?;
            let [oh, ow] = a.window.out_size([h, wd], [kh, kw])?;
            Shape::new([n, o, oh, ow])
        }
        FloatOp::BatchNorm(_) => {
            count(operands, 5..=5)?;
            let x = operands[0];
            ensure!(x.rank() >= 2, "batch_norm needs rank 2 or more, got {x}");
            for p in &operands[1..] {
                ensure!(p[..] == [x[1]], "batch_norm over {} channels has a parameter of shape {p}", x[1]);
            }
            Ok(x.clone())
        }
        FloatOp::Linear(_) => linear_shape(operands),
        FloatOp::MatMul(_) => {
            count(operands, 2..=2)?;
            let (a, b) = (operands[0], operands[1]);
            ensure!(a.rank() >= 2 && b.rank() >= 2, "matmul needs rank 2 or more, got {a} and {b}");
            let (m, k) = (a[a.rank() - 2], a[a.rank() - 1]);
            let (k2, n) = (b[b.rank() - 2], b[b.rank() - 1]);
            ensure!(k == k2, "matmul of {a} and {b}: inner dimensions differ");
            let lead = Shape::new(&a[..a.rank() - 2])?.broadcast(&Shape::new(&b[..b.rank() - 2])?)?;
            Shape::new([&lead[..], &[m, n]].concat())
        }
        FloatOp::Unary(_) => one(operands).cloned(),
        FloatOp::PRelu(_) => {
            count(operands, 2..=2)?;
            let x = operands[0];
            ensure!(operands[1].broadcast(x)? == *x, "slope {} does not broadcast to {x}", operands[1]);
            Ok(x.clone())
        }
        FloatOp::Binary(_) => {
            count(operands, 2..=2)?;
            operands[0].broadcast(operands[1])
        }
        FloatOp::Concat(a) => concat_shape(a.axis, operands),
        FloatOp::Slice(a) => slice_shape(a, one(operands)?),
        FloatOp::MaxPool(w) | FloatOp::AvgPool(w) => {
            let [n, c, h, wd] = one(operands)?.dims4()?;
            let [oh, ow] = w.out_size([h, wd])?;
            Shape::new([n, c, oh, ow])
        }
        FloatOp::ReduceMean(a) | FloatOp::ReduceMax(a) | FloatOp::ReduceSum(a) => {
            reduce_shape(a, one(operands)?)
        }
        FloatOp::Reshape(a) => reshape_shape(a, one(operands)?),
        FloatOp::Transpose(a) => transpose_shape(a, one(operands)?),
        FloatOp::Pad(a) => pad_shape(&a.before, &a.after, one(operands)?),
        FloatOp::Resize(a) => {
            let [n, c, ..] = one(operands)?.dims4()?;
            ensure!(
                a.scale.iter().all(|s| s.is_finite() && *s > 0.0),
                "resize scales {:?} must be positive",
                a.scale
            );
            Shape::new([n, c, a.size[0], a.size[1]])
        }
        FloatOp::Softmax(a) => {
            let x = one(operands)?;
            ensure!(a.axis < x.rank(), "axis {} is outside {x}", a.axis);
            Ok(x.clone())
        }
        FloatOp::DepthToSpace(a) => {
            let [n, c, h, w] = one(operands)?.dims4()?;
            let b = a.block;
            ensure!(b > 0 && b <= c && c % (b * b) == 0, "block {b} does not divide {c} channels");
            Shape::new([n, c / (b * b), h * b, w * b])
        }
    }
}

/// Shape of the result of an integer operator.
///
/// # Errors
/// As [`float_shape`].
pub fn int_shape(op: &IntOp, operands: &[&Shape]) -> Result<Shape> {
    match op {
        IntOp::Input | IntOp::Const(_) => bail!("inputs and constants declare their shape"),
        IntOp::Conv(a) => {
            let (x, w) = conv_operands(operands)?;
            ensure!(operands.len() == 3, "an integer convolution has a bias");
            let [n, h, wd, c] = x.dims4()?;
            let [o, kh, kw, cg] = w.dims4()?;
            check_groups(a.window.groups, c, o, cg)?;
            check_channels(&a.requant, o)?;
            let [oh, ow] = a.window.out_size([h, wd], [kh, kw])?;
            Shape::new([n, oh, ow, o])
        }
        IntOp::Linear(a) => {
            ensure!(operands.len() == 3, "an integer linear layer has a bias");
            let shape = linear_shape(operands)?;
            check_channels(&a.requant, shape[1])?;
            Ok(shape)
        }
        IntOp::Add(_) => {
            count(operands, 2..=2)?;
            operands[0].broadcast(operands[1])
        }
        IntOp::Mul(a) => {
            count(operands, 2..=2)?;
            check_channels(&a.requant, 1)?;
            operands[0].broadcast(operands[1])
        }
        IntOp::Requant(a) => {
            check_channels(&a.requant, 1)?;
            one(operands).cloned()
        }
        IntOp::Lut(_) => {
            count(operands, 2..=2)?;
            let (x, table) = (operands[0], operands[1]);
            let channels = x.last().copied().unwrap_or(1);
            ensure!(
                table[..] == [1, 256] || table[..] == [channels, 256],
                "a table over {channels} channels has shape [1,256] or [{channels},256], got {table}"
            );
            Ok(x.clone())
        }
        IntOp::MaxPool(w) => pool_shape(w, one(operands)?),
        IntOp::AvgPool(a) => {
            let cells = a.window.kernel[0] * a.window.kernel[1];
            ensure!(
                a.requant.mult.len() == cells,
                "an average over {cells} cells has as many dyadic numbers, got {}",
                a.requant.mult.len()
            );
            pool_shape(&a.window, one(operands)?)
        }
        IntOp::Concat(a) => concat_shape(a.axis, operands),
        IntOp::Slice(a) => {
            ensure!(a.step.iter().all(|s| *s > 0), "integer slices have positive steps, got {:?}", a.step);
            slice_shape(a, one(operands)?)
        }
        IntOp::Pad(a) => pad_shape(&a.before, &a.after, one(operands)?),
        IntOp::Reshape(a) => reshape_shape(a, one(operands)?),
        IntOp::Transpose(a) => transpose_shape(a, one(operands)?),
        IntOp::ResizeNearest(a) => {
            let [n, h, w, c] = one(operands)?.dims4()?;
            ensure!(
                a.rows.iter().all(|r| *r < h) && a.columns.iter().all(|r| *r < w),
                "resize index is outside the operand"
            );
            Shape::new([n, a.rows.len(), a.columns.len(), c])
        }
        IntOp::ResizeLinear(a) => {
            let [n, h, w, c] = one(operands)?.dims4()?;
            let fits = |taps: &[int::Tap], len| {
                taps.iter().all(|t| t.low < len && t.high < len && (0..=2048).contains(&t.weight))
            };
            ensure!(
                fits(&a.rows, h) && fits(&a.columns, w),
                "resize tap is outside the operand or of weight above 2048"
            );
            Shape::new([n, a.rows.len(), a.columns.len(), c])
        }
        IntOp::Softmax(_) => {
            count(operands, 2..=2)?;
            ensure!(operands[0].rank() >= 1, "softmax needs rank 1 or more");
            ensure!(operands[1][..] == [256], "the table of softmax has shape [256], got {}", operands[1]);
            Ok(operands[0].clone())
        }
    }
}

fn count(operands: &[&Shape], range: std::ops::RangeInclusive<usize>) -> Result<()> {
    ensure!(range.contains(&operands.len()), "expected {range:?} operands, got {}", operands.len());
    Ok(())
}

fn one<'a>(operands: &[&'a Shape]) -> Result<&'a Shape> {
    count(operands, 1..=1)?;
    Ok(operands[0])
}

/// x and w of a convolution; checks the bias, whose length is w's first dimension in both layouts.
fn conv_operands<'a>(operands: &[&'a Shape]) -> Result<(&'a Shape, &'a Shape)> {
    count(operands, 2..=3)?;
    let (x, w) = (operands[0], operands[1]);
    if let Some(b) = operands.get(2) {
        ensure!(w.rank() == 4 && b[..] == [w[0]], "bias {b} does not fit the weight {w}");
    }
    Ok((x, w))
}

fn check_groups(groups: usize, c: usize, o: usize, cg: usize) -> Result<()> {
    ensure!(
        groups > 0 && c.is_multiple_of(groups) && o.is_multiple_of(groups),
        "{groups} groups do not divide {c} input and {o} output channels"
    );
    ensure!(c / groups == cg, "the weight has {cg} input channels, the operand {c} in {groups} groups");
    Ok(())
}

fn check_channels(requant: &crate::Requant, channels: usize) -> Result<()> {
    let n = requant.mult.len();
    ensure!(n == 1 || n == channels, "{n} dyadic numbers for {channels} channels");
    Ok(())
}

fn linear_shape(operands: &[&Shape]) -> Result<Shape> {
    count(operands, 2..=3)?;
    let (x, w) = (operands[0], operands[1]);
    ensure!(
        x.rank() == 2 && w.rank() == 2 && x[1] == w[1],
        "linear of x {x} and w {w}: expected [M,K] and [N,K]"
    );
    if let Some(b) = operands.get(2) {
        ensure!(b[..] == [w[0]], "bias {b} does not fit the weight {w}");
    }
    Shape::new([x[0], w[0]])
}

fn concat_shape(axis: usize, operands: &[&Shape]) -> Result<Shape> {
    ensure!(!operands.is_empty(), "concat needs at least one operand");
    let first = operands[0];
    ensure!(axis < first.rank(), "axis {axis} is outside {first}");
    let mut dims = first.to_vec();
    for s in &operands[1..] {
        let fits = s.rank() == first.rank() && (0..s.rank()).all(|i| i == axis || s[i] == first[i]);
        ensure!(fits, "cannot concat {first} and {s} along axis {axis}");
        dims[axis] += s[axis];
    }
    Shape::new(dims)
}

fn slice_shape(a: &float::Slice, x: &Shape) -> Result<Shape> {
    let rank = x.rank();
    ensure!(
        a.start.len() == rank && a.step.len() == rank && a.size.len() == rank,
        "a slice of {x} needs {rank} starts, steps and sizes"
    );
    for i in 0..rank {
        ensure!(
            a.size[i] > 0 && a.start[i] < x[i] && a.step[i] != 0,
            "slice is outside dimension {i} of {x}"
        );
        let last = i64::try_from(a.size[i] - 1).ok().and_then(|n| n.checked_mul(a.step[i]));
        let last = last.and_then(|d| d.checked_add(a.start[i] as i64));
        ensure!(last.is_some_and(|l| (0..x[i] as i64).contains(&l)), "slice is outside dimension {i} of {x}");
    }
    Shape::new(&a.size[..])
}

fn reduce_shape(a: &float::Reduce, x: &Shape) -> Result<Shape> {
    ensure!(a.axes.windows(2).all(|w| w[0] < w[1]), "axes {:?} must ascend", a.axes);
    ensure!(a.axes.iter().all(|i| *i < x.rank()), "axes {:?} are outside {x}", a.axes);
    let dims: Vec<usize> = (0..x.rank())
        .filter(|i| a.keep_dims || !a.axes.contains(i))
        .map(|i| if a.axes.contains(&i) { 1 } else { x[i] })
        .collect();
    Shape::new(dims)
}

fn reshape_shape(a: &float::Reshape, x: &Shape) -> Result<Shape> {
    let shape = Shape::new(&a.shape[..])?;
    ensure!(shape.count() == x.count(), "cannot reshape {x} to {shape}");
    Ok(shape)
}

fn transpose_shape(a: &float::Transpose, x: &Shape) -> Result<Shape> {
    let mut sorted = a.perm.clone();
    sorted.sort_unstable();
    ensure!(
        sorted.iter().copied().eq(0..x.rank()),
        "{:?} is not a permutation of the dimensions of {x}",
        a.perm
    );
    Shape::new(a.perm.iter().map(|p| x[*p]).collect::<Vec<_>>())
}

fn pad_shape(before: &[usize], after: &[usize], x: &Shape) -> Result<Shape> {
    ensure!(
        before.len() == x.rank() && after.len() == x.rank(),
        "padding of {x} needs {} values on each side",
        x.rank()
    );
    let mut dims = Vec::with_capacity(x.rank());
    for i in 0..x.rank() {
        match before[i].checked_add(after[i]).and_then(|p| p.checked_add(x[i])) {
            Some(d) => dims.push(d),
            None => bail!("padding of dimension {i} is too large"),
        }
    }
    Shape::new(dims)
}

fn pool_shape(w: &crate::op::window::PoolWindow, x: &Shape) -> Result<Shape> {
    let [n, h, wd, c] = x.dims4()?;
    let [oh, ow] = w.out_size([h, wd])?;
    Shape::new([n, oh, ow, c])
}
