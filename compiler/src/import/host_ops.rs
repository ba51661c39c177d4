//! Arithmetic on constants: what the shape computations of exporters need, and nothing about graphs.
//!
//! Results are bounded by the caller's budget before they are allocated ([`super::cx::Cx::host`] charges it).
use super::host::{Data, Elem, Host};

/// Reasons are texts for the user.
pub type Result<T> = std::result::Result<T, String>;

/// Row-major strides.
fn strides(dims: &[usize]) -> Vec<usize> {
    let mut s = vec![1; dims.len()];
    for i in (1..dims.len()).rev() {
        s[i - 1] = s[i] * dims[i];
    }
    s
}

/// The result shape of numpy broadcasting.
pub fn broadcast_dims(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |d: &[usize], i: usize| (i + d.len()).checked_sub(rank).map_or(1, |j| d[j]);
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(format!("shapes {a:?} and {b:?} do not broadcast")),
        })
        .collect()
}

/// Source index of every element of `dims`, read with the given strides from `base`.
fn walk(dims: &[usize], strides: &[isize], base: isize) -> Vec<usize> {
    let count: usize = dims.iter().product();
    let mut out = Vec::with_capacity(count);
    let mut index = vec![0usize; dims.len()];
    let mut at = base;
    for _ in 0..count {
        out.push(at as usize);
        for i in (0..dims.len()).rev() {
            index[i] += 1;
            at += strides[i];
            if index[i] < dims[i] {
                break;
            }
            at -= strides[i] * dims[i] as isize;
            index[i] = 0;
        }
    }
    out
}

fn pick(x: &Host, dims: Vec<usize>, indices: &[usize]) -> Host {
    let data = match &x.data {
        Data::Float(v) => Data::Float(indices.iter().map(|i| v[*i]).collect()),
        Data::Int(v) => Data::Int(indices.iter().map(|i| v[*i]).collect()),
    };
    Host { elem: x.elem, dims, data }
}

/// Strides with which `dims` is read as the broadcast shape `target`.
fn broadcast_strides(dims: &[usize], target: &[usize]) -> Vec<isize> {
    let skip = target.len() - dims.len();
    let own = strides(dims);
    (0..target.len())
        .map(|i| if i < skip || dims[i - skip] == 1 { 0 } else { own[i - skip] as isize })
        .collect()
}

/// numpy `broadcast_to`. The target must be the result of [`broadcast_dims`] with `x`.
pub fn expand(x: &Host, target: &[usize]) -> Host {
    if x.dims == target {
        return x.clone();
    }
    pick(x, target.to_vec(), &walk(target, &broadcast_strides(&x.dims, target), 0))
}

/// The same values under other dimensions.
pub fn reshape(x: &Host, dims: Vec<usize>) -> Result<Host> {
    match dims.iter().product::<usize>() == x.count() {
        true => Ok(Host { dims, ..x.clone() }),
        false => Err(format!("cannot reshape {:?} to {dims:?}", x.dims)),
    }
}

/// Permuted dimensions.
pub fn transpose(x: &Host, perm: &[usize]) -> Host {
    let own = strides(&x.dims);
    let dims: Vec<usize> = perm.iter().map(|p| x.dims[*p]).collect();
    let steps: Vec<isize> = perm.iter().map(|p| own[*p] as isize).collect();
    let indices = walk(&dims, &steps, 0);
    pick(x, dims, &indices)
}

/// `start + i·step` along every dimension; the caller has checked the bounds.
pub fn slice(x: &Host, start: &[usize], step: &[i64], size: &[usize]) -> Host {
    let own = strides(&x.dims);
    let base: usize = start.iter().zip(&own).map(|(s, o)| s * o).sum();
    let steps: Vec<isize> = step.iter().zip(&own).map(|(s, o)| *s as isize * *o as isize).collect();
    pick(x, size.to_vec(), &walk(size, &steps, base as isize))
}

/// ONNX Gather; negative indices count from the end.
pub fn gather(x: &Host, indices: &Host, axis: usize) -> Result<Host> {
    let len = x.dims[axis];
    let ints = indices.as_ints().ok_or("indices must be integers")?;
    let mut at = Vec::with_capacity(ints.len());
    for i in ints {
        let j = if *i < 0 { i.saturating_add(len as i64) } else { *i };
        match usize::try_from(j) {
            Ok(j) if j < len => at.push(j),
            _ => return Err(format!("index {i} is outside dimension {axis} of {:?}", x.dims)),
        }
    }
    let inner: usize = x.dims[axis + 1..].iter().product();
    let outer: usize = x.dims[..axis].iter().product();
    let source: Vec<usize> = (0..outer)
        .flat_map(|o| at.iter().map(move |j| (o * len + j) * inner))
        .flat_map(|first| first..first + inner)
        .collect();
    let dims = [&x.dims[..axis], &indices.dims, &x.dims[axis + 1..]].concat();
    Ok(pick(x, dims, &source))
}

/// Joins along an axis.
pub fn concat(parts: &[Host], axis: usize) -> Result<Host> {
    let first = parts.first().ok_or("nothing to concatenate")?;
    let mut dims = first.dims.clone();
    for p in &parts[1..] {
        let fits = p.dims.len() == dims.len() && (0..dims.len()).all(|i| i == axis || p.dims[i] == dims[i]);
        if !fits || p.elem != first.elem {
            return Err(format!("cannot concatenate {:?} and {:?} along axis {axis}", first.dims, p.dims));
        }
        dims[axis] += p.dims[axis];
    }
    let outer: usize = first.dims[..axis].iter().product();
    let rows = |p: &Host| p.dims[axis..].iter().product::<usize>();
    let data = if first.elem == Elem::Float {
        let values: Vec<&Arc32> = parts.iter().filter_map(Host::as_floats).collect();
        let sizes: Vec<usize> = parts.iter().map(rows).collect();
        Data::Float(interleave(outer, &values.iter().map(|v| &v[..]).collect::<Vec<_>>(), &sizes).into())
    } else {
        let values: Vec<&[i64]> = parts.iter().filter_map(Host::as_ints).collect();
        let sizes: Vec<usize> = parts.iter().map(rows).collect();
        Data::Int(interleave(outer, &values, &sizes).into())
    };
    Ok(Host { elem: first.elem, dims, data })
}

type Arc32 = std::sync::Arc<[f32]>;

fn interleave<T: Copy>(outer: usize, parts: &[&[T]], sizes: &[usize]) -> Vec<T> {
    let mut out = Vec::with_capacity(parts.iter().map(|p| p.len()).sum());
    for o in 0..outer {
        for (p, n) in parts.iter().zip(sizes) {
            out.extend_from_slice(&p[o * n..(o + 1) * n]);
        }
    }
    out
}

/// Elementwise functions of two constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Two {
    /// a + b
    Add,
    /// a − b
    Sub,
    /// a · b
    Mul,
    /// a / b; integers round towards 0
    Div,
    /// a^b
    Pow,
    /// remainder with the sign of b
    Mod,
    /// remainder with the sign of a
    Rem,
    /// smaller
    Min,
    /// larger
    Max,
    /// a = b
    Equal,
    /// a < b
    Less,
    /// a ≤ b
    LessOrEqual,
    /// a > b
    Greater,
    /// a ≥ b
    GreaterOrEqual,
    /// both
    And,
    /// either
    Or,
}

impl Two {
    fn is_test(self) -> bool {
        matches!(
            self,
            Self::Equal
                | Self::Less
                | Self::LessOrEqual
                | Self::Greater
                | Self::GreaterOrEqual
                | Self::And
                | Self::Or
        )
    }

    fn int(self, a: i64, b: i64) -> Option<i64> {
        Some(match self {
            Self::Add => a.checked_add(b)?,
            Self::Sub => a.checked_sub(b)?,
            Self::Mul => a.checked_mul(b)?,
            Self::Div => a.checked_div(b)?,
            Self::Pow => a.checked_pow(u32::try_from(b).ok()?)?,
            // checked_rem_euclid has the sign of the divisor only for positive divisors.
            Self::Mod => match a.checked_rem(b)? {
                r if r != 0 && (r < 0) != (b < 0) => r + b,
                r => r,
            },
            Self::Rem => a.checked_rem(b)?,
            Self::Min => a.min(b),
            Self::Max => a.max(b),
            Self::Equal => i64::from(a == b),
            Self::Less => i64::from(a < b),
            Self::LessOrEqual => i64::from(a <= b),
            Self::Greater => i64::from(a > b),
            Self::GreaterOrEqual => i64::from(a >= b),
            Self::And => i64::from(a != 0 && b != 0),
            Self::Or => i64::from(a != 0 || b != 0),
        })
    }

    fn float(self, a: f32, b: f32) -> f32 {
        match self {
            Self::Add => a + b,
            Self::Sub => a - b,
            Self::Mul => a * b,
            Self::Div => a / b,
            Self::Pow => a.powf(b),
            Self::Mod => match a % b {
                r if r != 0.0 && (r < 0.0) != (b < 0.0) => r + b,
                r => r,
            },
            Self::Rem => a % b,
            Self::Min => a.min(b),
            Self::Max => a.max(b),
            Self::Equal | Self::Less | Self::LessOrEqual | Self::Greater | Self::GreaterOrEqual => {
                f32::from(u8::from(self.test(a, b)))
            }
            Self::And | Self::Or => f32::NAN,
        }
    }

    fn test(self, a: f32, b: f32) -> bool {
        match self {
            Self::Equal => a == b,
            Self::Less => a < b,
            Self::LessOrEqual => a <= b,
            Self::Greater => a > b,
            Self::GreaterOrEqual => a >= b,
            Self::Add
            | Self::Sub
            | Self::Mul
            | Self::Div
            | Self::Pow
            | Self::Mod
            | Self::Rem
            | Self::Min
            | Self::Max
            | Self::And
            | Self::Or => false,
        }
    }
}

/// Applies a function with broadcasting to operands of one kind (Pow also takes a float base and an integer exponent).
pub fn binary(f: Two, a: &Host, b: &Host) -> Result<Host> {
    let dims = broadcast_dims(&a.dims, &b.dims)?;
    let b = match (f, a.elem, b.elem) {
        (Two::Pow, Elem::Float, Elem::Int) => &cast(b, Elem::Float),
        _ => b,
    };
    let (a, b) = (expand(a, &dims), expand(b, &dims));
    match (&a.data, &b.data) {
        (Data::Float(x), Data::Float(y)) => {
            let values = x.iter().zip(y.iter()).map(|(x, y)| f.float(*x, *y));
            if f.is_test() {
                return Ok(Host {
                    elem: Elem::Bool,
                    dims,
                    data: Data::Int(values.map(|v| v as i64).collect()),
                });
            }
            Ok(Host::floats(dims, values.collect::<Vec<_>>()))
        }
        (Data::Int(x), Data::Int(y)) => {
            let values: Option<Vec<i64>> = x.iter().zip(y.iter()).map(|(x, y)| f.int(*x, *y)).collect();
            let values = values.ok_or("integer overflow or division by zero")?;
            let elem = if f.is_test() { Elem::Bool } else { a.elem };
            Ok(Host { elem, dims, data: Data::Int(values.into()) })
        }
        _ => Err("operands are of different types".into()),
    }
}

/// Applies a function to every float; integers go through `int`, where there is one.
pub fn map(x: &Host, float: impl Fn(f32) -> f32, int: Option<fn(i64) -> Option<i64>>) -> Result<Host> {
    match (&x.data, int) {
        (Data::Float(v), _) => {
            Ok(Host::floats(x.dims.clone(), v.iter().map(|x| float(*x)).collect::<Vec<_>>()))
        }
        (Data::Int(v), Some(int)) => {
            let values: Option<Vec<i64>> = v.iter().map(|x| int(*x)).collect();
            Ok(Host { data: Data::Int(values.ok_or("integer overflow")?.into()), ..x.clone() })
        }
        (Data::Int(_), None) => Err("not defined for integers".into()),
    }
}

/// Converts the kind of the values; floats become integers by truncation.
pub fn cast(x: &Host, to: Elem) -> Host {
    let data = match (&x.data, to) {
        (Data::Float(v), Elem::Int) => Data::Int(v.iter().map(|x| *x as i64).collect()),
        (Data::Float(v), Elem::Bool) => Data::Int(v.iter().map(|x| i64::from(*x != 0.0)).collect()),
        (Data::Int(v), Elem::Bool) => Data::Int(v.iter().map(|x| i64::from(*x != 0)).collect()),
        (Data::Int(v), Elem::Float) => Data::Float(v.iter().map(|x| *x as f32).collect()),
        (Data::Float(_), Elem::Float) | (Data::Int(_), Elem::Int) => x.data.clone(),
    };
    Host { elem: to, dims: x.dims.clone(), data }
}

/// a where the condition holds, b elsewhere.
pub fn select(condition: &Host, a: &Host, b: &Host) -> Result<Host> {
    let dims = broadcast_dims(&broadcast_dims(&condition.dims, &a.dims)?, &b.dims)?;
    let (c, a, b) = (expand(condition, &dims), expand(a, &dims), expand(b, &dims));
    let c = c.as_ints().ok_or("the condition must be of truth values")?;
    let data = match (&a.data, &b.data) {
        (Data::Float(x), Data::Float(y)) => Data::Float(
            c.iter().zip(x.iter().zip(y.iter())).map(|(c, (x, y))| if *c != 0 { *x } else { *y }).collect(),
        ),
        (Data::Int(x), Data::Int(y)) => Data::Int(
            c.iter().zip(x.iter().zip(y.iter())).map(|(c, (x, y))| if *c != 0 { *x } else { *y }).collect(),
        ),
        _ => return Err("operands are of different types".into()),
    };
    Ok(Host { elem: a.elem, dims, data })
}

/// Reductions of constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fold {
    /// Sum.
    Sum,
    /// Product.
    Prod,
    /// Mean.
    Mean,
    /// Largest.
    Max,
    /// Smallest.
    Min,
}

/// Reduces ascending axes.
pub fn reduce(f: Fold, x: &Host, axes: &[usize], keep_dims: bool) -> Result<Host> {
    let kept: Vec<usize> = (0..x.dims.len()).map(|i| if axes.contains(&i) { 1 } else { x.dims[i] }).collect();
    let target = walk(&x.dims, &broadcast_strides(&kept, &x.dims), 0);
    let count: usize = kept.iter().product();
    let group = x.count().checked_div(count).unwrap_or(0);
    if group == 0 {
        return Err("the reduction of nothing".into());
    }
    let two = match f {
        Fold::Sum | Fold::Mean => Two::Add,
        Fold::Prod => Two::Mul,
        Fold::Max => Two::Max,
        Fold::Min => Two::Min,
    };
    let data = match &x.data {
        Data::Float(v) => {
            let mut out: Vec<Option<f32>> = vec![None; count];
            for (x, at) in v.iter().zip(&target) {
                out[*at] = Some(out[*at].map_or(*x, |o| two.float(o, *x)));
            }
            let divisor = if f == Fold::Mean { group as f32 } else { 1.0 };
            Data::Float(out.into_iter().map(|o| o.unwrap_or(0.0) / divisor).collect())
        }
        Data::Int(_) if f == Fold::Mean => return Err("the mean of integers".into()),
        Data::Int(v) => {
            let mut out: Vec<Option<i64>> = vec![None; count];
            for (x, at) in v.iter().zip(&target) {
                out[*at] = Some(match out[*at] {
                    None => *x,
                    Some(o) => two.int(o, *x).ok_or("integer overflow")?,
                });
            }
            Data::Int(out.into_iter().map(|o| o.unwrap_or(0)).collect())
        }
    };
    let dims = match keep_dims {
        true => kept,
        false => (0..x.dims.len()).filter(|i| !axes.contains(i)).map(|i| x.dims[i]).collect(),
    };
    Ok(Host { elem: x.elem, dims, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(values: &[i64]) -> Host {
        Host::vector(values.to_vec())
    }

    #[test]
    fn movement() {
        let x = Host::ints(vec![2, 3], vec![0, 1, 2, 3, 4, 5]);
        assert_eq!(transpose(&x, &[1, 0]), Host::ints(vec![3, 2], vec![0, 3, 1, 4, 2, 5]));
        assert_eq!(slice(&x, &[1, 2], &[-1, -2], &[2, 2]), Host::ints(vec![2, 2], vec![5, 3, 2, 0]));
        assert_eq!(gather(&x, &v(&[-1]), 1).unwrap(), Host::ints(vec![2, 1], vec![2, 5]));
        assert!(gather(&x, &v(&[3]), 1).is_err());
        let joined = concat(&[x.clone(), x.clone()], 1).unwrap();
        assert_eq!(joined, Host::ints(vec![2, 6], vec![0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]));
        assert_eq!(expand(&v(&[7]), &[2, 2]), Host::ints(vec![2, 2], vec![7; 4]));
    }

    #[test]
    fn arithmetic() {
        assert_eq!(binary(Two::Div, &v(&[-7, 7]), &v(&[2])).unwrap(), v(&[-3, 3]));
        assert_eq!(binary(Two::Mod, &v(&[-7, 7]), &v(&[3])).unwrap(), v(&[2, 1]));
        assert!(binary(Two::Div, &v(&[1]), &v(&[0])).is_err());
        assert!(binary(Two::Mul, &v(&[i64::MAX]), &v(&[2])).is_err());
        let x = Host::ints(vec![2, 3], vec![0, 1, 2, 3, 4, 5]);
        assert_eq!(reduce(Fold::Sum, &x, &[1], false).unwrap(), v(&[3, 12]));
        assert_eq!(reduce(Fold::Max, &x, &[0, 1], true).unwrap(), Host::ints(vec![1, 1], vec![5]));
        assert_eq!(cast(&Host::floats(vec![1], vec![-1.7]), Elem::Int), v(&[-1]));
    }
}
