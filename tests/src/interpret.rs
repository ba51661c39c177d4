//! An interpreter of the x86-64 instructions that AVX-512 kernels of tables consist of, so that those for CPUs other than
//! this one are tested byte by byte too. Every access of memory is checked; what a CPU leaves undefined is an error.
//!
//! Semantics: Intel SDM vol. 2. Registers start with junk; masked elements touch no memory (vol. 1 §15.6.4).
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

/// Instructions after which a kernel is taken to hang.
const PATIENCE: usize = 1 << 20;
const JUNK: u8 = 0xC7;

type Bytes = [u8; 64];
type Outcome<T> = Result<T, String>;

/// The region that may be written.
const OUT: usize = 4;

/// Where the code and the buffers lie: far apart, no address a multiple of 64.
const fn base(region: usize) -> u64 {
    ((region as u64 + 1) << 40) + 61
}

/// Calls the code as [`crate::guard::Code::call`] does, the fifth operand being a count.
///
/// # Errors
/// An access outside the buffers, an instruction that is not known here, a flag that is not defined, a loop without end.
pub fn call(code: &[u8], [a, b, constants]: [&[u8]; 3], out: &mut [u8], count: usize) -> Result<(), String> {
    let regions = [code, a, b, constants, out].map(<[u8]>::to_vec);
    let mut cpu = Cpu {
        ip: base(0),
        general: [u64::from_ne_bytes([JUNK; 8]); 16],
        vectors: [[JUNK; 64]; 32],
        masks: [u64::from_ne_bytes([JUNK; 8]); 8],
        zero: None,
        carry: None,
        regions,
    };
    for (register, value) in [
        (Register::RDI, base(1)),
        (Register::RSI, base(2)),
        (Register::RDX, base(OUT)),
        (Register::RCX, base(3)),
        (Register::R8, count as u64),
    ] {
        cpu.general[register as usize - Register::RAX as usize] = value;
    }
    for _ in 0..PATIENCE {
        let at = cpu.ip.wrapping_sub(base(0)) as usize;
        let bytes = cpu.regions[0].get(at..).unwrap_or_default();
        let i = Decoder::with_ip(64, bytes, cpu.ip, DecoderOptions::NONE).decode();
        cpu.ip = i.next_ip();
        if i.mnemonic() == Mnemonic::Ret {
            out.copy_from_slice(&cpu.regions[OUT]);
            return Ok(());
        }
        cpu.step(&i).map_err(|e| format!("{:?} at {at}: {e}", i.code()))?;
    }
    Err("it does not return".into())
}

struct Cpu {
    ip: u64,
    general: [u64; 16],
    vectors: [Bytes; 32],
    masks: [u64; 8],
    /// ZF and CF; `None` where they are not defined, or not kept here.
    zero: Option<bool>,
    carry: Option<bool>,
    regions: [Vec<u8>; 5],
}

/// The number of a register in the file that starts with `first` and holds `count`.
fn number(register: Register, first: Register, count: usize) -> Option<usize> {
    (register as usize).checked_sub(first as usize).filter(|n| *n < count)
}

/// `f` of all words.
fn words(a: &Bytes, b: &Bytes, f: impl Fn(u16, u16) -> u16) -> Bytes {
    let mut out = [0; 64];
    for at in (0..64).step_by(2) {
        let word = |v: &Bytes| u16::from_le_bytes([v[at], v[at + 1]]);
        out[at..at + 2].copy_from_slice(&f(word(a), word(b)).to_le_bytes());
    }
    out
}

/// Element `index` of `size` bytes in two registers that follow each other, for all elements of `index`.
fn permute(index: &Bytes, tables: [&Bytes; 2], size: usize) -> Bytes {
    let per_register = 64 / size;
    let mut out = [0; 64];
    for (to, index) in out.chunks_exact_mut(size).zip(index.chunks_exact(size)) {
        // 2 · 64 / size elements: the low byte always has enough bits.
        let i = usize::from(index[0]) % (2 * per_register);
        to.copy_from_slice(&tables[i / per_register][i % per_register * size..][..size]);
    }
    out
}

/// Bytes of `a` and `b` in turn, from byte `half` of each 128-bit lane on.
fn unpack(a: &Bytes, b: &Bytes, half: usize) -> Bytes {
    std::array::from_fn(|i| {
        let from = i / 16 * 16 + half + i % 16 / 2;
        if i % 2 == 0 { a[from] } else { b[from] }
    })
}

/// The top bits of all elements.
fn signs(v: &Bytes, size: usize) -> u64 {
    v.chunks_exact(size).enumerate().map(|(i, e)| u64::from(e[size - 1] >> 7) << i).sum()
}

impl Cpu {
    fn step(&mut self, i: &Instruction) -> Outcome<()> {
        match i.mnemonic() {
            Mnemonic::Nop => {}
            Mnemonic::Vzeroupper => self.vectors[..16].iter_mut().for_each(|v| v[16..].fill(0)),
            Mnemonic::Mov => self.set_general(i, self.general(i, 1)?)?,
            Mnemonic::Add => {
                let (sum, carry) = self.general(i, 0)?.overflowing_add(self.general(i, 1)?);
                self.set_general(i, sum)?;
                (self.zero, self.carry) = (Some(sum == 0), Some(carry));
            }
            Mnemonic::Sub => {
                let (rest, borrow) = self.general(i, 0)?.overflowing_sub(self.general(i, 1)?);
                self.set_general(i, rest)?;
                (self.zero, self.carry) = (Some(rest == 0), Some(borrow));
            }
            Mnemonic::Dec => {
                let rest = self.general(i, 0)?.wrapping_sub(1);
                self.set_general(i, rest)?;
                self.zero = Some(rest == 0);
            }
            Mnemonic::Shl if i.op_register(1) == Register::CL => {
                let count = self.general[Register::RCX as usize - Register::RAX as usize] % 64;
                self.set_general(i, self.general(i, 0)? << count)?;
                (self.zero, self.carry) = (None, None);
            }
            Mnemonic::Je => self.jump(i, self.zero)?,
            Mnemonic::Jne => self.jump(i, self.zero.map(|z| !z))?,
            Mnemonic::Jb => self.jump(i, self.carry)?,
            Mnemonic::Jae => self.jump(i, self.carry.map(|c| !c))?,
            Mnemonic::Kmovq => self.set_mask(i, self.general(i, 1)?)?,
            Mnemonic::Kxnorq => self.set_mask(i, !(self.mask(i, 1)? ^ self.mask(i, 2)?))?,
            Mnemonic::Kshiftrq => {
                let count = u32::try_from(i.immediate(2)).unwrap_or(64);
                self.set_mask(i, self.mask(i, 1)?.checked_shr(count).unwrap_or(0))?;
            }
            Mnemonic::Vpmovb2m => self.set_mask(i, signs(self.vector(i, 1)?, 1))?,
            Mnemonic::Vpmovw2m => self.set_mask(i, signs(self.vector(i, 1)?, 2))?,
            Mnemonic::Vmovdqu8 => self.copy(i, 1)?,
            Mnemonic::Vmovdqu16 => self.copy(i, 2)?,
            Mnemonic::Vmovdqu32 => self.copy(i, 4)?,
            // Aligned between registers only: memory is never aligned here.
            Mnemonic::Vmovdqa64 if i.op_kind(0) == OpKind::Register && i.op_kind(1) == OpKind::Register => {
                self.copy(i, 8)?;
            }
            Mnemonic::Vmovdqu64 => self.copy(i, 8)?,
            Mnemonic::Vpmovzxbw => {
                let narrow = self.load(i, 1, 32)?;
                let wide = std::array::from_fn(|i| if i % 2 == 0 { narrow[i / 2] } else { 0 });
                self.set_vector(i, wide, 2)?;
            }
            Mnemonic::Vpmovwb => {
                let wide = *self.vector(i, 1)?;
                self.store(i, &std::array::from_fn(|i| wide[2 * i % 64]), 1, 32)?;
            }
            Mnemonic::Vpermi2b => {
                let value = permute(self.vector(i, 0)?, [self.vector(i, 1)?, self.vector(i, 2)?], 1);
                self.set_vector(i, value, 1)?;
            }
            Mnemonic::Vpermi2w => {
                let value = permute(self.vector(i, 0)?, [self.vector(i, 1)?, self.vector(i, 2)?], 2);
                self.set_vector(i, value, 2)?;
            }
            Mnemonic::Vpermq if i.op_kind(2) == OpKind::Register => {
                let (index, from) = (self.vector(i, 1)?, self.vector(i, 2)?);
                let value = std::array::from_fn(|i| from[usize::from(index[i / 8 * 8] % 8) * 8 + i % 8]);
                self.set_vector(i, value, 8)?;
            }
            Mnemonic::Vpunpcklbw => {
                self.set_vector(i, unpack(self.vector(i, 1)?, self.vector(i, 2)?, 0), 1)?
            }
            Mnemonic::Vpunpckhbw => {
                self.set_vector(i, unpack(self.vector(i, 1)?, self.vector(i, 2)?, 8), 1)?
            }
            Mnemonic::Vpandd => {
                let value = words(self.vector(i, 1)?, self.vector(i, 2)?, |a, b| a & b);
                self.set_vector(i, value, 4)?;
            }
            Mnemonic::Vpsrlvw => {
                let shift = |a: u16, b: u16| a.checked_shr(b.into()).unwrap_or(0);
                self.set_vector(i, words(self.vector(i, 1)?, self.vector(i, 2)?, shift), 2)?;
            }
            Mnemonic::Vpsrlw if i.op_kind(2) == OpKind::Immediate8 => {
                let v = self.vector(i, 1)?;
                let shift = |a: u16, _| a.checked_shr(i.immediate8().into()).unwrap_or(0);
                self.set_vector(i, words(v, v, shift), 2)?;
            }
            Mnemonic::Vpsllw if i.op_kind(2) == OpKind::Immediate8 => {
                let v = self.vector(i, 1)?;
                let shift = |a: u16, _| a.checked_shl(i.immediate8().into()).unwrap_or(0);
                self.set_vector(i, words(v, v, shift), 2)?;
            }
            _ => return Err("not known to the interpreter".into()),
        }
        Ok(())
    }

    fn jump(&mut self, i: &Instruction, taken: Option<bool>) -> Outcome<()> {
        if taken.ok_or("the flag is not defined")? {
            self.ip = i.near_branch_target();
        }
        Ok(())
    }

    /// A register of 64 bits or an immediate.
    fn general(&self, i: &Instruction, operand: u32) -> Outcome<u64> {
        if i.op_kind(operand) != OpKind::Register {
            return i.try_immediate(operand).map_err(|_| "operand is not an immediate".into());
        }
        let n = number(i.op_register(operand), Register::RAX, 16).ok_or("not a register of 64 bits")?;
        Ok(self.general[n])
    }

    /// To the first operand; one of 32 bits clears the others.
    fn set_general(&mut self, i: &Instruction, value: u64) -> Outcome<()> {
        let register = i.op_register(0);
        if let Some(n) = number(register, Register::RAX, 16) {
            self.general[n] = value;
        } else if let (Some(n), Mnemonic::Mov) = (number(register, Register::EAX, 16), i.mnemonic()) {
            self.general[n] = value & u64::from(u32::MAX);
        } else {
            return Err("the result is not in a known register".into());
        }
        Ok(())
    }

    fn mask(&self, i: &Instruction, operand: u32) -> Outcome<u64> {
        let n = number(i.op_register(operand), Register::K0, 8).ok_or("not a mask register")?;
        Ok(self.masks[n])
    }

    fn set_mask(&mut self, i: &Instruction, value: u64) -> Outcome<()> {
        let n = number(i.op_register(0), Register::K0, 8).ok_or("not a mask register")?;
        self.masks[n] = value;
        Ok(())
    }

    fn vector(&self, i: &Instruction, operand: u32) -> Outcome<&Bytes> {
        let n = number(i.op_register(operand), Register::ZMM0, 32).ok_or("not a register of 512 bits")?;
        Ok(&self.vectors[n])
    }

    /// Whether the instruction writes element `n`.
    fn active(&self, i: &Instruction, n: usize) -> bool {
        number(i.op_mask(), Register::K1, 7).is_none_or(|k| self.masks[1 + k] >> n & 1 == 1)
    }

    /// To the first operand, as its mask has it.
    fn set_vector(&mut self, i: &Instruction, value: Bytes, size: usize) -> Outcome<()> {
        let mut result = *self.vector(i, 0)?;
        for (n, (to, from)) in result.chunks_exact_mut(size).zip(value.chunks_exact(size)).enumerate() {
            if self.active(i, n) {
                to.copy_from_slice(from);
            } else if i.zeroing_masking() {
                to.fill(0);
            }
        }
        let n = number(i.op_register(0), Register::ZMM0, 32).ok_or("not a register of 512 bits")?;
        self.vectors[n] = result;
        Ok(())
    }

    /// A move of elements of `size` bytes.
    fn copy(&mut self, i: &Instruction, size: usize) -> Outcome<()> {
        if i.op_kind(0) == OpKind::Memory {
            let value = *self.vector(i, 1)?;
            self.store(i, &value, size, 64 / size)
        } else if i.op_kind(1) == OpKind::Memory {
            let value = self.load(i, size, 64 / size)?;
            self.set_vector(i, value, size)
        } else {
            self.set_vector(i, *self.vector(i, 1)?, size)
        }
    }

    /// Address of the memory operand.
    fn address(&self, i: &Instruction) -> Outcome<u64> {
        if i.is_ip_rel_memory_operand() {
            return Ok(i.ip_rel_memory_address());
        }
        let base = number(i.memory_base(), Register::RAX, 16).ok_or("an address without a base")?;
        if i.memory_index() != Register::None {
            return Err("an address with an index".into());
        }
        Ok(self.general[base].wrapping_add(i.memory_displacement64()))
    }

    /// Where `size` bytes are that belong to element `n` of the memory operand at `address`: region, offset.
    fn locate(&self, address: u64, n: usize, size: usize) -> Outcome<(usize, usize)> {
        let address = address.wrapping_add((n * size) as u64);
        let inside = |region: usize| {
            let at = usize::try_from(address.checked_sub(base(region))?).ok()?;
            (at.checked_add(size)? <= self.regions[region].len()).then_some((region, at))
        };
        (0..self.regions.len())
            .find_map(inside)
            .ok_or_else(|| format!("{size} bytes at {address:#x} are outside the buffers"))
    }

    /// `count` elements from memory, those that are masked left out.
    fn load(&self, i: &Instruction, size: usize, count: usize) -> Outcome<Bytes> {
        let address = self.address(i)?;
        let mut value = [0; 64];
        for n in (0..count).filter(|n| self.active(i, *n)) {
            let (region, at) = self.locate(address, n, size)?;
            value[n * size..][..size].copy_from_slice(&self.regions[region][at..at + size]);
        }
        Ok(value)
    }

    /// `count` elements to memory, those that are masked left out.
    fn store(&mut self, i: &Instruction, value: &Bytes, size: usize, count: usize) -> Outcome<()> {
        let address = self.address(i)?;
        for n in 0..count {
            if self.active(i, n) {
                let (region, at) = self.locate(address, n, size)?;
                if region != OUT {
                    return Err("it writes what it may only read".into());
                }
                self.regions[region][at..at + size].copy_from_slice(&value[n * size..][..size]);
            }
        }
        Ok(())
    }
}
