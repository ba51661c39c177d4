//! Links hand-assembled objects and checks the libraries with an independent ELF reader and the system loader.
use super::*;
use gimli::write::{Address, CommonInformationEntry, EhFrame, EndianVec, FrameDescriptionEntry, FrameTable};
use object::{
    Architecture, BinaryFormat, Endianness, Object, ObjectSection, ObjectSegment, ObjectSymbol,
    RelocationFlags, SymbolFlags, SymbolKind, SymbolScope, elf,
    read::elf::ElfFile64,
    write::{self, StandardSection, Symbol, SymbolId, SymbolSection},
};

const X86_64: Architecture = Architecture::X86_64;
const AARCH64: Architecture = Architecture::Aarch64;

struct Maker(write::Object<'static>);

impl Maker {
    fn new(architecture: Architecture) -> Self {
        Self(write::Object::new(BinaryFormat::Elf, architecture, object::Endianness::Little))
    }

    fn symbol(&mut self, name: &str, section: StandardSection, data: &[u8], scope: SymbolScope) -> SymbolId {
        let section = self.0.section_id(section);
        let value = self.0.append_section_data(section, data, 64);
        let text = section == self.0.section_id(StandardSection::Text);
        self.0.add_symbol(Symbol {
            name: name.into(),
            value,
            size: data.len() as u64,
            kind: if text { SymbolKind::Text } else { SymbolKind::Data },
            scope,
            weak: false,
            section: SymbolSection::Section(section),
            flags: SymbolFlags::None,
        })
    }

    /// A reference from `from` + `offset` to `to`.
    fn reference(&mut self, from: SymbolId, offset: u64, to: SymbolId, r_type: u32, addend: i64) {
        let symbol = self.0.symbol(from);
        let section = symbol.section.id().expect("defined");
        let offset = symbol.value + offset;
        let relocation =
            write::Relocation { offset, symbol: to, addend, flags: RelocationFlags::Elf { r_type } };
        self.0.add_relocation(section, relocation).expect("a valid relocation");
    }

    /// Unwind tables of the functions, PC-relative as code generation makes them.
    fn frames(&mut self, functions: &[SymbolId], r_type: u32) {
        let encoding = gimli::Encoding { address_size: 8, format: gimli::Format::Dwarf32, version: 1 };
        let mut cie = CommonInformationEntry::new(encoding, 1, -8, gimli::X86_64::RA);
        cie.fde_address_encoding = gimli::DwEhPe(gimli::DW_EH_PE_pcrel.0 | gimli::DW_EH_PE_sdata4.0);
        let mut table = FrameTable::default();
        let cie = table.add_cie(cie);
        for f in functions {
            let size = self.0.symbol(*f).size as u32;
            table.add_fde(cie, FrameDescriptionEntry::new(Address::Constant(0), size));
        }
        let mut frames = EhFrame(EndianVec::new(gimli::LittleEndian));
        table.write_eh_frame(&mut frames).expect("valid unwind tables");
        let bytes = frames.0.into_vec();
        let section = self.0.section_id(StandardSection::EhFrame);
        self.0.append_section_data(section, &bytes, 8);
        let mut at = 0;
        let mut functions = functions.iter();
        while at < bytes.len() {
            let word = |i: usize| u32::from_le_bytes(bytes[i..i + 4].try_into().expect("four bytes"));
            if word(at + 4) != 0 {
                let f = *functions.next().expect("one FDE each");
                let flags = RelocationFlags::Elf { r_type };
                let r = write::Relocation { offset: at as u64 + 8, symbol: f, addend: 0, flags };
                self.0.add_relocation(section, r).expect("a valid relocation");
            }
            at += 4 + word(at) as usize;
        }
    }

    fn finish(self) -> Vec<u8> {
        self.0.write().expect("a valid object")
    }
}

/// `m_run` calls `helper`, which reads `table`[0] and `state`.
fn x86_64_object() -> Vec<u8> {
    let mut m = Maker::new(X86_64);
    let table =
        m.symbol("table", StandardSection::ReadOnlyData, &42u32.to_le_bytes(), SymbolScope::Compilation);
    let state = m.symbol("state", StandardSection::Data, &[7, 0, 0, 0], SymbolScope::Compilation);
    // mov eax, [rip+table]; add eax, [rip+state]; inc dword [rip+state]; ret
    let code = [0x8b, 5, 0, 0, 0, 0, 3, 5, 0, 0, 0, 0, 0xff, 5, 0, 0, 0, 0, 0xc3];
    let helper = m.symbol("helper", StandardSection::Text, &code, SymbolScope::Linkage);
    let run = m.symbol("m_run", StandardSection::Text, &[0xe8, 0, 0, 0, 0, 0xc3], SymbolScope::Dynamic);
    let info =
        m.symbol("m_info", StandardSection::Text, &[0x48, 0x8d, 5, 0, 0, 0, 0, 0xc3], SymbolScope::Dynamic);
    m.reference(helper, 2, table, elf::R_X86_64_PC32, -4);
    m.reference(helper, 8, state, elf::R_X86_64_PC32, -4);
    m.reference(helper, 14, state, elf::R_X86_64_PC32, -4);
    m.reference(run, 1, helper, elf::R_X86_64_PLT32, -4);
    m.reference(info, 3, table, elf::R_X86_64_PC32, -4);
    m.frames(&[info, helper, run], elf::R_X86_64_PC32);
    m.finish()
}

fn aarch64_object() -> Vec<u8> {
    let mut m = Maker::new(AARCH64);
    let table = m.symbol("table", StandardSection::ReadOnlyData, &[1; 100], SymbolScope::Compilation);
    let words = |w: &[u32]| w.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>();
    // adrp x0, table; add x0, x0, :lo12:table; ret
    let code = words(&[0x9000_0000, 0x9100_0000, 0xd65f_03c0]);
    let run = m.symbol("m_run", StandardSection::Text, &code, SymbolScope::Dynamic);
    m.reference(run, 0, table, elf::R_AARCH64_ADR_PREL_PG_HI21, 0);
    m.reference(run, 4, table, elf::R_AARCH64_ADD_ABS_LO12_NC, 0);
    m.frames(&[run], elf::R_AARCH64_PREL32);
    m.finish()
}

fn parse(library: &[u8]) -> ElfFile64<'_, Endianness> {
    ElfFile64::parse(library).expect("a readable library")
}

#[test]
fn exports_exactly_the_global_symbols() {
    let library = link(&x86_64_object(), "libm.so").expect("links");
    let file = parse(&library);
    let names: Vec<_> = file.dynamic_symbols().filter_map(|s| s.name().ok()).collect();
    assert_eq!(names, ["m_info", "m_run"]);
    assert!(file.dynamic_symbols().all(|s| s.is_definition()));
    let local: Vec<_> = file.symbols().filter(|s| !s.is_global()).filter_map(|s| s.name().ok()).collect();
    assert_eq!(local, ["table", "state", "helper"]);
    assert_eq!(file.dynamic_relocations().map_or(0, Iterator::count), 0);
}

#[test]
fn segments_are_never_writable_and_executable() {
    for object in [x86_64_object(), aarch64_object()] {
        let library = link(&object, "libm.so").expect("links");
        let file = parse(&library);
        let page = if file.architecture() == AARCH64 { 65536 } else { 4096 };
        let mut end = 0;
        for s in file.segments() {
            let object::SegmentFlags::Elf { p_flags } = s.flags() else { panic!("ELF has ELF flags") };
            assert!(p_flags & (elf::PF_W | elf::PF_X) != elf::PF_W | elf::PF_X);
            assert_eq!(s.align(), page);
            assert_eq!(s.address() % page, s.file_range().0 % page, "loadable");
            assert!(s.address() / page >= end, "no page has two protections");
            end = (s.address() + s.size()).div_ceil(page);
        }
        assert!(
            file.elf_program_headers().iter().any(|p| p.p_type.get(Endianness::Little) == elf::PT_GNU_RELRO)
        );
    }
}

#[test]
fn the_unwind_index_is_sorted_and_finds_every_function() {
    let library = link(&x86_64_object(), "libm.so").expect("links");
    let file = parse(&library);
    let header = file.section_by_name(".eh_frame_hdr").expect("there is one");
    let data = header.data().expect("readable");
    assert_eq!(&data[..4], [1, 0x1b, 0x03, 0x3b]);
    assert_eq!(data[8..12], 3u32.to_le_bytes());
    let starts: Vec<u64> = data[12..]
        .chunks_exact(8)
        .map(|e| header.address().wrapping_add_signed(i32::from_le_bytes(e[..4].try_into().unwrap()).into()))
        .collect();
    let mut functions: Vec<u64> =
        file.symbols().filter(|s| s.kind() == SymbolKind::Text).map(|s| s.address()).collect();
    functions.sort_unstable();
    assert_eq!(starts, functions);
    let frames = file.section_by_name(".eh_frame").expect("there is one").data().expect("readable");
    assert_eq!(frames[frames.len() - 4..], [0; 4]);
}

#[test]
fn the_build_id_follows_the_content() {
    let id = |library: &[u8]| parse(library).build_id().ok().flatten().expect("there is one").to_vec();
    let a = link(&x86_64_object(), "libm.so").expect("links");
    let b = link(&x86_64_object(), "libm.so").expect("links");
    let c = link(&x86_64_object(), "libn.so").expect("links");
    assert_eq!(a, b);
    assert_eq!(id(&a).len(), 20);
    assert_ne!(id(&a), id(&c));
}

#[test]
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn the_system_loader_takes_the_library() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("libm.so");
    std::fs::write(&path, link(&x86_64_object(), "libm.so").expect("links")).expect("writable");
    // SAFETY: the library is made of the code above; its functions have these types.
    unsafe {
        let library = libloading::Library::new(&path).expect("loads");
        let run: libloading::Symbol<'_, unsafe extern "C" fn() -> u32> =
            library.get(b"m_run").expect("exported");
        let info: libloading::Symbol<'_, unsafe extern "C" fn() -> *const u32> =
            library.get(b"m_info").expect("exported");
        assert_eq!([run(), run(), run()], [49, 50, 51]);
        assert_eq!(*info(), 42);
        assert!(library.get::<unsafe extern "C" fn()>(b"helper").is_err());
    }
}

#[test]
fn undefined_symbols_are_named() {
    let mut m = Maker::new(X86_64);
    let run = m.symbol("m_run", StandardSection::Text, &[0xe9, 0, 0, 0, 0], SymbolScope::Dynamic);
    let memcpy = m.0.add_symbol(Symbol {
        name: b"memcpy".to_vec(),
        value: 0,
        size: 0,
        kind: SymbolKind::Text,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Undefined,
        flags: SymbolFlags::None,
    });
    m.reference(run, 1, memcpy, elf::R_X86_64_PLT32, -4);
    let error = link(&m.finish(), "libm.so").expect_err("memcpy is undefined");
    assert!(error.to_string().contains("undefined symbols: memcpy"), "{error}");
}

#[test]
fn absolute_addresses_are_refused() {
    let mut m = Maker::new(X86_64);
    let table = m.symbol("table", StandardSection::ReadOnlyData, &[0; 8], SymbolScope::Compilation);
    let run = m.symbol("m_run", StandardSection::Text, &[0xc3], SymbolScope::Dynamic);
    m.reference(table, 0, run, elf::R_X86_64_64, 0);
    let error = link(&m.finish(), "libm.so").expect_err("not resolvable");
    assert!(error.to_string().contains("relocation of type 1"), "{error}");
}

#[test]
fn damaged_objects_give_errors() {
    let object = x86_64_object();
    for length in 0..object.len() {
        let _ = link(&object[..length], "libm.so");
    }
    for at in 0..object.len() {
        let mut damaged = object.clone();
        damaged[at] ^= 0xff;
        let _ = link(&damaged, "libm.so");
    }
    let mut m = Maker::new(X86_64);
    m.symbol("hidden", StandardSection::Text, &[0xc3], SymbolScope::Compilation);
    assert!(link(&m.finish(), "libm.so").is_err(), "exports nothing");
    assert!(link(&Maker::new(Architecture::Riscv64).finish(), "libm.so").is_err());
}
