//! Element-wise arithmetic ([`Map`]).
//!
//! A register of words is taken at a time. u8 are widened, i16 have their sign flipped, so that each word is the low half
//! of the f32 2²³ + x, whose high half is 0x4B00: unpacking with that constant makes two registers of f32, from which
//! the bias 2²³ + zero point is subtracted exactly. The unpacking is undone by `vpackssdw`, both work within 128-bit lanes.
//!
//! Constants, four bytes each: bias and scale of the first operand, of the second; zero point, lowest and highest result
//! as pairs of words; MAGIC; 0x4B00 and 0x8000 as pairs of words.
use super::{
    regs::{XMM, YMM, ZMM},
    vector::{Asm, Vector, Width},
};
use crate::ukernel::{
    Grid,
    edge::{Formula, Map, Simd},
};
use iced_x86::{
    IcedError,
    code_asm::{
        AsmRegister64, byte_ptr, dword_ptr, registers as r, word_ptr, xmmword_ptr, ymmword_ptr, zmmword_ptr,
    },
};

/// Registers: operands as f32 in 0, 1 and 2, 3; words in 4; constants from 5.
const WORDS: usize = 4;
const CONSTANTS: usize = 5;
const ZERO_POINT: usize = CONSTANTS + 4;
const LO: usize = CONSTANTS + 5;
const HI: usize = CONSTANTS + 6;
const MAGIC: usize = CONSTANTS + 7;
const EXPONENT: usize = CONSTANTS + 8;
const SIGN: usize = CONSTANTS + 9;
/// x̂ of a splat operand.
const SPLAT: usize = 15;

/// Machine code of the kernel.
///
/// # Errors
/// The assembler refuses an instruction, which is a defect of this file.
pub fn assemble(map: &Map, simd: Simd) -> Result<Vec<u8>, IcedError> {
    let mut v = Vector::new(simd)?;
    for i in 0..10 {
        v.broadcast(CONSTANTS + i, dword_ptr(r::rcx + 4 * i))?;
    }
    // Both operands may be splats only where all is one element; the second then is read as an array of one.
    let splat = map.operands.iter().position(|o| o.splat);
    if let Some(i) = splat {
        let p = pointer(i);
        match map.operands[i].grid {
            Grid::U8 => v.asm.movzx(r::eax, byte_ptr(p))?,
            Grid::I16 => v.asm.movzx(r::eax, word_ptr(p))?,
        }
        v.broadcast_word(WORDS)?;
        widen(&mut v, map, i, SPLAT, SPLAT)?;
    }
    let chunk = v.bytes() / 2;
    if v.width == Width::Zmm {
        v.full_masks()?;
    }
    v.each(
        chunk,
        |v| {
            compute(v, map, splat)?;
            advance(v, map, splat, chunk)
        },
        |v| {
            if v.width == Width::Zmm {
                v.tail_masks(1)?;
            }
            compute(v, map, splat)?;
            advance(v, map, splat, 1)
        },
    )?;
    v.finish()
}

fn pointer(operand: usize) -> AsmRegister64 {
    [r::rdi, r::rsi][operand]
}

/// The words in [`WORDS`] as two registers of x̂ in f32; one where both are the same register.
fn widen(v: &mut Vector, map: &Map, operand: usize, low: usize, high: usize) -> Asm {
    if map.operands[operand].grid == Grid::I16 {
        v.xor(WORDS, WORDS, SIGN)?;
    }
    v.unpack_low_i16(low, WORDS, EXPONENT)?;
    v.sub_f32(low, low, CONSTANTS + 2 * operand)?;
    if high != low {
        v.unpack_high_i16(high, WORDS, EXPONENT)?;
        v.sub_f32(high, high, CONSTANTS + 2 * operand)?;
    }
    Ok(())
}

fn load(v: &mut Vector, grid: Grid, p: AsmRegister64) -> Asm {
    match (v.width, grid) {
        (Width::Zmm, Grid::U8) => v.asm.vpmovzxbw(ZMM[WORDS].k1().z(), ymmword_ptr(p)),
        (Width::Zmm, Grid::I16) => v.asm.vmovdqu16(ZMM[WORDS].k1().z(), zmmword_ptr(p)),
        (Width::Ymm, Grid::U8) => v.asm.vpmovzxbw(YMM[WORDS], xmmword_ptr(p)),
        (Width::Ymm, Grid::I16) => v.asm.vmovdqu(YMM[WORDS], ymmword_ptr(p)),
        (Width::One, grid) => {
            match grid {
                Grid::U8 => v.asm.movzx(r::eax, byte_ptr(p))?,
                Grid::I16 => v.asm.movzx(r::eax, word_ptr(p))?,
            }
            v.asm.vmovd(XMM[WORDS], r::eax)
        }
    }
}

fn store(v: &mut Vector, grid: Grid) -> Asm {
    match (v.width, grid) {
        (Width::Zmm, Grid::U8) => v.asm.vpmovwb(ymmword_ptr(r::rdx).k1(), ZMM[WORDS]),
        (Width::Zmm, Grid::I16) => v.asm.vmovdqu16(zmmword_ptr(r::rdx).k1(), ZMM[WORDS]),
        (Width::Ymm, Grid::U8) => {
            v.asm.vextracti128(XMM[0], YMM[WORDS], 1)?;
            v.asm.vpackuswb(XMM[WORDS], XMM[WORDS], XMM[0])?;
            v.asm.vmovdqu(xmmword_ptr(r::rdx), XMM[WORDS])
        }
        (Width::Ymm, Grid::I16) => v.asm.vmovdqu(ymmword_ptr(r::rdx), YMM[WORDS]),
        (Width::One, grid) => {
            v.asm.vmovd(r::eax, XMM[WORDS])?;
            match grid {
                Grid::U8 => v.asm.mov(byte_ptr(r::rdx), r::al),
                Grid::I16 => v.asm.mov(word_ptr(r::rdx), r::ax),
            }
        }
    }
}

/// One register of words, from operands to result.
fn compute(v: &mut Vector, map: &Map, splat: Option<usize>) -> Asm {
    let mut x = [[0, 1], [2, 3]];
    for (i, operand) in map.operands.iter().enumerate() {
        if splat == Some(i) {
            x[i] = [SPLAT; 2];
        } else {
            load(v, operand.grid, pointer(i))?;
            widen(v, map, i, x[i][0], x[i][1])?;
        }
    }
    let (scale_a, scale_b) = (CONSTANTS + 1, CONSTANTS + 3);
    let [a, b] = x;
    for half in 0..2 {
        let (to, a, b) = (half, a[half], b[half]);
        match map.formula {
            Formula::Requant(_) => {
                v.mul_add(a, scale_a, MAGIC)?;
                v.sub_i32(to, a, MAGIC)?;
            }
            Formula::Mul(_) => {
                v.mul_f32(to, a, b)?;
                v.mul_add(to, scale_a, MAGIC)?;
                v.sub_i32(to, to, MAGIC)?;
            }
            Formula::Add(..) | Formula::Subtract(..) => {
                let keep = |v: &mut Vector, x: usize, free: usize| -> Result<usize, IcedError> {
                    if x != SPLAT {
                        return Ok(x);
                    }
                    v.or(free, x, x)?;
                    Ok(free)
                };
                let (a, b) = (keep(v, a, half)?, keep(v, b, 2 + half)?);
                v.mul_add(a, scale_a, MAGIC)?;
                // MAGIC + rescale(â) less MAGIC ∓ rescale(b̂): the constants cancel.
                match map.formula {
                    Formula::Add(..) => v.neg_mul_add(b, scale_b, MAGIC)?,
                    _ => v.mul_add(b, scale_b, MAGIC)?,
                }
                v.sub_i32(to, a, b)?;
            }
        }
    }
    // Saturation, zero point and clamp are monotone, so saturating first changes nothing.
    v.pack_i32(WORDS, 0, 1)?;
    v.add_i16_saturating(WORDS, WORDS, ZERO_POINT)?;
    v.max_i16(WORDS, WORDS, LO)?;
    v.min_i16(WORDS, WORDS, HI)?;
    store(v, map.grid)
}

fn advance(v: &mut Vector, map: &Map, splat: Option<usize>, elements: usize) -> Asm {
    for (i, operand) in map.operands.iter().enumerate() {
        if splat != Some(i) {
            v.asm.add(pointer(i), (elements * operand.grid.bytes()) as i32)?;
        }
    }
    v.asm.add(r::rdx, (elements * map.grid.bytes()) as i32)
}
