//! `.eh_frame` with PC-relative addresses, for compiled and for assembled functions.
//!
//! cranelift-object's own unwind tables hold absolute addresses, which would put relocations into a shared library
//! (DT_TEXTREL; lld refuses them). Addresses refer to the section symbol of `.text`: a PC-relative reference to an
//! exported symbol is refused in a shared library, because the symbol could be preempted.
use super::emitter::{Defined, fail};
use crate::Result;
use cranelift_codegen::isa::{TargetIsa, unwind::UnwindInfo};
use cranelift_object::{ObjectProduct, object};
use gimli::{
    RunTimeEndian,
    write::{
        Address, EhFrame, EndianVec, FrameDescriptionEntry, FrameTable, RelocateWriter, Relocation,
        RelocationTarget,
    },
};

struct Section {
    bytes: EndianVec<RunTimeEndian>,
    relocations: Vec<Relocation>,
}

impl RelocateWriter for Section {
    type Writer = EndianVec<RunTimeEndian>;
    fn writer(&self) -> &Self::Writer {
        &self.bytes
    }
    fn writer_mut(&mut self) -> &mut Self::Writer {
        &mut self.bytes
    }
    fn relocate(&mut self, relocation: Relocation) {
        self.relocations.push(relocation);
    }
}

/// Appends the unwind table of `functions` to the object.
pub(crate) fn add(product: &mut ObjectProduct, isa: &dyn TargetIsa, functions: &[Defined]) -> Result<()> {
    let error = |e: &dyn std::fmt::Display| fail("the unwind table", e);
    let Some(mut cie) = isa.create_systemv_cie() else { return Ok(()) };
    cie.fde_address_encoding = gimli::DwEhPe(gimli::DW_EH_PE_pcrel.0 | gimli::DW_EH_PE_sdata4.0);
    let mut table = FrameTable::default();
    let cie = table.add_cie(cie);
    for (i, function) in functions.iter().enumerate() {
        let address = Address::Symbol { symbol: i, addend: 0 };
        let entry = match &function.unwind {
            Some(UnwindInfo::SystemV(info)) => info.to_fde(address),
            // A leaf that leaves the stack pointer alone: the CIE's initial rule holds everywhere.
            _ => FrameDescriptionEntry::new(address, function.bytes),
        };
        table.add_fde(cie, entry);
    }
    let mut section =
        EhFrame(Section { bytes: EndianVec::new(RunTimeEndian::Little), relocations: Vec::new() });
    table.write_eh_frame(&mut section).map_err(|e| error(&e))?;
    let EhFrame(Section { bytes, relocations }) = section;
    let id = product.object.section_id(object::write::StandardSection::EhFrame);
    product.object.append_section_data(id, &bytes.into_vec(), 8);
    for relocation in relocations {
        let RelocationTarget::Symbol(i) = relocation.target else { continue };
        let symbol = product.object.symbol(product.function_symbol(functions[i].id));
        let (Some(text), value) = (symbol.section.id(), symbol.value) else {
            return Err(error(&"a function has no section"));
        };
        let symbol = product.object.section_symbol(text);
        let relocation = object::write::Relocation {
            offset: relocation.offset as u64,
            symbol,
            addend: relocation.addend + value as i64,
            flags: object::RelocationFlags::Generic {
                kind: object::RelocationKind::Relative,
                encoding: object::RelocationEncoding::Generic,
                size: 32,
            },
        };
        product.object.add_relocation(id, relocation).map_err(|e| error(&e))?;
    }
    Ok(())
}
