//! Rows of bytes from one stride to another ([`Copy`]): unrolled up to 16 vectors, the rest of a row by a byte mask
//! (AVX-512) or by ever smaller pieces.
use super::{
    regs::{XMM, YMM, ZMM},
    vector::{Asm, Vector, Width},
};
use crate::ukernel::edge::{Copy, Simd};
use iced_x86::{
    IcedError,
    code_asm::{
        byte_ptr, dword_ptr, qword_ptr, registers as r, word_ptr, xmmword_ptr, ymmword_ptr, zmmword_ptr,
    },
};

const UNROLL: usize = 8;

/// Machine code: from rdi to rdx.
///
/// # Errors
/// The assembler refuses an instruction, which is a defect of this file.
pub fn assemble(copy: Copy, simd: Simd) -> Result<Vec<u8>, IcedError> {
    let mut v = Vector::new(simd)?;
    let size = v.bytes();
    let (vectors, rest) = (copy.bytes / size, copy.bytes % size);
    let (loops, single) =
        if vectors > 2 * UNROLL { (vectors / UNROLL, vectors % UNROLL) } else { (0, vectors) };
    if v.width == Width::Zmm && rest > 0 {
        v.asm.mov(r::rax, u64::MAX >> (64 - rest))?;
        v.asm.kmovq(r::k1, r::rax)?;
    }
    let (mut top, mut inner, mut done) = (v.asm.create_label(), v.asm.create_label(), v.asm.create_label());
    v.asm.test(r::r8, r::r8)?;
    v.asm.je(done)?;
    v.asm.set_label(&mut top)?;
    if loops > 0 {
        v.asm.mov(r::eax, loops as i32)?;
        v.asm.set_label(&mut inner)?;
        pieces(&mut v, UNROLL)?;
        step(&mut v, UNROLL * size, UNROLL * size)?;
        v.asm.dec(r::eax)?;
        v.asm.jne(inner)?;
    }
    pieces(&mut v, single)?;
    if rest > 0 {
        tail(&mut v, single * size, rest)?;
    }
    let walked = loops * UNROLL * size;
    step(&mut v, copy.from.wrapping_sub(walked), copy.to.wrapping_sub(walked))?;
    v.asm.dec(r::r8)?;
    v.asm.jne(top)?;
    v.asm.set_label(&mut done)?;
    v.finish()
}

fn step(v: &mut Vector, from: usize, to: usize) -> Asm {
    v.asm.add(r::rdi, from as i32)?;
    v.asm.add(r::rdx, to as i32)
}

fn pieces(v: &mut Vector, count: usize) -> Asm {
    let size = v.bytes();
    // Loads run ahead of the stores that follow them.
    for first in (0..count).step_by(4) {
        for i in first..count.min(first + 4) {
            let from = v.at(r::rdi, i * size);
            v.load(i % 4, from)?;
        }
        for i in first..count.min(first + 4) {
            let to = v.at(r::rdx, i * size);
            v.store(to, i % 4)?;
        }
    }
    Ok(())
}

/// The last `bytes` < one vector at `at`.
fn tail(v: &mut Vector, at: usize, bytes: usize) -> Asm {
    let a = &mut v.asm;
    let at = at as i32;
    if v.width == Width::Zmm {
        match bytes {
            32 => {
                a.vmovdqu(YMM[0], ymmword_ptr(r::rdi + at))?;
                return a.vmovdqu(ymmword_ptr(r::rdx + at), YMM[0]);
            }
            16 => {}
            _ => {
                a.vmovdqu8(ZMM[0].k1().z(), zmmword_ptr(r::rdi + at))?;
                return a.vmovdqu8(zmmword_ptr(r::rdx + at).k1(), ZMM[0]);
            }
        }
    }
    let mut done = 0;
    for piece in [16, 8, 4, 2, 1] {
        while bytes - done >= piece {
            let (from, to) = (r::rdi + at + done as i32, r::rdx + at + done as i32);
            match piece {
                16 => {
                    a.vmovdqu(XMM[0], xmmword_ptr(from))?;
                    a.vmovdqu(xmmword_ptr(to), XMM[0])?;
                }
                8 => {
                    a.mov(r::rax, qword_ptr(from))?;
                    a.mov(qword_ptr(to), r::rax)?;
                }
                4 => {
                    a.mov(r::eax, dword_ptr(from))?;
                    a.mov(dword_ptr(to), r::eax)?;
                }
                2 => {
                    a.mov(r::ax, word_ptr(from))?;
                    a.mov(word_ptr(to), r::ax)?;
                }
                _ => {
                    a.mov(r::al, byte_ptr(from))?;
                    a.mov(byte_ptr(to), r::al)?;
                }
            }
            done += piece;
        }
    }
    Ok(())
}
