//! `.symtab` and `.strtab`: names of all functions and data for profilers, debuggers and backtraces.
use super::{
    dynamic::StringTable,
    input::{Input, Symbol},
};

/// The symbols, local ones first as ELF demands.
pub struct Symbols<'a> {
    /// Symbols with their offset in `.strtab`.
    pub entries: Vec<(&'a Symbol<'a>, u32)>,
    /// Number of local symbols, the null symbol included.
    pub locals: u32,
    /// `.strtab`.
    pub strings: Vec<u8>,
}

impl<'a> Symbols<'a> {
    pub fn new(input: &'a Input<'a>) -> Self {
        let mut strings = StringTable::default();
        let (globals, locals): (Vec<_>, Vec<_>) = input.symbols.iter().partition(|s| s.exported);
        let count = locals.len() as u32 + 1;
        let entries = locals.into_iter().chain(globals).map(|s| (s, strings.add(s.name))).collect();
        Self { entries, locals: count, strings: strings.0 }
    }

    /// Size of `.symtab` in bytes.
    pub fn size(&self) -> u64 {
        24 * (self.entries.len() as u64 + 1)
    }
}
