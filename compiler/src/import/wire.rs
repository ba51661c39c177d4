//! A scan of the protobuf wire format before decoding.
//!
//! It bounds what decoding will allocate (a two-byte empty node becomes a struct a hundred times larger) and says at
//! which byte a damaged file goes wrong, which prost does not. It follows only the messages in [`Kind`]; other fields
//! are skipped by their length. Wire format: <https://protobuf.dev/programming-guides/encoding/>.
use super::limits::{Limits, over};
use crate::{Code, Error, Result};

/// Messages whose fields matter here.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Value,
    /// Any other message: its own fields are counted, not followed.
    Small,
}

/// What a length-delimited field holds.
enum Field {
    Message(Kind),
    Name,
    Data,
}

fn field(kind: Kind, number: u64) -> Field {
    use Field::{Data, Message, Name};
    match (kind, number) {
        (Kind::Model, 7) => Message(Kind::Graph),
        (Kind::Model, 8 | 25) => Message(Kind::Small),
        (Kind::Model, 2 | 3) => Name,
        (Kind::Graph, 1) => Message(Kind::Node),
        (Kind::Graph, 5) => Message(Kind::Tensor),
        (Kind::Graph, 11..=13) => Message(Kind::Value),
        (Kind::Graph, 15) => Message(Kind::Small),
        (Kind::Graph, 2) => Name,
        (Kind::Node, 5) => Message(Kind::Attribute),
        (Kind::Node, 1..=4 | 7) => Name,
        (Kind::Attribute, 5) => Message(Kind::Tensor),
        (Kind::Attribute, 6 | 11) => Message(Kind::Small),
        (Kind::Attribute, 1) => Name,
        (Kind::Tensor, 13) => Message(Kind::Small),
        (Kind::Tensor, 8) => Name,
        (Kind::Value, 2) => Message(Kind::Small),
        (Kind::Value, 1) => Name,
        _ => Data,
    }
}

struct Scan<'a> {
    bytes: &'a [u8],
    limits: &'a Limits,
    nodes: usize,
    items: usize,
}

/// Checks the structure of a serialised `ModelProto`.
///
/// # Errors
/// [`Code::MODEL`] with the byte position of the damage, or the limit that is broken.
pub fn scan(bytes: &[u8], limits: &Limits) -> Result<()> {
    Scan { bytes, limits, nodes: 0, items: 0 }.message(Kind::Model, 0, bytes.len(), 0)
}

impl Scan<'_> {
    fn message(&mut self, kind: Kind, mut at: usize, end: usize, depth: usize) -> Result<()> {
        if depth > self.limits.nesting {
            return Err(over("nesting", depth as u64, self.limits.nesting as u64, "messages"));
        }
        while at < end {
            let start = at;
            let key = self.varint(&mut at, end)?;
            let number = key >> 3;
            if number == 0 || number > u64::from(u32::MAX >> 3) {
                return Err(damaged(start, format!("field number {number} is not possible")));
            }
            match key & 7 {
                0 => {
                    self.varint(&mut at, end)?;
                    // Values of repeated fields that are written one by one.
                    self.count_items(1)?;
                }
                1 => at = self.skip(start, at, 8, end)?,
                2 => {
                    let len = self.varint(&mut at, end)?;
                    let next = self.skip(start, at, len, end)?;
                    self.delimited(kind, number, (start, at, next), depth)?;
                    at = next;
                }
                5 => at = self.skip(start, at, 4, end)?,
                other => return Err(damaged(start, format!("wire type {other} is not used by ONNX"))),
            }
        }
        Ok(())
    }

    fn delimited(
        &mut self,
        kind: Kind,
        number: u64,
        (start, at, end): (usize, usize, usize),
        depth: usize,
    ) -> Result<()> {
        match field(kind, number) {
            Field::Message(child) => {
                if child == Kind::Node {
                    self.nodes += 1;
                    if self.nodes > self.limits.nodes {
                        return Err(over(
                            "number of nodes",
                            self.nodes as u64,
                            self.limits.nodes as u64,
                            "nodes",
                        ));
                    }
                } else {
                    self.count_items(1)?;
                }
                self.message(child, at, end, depth + 1)
            }
            Field::Name => {
                self.count_items(1)?;
                if end - at > self.limits.string_bytes {
                    return Err(over("name", (end - at) as u64, self.limits.string_bytes as u64, "bytes")
                        .at(byte(start)));
                }
                match std::str::from_utf8(&self.bytes[at..end]) {
                    Ok(_) => Ok(()),
                    Err(e) => Err(damaged(at + e.valid_up_to(), "a name is not UTF-8")),
                }
            }
            Field::Data => self.count_items(1),
        }
    }

    fn count_items(&mut self, n: usize) -> Result<()> {
        // Twelve: the items a real node has (names, attributes with their parts), generously.
        let limit = self.limits.items.saturating_mul(12);
        self.items += n;
        if self.items > limit {
            return Err(over("number of fields", self.items as u64, limit as u64, "fields"));
        }
        Ok(())
    }

    fn skip(&self, start: usize, at: usize, len: u64, end: usize) -> Result<usize> {
        let left = (end - at) as u64;
        if len > left {
            return Err(damaged(start, format!("a field of {len} bytes, but only {left} are left")));
        }
        Ok(at + len as usize)
    }

    fn varint(&self, at: &mut usize, end: usize) -> Result<u64> {
        let start = *at;
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let Some(b) = self.bytes[..end].get(*at) else {
                return Err(damaged(start, "the file ends inside a number"));
            };
            *at += 1;
            value |= u64::from(b & 0x7f) << shift;
            if b & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(damaged(start, "a number is longer than 64 bits"))
    }
}

fn byte(position: usize) -> String {
    format!("byte {position}")
}

fn damaged(position: usize, reason: impl Into<String>) -> Error {
    Error::new(Code::MODEL, "the model cannot be decoded")
        .at(byte(position))
        .because(reason)
        .help("check that the file is an ONNX model and is complete")
}
