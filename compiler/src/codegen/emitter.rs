//! Defines functions and constants in any `cranelift_module::Module`: the JIT for tests, an object for artefacts.
//!
//! Functions are compiled here and handed over as bytes, which allows several back-end settings in one module:
//! GEMM kernels without the e-graph pass (it reorders unrolled bodies until they spill), everything else with it, and
//! entry points with baseline features only, since they run before the CPU check. Assembled leaf functions enter the
//! same way.
use super::{builder::Fb, target::Target};
use crate::{Code, Error, Result};
use cranelift_codegen::{
    Context,
    control::ControlPlane,
    ir::{AbiParam, FuncRef, InstBuilder, Signature, Type, Value, types::I64},
    isa::{CallConv, OwnedTargetIsa, unwind::UnwindInfo},
};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_module::{DataDescription, DataId, FuncId, Linkage, Module, ModuleReloc, ModuleRelocTarget};
use std::collections::BTreeMap;

/// How a function is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// GEMM kernels: instructions stay in the order in which they are written.
    Kernel,
    /// Loops, addresses, element-wise code.
    Speed,
    /// Entry points: no optional CPU feature.
    Baseline,
}

/// A defined function.
pub(crate) struct Defined {
    pub id: FuncId,
    pub name: String,
    pub unwind: Option<UnwindInfo>,
    pub bytes: u32,
    /// Bytes of stack that it takes, return address included.
    pub frame: u32,
    pub calls: Vec<FuncId>,
    pub asm: Option<String>,
}

/// Defines functions and data of one model.
pub(crate) struct Emitter<M: Module> {
    pub module: M,
    pub target: Target,
    isas: [OwnedTargetIsa; 3],
    pub functions: Vec<Defined>,
    data: BTreeMap<Vec<u8>, DataId>,
    leaves: BTreeMap<Vec<u8>, FuncId>,
    data_count: usize,
    prefix: String,
    scratch: FunctionBuilderContext,
    listing: bool,
}

impl<M: Module> Emitter<M> {
    pub fn new(module: M, target: &Target, prefix: &str, listing: bool) -> Result<Self> {
        Ok(Self {
            module,
            target: target.clone(),
            isas: isas(target)?,
            functions: Vec::new(),
            data: BTreeMap::new(),
            leaves: BTreeMap::new(),
            data_count: 0,
            prefix: prefix.to_owned(),
            scratch: FunctionBuilderContext::new(),
            listing,
        })
    }

    /// From now on functions are compiled for `target` and named after `prefix`; data stays shared.
    pub fn enter(&mut self, target: &Target, prefix: &str) -> Result<()> {
        self.isas = isas(target)?;
        self.target = target.clone();
        prefix.clone_into(&mut self.prefix);
        Ok(())
    }

    /// `count` pointers in, `returns` out.
    pub fn signature(&self, count: usize, returns: &[Type]) -> Signature {
        let mut signature = Signature::new(CallConv::SystemV);
        signature.params = vec![AbiParam::new(I64); count];
        signature.returns = returns.iter().map(|t| AbiParam::new(*t)).collect();
        signature
    }

    /// Declares and defines a function of `params` pointers.
    pub fn function(
        &mut self,
        name: &str,
        linkage: Linkage,
        level: Level,
        params: usize,
        returns: &[Type],
        build: impl FnOnce(&mut Self, &mut Fb<'_>, &[Value]) -> Result<()>,
    ) -> Result<FuncId> {
        let name = match linkage {
            Linkage::Export => name.to_owned(),
            _ => format!("{}_{name}", self.prefix),
        };
        let signature = self.signature(params, returns);
        let id = self.module.declare_function(&name, linkage, &signature).map_err(|e| fail(&name, &e))?;
        let mut context = Context::new();
        context.func.signature = signature;
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut b = Fb::new(FunctionBuilder::new(&mut context.func, &mut scratch));
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        let arguments = b.block_params(entry).to_vec();
        build(self, &mut b, &arguments)?;
        b.finish(self.isas[1].frontend_config());
        self.scratch = scratch;
        self.compile(id, name, level, context)?;
        Ok(id)
    }

    fn compile(&mut self, id: FuncId, name: String, level: Level, mut context: Context) -> Result<()> {
        let isa = match level {
            Level::Kernel => &self.isas[0],
            Level::Speed => &self.isas[1],
            Level::Baseline => &self.isas[2],
        };
        context.set_disasm(self.listing);
        context.compile(&**isa, &mut ControlPlane::default()).map_err(|e| fail(&name, &e.inner))?;
        let Some(code) = context.compiled_code() else { return Err(fail(&name, &"no code")) };
        let relocs: Vec<ModuleReloc> =
            code.buffer.relocs().iter().map(|r| ModuleReloc::from_mach_reloc(r, &context.func, id)).collect();
        let mut calls = Vec::new();
        for reloc in &relocs {
            match &reloc.name {
                // Namespace 0 holds functions, 1 data.
                ModuleRelocTarget::User { namespace: 0, index } => calls.push(FuncId::from_u32(*index)),
                ModuleRelocTarget::User { .. } | ModuleRelocTarget::FunctionOffset(..) => {}
                ModuleRelocTarget::LibCall(call) => {
                    return Err(fail(&name, &format!("the code needs the library call {call:?}")));
                }
                ModuleRelocTarget::KnownSymbol(symbol) => {
                    return Err(fail(&name, &format!("the code needs the symbol {symbol:?}")));
                }
            }
        }
        calls.sort_unstable();
        calls.dedup();
        let unwind = code.create_unwind_info(&**isa).map_err(|e| fail(&name, &e))?;
        // Frame pointer and return address lie above what the layout counts.
        let frame = code.buffer.frame_layout().map_or(0, |f| f.frame_to_fp_offset) + 16;
        let bytes = code.buffer.data();
        let alignment = u64::from(code.buffer.alignment).max(32);
        let size = bytes.len() as u32;
        let asm = code.vcode.clone();
        self.module.define_function_bytes(id, alignment, bytes, &relocs).map_err(|e| fail(&name, &e))?;
        self.functions.push(Defined { id, name, unwind, bytes: size, frame, calls, asm });
        Ok(())
    }

    /// A leaf function given as machine code. It keeps the stack pointer where it is.
    pub fn leaf(&mut self, name: &str, params: usize, returns: &[Type], code: &[u8]) -> Result<FuncId> {
        let name = format!("{}_{name}", self.prefix);
        let signature = self.signature(params, returns);
        let id =
            self.module.declare_function(&name, Linkage::Local, &signature).map_err(|e| fail(&name, &e))?;
        self.module.define_function_bytes(id, 64, code, &[]).map_err(|e| fail(&name, &e))?;
        let bytes = code.len() as u32;
        self.functions.push(Defined {
            id,
            name,
            unwind: None,
            bytes,
            frame: 8,
            calls: Vec::new(),
            asm: None,
        });
        Ok(id)
    }

    /// A leaf of five pointers under the contract of `crate::ukernel`, shared where equal code exists already.
    pub fn shared_leaf(&mut self, label: &str, code: Vec<u8>) -> Result<FuncId> {
        self.shared_leaf_of(label, 5, code)
    }

    /// The same with another number of parameters, of which equal code has equally many.
    pub fn shared_leaf_of(&mut self, label: &str, params: usize, code: Vec<u8>) -> Result<FuncId> {
        if let Some(id) = self.leaves.get(&code) {
            return Ok(*id);
        }
        let id = self.leaf(&format!("{label}_{}", self.leaves.len()), params, &[], &code)?;
        self.leaves.insert(code, id);
        Ok(id)
    }

    /// Read-only bytes, shared where equal ones exist already.
    pub fn rodata(&mut self, name: &str, bytes: Vec<u8>) -> Result<DataId> {
        if let Some(id) = self.data.get(&bytes) {
            return Ok(*id);
        }
        let id = self.define_data(name, bytes.clone(), false)?;
        self.data.insert(bytes, id);
        Ok(id)
    }

    /// Data of its own, 64-byte aligned.
    pub fn define_data(&mut self, name: &str, bytes: Vec<u8>, writable: bool) -> Result<DataId> {
        let name = format!("{}_{name}_{}", self.prefix, self.data_count);
        self.data_count += 1;
        let id =
            self.module.declare_data(&name, Linkage::Local, writable, false).map_err(|e| fail(&name, &e))?;
        let mut description = DataDescription::new();
        description.set_align(64);
        description.define(bytes.into_boxed_slice());
        self.module.define_data(id, &description).map_err(|e| fail(&name, &e))?;
        Ok(id)
    }

    /// Address of data inside a function.
    pub fn address(&mut self, b: &mut Fb<'_>, id: DataId) -> Value {
        let global = self.module.declare_data_in_func(id, b.func);
        b.ins().symbol_value(I64, global)
    }

    /// A function that `b` may call.
    pub fn callee(&mut self, b: &mut Fb<'_>, id: FuncId) -> FuncRef {
        self.module.declare_func_in_func(id, b.func)
    }

    /// Calls a function.
    pub fn call(&mut self, b: &mut Fb<'_>, id: FuncId, arguments: &[Value]) -> Vec<Value> {
        let callee = self.callee(b, id);
        let call = b.ins().call(callee, arguments);
        b.inst_results(call).to_vec()
    }

    /// Largest number of stack bytes below a caller of one of `roots`: the call tree is static and has no cycles.
    pub fn stack_bytes(&self, roots: &[FuncId]) -> u32 {
        let mut depth: BTreeMap<FuncId, u32> = BTreeMap::new();
        // Callees are defined before their callers.
        for f in &self.functions {
            let below = f.calls.iter().filter_map(|c| depth.get(c)).max().copied().unwrap_or(0);
            depth.insert(f.id, below + f.frame);
        }
        roots.iter().filter_map(|r| depth.get(r)).max().copied().unwrap_or(0)
    }

    /// Listing of all functions with their names.
    pub fn listing(&self) -> String {
        let mut text = String::new();
        for f in &self.functions {
            text.push_str(&format!("{}: # {} bytes\n", f.name, f.bytes));
            text.push_str(f.asm.as_deref().unwrap_or("# assembled leaf\n"));
            text.push('\n');
        }
        text
    }
}

/// The back ends of the three levels.
fn isas(target: &Target) -> Result<[OwnedTargetIsa; 3]> {
    Ok([target.isa_for(false, false)?, target.isa_for(true, false)?, target.isa_for(true, true)?])
}

/// A failure of the code generator, which no input can be blamed for.
pub(crate) fn fail(name: &str, error: &dyn std::fmt::Display) -> Error {
    Error::new(Code::INTERNAL, format!("code generation of {name} failed: {error}"))
        .help("this is a defect of goshawk: please report it with the model and the command")
}
