//! Both dimensions of the result transform.
use crate::ukernel::{
    Tile,
    winograd::{DATA, Outcome, RESULTS},
    x64::{avx2::Kernel, regs::YMM, row::Asm, winograd::outcome::Epilogue},
};
use iced_x86::{
    IcedError,
    code_asm::{AsmRegisterYmm, CodeAssembler, registers as r, ymmword_ptr},
};

/// Registers behind the accumulators: sums in both columns of results, then temporaries.
const P: [AsmRegisterYmm; RESULTS] = [YMM[8], YMM[9]];
const Q: [AsmRegisterYmm; RESULTS] = [YMM[10], YMM[11]];
const FREE: [AsmRegisterYmm; 4] = [YMM[12], YMM[13], YMM[14], YMM[15]];

impl<'a> Epilogue<'a> for Kernel<'a> {
    const ACCUMULATORS: usize = 8;

    fn new(tile: &'a Tile) -> Result<Self, IcedError> {
        Kernel::new(tile)
    }

    fn asm(&mut self) -> &mut CodeAssembler {
        &mut self.asm
    }

    fn set_tile(&mut self, tile: &'a Tile) {
        self.tile = tile;
    }

    fn combine(&mut self, outcome: &Outcome, width: usize) -> Asm {
        for tile in 0..width.div_ceil(RESULTS) {
            for v in 0..outcome.tile.vectors {
                combine(self, outcome, [tile, width, v])?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Asm {
        Kernel::finish(self)
    }

    fn code(self) -> Result<Vec<u8>, IcedError> {
        Kernel::code(self)
    }
}

/// The results of a tile from its 16 sums.
fn combine(k: &mut Kernel<'_>, outcome: &Outcome, [tile, width, v]: [usize; 3]) -> Asm {
    let vectors = outcome.tile.vectors;
    // Of the first row of results, the last row of sums is no part.
    let [x, y, p, q] = FREE;
    along(k, outcome, [0, tile, v], P, [p, q])?;
    if outcome.rows == RESULTS {
        along(k, outcome, [DATA - 1, tile, v], [x, y], [p, q])?;
        for (column, x) in [x, y].into_iter().enumerate() {
            k.asm.vpaddd(Q[column], P[column], x)?;
            k.asm.vpsubd(P[column], P[column], x)?;
        }
    } else {
        for column in 0..RESULTS {
            k.asm.vpaddd(P[column], P[column], P[column])?;
        }
    }
    along(k, outcome, [1, tile, v], [x, y], [p, q])?;
    for (column, x) in [x, y].into_iter().enumerate() {
        k.asm.vpaddd(P[column], P[column], x)?;
    }
    let last = if outcome.rows == RESULTS { Q } else { P };
    along(k, outcome, [2, tile, v], [x, y], [p, q])?;
    for (column, x) in [x, y].into_iter().enumerate() {
        k.asm.vpaddd(last[column], last[column], x)?;
    }
    for column in 0..RESULTS.min(width - RESULTS * tile) {
        let start = |row: usize| ymmword_ptr(r::rsi + (((row * RESULTS + column) * vectors + v) * 32) as i32);
        let pixel = RESULTS * tile + column;
        let (first, p, q) = (k.acc(pixel, v), P[column], Q[column]);
        if outcome.rows == 1 {
            k.asm.vpaddd(first, p, start(0))?;
            continue;
        }
        let second = k.acc(width + pixel, v);
        k.asm.vpaddd(first, p, q)?;
        k.asm.vpsubd(second, p, q)?;
        k.asm.vpaddd(first, first, start(0))?;
        k.asm.vpaddd(second, second, start(1))?;
    }
    Ok(())
}

/// Twice the results of one row of sums.
fn along(
    k: &mut Kernel<'_>,
    outcome: &Outcome,
    [row, tile, v]: [usize; 3],
    results: [AsmRegisterYmm; RESULTS],
    [p, q]: [AsmRegisterYmm; 2],
) -> Asm {
    let at = row * outcome.row + (tile * outcome.tile.vectors + v) * 32;
    let sum = |column: usize| ymmword_ptr(r::rdi + (at + column * outcome.column) as i32);
    k.asm.vmovdqu(q, sum(0))?;
    k.asm.vpsubd(p, q, sum(3))?;
    k.asm.vpaddd(q, q, sum(3))?;
    k.asm.vpaddd(p, p, sum(1))?;
    k.asm.vpaddd(q, q, sum(2))?;
    k.asm.vpaddd(results[0], p, q)?;
    k.asm.vpsubd(results[1], p, q)
}
