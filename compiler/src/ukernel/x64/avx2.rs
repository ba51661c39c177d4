//! Tiles with AVX2. Three ways to multiply on CPUs without 8-bit dot products, all exact:
//!
//! * [`Weights::Int8`]: `vpmaddubsw`, `vpmaddwd` by ones, `vpaddd`. `vpmaddubsw` saturates at i16, so the planner uses
//!   it only for weights that cannot get there.
//! * [`Weights::Int16`]: even and odd activation bytes as u16 times weights as i16 by `vpmaddwd`: any weights.
//! * [`Weights::Int4Offset`]: nibbles unpacked in registers, `vpmaddubsw`, sums in i16 for `period` steps, then
//!   widened. INT4 is really faster here: two instructions for 32 products instead of three.
//!
//! With them ([`Dot`]) `vpdpbusd ymm`: one instruction, any weights; INT4 as in [`super::vnni512`].
use super::{
    regs::{XMM, YMM},
    requantize,
};
use crate::ukernel::{Dot, Grid, Isa, Join, Rescale, Tile, Weights, join, rescale::MAGIC, tile::NEAR};
use iced_x86::{
    IcedError,
    code_asm::{
        AsmMemoryOperand, AsmRegister64, AsmRegisterXmm, AsmRegisterYmm, CodeAssembler, CodeLabel, byte_ptr,
        dword_ptr, qword_ptr, registers as r, word_ptr, xmmword_ptr, ymmword_ptr,
    },
};

type Asm = Result<(), IcedError>;

/// Channels of one vector.
pub const LANES: usize = 8;

/// Largest number of rows of a tile of that many vectors: 16 registers hold accumulators, broadcasts, temporaries and
/// constants.
pub fn max_rows(weights: Weights, vectors: usize) -> usize {
    match weights {
        Weights::Int8 => 12 / vectors,
        Weights::Int16 => 10 / vectors,
        // Two registers of unpacked weights.
        Weights::Int4Offset { .. } | Weights::Int4Times16 | Weights::Int4Unpacking | Weights::Int4Bytes => {
            12 / vectors.max(2)
        }
    }
}

/// Bytes of scratch that the tile needs at `r8`: i32 sums beside the i16 ones.
pub fn scratch_bytes(tile: &Tile) -> usize {
    match tile.weights {
        Weights::Int4Offset { .. } => tile.rows * tile.vectors * 32,
        Weights::Int8
        | Weights::Int16
        | Weights::Int4Times16
        | Weights::Int4Unpacking
        | Weights::Int4Bytes => 0,
    }
}

/// acc ← acc + x · w, four u8 of x by four s8 of w in each lane.
pub(super) fn dot_product(asm: &mut CodeAssembler, dot: Dot, [acc, x, w]: [AsmRegisterYmm; 3]) -> Asm {
    match dot {
        Dot::Vex => asm.vex().vpdpbusd(acc, x, w),
        Dot::Evex => asm.evex().vpdpbusd(acc, x, w),
    }
}

/// Machine code of the tile.
///
/// # Errors
/// The assembler refuses an instruction, which is a defect of this file.
pub fn assemble(tile: &Tile) -> Result<Vec<u8>, IcedError> {
    let mut k = Kernel::new(tile)?;
    k.load_bias()?;
    k.multiply()?;
    k.finish()?;
    k.code()
}

/// Vectors of 32 equal bytes or words behind the code.
struct Constants {
    ones: CodeLabel,
    low_nibbles: CodeLabel,
    eights: CodeLabel,
    low_bytes: CodeLabel,
    high_nibbles: CodeLabel,
    order: CodeLabel,
    lo: CodeLabel,
    hi: CodeLabel,
    /// Bounds of the sum that is stored before the last results.
    sum_lo: CodeLabel,
    sum_hi: CodeLabel,
    /// 1.5·2²³ + zero point, and 1.5·2²³; f32.
    magic: CodeLabel,
    magic_bits: CodeLabel,
    /// Zero point, i32.
    zero_point: CodeLabel,
}

/// Where results go, and how.
#[derive(Clone, Copy)]
struct Stored {
    to: AsmRegister64,
    stride: usize,
    grid: Grid,
    clamp: (i32, i32),
}

/// A kernel that ends as a tile does.
pub(super) struct Kernel<'a> {
    pub asm: CodeAssembler,
    pub tile: &'a Tile,
    c: Constants,
}

impl<'a> Kernel<'a> {
    pub fn new(tile: &'a Tile) -> Result<Self, IcedError> {
        let mut asm = CodeAssembler::new(64)?;
        let mut label = || asm.create_label();
        let c = Constants {
            ones: label(),
            low_nibbles: label(),
            eights: label(),
            low_bytes: label(),
            high_nibbles: label(),
            order: label(),
            lo: label(),
            hi: label(),
            sum_lo: label(),
            sum_hi: label(),
            magic: label(),
            magic_bits: label(),
            zero_point: label(),
        };
        Ok(Self { asm, tile, c })
    }

    fn accumulators(&self) -> usize {
        self.tile.rows * self.tile.vectors
    }

    /// Accumulator of a pixel and a vector of channels.
    pub fn acc(&self, row: usize, vector: usize) -> AsmRegisterYmm {
        YMM[row * self.tile.vectors + vector]
    }

    fn epilogue(&self, vector: usize, offset: usize) -> AsmMemoryOperand {
        let block = Isa::Avx2.epilogue_bytes(self.tile.rescale);
        ymmword_ptr(r::rcx + (vector * block + offset) as i32)
    }

    fn sum(index: usize) -> AsmMemoryOperand {
        ymmword_ptr(r::r8 + (index * 32) as i32)
    }

    /// Whether sums stay in i16 for a while.
    fn is_short(&self) -> bool {
        matches!(self.tile.weights, Weights::Int4Offset { .. })
    }

    /// i32 sums start at the bias: in registers, or in the scratch area where registers hold i16 sums.
    fn load_bias(&mut self) -> Asm {
        for v in 0..self.tile.vectors {
            let first = self.acc(0, v);
            self.asm.vmovdqu(first, self.epilogue(v, 0))?;
            for row in 0..self.tile.rows {
                if self.is_short() {
                    self.asm.vmovdqu(Self::sum(row * self.tile.vectors + v), first)?;
                } else if row > 0 {
                    self.asm.vmovdqa(self.acc(row, v), first)?;
                }
            }
        }
        Ok(())
    }

    fn multiply(&mut self) -> Asm {
        let tile = self.tile;
        let steps = tile.run / 4;
        let (unroll, step_bytes) = match tile.weights {
            Weights::Int4Offset { period } => {
                // A single vector shares its bytes between two steps.
                let whole = 3 - tile.vectors;
                let fits = |u: &usize| steps.is_multiple_of(*u) && u.is_multiple_of(whole);
                ((2..=period.min(steps)).rev().find(fits).unwrap_or(whole), tile.vectors * 16)
            }
            Weights::Int4Times16 => {
                let whole = 3 - tile.vectors;
                (whole * unroll_of(steps / whole), tile.vectors * 16)
            }
            Weights::Int16 => (unroll_of(steps), tile.vectors * 64),
            Weights::Int8 | Weights::Int4Unpacking | Weights::Int4Bytes => {
                (unroll_of(steps), tile.vectors * 32)
            }
        };
        let (mut outer, mut inner) = (self.asm.create_label(), self.asm.create_label());
        let constant = match (tile.dot, tile.weights) {
            (Some(_), Weights::Int4Times16) => Some(self.c.high_nibbles),
            (None, Weights::Int8) => Some(self.c.ones),
            (None, Weights::Int16) => Some(self.c.low_bytes),
            _ => None,
        };
        if let Some(constant) = constant {
            self.asm.vmovdqu(YMM[15], ymmword_ptr(constant))?;
        }
        if tile.join.is_some() {
            self.asm.mov(r::r11, r::r9)?;
        }
        self.asm.mov(r::r9, r::rdi)?;
        if tile.kernel_rows > 1 {
            self.asm.mov(r::r10d, tile.kernel_rows as i32)?;
            self.asm.set_label(&mut outer)?;
        }
        let trips = steps / unroll;
        if trips > 1 {
            self.asm.mov(r::eax, trips as i32)?;
            self.asm.set_label(&mut inner)?;
        }
        let fetched = tile.fetched_lines(trips);
        for step in 0..unroll {
            let at = step * step_bytes;
            for line in step * fetched / unroll..(step + 1) * fetched / unroll {
                self.asm.prefetcht1(byte_ptr(r::r8 + (64 * line) as i32))?;
            }
            if tile.rows == 1 {
                for line in (at..at + step_bytes).filter(|l| l.is_multiple_of(64)) {
                    self.asm.prefetcht0(byte_ptr(r::rsi + line + NEAR))?;
                }
            }
            self.step(step, at)?;
        }
        if self.is_short() {
            self.flush()?;
        }
        if fetched > 0 {
            self.asm.add(r::r8, (64 * fetched) as i32)?;
        }
        self.asm.add(r::r9, (4 * unroll) as i32)?;
        self.asm.add(r::rsi, (step_bytes * unroll) as i32)?;
        if trips > 1 {
            self.asm.dec(r::eax)?;
            self.asm.jne(inner)?;
        }
        if tile.kernel_rows > 1 {
            self.asm.add(r::r9, tile.kernel_row_stride as i32 - tile.run as i32)?;
            self.asm.dec(r::r10d)?;
            self.asm.jne(outer)?;
        }
        if self.is_short() {
            for i in 0..self.accumulators() {
                self.asm.vmovdqu(YMM[i], Self::sum(i))?;
            }
        }
        Ok(())
    }

    /// Four k of every row and channel.
    fn step(&mut self, step: usize, at: usize) -> Asm {
        let tile = self.tile;
        let weight = |v: usize, part: usize| ymmword_ptr(r::rsi + (at + (v * 2 + part) * 32) as i32);
        let byte_weight = |v: usize| ymmword_ptr(r::rsi + (at + v * 32) as i32);
        let activations = |row: usize| dword_ptr(r::r9 + (tile.pixel(row) + step * 4) as i32);
        if let Some(dot) = tile.dot {
            return self.dot_step(dot, step, at);
        }
        match tile.weights {
            Weights::Int8 | Weights::Int4Times16 | Weights::Int4Unpacking | Weights::Int4Bytes => {
                for row in 0..tile.rows {
                    self.asm.vpbroadcastd(YMM[14], activations(row))?;
                    for v in 0..tile.vectors {
                        let t = YMM[12 + v % 2];
                        self.asm.vpmaddubsw(t, YMM[14], byte_weight(v))?;
                        self.asm.vpmaddwd(t, t, YMM[15])?;
                        self.asm.vpaddd(self.acc(row, v), self.acc(row, v), t)?;
                    }
                }
            }
            Weights::Int16 => {
                let (even, odd) = (YMM[13], YMM[14]);
                for row in 0..tile.rows {
                    self.asm.vpbroadcastd(odd, activations(row))?;
                    self.asm.vpand(even, odd, YMM[15])?;
                    self.asm.vpsrlw(odd, odd, 8)?;
                    for v in 0..tile.vectors {
                        let acc = self.acc(row, v);
                        for (part, x) in [even, odd].into_iter().enumerate() {
                            let t = YMM[11 + part];
                            self.asm.vpmaddwd(t, x, weight(v, part))?;
                            self.asm.vpaddd(acc, acc, t)?;
                        }
                    }
                }
            }
            Weights::Int4Offset { .. } => {
                let w = [YMM[12], YMM[13]];
                // One vector: the pair of nibbles is two steps of it.
                let fresh = tile.vectors == 2 || step.is_multiple_of(2);
                if fresh {
                    self.asm.vmovdqu(w[0], ymmword_ptr(r::rsi + at as i32))?;
                    self.asm.vpsrlw(w[1], w[0], 4)?;
                    for x in w {
                        self.asm.vpand(x, x, ymmword_ptr(self.c.low_nibbles))?;
                        self.asm.vpsubb(x, x, ymmword_ptr(self.c.eights))?;
                    }
                }
                for row in 0..tile.rows {
                    self.asm.vpbroadcastd(YMM[14], activations(row))?;
                    for v in 0..tile.vectors {
                        let acc = self.acc(row, v);
                        let x = w[if tile.vectors == 2 { v } else { step % 2 }];
                        if step == 0 {
                            self.asm.vpmaddubsw(acc, YMM[14], x)?;
                        } else {
                            self.asm.vpmaddubsw(YMM[15], YMM[14], x)?;
                            self.asm.vpaddw(acc, acc, YMM[15])?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// [`Self::step`] by dot products.
    fn dot_step(&mut self, dot: Dot, step: usize, at: usize) -> Asm {
        let tile = self.tile;
        let int4 = tile.weights == Weights::Int4Times16;
        // Weights of this step; INT4 has those of the next one too where a step has one vector.
        let w = [YMM[12], YMM[13]];
        let a = &mut self.asm;
        if int4 && (tile.vectors == 2 || step.is_multiple_of(2)) {
            a.vmovdqu(w[1], ymmword_ptr(r::rsi + at as i32))?;
            a.vpslld(w[0], w[1], 4)?;
            for x in w {
                a.vpand(x, x, YMM[15])?;
            }
        }
        if !int4 {
            for (v, x) in w.into_iter().enumerate().take(tile.vectors) {
                a.vmovdqu(x, ymmword_ptr(r::rsi + (at + v * 32) as i32))?;
            }
        }
        for row in 0..tile.rows {
            // INT4 has a mask in the last register.
            let x = if int4 { YMM[14] } else { YMM[14 + row % 2] };
            self.asm.vpbroadcastd(x, dword_ptr(r::r9 + (tile.pixel(row) + step * 4) as i32))?;
            for v in 0..tile.vectors {
                let acc = self.acc(row, v);
                let w = w[if int4 && tile.vectors == 1 { step % 2 } else { v }];
                dot_product(&mut self.asm, dot, [acc, x, w])?;
            }
        }
        Ok(())
    }

    /// Adds the i16 sums to the i32 ones.
    fn flush(&mut self) -> Asm {
        for i in 0..self.accumulators() {
            self.asm.vpmaddwd(YMM[i], YMM[i], ymmword_ptr(self.c.ones))?;
            self.asm.vpaddd(YMM[i], YMM[i], Self::sum(i))?;
            self.asm.vmovdqu(Self::sum(i), YMM[i])?;
        }
        Ok(())
    }

    /// From sums to memory: `rdx` = result, `rcx` = epilogue; of a join `r11` = residual, and the second result's address on
    /// the stack, which replaces `rdx`. Writes `rax`.
    pub fn finish(&mut self) -> Asm {
        let tile = self.tile;
        let mut out = Stored { to: r::rdx, stride: tile.out_stride, grid: tile.grid, clamp: tile.clamp };
        match (tile.rescale, &tile.join) {
            (_, Some(join)) => {
                self.add_residual(join)?;
                if let Some(second) = join.second {
                    self.store_sum(out)?;
                    self.asm.mov(r::rdx, qword_ptr(r::rsp + 8))?;
                    out = Stored { stride: second.stride, grid: Grid::U8, clamp: second.clamp, ..out };
                }
            }
            (Rescale::Float, None) => self.rescale_float()?,
            (Rescale::Integer { short_shift }, None) => self.rescale_integer(short_shift)?,
        }
        self.store(out)
    }

    /// Return, constants, machine code.
    pub fn code(mut self) -> Result<Vec<u8>, IcedError> {
        self.asm.vzeroupper()?;
        self.asm.ret()?;
        self.constants()?;
        self.asm.assemble(0)
    }

    /// A constant of the join, behind the blocks of the vectors.
    fn join_constant(&self, offset: usize) -> AsmMemoryOperand {
        let blocks = self.tile.vectors * Isa::Avx2.epilogue_bytes(self.tile.rescale);
        ymmword_ptr(r::rcx + (blocks + offset) as i32)
    }

    /// acc ← rescale(n̂) + rescale(residual's x̂) + zero point, where n is the convolution's result, clamped if the second
    /// result needs it.
    fn add_residual(&mut self, join: &Join) -> Asm {
        let total = self.accumulators();
        let (magic, x) = (YMM[total], total + 1);
        let constant = |at: usize| self.join_constant(at);
        let (own, lo, hi) = (constant(join::OWN_SCALE), constant(join::OWN_LO), constant(join::OWN_HI));
        let (scale, zero) = (constant(join::RESIDUAL_SCALE), constant(join::RESIDUAL_ZERO));
        let (least, most, bits) = (constant(join::LO), constant(join::HI), constant(join::MAGIC_BITS));
        let (clamps_below, clamps_above) = join.second.map_or((false, false), |s| s.clamps_sum);
        self.asm.vmovups(magic, constant(join::MAGIC_BITS))?;
        for row in 0..self.tile.rows {
            for v in 0..self.tile.vectors {
                let (acc, rescale) = (self.acc(row, v), self.epilogue(v, 32));
                self.asm.vcvtdq2ps(acc, acc)?;
                self.asm.vfmadd132ps(acc, magic, rescale)?;
                if !join.own_unit {
                    self.asm.vsubps(acc, acc, magic)?;
                }
                if join.clamps {
                    self.asm.vmaxps(acc, acc, lo)?;
                    self.asm.vminps(acc, acc, hi)?;
                }
                if !join.own_unit {
                    self.asm.vfmadd132ps(acc, magic, own)?;
                }
                self.residual(join, x, row, v)?;
                let x = YMM[x];
                if join.residual_unit {
                    self.asm.vpaddd(acc, acc, x)?;
                    if clamps_below {
                        self.asm.vmaxps(acc, acc, least)?;
                    }
                    if clamps_above {
                        self.asm.vminps(acc, acc, most)?;
                    }
                    self.asm.vpsubd(acc, acc, bits)?;
                    continue;
                }
                self.asm.vcvtdq2ps(x, x)?;
                if join.residual == Grid::U8 {
                    self.asm.vsubps(x, x, zero)?;
                }
                self.asm.vfnmadd132ps(x, magic, scale)?;
                self.asm.vpsubd(acc, acc, x)?;
                if clamps_below {
                    self.asm.vpmaxsd(acc, acc, least)?;
                }
                if clamps_above {
                    self.asm.vpminsd(acc, acc, most)?;
                }
            }
        }
        if self.tile.zero_point != 0 {
            let zero_point = YMM[x];
            self.asm.vpbroadcastd(zero_point, dword_ptr(self.c.zero_point))?;
            for i in 0..total {
                self.asm.vpaddd(YMM[i], YMM[i], zero_point)?;
            }
        }
        Ok(())
    }

    /// The residual's elements of a row and vector as i32, read one by one where fewer than eight exist.
    fn residual(&mut self, join: &Join, x: usize, row: usize, v: usize) -> Asm {
        let element = join.residual.bytes();
        let at = r::r11 + (self.tile.result(row) * join.stride + v * LANES * element) as i32;
        let lanes = self.tile.columns.saturating_sub(v * LANES).min(LANES);
        let (low, a) = (XMM[x], &mut self.asm);
        if lanes == LANES {
            return match join.residual {
                Grid::U8 => a.vpmovzxbd(YMM[x], qword_ptr(at)),
                Grid::I16 => a.vpmovsxwd(YMM[x], xmmword_ptr(at)),
            };
        }
        a.vpxor(low, low, low)?;
        for i in 0..lanes {
            let from = at + i * element;
            match join.residual {
                Grid::U8 => a.vpinsrb(low, low, byte_ptr(from), i as u32)?,
                Grid::I16 => a.vpinsrw(low, low, word_ptr(from), i as u32)?,
            }
        }
        match join.residual {
            Grid::U8 => a.vpmovzxbd(YMM[x], low),
            Grid::I16 => a.vpmovsxwd(YMM[x], low),
        }
    }

    /// Stores the sums as i16, clamped, and rescales them to the second result.
    fn store_sum(&mut self, out: Stored) -> Asm {
        let total = self.accumulators();
        let [scale, bits, second] =
            [join::SECOND_SCALE, join::MAGIC_BITS, join::SECOND_MAGIC].map(|at| self.join_constant(at));
        for first in (0..total).step_by(2) {
            let packed = YMM[total];
            self.asm.vpackssdw(packed, YMM[first], YMM[(first + 1).min(total - 1)])?;
            // Packing saturates already.
            if out.clamp.0 > i32::from(i16::MIN) {
                self.asm.vpmaxsw(packed, packed, ymmword_ptr(self.c.sum_lo))?;
            }
            if out.clamp.1 < i32::from(i16::MAX) {
                self.asm.vpminsw(packed, packed, ymmword_ptr(self.c.sum_hi))?;
            }
            self.asm.vpermq(packed, packed, 0b11_01_10_00)?;
            self.store_pieces(out, first..total.min(first + 2), total)?;
        }
        let magic = YMM[total];
        self.asm.vmovups(magic, second)?;
        for i in 0..total {
            let acc = YMM[i];
            self.asm.vcvtdq2ps(acc, acc)?;
            self.asm.vfmadd132ps(acc, magic, scale)?;
            self.asm.vpsubd(acc, acc, bits)?;
        }
        Ok(())
    }

    /// acc ← round(acc · M/2^e) + zero point, by one fused multiply-add (`ukernel::rescale`).
    fn rescale_float(&mut self) -> Asm {
        let total = self.accumulators();
        let (magic, bits) = (YMM[total], YMM[total + 1]);
        self.asm.vbroadcastss(magic, dword_ptr(self.c.magic))?;
        self.asm.vbroadcastss(bits, dword_ptr(self.c.magic_bits))?;
        for row in 0..self.tile.rows {
            for v in 0..self.tile.vectors {
                let (acc, scale) = (self.acc(row, v), self.epilogue(v, 32));
                self.asm.vcvtdq2ps(acc, acc)?;
                self.asm.vfmadd132ps(acc, magic, scale)?;
                self.asm.vpsubd(acc, acc, bits)?;
            }
        }
        Ok(())
    }

    fn rescale_integer(&mut self, short_shift: bool) -> Asm {
        let total = self.accumulators();
        for row in 0..self.tile.rows {
            for v in 0..self.tile.vectors {
                let even = self.acc(row, v);
                let odd = YMM[total + (row * self.tile.vectors + v) % (16 - total)];
                let block = self.epilogue(v, 0);
                requantize::ymm(&mut self.asm, [even, odd], block, short_shift)?;
            }
        }
        Ok(())
    }

    /// Narrows with saturation (monotone, so it does not change the clamped result), clamps, stores.
    fn store(&mut self, out: Stored) -> Asm {
        let total = self.accumulators();
        let per_group = match out.grid {
            Grid::U8 => 4,
            Grid::I16 => 2,
        };
        for first in (0..total).step_by(per_group) {
            let x = |i: usize| YMM[(first + i).min(total - 1)];
            self.asm.vpackssdw(x(0), x(0), x(1))?;
            match out.grid {
                Grid::U8 => {
                    if first + 2 < total {
                        self.asm.vpackssdw(x(2), x(2), x(3))?;
                        self.asm.vpackuswb(x(0), x(0), x(2))?;
                    } else {
                        self.asm.vpackuswb(x(0), x(0), x(0))?;
                    }
                    // Lane l holds 4 bytes of each vector; wanted: 8 of the first, 8 of the second, …
                    self.asm.vmovdqu(YMM[15], ymmword_ptr(self.c.order))?;
                    self.asm.vpermd(x(0), YMM[15], x(0))?;
                    if out.clamp.0 > 0 {
                        self.asm.vpmaxub(x(0), x(0), ymmword_ptr(self.c.lo))?;
                    }
                    if out.clamp.1 < 255 {
                        self.asm.vpminub(x(0), x(0), ymmword_ptr(self.c.hi))?;
                    }
                }
                Grid::I16 => {
                    self.asm.vpermq(x(0), x(0), 0b11_01_10_00)?;
                    self.asm.vpmaxsw(x(0), x(0), ymmword_ptr(self.c.lo))?;
                    self.asm.vpminsw(x(0), x(0), ymmword_ptr(self.c.hi))?;
                }
            }
            self.store_pieces(out, first..total.min(first + per_group), first)?;
        }
        Ok(())
    }

    /// Stores the results of some accumulators, which lie one behind the other in register `packed`.
    fn store_pieces(&mut self, out: Stored, which: std::ops::Range<usize>, packed: usize) -> Asm {
        let piece = LANES * out.grid.bytes();
        let low = XMM[packed];
        let high = XMM[15];
        if which.len() * piece > 16 {
            self.asm.vextracti128(high, YMM[packed], 1)?;
        }
        for i in which.clone() {
            let (row, vector) = (i / self.tile.vectors, i % self.tile.vectors);
            let exist = self.tile.columns.saturating_sub(vector * LANES).min(LANES) * out.grid.bytes();
            let position = (i - which.start) * piece;
            let source = if position < 16 { low } else { high };
            let at = out.to + (self.tile.result(row) * out.stride + vector * piece) as i32;
            self.store_piece(source, position % 16, exist, at)?;
        }
        Ok(())
    }

    /// Stores `bytes` bytes of `source` from byte `from`, 0 or 8.
    fn store_piece(
        &mut self,
        source: AsmRegisterXmm,
        from: usize,
        bytes: usize,
        to: AsmMemoryOperand,
    ) -> Asm {
        let a = &mut self.asm;
        match (bytes, from) {
            (16, _) => return a.vmovdqu(xmmword_ptr(to), source),
            (8, 0) => return a.vmovq(qword_ptr(to), source),
            (8, _) => return a.vmovhps(qword_ptr(to), source),
            _ => {}
        }
        let (mut done, mut lane) = (0, (from / 8) as u32);
        if bytes > 8 {
            a.vmovq(qword_ptr(to), source)?;
            (done, lane) = (8, 1);
        }
        a.vpextrq(r::rax, source, lane)?;
        for size in [4, 2, 1] {
            if (bytes - done) & size == 0 {
                continue;
            }
            let to = to + done;
            match size {
                4 => a.mov(dword_ptr(to), r::eax)?,
                2 => a.mov(word_ptr(to), r::ax)?,
                _ => a.mov(byte_ptr(to), r::al)?,
            }
            a.shr(r::rax, 8 * size as i32)?;
            done += size;
        }
        Ok(())
    }

    fn constants(&mut self) -> Asm {
        let words = |v: i32| (v as i16).to_le_bytes().repeat(16);
        let (grid, clamp) = match self.tile.join.as_ref().and_then(|j| j.second) {
            Some(second) => (Grid::U8, second.clamp),
            None => (self.tile.grid, self.tile.clamp),
        };
        let bound = |v: i32| match grid {
            Grid::U8 => vec![v as u8; 32],
            Grid::I16 => words(v),
        };
        let order: Vec<u8> = (0..8u32).flat_map(|i| ((i % 2) * 4 + i / 2).to_le_bytes()).collect();
        let (lo, hi) = (bound(clamp.0), bound(clamp.1));
        let c = &mut self.c;
        for (label, bytes) in [
            (&mut c.ones, words(1)),
            (&mut c.low_nibbles, vec![0x0F; 32]),
            (&mut c.eights, vec![8; 32]),
            (&mut c.low_bytes, words(0xFF)),
            (&mut c.high_nibbles, vec![0xF0; 32]),
            (&mut c.order, order),
            (&mut c.lo, lo),
            (&mut c.hi, hi),
            (&mut c.magic, (MAGIC + self.tile.zero_point as f32).to_le_bytes().to_vec()),
            (&mut c.magic_bits, MAGIC.to_le_bytes().to_vec()),
            (&mut c.zero_point, self.tile.zero_point.to_le_bytes().to_vec()),
        ] {
            self.asm.set_label(label)?;
            self.asm.db(&bytes)?;
        }
        if grid != self.tile.grid {
            let (lo, hi) = self.tile.clamp;
            for (label, bound) in [(&mut c.sum_lo, lo), (&mut c.sum_hi, hi)] {
                self.asm.set_label(label)?;
                self.asm.db(&words(bound))?;
            }
        }
        Ok(())
    }
}

/// Steps unrolled in the loop over k.
fn unroll_of(steps: usize) -> usize {
    [4, 3, 5, 2, 1].into_iter().find(|u| steps.is_multiple_of(*u)).unwrap_or(1)
}
