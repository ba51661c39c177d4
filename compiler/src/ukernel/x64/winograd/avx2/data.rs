//! Data transform: tile by tile, 32 channels an instruction. The bytes of a tile follow each other, position by position.
//!
//! Rows are transformed along the columns first. Those that two results need stay: B and C make results 1 and 2, then A − C
//! and B − D; 12 values and a temporary are alive at most.
use crate::ukernel::{
    winograd::{DATA, Data},
    x64::{
        regs::{XMM, YMM},
        row::Asm,
    },
};
use iced_x86::{
    IcedError,
    code_asm::{
        AsmMemoryOperand, AsmRegister64, AsmRegisterYmm, CodeAssembler, byte_ptr, dword_ptr, qword_ptr,
        registers as r, word_ptr, xmmword_ptr, ymmword_ptr,
    },
};

/// Addresses of the four rows; `rax` is the tile's distance from there, `rdx` the tile.
const ROWS: [AsmRegister64; DATA] = [r::r8, r::r9, r::r10, r::r11];
/// Values in every byte: what is added, at position (1, 1) too; the zero point.
const OFFSET: AsmRegisterYmm = YMM[13];
const CENTRE: AsmRegisterYmm = YMM[14];
const ZERO: AsmRegisterYmm = YMM[15];

/// Machine code.
///
/// # Errors
/// The assembler refuses an instruction, which is a defect of this file.
pub fn assemble(data: &Data) -> Result<Vec<u8>, IcedError> {
    let mut k = Kernel { asm: CodeAssembler::new(64)?, data, free: (0..13).collect() };
    for (i, row) in ROWS.into_iter().enumerate() {
        k.asm.mov(row, qword_ptr(r::rdi + (8 * i) as i32))?;
    }
    let constants =
        [(ZERO, data.zero_point), (OFFSET, data.offset), (CENTRE, data.offset.wrapping_add(data.centre))];
    for (register, value) in constants {
        let low = XMM[YMM.iter().position(|y| *y == register).unwrap_or(0)];
        k.asm.mov(r::eax, i32::from(value))?;
        k.asm.vmovd(low, r::eax)?;
        k.asm.vpbroadcastb(register, low)?;
    }
    k.asm.mov(r::rax, -((data.before * data.channels) as i64))?;
    // Tiles with the same columns inside the image differ by addresses only.
    let inside =
        |tile: usize| -> [bool; DATA] { std::array::from_fn(|c| data.column(2 * tile + c).is_some()) };
    let mut tile = 0;
    while tile < data.tiles {
        let count = (tile..data.tiles).take_while(|t| inside(*t) == inside(tile)).count();
        let mut top = k.asm.create_label();
        if count > 1 {
            k.asm.mov(r::esi, count as i32)?;
            k.asm.set_label(&mut top)?;
        }
        k.tile(inside(tile))?;
        if count > 1 {
            k.asm.dec(r::esi)?;
            k.asm.jne(top)?;
        }
        tile += count;
    }
    k.asm.vzeroupper()?;
    k.asm.ret()?;
    k.asm.assemble(0)
}

/// Neighbouring channels that go through the registers together, from `first` on.
#[derive(Clone, Copy)]
struct Piece {
    first: usize,
    /// Bytes of a pixel, and of what products read.
    loaded: usize,
    stored: usize,
}

struct Kernel<'a> {
    asm: CodeAssembler,
    data: &'a Data,
    /// Registers that hold nothing.
    free: Vec<usize>,
}

impl Kernel<'_> {
    /// One tile, and on to the next.
    fn tile(&mut self, inside: [bool; DATA]) -> Asm {
        let channels = self.data.channels;
        let whole = channels / 32;
        if whole > 0 {
            let mut top = self.asm.create_label();
            if whole > 1 {
                self.asm.mov(r::ecx, whole as i32)?;
                self.asm.set_label(&mut top)?;
            }
            self.piece(inside, Piece { first: 0, loaded: 32, stored: 32 })?;
            self.asm.add(r::rax, 32)?;
            self.asm.add(r::rdx, 32)?;
            if whole > 1 {
                self.asm.dec(r::ecx)?;
                self.asm.jne(top)?;
            }
        }
        let (mut first, end) = (0, channels % 32);
        while first < end {
            let left = end - first;
            let stored = if left >= 16 { 16 } else { 8 };
            self.piece(inside, Piece { first, loaded: stored.min(left), stored })?;
            first += stored;
        }
        self.asm.add(r::rax, (2 * channels) as i32 - (whole * 32) as i32)?;
        self.asm.add(r::rdx, self.data.tile as i32 - (whole * 32) as i32)
    }

    fn piece(&mut self, inside: [bool; DATA], piece: Piece) -> Asm {
        let second = self.row(1, inside, piece)?;
        let third = self.row(2, inside, piece)?;
        for (column, (b, c)) in second.into_iter().zip(third).enumerate() {
            let sum = self.take();
            self.asm.vpaddb(YMM[sum], YMM[b], YMM[c])?;
            self.store(sum, [1, column], piece)?;
        }
        for (column, (b, c)) in second.into_iter().zip(third).enumerate() {
            let difference = self.take();
            self.asm.vpsubb(YMM[difference], YMM[c], YMM[b])?;
            self.store(difference, [2, column], piece)?;
        }
        let first = self.row(0, inside, piece)?;
        for (column, (a, c)) in first.into_iter().zip(third).enumerate() {
            self.asm.vpsubb(YMM[a], YMM[a], YMM[c])?;
            self.store(a, [0, column], piece)?;
        }
        self.free.extend(third);
        let fourth = self.row(3, inside, piece)?;
        for (column, (b, d)) in second.into_iter().zip(fourth).enumerate() {
            self.asm.vpsubb(YMM[d], YMM[b], YMM[d])?;
            self.store(d, [3, column], piece)?;
        }
        self.free.extend(second);
        Ok(())
    }

    /// Takes the register that has been free for longest, so that little waits for what was there.
    fn take(&mut self) -> usize {
        self.free.remove(0)
    }

    /// Transforms a row along its columns.
    fn row(&mut self, row: usize, inside: [bool; DATA], piece: Piece) -> Result<[usize; DATA], IcedError> {
        let [a, b, c, d] = [(); DATA].map(|()| self.take());
        for (column, x) in [a, b, c, d].into_iter().enumerate() {
            if inside[column] {
                self.load(x, ROWS[row] + r::rax + (column * self.data.channels + piece.first) as i32, piece)?;
            } else {
                self.asm.vmovdqa(YMM[x], ZERO)?;
            }
        }
        let sum = self.take();
        self.asm.vpsubb(YMM[a], YMM[a], YMM[c])?;
        self.asm.vpaddb(YMM[sum], YMM[b], YMM[c])?;
        self.asm.vpsubb(YMM[d], YMM[b], YMM[d])?;
        self.asm.vpsubb(YMM[c], YMM[c], YMM[b])?;
        self.free.push(b);
        Ok([a, sum, c, d])
    }

    /// The bytes of a piece, and zeros.
    fn load(&mut self, x: usize, at: AsmMemoryOperand, piece: Piece) -> Asm {
        let (a, low) = (&mut self.asm, XMM[x]);
        match piece.loaded {
            32 => return a.vmovdqu(YMM[x], ymmword_ptr(at)),
            16 => return a.vmovdqu(low, xmmword_ptr(at)),
            8 => return a.vmovq(low, qword_ptr(at)),
            _ => {}
        }
        a.vpxor(low, low, low)?;
        let mut done = 0;
        for size in [4, 2, 1] {
            if piece.loaded & size == 0 {
                continue;
            }
            let (from, lane) = (at + done, (done / size) as u32);
            match size {
                4 => a.vpinsrd(low, low, dword_ptr(from), lane)?,
                2 => a.vpinsrw(low, low, word_ptr(from), lane)?,
                _ => a.vpinsrb(low, low, byte_ptr(from), lane)?,
            }
            done += size;
        }
        Ok(())
    }

    /// Adds the offset of a position and stores; the register is free then.
    fn store(&mut self, x: usize, [row, column]: [usize; 2], piece: Piece) -> Asm {
        let offset = if [row, column] == [1, 1] { CENTRE } else { OFFSET };
        self.asm.vpaddb(YMM[x], YMM[x], offset)?;
        self.free.push(x);
        let at = r::rdx + ((row * DATA + column) * self.data.plane + piece.first) as i32;
        match piece.stored {
            32 => self.asm.vmovdqu(ymmword_ptr(at), YMM[x]),
            16 => self.asm.vmovdqu(xmmword_ptr(at), XMM[x]),
            _ => self.asm.vmovq(qword_ptr(at), XMM[x]),
        }
    }
}
