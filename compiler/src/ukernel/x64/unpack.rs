//! Weights of 4 bits to bytes of sixteen times their value, in the order in which the tiles read them:
//! `(rdi = packed, rdx = result, r8 = packed bytes / 64)`.
//!
//! Tiles that unpack in registers do so for every group of pixels; where there are several, once is cheaper, and the
//! tiles run as those of 8 bits do.
use super::{regs::ZMM, row::Asm};
use iced_x86::{
    IcedError,
    code_asm::{CodeAssembler, registers as r, zmmword_ptr},
};

/// Machine code.
///
/// # Errors
/// The assembler refuses an instruction, which is a defect of this file.
pub fn assemble() -> Result<Vec<u8>, IcedError> {
    let mut asm = CodeAssembler::new(64)?;
    emit(&mut asm)?;
    asm.assemble(0)
}

fn emit(asm: &mut CodeAssembler) -> Asm {
    let [low, high, mask] = [ZMM[0], ZMM[1], ZMM[2]];
    asm.mov(r::eax, 0xF0F0_F0F0u32)?;
    asm.vpbroadcastd(mask, r::eax)?;
    let mut top = asm.create_label();
    asm.set_label(&mut top)?;
    asm.vmovdqu32(high, zmmword_ptr(r::rdi))?;
    asm.vpsllw(low, high, 4)?;
    asm.vpandd(high, high, mask)?;
    asm.vpandd(low, low, mask)?;
    asm.vmovdqu32(zmmword_ptr(r::rdx), low)?;
    asm.vmovdqu32(zmmword_ptr(r::rdx + 64), high)?;
    asm.add(r::rdi, 64)?;
    asm.add(r::rdx, 128)?;
    asm.dec(r::r8)?;
    asm.jne(top)?;
    asm.vzeroupper()?;
    asm.ret()
}
