//! Products of transformed data and filters: a row of four positions, two at a time, in the accumulators of both columns
//! of results. Between the phases and behind the second one the accumulators go through a butterfly.
use crate::ukernel::{
    winograd::{PHASES, Product, RESULTS},
    x64::{regs::ZMM, row::Asm},
};
use iced_x86::{
    IcedError,
    code_asm::{AsmRegisterZmm, CodeAssembler, dword_ptr, registers as r, zmmword_ptr},
};

/// Machine code.
///
/// # Errors
/// The assembler refuses an instruction, which is a defect of this file.
pub fn assemble(product: &Product) -> Result<Vec<u8>, IcedError> {
    let mut k = Kernel::new(product)?;
    k.start()?;
    for columns in PHASES {
        k.multiply(columns)?;
        k.butterfly()?;
    }
    k.store()?;
    k.asm.vzeroupper()?;
    k.asm.ret()?;
    k.asm.assemble(0)
}

struct Kernel<'a> {
    asm: CodeAssembler,
    product: &'a Product,
    /// Accumulators of the two columns; butterflies exchange registers.
    sums: [Vec<AsmRegisterZmm>; RESULTS],
    free: Vec<AsmRegisterZmm>,
}

impl<'a> Kernel<'a> {
    fn new(product: &'a Product) -> Result<Self, IcedError> {
        let count = product.tiles * product.vectors;
        Ok(Self {
            asm: CodeAssembler::new(64)?,
            product,
            sums: [ZMM[..count].to_vec(), ZMM[count..2 * count].to_vec()],
            free: ZMM[2 * count..].to_vec(),
        })
    }

    fn start(&mut self) -> Asm {
        let vectors = self.product.vectors;
        for (column, sums) in self.sums.iter().enumerate() {
            for (i, sum) in sums.iter().enumerate() {
                if i < vectors {
                    let at = ((column * vectors + i) * 64) as i32;
                    self.asm.vmovdqu32(*sum, zmmword_ptr(r::rcx + at))?;
                } else {
                    self.asm.vmovdqa32(*sum, sums[i % vectors])?;
                }
            }
        }
        Ok(())
    }

    /// Adds the products of two positions, one to each column.
    fn multiply(&mut self, columns: [usize; RESULTS]) -> Asm {
        let Product { vectors, depth, tile: pitch, plane, .. } = *self.product;
        let steps = depth / 4;
        let unroll = [4, 6, 2].into_iter().find(|u| steps.is_multiple_of(*u)).unwrap_or(steps);
        let trips = steps / unroll;
        let mut top = self.asm.create_label();
        self.asm.mov(r::r9, r::rdi)?;
        if trips > 1 {
            self.asm.mov(r::eax, trips as i32)?;
            self.asm.set_label(&mut top)?;
        }
        let (weights, broadcasts) = self.free.split_at(vectors);
        let broadcasts = &broadcasts[..broadcasts.len().min(4)];
        for step in 0..unroll {
            for (half, column) in columns.into_iter().enumerate() {
                for (v, weight) in weights.iter().enumerate() {
                    let at = ((step * RESULTS + half) * vectors + v) * 64;
                    self.asm.vmovdqu32(*weight, zmmword_ptr(r::rsi + at as i32))?;
                }
                for (tile, sums) in self.sums[half].chunks(vectors).enumerate() {
                    let data = broadcasts[tile % broadcasts.len()];
                    let at = column * plane + tile * pitch + step * 4;
                    self.asm.vpbroadcastd(data, dword_ptr(r::r9 + at as i32))?;
                    for (sum, weight) in sums.iter().zip(weights) {
                        self.asm.vpdpbusd(*sum, data, *weight)?;
                    }
                }
            }
        }
        self.asm.add(r::r9, (4 * unroll) as i32)?;
        self.asm.add(r::rsi, (unroll * RESULTS * vectors * 64) as i32)?;
        if trips > 1 {
            self.asm.dec(r::eax)?;
            self.asm.jne(top)?;
        }
        Ok(())
    }

    /// (x, y) ← (x − y, x + y).
    fn butterfly(&mut self) -> Asm {
        for i in 0..self.sums[0].len() {
            let (x, y, difference) = (self.sums[0][i], self.sums[1][i], self.free.remove(0));
            self.asm.vpsubd(difference, x, y)?;
            self.asm.vpaddd(y, x, y)?;
            self.sums[0][i] = difference;
            self.free.push(x);
        }
        Ok(())
    }

    /// Behind the second butterfly the sum is the first column of results, the difference the second.
    fn store(&mut self) -> Asm {
        let [second, first] = &self.sums;
        for (column, sums) in [first, second].into_iter().enumerate() {
            for (i, sum) in sums.iter().enumerate() {
                let at = column * self.product.column + i * 64;
                self.asm.vmovdqu32(zmmword_ptr(r::rdx + at as i32), *sum)?;
            }
        }
        Ok(())
    }
}
