//! Places everything: file offsets and addresses of sections and segments.
//!
//! Segments start at multiples of 4 KiB in the file, so that on machines with such pages no segment maps bytes of
//! another. Addresses are congruent to file offsets modulo the largest page size of the machine, as loading demands.
use super::{
    defect, dynamic, eh_frame,
    input::{Class, Input, Machine},
    symtab::Symbols,
};
use crate::Result;
use object::elf;
use std::{collections::BTreeMap, ops::Range};

/// Distance of segments in the file.
const FILE_PAGE: u64 = 4096;
/// Size of the build-id note: header, name, 20 bytes of hash.
pub const BUILD_ID_SIZE: u64 = 36;

/// A placed range.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Offset in the file.
    pub offset: u64,
    /// Address relative to the load address; 0 for what is not loaded.
    pub address: u64,
    /// Bytes.
    pub size: u64,
}

impl Place {
    /// The range in the file.
    pub fn file_range(&self) -> Range<usize> {
        self.offset as usize..(self.offset + self.size) as usize
    }
}

/// A program header.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// PT_*.
    pub kind: u32,
    /// PF_*.
    pub flags: u32,
    /// File range and address.
    pub place: Place,
    /// Bytes in memory.
    pub memory: u64,
    /// Alignment.
    pub align: u64,
}

/// An output section.
#[derive(Clone, Copy, Debug)]
pub struct OutSection {
    /// Name.
    pub name: &'static str,
    /// SHT_*.
    pub kind: u32,
    /// SHF_*.
    pub flags: u32,
    /// Where.
    pub place: Place,
    /// Alignment.
    pub align: u64,
    /// Name of the section it is linked to, empty if none.
    pub link: &'static str,
    /// Meaning depends on the kind.
    pub info: u32,
    /// Size of an entry, 0 if it is not a table.
    pub entry: u64,
}

/// Where everything is.
pub struct Layout {
    /// Processor.
    pub machine: Machine,
    /// Program headers.
    pub segments: Vec<Segment>,
    /// Output sections in the order of the section header table, without the null one.
    pub sections: Vec<OutSection>,
    /// Output sections that hold input sections.
    pub classes: BTreeMap<Class, Place>,
    /// `.eh_frame_hdr`.
    pub eh_frame_hdr: Option<Place>,
    /// Section header table.
    pub section_headers: Place,
}

impl Layout {
    pub fn new(input: &Input<'_>, tables: &dynamic::Tables<'_>, symbols: &Symbols<'_>) -> Result<Self> {
        let mut b = Builder::new(input);
        b.loaded(input, tables);
        b.unloaded(symbols);
        let total = b.offset.max(b.address);
        if total > i32::MAX as u64 {
            return Err(defect(format!("{total} bytes are more than the 2 GiB that code can address")));
        }
        Ok(b.layout)
    }

    /// `.eh_frame`.
    pub fn eh_frame(&self) -> Option<Place> {
        self.classes.get(&Class::EhFrame).copied()
    }

    /// The section of that name and its index in the section header table.
    pub fn section(&self, name: &str) -> Option<(u32, &OutSection)> {
        self.sections.iter().position(|s| s.name == name).map(|i| (i as u32 + 1, &self.sections[i]))
    }

    /// Place of a section that every library has.
    pub fn place(&self, name: &str) -> Place {
        self.section(name).expect("every library has this section").1.place
    }

    /// Section header index and address of an offset in an input section.
    pub fn resolve(&self, input: &Input<'_>, section: usize, offset: u64) -> Option<(u32, u64)> {
        let section = input.sections.get(&section)?;
        let index = self.section(section.class.name()).map_or(0, |(i, _)| i);
        let place = self.classes.get(&section.class)?;
        Some((index, place.address + section.offset + offset))
    }
}

struct Builder {
    layout: Layout,
    page: u64,
    offset: u64,
    address: u64,
}

impl Builder {
    fn new(input: &Input<'_>) -> Self {
        let page = match input.machine {
            Machine::X86_64 => 4096,
            Machine::Aarch64 => 65536,
        };
        let nowhere = Place { offset: 0, address: 0, size: 0 };
        let layout = Layout {
            machine: input.machine,
            segments: Vec::new(),
            sections: Vec::new(),
            classes: BTreeMap::new(),
            eh_frame_hdr: None,
            section_headers: nowhere,
        };
        Self { layout, page, offset: 0, address: 0 }
    }

    fn loaded(&mut self, input: &Input<'_>, tables: &dynamic::Tables<'_>) {
        let frames = input.extent(Class::EhFrame).is_some();
        let writable = input.extent(Class::Data).is_some() || input.extent(Class::Bss).is_some();
        let headers = 7 + u64::from(frames) + u64::from(writable);
        self.offset = 64 + 56 * headers;
        self.address = self.offset;

        let start = Place { offset: 0, address: 0, size: 0 };
        let note = self.table(".note.gnu.build-id", elf::SHT_NOTE, BUILD_ID_SIZE, 4, "", 0);
        self.table(".hash", elf::SHT_HASH, tables.sysv_hash.len() as u64, 8, ".dynsym", 4);
        self.table(".gnu.hash", elf::SHT_GNU_HASH, tables.gnu_hash.len() as u64, 8, ".dynsym", 0);
        self.table(".dynsym", elf::SHT_DYNSYM, tables.dynsym_size(), 8, ".dynstr", 24);
        self.table(".dynstr", elf::SHT_STRTAB, tables.strings.len() as u64, 1, "", 0);
        self.class(input, Class::Rodata, 0);
        if frames {
            let fdes = input
                .sections
                .values()
                .filter(|s| s.class == Class::EhFrame)
                .map(|s| eh_frame::count(s.data))
                .sum();
            let size = eh_frame::header_size(fdes);
            self.layout.eh_frame_hdr = Some(self.table(".eh_frame_hdr", elf::SHT_PROGBITS, size, 4, "", 0));
            self.class(input, Class::EhFrame, 0);
        }
        self.load(elf::PF_R, start);

        let text = self.segment();
        self.class(input, Class::Text, elf::SHF_EXECINSTR);
        self.load(elf::PF_R | elf::PF_X, text);

        let relro = self.segment();
        let size = 16 * dynamic::DYNAMIC_ENTRIES as u64;
        let dynamic = self.section(".dynamic", elf::SHT_DYNAMIC, elf::SHF_WRITE, size, 8, ".dynstr", 16);
        // The loader protects whole pages: the segment is extended to the end of its last one.
        let padding = self.address.next_multiple_of(self.page) - self.address;
        self.section(".relro_padding", elf::SHT_NOBITS, elf::SHF_WRITE, padding, 1, "", 0);
        self.load(elf::PF_R | elf::PF_W, relro);
        let protected = self.layout.segments.last().map_or(0, |s| s.memory);

        if writable {
            let data = self.segment();
            self.class(input, Class::Data, elf::SHF_WRITE);
            self.class(input, Class::Bss, elf::SHF_WRITE);
            self.load(elf::PF_R | elf::PF_W, data);
        }
        self.header(elf::PT_DYNAMIC, elf::PF_R | elf::PF_W, dynamic, 8);
        self.header(elf::PT_NOTE, elf::PF_R, note, 4);
        if let Some(place) = self.layout.eh_frame_hdr {
            self.header(elf::PT_GNU_EH_FRAME, elf::PF_R, place, 4);
        }
        self.header(elf::PT_GNU_STACK, elf::PF_R | elf::PF_W, start, 16);
        self.header(elf::PT_GNU_RELRO, elf::PF_R, dynamic, 1);
        if let Some(last) = self.layout.segments.last_mut() {
            last.memory = protected;
        }
        debug_assert_eq!(self.layout.segments.len() as u64, headers);
    }

    fn unloaded(&mut self, symbols: &Symbols<'_>) {
        self.hidden(".symtab", elf::SHT_SYMTAB, symbols.size(), 8, ".strtab", symbols.locals, 24);
        self.hidden(".strtab", elf::SHT_STRTAB, symbols.strings.len() as u64, 1, "", 0, 0);
        let own = ".shstrtab";
        let names: u64 = self.layout.sections.iter().map(|s| s.name.len() as u64 + 1).sum();
        self.hidden(own, elf::SHT_STRTAB, 1 + names + own.len() as u64 + 1, 1, "", 0, 0);
        self.offset = self.offset.next_multiple_of(8);
        let size = 64 * (self.layout.sections.len() as u64 + 1);
        self.layout.section_headers = Place { offset: self.offset, address: 0, size };
        self.offset += size;
    }

    /// Starts a segment: the next page in the file, the next page in memory.
    fn segment(&mut self) -> Place {
        self.offset = self.offset.next_multiple_of(FILE_PAGE);
        self.address = self.address.next_multiple_of(self.page) + self.offset % self.page;
        Place { offset: self.offset, address: self.address, size: 0 }
    }

    /// Ends the segment that starts at `start`.
    fn load(&mut self, flags: u32, start: Place) {
        let place = Place { size: self.offset - start.offset, ..start };
        let memory = self.address - start.address;
        self.layout.segments.push(Segment { kind: elf::PT_LOAD, flags, place, memory, align: self.page });
    }

    fn header(&mut self, kind: u32, flags: u32, place: Place, align: u64) {
        self.layout.segments.push(Segment { kind, flags, place, memory: place.size, align });
    }

    /// A read-only section that this linker makes.
    fn table(
        &mut self,
        name: &'static str,
        kind: u32,
        size: u64,
        align: u64,
        link: &'static str,
        entry: u64,
    ) -> Place {
        self.section(name, kind, 0, size, align, link, entry)
    }

    /// An output section for input sections, if there are any.
    fn class(&mut self, input: &Input<'_>, class: Class, flags: u32) {
        let Some(extent) = input.extent(class) else { return };
        let kind = if class == Class::Bss { elf::SHT_NOBITS } else { elf::SHT_PROGBITS };
        // The terminator of the unwind tables.
        let size = extent.size + if class == Class::EhFrame { 4 } else { 0 };
        let place = self.section(class.name(), kind, flags, size, extent.align, "", 0);
        self.layout.classes.insert(class, place);
    }

    fn section(
        &mut self,
        name: &'static str,
        kind: u32,
        flags: u32,
        size: u64,
        align: u64,
        link: &'static str,
        entry: u64,
    ) -> Place {
        let pad = self.address.next_multiple_of(align) - self.address;
        self.address += pad;
        let in_file = kind != elf::SHT_NOBITS;
        if in_file {
            self.offset += pad;
        }
        let place = Place { offset: self.offset, address: self.address, size };
        self.address += size;
        if in_file {
            self.offset += size;
        }
        let info = u32::from(kind == elf::SHT_DYNSYM);
        let flags = flags | elf::SHF_ALLOC;
        self.layout.sections.push(OutSection { name, kind, flags, place, align, link, info, entry });
        place
    }

    fn hidden(
        &mut self,
        name: &'static str,
        kind: u32,
        size: u64,
        align: u64,
        link: &'static str,
        info: u32,
        entry: u64,
    ) {
        self.offset = self.offset.next_multiple_of(align);
        let place = Place { offset: self.offset, address: 0, size };
        self.offset += size;
        self.layout.sections.push(OutSection { name, kind, flags: 0, place, align, link, info, entry });
    }
}
