//! With AVX2: two taps of a channel in a lane, as words, multiplied by `vpmaddwd`. Exact for any weights.
//!
//! Vectors hold 16 channels. Their bytes become words (`vpmovzxbw`), two such vectors are interleaved into eight lanes
//! each; `vpackssdw` and `vpackuswb` put the results back in order. A last vector that is not full overlaps the one
//! before it; layers of fewer than 16 channels are read and written in pieces of exact size.
use crate::ukernel::{
    Isa, Rescale,
    depthwise::{Base, Depthwise, Schedule, Slot},
    rescale::MAGIC,
    row::Part,
    x64::{
        regs::{XMM, YMM},
        requantize,
        row::{Asm, Kernel, ROWS, Walk},
    },
};
use iced_x86::{
    IcedError,
    code_asm::{
        AsmMemoryOperand, AsmRegisterYmm, CodeLabel, byte_ptr, dword_ptr, qword_ptr, registers as r,
        word_ptr, xmmword_ptr, ymmword_ptr,
    },
};

/// Vectors of eight lanes that 16 words are interleaved into.
const HALVES: usize = 2;
/// 1.5·2²³ + zero point of the output.
const SUMMAND: AsmRegisterYmm = YMM[15];
/// Interleaved vectors, and two temporaries.
const LOW: usize = 10;
const HIGH: usize = 11;
const T: usize = 12;
const U: usize = 13;

/// Machine code of the row kernel.
///
/// # Errors
/// The assembler refuses an instruction, which is a defect of this file.
pub fn assemble(spec: &Depthwise) -> Result<Vec<u8>, IcedError> {
    let mut walk = Walk::new(spec.row)?;
    let mut label = || walk.asm.create_label();
    let labels = [label(), label(), label(), label(), label()];
    let mut k = Avx2 { walk, spec, labels };
    if spec.rescale == Rescale::Float {
        k.walk.asm.vbroadcastss(SUMMAND, dword_ptr(k.labels[1]))?;
    }
    k.walk.load_rows()?;
    for part in spec.parts(Isa::Avx2) {
        let schedule = Schedule::new(&spec.row, 2, part.pixels);
        let bytes = (schedule.dots.len() * 32 + k.epilogue_bytes()) * HALVES;
        let events = schedule.events(&spec.row);
        k.part(&(schedule, part), &events, part, (bytes, spec.alike))?;
    }
    k.walk.asm.vzeroupper()?;
    k.walk.asm.ret()?;
    k.constants()?;
    k.walk.asm.assemble(0)
}

struct Avx2<'a> {
    walk: Walk,
    spec: &'a Depthwise,
    /// Input zero point as words, summand of the rescaling, 1.5·2²³, bounds.
    labels: [CodeLabel; 5],
}

impl Kernel for Avx2<'_> {
    type Context = (Schedule, Part);

    fn walk(&mut self) -> &mut Walk {
        &mut self.walk
    }

    fn event(&mut self, (schedule, part): &(Schedule, Part), event: usize) -> Asm {
        if event < schedule.groups {
            for v in 0..HALVES {
                let bias = self.epilogue(schedule, v, 0);
                self.walk.asm.vmovdqu(Self::acc(schedule, event, v), bias)?;
            }
        }
        for base in schedule.bases.iter().filter(|b| schedule.needs(b, event)) {
            let slots = &schedule.sets[base.set].slots;
            self.load(schedule, *part, base, slots[0], event, T)?;
            if let Some(slot) = slots.get(1) {
                self.load(schedule, *part, base, *slot, event, U)?;
            }
            self.walk.asm.vpunpcklwd(YMM[LOW], YMM[T], YMM[U])?;
            self.walk.asm.vpunpckhwd(YMM[HIGH], YMM[T], YMM[U])?;
            for one in base.uses.iter().filter(|u| schedule.exists(event, u.back)) {
                for v in 0..HALVES {
                    let weights = ymmword_ptr(r::rsi + ((one.dot * HALVES + v) * 32) as i32);
                    let (acc, product) = (Self::acc(schedule, event - one.back, v), YMM[T + v]);
                    self.walk.asm.vpmaddwd(product, YMM[LOW + v], weights)?;
                    self.walk.asm.vpaddd(acc, acc, product)?;
                }
            }
        }
        match event.checked_sub(schedule.latest) {
            Some(group) => self.finish(schedule, *part, group),
            None => Ok(()),
        }
    }
}

impl Avx2<'_> {
    /// Sums: ten registers at most, for five outputs under way.
    fn acc(schedule: &Schedule, group: usize, v: usize) -> AsmRegisterYmm {
        YMM[group % (schedule.latest + 1) * HALVES + v]
    }

    const fn epilogue_bytes(&self) -> usize {
        Isa::Avx2.epilogue_bytes(self.spec.rescale)
    }

    fn epilogue(&self, schedule: &Schedule, v: usize, offset: usize) -> AsmMemoryOperand {
        let at = schedule.dots.len() * HALVES * 32 + v * self.epilogue_bytes() + offset;
        ymmword_ptr(r::rsi + at as i32)
    }

    /// Loads the channels of one pixel as words.
    fn load(
        &mut self,
        schedule: &Schedule,
        part: Part,
        base: &Base,
        slot: Slot,
        event: usize,
        to: usize,
    ) -> Asm {
        let column = schedule.column(&self.spec.row, base, slot, event, 0);
        if !self.spec.row.inside(column) {
            return self.walk.asm.vmovdqu(YMM[to], ymmword_ptr(self.labels[0]));
        }
        let from = ROWS[slot.row] + self.walk.input(column);
        let (asm, x) = (&mut self.walk.asm, XMM[to]);
        if part.channels == 16 {
            return asm.vpmovzxbw(YMM[to], xmmword_ptr(from));
        }
        let mut done = 0;
        if part.channels >= 8 {
            asm.vmovq(x, qword_ptr(from))?;
            done = 8;
        } else {
            asm.vpxor(x, x, x)?;
        }
        for size in [4, 2, 1] {
            if (part.channels - done) & size == 0 {
                continue;
            }
            let from = ROWS[slot.row] + (self.walk.input(column) + done as i32);
            let (asm, lane) = (&mut self.walk.asm, (done / size) as u32);
            match size {
                4 => asm.vpinsrd(x, x, dword_ptr(from), lane)?,
                2 => asm.vpinsrw(x, x, word_ptr(from), lane)?,
                _ => asm.vpinsrb(x, x, byte_ptr(from), lane)?,
            }
            done += size;
        }
        self.walk.asm.vpmovzxbw(YMM[to], x)
    }

    /// Rescales and stores one output.
    fn finish(&mut self, schedule: &Schedule, part: Part, group: usize) -> Asm {
        let spec = self.spec;
        for v in 0..HALVES {
            let acc = Self::acc(schedule, group, v);
            match spec.rescale {
                Rescale::Float => {
                    let scale = self.epilogue(schedule, v, 32);
                    self.walk.asm.vcvtdq2ps(acc, acc)?;
                    self.walk.asm.vfmadd132ps(acc, SUMMAND, scale)?;
                    self.walk.asm.vpsubd(acc, acc, ymmword_ptr(self.labels[2]))?;
                }
                Rescale::Integer { short_shift } => {
                    let block = self.epilogue(schedule, v, 0);
                    requantize::ymm(&mut self.walk.asm, [acc, YMM[T + v]], block, short_shift)?;
                }
            }
        }
        let low = group % (schedule.latest + 1) * HALVES;
        let asm = &mut self.walk.asm;
        asm.vpackssdw(YMM[low], YMM[low], YMM[low + 1])?;
        asm.vextracti128(XMM[low + 1], YMM[low], 1)?;
        asm.vpackuswb(XMM[low], XMM[low], XMM[low + 1])?;
        if spec.clamp.0 > 0 {
            asm.vpmaxub(XMM[low], XMM[low], xmmword_ptr(self.labels[3]))?;
        }
        if spec.clamp.1 < 255 {
            asm.vpminub(XMM[low], XMM[low], xmmword_ptr(self.labels[4]))?;
        }
        self.store(part.channels, low, self.walk.output(group))
    }

    /// Stores the first `bytes` bytes.
    fn store(&mut self, bytes: usize, source: usize, place: i32) -> Asm {
        let (asm, x) = (&mut self.walk.asm, XMM[source]);
        if bytes == 16 {
            return asm.vmovdqu(xmmword_ptr(r::rdx + place), x);
        }
        let mut done = 0;
        for size in [8, 4, 2, 1] {
            if (bytes - done) & size == 0 {
                continue;
            }
            let (to, lane) = (r::rdx + (place + done as i32), (done / size) as u32);
            match size {
                8 => asm.vmovq(qword_ptr(to), x)?,
                4 => asm.vpextrd(dword_ptr(to), x, lane)?,
                2 => asm.vpextrw(word_ptr(to), x, lane)?,
                _ => asm.vpextrb(byte_ptr(to), x, lane)?,
            }
            done += size;
        }
        Ok(())
    }

    /// Constants behind the code.
    fn constants(&mut self) -> Asm {
        let spec = self.spec;
        let values = [
            u16::from(spec.input_zero_point).to_le_bytes().repeat(16),
            (MAGIC + spec.zero_point as f32).to_le_bytes().to_vec(),
            MAGIC.to_le_bytes().repeat(8),
            vec![spec.clamp.0 as u8; 16],
            vec![spec.clamp.1 as u8; 16],
        ];
        for (label, bytes) in self.labels.iter_mut().zip(values) {
            self.walk.asm.set_label(label)?;
            self.walk.asm.db(&bytes)?;
        }
        Ok(())
    }
}
