//! Data transform of a line: 64 channels an instruction, each column loaded once.
use crate::ukernel::{
    line::{Data, OFFSET, depth, pair_bytes},
    winograd::DATA,
    x64::{channels, regs::ZMM, row::Asm},
};
use iced_x86::{
    IcedError,
    code_asm::{AsmRegisterZmm, CodeAssembler, registers as r, zmmword_ptr},
};

/// Columns of a pair, the last two of them flipped, transformed columns, and values in every byte.
const COLUMNS: usize = 0;
const FLIPPED: usize = 4;
const OUT: usize = 8;
const CENTRE: AsmRegisterZmm = ZMM[29];
const FLIP: AsmRegisterZmm = ZMM[30];
const ZERO: AsmRegisterZmm = ZMM[31];

/// Machine code.
///
/// # Errors
/// The assembler refuses an instruction, which is a defect of this file.
pub fn assemble(data: &Data) -> Result<Vec<u8>, IcedError> {
    let mut asm = CodeAssembler::new(64)?;
    channels::constants(&mut asm, [(ZERO, data.zero_point), (FLIP, OFFSET as u8), (CENTRE, data.centre)])?;
    channels::each(asm, [data.channels, depth(data.channels)], |asm, tail| Kernel { asm, data, tail }.chunk())
}

struct Kernel<'a> {
    asm: &'a mut CodeAssembler,
    data: &'a Data,
    /// Whether the chunk is the last one, under masks.
    tail: bool,
}

impl Kernel<'_> {
    /// Up to 64 channels of all pairs.
    fn chunk(&mut self) -> Asm {
        let Data { pairs, channels, .. } = *self.data;
        // Pairs whose last columns lie inside the image differ by addresses only.
        let inside = |t: &usize| (2..4).all(|c| self.data.column(2 * t + c).is_some());
        let alike = (0..pairs).take_while(inside).count();
        self.asm.xor(r::eax, r::eax)?;
        self.load(0, 0, 0)?;
        self.load(1, 1, 0)?;
        if alike > 0 {
            let mut top = self.asm.create_label();
            if alike > 1 {
                self.asm.mov(r::esi, alike as i32)?;
                self.asm.set_label(&mut top)?;
            }
            self.pair(0, 0)?;
            self.asm.add(r::rax, (2 * channels) as i32)?;
            self.asm.add(r::rdx, pair_bytes(channels) as i32)?;
            if alike > 1 {
                self.asm.dec(r::esi)?;
                self.asm.jne(top)?;
            }
        }
        for t in alike..pairs {
            self.pair(t, alike)?;
        }
        // On to the next 64 channels.
        self.asm.add(r::rdx, 64 - (alike * pair_bytes(channels)) as i32)?;
        self.asm.add(r::rdi, 64)
    }

    /// Column `column` of the padded line into a register; `rax` is at pair `base`.
    fn load(&mut self, register: usize, column: usize, base: usize) -> Asm {
        let register = ZMM[COLUMNS + register];
        let Some(column) = self.data.column(column) else { return self.asm.vmovdqa64(register, ZERO) };
        let channels = self.data.channels as i32;
        let at = zmmword_ptr(r::rdi + r::rax + (column as i32 - 2 * base as i32) * channels);
        if self.tail { self.asm.vmovdqu8(register.k1().z(), at) } else { self.asm.vmovdqu8(register, at) }
    }

    /// Transforms and stores pair `t`, whose first two columns are in registers; leaves the next one's there.
    fn pair(&mut self, t: usize, base: usize) -> Asm {
        let [a, b, c, d] = std::array::from_fn(|i| ZMM[COLUMNS + i]);
        let (x, y) = (ZMM[FLIPPED], ZMM[FLIPPED + 1]);
        let out: [AsmRegisterZmm; DATA] = std::array::from_fn(|i| ZMM[OUT + i]);
        self.load(2, 2 * t + 2, base)?;
        self.load(3, 2 * t + 3, base)?;
        self.asm.vpxord(x, c, FLIP)?;
        self.asm.vpxord(y, d, FLIP)?;
        self.asm.vpsubb(out[0], a, x)?;
        self.asm.vpaddb(out[1], b, x)?;
        self.asm.vpsubb(out[2], x, b)?;
        self.asm.vpsubb(out[3], b, y)?;
        if self.data.centre != 0 {
            self.asm.vpaddb(out[1], out[1], CENTRE)?;
        }
        self.asm.vmovdqa64(a, c)?;
        self.asm.vmovdqa64(b, d)?;
        let channels = self.data.channels;
        for (position, value) in out.into_iter().enumerate() {
            let at = (t - base) * pair_bytes(channels) + position * depth(channels);
            let at = zmmword_ptr(r::rdx + at as i32);
            if self.tail {
                self.asm.vmovdqu8(at.k2(), value)?;
            } else {
                self.asm.vmovdqu8(at, value)?;
            }
        }
        Ok(())
    }
}
