//! Writes an ELF64 shared object from one relocatable object, so that no linker is needed on the user's machine.
//!
//! The input is what code generation emits: one object without undefined symbols, whose references are all
//! PC-relative and so resolved here for good. The result has no dynamic relocations, no text relocations and no
//! dependencies. It has what tools expect of a library: both symbol hash tables, `.eh_frame_hdr` for unwinding, a
//! symbol table for profilers and debuggers, section headers for `ld`, a build id. Format: System V gABI chapters
//! 4–5, x86-64 psABI, AArch64 ELF ABI, and the LSB for `.eh_frame_hdr`.
//!
//! ```text
//! R    ELF header, program headers, .note.gnu.build-id, .hash, .gnu.hash, .dynsym, .dynstr,
//!      .rodata, .eh_frame_hdr, .eh_frame
//! RX   .text
//! RW   .dynamic        (read-only after loading: PT_GNU_RELRO)
//! RW   .data, .bss
//! -    .symtab, .strtab, .shstrtab, section headers
//! ```
//!
//! The same object gives the same bytes: nothing depends on time, place or hash order.

mod dynamic;
mod eh_frame;
mod input;
mod layout;
mod reloc;
mod symtab;
mod write;

use crate::{Code, Error, Result};

/// Links `object`, a relocatable ELF64 object for x86-64 or aarch64, into a shared object named `soname`.
/// Exactly the object's global symbols of default visibility are exported.
///
/// # Errors
/// The object is damaged, has undefined symbols, exports nothing, or needs something that a goshawk object never
/// needs: an absolute address, thread-local storage, an unknown relocation.
pub fn link(object: &[u8], soname: &str) -> Result<Vec<u8>> {
    let input = input::Input::read(object)?;
    let dynamic = dynamic::Tables::new(&input, soname)?;
    let symbols = symtab::Symbols::new(&input);
    let layout = layout::Layout::new(&input, &dynamic, &symbols)?;
    let mut image = write::contents(&input, &layout, &dynamic, &symbols);
    reloc::apply(&input, &layout, &mut image)?;
    eh_frame::write_header(&layout, &mut image)?;
    write::build_id(&layout, &mut image);
    Ok(image)
}

/// An object that breaks what this module relies on.
fn defect(what: impl Into<String>) -> Error {
    Error::new(Code::INTERNAL, format!("cannot write the shared library: {}", what.into())).help(
        "this is a defect of goshawk, please report it; `--linker cc` or an archive (-o libmodel.a) may do",
    )
}

#[cfg(test)]
mod tests;
