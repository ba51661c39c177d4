//! Pointers and loops of kernels that work along a row ([`crate::ukernel::row`]), for any instruction set.
use crate::ukernel::row::{Events, MAX_KERNEL, Part, Row};
use iced_x86::{
    IcedError,
    code_asm::{AsmRegister64, CodeAssembler, qword_ptr, registers as r},
};

pub(super) type Asm = Result<(), IcedError>;

/// Addresses of the input rows. `rcx` counts along the row, `rdi` blocks of channels.
pub(super) const ROWS: [AsmRegister64; MAX_KERNEL] = [r::r8, r::r9, r::r10, r::r11, r::rax];

/// Where the pointers are while code is emitted.
pub(super) struct Walk {
    pub asm: CodeAssembler,
    pub row: Row,
    /// Channel that the pointers point to.
    channel: usize,
    /// Outputs that the pointers have left behind.
    advanced: usize,
}

impl Walk {
    pub fn new(row: Row) -> Result<Self, IcedError> {
        Ok(Self { asm: CodeAssembler::new(64)?, row, channel: 0, advanced: 0 })
    }

    pub fn load_rows(&mut self) -> Asm {
        for (k, row) in ROWS[..self.row.kernel[0]].iter().enumerate() {
            self.asm.mov(*row, qword_ptr(r::rdi + (8 * k) as i32))?;
        }
        Ok(())
    }

    /// Displacement of an input column from its row's pointer.
    pub fn input(&self, column: isize) -> i32 {
        ((column - (self.advanced * self.row.stride) as isize) * self.row.channels as isize) as i32
    }

    /// Displacement of an output pixel.
    pub fn output(&self, pixel: usize) -> i32 {
        ((pixel as isize - self.advanced as isize) * self.row.channels as isize) as i32
    }

    /// Moves all pointers by outputs and channels.
    fn advance(&mut self, pixels: isize, channels: isize) -> Asm {
        let pixel = self.row.channels as isize;
        let input = pixels * self.row.stride as isize * pixel + channels;
        let output = pixels * pixel + channels;
        if input != 0 {
            for row in &ROWS[..self.row.kernel[0]] {
                self.asm.add(*row, input as i32)?;
            }
        }
        if output != 0 { self.asm.add(r::rdx, output as i32) } else { Ok(()) }
    }
}

/// A kernel for one instruction set.
pub(super) trait Kernel {
    /// What is fixed for a part of the channels.
    type Context;

    fn walk(&mut self) -> &mut Walk;

    /// The code of one event.
    fn event(&mut self, context: &Self::Context, event: usize) -> Asm;

    /// One part of the channels. Its blocks have that many bytes of constants each, or share them.
    fn part(
        &mut self,
        context: &Self::Context,
        events: &Events,
        part: Part,
        (constants, shared): (usize, bool),
    ) -> Asm {
        let walk = self.walk();
        walk.advance(0, part.first as isize - walk.channel as isize)?;
        walk.advanced = 0;
        let mut again = walk.asm.create_label();
        if part.blocks > 1 {
            walk.asm.mov(r::edi, part.blocks as i32)?;
            walk.asm.set_label(&mut again)?;
        }
        self.along(context, events)?;
        let walk = self.walk();
        walk.advance(-(walk.advanced as isize), part.channels as isize)?;
        if constants > 0 && !shared {
            walk.asm.add(r::rsi, constants as i32)?;
        }
        walk.channel = part.first + part.channels * part.blocks;
        if part.blocks > 1 {
            walk.asm.dec(r::edi)?;
            walk.asm.jne(again)?;
        }
        if constants > 0 && shared { walk.asm.add(r::rsi, constants as i32) } else { Ok(()) }
    }

    /// The events of a row; those that are alike as a loop.
    fn along(&mut self, context: &Self::Context, events: &Events) -> Asm {
        let trips = events.uniform.len() / events.period;
        let mut event = 0;
        if trips > 1 {
            while event < events.uniform.start {
                self.event(context, event)?;
                event += 1;
            }
            let walk = self.walk();
            let mut again = walk.asm.create_label();
            walk.asm.mov(r::ecx, trips as i32)?;
            walk.asm.set_label(&mut again)?;
            for e in event..event + events.period {
                self.event(context, e)?;
            }
            let walk = self.walk();
            let outputs = events.period * events.pixels;
            walk.advance(outputs as isize, 0)?;
            walk.asm.dec(r::ecx)?;
            walk.asm.jne(again)?;
            walk.advanced = trips * outputs;
            event += trips * events.period;
        }
        while event < events.count {
            self.event(context, event)?;
            event += 1;
        }
        Ok(())
    }
}
