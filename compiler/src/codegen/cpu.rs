//! The leaf function by which a compiled library finds out whether the CPU can run it: 1 if so, 0 if not.
//!
//! Cranelift has no CPUID, so the bytes are assembled here. x86-64: CPUID for the features, XGETBV for the register
//! state that the operating system saves (Intel SDM vol. 1 §14.3 and §15.2). AArch64: `mrs` of the ID registers,
//! which Linux emulates for user space since 4.11 (HWCAP_CPUID).
use super::target::{Arch, Feature, Probe, Target};
use crate::{Result, codegen::emitter::fail};
use iced_x86::{IcedError, code_asm::*};
use std::collections::BTreeMap;

/// Machine code of the leaf; `None` if there is nothing to look for.
pub(crate) fn check(target: &Target) -> Result<Option<Vec<u8>>> {
    let required: Vec<&Feature> = target.required().collect();
    if required.is_empty() {
        return Ok(None);
    }
    match target.arch() {
        Arch::X64 => x64(&required).map(Some).map_err(|e| fail("the CPU check", &e)),
        Arch::Aarch64 => Ok(Some(aarch64(&required))),
    }
}

fn x64(required: &[&Feature]) -> std::result::Result<Vec<u8>, IcedError> {
    // (leaf, subleaf) → masks of the registers.
    let mut masks: BTreeMap<(u32, u32), [u32; 4]> = BTreeMap::new();
    let mut xcr0 = 0;
    for feature in required {
        if let Probe::Cpuid { leaf, subleaf, register, bit } = feature.probe {
            masks.entry((leaf, subleaf)).or_default()[register] |= 1 << bit;
        }
        xcr0 |= feature.xcr0;
    }
    const OSXSAVE: u32 = 1 << 27;
    if xcr0 != 0 {
        masks.entry((1, 0)).or_default()[2] |= OSXSAVE;
    }
    let mut a = CodeAssembler::new(64)?;
    let mut no = a.create_label();
    // rbx is callee-saved and CPUID writes it. r8 instead of the stack keeps the frame trivial to unwind.
    a.mov(r8, rbx)?;
    for ((leaf, subleaf), mask) in &masks {
        // The highest basic or extended leaf comes first: CPUID of a higher one gives that of another leaf.
        a.mov(eax, (leaf & 0x8000_0000) as i32)?;
        a.xor(ecx, ecx)?;
        a.cpuid()?;
        a.cmp(eax, *leaf as i32)?;
        a.jb(no)?;
        if *subleaf > 0 {
            a.mov(eax, *leaf as i32)?;
            a.xor(ecx, ecx)?;
            a.cpuid()?;
            a.cmp(eax, *subleaf as i32)?;
            a.jb(no)?;
        }
        a.mov(eax, *leaf as i32)?;
        a.mov(ecx, *subleaf as i32)?;
        a.cpuid()?;
        for (register, mask) in [eax, ebx, ecx, edx].into_iter().zip(mask) {
            if *mask != 0 {
                a.and(register, *mask as i32)?;
                a.cmp(register, *mask as i32)?;
                a.jne(no)?;
            }
        }
    }
    if xcr0 != 0 {
        a.xor(ecx, ecx)?;
        a.xgetbv()?;
        a.and(eax, xcr0 as i32)?;
        a.cmp(eax, xcr0 as i32)?;
        a.jne(no)?;
    }
    a.mov(eax, 1)?;
    a.mov(rbx, r8)?;
    a.ret()?;
    a.set_label(&mut no)?;
    a.xor(eax, eax)?;
    a.mov(rbx, r8)?;
    a.ret()?;
    a.assemble(0)
}

/// x0 = 1 if every 4-bit field is not 0. Encodings: Arm ARM C6.2.
fn aarch64(required: &[&Feature]) -> Vec<u8> {
    let mut code: Vec<u32> = vec![0x5280_0020]; // mov w0, #1
    for feature in required {
        if let Probe::IdRegister { register, bit } = feature.probe {
            code.push(0xd538_0601 | (register << 5)); // mrs x1, ID_AA64ISARn_EL1
            code.push(0xd340_0021 | (bit << 16) | ((bit + 3) << 10)); // ubfx x1, x1, #bit, #4
            code.push(0xf100_003f); // cmp x1, #0
            code.push(0x1a9f_1000); // csel w0, w0, wzr, ne
        }
    }
    code.push(0xd65f_03c0); // ret
    code.iter().flat_map(|w| w.to_le_bytes()).collect()
}
