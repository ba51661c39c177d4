//! Filter transform: 4-bit weights become the 16 transformed bytes on their way from memory, because four bits are
//! faster to fetch than what they become. 128 results take 32 loads, stores and about 90 additions.
use crate::ukernel::{
    winograd::{DATA, Filters, TAPS},
    x64::{regs::ZMM, row::Asm},
};
use iced_x86::{
    IcedError,
    code_asm::{AsmRegisterZmm, CodeAssembler, byte_ptr, registers as r, zmmword_ptr},
};

/// 15 and 8 in every byte.
const NIBBLE: AsmRegisterZmm = ZMM[30];
const EIGHT: AsmRegisterZmm = ZMM[31];
/// Temporaries behind two filters.
const TEMPORARY: usize = 2 * TAPS * TAPS;

/// Machine code.
///
/// # Errors
/// The assembler refuses an instruction, which is a defect of this file.
pub fn assemble(filters: &Filters) -> Result<Vec<u8>, IcedError> {
    let mut asm = CodeAssembler::new(64)?;
    for (register, value) in [(NIBBLE, 15), (EIGHT, 8)] {
        asm.mov(r::eax, value)?;
        asm.vpbroadcastb(register, r::eax)?;
    }
    let pairs = filters.depth / 4 * filters.vectors / 2;
    let mut top = asm.create_label();
    asm.mov(r::eax, pairs as i32)?;
    asm.set_label(&mut top)?;
    for tap in 0..TAPS * TAPS {
        let (low, high) = (ZMM[tap], ZMM[TAPS * TAPS + tap]);
        asm.vmovdqu8(high, zmmword_ptr(r::rdi + (tap * 64) as i32))?;
        asm.vpandd(low, high, NIBBLE)?;
        asm.vpsrlw(high, high, 4)?;
        asm.vpandd(high, high, NIBBLE)?;
        asm.vpsubb(low, low, EIGHT)?;
        asm.vpsubb(high, high, EIGHT)?;
    }
    // The second vector of the pair: of the same step, or the same of the next step.
    let second = if filters.vectors == 2 { 64 } else { 128 };
    for (half, offset) in [0, second].into_iter().enumerate() {
        transform(&mut asm, filters, half * TAPS * TAPS, offset)?;
    }
    asm.add(r::rdi, (TAPS * TAPS * 64) as i32)?;
    asm.add(r::rdx, 256)?;
    asm.dec(r::eax)?;
    asm.jne(top)?;
    asm.vzeroupper()?;
    asm.ret()?;
    asm.assemble(0)
}

/// Transforms the nine taps in registers from `first` on and stores the 16 results.
fn transform(asm: &mut CodeAssembler, filters: &Filters, first: usize, offset: usize) -> Asm {
    // Rows become four: the first and the last tap stay, sums and differences take temporaries.
    let tap = |row: usize, column: usize| ZMM[first + row * TAPS + column];
    let mut rows = [[ZMM[0]; TAPS]; DATA];
    for column in 0..TAPS {
        let [a, b, c] = [0, 1, 2].map(|row| tap(row, column));
        let sum = ZMM[TEMPORARY + column];
        asm.vpaddb(sum, a, c)?;
        let difference = ZMM[TEMPORARY + TAPS + column];
        asm.vpsubb(difference, sum, b)?;
        asm.vpaddb(b, sum, b)?;
        for (row, register) in [a, b, difference, c].into_iter().enumerate() {
            rows[row][column] = register;
        }
    }
    for (row, [a, b, c]) in rows.into_iter().enumerate() {
        let (sum, difference) = (ZMM[TEMPORARY + 2 * TAPS + row], ZMM[TEMPORARY + row % TAPS]);
        asm.vpaddb(sum, a, c)?;
        asm.vpsubb(difference, sum, b)?;
        asm.vpaddb(sum, sum, b)?;
        let results = [a, sum, difference, c];
        for (column, result) in results.into_iter().enumerate() {
            let at = filters.position(row, column) + offset;
            asm.vmovdqu8(zmmword_ptr(r::rdx + at as i32), result)?;
            // The line of the next step comes to the first level meanwhile.
            asm.prefetchw(byte_ptr(r::rdx + (at + 256) as i32))?;
        }
    }
    Ok(())
}
