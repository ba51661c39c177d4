//! Tiles with AVX-512 VNNI: `vpdpbusd zmm` multiplies u8 activations by s8 weights four at a time, exactly.
//!
//! Registers: rows × vectors accumulators (at most 28), then weights and broadcasts. Four consecutive activation bytes
//! of a row are broadcast and multiplied with each vector of weights. The epilogue splits accumulators into even and odd
//! channels, multiplies in 64 bits, rounds, shifts and merges under a mask: about ten instructions for 16 results.
use super::{
    regs::{XMM, YMM, ZMM},
    requantize,
};
use crate::ukernel::{Grid, Isa, Rescale, Tile, Weights, rescale::MAGIC};
use iced_x86::{
    IcedError,
    code_asm::{
        AsmMemoryOperand, AsmRegisterZmm, CodeAssembler, CodeLabel, byte_ptr, dword_ptr, registers as r,
        word_ptr, xmmword_ptr, ymmword_ptr, zmmword_ptr,
    },
};

type Asm = Result<(), IcedError>;

/// Largest number of rows with which a tile of that many vectors keeps its accumulators in registers: Int8 leaves four
/// for weights and broadcasts, Int4 needs all its weights, a mask and one broadcast.
pub fn max_rows(weights: Weights, vectors: usize) -> usize {
    match weights {
        Weights::Int4Times16 => (30 - vectors.max(2)) / vectors,
        Weights::Int8 | Weights::Int16 | Weights::Int4Offset { .. } => 28 / vectors,
    }
}

/// Machine code of the tile, whose weights are `Int8` or `Int4Times16`.
///
/// # Errors
/// The assembler refuses an instruction, which is a defect of this file.
pub fn assemble(tile: &Tile) -> Result<Vec<u8>, IcedError> {
    debug_assert!(matches!(tile.weights, Weights::Int8 | Weights::Int4Times16));
    let mut k = Kernel::new(tile)?;
    k.load_bias()?;
    k.multiply()?;
    match tile.rescale {
        Rescale::Float => k.rescale_float()?,
        Rescale::Integer { short_shift } => k.rescale_integer(short_shift)?,
    }
    match tile.grid {
        Grid::U8 => k.store_u8()?,
        Grid::I16 => k.store_i16()?,
    }
    k.asm.vzeroupper()?;
    k.asm.ret()?;
    k.constants()?;
    k.asm.assemble(0)
}

struct Kernel<'a> {
    asm: CodeAssembler,
    tile: &'a Tile,
    permutation: CodeLabel,
    /// 1.5·2²³ + zero point, f32.
    magic: CodeLabel,
    /// Zero point, lower and upper bound.
    bounds: [CodeLabel; 3],
}

impl<'a> Kernel<'a> {
    fn new(tile: &'a Tile) -> Result<Self, IcedError> {
        let mut asm = CodeAssembler::new(64)?;
        let (permutation, magic) = (asm.create_label(), asm.create_label());
        let bounds = [asm.create_label(), asm.create_label(), asm.create_label()];
        Ok(Self { asm, tile, permutation, magic, bounds })
    }

    fn accumulators(&self) -> usize {
        self.tile.rows * self.tile.vectors
    }

    fn acc(&self, row: usize, vector: usize) -> AsmRegisterZmm {
        ZMM[row * self.tile.vectors + vector]
    }

    /// Registers behind the accumulators.
    fn free(&self) -> &'static [AsmRegisterZmm] {
        &ZMM[self.accumulators()..]
    }

    fn epilogue(&self, vector: usize, offset: usize) -> AsmMemoryOperand {
        let block = Isa::Vnni512.epilogue_bytes(self.tile.rescale);
        zmmword_ptr(r::rcx + (vector * block + offset) as i32)
    }

    /// Accumulators start at the bias.
    fn load_bias(&mut self) -> Asm {
        for v in 0..self.tile.vectors {
            self.asm.vmovdqu32(self.acc(0, v), self.epilogue(v, 0))?;
            for row in 1..self.tile.rows {
                self.asm.vmovdqa32(self.acc(row, v), self.acc(0, v))?;
            }
        }
        Ok(())
    }

    fn multiply(&mut self) -> Asm {
        let tile = self.tile;
        let steps = tile.run / 4;
        // Int4 shares a 64-byte vector between two vectors of weights, with one vector between two steps.
        let int4 = tile.weights == Weights::Int4Times16;
        let whole = if int4 { 2usize.div_ceil(tile.vectors) } else { 1 };
        let unroll = [4, 6, 3, 5, 7, 2, 1]
            .into_iter()
            .find(|u| steps.is_multiple_of(*u) && u.is_multiple_of(whole))
            .unwrap_or(steps);
        let step_bytes = tile.vectors * if int4 { 32 } else { 64 };
        let (mut outer, mut inner) = (self.asm.create_label(), self.asm.create_label());
        if int4 {
            let mask = ZMM[31];
            self.asm.mov(r::eax, 0xF0F0_F0F0u32)?;
            self.asm.vpbroadcastd(mask, r::eax)?;
        }
        self.asm.mov(r::r9, r::rdi)?;
        if tile.kernel_rows > 1 {
            self.asm.mov(r::r8d, tile.kernel_rows as i32)?;
            self.asm.set_label(&mut outer)?;
        }
        let trips = steps / unroll;
        if trips > 1 {
            self.asm.mov(r::eax, trips as i32)?;
            self.asm.set_label(&mut inner)?;
        }
        self.unrolled(unroll, step_bytes)?;
        self.asm.add(r::r9, (4 * unroll) as i32)?;
        self.asm.add(r::rsi, (step_bytes * unroll) as i32)?;
        if trips > 1 {
            self.asm.dec(r::eax)?;
            self.asm.jne(inner)?;
        }
        if tile.kernel_rows > 1 {
            self.asm.add(r::r9, tile.kernel_row_stride as i32 - tile.run as i32)?;
            self.asm.dec(r::r8d)?;
            self.asm.jne(outer)?;
        }
        Ok(())
    }

    /// `unroll` steps of four k each.
    fn unrolled(&mut self, unroll: usize, step_bytes: usize) -> Asm {
        let tile = self.tile;
        let mut free = self.free();
        if tile.weights == Weights::Int4Times16 {
            free = &free[..free.len() - 1];
        }
        // Int4 needs all its weights (at least one pair) in registers; Int8 reads those that do not fit from memory.
        let pairs = tile.weights == Weights::Int4Times16;
        let wanted = if pairs { tile.vectors.max(2) } else { tile.vectors };
        let in_registers = wanted.min(free.len() - 1);
        let (weights, broadcasts) = free.split_at(in_registers);
        let broadcasts = &broadcasts[..broadcasts.len().min(4)];
        for step in 0..unroll {
            let at = (step * step_bytes) as i32;
            if tile.prefetch > 0 {
                for line in (0..step_bytes).step_by(64).filter(|l| (step * step_bytes + l).is_multiple_of(64))
                {
                    self.asm.prefetcht1(byte_ptr(r::rsi + at + (tile.prefetch + line) as i32))?;
                }
            }
            if !pairs {
                for (v, w) in weights.iter().enumerate() {
                    self.asm.vmovdqu32(*w, zmmword_ptr(r::rsi + at + (v * 64) as i32))?;
                }
            } else if tile.vectors > 1 {
                for (p, pair) in weights.chunks_exact(2).enumerate() {
                    self.unpack(pair[0], pair[1], at + (p * 64) as i32)?;
                }
            } else if step.is_multiple_of(2) {
                self.unpack(weights[0], weights[1], at)?;
            }
            for row in 0..tile.rows {
                let b = broadcasts[row % broadcasts.len()];
                self.asm.vpbroadcastd(b, dword_ptr(r::r9 + (tile.pixel(row) + step * 4) as i32))?;
                for v in 0..tile.vectors {
                    let register = if pairs && tile.vectors == 1 { step % 2 } else { v };
                    match weights.get(register) {
                        Some(w) => self.asm.vpdpbusd(self.acc(row, v), b, *w)?,
                        None => {
                            let memory = zmmword_ptr(r::rsi + at + (v * 64) as i32);
                            self.asm.vpdpbusd(self.acc(row, v), b, memory)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Two vectors of weights, sixteen times their value, from the nibbles of one.
    fn unpack(&mut self, low: AsmRegisterZmm, high: AsmRegisterZmm, at: i32) -> Asm {
        let mask = ZMM[31];
        self.asm.vmovdqu32(high, zmmword_ptr(r::rsi + at))?;
        self.asm.vpsllw(low, high, 4)?;
        self.asm.vpandd(high, high, mask)?;
        self.asm.vpandd(low, low, mask)
    }

    /// acc ← round(acc · M/2^e) + zero point, by one fused multiply-add (`ukernel::rescale`).
    fn rescale_float(&mut self) -> Asm {
        let [magic, bits, ..] = *self.free() else { return Ok(()) };
        self.asm.vpbroadcastd(magic, dword_ptr(self.magic))?;
        self.asm.mov(r::eax, MAGIC.to_bits())?;
        self.asm.vpbroadcastd(bits, r::eax)?;
        for row in 0..self.tile.rows {
            for v in 0..self.tile.vectors {
                let (acc, scale) = (self.acc(row, v), self.epilogue(v, 64));
                self.asm.vcvtdq2ps(acc, acc)?;
                self.asm.vfmadd132ps(acc, magic, scale)?;
                self.asm.vpsubd(acc, acc, bits)?;
            }
        }
        Ok(())
    }

    /// acc ← (acc · M + 2^(e−1)) >> e, in 64 bits for even and odd channels apart.
    fn rescale_integer(&mut self, short_shift: bool) -> Asm {
        self.asm.mov(r::eax, 0xAAAA)?;
        self.asm.kmovw(r::k1, r::eax)?;
        let free = self.free();
        for row in 0..self.tile.rows {
            for v in 0..self.tile.vectors {
                let even = self.acc(row, v);
                let odd = free[(row * self.tile.vectors + v) % free.len()];
                let block = self.epilogue(v, 0);
                requantize::zmm(&mut self.asm, [even, odd, even.k1()], block, short_shift)?;
            }
        }
        Ok(())
    }

    /// The registers that the store sequences use beside the accumulators: permutation, zero point, bounds.
    fn store_registers(&mut self) -> Result<[AsmRegisterZmm; 4], IcedError> {
        let free = self.free();
        let regs = [free[0], free[1], free[2], free[3]];
        self.asm.vmovdqu32(regs[0], zmmword_ptr(self.permutation))?;
        for (i, register) in regs[1..].iter().enumerate() {
            let wanted = match i {
                0 => self.adds_zero_point(),
                1 => self.tile.clamp.0 != self.lowest(),
                _ => self.tile.clamp.1 != self.highest(),
            };
            if wanted {
                self.asm.vpbroadcastw(*register, word_ptr(self.bounds[i]))?;
            }
        }
        Ok(regs)
    }

    /// Whether the store sequence adds the zero point; the rescaling in f32 has done it.
    fn adds_zero_point(&self) -> bool {
        self.tile.rescale != Rescale::Float && self.tile.zero_point != 0
    }

    /// What the saturating packs give without a clamp.
    fn lowest(&self) -> i32 {
        match self.tile.grid {
            Grid::U8 => 0,
            Grid::I16 => i32::from(i16::MIN),
        }
    }

    fn highest(&self) -> i32 {
        match self.tile.grid {
            Grid::U8 => 255,
            Grid::I16 => i32::from(i16::MAX),
        }
    }

    /// Four vectors of i32 become 64 bytes: saturate to i16, add the zero point, clamp, saturate to u8, put the
    /// 32-bit lanes back in order. All steps are monotone, so saturating early does not change the clamped result.
    fn store_u8(&mut self) -> Asm {
        let [permutation, zero_point, lo, hi] = self.store_registers()?;
        let total = self.accumulators();
        for first in (0..total).step_by(4) {
            let x = |i: usize| ZMM[(first + i).min(total - 1)];
            let halves: &[usize] = if first + 2 < total { &[0, 2] } else { &[0] };
            for h in halves {
                let half = x(*h);
                self.asm.vpackssdw(half, half, x(h + 1))?;
                if self.adds_zero_point() {
                    self.asm.vpaddsw(half, half, zero_point)?;
                }
                self.clamp(half, lo, hi)?;
            }
            let last = x(halves[halves.len() - 1]);
            self.asm.vpackuswb(x(0), x(0), last)?;
            self.asm.vpermd(x(0), permutation, x(0))?;
            self.store_groups(first, total.min(first + 4), 16)?;
        }
        Ok(())
    }

    /// Two vectors of i32 become 32 i16.
    fn store_i16(&mut self) -> Asm {
        let [permutation, _, lo, hi] = self.store_registers()?;
        let total = self.accumulators();
        for first in (0..total).step_by(2) {
            let x = |i: usize| ZMM[(first + i).min(total - 1)];
            self.asm.vpackssdw(x(0), x(0), x(1))?;
            self.clamp(x(0), lo, hi)?;
            self.asm.vpermq(x(0), permutation, x(0))?;
            self.store_groups(first, total.min(first + 2), 32)?;
        }
        Ok(())
    }

    fn clamp(&mut self, x: AsmRegisterZmm, lo: AsmRegisterZmm, hi: AsmRegisterZmm) -> Asm {
        if self.tile.clamp.0 != self.lowest() {
            self.asm.vpmaxsw(x, x, lo)?;
        }
        if self.tile.clamp.1 != self.highest() {
            self.asm.vpminsw(x, x, hi)?;
        }
        Ok(())
    }

    /// Stores the `piece`-byte results of accumulators first..end, which lie one behind the other in register `first`.
    /// Pieces of one row that are whole and adjacent leave in one store.
    fn store_groups(&mut self, first: usize, end: usize, piece: usize) -> Asm {
        let (vectors, element) = (self.tile.vectors, self.tile.grid.bytes());
        let mut i = first;
        while i < end {
            let (row, vector) = (i / vectors, i % vectors);
            let offset = row * self.tile.out_stride + vector * piece;
            let position = (i - first) * piece;
            let mut pieces = (vectors - vector).min(end - i);
            // A register holds 64 bytes and halves and quarters are extracted whole.
            while !position.is_multiple_of(pieces * piece) || !(pieces * piece).is_power_of_two() {
                pieces -= 1;
            }
            let exist = (self.tile.columns.saturating_sub(vector * 16) * element).min(pieces * piece);
            self.store(first, position, pieces * piece, offset, exist)?;
            i += pieces;
        }
        Ok(())
    }

    /// Stores `exist` of the `bytes` at `position` of register `source`.
    fn store(&mut self, source: usize, position: usize, bytes: usize, offset: usize, exist: usize) -> Asm {
        if exist == 0 {
            return Ok(());
        }
        let at = r::rdx + offset as i32;
        let piece = (position / bytes) as u32;
        let a = &mut self.asm;
        if exist == bytes {
            return match (bytes, piece) {
                (64, _) => a.vmovdqu32(zmmword_ptr(at), ZMM[source]),
                (32, 0) => a.vmovdqu32(ymmword_ptr(at), YMM[source]),
                (32, _) => a.vextracti64x4(ymmword_ptr(at), ZMM[source], piece),
                (_, 0) => a.vmovdqu32(xmmword_ptr(at), XMM[source]),
                _ => a.vextracti32x4(xmmword_ptr(at), ZMM[source], piece),
            };
        }
        // Only the last vector is partial: a byte mask keeps the store inside the tensor. The second accumulator of the
        // group has been packed into the first and is free.
        let scratch = source + 1;
        a.mov(r::rax, u64::MAX >> (64 - exist))?;
        a.kmovq(r::k2, r::rax)?;
        match (bytes, piece) {
            (64, _) => a.vmovdqu8(zmmword_ptr(at).k2(), ZMM[source]),
            (32, 0) => a.vmovdqu8(ymmword_ptr(at).k2(), YMM[source]),
            (32, _) => {
                a.vextracti64x4(YMM[scratch], ZMM[source], piece)?;
                a.vmovdqu8(ymmword_ptr(at).k2(), YMM[scratch])
            }
            (_, 0) => a.vmovdqu8(xmmword_ptr(at).k2(), XMM[source]),
            _ => {
                a.vextracti32x4(XMM[scratch], ZMM[source], piece)?;
                a.vmovdqu8(xmmword_ptr(at).k2(), XMM[scratch])
            }
        }
    }

    /// Constants behind the code, read with unaligned loads.
    fn constants(&mut self) -> Asm {
        let order: Vec<u8> = match self.tile.grid {
            // Lane l of the packed vector holds 4 bytes of each of x0..x3; wanted: all of x0, then x1, …
            Grid::U8 => (0..16u32).flat_map(|i| ((i % 4) * 4 + i / 4).to_le_bytes()).collect(),
            Grid::I16 => (0..8u64).flat_map(|i| ((i % 4) * 2 + i / 4).to_le_bytes()).collect(),
        };
        self.asm.set_label(&mut self.magic)?;
        self.asm.db(&(MAGIC + self.tile.zero_point as f32).to_le_bytes())?;
        self.asm.set_label(&mut self.permutation)?;
        self.asm.db(&order)?;
        let (lo, hi) = self.tile.clamp;
        for (label, value) in self.bounds.iter_mut().zip([self.tile.zero_point, lo, hi]) {
            self.asm.set_label(label)?;
            self.asm.db(&(value as i16).to_le_bytes())?;
        }
        Ok(())
    }
}
