//! Products of transformed data and filters in all 16 positions of a group of tiles: `vpmaddubsw` and `vpaddw`, two
//! instructions for 32 products. Accumulators hold i16 sums of one position, of two neighbouring k each; after
//! [`Product::period`] steps they are widened and go to memory. With dot products one instruction, and sums of 32 bits from the
//! beginning.
use crate::ukernel::{
    winograd::{DATA, Filters, Product},
    x64::{avx2::dot_product, regs::YMM, row::Asm},
};
use iced_x86::{
    IcedError,
    code_asm::{CodeAssembler, CodeLabel, dword_ptr, registers as r, ymmword_ptr},
};

/// Steps that are unrolled whatever their number.
const UNROLLED: usize = 16;

/// Machine code.
///
/// # Errors
/// The assembler refuses an instruction, which is a defect of this file.
pub fn assemble(product: &Product) -> Result<Vec<u8>, IcedError> {
    let mut asm = CodeAssembler::new(64)?;
    let ones = asm.create_label();
    let mut k = Kernel { asm, product, ones };
    let mut top = k.asm.create_label();
    k.asm.mov(r::r10d, (DATA * DATA) as i32)?;
    k.asm.set_label(&mut top)?;
    k.position()?;
    let Product { isa, vectors, depth, plane, column, .. } = *product;
    k.asm.add(r::rdi, plane as i32)?;
    k.asm.add(r::rsi, Filters { isa, vectors, depth }.plane() as i32)?;
    k.asm.add(r::rdx, column as i32)?;
    k.asm.dec(r::r10d)?;
    k.asm.jne(top)?;
    k.asm.vzeroupper()?;
    k.asm.ret()?;
    k.asm.set_label(&mut k.ones)?;
    k.asm.db(&1i16.to_le_bytes().repeat(16))?;
    k.asm.assemble(0)
}

struct Kernel<'a> {
    asm: CodeAssembler,
    product: &'a Product,
    /// A vector of words.
    ones: CodeLabel,
}

impl Kernel<'_> {
    fn accumulators(&self) -> usize {
        self.product.tiles * self.product.vectors
    }

    /// The sums of one position.
    fn position(&mut self) -> Asm {
        let steps = self.product.depth / 4;
        let period = self.product.period.min(steps);
        self.asm.mov(r::r9, r::rdi)?;
        self.asm.mov(r::r11, r::rsi)?;
        self.segment(period, true)?;
        let more = steps / period - 1;
        let mut top = self.asm.create_label();
        if more > 1 {
            self.asm.mov(r::ecx, more as i32)?;
            self.asm.set_label(&mut top)?;
        }
        if more > 0 {
            self.segment(period, false)?;
        }
        if more > 1 {
            self.asm.dec(r::ecx)?;
            self.asm.jne(top)?;
        }
        match steps % period {
            0 => Ok(()),
            rest => self.segment(rest, false),
        }
    }

    /// Some steps in registers, then to memory: the first sums of a position, or more of them.
    fn segment(&mut self, steps: usize, first: bool) -> Asm {
        let unroll = match steps {
            0..=UNROLLED => steps,
            _ => [8, 10, 6, 7, 9, 5, 4, 3, 2].into_iter().find(|u| steps.is_multiple_of(*u)).unwrap_or(1),
        };
        let trips = steps / unroll;
        let mut top = self.asm.create_label();
        if trips > 1 || self.product.dot.is_some() {
            for acc in &YMM[..self.accumulators()] {
                self.asm.vpxor(*acc, *acc, *acc)?;
            }
        }
        if trips > 1 {
            self.asm.mov(r::eax, trips as i32)?;
            self.asm.set_label(&mut top)?;
        }
        for step in 0..unroll {
            self.step(step, trips == 1 && step == 0)?;
        }
        self.asm.add(r::r9, (4 * unroll) as i32)?;
        self.asm.add(r::r11, (unroll * self.product.vectors * 32) as i32)?;
        if trips > 1 {
            self.asm.dec(r::eax)?;
            self.asm.jne(top)?;
        }
        for (i, acc) in YMM[..self.accumulators()].iter().enumerate() {
            let sum = ymmword_ptr(r::rdx + (i * 32) as i32);
            if self.product.dot.is_none() {
                self.asm.vpmaddwd(*acc, *acc, ymmword_ptr(self.ones))?;
            }
            if !first {
                self.asm.vpaddd(*acc, *acc, sum)?;
            }
            self.asm.vmovdqu(sum, *acc)?;
        }
        Ok(())
    }

    /// Four k of every tile and channel; the first ones need not be added.
    fn step(&mut self, step: usize, first: bool) -> Asm {
        let Product { vectors, tile: pitch, .. } = *self.product;
        let count = self.accumulators();
        let (accumulators, free) = YMM[..16].split_at(count);
        let (weights, free) = free.split_at(vectors);
        let (broadcast, temporaries) = (free[0], &free[1..]);
        for (v, weight) in weights.iter().enumerate() {
            let at = (step * vectors + v) * 32;
            self.asm.vmovdqu(*weight, ymmword_ptr(r::r11 + at as i32))?;
        }
        for (tile, sums) in accumulators.chunks(vectors).enumerate() {
            self.asm.vpbroadcastd(broadcast, dword_ptr(r::r9 + (tile * pitch + step * 4) as i32))?;
            for (v, (sum, weight)) in sums.iter().zip(weights).enumerate() {
                if let Some(dot) = self.product.dot {
                    dot_product(&mut self.asm, dot, [*sum, broadcast, *weight])?;
                } else if first {
                    self.asm.vpmaddubsw(*sum, broadcast, *weight)?;
                } else {
                    let t = temporaries[v % temporaries.len()];
                    self.asm.vpmaddubsw(t, broadcast, *weight)?;
                    self.asm.vpaddw(*sum, *sum, t)?;
                }
            }
        }
        Ok(())
    }
}
