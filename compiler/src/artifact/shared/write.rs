//! Writes the placed parts: headers, tables, section contents, build id.
use super::{
    dynamic::{StringTable, Tables},
    input::{Class, Input, Machine, Symbol},
    layout::{BUILD_ID_SIZE, Layout},
    symtab::Symbols,
};
use object::elf;
use sha2::{Digest, Sha256};

/// The whole file, references not yet resolved.
pub fn contents(input: &Input<'_>, layout: &Layout, tables: &Tables<'_>, symbols: &Symbols<'_>) -> Vec<u8> {
    let end = layout.section_headers.offset + layout.section_headers.size;
    let mut image = vec![0; end as usize];
    let mut put = |offset: u64, bytes: &[u8]| {
        image[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
    };
    put(0, &file_header(layout));
    put(64, &program_headers(layout));
    put(layout.place(".hash").offset, &tables.sysv_hash);
    put(layout.place(".gnu.hash").offset, &tables.gnu_hash);
    put(layout.place(".dynsym").offset, &symbol_table(input, layout, &tables.exports));
    put(layout.place(".dynstr").offset, &tables.strings);
    put(layout.place(".dynamic").offset, &dynamic(layout, tables));
    put(layout.place(".symtab").offset, &symbol_table(input, layout, &symbols.entries));
    put(layout.place(".strtab").offset, &symbols.strings);
    let (names, headers) = section_headers(layout);
    put(layout.place(".shstrtab").offset, &names);
    put(layout.section_headers.offset, &headers);
    for section in input.sections.values() {
        if let (Some(place), true) = (layout.classes.get(&section.class), section.class != Class::Bss) {
            put(place.offset + section.offset, section.data);
        }
    }
    image
}

/// Writes the build-id note: the SHA-256 of the rest of the file, cut to the customary 20 bytes.
pub fn build_id(layout: &Layout, image: &mut [u8]) {
    let hash = Sha256::digest(&*image);
    let mut note = Vec::with_capacity(BUILD_ID_SIZE as usize);
    for word in [4, 20, elf::NT_GNU_BUILD_ID] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"GNU\0");
    note.extend(&hash[..20]);
    image[layout.place(".note.gnu.build-id").file_range()].copy_from_slice(&note);
}

fn file_header(layout: &Layout) -> Vec<u8> {
    let mut h = Bytes::default();
    h.0.extend([0x7f, b'E', b'L', b'F', elf::ELFCLASS64, elf::ELFDATA2LSB, elf::EV_CURRENT]);
    h.0.resize(16, 0);
    h.u16(elf::ET_DYN);
    h.u16(match layout.machine {
        Machine::X86_64 => elf::EM_X86_64,
        Machine::Aarch64 => elf::EM_AARCH64,
    });
    h.u32(u32::from(elf::EV_CURRENT));
    h.u64(0); // no entry point
    h.u64(64); // program headers follow this header
    h.u64(layout.section_headers.offset);
    h.u32(0); // no flags
    h.u16(64); // size of this header
    h.u16(56); // size of a program header
    h.u16(layout.segments.len() as u16);
    h.u16(64); // size of a section header
    h.u16(layout.sections.len() as u16 + 1);
    h.u16(layout.section(".shstrtab").map_or(0, |(i, _)| i as u16));
    h.0
}

fn program_headers(layout: &Layout) -> Vec<u8> {
    let mut h = Bytes::default();
    for s in &layout.segments {
        h.u32(s.kind);
        h.u32(s.flags);
        h.u64(s.place.offset);
        h.u64(s.place.address);
        h.u64(s.place.address);
        h.u64(s.place.size);
        h.u64(s.memory);
        h.u64(s.align);
    }
    h.0
}

fn section_headers(layout: &Layout) -> (Vec<u8>, Vec<u8>) {
    let mut names = StringTable::default();
    let mut h = Bytes(vec![0; 64]);
    for s in &layout.sections {
        h.u32(names.add(s.name));
        h.u32(s.kind);
        h.u64(u64::from(s.flags));
        h.u64(s.place.address);
        h.u64(s.place.offset);
        h.u64(s.place.size);
        h.u32(layout.section(s.link).map_or(0, |(i, _)| i));
        h.u32(s.info);
        h.u64(s.align);
        h.u64(s.entry);
    }
    (names.0, h.0)
}

/// `.dynsym` or `.symtab`.
fn symbol_table(input: &Input<'_>, layout: &Layout, symbols: &[(&Symbol<'_>, u32)]) -> Vec<u8> {
    let mut t = Bytes(vec![0; 24]);
    for (symbol, name) in symbols {
        let (section, address) = layout.resolve(input, symbol.section, symbol.offset).unwrap_or_default();
        let binding = if symbol.exported { elf::STB_GLOBAL } else { elf::STB_LOCAL };
        t.u32(*name);
        t.0.push(binding << 4 | symbol.kind);
        t.0.push(elf::STV_DEFAULT);
        t.u16(section as u16);
        t.u64(address);
        t.u64(symbol.size);
    }
    t.0
}

fn dynamic(layout: &Layout, tables: &Tables<'_>) -> Vec<u8> {
    let address = |name: &str| layout.place(name).address;
    let entries: [(i64, u64); super::dynamic::DYNAMIC_ENTRIES] = [
        (elf::DT_SONAME, u64::from(tables.soname)),
        (elf::DT_HASH, address(".hash")),
        (elf::DT_GNU_HASH, address(".gnu.hash")),
        (elf::DT_SYMTAB, address(".dynsym")),
        (elf::DT_STRTAB, address(".dynstr")),
        (elf::DT_STRSZ, tables.strings.len() as u64),
        (elf::DT_SYMENT, 24),
        (elf::DT_NULL, 0),
    ];
    entries.iter().flat_map(|(tag, value)| [tag.to_le_bytes(), value.to_le_bytes()]).flatten().collect()
}

/// Little-endian output.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u16(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }
    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }
}
