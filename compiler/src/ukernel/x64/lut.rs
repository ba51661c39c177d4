//! Tables of 256 entries ([`Lut`]).
//!
//! AVX-512 VBMI: `vpermi2b` looks bytes up in a table of 128 held by two registers. A table of bytes is two of them, chosen
//! by bit 7 of x. A table of words is split into one of low bytes and one of high bytes, whose results are interleaved: half
//! as many permutations for an element as with words. No CPU with VBMI was at hand: none of this has been measured.
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
/// First register of a table of words that is to be split.
const WORDS: usize = 24;

/// Machine code: x in rdi, table in rsi, result in rdx.
///
/// # Errors
/// The assembler refuses an instruction, which is a defect of this file.
pub fn assemble(lut: Lut, simd: Simd) -> Result<Vec<u8>, IcedError> {
    debug_assert!(lut.exists(simd));
    let mut v = Vector::new(simd)?;
    let (chunk, look_up): (usize, fn(&mut Vector) -> Asm) = match (simd, lut.grid) {
        (Simd::Vbmi, Grid::U8) => (64, bytes),
        (Simd::Vbmi, Grid::I16) => (64, halves_of_words),
        (Simd::Avx512, Grid::U8) => (32, bytes_by_words),
        (Simd::Avx512, Grid::I16) => (32, words),
        (Simd::Avx2, _) => (32, bytes_by_shuffles),
    };
    match (simd, lut.grid) {
        (Simd::Vbmi, Grid::U8) => load_table(&mut v, TABLE, lut.grid)?,
        (Simd::Vbmi, Grid::I16) => {
            load_table(&mut v, WORDS, lut.grid)?;
            split_table(&mut v)?;
        }
        (Simd::Avx512, _) => {
            load_table(&mut v, TABLE, lut.grid)?;
            // Bit 0 of x as a shift by 0 or 8.
            v.load_constant(8, [8u8, 0].repeat(32))?;
        }
        (Simd::Avx2, _) => {
            v.load_constant(8, vec![16; 32])?;
            v.load_constant(9, vec![0x70; 32])?;
        }
    }
    let advance = |v: &mut Vector, elements: usize| {
        v.asm.add(r::rdi, elements as i32)?;
        v.asm.add(r::rdx, (elements * lut.grid.bytes()) as i32)
    };
    v.each(
        chunk,
        |v| {
            look_up(v)?;
            advance(v, chunk)
        },
        |v| {
            match (v.width, lut.grid) {
                (Width::Zmm, _) => {
                    v.tail_masks(1)?;
                    if (simd, lut.grid) == (Simd::Vbmi, Grid::I16) {
                        // Elements that the second store writes.
                        v.asm.kshiftrq(r::k2, r::k1, 32)?;
                    }
                    look_up(v)?;
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

/// The whole table, from register `to` on, and full masks.
fn load_table(v: &mut Vector, to: usize, grid: Grid) -> Asm {
    v.full_masks()?;
    for i in 0..4 * grid.bytes() {
        v.asm.vmovdqu64(ZMM[to + i], zmmword_ptr(r::rsi + 64 * i as i32))?;
    }
    Ok(())
}

/// 64 bytes.
fn bytes(v: &mut Vector) -> Asm {
    v.asm.vmovdqu8(ZMM[0].k1().z(), zmmword_ptr(r::rdi))?;
    v.asm.vpmovb2m(r::k3, ZMM[0])?;
    permute(v, 1, TABLE)?;
    v.asm.vmovdqu8(zmmword_ptr(r::rdx).k1(), ZMM[1])
}

/// `to` ← the entries of a table of bytes at `table` for the bytes of zmm0, whose top bits are in k3; writes zmm4.
fn permute(v: &mut Vector, to: usize, table: usize) -> Asm {
    for (to, table) in [(to, table), (4, table + 2)] {
        v.asm.vmovdqa64(ZMM[to], ZMM[0])?;
        v.asm.vpermi2b(ZMM[to], ZMM[table], ZMM[table + 1])?;
    }
    v.asm.vmovdqu8(ZMM[to].k3(), ZMM[4])
}

/// The table at [`WORDS`] becomes one of low bytes, at [`TABLE`], and one of high bytes behind it.
fn split_table(v: &mut Vector) -> Asm {
    v.load_constant(8, (0..64).map(|i| 2 * i).collect())?;
    v.load_constant(9, (0..64).map(|i| 2 * i + 1).collect())?;
    for i in 0..8 {
        let (to, words) = (ZMM[TABLE + i], WORDS + 2 * (i % 4));
        v.asm.vmovdqa64(to, ZMM[8 + i / 4])?;
        v.asm.vpermi2b(to, ZMM[words], ZMM[words + 1])?;
    }
    // Eights of bytes in the order in which unpacking by lanes of 128 bits takes them.
    v.load_constant(8, [0u64, 4, 1, 5, 2, 6, 3, 7].iter().flat_map(|i| i.to_le_bytes()).collect())
}

/// 64 words from tables of bytes.
fn halves_of_words(v: &mut Vector) -> Asm {
    v.asm.vmovdqu8(ZMM[0].k1().z(), zmmword_ptr(r::rdi))?;
    v.asm.vpermq(ZMM[0], ZMM[8], ZMM[0])?;
    v.asm.vpmovb2m(r::k3, ZMM[0])?;
    permute(v, 1, TABLE)?;
    permute(v, 2, TABLE + 4)?;
    v.asm.vpunpcklbw(ZMM[3], ZMM[1], ZMM[2])?;
    v.asm.vpunpckhbw(ZMM[1], ZMM[1], ZMM[2])?;
    v.asm.vmovdqu16(zmmword_ptr(r::rdx).k1(), ZMM[3])?;
    v.asm.vmovdqu16(zmmword_ptr(r::rdx + 64).k2(), ZMM[1])
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
