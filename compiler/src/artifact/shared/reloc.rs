//! Resolves references between sections (x86-64 psABI §4.4, AArch64 ELF ABI §5.7).
//!
//! Only relations that hold wherever the library is loaded can be resolved: distances, and on aarch64 also the
//! position within a page.
use super::{
    defect,
    input::{Input, Machine, Relocation},
    layout::Layout,
};
use crate::Result;
use object::elf;

/// Resolves all references in the image.
pub fn apply(input: &Input<'_>, layout: &Layout, image: &mut [u8]) -> Result<()> {
    for section in input.sections.values() {
        let Some(place) = layout.classes.get(&section.class) else { continue };
        for r in &section.relocations {
            let at = place.address + section.offset + r.offset;
            let start = (place.offset + section.offset + r.offset) as usize;
            let end = (place.offset + section.offset) as usize + section.data.len();
            let target = layout
                .resolve(input, r.section, 0)
                .map(|(_, address)| address as i64 + r.target)
                .ok_or_else(|| defect("a relocation refers to an empty section"))?;
            let field = image.get_mut(start..end).ok_or_else(|| bad(section.class.name(), r))?;
            let done = match input.machine {
                Machine::X86_64 => x86_64(r.kind, field, at as i64, target),
                Machine::Aarch64 => aarch64(r.kind, field, at as i64, target),
            };
            done.ok_or_else(|| bad(section.class.name(), r))?;
        }
    }
    Ok(())
}

fn bad(section: &str, r: &Relocation) -> crate::Error {
    defect(format!(
        "relocation of type {} at {:#x} in {section} is unsupported or out of range (absolute addresses cannot be \
         resolved before loading)",
        r.kind, r.offset
    ))
}

fn x86_64(kind: u32, field: &mut [u8], at: i64, target: i64) -> Option<()> {
    match kind {
        // Nothing can be interposed, so a call through the PLT is a direct call.
        elf::R_X86_64_PC32 | elf::R_X86_64_PLT32 => {
            put(field, i32::try_from(target - at).ok()?.to_le_bytes())
        }
        elf::R_X86_64_PC64 => put(field, (target - at).to_le_bytes()),
        _ => None,
    }
}

fn aarch64(kind: u32, field: &mut [u8], at: i64, target: i64) -> Option<()> {
    let low = (target & 0xfff) as u32;
    match kind {
        elf::R_AARCH64_PREL32 => put(field, i32::try_from(target - at).ok()?.to_le_bytes()),
        elf::R_AARCH64_PREL64 => put(field, (target - at).to_le_bytes()),
        elf::R_AARCH64_CALL26 | elf::R_AARCH64_JUMP26 => {
            instruction(field, 0, 0x03ff_ffff, signed(target - at, 2, 26)?)
        }
        elf::R_AARCH64_ADR_PREL_LO21 => adr(field, signed(target - at, 0, 21)?),
        elf::R_AARCH64_ADR_PREL_PG_HI21 => adr(field, signed((target & !0xfff) - (at & !0xfff), 12, 21)?),
        elf::R_AARCH64_ADD_ABS_LO12_NC | elf::R_AARCH64_LDST8_ABS_LO12_NC => load_offset(field, low, 0),
        elf::R_AARCH64_LDST16_ABS_LO12_NC => load_offset(field, low, 1),
        elf::R_AARCH64_LDST32_ABS_LO12_NC => load_offset(field, low, 2),
        elf::R_AARCH64_LDST64_ABS_LO12_NC => load_offset(field, low, 3),
        elf::R_AARCH64_LDST128_ABS_LO12_NC => load_offset(field, low, 4),
        _ => None,
    }
}

/// `value >> shift` as a two's complement field of `bits` bits; `None` if it does not fit or bits are lost.
fn signed(value: i64, shift: u32, bits: u32) -> Option<u32> {
    let field = value >> shift;
    let limit = 1i64 << (bits - 1);
    (field << shift == value && (-limit..limit).contains(&field)).then_some(field as u32 & ((1 << bits) - 1))
}

/// The 21-bit immediate of ADR and ADRP: two low bits at 29, the others at 5.
fn adr(field: &mut [u8], value: u32) -> Option<()> {
    instruction(field, 29, 3, value & 3)?;
    instruction(field, 5, 0x7_ffff, value >> 2)
}

/// The scaled 12-bit offset of ADD, LDR and STR.
fn load_offset(field: &mut [u8], low: u32, scale: u32) -> Option<()> {
    if low & ((1 << scale) - 1) != 0 {
        return None;
    }
    instruction(field, 10, 0xfff, low >> scale)
}

/// Replaces the bits `mask << shift` of an instruction.
fn instruction(field: &mut [u8], shift: u32, mask: u32, value: u32) -> Option<()> {
    let word = u32::from_le_bytes(field.get(..4)?.try_into().ok()?);
    put(field, ((word & !(mask << shift)) | (value & mask) << shift).to_le_bytes())
}

fn put<const N: usize>(field: &mut [u8], bytes: [u8; N]) -> Option<()> {
    field.get_mut(..N)?.copy_from_slice(&bytes);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched(kind: u32, word: u32, at: i64, target: i64) -> Option<u32> {
        let mut field = word.to_le_bytes();
        aarch64(kind, &mut field, at, target)?;
        Some(u32::from_le_bytes(field))
    }

    #[test]
    fn aarch64_instructions_match_the_assembler() {
        // bl .+8, bl .-4, adrp x0 two pages up, adrp x0 one page down, add x0, x0, #0x234, ldr q0, [x0, #0x20].
        assert_eq!(patched(elf::R_AARCH64_CALL26, 0x9400_0000, 0x1000, 0x1008), Some(0x9400_0002));
        assert_eq!(patched(elf::R_AARCH64_CALL26, 0x9400_0000, 0x1000, 0x0ffc), Some(0x97ff_ffff));
        assert_eq!(patched(elf::R_AARCH64_ADR_PREL_PG_HI21, 0x9000_0000, 0x1ffc, 0x3234), Some(0xd000_0000));
        assert_eq!(patched(elf::R_AARCH64_ADR_PREL_PG_HI21, 0x9000_0000, 0x1000, 0x0234), Some(0xf0ff_ffe0));
        assert_eq!(patched(elf::R_AARCH64_ADD_ABS_LO12_NC, 0x9100_0000, 0, 0x3234), Some(0x9108_d000));
        assert_eq!(patched(elf::R_AARCH64_LDST128_ABS_LO12_NC, 0x3dc0_0000, 0, 0x3020), Some(0x3dc0_0800));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(patched(elf::R_AARCH64_CALL26, 0x9400_0000, 0, 1 << 28), None);
        assert_eq!(patched(elf::R_AARCH64_CALL26, 0x9400_0000, 0, 2), None);
        assert_eq!(patched(elf::R_AARCH64_LDST128_ABS_LO12_NC, 0x3dc0_0000, 0, 0x3008), None);
        assert_eq!(patched(elf::R_AARCH64_ABS64, 0, 0, 0), None);
        assert_eq!(x86_64(elf::R_X86_64_PC32, &mut [0; 4], 0, 1 << 31), None);
        assert_eq!(x86_64(elf::R_X86_64_64, &mut [0; 8], 0, 8), None);
        assert_eq!(x86_64(elf::R_X86_64_PC32, &mut [0; 3], 0, 8), None);
    }
}
