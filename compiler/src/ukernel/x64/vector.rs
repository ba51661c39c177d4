//! One program for three widths: kernels that work element by element are written once, over registers by number, and
//! assembled for zmm, for ymm, and for a single element in xmm (the rest of an AVX2 loop, where there are no masks).
use super::regs::{XMM, YMM, ZMM};
use crate::ukernel::edge::Simd;
use iced_x86::{
    IcedError,
    code_asm::{
        AsmMemoryOperand, AsmRegister64, CodeAssembler, CodeLabel, dword_ptr, registers as r, xmmword_ptr,
        ymmword_ptr, zmmword_ptr,
    },
};

/// What assembling gives.
pub type Asm = Result<(), IcedError>;

/// Width of the instructions that are being assembled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 64 bytes.
    Zmm,
    /// 32 bytes.
    Ymm,
    /// One element, in the lowest lane of an xmm register.
    One,
}

/// An assembler with a current width.
pub struct Vector {
    /// The assembler.
    pub asm: CodeAssembler,
    /// Width of what comes next.
    pub width: Width,
    data: Vec<(CodeLabel, Vec<u8>)>,
}

/// Methods of a destination and two sources, with the names of the EVEX and the VEX form.
macro_rules! binary {
    ($($name:ident = $evex:ident | $vex:ident;)*) => {
        $(
            #[doc = concat!("`", stringify!($vex), "`")]
            pub fn $name(&mut self, to: usize, a: usize, b: usize) -> Asm {
                match self.width {
                    Width::Zmm => self.asm.$evex(ZMM[to], ZMM[a], ZMM[b]),
                    Width::Ymm => self.asm.$vex(YMM[to], YMM[a], YMM[b]),
                    Width::One => self.asm.$vex(XMM[to], XMM[a], XMM[b]),
                }
            }
        )*
    };
}

/// Methods of a destination, a source and an immediate.
macro_rules! shifts {
    ($($name:ident = $op:ident;)*) => {
        $(
            #[doc = concat!("`", stringify!($op), "`")]
            pub fn $name(&mut self, to: usize, from: usize, bits: u32) -> Asm {
                match self.width {
                    Width::Zmm => self.asm.$op(ZMM[to], ZMM[from], bits),
                    Width::Ymm => self.asm.$op(YMM[to], YMM[from], bits),
                    Width::One => self.asm.$op(XMM[to], XMM[from], bits),
                }
            }
        )*
    };
}

impl Vector {
    /// An empty function, at the widest width of the level.
    pub fn new(simd: Simd) -> Result<Self, IcedError> {
        let width = match simd {
            Simd::Vbmi | Simd::Avx512 => Width::Zmm,
            Simd::Avx2 => Width::Ymm,
        };
        Ok(Self { asm: CodeAssembler::new(64)?, width, data: Vec::new() })
    }

    /// Bytes of a register.
    pub const fn bytes(&self) -> usize {
        match self.width {
            Width::Zmm => 64,
            Width::Ymm => 32,
            Width::One => 16,
        }
    }

    binary! {
        add_f32 = vaddps | vaddps;
        sub_f32 = vsubps | vsubps;
        mul_f32 = vmulps | vmulps;
        max_f32 = vmaxps | vmaxps;
        min_f32 = vminps | vminps;
        mul_add = vfmadd213ps | vfmadd213ps;
        neg_mul_add = vfnmadd213ps | vfnmadd213ps;
        add_i32 = vpaddd | vpaddd;
        sub_i32 = vpsubd | vpsubd;
        add_i16_saturating = vpaddsw | vpaddsw;
        max_i16 = vpmaxsw | vpmaxsw;
        min_i16 = vpminsw | vpminsw;
        and = vpandd | vpand;
        xor = vpxord | vpxor;
        unpack_low_i16 = vpunpcklwd | vpunpcklwd;
        unpack_high_i16 = vpunpckhwd | vpunpckhwd;
        pack_i32 = vpackssdw | vpackssdw;
        shuffle_bytes = vpshufb | vpshufb;
        or = vpord | vpor;
        add_u8_saturating = vpaddusb | vpaddusb;
        sub_u8 = vpsubb | vpsubb;
    }

    shifts! {
        shift_left_i32 = vpslld;
        shift_right_i32 = vpsrad;
        shift_right_u32 = vpsrld;
    }

    /// i32 from f32, rounded to nearest, ties to even.
    pub fn round_to_i32(&mut self, to: usize, from: usize) -> Asm {
        match self.width {
            Width::Zmm => self.asm.vcvtps2dq(ZMM[to], ZMM[from]),
            Width::Ymm => self.asm.vcvtps2dq(YMM[to], YMM[from]),
            Width::One => self.asm.vcvtps2dq(XMM[to], XMM[from]),
        }
    }

    /// f32 from i32.
    pub fn to_f32(&mut self, to: usize, from: usize) -> Asm {
        match self.width {
            Width::Zmm => self.asm.vcvtdq2ps(ZMM[to], ZMM[from]),
            Width::Ymm => self.asm.vcvtdq2ps(YMM[to], YMM[from]),
            Width::One => self.asm.vcvtdq2ps(XMM[to], XMM[from]),
        }
    }

    /// All lanes alike, from four bytes.
    pub fn broadcast(&mut self, to: usize, from: AsmMemoryOperand) -> Asm {
        match self.width {
            Width::Zmm => self.asm.vpbroadcastd(ZMM[to], from),
            Width::Ymm => self.asm.vpbroadcastd(YMM[to], from),
            Width::One => self.asm.vpbroadcastd(XMM[to], from),
        }
    }

    /// The 16-bit value of `eax` in all lanes.
    pub fn broadcast_word(&mut self, to: usize) -> Asm {
        self.asm.vmovd(XMM[to], r::eax)?;
        match self.width {
            Width::Zmm => self.asm.vpbroadcastw(ZMM[to], XMM[to]),
            Width::Ymm => self.asm.vpbroadcastw(YMM[to], XMM[to]),
            Width::One => self.asm.vpbroadcastw(XMM[to], XMM[to]),
        }
    }

    /// A whole register from memory; one f32 in the narrowest width.
    pub fn load(&mut self, to: usize, from: AsmMemoryOperand) -> Asm {
        match self.width {
            Width::Zmm => self.asm.vmovdqu32(ZMM[to], from),
            Width::Ymm => self.asm.vmovdqu(YMM[to], from),
            Width::One => self.asm.vmovd(XMM[to], from),
        }
    }

    /// A whole register to memory; one f32 in the narrowest width.
    pub fn store(&mut self, to: AsmMemoryOperand, from: usize) -> Asm {
        match self.width {
            Width::Zmm => self.asm.vmovdqu32(to, ZMM[from]),
            Width::Ymm => self.asm.vmovdqu(to, YMM[from]),
            Width::One => self.asm.vmovd(to, XMM[from]),
        }
    }

    /// An operand of the current width at `base + offset`.
    pub fn at(&self, base: AsmRegister64, offset: usize) -> AsmMemoryOperand {
        let address = base + offset as i32;
        match self.width {
            Width::Zmm => zmmword_ptr(address),
            Width::Ymm => ymmword_ptr(address),
            Width::One => dword_ptr(address),
        }
    }

    /// `k1` ← the lowest r8 bits, `k2` ← the lowest `scale` · r8 bits; writes rax and rcx.
    pub fn tail_masks(&mut self, scale: i32) -> Asm {
        self.mask_bits()?;
        self.asm.kmovq(r::k1, r::rax)?;
        if scale != 1 {
            self.asm.imul_3(r::rcx, r::r8, scale)?;
            self.asm.mov(r::eax, 1)?;
            self.asm.shl(r::rax, r::cl)?;
            self.asm.dec(r::rax)?;
            self.asm.kmovq(r::k2, r::rax)?;
        }
        Ok(())
    }

    /// rax ← the lowest r8 bits, r8 < 64; writes rcx.
    fn mask_bits(&mut self) -> Asm {
        self.asm.mov(r::rcx, r::r8)?;
        self.asm.mov(r::eax, 1)?;
        self.asm.shl(r::rax, r::cl)?;
        self.asm.dec(r::rax)
    }

    /// All mask registers that kernels use, full.
    pub fn full_masks(&mut self) -> Asm {
        self.asm.kxnorq(r::k1, r::k1, r::k1)?;
        self.asm.kxnorq(r::k2, r::k2, r::k2)
    }

    /// Puts `bytes` behind the code; the label is their address.
    pub fn constant(&mut self, bytes: Vec<u8>) -> CodeLabel {
        let label = self.asm.create_label();
        self.data.push((label, bytes));
        label
    }

    /// Loads a constant that was put behind the code.
    pub fn load_constant(&mut self, to: usize, bytes: Vec<u8>) -> Asm {
        debug_assert_eq!(bytes.len(), self.bytes());
        let label = self.constant(bytes);
        let from = match self.width {
            Width::Zmm => zmmword_ptr(label),
            Width::Ymm => ymmword_ptr(label),
            Width::One => xmmword_ptr(label),
        };
        match self.width {
            Width::Zmm => self.asm.vmovdqu32(ZMM[to], from),
            Width::Ymm => self.asm.vmovdqu(YMM[to], from),
            Width::One => self.asm.vmovdqu(XMM[to], from),
        }
    }

    /// Return, constants, machine code.
    pub fn finish(mut self) -> Result<Vec<u8>, IcedError> {
        self.asm.vzeroupper()?;
        self.asm.ret()?;
        for (mut label, bytes) in self.data {
            self.asm.set_label(&mut label)?;
            self.asm.db(&bytes)?;
        }
        self.asm.assemble(0)
    }

    /// A loop over r8 elements: `chunk` of them at a time by `whole`, the rest by `rest`. Both advance their pointers;
    /// `rest` runs once with r8 < `chunk` elements left where there are masks, else once for each of them, at
    /// [`Width::One`].
    pub fn each(
        &mut self,
        chunk: usize,
        mut whole: impl FnMut(&mut Self) -> Asm,
        mut rest: impl FnMut(&mut Self) -> Asm,
    ) -> Asm {
        let widest = self.width;
        let mut labels = [0; 4].map(|_| self.asm.create_label());
        let [top, tail, one, done] = &mut labels;
        self.asm.sub(r::r8, chunk as i32)?;
        self.asm.jb(*tail)?;
        self.asm.set_label(top)?;
        whole(self)?;
        self.asm.sub(r::r8, chunk as i32)?;
        self.asm.jae(*top)?;
        self.asm.set_label(tail)?;
        self.asm.add(r::r8, chunk as i32)?;
        self.asm.je(*done)?;
        if widest == Width::Zmm {
            rest(self)?;
        } else {
            self.asm.set_label(one)?;
            self.width = Width::One;
            rest(self)?;
            self.width = widest;
            self.asm.dec(r::r8)?;
            self.asm.jne(*one)?;
        }
        self.asm.set_label(done)?;
        // A label must stand before an instruction.
        self.asm.nop()
    }
}
