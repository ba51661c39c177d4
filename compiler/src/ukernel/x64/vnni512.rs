//! Tiles with AVX-512 VNNI: `vpdpbusd zmm` multiplies u8 activations by s8 weights four at a time, exactly.
//!
//! Registers: rows × vectors accumulators (at most 28), then weights and broadcasts. Four consecutive activation bytes
//! of a row are broadcast and multiplied with each vector of weights. The epilogue splits accumulators into even and odd
//! channels, multiplies in 64 bits, rounds, shifts and merges under a mask: about ten instructions for 16 results.
use super::{
    regs::{XMM, YMM, ZMM},
    requantize,
};
use crate::ukernel::{Grid, Isa, Join, Rescale, Tile, Weights, join, rescale::MAGIC, tile::NEAR};
use iced_x86::{
    IcedError,
    code_asm::{
        AsmMemoryOperand, AsmRegister64, AsmRegisterZmm, CodeAssembler, CodeLabel, byte_ptr, dword_bcst,
        dword_ptr, qword_ptr, registers as r, word_ptr, xmmword_ptr, ymmword_ptr, zmmword_ptr,
    },
};
use std::ops::Range;

type Asm = Result<(), IcedError>;

/// Largest number of rows with which a tile of that many vectors keeps its accumulators in registers: Int8 leaves four
/// for weights and broadcasts, Int4 needs all its weights, a mask and one broadcast.
pub fn max_rows(weights: Weights, vectors: usize) -> usize {
    match weights {
        Weights::Int4Times16 => (30 - vectors.max(2)) / vectors,
        Weights::Int8
        | Weights::Int16
        | Weights::Int4Bytes
        | Weights::Int4Unpacking
        | Weights::Int4Offset { .. } => 28 / vectors,
    }
}

/// Steps of a trip, of so many in all; a multiple of `whole`.
pub(super) fn unroll_of(steps: usize, whole: usize) -> usize {
    [4, 6, 3, 5, 7, 2, 1]
        .into_iter()
        .find(|u| steps.is_multiple_of(*u) && u.is_multiple_of(whole))
        .unwrap_or(steps)
}

/// Machine code of the tile, whose weights are of neither `Int16` nor `Int4Offset`.
///
/// # Errors
/// The assembler refuses an instruction, which is a defect of this file.
pub fn assemble(tile: &Tile) -> Result<Vec<u8>, IcedError> {
    debug_assert!(!matches!(tile.weights, Weights::Int16 | Weights::Int4Offset { .. }));
    let mut k = Kernel::new(tile)?;
    k.load_bias()?;
    k.multiply()?;
    k.finish()?;
    k.code()
}

/// Where results go, and how.
#[derive(Clone, Copy)]
struct Stored {
    to: AsmRegister64,
    stride: usize,
    grid: Grid,
    clamp: (i32, i32),
    /// Whether storing adds the zero point; rescaling in f32 has done it.
    adds_zero_point: bool,
}

impl Stored {
    /// What the saturating packs give without a clamp.
    fn limits(self) -> (i32, i32) {
        match self.grid {
            Grid::U8 => (0, 255),
            Grid::I16 => (i32::from(i16::MIN), i32::from(i16::MAX)),
        }
    }
}

/// Lines that a tile brings into the cache for the next one, some rows of it in each trip of its loop.
struct Stream {
    /// Where it is in this trip, and at what distance from where it starts.
    at: AsmRegister64,
    from: AsmRegister64,
    distance: i32,
    /// Bytes from one trip to the next.
    advance: usize,
    /// Distances of the lines of a trip.
    lines: Vec<i32>,
    writes: bool,
}

/// A kernel that is being assembled. Whatever fills the accumulators, the rest is the same.
pub(super) struct Kernel<'a> {
    pub asm: CodeAssembler,
    pub tile: &'a Tile,
    permutation: CodeLabel,
    /// That of i16 where the last results are u8: for the sum that is stored before them, with its bounds.
    pairs: CodeLabel,
    sum_bounds: [CodeLabel; 2],
    /// 1.5·2²³ + zero point, f32.
    magic: CodeLabel,
    /// Zero point, lower and upper bound.
    bounds: [CodeLabel; 3],
}

impl<'a> Kernel<'a> {
    pub fn new(tile: &'a Tile) -> Result<Self, IcedError> {
        let mut asm = CodeAssembler::new(64)?;
        let mut label = || asm.create_label();
        let (permutation, pairs, magic) = (label(), label(), label());
        let (bounds, sum_bounds) = ([label(), label(), label()], [label(), label()]);
        Ok(Self { asm, tile, permutation, pairs, sum_bounds, magic, bounds })
    }

    fn accumulators(&self) -> usize {
        self.tile.rows * self.tile.vectors
    }

    /// Accumulator of a pixel and a vector of channels.
    pub fn acc(&self, row: usize, vector: usize) -> AsmRegisterZmm {
        ZMM[row * self.tile.vectors + vector]
    }

    /// Registers behind the accumulators.
    fn free(&self) -> &'static [AsmRegisterZmm] {
        &ZMM[self.accumulators()..]
    }

    /// Pixels of the tile that exist.
    fn rows(&self) -> impl Iterator<Item = usize> + use<'a> {
        let tile = self.tile;
        (0..tile.rows).filter(|row| tile.exists(*row))
    }

    fn epilogue(&self, vector: usize, offset: usize) -> AsmMemoryOperand {
        let block = Isa::Vnni512.epilogue_bytes(self.tile.rescale);
        zmmword_ptr(r::rcx + (vector * block + offset) as i32)
    }

    /// Where the accumulators of a vector start.
    pub fn bias(&self, vector: usize) -> AsmMemoryOperand {
        self.epilogue(vector, 0)
    }

    /// Accumulators start at the bias.
    fn load_bias(&mut self) -> Asm {
        for v in 0..self.tile.vectors {
            self.asm.vmovdqu32(self.acc(0, v), self.bias(v))?;
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
        let int4 = self.unpacks();
        let whole = if int4 { 2usize.div_ceil(tile.vectors) } else { 1 };
        let unroll = unroll_of(steps, whole);
        let step_bytes = tile.vectors * if int4 { 32 } else { 64 };
        let (mut outer, mut inner) = (self.asm.create_label(), self.asm.create_label());
        if int4 {
            let mask = ZMM[31];
            self.asm.mov(r::eax, 0xF0F0_F0F0u32)?;
            self.asm.vpbroadcastd(mask, r::eax)?;
        }
        if tile.join.is_some() {
            self.asm.mov(r::r11, r::r9)?;
        }
        self.asm.mov(r::r9, r::rdi)?;
        let trips = steps / unroll;
        let fetched = tile.fetched_lines(trips);
        let ahead = self.ahead(trips);
        if !ahead.is_empty() {
            self.asm.mov(r::rdi, qword_ptr(r::rsp + 8))?;
        }
        for stream in &ahead {
            self.asm.lea(stream.at, stream.from + stream.distance)?;
        }
        if tile.kernel_rows > 1 {
            self.asm.mov(r::r10d, tile.kernel_rows as i32)?;
            self.asm.set_label(&mut outer)?;
        }
        if trips > 1 {
            self.asm.mov(r::eax, trips as i32)?;
            self.asm.set_label(&mut inner)?;
        }
        self.unrolled(unroll, step_bytes, fetched, &ahead)?;
        for stream in &ahead {
            self.asm.add(stream.at, stream.advance as i32)?;
        }
        if fetched > 0 {
            self.asm.add(r::r8, (64 * fetched) as i32)?;
        }
        if tile.weights == Weights::Int4Unpacking {
            self.asm.add(r::r8, (2 * step_bytes * unroll) as i32)?;
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
        Ok(())
    }

    /// The next tile's residual and results, divided among the trips of the loop.
    fn ahead(&self, trips: usize) -> Vec<Stream> {
        let tile = self.tile;
        let Some((join, [residual, result, second])) = tile.join.as_ref().and_then(|j| Some((j, j.ahead?)))
        else {
            return Vec::new();
        };
        // The loops leave r8 and r10 to this, and rdi once it is copied.
        let taken = tile.prefetch > 0 || tile.weights == Weights::Int4Unpacking;
        if tile.kernel_rows > 1 || taken || tile.out_line < tile.rows {
            return Vec::new();
        }
        let rows = tile.rows.div_ceil(trips);
        let stream = |at, from, distance: usize, stride: usize, element: usize, writes| Stream {
            at,
            from,
            distance: distance as i32,
            advance: rows * stride,
            lines: (0..rows)
                .flat_map(|row| {
                    (0..tile.columns * element).step_by(64).map(move |x| (row * stride + x) as i32)
                })
                .collect(),
            writes,
        };
        let (grid, bytes) = (tile.grid.bytes(), join.second.map_or(0, |s| s.stride));
        let streams = [
            stream(r::r8, r::r11, residual, join.stride, join.residual.bytes(), false),
            stream(r::r10, r::rdx, result, tile.out_stride, grid, true),
            stream(r::rdi, r::rdi, second, bytes, usize::from(bytes > 0), true),
        ];
        streams.into_iter().filter(|s| !s.lines.is_empty()).collect()
    }

    /// `unroll` steps of four k each, among which so many lines of the next block's weights are fetched, and streams.
    fn unrolled(&mut self, unroll: usize, step_bytes: usize, fetched: usize, ahead: &[Stream]) -> Asm {
        let tile = self.tile;
        let mut free = self.free();
        // Int4 needs all its weights (at least one pair) in registers, unless it stores them; Int8 reads those that do not
        // fit from memory.
        let pairs = self.unpacks();
        if pairs {
            free = &free[..free.len() - 1];
        }
        let unpacking = tile.weights == Weights::Int4Unpacking;
        let wanted = if pairs { tile.vectors.max(2) } else { tile.vectors };
        let in_registers = wanted.min(free.len() - 1);
        let (weights, broadcasts) = free.split_at(in_registers);
        let broadcasts = &broadcasts[..broadcasts.len().min(4)];
        for step in 0..unroll {
            let at = (step * step_bytes) as i32;
            for line in step * fetched / unroll..(step + 1) * fetched / unroll {
                self.asm.prefetcht1(byte_ptr(r::r8 + (64 * line) as i32))?;
            }
            for stream in ahead {
                let count = stream.lines.len();
                for line in &stream.lines[step * count / unroll..(step + 1) * count / unroll] {
                    let at = byte_ptr(stream.at + *line);
                    if stream.writes { self.asm.prefetchw(at)? } else { self.asm.prefetcht0(at)? }
                }
            }
            if tile.rows == 1 {
                let lines = (0..step_bytes).step_by(64);
                for line in lines.filter(|l| (step * step_bytes + l).is_multiple_of(64)) {
                    self.asm.prefetcht0(byte_ptr(r::rsi + at + line + NEAR))?;
                }
            }
            if !pairs {
                for (v, w) in weights.iter().enumerate() {
                    self.asm.vmovdqu32(*w, zmmword_ptr(r::rsi + at + (v * 64) as i32))?;
                }
            } else if tile.vectors > 1 {
                let places = weights.chunks_exact(2).cycle();
                for (p, pair) in places.take(tile.vectors / 2).enumerate() {
                    self.unpack(pair[0], pair[1], at + (p * 64) as i32)?;
                }
                if weights.len() < tile.vectors {
                    for (v, w) in weights.iter().enumerate() {
                        self.asm.vmovdqu32(*w, zmmword_ptr(r::r8 + 2 * at + (v * 64) as i32))?;
                    }
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
                            let stored = if unpacking { r::r8 + 2 * at } else { r::rsi + at };
                            let memory = zmmword_ptr(stored + (v * 64) as i32);
                            self.asm.vpdpbusd(self.acc(row, v), b, memory)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether weights lie two to a byte.
    fn unpacks(&self) -> bool {
        matches!(self.tile.weights, Weights::Int4Times16 | Weights::Int4Unpacking)
    }

    /// Two vectors of weights, sixteen times their value, from the nibbles of one; stored, if the tile unpacks for others.
    fn unpack(&mut self, low: AsmRegisterZmm, high: AsmRegisterZmm, at: i32) -> Asm {
        let mask = ZMM[31];
        self.asm.vmovdqu32(high, zmmword_ptr(r::rsi + at))?;
        self.asm.vpsllw(low, high, 4)?;
        self.asm.vpandd(high, high, mask)?;
        self.asm.vpandd(low, low, mask)?;
        if self.tile.weights == Weights::Int4Unpacking {
            self.asm.vmovdqu32(zmmword_ptr(r::r8 + 2 * at), low)?;
            self.asm.vmovdqu32(zmmword_ptr(r::r8 + 2 * at + 64), high)?;
        }
        Ok(())
    }

    /// From accumulators to memory: `rdx` = result, `rcx` = epilogue; of a join `r11` = residual, and the second result's
    /// address on the stack, which replaces `rdx`. Writes `rax` and masks.
    pub fn finish(&mut self) -> Asm {
        let tile = self.tile;
        let mut out = Stored {
            to: r::rdx,
            stride: tile.out_stride,
            grid: tile.grid,
            clamp: tile.clamp,
            adds_zero_point: tile.zero_point != 0,
        };
        match (tile.rescale, &tile.join) {
            (_, Some(join)) => {
                self.add_residual(join)?;
                if let Some(second) = join.second {
                    self.store_sum(Stored { adds_zero_point: false, ..out })?;
                    self.asm.mov(r::rdx, qword_ptr(r::rsp + 8))?;
                    out = Stored {
                        stride: second.stride,
                        grid: Grid::U8,
                        clamp: second.clamp,
                        adds_zero_point: false,
                        ..out
                    };
                }
            }
            (Rescale::Float, None) => {
                self.rescale_float()?;
                out.adds_zero_point = false;
            }
            (Rescale::Integer { short_shift }, None) => self.rescale_integer(short_shift)?,
        }
        match out.grid {
            Grid::U8 => self.store_u8(out),
            Grid::I16 => self.store_i16(out),
        }
    }

    /// Return, constants, machine code.
    pub fn code(mut self) -> Result<Vec<u8>, IcedError> {
        self.asm.vzeroupper()?;
        self.asm.ret()?;
        self.constants()?;
        self.asm.assemble(0)
    }

    /// A constant of the join, in every lane.
    fn join_constant(&self, offset: usize) -> AsmMemoryOperand {
        dword_bcst(self.join_at(offset))
    }

    fn join_scalar(&self, offset: usize) -> AsmMemoryOperand {
        dword_ptr(self.join_at(offset))
    }

    /// The join's constants are behind the blocks of the vectors.
    fn join_at(&self, offset: usize) -> AsmMemoryOperand {
        let blocks = self.tile.vectors * Isa::Vnni512.epilogue_bytes(self.tile.rescale);
        r::rcx + (blocks + offset) as i32
    }

    /// acc ← rescale(n̂) + rescale(residual's x̂), where n is the convolution's result, clamped if the second result needs it.
    fn add_residual(&mut self, join: &Join) -> Asm {
        let [magic, x, ..] = *self.free() else { return Ok(()) };
        let constant = |at: usize| self.join_constant(at);
        let (own, lo, hi) = (constant(join::OWN_SCALE), constant(join::OWN_LO), constant(join::OWN_HI));
        let (scale, zero) = (constant(join::RESIDUAL_SCALE), constant(join::RESIDUAL_ZERO));
        let (least, most, bits) = (constant(join::LO), constant(join::HI), constant(join::MAGIC_BITS));
        let (clamps_below, clamps_above) = join.second.map_or((false, false), |s| s.clamps_sum);
        self.asm.vbroadcastss(magic, self.join_scalar(join::MAGIC_BITS))?;
        for row in self.rows() {
            for v in 0..self.tile.vectors {
                let (acc, rescale) = (self.acc(row, v), self.epilogue(v, 64));
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
                let lanes = self.tile.columns.saturating_sub(v * 16).min(16);
                let at =
                    r::r11 + (self.tile.result(row) * join.stride + v * 16 * join.residual.bytes()) as i32;
                let to = if lanes == 16 { x } else { self.partial(lanes, x)? };
                match join.residual {
                    Grid::U8 => self.asm.vpmovzxbd(to, xmmword_ptr(at))?,
                    Grid::I16 => self.asm.vpmovsxwd(to, ymmword_ptr(at))?,
                }
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
        Ok(())
    }

    /// `x` under a mask of so many lanes, the others zero.
    fn partial(&mut self, lanes: usize, x: AsmRegisterZmm) -> Result<AsmRegisterZmm, IcedError> {
        self.asm.mov(r::eax, 0xFFFFi32 >> (16 - lanes))?;
        self.asm.kmovw(r::k1, r::eax)?;
        Ok(x.k1().z())
    }

    /// Stores the sums as i16, clamped, and rescales them to the second result.
    fn store_sum(&mut self, out: Stored) -> Asm {
        let [permutation, packed, lo, hi, ..] = *self.free() else { return Ok(()) };
        self.asm.vmovdqu32(permutation, zmmword_ptr(self.pairs))?;
        for (register, label) in [lo, hi].iter().zip(self.sum_bounds) {
            self.asm.vpbroadcastw(*register, word_ptr(label))?;
        }
        let total = self.accumulators();
        for first in (0..total).step_by(2) {
            self.asm.vpackssdw(packed, ZMM[first], ZMM[(first + 1).min(total - 1)])?;
            self.clamp(out, packed, lo, hi)?;
            self.asm.vpermq(packed, permutation, packed)?;
            // Pieces leave in order, so that the last one may replace the register.
            let register = total + 1;
            self.store_groups(out, first..total.min(first + 2), [register, register], 32)?;
        }
        let magic = permutation;
        let constant = |at: usize| self.join_constant(at);
        let (scale, bits) = (constant(join::SECOND_SCALE), constant(join::MAGIC_BITS));
        self.asm.vbroadcastss(magic, self.join_scalar(join::SECOND_MAGIC))?;
        for i in 0..total {
            let acc = ZMM[i];
            self.asm.vcvtdq2ps(acc, acc)?;
            self.asm.vfmadd132ps(acc, magic, scale)?;
            self.asm.vpsubd(acc, acc, bits)?;
        }
        Ok(())
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
    fn store_registers(&mut self, out: Stored) -> Result<[AsmRegisterZmm; 4], IcedError> {
        let free = self.free();
        let regs = [free[0], free[1], free[2], free[3]];
        self.asm.vmovdqu32(regs[0], zmmword_ptr(self.permutation))?;
        let (lowest, highest) = out.limits();
        let wanted = [out.adds_zero_point, out.clamp.0 != lowest, out.clamp.1 != highest];
        for ((register, label), _) in regs[1..].iter().zip(self.bounds).zip(wanted).filter(|(_, w)| *w) {
            self.asm.vpbroadcastw(*register, word_ptr(label))?;
        }
        Ok(regs)
    }

    /// Four vectors of i32 become 64 bytes: saturate to i16, add the zero point, clamp, saturate to u8, put the
    /// 32-bit lanes back in order. All steps are monotone, so saturating early does not change the clamped result.
    fn store_u8(&mut self, out: Stored) -> Asm {
        let [permutation, zero_point, lo, hi] = self.store_registers(out)?;
        let total = self.accumulators();
        for first in (0..total).step_by(4) {
            let x = |i: usize| ZMM[(first + i).min(total - 1)];
            let halves: &[usize] = if first + 2 < total { &[0, 2] } else { &[0] };
            for h in halves {
                let half = x(*h);
                self.asm.vpackssdw(half, half, x(h + 1))?;
                if out.adds_zero_point {
                    self.asm.vpaddsw(half, half, zero_point)?;
                }
                self.clamp(out, half, lo, hi)?;
            }
            let last = x(halves[halves.len() - 1]);
            self.asm.vpackuswb(x(0), x(0), last)?;
            self.asm.vpermd(x(0), permutation, x(0))?;
            self.store_groups(out, first..total.min(first + 4), [first, first + 1], 16)?;
        }
        Ok(())
    }

    /// Two vectors of i32 become 32 i16.
    fn store_i16(&mut self, out: Stored) -> Asm {
        let [permutation, _, lo, hi] = self.store_registers(out)?;
        let total = self.accumulators();
        for first in (0..total).step_by(2) {
            let x = |i: usize| ZMM[(first + i).min(total - 1)];
            self.asm.vpackssdw(x(0), x(0), x(1))?;
            self.clamp(out, x(0), lo, hi)?;
            self.asm.vpermq(x(0), permutation, x(0))?;
            self.store_groups(out, first..total.min(first + 2), [first, first + 1], 32)?;
        }
        Ok(())
    }

    fn clamp(&mut self, out: Stored, x: AsmRegisterZmm, lo: AsmRegisterZmm, hi: AsmRegisterZmm) -> Asm {
        let (lowest, highest) = out.limits();
        if out.clamp.0 != lowest {
            self.asm.vpmaxsw(x, x, lo)?;
        }
        if out.clamp.1 != highest {
            self.asm.vpminsw(x, x, hi)?;
        }
        Ok(())
    }

    /// Stores the `piece`-byte results of some accumulators, which lie one behind the other in the first of the registers;
    /// the second one is free. Pieces of one row that are whole and adjacent leave in one store.
    fn store_groups(&mut self, out: Stored, which: Range<usize>, registers: [usize; 2], piece: usize) -> Asm {
        let (vectors, element) = (self.tile.vectors, out.grid.bytes());
        let (first, end) = (which.start, which.end);
        let mut i = first;
        while i < end {
            let (row, vector) = (i / vectors, i % vectors);
            let at = out.to + (self.tile.result(row) * out.stride + vector * piece) as i32;
            let position = (i - first) * piece;
            let mut pieces = (vectors - vector).min(end - i);
            // A register holds 64 bytes and halves and quarters are extracted whole.
            while !position.is_multiple_of(pieces * piece) || !(pieces * piece).is_power_of_two() {
                pieces -= 1;
            }
            let columns = if self.tile.exists(row) { self.tile.columns } else { 0 };
            let exist = (columns.saturating_sub(vector * 16) * element).min(pieces * piece);
            self.store(registers, position, pieces * piece, at, exist)?;
            i += pieces;
        }
        Ok(())
    }

    /// Stores `exist` of the `bytes` at `position` of register `source`; `scratch` is free.
    fn store(
        &mut self,
        [source, scratch]: [usize; 2],
        position: usize,
        bytes: usize,
        at: AsmMemoryOperand,
        exist: usize,
    ) -> Asm {
        if exist == 0 {
            return Ok(());
        }
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
        // Only the last vector is partial: a byte mask keeps the store inside the tensor.
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
        let (grid, clamp) = match self.tile.join.as_ref().and_then(|j| j.second) {
            Some(second) => (Grid::U8, second.clamp),
            None => (self.tile.grid, self.tile.clamp),
        };
        let order = |grid: Grid| -> Vec<u8> {
            match grid {
                // Lane l of the packed vector holds 4 bytes of each of x0..x3; wanted: all of x0, then x1, …
                Grid::U8 => (0..16u32).flat_map(|i| ((i % 4) * 4 + i / 4).to_le_bytes()).collect(),
                Grid::I16 => (0..8u64).flat_map(|i| ((i % 4) * 2 + i / 4).to_le_bytes()).collect(),
            }
        };
        self.asm.set_label(&mut self.magic)?;
        self.asm.db(&(MAGIC + self.tile.zero_point as f32).to_le_bytes())?;
        self.asm.set_label(&mut self.permutation)?;
        self.asm.db(&order(grid))?;
        let (lo, hi) = clamp;
        for (label, value) in self.bounds.iter_mut().zip([self.tile.zero_point, lo, hi]) {
            self.asm.set_label(label)?;
            self.asm.db(&(value as i16).to_le_bytes())?;
        }
        if grid != self.tile.grid {
            self.asm.set_label(&mut self.pairs)?;
            self.asm.db(&order(self.tile.grid))?;
            let (lo, hi) = self.tile.clamp;
            for (label, value) in self.sum_bounds.iter_mut().zip([lo, hi]) {
                self.asm.set_label(label)?;
                self.asm.db(&(value as i16).to_le_bytes())?;
            }
        }
        Ok(())
    }
}
