//! From sums to pixels: the rest of the result transform, then requantization and store as the direct tiles do it.
use crate::ukernel::{
    Isa, Tile,
    winograd::{Outcome, RESULTS},
    x64::{avx2, row::Asm, vnni512},
};
use iced_x86::{
    IcedError,
    code_asm::{CodeAssembler, qword_ptr, registers as r},
};

/// The epilogue of an instruction set's direct tiles, and what comes before it.
pub(super) trait Epilogue<'a>: Sized {
    /// Accumulators that leave registers for the transform and the store.
    const ACCUMULATORS: usize;

    fn new(tile: &'a Tile) -> Result<Self, IcedError>;

    fn asm(&mut self) -> &mut CodeAssembler;

    /// Goes on with another number of pixels.
    fn set_tile(&mut self, tile: &'a Tile);

    /// Results of `width` columns of pixels into the accumulators; `rdi` = the first tile's sums.
    fn combine(&mut self, outcome: &Outcome, width: usize) -> Asm;

    /// From accumulators to memory at `rdx`; `r11` = residual.
    fn finish(&mut self) -> Asm;

    /// Return, constants, machine code.
    fn code(self) -> Result<Vec<u8>, IcedError>;
}

/// Machine code.
///
/// # Errors
/// The assembler refuses an instruction, which is a defect of the kernel.
pub fn assemble(outcome: &Outcome) -> Result<Vec<u8>, IcedError> {
    // As many columns at a time as registers hold.
    let most = match outcome.isa {
        Isa::Vnni512 => <vnni512::Kernel<'_> as Epilogue<'_>>::ACCUMULATORS,
        Isa::Avx2 => <avx2::Kernel<'_> as Epilogue<'_>>::ACCUMULATORS,
    };
    let Outcome { columns, rows, .. } = *outcome;
    let width = (most / (rows * outcome.tile.vectors) / RESULTS * RESULTS).min(columns);
    let part = |width: usize| Tile { rows: rows * width, out_line: width, ..outcome.tile.clone() };
    let (usual, rest) = (part(width), part(columns % width));
    match outcome.isa {
        Isa::Vnni512 => emit::<vnni512::Kernel<'_>>(outcome, width, &usual, &rest),
        Isa::Avx2 => emit::<avx2::Kernel<'_>>(outcome, width, &usual, &rest),
    }
}

fn emit<'a, K: Epilogue<'a>>(
    outcome: &Outcome,
    width: usize,
    usual: &'a Tile,
    rest: &'a Tile,
) -> Result<Vec<u8>, IcedError> {
    let Outcome { columns, .. } = *outcome;
    let mut k = K::new(usual)?;
    let rounds = columns / width;
    // Where there is a join, the epilogue wants the residual here and leaves the second result in `rdx`.
    k.asm().mov(r::r11, r::r9)?;
    k.asm().mov(r::r8, r::rdx)?;
    let mut top = k.asm().create_label();
    if rounds > 1 {
        k.asm().mov(r::r10d, rounds as i32)?;
        k.asm().set_label(&mut top)?;
    }
    pixels(&mut k, outcome, width)?;
    if rounds > 1 || rest.rows > 0 {
        let tiles = width.div_ceil(RESULTS);
        let vector = outcome.isa.lanes() * 4;
        k.asm().add(r::rdi, (tiles * outcome.tile.vectors * vector) as i32)?;
        k.asm().add(r::r8, (width * outcome.tile.out_stride) as i32)?;
        if let Some(join) = &outcome.tile.join {
            k.asm().add(r::r11, (width * join.stride) as i32)?;
            if let Some(second) = join.second {
                k.asm().add(qword_ptr(r::rsp + 8), (width * second.stride) as i32)?;
            }
        }
    }
    if rounds > 1 {
        k.asm().dec(r::r10d)?;
        k.asm().jne(top)?;
    }
    if rest.rows > 0 {
        k.set_tile(rest);
        pixels(&mut k, outcome, columns % width)?;
    }
    k.code()
}

/// `width` columns of pixels, whose first is the first of a tile.
fn pixels<'a, K: Epilogue<'a>>(k: &mut K, outcome: &Outcome, width: usize) -> Asm {
    k.combine(outcome, width)?;
    k.asm().mov(r::rdx, r::r8)?;
    k.finish()
}
