//! Typed access to the attributes of a node.
use super::{
    proto::{AttributeProto, AttributeType, NodeProto, TensorProto},
    refusal::{Refusal, Result, malformed},
};

/// The attributes of a node.
#[derive(Clone, Copy)]
pub struct Attrs<'a>(pub &'a NodeProto);

impl<'a> Attrs<'a> {
    fn get(self, name: &str, kind: AttributeType) -> Result<Option<&'a AttributeProto>> {
        let Some(a) = self.0.attribute.iter().find(|a| a.name == name) else { return Ok(None) };
        // Files of IR version 1 leave the type out.
        if a.r#type == kind as i32 || a.r#type == 0 {
            Ok(Some(a))
        } else {
            let is =
                AttributeType::try_from(a.r#type).map_or_else(|_| "unknown".into(), |t| format!("{t:?}"));
            Err(malformed(format!("attribute {name:?} has type {is}, expected {kind:?}")))
        }
    }

    /// Whether the attribute is there, whatever its type.
    pub fn has(self, name: &str) -> bool {
        self.0.attribute.iter().any(|a| a.name == name)
    }

    /// An integer.
    pub fn int(self, name: &str) -> Result<Option<i64>> {
        Ok(self.get(name, AttributeType::Int)?.map(|a| a.i))
    }

    /// A truth value.
    pub fn flag(self, name: &str, default: bool) -> Result<bool> {
        Ok(self.int(name)?.map_or(default, |i| i != 0))
    }

    /// A float.
    pub fn float(self, name: &str, default: f32) -> Result<f32> {
        let v = self.get(name, AttributeType::Float)?.map_or(default, |a| a.f);
        match v.is_nan() {
            false => Ok(v),
            true => Err(Refusal {
                code: crate::Code::NON_FINITE,
                ..malformed(format!("attribute {name:?} is NaN"))
            }),
        }
    }

    /// A string.
    pub fn string(self, name: &str, default: &'static str) -> Result<&'a str> {
        match self.get(name, AttributeType::String)? {
            None => Ok(default),
            Some(a) => {
                std::str::from_utf8(&a.s).map_err(|_| malformed(format!("attribute {name:?} is not UTF-8")))
            }
        }
    }

    /// Integers.
    pub fn ints(self, name: &str) -> Result<Option<&'a [i64]>> {
        Ok(self.get(name, AttributeType::Ints)?.map(|a| a.ints.as_slice()))
    }

    /// Floats.
    pub fn floats(self, name: &str) -> Result<Option<&'a [f32]>> {
        Ok(self.get(name, AttributeType::Floats)?.map(|a| a.floats.as_slice()))
    }

    /// A tensor.
    pub fn tensor(self, name: &str) -> Result<Option<&'a TensorProto>> {
        Ok(self.get(name, AttributeType::Tensor)?.and_then(|a| a.t.as_ref()))
    }

    /// Counts, such as strides; `N` of them.
    pub fn sizes<const N: usize>(self, name: &str, default: usize) -> Result<[usize; N]> {
        match self.ints(name)? {
            None => Ok([default; N]),
            Some(v) => sizes(v)
                .and_then(|v| v.try_into().ok())
                .ok_or_else(|| malformed(format!("attribute {name:?} is {v:?}, expected {N} counts"))),
        }
    }
}

/// Integers as counts; `None` if one is negative.
pub fn sizes(values: &[i64]) -> Option<Vec<usize>> {
    values.iter().map(|v| usize::try_from(*v).ok()).collect()
}

/// An axis, counted from the end if negative.
pub fn axis(value: i64, rank: usize) -> Result<usize> {
    let from_start = if value < 0 { value.saturating_add(rank as i64) } else { value };
    usize::try_from(from_start)
        .ok()
        .filter(|a| *a < rank)
        .ok_or_else(|| malformed(format!("axis {value} is outside rank {rank}")))
}

/// Distinct axes in ascending order.
pub fn axes(values: &[i64], rank: usize) -> Result<Vec<usize>> {
    let mut out = values.iter().map(|a| axis(*a, rank)).collect::<Result<Vec<_>>>()?;
    out.sort_unstable();
    match out.windows(2).any(|w| w[0] == w[1]) {
        false => Ok(out),
        true => Err(malformed(format!("axes {values:?} repeat"))),
    }
}
