//! Filter transform: 4-bit weights become the 16 transformed bytes on their way from memory. Low and high nibbles, which
//! are two vectors, one after the other.
use crate::ukernel::{
    winograd::{DATA, Filters, TAPS},
    x64::{regs::YMM, row::Asm},
};
use iced_x86::{
    IcedError,
    code_asm::{AsmRegisterYmm, CodeAssembler, byte_ptr, registers as r, ymmword_ptr},
};

/// 15 and 8 in every byte.
const NIBBLE: AsmRegisterYmm = YMM[14];
const EIGHT: AsmRegisterYmm = YMM[15];
/// Registers behind the taps: the row that is new, and two temporaries.
const NEW: usize = TAPS * TAPS;
const TEMPORARY: [AsmRegisterYmm; 2] = [YMM[12], YMM[13]];

/// Machine code.
///
/// # Errors
/// The assembler refuses an instruction, which is a defect of this file.
pub fn assemble(filters: &Filters) -> Result<Vec<u8>, IcedError> {
    let mut asm = CodeAssembler::new(64)?;
    let (mut nibbles, mut eights) = (asm.create_label(), asm.create_label());
    asm.vmovdqu(NIBBLE, ymmword_ptr(nibbles))?;
    asm.vmovdqu(EIGHT, ymmword_ptr(eights))?;
    let pairs = filters.depth / 4 * filters.vectors / 2;
    let mut top = asm.create_label();
    asm.mov(r::eax, pairs as i32)?;
    asm.set_label(&mut top)?;
    for high in [false, true] {
        for tap in 0..TAPS * TAPS {
            let (x, at) = (YMM[tap], ymmword_ptr(r::rdi + (tap * 32) as i32));
            if high {
                asm.vmovdqu(x, at)?;
                asm.vpsrlw(x, x, 4)?;
                asm.vpand(x, x, NIBBLE)?;
            } else {
                asm.vpand(x, NIBBLE, at)?;
            }
            asm.vpsubb(x, x, EIGHT)?;
        }
        // The second vector of the pair: of the same step, or of the next. Either way they follow each other.
        transform(&mut asm, filters, if high { 32 } else { 0 })?;
    }
    asm.add(r::rdi, (TAPS * TAPS * 32) as i32)?;
    asm.add(r::rdx, 64)?;
    asm.dec(r::eax)?;
    asm.jne(top)?;
    asm.vzeroupper()?;
    asm.ret()?;
    for (label, byte) in [(&mut nibbles, 15), (&mut eights, 8)] {
        asm.set_label(label)?;
        asm.db(&[byte; 32])?;
    }
    asm.assemble(0)
}

/// Transforms the nine taps in registers and stores the 16 results.
fn transform(asm: &mut CodeAssembler, filters: &Filters, offset: usize) -> Asm {
    let [sum, difference] = TEMPORARY;
    // Rows become four: the first and the last tap stay.
    for column in 0..TAPS {
        let [a, b, c] = [0, 1, 2].map(|row| YMM[row * TAPS + column]);
        asm.vpaddb(sum, a, c)?;
        asm.vpsubb(YMM[NEW + column], sum, b)?;
        asm.vpaddb(b, sum, b)?;
    }
    let rows: [usize; DATA] = [0, TAPS, NEW, 2 * TAPS];
    for (row, first) in rows.into_iter().enumerate() {
        let [a, b, c] = [0, 1, 2].map(|column| YMM[first + column]);
        asm.vpaddb(sum, a, c)?;
        asm.vpsubb(difference, sum, b)?;
        asm.vpaddb(sum, sum, b)?;
        for (column, result) in [a, sum, difference, c].into_iter().enumerate() {
            let at = filters.position(row, column) + offset;
            asm.vmovdqu(ymmword_ptr(r::rdx + at as i32), result)?;
            if offset > 0 {
                // The line of the next pair comes to the first level meanwhile; where the CPU has no such hint, it does nothing.
                asm.prefetchw(byte_ptr(r::rdx + (at + 32) as i32))?;
            }
        }
    }
    Ok(())
}
