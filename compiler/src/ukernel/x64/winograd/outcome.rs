//! From sums to pixels: the second dimension of the result transform, then requantization and store of [`vnni512`].
use crate::ukernel::{
    Tile,
    winograd::{Outcome, RESULTS},
    x64::{regs::ZMM, row::Asm, vnni512},
};
use iced_x86::{
    IcedError,
    code_asm::{qword_ptr, registers as r, zmmword_ptr},
};

/// Accumulators: what a store leaves of the registers, and a temporary.
const ACCUMULATORS: usize = 28;

/// Machine code.
///
/// # Errors
/// The assembler refuses an instruction, which is a defect of this file.
pub fn assemble(outcome: &Outcome) -> Result<Vec<u8>, IcedError> {
    let Outcome { columns, rows, .. } = *outcome;
    let width = (ACCUMULATORS / (rows * outcome.tile.vectors) / RESULTS * RESULTS).min(columns);
    let part = |width: usize| Tile {
        rows: rows * width,
        out_line: width,
        out_width: outcome.columns,
        ..outcome.tile.clone()
    };
    let (usual, rest) = (part(width), part(columns % width));
    let mut k = vnni512::Kernel::new(&usual)?;
    let rounds = columns / width;
    // Where there is a join, the epilogue wants the residual here and leaves the second result in `rdx`.
    k.asm.mov(r::r11, r::r9)?;
    k.asm.mov(r::r8, r::rdx)?;
    let mut top = k.asm.create_label();
    if rounds > 1 {
        k.asm.mov(r::r10d, rounds as i32)?;
        k.asm.set_label(&mut top)?;
    }
    pixels(&mut k, outcome, width)?;
    if rounds > 1 || rest.rows > 0 {
        let tiles = width.div_ceil(RESULTS);
        k.asm.add(r::rdi, (tiles * outcome.tile.vectors * 64) as i32)?;
        k.asm.add(r::r8, (width * outcome.tile.out_stride) as i32)?;
        if let Some(join) = &outcome.tile.join {
            k.asm.add(r::r11, (width * join.stride) as i32)?;
            if let Some(second) = join.second {
                k.asm.add(qword_ptr(r::rsp + 8), (width * second.stride) as i32)?;
            }
        }
    }
    if rounds > 1 {
        k.asm.dec(r::r10d)?;
        k.asm.jne(top)?;
    }
    if rest.rows > 0 {
        k.tile = &rest;
        pixels(&mut k, outcome, columns % width)?;
    }
    k.code()
}

/// `width` columns of pixels, whose first is the first of a tile.
fn pixels(k: &mut vnni512::Kernel<'_>, outcome: &Outcome, width: usize) -> Asm {
    for column in 0..width {
        for v in 0..outcome.tile.vectors {
            combine(k, outcome, [column, width, v])?;
        }
    }
    k.asm.mov(r::rdx, r::r8)?;
    k.finish()
}

/// The two results of a column from its four sums.
fn combine(k: &mut vnni512::Kernel<'_>, outcome: &Outcome, [column, width, v]: [usize; 3]) -> Asm {
    let vectors = outcome.tile.vectors;
    let at = column % RESULTS * outcome.column + (column / RESULTS * vectors + v) * 64;
    let sum = |row: usize| zmmword_ptr(r::rdi + (row * outcome.row + at) as i32);
    let temporary = ZMM[31];
    let first = k.acc(column, v);
    if outcome.rows == 1 {
        k.asm.vmovdqu32(temporary, sum(0))?;
        k.asm.vpaddd(first, temporary, temporary)?;
        k.asm.vpaddd(first, first, sum(1))?;
        return k.asm.vpaddd(first, first, sum(2));
    }
    let second = k.acc(width + column, v);
    k.asm.vmovdqu32(first, sum(0))?;
    k.asm.vmovdqu32(temporary, sum(3))?;
    k.asm.vpsubd(second, first, temporary)?;
    k.asm.vpaddd(first, first, temporary)?;
    k.asm.vpaddd(second, second, sum(1))?;
    k.asm.vpaddd(first, first, sum(2))?;
    k.asm.vpsubd(temporary, second, first)?;
    k.asm.vpaddd(first, second, first)?;
    k.asm.vmovdqa32(second, temporary)
}
