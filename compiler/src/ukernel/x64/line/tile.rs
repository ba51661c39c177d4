//! Tiles of pairs: the inner loop of products, two positions at a time; the rest is the direct tiles'.
use crate::ukernel::{
    Tile,
    line::{PHASES, second_bytes},
    x64::{
        regs::ZMM,
        row::Asm,
        vnni512::{Kernel, unroll_of},
    },
};
use iced_x86::{
    IcedError,
    code_asm::{AsmRegisterZmm, byte_ptr, dword_ptr, registers as r, zmmword_ptr},
};

/// Machine code.
///
/// # Errors
/// The assembler refuses an instruction, which is a defect of this file.
pub fn assemble(tile: &Tile) -> Result<Vec<u8>, IcedError> {
    let mut k = Kernel::new(tile)?;
    start(&mut k)?;
    if tile.join.is_some() {
        k.asm.mov(r::r11, r::r9)?;
    }
    let [first, second] = PHASES;
    multiply(&mut k, first)?;
    butterfly(&mut k)?;
    multiply(&mut k, second)?;
    k.finish()?;
    k.code()
}

/// The two accumulators of a pair.
fn pair(k: &Kernel<'_>, pair: usize, vector: usize) -> [AsmRegisterZmm; 2] {
    [k.acc(2 * pair, vector), k.acc(2 * pair + 1, vector)]
}

/// Registers behind the accumulators.
fn free(tile: &Tile) -> &'static [AsmRegisterZmm] {
    &ZMM[tile.rows * tile.vectors..]
}

fn start(k: &mut Kernel<'_>) -> Asm {
    for v in 0..k.tile.vectors {
        let first = pair(k, 0, v);
        let second = v as i32 * 64 - second_bytes(k.tile.vectors) as i32;
        k.asm.vmovdqu32(first[0], k.bias(v))?;
        k.asm.vmovdqu32(first[1], zmmword_ptr(r::rcx + second))?;
        for p in 1..k.tile.rows / 2 {
            let sums = pair(k, p, v);
            k.asm.vmovdqa32(sums[0], first[0])?;
            k.asm.vmovdqa32(sums[1], first[1])?;
        }
    }
    Ok(())
}

/// Adds the products of two positions, one to each accumulator of the pairs.
fn multiply(k: &mut Kernel<'_>, positions: [usize; 2]) -> Asm {
    let tile = k.tile;
    let vectors = tile.vectors;
    let steps = tile.run / 4;
    let unroll = unroll_of(steps, 1);
    let trips = steps / unroll;
    let fetched = tile.fetched_lines(PHASES.len() * trips);
    let (weights, broadcasts) = free(tile).split_at(vectors);
    let broadcasts = &broadcasts[..broadcasts.len().min(4)];
    let (mut outer, mut inner) = (k.asm.create_label(), k.asm.create_label());
    k.asm.mov(r::r9, r::rdi)?;
    k.asm.mov(r::r10d, tile.kernel_rows as i32)?;
    k.asm.set_label(&mut outer)?;
    if trips > 1 {
        k.asm.mov(r::eax, trips as i32)?;
        k.asm.set_label(&mut inner)?;
    }
    for step in 0..unroll {
        for line in step * fetched / unroll..(step + 1) * fetched / unroll {
            k.asm.prefetcht1(byte_ptr(r::r8 + (64 * line) as i32))?;
        }
        for (half, position) in positions.into_iter().enumerate() {
            for (v, weight) in weights.iter().enumerate() {
                let at = ((step * positions.len() + half) * vectors + v) * 64;
                k.asm.vmovdqu32(*weight, zmmword_ptr(r::rsi + at as i32))?;
            }
            for p in 0..tile.rows / 2 {
                let data = broadcasts[p % broadcasts.len()];
                let at = p * tile.row_stride + position * tile.run + step * 4;
                k.asm.vpbroadcastd(data, dword_ptr(r::r9 + at as i32))?;
                for (v, weight) in weights.iter().enumerate() {
                    let sum = pair(k, p, v)[half];
                    k.asm.vpdpbusd(sum, data, *weight)?;
                }
            }
        }
    }
    k.asm.add(r::r9, (4 * unroll) as i32)?;
    k.asm.add(r::rsi, (unroll * positions.len() * vectors * 64) as i32)?;
    if fetched > 0 {
        k.asm.add(r::r8, (64 * fetched) as i32)?;
    }
    if trips > 1 {
        k.asm.dec(r::eax)?;
        k.asm.jne(inner)?;
    }
    k.asm.add(r::r9, tile.kernel_row_stride as i32 - tile.run as i32)?;
    k.asm.dec(r::r10d)?;
    k.asm.jne(outer)
}

/// (x, y) ← (x + y, x − y).
fn butterfly(k: &mut Kernel<'_>) -> Asm {
    let free = free(k.tile);
    for p in 0..k.tile.rows / 2 {
        for v in 0..k.tile.vectors {
            let ([x, y], difference) = (pair(k, p, v), free[p % free.len()]);
            k.asm.vpsubd(difference, x, y)?;
            k.asm.vpaddd(x, x, y)?;
            k.asm.vmovdqa32(y, difference)?;
        }
    }
    Ok(())
}
