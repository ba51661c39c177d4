//! Slice, Split and Gather: parts of a tensor.
use crate::import::{
    attrs,
    cx::{Cx, Value},
    host_ops,
    refusal::{Result, malformed, unsupported},
};
use goshawk_ir::{
    FloatOp,
    op::float::{self, Axis, Reshape},
};

/// start, step and size along every dimension.
fn whole(dims: &[usize]) -> float::Slice {
    float::Slice { start: vec![0; dims.len()], step: vec![1; dims.len()], size: dims.to_vec() }
}

/// Result `k`: a part of the first operand.
fn part(cx: &mut Cx<'_, '_>, k: usize, s: float::Slice) -> Result<Value> {
    if let Some(host) = cx.constant(0).cloned() {
        cx.builder.charge(&s.size)?;
        return Ok(cx.known_result(k, host_ops::slice(&host, &s.start, &s.step, &s.size)));
    }
    if s.size.contains(&0) {
        return Err(unsupported(format!("a part of size {:?}", s.size))
            .help("empty tensors have no place in a network"));
    }
    let x = cx.operand(0)?;
    cx.emit_result(k, FloatOp::Slice(s), &[x])
}

/// Starts, ends and axes are attributes up to opset 9, operands from 10.
pub fn slice(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let dims = cx.dims(0)?;
    let missing = |what: &str| malformed(format!("the {what} are missing"));
    let starts = cx.ints_attr_or_input("starts", 1)?.ok_or_else(|| missing("starts"))?;
    let ends = cx.ints_attr_or_input("ends", 2)?.ok_or_else(|| missing("ends"))?;
    let axes = cx.ints_attr_or_input("axes", 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = cx.ints(4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return Err(malformed("starts, ends, axes and steps differ in length"));
    }
    attrs::axes(&axes, dims.len())?;
    let mut s = whole(&dims);
    for i in 0..starts.len() {
        let axis = attrs::axis(axes[i], dims.len())?;
        let (start, size) = range(dims[axis], starts[i], ends[i], steps[i])?;
        (s.start[axis], s.step[axis], s.size[axis]) = (start, steps[i], size);
    }
    // A step over a single element may be any; 1 is what passes expect.
    for i in 0..dims.len() {
        if s.size[i] == 1 {
            s.step[i] = 1;
        }
    }
    Ok(vec![part(cx, 0, s)?])
}

/// First index and number of elements of numpy's `start:end:step`.
fn range(len: usize, start: i64, end: i64, step: i64) -> Result<(usize, usize)> {
    let n = len as i64;
    let from_end = |v: i64| if v < 0 { v.saturating_add(n) } else { v };
    let (start, span) = match step {
        0 => return Err(malformed("a step of 0")),
        s if s > 0 => {
            let (a, b) = (from_end(start).clamp(0, n), from_end(end).clamp(0, n));
            (a, b - a)
        }
        _ => {
            let (a, b) = (from_end(start).clamp(0, (n - 1).max(0)), from_end(end).clamp(-1, n - 1));
            (a, a - b)
        }
    };
    let count = if span <= 0 { 0 } else { (span as u64).div_ceil(step.unsigned_abs()) };
    Ok((start as usize, count as usize))
}

/// Sizes are an attribute up to opset 12, an operand from 13; without them the parts are equal.
pub fn split(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let dims = cx.dims(0)?;
    let axis = attrs::axis(cx.attrs.int("axis")?.unwrap_or(0), dims.len())?;
    let results = cx.node.output.len();
    let sizes = match cx.ints_attr_or_input("split", 1)? {
        Some(s) => attrs::sizes(&s).ok_or_else(|| malformed(format!("parts of sizes {s:?}")))?,
        None => {
            let parts = cx.attrs.int("num_outputs")?.unwrap_or(results as i64);
            let parts = usize::try_from(parts).ok().filter(|p| *p > 0 && *p == results);
            let parts = parts.ok_or_else(|| malformed("the number of parts is not that of the results"))?;
            // From opset 18 the last part may be smaller.
            let each = dims[axis].div_ceil(parts);
            (0..parts).map(|i| each.min(dims[axis].saturating_sub(i * each))).collect()
        }
    };
    let total = sizes.iter().try_fold(0usize, |t, s| t.checked_add(*s));
    if sizes.len() != results || total != Some(dims[axis]) {
        return Err(malformed(format!("parts of sizes {sizes:?} of dimension {axis} of {dims:?}")));
    }
    let mut at = 0;
    let mut values = Vec::with_capacity(results);
    for (k, size) in sizes.iter().enumerate() {
        let mut s = whole(&dims);
        (s.start[axis], s.size[axis]) = (at, *size);
        values.push(part(cx, k, s)?);
        at += size;
    }
    Ok(values)
}

/// Of a value that depends on the input: a Slice for every run of indices at one distance, joined.
pub fn gather(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    let dims = cx.dims(0)?;
    let axis = attrs::axis(cx.attrs.int("axis")?.unwrap_or(0), dims.len())?;
    if let Some([x, indices]) = cx.all_constant().as_deref() {
        cx.builder.charge(&[&dims[..axis], &indices.dims, &dims[axis + 1..]].concat())?;
        return cx.fold(host_ops::gather(x, indices, axis)?);
    }
    let indices = cx.ints(1, "the index")?.ok_or_else(|| malformed("the indices are missing"))?;
    let index_dims = cx.dims(1)?;
    let n = dims[axis] as i64;
    let at: Vec<i64> = indices.iter().map(|i| if *i < 0 { i.saturating_add(n) } else { *i }).collect();
    if let Some(i) = at.iter().position(|i| !(0..n).contains(i)) {
        return Err(malformed(format!("index {} is outside dimension {axis} of {dims:?}", indices[i])));
    }
    let runs = runs(&at);
    if runs.is_empty() || runs.len() > MAX_RUNS {
        return Err(unsupported(format!("Gather at {} scattered indices", runs.len()))
            .help("goshawk gathers a few runs of channels, not tables: use Slice, Split or Transpose"));
    }
    let x = cx.operand(0)?;
    let mut parts = Vec::with_capacity(runs.len());
    for (start, step, size) in runs {
        let mut s = whole(&dims);
        (s.start[axis], s.step[axis], s.size[axis]) = (start, step, size);
        parts.push(FloatOp::Slice(s));
    }
    let flat = index_dims.len() == 1;
    if flat && let [only] = &parts[..] {
        return cx.emit(only.clone(), &[x]);
    }
    let parts = parts.into_iter().map(|op| cx.step("part", op, &[x])).collect::<Result<Vec<_>>>()?;
    let joined = match parts[..] {
        [only] => only,
        _ if flat => return cx.emit(FloatOp::Concat(Axis { axis }), &parts),
        _ => cx.step("joined", FloatOp::Concat(Axis { axis }), &parts)?,
    };
    let shape = [&dims[..axis], &index_dims, &dims[axis + 1..]].concat();
    cx.emit(FloatOp::Reshape(Reshape { shape }), &[joined])
}

/// Slices that a Gather may become.
const MAX_RUNS: usize = 64;

/// (start, step, size) of the longest runs of indices at one distance, from the front.
fn runs(at: &[i64]) -> Vec<(usize, i64, usize)> {
    let mut runs = Vec::new();
    let mut rest = at;
    while let Some(first) = rest.first() {
        let step = rest.get(1).map_or(1, |second| second - first);
        let len = match step {
            0 => 1,
            _ => 1 + rest.windows(2).take_while(|w| w[1] - w[0] == step).count(),
        };
        runs.push((*first as usize, if len == 1 { 1 } else { step }, len));
        rest = &rest[len..];
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::{range, runs};

    #[test]
    fn ranges_are_those_of_numpy() {
        for (len, start, end, step, want) in [
            (10, 2, 5, 1, (2, 3)),
            (10, -3, i64::MAX, 1, (7, 3)),
            (10, 0, 10, 3, (0, 4)),
            (10, -1, i64::MIN, -1, (9, 10)),
            (10, 100, 3, -2, (9, 3)),
            (10, 5, 5, 1, (5, 0)),
            (10, 7, 2, 1, (7, 0)),
            (10, i64::MIN, 1000, 1, (0, 10)),
        ] {
            assert_eq!(range(len, start, end, step).unwrap(), want, "{start}:{end}:{step}");
        }
        assert!(range(10, 0, 1, 0).is_err());
    }

    #[test]
    fn indices_fall_into_runs() {
        assert_eq!(runs(&[4, 2, 0]), [(4, -2, 3)]);
        assert_eq!(runs(&[0, 1, 3]), [(0, 1, 2), (3, 1, 1)]);
        assert_eq!(runs(&[5, 5]), [(5, 1, 1), (5, 1, 1)]);
        assert!(runs(&[]).is_empty());
    }
}
