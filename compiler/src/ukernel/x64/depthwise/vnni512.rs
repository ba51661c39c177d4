//! With AVX-512 VNNI: four taps of a channel in a lane, multiplied by `vpdpbusd`.
//!
//! Two rounds of `vpunpck` interleave four row vectors of 64 bytes. They leave the channels of 128-bit lanes together, so
//! that `vpackssdw` and `vpackuswb` put the results back in order without a permutation. Weights and biases are memory
//! operands: ports for arithmetic are what is short, those for loads are not.
use crate::ukernel::{
    Isa, Rescale,
    depthwise::{Base, Depthwise, Schedule, Slot},
    rescale::MAGIC,
    row::Part,
    x64::{
        regs::{XMM, YMM, ZMM},
        requantize,
        row::{Asm, Kernel, ROWS, Walk},
    },
};
use iced_x86::{
    IcedError,
    code_asm::{
        AsmMemoryOperand, AsmRegisterZmm, CodeLabel, dword_ptr, registers as r, xmmword_ptr, ymmword_ptr,
        zmmword_ptr,
    },
};

/// Vectors of 16 lanes that 64 bytes are interleaved into.
const QUADS: usize = 4;
/// Zero point of the input, 1.5·2²³ + zero point of the output, 1.5·2²³: in every lane.
const ZERO: AsmRegisterZmm = ZMM[31];
const SUMMAND: AsmRegisterZmm = ZMM[30];
const BITS: AsmRegisterZmm = ZMM[29];
/// Registers below the constants.
const FREE: usize = 29;

/// Whether a schedule's values fit into registers: sums of all outputs under way, vectors of this event and the one
/// before where they are needed, else of one base at a time, and four temporaries.
pub(in crate::ukernel) fn fits(schedule: &Schedule) -> bool {
    Registers::new(schedule).temporaries + 4 <= FREE
}

/// Assignment of registers.
struct Registers {
    /// First register of each base's vectors, and of the other copy where two are kept.
    vectors: Vec<[usize; 2]>,
    temporaries: usize,
}

impl Registers {
    fn new(schedule: &Schedule) -> Self {
        let mut next = QUADS * (schedule.latest + 1);
        let mut take = || {
            next += QUADS;
            next - QUADS
        };
        let shared = schedule.bases.iter().any(|b| !b.keeps()).then(&mut take);
        let vectors = schedule
            .bases
            .iter()
            .map(|b| match shared {
                Some(shared) if !b.keeps() => [shared; 2],
                _ => [take(), take()],
            })
            .collect();
        Self { vectors, temporaries: next }
    }
}

/// Machine code of the row kernel.
///
/// # Errors
/// The assembler refuses an instruction, which is a defect of this file.
pub fn assemble(spec: &Depthwise) -> Result<Vec<u8>, IcedError> {
    let mut walk = Walk::new(spec.row)?;
    let mut label = || walk.asm.create_label();
    let labels = [label(), label(), label(), label(), label()];
    let mut k = Vnni512 { walk, spec, labels, registers: Registers { vectors: Vec::new(), temporaries: 0 } };
    k.load_constants()?;
    k.walk.load_rows()?;
    for part in spec.parts(Isa::Vnni512) {
        let schedule = Schedule::new(&spec.row, 4, part.pixels);
        k.registers = Registers::new(&schedule);
        k.load_masks(part)?;
        let bytes = (schedule.dots.len() * 64 + k.epilogue_bytes()) * QUADS;
        let events = schedule.events(&spec.row);
        k.part(&(schedule, part), &events, part, (bytes, spec.alike))?;
    }
    k.walk.asm.vzeroupper()?;
    k.walk.asm.ret()?;
    k.constants()?;
    k.walk.asm.assemble(0)
}

struct Vnni512<'a> {
    walk: Walk,
    spec: &'a Depthwise,
    /// Input zero point, summand of the rescaling, output zero point, bounds.
    labels: [CodeLabel; 5],
    registers: Registers,
}

impl Kernel for Vnni512<'_> {
    type Context = (Schedule, Part);

    fn walk(&mut self) -> &mut Walk {
        &mut self.walk
    }

    fn event(&mut self, (schedule, part): &(Schedule, Part), event: usize) -> Asm {
        if event < schedule.groups {
            for v in 0..QUADS {
                let bias = self.epilogue(schedule, v, 0);
                self.walk.asm.vmovdqu32(Self::acc(schedule, event, v), bias)?;
            }
        }
        for (index, base) in schedule.bases.iter().enumerate() {
            if schedule.needs(base, event) {
                let copies = self.registers.vectors[index];
                let (now, before) = (copies[event % 2], copies[(event + 1) % 2]);
                self.interleave(schedule, *part, base, event, now)?;
                self.multiply(schedule, base, event, now, before)?;
            }
        }
        match event.checked_sub(schedule.latest) {
            Some(group) => self.finish(schedule, *part, group),
            None => Ok(()),
        }
    }
}

impl Vnni512<'_> {
    fn acc(schedule: &Schedule, group: usize, v: usize) -> AsmRegisterZmm {
        ZMM[group % (schedule.latest + 1) * QUADS + v]
    }

    fn temporary(&self, i: usize) -> AsmRegisterZmm {
        ZMM[self.registers.temporaries + i]
    }

    const fn epilogue_bytes(&self) -> usize {
        Isa::Vnni512.epilogue_bytes(self.spec.rescale)
    }

    fn epilogue(&self, schedule: &Schedule, v: usize, offset: usize) -> AsmMemoryOperand {
        let at = schedule.dots.len() * QUADS * 64 + v * self.epilogue_bytes() + offset;
        zmmword_ptr(r::rsi + at as i32)
    }

    fn load_constants(&mut self) -> Asm {
        let asm = &mut self.walk.asm;
        asm.vpbroadcastd(ZERO, dword_ptr(self.labels[0]))?;
        match self.spec.rescale {
            Rescale::Float => {
                asm.vpbroadcastd(SUMMAND, dword_ptr(self.labels[1]))?;
                asm.mov(r::eax, MAGIC.to_bits())?;
                asm.vpbroadcastd(BITS, r::eax)
            }
            Rescale::Integer { .. } => {
                asm.mov(r::eax, 0xAAAA)?;
                asm.kmovw(r::k5, r::eax)
            }
        }
    }

    /// k1 … k4 select the bytes of each pixel of a vector.
    fn load_masks(&mut self, part: Part) -> Asm {
        let room = 64 / part.pixels;
        if part.channels == room {
            return Ok(());
        }
        for pixel in 0..part.pixels {
            let mask = (u64::MAX >> (64 - part.channels)) << (pixel * room);
            self.walk.asm.mov(r::rcx, mask)?;
            self.walk.asm.kmovq([r::k1, r::k2, r::k3, r::k4][pixel], r::rcx)?;
        }
        Ok(())
    }

    /// Loads the row vector of a slot, at most into `to`; gives the register that holds it.
    fn load(
        &mut self,
        schedule: &Schedule,
        part: Part,
        base: &Base,
        slot: Slot,
        event: usize,
        to: usize,
    ) -> Result<AsmRegisterZmm, IcedError> {
        let spec = self.spec;
        let (pixels, room) = (part.pixels, 64 / part.pixels);
        let at = |pixel: usize| {
            let column = schedule.column(&spec.row, base, slot, event, pixel);
            spec.row.inside(column).then(|| self.walk.input(column))
        };
        let places: Vec<Option<i32>> = (0..pixels).map(at).collect();
        let whole = part.channels == room;
        let (row, z) = (ROWS[slot.row], ZMM[to]);
        let asm = &mut self.walk.asm;
        let Some(first) = places.iter().flatten().next() else { return Ok(ZERO) };
        let outside = places.iter().any(Option::is_none);
        let joined = spec.row.stride == 1 && spec.row.channels == room;
        if whole && !outside && (pixels == 1 || joined) {
            asm.vmovdqu64(z, zmmword_ptr(row + *first))?;
            return Ok(z);
        }
        if outside {
            asm.vmovdqa64(z, ZERO)?;
        }
        for (pixel, place) in places.iter().enumerate() {
            let Some(place) = *place else { continue };
            let fresh = pixel == 0 && !outside;
            if whole {
                match (pixels, fresh) {
                    (2, true) => asm.vmovdqu64(YMM[to], ymmword_ptr(row + place))?,
                    (2, false) => asm.vinserti64x4(z, z, ymmword_ptr(row + place), pixel as u32)?,
                    (_, true) => asm.vmovdqu64(XMM[to], xmmword_ptr(row + place))?,
                    (_, false) => asm.vinserti32x4(z, z, xmmword_ptr(row + place), pixel as u32)?,
                }
            } else {
                // Bytes outside the mask are not accessed.
                let masked = masked(z, pixel);
                let masked = if fresh { masked.z() } else { masked };
                asm.vmovdqu8(masked, zmmword_ptr(row + (place - (pixel * room) as i32)))?;
            }
        }
        Ok(z)
    }

    /// Interleaves the row vectors of a base into four registers from `to` on.
    fn interleave(&mut self, schedule: &Schedule, part: Part, base: &Base, event: usize, to: usize) -> Asm {
        let slots = &schedule.sets[base.set].slots;
        let t = self.registers.temporaries;
        let out = [ZMM[to], ZMM[to + 1], ZMM[to + 2], ZMM[to + 3]];
        let first = self.load(schedule, part, base, slots[0], event, t)?;
        let second = match slots.get(1) {
            Some(slot) => self.load(schedule, part, base, *slot, event, t + 1)?,
            None => first,
        };
        let (low01, high01) = (ZMM[t + 2], ZMM[t + 1]);
        self.walk.asm.vpunpcklbw(low01, first, second)?;
        self.walk.asm.vpunpckhbw(high01, first, second)?;
        // A missing slot has no weight: any bytes will do.
        let third = match slots.get(2) {
            Some(slot) => self.load(schedule, part, base, *slot, event, t)?,
            None => ZERO,
        };
        let fourth = match slots.get(3) {
            Some(slot) => self.load(schedule, part, base, *slot, event, t + 3)?,
            None => third,
        };
        let (low23, high23) = (out[0], ZMM[t + 3]);
        let asm = &mut self.walk.asm;
        asm.vpunpcklbw(low23, third, fourth)?;
        asm.vpunpckhbw(high23, third, fourth)?;
        asm.vpunpckhwd(out[1], low01, low23)?;
        asm.vpunpcklwd(out[0], low01, low23)?;
        asm.vpunpcklwd(out[2], high01, high23)?;
        asm.vpunpckhwd(out[3], high01, high23)
    }

    fn multiply(&mut self, schedule: &Schedule, base: &Base, event: usize, now: usize, before: usize) -> Asm {
        for shift in 0..schedule.pixels {
            let uses = base.uses.iter().filter(|u| u.shift == shift && schedule.exists(event, u.back));
            let uses: Vec<_> = uses.collect();
            if uses.is_empty() {
                continue;
            }
            for v in 0..QUADS {
                let vector = if shift == 0 {
                    ZMM[now + v]
                } else {
                    let moved = self.temporary(v);
                    let quarters = (shift * 8 / schedule.pixels) as u32;
                    self.walk.asm.valignq(moved, ZMM[now + v], ZMM[before + v], quarters)?;
                    moved
                };
                for one in &uses {
                    let weights = zmmword_ptr(r::rsi + ((one.dot * QUADS + v) * 64) as i32);
                    let acc = Self::acc(schedule, event - one.back, v);
                    self.walk.asm.vpdpbusd(acc, vector, weights)?;
                }
            }
        }
        Ok(())
    }

    /// Rescales and stores a group of outputs.
    fn finish(&mut self, schedule: &Schedule, part: Part, group: usize) -> Asm {
        let spec = self.spec;
        let x = [0, 1, 2, 3].map(|v| Self::acc(schedule, group, v));
        for (v, acc) in x.into_iter().enumerate() {
            match spec.rescale {
                Rescale::Float => {
                    let scale = self.epilogue(schedule, v, 64);
                    self.walk.asm.vcvtdq2ps(acc, acc)?;
                    self.walk.asm.vfmadd132ps(acc, SUMMAND, scale)?;
                    self.walk.asm.vpsubd(acc, acc, BITS)?;
                }
                Rescale::Integer { short_shift } => {
                    let (odd, block) = (self.temporary(v), self.epilogue(schedule, v, 0));
                    requantize::zmm(&mut self.walk.asm, [acc, odd, acc.k5()], block, short_shift)?;
                }
            }
        }
        let asm = &mut self.walk.asm;
        for (a, b) in [(x[0], x[1]), (x[2], x[3])] {
            asm.vpackssdw(a, a, b)?;
            if spec.rescale != Rescale::Float && spec.zero_point != 0 {
                asm.vpaddsw(a, a, zmmword_ptr(self.labels[2]))?;
            }
        }
        asm.vpackuswb(x[0], x[0], x[2])?;
        if spec.clamp.0 > 0 {
            asm.vpmaxub(x[0], x[0], zmmword_ptr(self.labels[3]))?;
        }
        if spec.clamp.1 < 255 {
            asm.vpminub(x[0], x[0], zmmword_ptr(self.labels[4]))?;
        }
        self.store(schedule, part, group)
    }

    fn store(&mut self, schedule: &Schedule, part: Part, group: usize) -> Asm {
        let spec = self.spec;
        let (pixels, room) = (part.pixels, 64 / part.pixels);
        let source = group % (schedule.latest + 1) * QUADS;
        let exist = (spec.row.out_width - group * pixels).min(pixels);
        let whole = part.channels == room;
        let at = |pixel: usize| self.walk.output(group * pixels + pixel);
        let places: Vec<i32> = (0..exist).map(at).collect();
        let asm = &mut self.walk.asm;
        if whole && exist == pixels && (pixels == 1 || spec.row.channels == room) {
            return asm.vmovdqu64(zmmword_ptr(r::rdx + places[0]), ZMM[source]);
        }
        for (pixel, place) in places.into_iter().enumerate() {
            let to = r::rdx + place;
            match (whole, pixels, pixel) {
                (true, 2, 0) => asm.vmovdqu64(ymmword_ptr(to), YMM[source])?,
                (true, 2, _) => asm.vextracti64x4(ymmword_ptr(to), ZMM[source], 1)?,
                (true, _, 0) => asm.vmovdqu64(xmmword_ptr(to), XMM[source])?,
                (true, ..) => asm.vextracti32x4(xmmword_ptr(to), ZMM[source], pixel as u32)?,
                (false, ..) => {
                    let to = zmmword_ptr(r::rdx + (place - (pixel * room) as i32));
                    let to = match pixel {
                        0 => to.k1(),
                        1 => to.k2(),
                        2 => to.k3(),
                        _ => to.k4(),
                    };
                    asm.vmovdqu8(to, ZMM[source])?;
                }
            }
        }
        Ok(())
    }

    /// Constants behind the code.
    fn constants(&mut self) -> Asm {
        let spec = self.spec;
        let words = (spec.zero_point as i16).to_le_bytes().repeat(32);
        let values = [
            vec![spec.input_zero_point; 4],
            (MAGIC + spec.zero_point as f32).to_le_bytes().to_vec(),
            words,
            vec![spec.clamp.0 as u8; 64],
            vec![spec.clamp.1 as u8; 64],
        ];
        for (label, bytes) in self.labels.iter_mut().zip(values) {
            self.walk.asm.set_label(label)?;
            self.walk.asm.db(&bytes)?;
        }
        Ok(())
    }
}

/// The register under the mask of a pixel.
fn masked(z: AsmRegisterZmm, pixel: usize) -> AsmRegisterZmm {
    match pixel {
        0 => z.k1(),
        1 => z.k2(),
        2 => z.k3(),
        _ => z.k4(),
    }
}
