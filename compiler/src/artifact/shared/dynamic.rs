//! What the dynamic loader reads: `.dynsym`, `.dynstr`, both hash tables.
use super::{
    defect,
    input::{Input, Symbol},
};
use crate::Result;
use object::elf;

/// Entries of `.dynamic`, DT_NULL included.
pub const DYNAMIC_ENTRIES: usize = 8;

/// The tables. Exported symbols are sorted by name; symbol 0 is the null symbol.
pub struct Tables<'a> {
    /// Exported symbols with their offset in `.dynstr`.
    pub exports: Vec<(&'a Symbol<'a>, u32)>,
    /// `.dynstr`.
    pub strings: Vec<u8>,
    /// Offset of DT_SONAME in `.dynstr`.
    pub soname: u32,
    /// `.hash`.
    pub sysv_hash: Vec<u8>,
    /// `.gnu.hash`.
    pub gnu_hash: Vec<u8>,
}

impl<'a> Tables<'a> {
    pub fn new(input: &'a Input<'a>, soname: &str) -> Result<Self> {
        let mut exported: Vec<&Symbol<'_>> = input.symbols.iter().filter(|s| s.exported).collect();
        exported.sort_by_key(|s| s.name);
        if exported.is_empty() {
            return Err(defect("the object exports no function"));
        }
        let mut strings = StringTable::default();
        let exports: Vec<_> = exported.into_iter().map(|s| (s, strings.add(s.name))).collect();
        let names: Vec<&[u8]> = exports.iter().map(|(s, _)| s.name.as_bytes()).collect();
        Ok(Self {
            soname: strings.add(soname),
            sysv_hash: sysv_hash(names.len()),
            gnu_hash: gnu_hash(&names),
            strings: strings.0,
            exports,
        })
    }

    /// Size of `.dynsym` in bytes.
    pub fn dynsym_size(&self) -> u64 {
        24 * (self.exports.len() as u64 + 1)
    }
}

/// A string table: NUL-terminated strings after an empty one.
pub struct StringTable(pub Vec<u8>);

impl Default for StringTable {
    fn default() -> Self {
        Self(vec![0])
    }
}

impl StringTable {
    /// Appends a string and returns its offset.
    pub fn add(&mut self, text: &str) -> u32 {
        let offset = self.0.len() as u32;
        self.0.extend(text.as_bytes());
        self.0.push(0);
        offset
    }
}

/// `.hash` with one bucket: a library has three symbols. The chain is 1 → 2 → … → 0, so no hash is needed.
fn sysv_hash(symbols: usize) -> Vec<u8> {
    let chain = (1..=symbols as u32).map(|i| if i as usize == symbols { 0 } else { i + 1 });
    words([1, symbols as u32 + 1, 1, 0].into_iter().chain(chain))
}

/// `.gnu.hash` with one bucket and a Bloom filter of one 64-bit word.
fn gnu_hash(names: &[&[u8]]) -> Vec<u8> {
    const SHIFT: u32 = 6;
    let hashes: Vec<u32> = names.iter().map(|n| elf::gnu_hash(n)).collect();
    let bloom = hashes.iter().fold(0u64, |b, h| b | 1 << (h % 64) | 1 << ((h >> SHIFT) % 64));
    let last = hashes.len() - 1;
    let chain = hashes.iter().enumerate().map(|(i, h)| if i == last { h | 1 } else { h & !1 });
    // Buckets, first hashed symbol, Bloom words, shift; the filter; the bucket's first symbol; the chain.
    words([1, 1, 1, SHIFT, bloom as u32, (bloom >> 32) as u32, 1].into_iter().chain(chain))
}

fn words(values: impl Iterator<Item = u32>) -> Vec<u8> {
    values.flat_map(u32::to_le_bytes).collect()
}
