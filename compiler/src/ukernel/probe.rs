//! Loops that measure what the machine can do at most: multiply-accumulates from registers, reads from memory.
//!
//! Contract: System V, `(rdi = turns of the loop, at least 1, rsi = buffer)`; clobbers only caller-saved registers,
//! makes no calls, uses no stack. Multiplying loops touch no memory; reading loops read `rdi` times
//! [`READ_BYTES`] forwards from `rsi`.
//!
//! Multiplying loops have as many independent accumulators as registers allow, so that neither latency (4 to 5 cycles
//! on Intel and AMD, agner.org instruction tables) nor the loop's own instructions bound them.
use super::x64::regs::{XMM, YMM, ZMM};
use iced_x86::{
    IcedError,
    code_asm::{CodeAssembler, registers as r, xmmword_ptr, ymmword_ptr, zmmword_ptr},
};

/// Bytes that one turn of a reading loop reads.
pub const READ_BYTES: usize = 1024;

/// A loop of multiply-accumulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Multiply {
    /// `vpdpbusd zmm`.
    DotZmm,
    /// `vpdpbusd ymm`, EVEX encoding.
    DotYmm,
    /// `vpdpbusd ymm`, VEX encoding (AVX-VNNI).
    DotYmmVex,
    /// `vpmaddubsw`, `vpmaddwd` by ones, `vpaddd`, zmm: AVX-512 without VNNI.
    ExactZmm,
    /// The same with ymm: INT8 on AVX2.
    ExactYmm,
    /// `vpmaddubsw`, `vpaddw`, ymm: INT4 with sums in i16 on AVX2, without the widening.
    ShortYmm,
    /// `vpmaddwd`, `vpaddd`, ymm: weights as i16 on AVX2.
    PairYmm,
    /// `vpmaddubsw`, `vpmaddwd`, `vpaddd`, xmm: the width of Cranelift's vectors.
    ExactXmm,
}

impl Multiply {
    /// Every loop, fastest first.
    pub const ALL: [Self; 8] = [
        Self::DotZmm,
        Self::DotYmm,
        Self::DotYmmVex,
        Self::ExactZmm,
        Self::ShortYmm,
        Self::ExactYmm,
        Self::PairYmm,
        Self::ExactXmm,
    ];

    /// Name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DotZmm => "vpdpbusd zmm",
            Self::DotYmm => "vpdpbusd ymm (EVEX)",
            Self::DotYmmVex => "vpdpbusd ymm (VEX)",
            Self::ExactZmm => "vpmaddubsw+vpmaddwd+vpaddd zmm",
            Self::ShortYmm => "vpmaddubsw+vpaddw ymm",
            Self::ExactYmm => "vpmaddubsw+vpmaddwd+vpaddd ymm",
            Self::PairYmm => "vpmaddwd+vpaddd ymm",
            Self::ExactXmm => "vpmaddubsw+vpmaddwd+vpaddd xmm",
        }
    }

    /// CPU features that it needs.
    pub const fn features(self) -> &'static [&'static str] {
        match self {
            Self::DotZmm => &["avx512vnni"],
            Self::DotYmm => &["avx512vnni", "avx512vl"],
            Self::DotYmmVex => &["avxvnni"],
            Self::ExactZmm => &["avx512bw"],
            Self::ShortYmm | Self::ExactYmm | Self::PairYmm => &["avx2"],
            Self::ExactXmm => &["avx"],
        }
    }

    /// Multiply-accumulates of one turn.
    pub const fn macs(self) -> u64 {
        let each = match self {
            Self::DotZmm | Self::ExactZmm => 64,
            Self::DotYmm | Self::DotYmmVex | Self::ShortYmm | Self::ExactYmm => 32,
            Self::PairYmm | Self::ExactXmm => 16,
        };
        each * self.chains() as u64
    }

    /// Accumulators.
    const fn chains(self) -> usize {
        match self {
            Self::DotZmm | Self::DotYmm => 24,
            Self::ExactZmm => 14,
            Self::DotYmmVex => 12,
            Self::ShortYmm | Self::ExactYmm | Self::PairYmm | Self::ExactXmm => 6,
        }
    }

    /// Machine code.
    ///
    /// # Errors
    /// The assembler refuses an instruction, which is a defect of this file.
    pub fn assemble(self) -> Result<Vec<u8>, IcedError> {
        let mut a = CodeAssembler::new(64)?;
        let chains = self.chains();
        // Accumulators, then temporaries, then the three sources; zeros everywhere.
        let (x, w, ones) = (2 * chains, 2 * chains + 1, 2 * chains + 2);
        let (dot, exact_z) = (matches!(self, Self::DotZmm | Self::DotYmm), self == Self::ExactZmm);
        let registers = if dot || exact_z { 32 } else { 16 };
        for i in 0..registers {
            match dot || exact_z {
                true => a.vpxord(ZMM[i], ZMM[i], ZMM[i])?,
                false => a.vpxor(YMM[i], YMM[i], YMM[i])?,
            }
        }
        let mut turn = a.create_label();
        a.set_label(&mut turn)?;
        for i in 0..chains {
            let t = chains + i;
            match self {
                Self::DotZmm => a.vpdpbusd(ZMM[i], ZMM[30], ZMM[31])?,
                Self::DotYmm => a.evex().vpdpbusd(YMM[i], YMM[30], YMM[31])?,
                Self::DotYmmVex => a.vex().vpdpbusd(YMM[i], YMM[14], YMM[15])?,
                Self::ExactZmm => {
                    a.vpmaddubsw(ZMM[t], ZMM[x], ZMM[w])?;
                    a.vpmaddwd(ZMM[t], ZMM[t], ZMM[ones])?;
                    a.vpaddd(ZMM[i], ZMM[i], ZMM[t])?;
                }
                Self::ExactYmm => {
                    a.vpmaddubsw(YMM[t], YMM[x], YMM[w])?;
                    a.vpmaddwd(YMM[t], YMM[t], YMM[ones])?;
                    a.vpaddd(YMM[i], YMM[i], YMM[t])?;
                }
                Self::ShortYmm => {
                    a.vpmaddubsw(YMM[t], YMM[x], YMM[w])?;
                    a.vpaddw(YMM[i], YMM[i], YMM[t])?;
                }
                Self::PairYmm => {
                    a.vpmaddwd(YMM[t], YMM[x], YMM[w])?;
                    a.vpaddd(YMM[i], YMM[i], YMM[t])?;
                }
                Self::ExactXmm => {
                    a.vpmaddubsw(XMM[t], XMM[x], XMM[w])?;
                    a.vpmaddwd(XMM[t], XMM[t], XMM[ones])?;
                    a.vpaddd(XMM[i], XMM[i], XMM[t])?;
                }
            }
        }
        a.dec(r::rdi)?;
        a.jne(turn)?;
        a.vzeroupper()?;
        a.ret()?;
        a.assemble(0)
    }
}

/// Code that reads [`READ_BYTES`] at each turn with vectors of 16, 32 or 64 bytes.
///
/// # Errors
/// The assembler refuses an instruction, which is a defect of this file.
pub fn read(vector: usize) -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    let mut turn = a.create_label();
    a.set_label(&mut turn)?;
    for i in 0..READ_BYTES / vector {
        let at = r::rsi + (i * vector) as i32;
        match vector {
            64 => a.vmovdqu64(ZMM[i % 16], zmmword_ptr(at))?,
            32 => a.vmovdqu(YMM[i % 16], ymmword_ptr(at))?,
            _ => a.movdqu(XMM[i % 16], xmmword_ptr(at))?,
        }
    }
    a.add(r::rsi, READ_BYTES as i32)?;
    a.dec(r::rdi)?;
    a.jne(turn)?;
    if vector > 16 {
        a.vzeroupper()?;
    }
    a.ret()?;
    a.assemble(0)
}
