//! Requantization of one vector of sums where f32 is not proven: 64-bit products of even and odd lanes. `block` is the
//! vector's epilogue block, laid out by [`crate::ukernel::pack`].
use super::row::Asm;
use iced_x86::code_asm::{AsmMemoryOperand, AsmRegisterYmm, AsmRegisterZmm, CodeAssembler};

/// even ← (even · M + 2^(e−1)) >> e, with AVX-512. `odd` is free; `odd_lanes` is `even` under a mask of its odd lanes.
pub(super) fn zmm(
    asm: &mut CodeAssembler,
    [even, odd, odd_lanes]: [AsmRegisterZmm; 3],
    block: AsmMemoryOperand,
    short_shift: bool,
) -> Asm {
    asm.vpsrlq(odd, even, 32)?;
    asm.vpmuldq(even, even, block + 64)?;
    asm.vpmuldq(odd, odd, block + 128)?;
    asm.vpaddq(even, even, block + 192)?;
    asm.vpaddq(odd, odd, block + 256)?;
    asm.vpsravq(even, even, block + 320)?;
    asm.vpsravq(odd, odd, block + 384)?;
    if short_shift {
        asm.vpsllq(odd, odd, 32)?;
    }
    asm.vmovdqa32(odd_lanes, odd)
}

/// The same with AVX2, which has no 64-bit arithmetic shift: (z·M + 2^(e−1) + 2⁶²) >> e, logical, minus 2^(62−e), plus the
/// zero point.
pub(super) fn ymm(
    asm: &mut CodeAssembler,
    [even, odd]: [AsmRegisterYmm; 2],
    block: AsmMemoryOperand,
    short_shift: bool,
) -> Asm {
    asm.vpsrlq(odd, even, 32)?;
    asm.vpmuldq(even, even, block + 32)?;
    asm.vpmuldq(odd, odd, block + 64)?;
    asm.vpaddq(even, even, block + 96)?;
    asm.vpaddq(odd, odd, block + 128)?;
    asm.vpsrlvq(even, even, block + 160)?;
    asm.vpsrlvq(odd, odd, block + 192)?;
    if short_shift {
        asm.vpsllq(odd, odd, 32)?;
    }
    asm.vpblendd(even, even, odd, 0xAA)?;
    asm.vpaddd(even, even, block + 224)
}
