//! Data transform: 64 channels an instruction, a column transformed once for the two tiles that read it.
//!
//! Registers 0..8 and 8..16 hold two pairs of transformed columns, which tiles take in turns as their left and right
//! half. Pairs with odd numbers carry the flipped data that become the offset, which must be 128.
use crate::ukernel::{
    winograd::{DATA, Data, depth},
    x64::{channels, regs::ZMM, row::Asm},
};
use iced_x86::{
    IcedError,
    code_asm::{AsmRegister64, AsmRegisterZmm, CodeAssembler, byte_ptr, registers as r, zmmword_ptr},
};

/// Addresses of the four rows.
const ROWS: [AsmRegister64; DATA] = [r::r8, r::r9, r::r10, r::r11];
/// Temporaries 16..20, and values in every byte.
const TEMPORARY: usize = 16;
const CENTRE: AsmRegisterZmm = ZMM[29];
const FLIP: AsmRegisterZmm = ZMM[30];
const ZERO: AsmRegisterZmm = ZMM[31];

/// Machine code.
///
/// # Errors
/// The assembler refuses an instruction, which is a defect of this file.
pub fn assemble(data: &Data) -> Result<Vec<u8>, IcedError> {
    let mut asm = CodeAssembler::new(64)?;
    for (i, row) in ROWS.into_iter().enumerate() {
        asm.mov(row, iced_x86::code_asm::qword_ptr(r::rdi + (8 * i) as i32))?;
    }
    channels::constants(&mut asm, [(ZERO, data.zero_point), (FLIP, data.offset), (CENTRE, data.centre)])?;
    channels::each(asm, [data.channels, depth(data.channels)], |asm, tail| Kernel { asm, data, tail }.chunk())
}

struct Kernel<'a> {
    asm: &'a mut CodeAssembler,
    data: &'a Data,
    /// Whether the chunk is the last one, under masks.
    tail: bool,
}

impl Kernel<'_> {
    /// Up to 64 channels of all tiles.
    fn chunk(&mut self) -> Asm {
        let (tiles, pixel, tile) = (self.data.tiles, self.data.channels, self.data.tile);
        // Tiles whose right halves lie inside the image differ by addresses only, two by two.
        let alike =
            (0..tiles).take_while(|t| self.data.column(2 * t + 2).and(self.data.column(2 * t + 3)).is_some());
        let rounds = alike.count() / 2;
        self.asm.xor(r::eax, r::eax)?;
        self.pair(0, 0)?;
        if rounds > 0 {
            let mut top = self.asm.create_label();
            if rounds > 1 {
                self.asm.mov(r::esi, rounds as i32)?;
                self.asm.set_label(&mut top)?;
            }
            for half in 0..2 {
                self.pair(half + 1, 0)?;
                self.tile(half, 0)?;
            }
            self.asm.add(r::rax, (4 * pixel) as i32)?;
            self.asm.add(r::rdx, (2 * tile) as i32)?;
            if rounds > 1 {
                self.asm.dec(r::esi)?;
                self.asm.jne(top)?;
            }
        }
        for t in 2 * rounds..tiles {
            self.pair(t + 1, 2 * rounds)?;
            self.tile(t, 2 * rounds)?;
        }
        // On to the next 64 channels.
        self.asm.add(r::rdx, 64 - (2 * rounds * tile) as i32)?;
        for row in ROWS {
            self.asm.add(row, 64)?;
        }
        Ok(())
    }

    /// Loads and transforms pair `pair` of columns; `rax` is at tile `base`.
    fn pair(&mut self, pair: usize, base: usize) -> Asm {
        for half in 0..2 {
            let column = self.data.column(2 * pair + half);
            let first = pair % 2 * 8 + half * DATA;
            let [a, b, c, d] = std::array::from_fn(|row| ZMM[first + row]);
            let middle = ZMM[TEMPORARY];
            for (row, register) in [a, middle, c, d].into_iter().enumerate() {
                match column {
                    Some(column) => {
                        let at =
                            (column * self.data.channels) as i32 - (2 * base * self.data.channels) as i32;
                        let at = zmmword_ptr(ROWS[row] + r::rax + at);
                        if self.tail {
                            self.asm.vmovdqu8(register.k1().z(), at)?;
                        } else {
                            self.asm.vmovdqu8(register, at)?;
                        }
                    }
                    None => self.asm.vmovdqa64(register, ZERO)?,
                }
            }
            if pair % 2 == 1 {
                self.asm.vpxord(c, c, FLIP)?;
                self.asm.vpxord(d, d, FLIP)?;
            }
            self.asm.vpsubb(a, a, c)?;
            self.asm.vpaddb(b, middle, c)?;
            self.asm.vpsubb(d, middle, d)?;
            self.asm.vpsubb(c, c, middle)?;
        }
        Ok(())
    }

    /// Transforms along rows and stores tile `tile`, whose halves are in registers; `rdx` is at tile `base`.
    fn tile(&mut self, tile: usize, base: usize) -> Asm {
        for row in 0..DATA {
            let column = |c: usize| ZMM[(tile + c / 2) % 2 * 8 + c % 2 * DATA + row];
            let [a, b, c, d] = [0, 1, 2, 3].map(column);
            let out: [AsmRegisterZmm; DATA] = std::array::from_fn(|i| ZMM[TEMPORARY + row % 2 * DATA + i]);
            self.asm.vpsubb(out[0], a, c)?;
            self.asm.vpaddb(out[1], b, c)?;
            self.asm.vpsubb(out[2], c, b)?;
            self.asm.vpsubb(out[3], b, d)?;
            if row == 1 && self.data.centre != 0 {
                self.asm.vpaddb(out[1], out[1], CENTRE)?;
            }
            for (i, value) in out.into_iter().enumerate() {
                let offset = (row * DATA + i) * self.data.plane + (tile - base) * self.data.tile;
                let at = zmmword_ptr(r::rdx + offset as i32);
                if self.tail {
                    self.asm.vmovdqu8(at.k2(), value)?;
                } else {
                    self.asm.vmovdqu8(at, value)?;
                }
                // The next tile's line comes to the first level meanwhile: 16 planes do not stay there.
                self.asm.prefetchw(byte_ptr(r::rdx + (offset + self.data.tile) as i32))?;
            }
        }
        Ok(())
    }
}
