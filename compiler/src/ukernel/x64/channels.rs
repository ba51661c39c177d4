//! The loop of kernels that transform 64 channels at a time, with AVX-512.
use super::row::Asm;
use iced_x86::{
    IcedError,
    code_asm::{AsmRegisterK, AsmRegisterZmm, CodeAssembler, registers as r},
};

/// Puts a value into every byte of a register.
pub fn constants(asm: &mut CodeAssembler, values: [(AsmRegisterZmm, u8); 3]) -> Asm {
    for (register, value) in values {
        asm.mov(r::eax, i32::from(value))?;
        asm.vpbroadcastb(register, r::eax)?;
    }
    Ok(())
}

/// Machine code from `chunk`, which is told whether the chunk is the last one, to be loaded under `k1` and stored under `k2`:
/// lanes behind the last channel are zeros and stored up to `depth`, as far as products read them.
pub fn each(
    mut asm: CodeAssembler,
    [channels, depth]: [usize; 2],
    chunk: impl Fn(&mut CodeAssembler, bool) -> Asm,
) -> Result<Vec<u8>, IcedError> {
    let (whole, rest) = (channels / 64, channels % 64);
    let mut top = asm.create_label();
    if whole > 1 {
        asm.mov(r::ecx, whole as i32)?;
        asm.set_label(&mut top)?;
    }
    if whole > 0 {
        chunk(&mut asm, false)?;
    }
    if whole > 1 {
        asm.dec(r::ecx)?;
        asm.jne(top)?;
    }
    if rest > 0 {
        mask(&mut asm, r::k1, rest)?;
        mask(&mut asm, r::k2, depth - whole * 64)?;
        chunk(&mut asm, true)?;
    }
    asm.vzeroupper()?;
    asm.ret()?;
    asm.assemble(0)
}

fn mask(asm: &mut CodeAssembler, register: AsmRegisterK, bytes: usize) -> Asm {
    asm.mov(r::rax, u64::MAX >> (64 - bytes))?;
    asm.kmovq(register, r::rax)
}
