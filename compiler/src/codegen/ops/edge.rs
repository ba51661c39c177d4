//! Calls of the assembled kernels around the tiles (`crate::ukernel::edge`): which level a target has, leaves with their
//! constants, and how threads share what they do.
use crate::{
    Result,
    codegen::{
        builder::Fb,
        emitter::{Emitter, Level, fail},
        parallel::LayerFn,
        target::Target,
    },
    ukernel::{Grid, edge::Simd},
};
use cranelift_codegen::ir::{FuncRef, InstBuilder, Value, types::I64};
use cranelift_module::{DataId, FuncId, Linkage, Module};
use goshawk_ir::DType;
use iced_x86::IcedError;

/// The widest vectors of the target that these kernels have code for.
pub(crate) fn simd(target: &Target) -> Option<Simd> {
    if target.has("avx512vbmi") {
        Some(Simd::Vbmi)
    } else if target.has("avx512bw") {
        Some(Simd::Avx512)
    } else if target.has("avx2") && target.has("fma") {
        Some(Simd::Avx2)
    } else {
        None
    }
}

/// Type of an activation.
pub(crate) fn grid(dtype: DType) -> Option<Grid> {
    match dtype {
        DType::U8 => Some(Grid::U8),
        DType::I16 => Some(Grid::I16),
        DType::U4 | DType::I8 | DType::I4 | DType::I32 | DType::F32 => None,
    }
}

/// A kernel in the module, with its constants.
#[derive(Clone, Copy)]
pub(crate) struct Leaf {
    id: FuncId,
    constants: Option<DataId>,
}

/// The same inside a function.
#[derive(Clone, Copy)]
pub(crate) struct Callee {
    leaf: FuncRef,
    constants: Value,
}

impl Leaf {
    /// Defines the kernel, or finds it, `constants` being what it reads through rcx.
    pub fn new<M: Module>(
        em: &mut Emitter<M>,
        label: &str,
        code: std::result::Result<Vec<u8>, IcedError>,
        constants: Vec<u8>,
    ) -> Result<Self> {
        let id = em.shared_leaf(label, code.map_err(|e| fail(label, &e))?)?;
        let constants = if constants.is_empty() {
            None
        } else {
            Some(em.rodata(&format!("{label}_constants"), constants)?)
        };
        Ok(Self { id, constants })
    }

    /// Makes it known to the function.
    pub fn callee<M: Module>(self, em: &mut Emitter<M>, b: &mut Fb<'_>) -> Callee {
        let leaf = em.callee(b, self.id);
        let constants = match self.constants {
            Some(id) => em.address(b, id),
            None => b.int(I64, 0),
        };
        Callee { leaf, constants }
    }
}

impl Callee {
    /// Calls it on two operands, a result and a count (i64).
    pub fn call(self, b: &mut Fb<'_>, [x, y, out]: [Value; 3], count: Value) {
        b.ins().call(self.leaf, &[x, y, out, self.constants, count]);
    }
}

/// Elements that threads do not divide further.
const BLOCK: usize = 1024;

/// Defines a function of `params` pointers that walks `count` elements in one go, in blocks if they are many: `body` gets
/// the pointers, the first element and the number of elements.
pub(crate) fn blocks<M: Module>(
    em: &mut Emitter<M>,
    name: &str,
    params: usize,
    count: usize,
    body: impl FnOnce(&mut Emitter<M>, &mut Fb<'_>, &[Value], [Value; 2]),
) -> Result<LayerFn> {
    let units = if count >= 2 * BLOCK { count.div_ceil(BLOCK) } else { 0 };
    let all = if units > 0 { params + 2 } else { params };
    let id = em.function(name, Linkage::Local, Level::Speed, all, &[], |em, b, p| {
        let range = if units > 0 {
            let first = b.ins().imul_imm_s(p[params], BLOCK as i64);
            let end = b.ins().imul_imm_s(p[params + 1], BLOCK as i64);
            let total = b.int(I64, count as i64);
            let end = b.ins().smin(end, total);
            [first, b.ins().isub(end, first)]
        } else {
            [b.int(I64, 0), b.int(I64, count as i64)]
        };
        body(em, b, &p[..params], range);
        b.ins().return_(&[]);
        Ok(())
    })?;
    Ok(LayerFn::new(id, units))
}
