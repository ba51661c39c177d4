//! Reads the relocatable object: sections by class, symbols, relocations.
use super::{defect, eh_frame};
use crate::Result;
use object::{
    Architecture, Object, ObjectSection, ObjectSymbol, RelocationFlags, RelocationTarget, SectionFlags,
    SymbolKind, SymbolScope, elf,
};
use std::collections::BTreeMap;

/// Processor of the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// x86-64, pages of 4 KiB.
    X86_64,
    /// AArch64, pages of up to 64 KiB.
    Aarch64,
}

/// Where a section goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Constants.
    Rodata,
    /// Unwind tables.
    EhFrame,
    /// Code.
    Text,
    /// Initialised variables.
    Data,
    /// Zeroed variables.
    Bss,
}

impl Class {
    /// Name of the output section.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rodata => ".rodata",
            Self::EhFrame => ".eh_frame",
            Self::Text => ".text",
            Self::Data => ".data",
            Self::Bss => ".bss",
        }
    }
}

/// A section that is part of the library.
pub struct Section<'a> {
    /// Where it goes.
    pub class: Class,
    /// Offset in the output section of its class.
    pub offset: u64,
    /// Contents; empty for [`Class::Bss`].
    pub data: &'a [u8],
    /// References to resolve.
    pub relocations: Vec<Relocation>,
}

/// A reference to resolve.
pub struct Relocation {
    /// Offset in the section.
    pub offset: u64,
    /// ELF relocation type of the machine.
    pub kind: u32,
    /// Index of the section referred to.
    pub section: usize,
    /// Offset in that section, addend included.
    pub target: i64,
}

/// A defined symbol.
pub struct Symbol<'a> {
    /// Name.
    pub name: &'a str,
    /// Index of its section.
    pub section: usize,
    /// Offset in that section.
    pub offset: u64,
    /// Size in bytes.
    pub size: u64,
    /// STT_FUNC, STT_OBJECT or STT_NOTYPE.
    pub kind: u8,
    /// Whether the library exports it.
    pub exported: bool,
}

/// Size and alignment of an output section.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Bytes.
    pub size: u64,
    /// Alignment in bytes.
    pub align: u64,
}

impl Default for Extent {
    fn default() -> Self {
        Self { size: 0, align: 1 }
    }
}

/// The object.
pub struct Input<'a> {
    /// Processor.
    pub machine: Machine,
    /// Sections by their index in the object.
    pub sections: BTreeMap<usize, Section<'a>>,
    /// Defined symbols with a name, in the order of the object.
    pub symbols: Vec<Symbol<'a>>,
    /// Output sections.
    pub extents: BTreeMap<Class, Extent>,
}

impl<'a> Input<'a> {
    pub fn read(object: &'a [u8]) -> Result<Self> {
        let file = object::read::elf::ElfFile64::<object::Endianness>::parse(object)
            .map_err(|e| defect(format!("the object cannot be read: {e}")))?;
        let machine = match file.architecture() {
            Architecture::X86_64 => Machine::X86_64,
            Architecture::Aarch64 => Machine::Aarch64,
            other => return Err(defect(format!("no support for {other:?}"))),
        };
        let mut input =
            Self { machine, sections: BTreeMap::new(), symbols: Vec::new(), extents: BTreeMap::new() };
        for section in file.sections() {
            input.add_section(&section)?;
        }
        input.add_symbols(&file)?;
        for section in file.sections() {
            input.add_relocations(&file, &section)?;
        }
        Ok(input)
    }

    fn add_section<S: ObjectSection<'a>>(&mut self, section: &S) -> Result<()> {
        let name = section.name().map_err(|e| defect(e.to_string()))?;
        let Some(class) = classify(name, section)? else { return Ok(()) };
        let mut data = section.data().map_err(|e| defect(format!("section {name}: {e}")))?;
        if class == Class::EhFrame {
            data = eh_frame::records(data)?;
        }
        let size = if class == Class::Bss { section.size() } else { data.len() as u64 };
        let align = section.align().max(1);
        if !align.is_power_of_two() || align > 4096 {
            return Err(defect(format!("section {name} is aligned to {align} bytes, more than a page")));
        }
        let extent = self.extents.entry(class).or_default();
        let offset = extent.size.next_multiple_of(align);
        *extent = Extent { size: offset + size, align: extent.align.max(align) };
        self.sections.insert(section.index().0, Section { class, offset, data, relocations: Vec::new() });
        Ok(())
    }

    fn add_symbols<F: Object<'a>>(&mut self, file: &F) -> Result<()> {
        let mut undefined = Vec::new();
        for symbol in file.symbols() {
            let name = symbol.name().map_err(|e| defect(e.to_string()))?;
            let kind = match symbol.kind() {
                SymbolKind::Text => elf::STT_FUNC,
                SymbolKind::Data => elf::STT_OBJECT,
                SymbolKind::Label | SymbolKind::Unknown => elf::STT_NOTYPE,
                SymbolKind::Section | SymbolKind::File => continue,
                other => return Err(defect(format!("symbol {name} is of kind {other:?}"))),
            };
            if symbol.is_undefined() {
                if !name.is_empty() {
                    undefined.push(name);
                }
                continue;
            }
            let section = symbol.section_index().map(|s| s.0);
            let Some(section) = section.filter(|s| self.sections.contains_key(s) && !name.is_empty()) else {
                continue;
            };
            let exported = symbol.is_global() && symbol.scope() == SymbolScope::Dynamic;
            if !exported && self.sections.get(&section).is_some_and(|s| self.extent(s.class).is_none()) {
                continue; // A marker in an output section that does not exist.
            }
            let (offset, size) = (symbol.address(), symbol.size());
            self.symbols.push(Symbol { name, section, offset, size, kind, exported });
        }
        if !undefined.is_empty() {
            return Err(defect(format!("undefined symbols: {}", undefined.join(", "))));
        }
        Ok(())
    }

    fn add_relocations<F: Object<'a>, S: ObjectSection<'a>>(&mut self, file: &F, section: &S) -> Result<()> {
        if !self.sections.contains_key(&section.index().0) {
            return Ok(());
        }
        let mut relocations = Vec::new();
        for (offset, relocation) in section.relocations() {
            let RelocationFlags::Elf { r_type: kind } = relocation.flags() else {
                return Err(defect("a relocation is not of ELF"));
            };
            let target = match relocation.target() {
                RelocationTarget::Symbol(index) => {
                    let symbol = file.symbol_by_index(index).map_err(|e| defect(e.to_string()))?;
                    symbol.section_index().map(|s| (s.0, symbol.address()))
                }
                RelocationTarget::Section(index) => Some((index.0, 0)),
                _ => None,
            };
            let target = target.filter(|(section, _)| self.sections.contains_key(section));
            let Some((to, base)) = target else {
                return Err(defect(format!(
                    "the relocation at {offset:#x} in {} refers to nothing that is part of the library",
                    section.name().unwrap_or_default()
                )));
            };
            let target = base as i64 + relocation.addend();
            relocations.push(Relocation { offset, kind, section: to, target });
        }
        if let Some(s) = self.sections.get_mut(&section.index().0) {
            s.relocations = relocations;
        }
        Ok(())
    }

    /// Size and alignment of an output section, `None` if it is empty.
    pub fn extent(&self, class: Class) -> Option<Extent> {
        self.extents.get(&class).copied().filter(|e| e.size > 0)
    }
}

/// Where a section goes; `None` for what is not loaded, such as debug information, and for notes.
fn classify<'a, S: ObjectSection<'a>>(name: &str, section: &S) -> Result<Option<Class>> {
    let SectionFlags::Elf { sh_flags } = section.flags() else { return Ok(None) };
    let has = |flag: u32| sh_flags & u64::from(flag) != 0;
    if !has(elf::SHF_ALLOC) || name.starts_with(".note") {
        return Ok(None);
    }
    if has(elf::SHF_TLS) {
        return Err(defect(format!("section {name} is thread-local")));
    }
    Ok(Some(match section.kind() {
        _ if name == ".eh_frame" => Class::EhFrame,
        object::SectionKind::UninitializedData => Class::Bss,
        _ if has(elf::SHF_EXECINSTR) => Class::Text,
        _ if has(elf::SHF_WRITE) => Class::Data,
        _ => Class::Rodata,
    }))
}
