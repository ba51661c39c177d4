//! Tables of 256 entries ([`Lut`]).
//!
//! AVX-512 BW: `vpermi2w` looks words up in a table of 64 held by two registers. A table of bytes is 128 words: two of
//! them, chosen by bit 7 of x after indexing with x >> 1; bit 0 then chooses the byte. A table of words is 256 of them:
//! four, chosen by bits 6 and 7.
//! AVX2: `vpshufb` looks bytes up in 16; all sixteen parts are tried, and a saturating addition makes the shuffle give 0 for
//! an x that is outside the part.
use super::{
    regs::{YMM, ZMM},
    vector::{Asm, Vector, Width},
};
use crate::ukernel::{
    Grid,
    edge::{Lut, Simd},
};
use iced_x86::{
    IcedError,
    code_asm::{byte_ptr, registers as r, word_ptr, xmmword_ptr, ymmword_ptr, zmmword_ptr},
};

/// First register of the table.
const TABLE: usize = 16;

/// Machine code: x in rdi, table in rsi, result in rdx.
///
/// # Errors
/// The assembler refuses an instruction, which is a defect of this file.
pub fn assemble(lut: Lut, simd: Simd) -> Result<Vec<u8>, IcedError> {
    debug_assert!(lut.exists(simd));
    let mut v = Vector::new(simd)?;
    let chunk = match v.width {
        Width::Zmm => {
            v.full_masks()?;
            for i in 0..4 * lut.grid.bytes() {
                v.asm.vmovdqu64(ZMM[TABLE + i], zmmword_ptr(r::rsi + 64 * i as i32))?;
            }
            // Bit 0 of x as a shift by 0 or 8.
            v.load_constant(8, [8u8, 0].repeat(32))?;
            32
        }
        _ => {
            v.load_constant(8, vec![16; 32])?;
            v.load_constant(9, vec![0x70; 32])?;
            32
        }
    };
    let advance = |v: &mut Vector, elements: usize| {
        v.asm.add(r::rdi, elements as i32)?;
        v.asm.add(r::rdx, (elements * lut.grid.bytes()) as i32)
    };
    v.each(
        chunk,
        |v| {
            match (v.width, lut.grid) {
                (Width::Zmm, Grid::U8) => bytes_by_words(v)?,
                (Width::Zmm, Grid::I16) => words(v)?,
                _ => bytes_by_shuffles(v)?,
            }
            advance(v, chunk)
        },
        |v| {
            match (v.width, lut.grid) {
                (Width::Zmm, Grid::U8) => {
                    v.tail_masks(1)?;
                    bytes_by_words(v)?;
                }
                (Width::Zmm, Grid::I16) => {
                    v.tail_masks(1)?;
                    words(v)?;
                }
                (_, Grid::U8) => {
                    v.asm.movzx(r::eax, byte_ptr(r::rdi))?;
                    v.asm.movzx(r::eax, byte_ptr(r::rsi + r::rax))?;
                    v.asm.mov(byte_ptr(r::rdx), r::al)?;
                }
                (_, Grid::I16) => {
                    v.asm.movzx(r::eax, byte_ptr(r::rdi))?;
                    v.asm.movzx(r::eax, word_ptr(r::rsi + r::rax * 2))?;
                    v.asm.mov(word_ptr(r::rdx), r::ax)?;
                }
            }
            advance(v, 1)
        },
    )?;
    v.finish()
}

/// 32 bytes by tables of words.
fn bytes_by_words(v: &mut Vector) -> Asm {
    let a = &mut v.asm;
    a.vpmovzxbw(ZMM[0].k1().z(), ymmword_ptr(r::rdi))?;
    a.vpsrlw(ZMM[1], ZMM[0], 1)?;
    a.vmovdqa64(ZMM[2], ZMM[1])?;
    a.vpermi2w(ZMM[1], ZMM[TABLE], ZMM[TABLE + 1])?;
    a.vpermi2w(ZMM[2], ZMM[TABLE + 2], ZMM[TABLE + 3])?;
    // Bit 7 of x to the sign.
    a.vpsllw(ZMM[3], ZMM[0], 8)?;
    a.vpmovw2m(r::k3, ZMM[3])?;
    a.vmovdqu16(ZMM[1].k3(), ZMM[2])?;
    a.vpsllw(ZMM[0], ZMM[0], 3)?;
    a.vpandd(ZMM[0], ZMM[0], ZMM[8])?;
    a.vpsrlvw(ZMM[1], ZMM[1], ZMM[0])?;
    a.vpmovwb(ymmword_ptr(r::rdx).k1(), ZMM[1])
}

/// 32 words.
fn words(v: &mut Vector) -> Asm {
    let a = &mut v.asm;
    a.vpmovzxbw(ZMM[0].k1().z(), ymmword_ptr(r::rdi))?;
    for i in 0..4 {
        a.vmovdqa64(ZMM[1 + i], ZMM[0])?;
        a.vpermi2w(ZMM[1 + i], ZMM[TABLE + 2 * i], ZMM[TABLE + 2 * i + 1])?;
    }
    a.vpsllw(ZMM[5], ZMM[0], 9)?;
    a.vpmovw2m(r::k3, ZMM[5])?;
    a.vpsllw(ZMM[5], ZMM[0], 8)?;
    a.vpmovw2m(r::k4, ZMM[5])?;
    a.vmovdqu16(ZMM[1].k3(), ZMM[2])?;
    a.vmovdqu16(ZMM[3].k3(), ZMM[4])?;
    a.vmovdqu16(ZMM[1].k4(), ZMM[3])?;
    a.vmovdqu16(zmmword_ptr(r::rdx).k1(), ZMM[1])
}

/// 32 bytes by sixteen shuffles.
fn bytes_by_shuffles(v: &mut Vector) -> Asm {
    let a = &mut v.asm;
    a.vmovdqu(YMM[0], ymmword_ptr(r::rdi))?;
    for part in 0..16 {
        let (index, found) = (YMM[1], if part == 0 { YMM[2] } else { YMM[3] });
        a.vbroadcasti128(YMM[4], xmmword_ptr(r::rsi + 16 * part))?;
        // x − 16·part is in 0..16, or the sum has its top bit set.
        a.vpaddusb(index, YMM[0], YMM[9])?;
        a.vpshufb(found, YMM[4], index)?;
        if part > 0 {
            a.vpor(YMM[2], YMM[2], YMM[3])?;
        }
        a.vpsubb(YMM[0], YMM[0], YMM[8])?;
    }
    a.vmovdqu(ymmword_ptr(r::rdx), YMM[2])
}
