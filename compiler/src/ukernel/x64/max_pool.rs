//! Maximum pools along a row ([`crate::ukernel::max_pool`]): `vpmaxub` or `vpmaxsw` with every tap as a memory operand.
use super::{
    regs::{XMM, YMM, ZMM},
    row::{Asm, Kernel, ROWS, Walk},
};
use crate::ukernel::{Isa, MaxPool, row::Part};
use iced_x86::{
    IcedError,
    code_asm::{AsmRegister64, registers as r, xmmword_ptr, ymmword_ptr, zmmword_ptr},
};

/// First register of taps that a mask loads.
const TAPS: usize = 4;

/// Machine code with AVX-512 BW, or with AVX2 for at least 16 bytes a pixel.
///
/// # Errors
/// The assembler refuses an instruction, which is a defect of this file.
pub fn assemble(pool: &MaxPool, isa: Isa) -> Result<Vec<u8>, IcedError> {
    let mut k = Pool { walk: Walk::new(pool.row)?, pool, isa };
    k.walk.load_rows()?;
    for part in pool.parts(isa) {
        if isa == Isa::Vnni512 && part.channels < 64 {
            k.walk.asm.mov(r::rcx, u64::MAX >> (64 - part.channels))?;
            k.walk.asm.kmovq(r::k1, r::rcx)?;
        }
        k.part(&part, &pool.events(), part, (0, true))?;
    }
    k.walk.asm.vzeroupper()?;
    k.walk.asm.ret()?;
    k.walk.asm.assemble(0)
}

struct Pool<'a> {
    walk: Walk,
    pool: &'a MaxPool,
    isa: Isa,
}

impl Kernel for Pool<'_> {
    type Context = Part;

    fn walk(&mut self) -> &mut Walk {
        &mut self.walk
    }

    fn event(&mut self, part: &Part, pixel: usize) -> Asm {
        let [rows, columns] = self.pool.row.kernel;
        let first = self.pool.first_column(pixel);
        let inside = (first..first + columns as isize).filter(|c| self.pool.row.inside(*c));
        let places: Vec<i32> = inside.map(|c| self.walk.input(c)).collect();
        // Neighbouring outputs use different registers.
        let register = pixel % 4;
        let mut fresh = true;
        for row in &ROWS[..rows] {
            for place in &places {
                self.tap(register, *row, *place, part.channels, fresh)?;
                fresh = false;
            }
        }
        if fresh {
            self.walk.asm.vpxor(XMM[register], XMM[register], XMM[register])?;
        }
        let to = r::rdx + self.walk.output(pixel);
        let asm = &mut self.walk.asm;
        match (self.isa, part.channels) {
            (Isa::Vnni512, 64) => asm.vmovdqu64(zmmword_ptr(to), ZMM[register]),
            (Isa::Vnni512, _) => asm.vmovdqu8(zmmword_ptr(to).k1(), ZMM[register]),
            (Isa::Avx2, 32) => asm.vmovdqu(ymmword_ptr(to), YMM[register]),
            (Isa::Avx2, _) => asm.vmovdqu(xmmword_ptr(to), XMM[register]),
        }
    }
}

impl Pool<'_> {
    /// Takes in one tap; the first one is loaded.
    fn tap(&mut self, register: usize, row: AsmRegister64, place: i32, channels: usize, fresh: bool) -> Asm {
        let (from, asm) = (row + place, &mut self.walk.asm);
        let (x, y, z) = (XMM[register], YMM[register], ZMM[register]);
        let words = self.pool.words;
        match (self.isa, channels, fresh) {
            (Isa::Vnni512, 64, true) => asm.vmovdqu64(z, zmmword_ptr(from)),
            (Isa::Vnni512, 64, false) if words => asm.vpmaxsw(z, z, zmmword_ptr(from)),
            (Isa::Vnni512, 64, false) => asm.vpmaxub(z, z, zmmword_ptr(from)),
            // Bytes outside the mask are not accessed.
            (Isa::Vnni512, _, true) => asm.vmovdqu8(z.k1().z(), zmmword_ptr(from)),
            (Isa::Vnni512, _, false) if words => {
                let tap = ZMM[TAPS + register];
                asm.vmovdqu8(tap.k1().z(), zmmword_ptr(from))?;
                asm.vpmaxsw(z, z, tap)
            }
            (Isa::Vnni512, _, false) => asm.vpmaxub(z.k1().z(), z, zmmword_ptr(from)),
            (Isa::Avx2, 32, true) => asm.vmovdqu(y, ymmword_ptr(from)),
            (Isa::Avx2, 32, false) if words => asm.vpmaxsw(y, y, ymmword_ptr(from)),
            (Isa::Avx2, 32, false) => asm.vpmaxub(y, y, ymmword_ptr(from)),
            (Isa::Avx2, _, true) => asm.vmovdqu(x, xmmword_ptr(from)),
            (Isa::Avx2, _, false) if words => asm.vpmaxsw(x, x, xmmword_ptr(from)),
            (Isa::Avx2, _, false) => asm.vpmaxub(x, x, xmmword_ptr(from)),
        }
    }
}
