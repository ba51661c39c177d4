//! The second dimension of the result transform.
use crate::ukernel::{
    Tile,
    winograd::{Outcome, RESULTS},
    x64::{regs::ZMM, row::Asm, vnni512::Kernel, winograd::outcome::Epilogue},
};
use iced_x86::{
    IcedError,
    code_asm::{CodeAssembler, registers as r, zmmword_ptr},
};

impl<'a> Epilogue<'a> for Kernel<'a> {
    /// What a store leaves of the registers, and a temporary.
    const ACCUMULATORS: usize = 28;

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
        for column in 0..width {
            for v in 0..outcome.tile.vectors {
                combine(self, outcome, [column, width, v])?;
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

/// The two results of a column from its four sums.
fn combine(k: &mut Kernel<'_>, outcome: &Outcome, [column, width, v]: [usize; 3]) -> Asm {
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
