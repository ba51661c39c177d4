//! Vector registers by number, which `iced-x86` only names one by one.
use iced_x86::code_asm::{AsmRegisterXmm, AsmRegisterYmm, AsmRegisterZmm, registers as r};

/// `zmm0` … `zmm31`.
pub const ZMM: [AsmRegisterZmm; 32] = [
    r::zmm0, r::zmm1, r::zmm2, r::zmm3, r::zmm4, r::zmm5, r::zmm6, r::zmm7, r::zmm8, r::zmm9, r::zmm10,
    r::zmm11, r::zmm12, r::zmm13, r::zmm14, r::zmm15, r::zmm16, r::zmm17, r::zmm18, r::zmm19, r::zmm20,
    r::zmm21, r::zmm22, r::zmm23, r::zmm24, r::zmm25, r::zmm26, r::zmm27, r::zmm28, r::zmm29, r::zmm30,
    r::zmm31,
];

/// `ymm0` … `ymm31`.
pub const YMM: [AsmRegisterYmm; 32] = [
    r::ymm0, r::ymm1, r::ymm2, r::ymm3, r::ymm4, r::ymm5, r::ymm6, r::ymm7, r::ymm8, r::ymm9, r::ymm10,
    r::ymm11, r::ymm12, r::ymm13, r::ymm14, r::ymm15, r::ymm16, r::ymm17, r::ymm18, r::ymm19, r::ymm20,
    r::ymm21, r::ymm22, r::ymm23, r::ymm24, r::ymm25, r::ymm26, r::ymm27, r::ymm28, r::ymm29, r::ymm30,
    r::ymm31,
];

/// `xmm0` … `xmm31`.
pub const XMM: [AsmRegisterXmm; 32] = [
    r::xmm0, r::xmm1, r::xmm2, r::xmm3, r::xmm4, r::xmm5, r::xmm6, r::xmm7, r::xmm8, r::xmm9, r::xmm10,
    r::xmm11, r::xmm12, r::xmm13, r::xmm14, r::xmm15, r::xmm16, r::xmm17, r::xmm18, r::xmm19, r::xmm20,
    r::xmm21, r::xmm22, r::xmm23, r::xmm24, r::xmm25, r::xmm26, r::xmm27, r::xmm28, r::xmm29, r::xmm30,
    r::xmm31,
];
