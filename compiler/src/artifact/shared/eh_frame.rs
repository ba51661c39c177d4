//! Unwind tables: walks `.eh_frame` and writes `.eh_frame_hdr`, its table for binary search (LSB 5.0 §10.6.2).
use super::{defect, layout::Layout};
use crate::Result;

/// DW_EH_PE_pcrel | DW_EH_PE_sdata4: what the FDEs must use for addresses.
const PCREL_SDATA4: u8 = 0x1b;
/// DW_EH_PE_udata4, of the count.
const UDATA4: u8 = 0x03;
/// DW_EH_PE_datarel | DW_EH_PE_sdata4, of the table: relative to the start of `.eh_frame_hdr`.
const DATAREL_SDATA4: u8 = 0x3b;

/// The records without the terminator, which only the end of the output section may have.
pub fn records(section: &[u8]) -> Result<&[u8]> {
    let end = walk(section, |_, _| Ok(()))?;
    Ok(&section[..end])
}

/// Number of FDEs in a section.
pub fn count(section: &[u8]) -> usize {
    let mut count = 0;
    let walked = walk(section, |_, id| {
        count += usize::from(id != 0);
        Ok(())
    });
    if walked.is_ok() { count } else { 0 }
}

/// Size of `.eh_frame_hdr` for that many FDEs.
pub const fn header_size(fdes: usize) -> u64 {
    12 + 8 * fdes as u64
}

/// Fills `.eh_frame_hdr` in the relocated image.
pub fn write_header(layout: &Layout, image: &mut [u8]) -> Result<()> {
    let (Some(header), Some(frames)) = (layout.eh_frame_hdr, layout.eh_frame()) else { return Ok(()) };
    let section = &image[frames.file_range()];
    let mut table = Vec::new();
    walk(section, |offset, id| {
        if id != 0 {
            let cie = (offset + 4).checked_sub(id as usize).ok_or_else(|| defect("an FDE has no CIE"))?;
            check_encoding(section, cie)?;
            let pc = i32_at(section, offset + 8).ok_or_else(truncated)?;
            let field = frames.address + offset as u64 + 8;
            table.push((field.wrapping_add_signed(i64::from(pc)), frames.address + offset as u64));
        }
        Ok(())
    })?;
    table.sort_unstable();
    let relative = |address: u64, base: u64| {
        i32::try_from(address as i64 - base as i64).map_err(|_| defect("the library is larger than 2 GiB"))
    };
    let mut bytes = vec![1, PCREL_SDATA4, UDATA4, DATAREL_SDATA4];
    bytes.extend(relative(frames.address, header.address + 4)?.to_le_bytes());
    bytes.extend((table.len() as u32).to_le_bytes());
    for (pc, fde) in table {
        bytes.extend(relative(pc, header.address)?.to_le_bytes());
        bytes.extend(relative(fde, header.address)?.to_le_bytes());
    }
    image[header.file_range()].copy_from_slice(&bytes);
    Ok(())
}

/// Calls `visit(offset, id)` for every record, id 0 for CIEs; returns the end of the last one.
fn walk(section: &[u8], mut visit: impl FnMut(usize, u32) -> Result<()>) -> Result<usize> {
    let mut offset = 0;
    while offset + 4 <= section.len() {
        let length = i32_at(section, offset).ok_or_else(truncated)? as u32;
        if length == 0 {
            break;
        }
        let end = offset + 4 + length as usize;
        if length < 8 || end > section.len() {
            return Err(truncated());
        }
        visit(offset, i32_at(section, offset + 4).ok_or_else(truncated)? as u32)?;
        offset = end;
    }
    Ok(offset)
}

/// Checks that the CIE at `offset` has version 1, augmentation "zR", and PC-relative 4-byte addresses.
fn check_encoding(section: &[u8], offset: usize) -> Result<()> {
    let augmentation = section.get(offset + 8..offset + 12);
    if augmentation != Some(b"\x01zR\0") {
        return Err(defect("an .eh_frame CIE has another augmentation than zR"));
    }
    let mut rest = section.get(offset + 12..).unwrap_or_default();
    // Code alignment, data alignment, return register and length of the augmentation data, all LEB128.
    for _ in 0..4 {
        let end = rest.iter().position(|b| b & 0x80 == 0).ok_or_else(truncated)?;
        rest = &rest[end + 1..];
    }
    match rest.first() {
        Some(&PCREL_SDATA4) => Ok(()),
        other => Err(defect(format!(".eh_frame addresses are encoded as {other:02x?}, not PC-relative"))),
    }
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    bytes.get(at..at + 4)?.try_into().ok().map(i32::from_le_bytes)
}

fn truncated() -> crate::Error {
    defect(".eh_frame is truncated")
}
