//! Quantization and dequantization with the change between planes of f32 and pixels ([`Quantize`], [`Dequantize`]).
//!
//! Up to four channels of a pixel meet in one 32-bit lane: quantizing shifts and adds them into it, dequantizing shifts
//! them out. Lanes of three bytes are squeezed by byte and lane permutations, distant pixels are moved lane by lane.
use super::{
    regs::{XMM, YMM, ZMM},
    vector::{Asm, Vector, Width},
};
use crate::ukernel::{
    Grid,
    edge::{Dequantize, Quantize, Simd},
};
use iced_x86::{
    IcedError,
    code_asm::{
        byte_ptr, dword_ptr, qword_ptr, registers as r, word_ptr, xmmword_ptr, ymmword_ptr, zmmword_ptr,
    },
};

/// Registers: values in 0 to 3; constants in 4 to 7; permutations in 8, 9.
const FIRST: usize = 4;
const BYTES: usize = 8;
const LANES: usize = 9;

/// For each 128-bit lane: `pick` of its 16 bytes, 0x80 for none.
fn in_each_lane(v: &Vector, pick: impl Fn(usize) -> u8) -> Vec<u8> {
    (0..v.bytes()).map(|i| pick(i % 16)).collect()
}

/// Machine code: f32 in rdi, result in rdx.
///
/// # Errors
/// The assembler refuses an instruction, which is a defect of this file.
pub fn quantize(q: &Quantize, simd: Simd) -> Result<Vec<u8>, IcedError> {
    let mut v = Vector::new(simd)?;
    for i in 0..4 {
        v.broadcast(FIRST + i, dword_ptr(r::rcx + 4 * i as i32))?;
    }
    let chunk = v.bytes() / 4;
    match v.width {
        Width::Zmm if q.pixel == 3 => {
            load_squeeze(&mut v, q.pixel)?;
            let order = (0..16u32).flat_map(|i| (i / 3 * 4 + i % 3).min(15).to_le_bytes()).collect();
            v.load_constant(LANES, order)?;
        }
        Width::Zmm if q.pixel > 4 => {
            let offsets = (0..16).flat_map(|i| (i * q.pixel as u32).to_le_bytes()).collect();
            v.load_constant(LANES, offsets)?;
        }
        Width::Ymm if q.pixel < 4 => load_squeeze(&mut v, q.pixel)?,
        _ => {}
    }
    if v.width == Width::Zmm {
        v.full_masks()?;
    }
    v.each(
        chunk,
        |v| {
            quantize_chunk(v, q, true)?;
            v.asm.add(r::rdi, 4 * chunk as i32)?;
            v.asm.add(r::rdx, (q.pixel * chunk) as i32)
        },
        |v| {
            if v.width == Width::Zmm {
                v.tail_masks(if q.pixel == 3 { 3 } else { 1 })?;
            }
            quantize_chunk(v, q, false)?;
            v.asm.add(r::rdi, 4)?;
            v.asm.add(r::rdx, q.pixel as i32)
        },
    )?;
    v.finish()
}

/// The shuffle that moves the lowest `bytes` of each 32-bit lane together.
fn load_squeeze(v: &mut Vector, bytes: usize) -> Asm {
    let pick = |i: usize| if i < 4 * bytes { (i / bytes * 4 + i % bytes) as u8 } else { 0x80 };
    let order = in_each_lane(v, pick);
    v.load_constant(BYTES, order)
}

/// `whole`: all pixels of the chunk are there.
fn quantize_chunk(v: &mut Vector, q: &Quantize, whole: bool) -> Asm {
    let (reciprocal, lo, hi, zero_points) = (FIRST, FIRST + 1, FIRST + 2, FIRST + 3);
    for plane in 0..q.planes {
        let from = v.at(r::rdi, plane * q.plane_stride);
        match v.width {
            Width::Zmm => v.asm.vmulps(ZMM[plane].k1().z(), ZMM[reciprocal], from)?,
            Width::Ymm => v.asm.vmulps(YMM[plane], YMM[reciprocal], from)?,
            Width::One => v.asm.vmulss(XMM[plane], XMM[reciprocal], from)?,
        }
        // The second source is the result where the first is NaN.
        v.max_f32(plane, plane, lo)?;
        v.min_f32(plane, plane, hi)?;
        v.round_to_i32(plane, plane)?;
        if plane > 0 {
            v.shift_left_i32(plane, plane, 8 * plane as u32)?;
            v.add_i32(0, 0, plane)?;
        }
    }
    // A byte may have borrowed from the next one; adding all zero points at once gives it back.
    v.add_i32(0, 0, zero_points)?;
    match v.width {
        Width::Zmm => store_zmm(v, q, whole),
        Width::Ymm => store_ymm(v, q),
        Width::One => store_one(v, q),
    }
}

fn store_zmm(v: &mut Vector, q: &Quantize, whole: bool) -> Asm {
    match q.pixel {
        1 => v.asm.vpmovdb(xmmword_ptr(r::rdx).k1(), ZMM[0]),
        2 => v.asm.vpmovdw(ymmword_ptr(r::rdx).k1(), ZMM[0]),
        3 => {
            v.shuffle_bytes(0, 0, BYTES)?;
            v.asm.vpermd(ZMM[0], ZMM[LANES], ZMM[0])?;
            if !whole {
                return v.asm.vmovdqu8(zmmword_ptr(r::rdx).k2(), ZMM[0]);
            }
            v.asm.vmovdqu(ymmword_ptr(r::rdx), YMM[0])?;
            v.asm.vextracti32x4(xmmword_ptr(r::rdx + 32), ZMM[0], 2)
        }
        4 => v.asm.vmovdqu32(zmmword_ptr(r::rdx).k1(), ZMM[0]),
        _ => {
            // The scatter clears its mask.
            v.asm.kmovq(r::k3, r::k1)?;
            v.asm.vpscatterdd(dword_ptr(r::rdx + ZMM[LANES]).k3(), ZMM[0])
        }
    }
}

fn store_ymm(v: &mut Vector, q: &Quantize) -> Asm {
    if q.pixel == 4 {
        return v.asm.vmovdqu(ymmword_ptr(r::rdx), YMM[0]);
    }
    if q.pixel < 4 {
        v.shuffle_bytes(0, 0, BYTES)?;
    }
    v.asm.vextracti128(XMM[1], YMM[0], 1)?;
    let a = &mut v.asm;
    for half in 0..2 {
        let (x, at) = (XMM[half], r::rdx + (4 * half * q.pixel) as i32);
        match q.pixel {
            1 => a.vmovd(dword_ptr(at), x)?,
            2 => a.vmovq(qword_ptr(at), x)?,
            3 => {
                a.vmovq(qword_ptr(at), x)?;
                a.vpextrd(dword_ptr(at + 8), x, 2)?;
            }
            _ => {
                for lane in 0..4 {
                    a.vpextrd(dword_ptr(at + (lane * q.pixel) as i32), x, lane as u32)?;
                }
            }
        }
    }
    Ok(())
}

fn store_one(v: &mut Vector, q: &Quantize) -> Asm {
    let a = &mut v.asm;
    a.vmovd(r::eax, XMM[0])?;
    match q.pixel {
        1 => a.mov(byte_ptr(r::rdx), r::al),
        2 => a.mov(word_ptr(r::rdx), r::ax),
        3 => {
            a.mov(word_ptr(r::rdx), r::ax)?;
            a.shr(r::eax, 16)?;
            a.mov(byte_ptr(r::rdx + 2), r::al)
        }
        _ => a.mov(dword_ptr(r::rdx), r::eax),
    }
}

/// Machine code: integers in rdi, f32 in rdx.
///
/// # Errors
/// As [`quantize`].
pub fn dequantize(d: &Dequantize, simd: Simd) -> Result<Vec<u8>, IcedError> {
    let mut v = Vector::new(simd)?;
    for i in 0..2 {
        v.broadcast(FIRST + i, dword_ptr(r::rcx + 4 * i as i32))?;
    }
    let chunk = v.bytes() / 4;
    let distant = d.pixel > 4;
    if d.planes > 1 && d.grid == Grid::U8 {
        // The mask of the lowest byte.
        let bytes = in_each_lane(&v, |i| if i % 4 == 0 { 0xff } else { 0 });
        v.load_constant(FIRST + 2, bytes)?;
    }
    if d.pixel == 3 {
        let spread = in_each_lane(&v, |i| if i % 4 == 3 { 0x80 } else { (i / 4 * 3 + i % 4) as u8 });
        v.load_constant(BYTES, spread)?;
        if v.width == Width::Zmm {
            let order = (0..16u32).flat_map(|i| (i / 4 * 3 + (i % 4).min(2)).to_le_bytes()).collect();
            v.load_constant(LANES, order)?;
        }
    }
    if v.width == Width::Zmm {
        v.full_masks()?;
        if d.pixel == 3 {
            v.asm.mov(r::rax, (1u64 << 48) - 1)?;
            v.asm.kmovq(r::k2, r::rax)?;
        }
    }
    let (from, to) = ((d.pixel * chunk) as i32, 4 * chunk as i32);
    let whole = |v: &mut Vector| {
        gather(v, d)?;
        scatter_planes(v, d)?;
        v.asm.add(r::rdi, from)?;
        v.asm.add(r::rdx, to)
    };
    let rest = |v: &mut Vector| {
        if v.width == Width::Zmm && !distant {
            v.tail_masks(if d.pixel == 3 { 3 } else { 1 })?;
        }
        if v.width == Width::Zmm && distant {
            return distant_rest(v, d);
        }
        gather(v, d)?;
        scatter_planes(v, d)?;
        v.asm.add(r::rdi, d.pixel as i32)?;
        v.asm.add(r::rdx, 4)
    };
    v.each(chunk, whole, rest)?;
    v.finish()
}

/// Pixel by pixel: distant pixels cannot be loaded under a mask.
fn distant_rest(v: &mut Vector, d: &Dequantize) -> Asm {
    v.width = Width::One;
    let mut top = v.asm.create_label();
    v.asm.set_label(&mut top)?;
    gather(v, d)?;
    scatter_planes(v, d)?;
    v.asm.add(r::rdi, d.pixel as i32)?;
    v.asm.add(r::rdx, 4)?;
    v.asm.dec(r::r8)?;
    v.asm.jne(top)?;
    v.width = Width::Zmm;
    Ok(())
}

/// One pixel in each 32-bit lane of register 0.
fn gather(v: &mut Vector, d: &Dequantize) -> Asm {
    let word = d.grid == Grid::I16 && d.planes == 1;
    match v.width {
        Width::Zmm => match d.pixel {
            1 => v.asm.vpmovzxbd(ZMM[0].k1().z(), xmmword_ptr(r::rdi)),
            2 if word => v.asm.vpmovsxwd(ZMM[0].k1().z(), ymmword_ptr(r::rdi)),
            2 => v.asm.vpmovzxwd(ZMM[0].k1().z(), ymmword_ptr(r::rdi)),
            3 => {
                v.asm.vmovdqu8(ZMM[0].k2().z(), zmmword_ptr(r::rdi))?;
                v.asm.vpermd(ZMM[0], ZMM[LANES], ZMM[0])?;
                v.shuffle_bytes(0, 0, BYTES)
            }
            4 => v.asm.vmovdqu32(ZMM[0].k1().z(), zmmword_ptr(r::rdi)),
            pixel => {
                for lane in 0..4 {
                    collect(v, lane, 4 * lane * pixel, pixel)?;
                }
                v.asm.vinserti128(YMM[0], YMM[0], XMM[1], 1)?;
                v.asm.vinserti128(YMM[2], YMM[2], XMM[3], 1)?;
                v.asm.vinserti64x4(ZMM[0], ZMM[0], YMM[2], 1)
            }
        },
        Width::Ymm => match d.pixel {
            1 => v.asm.vpmovzxbd(YMM[0], qword_ptr(r::rdi)),
            2 if word => v.asm.vpmovsxwd(YMM[0], xmmword_ptr(r::rdi)),
            2 => v.asm.vpmovzxwd(YMM[0], xmmword_ptr(r::rdi)),
            3 => {
                for half in 0..2 {
                    v.asm.vmovq(XMM[half], qword_ptr(r::rdi + 12 * half as i32))?;
                    v.asm.vpinsrd(XMM[half], XMM[half], dword_ptr(r::rdi + 12 * half as i32 + 8), 2)?;
                }
                v.asm.vinserti128(YMM[0], YMM[0], XMM[1], 1)?;
                v.shuffle_bytes(0, 0, BYTES)
            }
            4 => v.asm.vmovdqu(YMM[0], ymmword_ptr(r::rdi)),
            pixel => {
                collect(v, 0, 0, pixel)?;
                collect(v, 1, 4 * pixel, pixel)?;
                v.asm.vinserti128(YMM[0], YMM[0], XMM[1], 1)
            }
        },
        Width::One => {
            let a = &mut v.asm;
            match d.pixel {
                1 => a.movzx(r::eax, byte_ptr(r::rdi))?,
                2 if word => a.movsx(r::eax, word_ptr(r::rdi))?,
                2 => a.movzx(r::eax, word_ptr(r::rdi))?,
                3 => {
                    a.movzx(r::eax, byte_ptr(r::rdi + 2))?;
                    a.shl(r::eax, 16)?;
                    a.mov(r::ax, word_ptr(r::rdi))?;
                }
                _ => a.mov(r::eax, dword_ptr(r::rdi))?,
            }
            a.vmovd(XMM[0], r::eax)
        }
    }
}

/// Four distant pixels in xmm register `to`.
fn collect(v: &mut Vector, to: usize, at: usize, pixel: usize) -> Asm {
    v.asm.vmovd(XMM[to], dword_ptr(r::rdi + at as i32))?;
    for i in 1..4 {
        v.asm.vpinsrd(XMM[to], XMM[to], dword_ptr(r::rdi + (at + i * pixel) as i32), i as u32)?;
    }
    Ok(())
}

/// Each plane of register 0 to f32.
fn scatter_planes(v: &mut Vector, d: &Dequantize) -> Asm {
    let (zero_point, scale, low_byte) = (FIRST, FIRST + 1, FIRST + 2);
    for plane in 0..d.planes {
        let x = if d.planes == 1 { 0 } else { 1 };
        match (d.grid, plane) {
            _ if d.planes == 1 => {}
            (Grid::U8, 0) => v.and(x, 0, low_byte)?,
            (Grid::U8, 3) => v.shift_right_u32(x, 0, 24)?,
            (Grid::U8, _) => {
                v.shift_right_u32(x, 0, 8 * plane as u32)?;
                v.and(x, x, low_byte)?;
            }
            (Grid::I16, 0) => {
                v.shift_left_i32(x, 0, 16)?;
                v.shift_right_i32(x, x, 16)?;
            }
            (Grid::I16, _) => v.shift_right_i32(x, 0, 16)?,
        }
        v.sub_i32(x, x, zero_point)?;
        v.to_f32(x, x)?;
        v.mul_f32(x, x, scale)?;
        let to = v.at(r::rdx, plane * d.plane_stride);
        if v.width == Width::Zmm {
            v.asm.vmovups(to.k1(), ZMM[x])?;
        } else {
            v.store(to, x)?;
        }
    }
    Ok(())
}
