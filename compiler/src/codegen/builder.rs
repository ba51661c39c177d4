//! A thin layer over `FunctionBuilder`: loads, stores, constants, loops with constant trip counts, loop nests.
//!
//! All memory accesses are unaligned and little-endian; pointers are i64. Loops carry their variables as block
//! parameters, so that nothing depends on the e-graph pass, which GEMM kernels do without.
use cranelift_codegen::ir::{
    BlockArg, ConstantData, Endianness, InstBuilder, MemFlagsData, Type, Value, condcodes::IntCC, types::*,
};
use cranelift_frontend::FunctionBuilder;
use goshawk_ir::DType;
use std::ops::{Deref, DerefMut};

/// Builds one function.
pub(crate) struct Fb<'a> {
    inner: FunctionBuilder<'a>,
}

impl<'a> Deref for Fb<'a> {
    type Target = FunctionBuilder<'a>;
    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl DerefMut for Fb<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.inner
    }
}

fn flags() -> MemFlagsData {
    MemFlagsData::new().with_notrap().with_endianness(Endianness::Little)
}

/// Elements of one dimension of a loop nest, with the byte stride of each pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dim {
    pub count: usize,
    pub strides: Vec<i64>,
}

impl<'a> Fb<'a> {
    pub fn new(inner: FunctionBuilder<'a>) -> Self {
        Self { inner }
    }

    pub fn finish(mut self, config: cranelift_codegen::isa::TargetFrontendConfig) {
        self.inner.seal_all_blocks();
        self.inner.finalize(config);
    }

    pub fn load(&mut self, ty: Type, pointer: Value, offset: i32) -> Value {
        self.ins().load(ty, flags(), pointer, offset)
    }

    /// Eight i8 widened to i16x8.
    pub fn load_s8x8(&mut self, pointer: Value, offset: i32) -> Value {
        self.ins().sload8x8(flags(), pointer, offset)
    }

    /// Eight u8 widened to i16x8.
    pub fn load_u8x8(&mut self, pointer: Value, offset: i32) -> Value {
        self.ins().uload8x8(flags(), pointer, offset)
    }

    pub fn store(&mut self, value: Value, pointer: Value, offset: i32) {
        self.ins().store(flags(), value, pointer, offset);
    }

    /// An element of an activation tensor, widened to i32.
    pub fn load_i32(&mut self, dtype: DType, pointer: Value, offset: i32) -> Value {
        match dtype {
            DType::U8 | DType::U4 => self.ins().uload8(I32, flags(), pointer, offset),
            DType::I8 | DType::I4 => self.ins().sload8(I32, flags(), pointer, offset),
            DType::I16 => self.ins().sload16(I32, flags(), pointer, offset),
            DType::I32 | DType::F32 => self.load(I32, pointer, offset),
        }
    }

    /// Stores the low bits of an i32.
    pub fn store_i32(&mut self, dtype: DType, value: Value, pointer: Value, offset: i32) {
        match dtype {
            DType::U8 | DType::U4 | DType::I8 | DType::I4 => {
                self.ins().istore8(flags(), value, pointer, offset);
            }
            DType::I16 => {
                self.ins().istore16(flags(), value, pointer, offset);
            }
            DType::I32 | DType::F32 => self.store(value, pointer, offset),
        }
    }

    /// Reinterprets a vector.
    pub fn cast(&mut self, ty: Type, value: Value) -> Value {
        if self.func.dfg.value_type(value) == ty {
            return value;
        }
        let flags = MemFlagsData::new().with_endianness(Endianness::Little);
        self.ins().bitcast(ty, flags, value)
    }

    pub fn int(&mut self, ty: Type, value: i64) -> Value {
        let mask = if ty.bits() == 64 { -1 } else { (1i64 << ty.bits()) - 1 };
        self.ins().iconst(ty, value & mask)
    }

    /// A vector constant from its 16 bytes.
    pub fn vector(&mut self, ty: Type, bytes: Vec<u8>) -> Value {
        let handle = self.func.dfg.constants.insert(ConstantData::from(bytes));
        self.ins().vconst(ty, handle)
    }

    /// All lanes alike.
    pub fn lanes(&mut self, ty: Type, value: i64) -> Value {
        let width = ty.lane_type().bytes() as usize;
        self.vector(ty, value.to_le_bytes()[..width].repeat(16 / width))
    }

    /// Bytes of `a` (0..16) and `b` (16..32) picked by index.
    pub fn shuffle(&mut self, a: Value, b: Value, pick: impl IntoIterator<Item = u8>) -> Value {
        let data = ConstantData::from(pick.into_iter().collect::<Vec<u8>>());
        let mask = self.func.dfg.immediates.push(data);
        let (a, b) = (self.cast(I8X16, a), self.cast(I8X16, b));
        self.ins().shuffle(a, b, mask)
    }

    /// `pointer + bytes`.
    pub fn offset(&mut self, pointer: Value, bytes: i64) -> Value {
        if bytes == 0 { pointer } else { self.ins().iadd_imm_s(pointer, bytes) }
    }

    /// `pointer + index · bytes` for an i64 index.
    pub fn index(&mut self, pointer: Value, index: Value, bytes: i64) -> Value {
        let step = match bytes {
            1 => index,
            _ => self.ins().imul_imm_s(index, bytes),
        };
        self.ins().iadd(pointer, step)
    }

    /// Runs `body` `count` ≥ 0 times; it maps the loop variables to their next values. Returns the last ones.
    pub fn repeat(
        &mut self,
        count: usize,
        vars: &[Value],
        mut body: impl FnMut(&mut Self, &[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        match count {
            0 => vars.to_vec(),
            1 => body(self, vars),
            _ => {
                let n = self.ins().iconst(I64, count as i64);
                self.repeat_runtime(n, vars, body)
            }
        }
    }

    /// The same with a trip count ≥ 1 that is known only at run time (i64).
    pub fn repeat_runtime(
        &mut self,
        count: Value,
        vars: &[Value],
        mut body: impl FnMut(&mut Self, &[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        let (head, exit) = (self.create_block(), self.create_block());
        self.append_block_param(head, I64);
        for v in vars {
            let ty = self.func.dfg.value_type(*v);
            self.append_block_param(head, ty);
            self.append_block_param(exit, ty);
        }
        let args: Vec<BlockArg> =
            std::iter::once(count).chain(vars.iter().copied()).map(Into::into).collect();
        self.ins().jump(head, &args);
        self.switch_to_block(head);
        let params = self.block_params(head).to_vec();
        let next = body(self, &params[1..]);
        let left = self.ins().iadd_imm_s(params[0], -1);
        let done: Vec<BlockArg> = next.iter().map(|v| (*v).into()).collect();
        let again: Vec<BlockArg> = std::iter::once(left.into()).chain(done.iter().copied()).collect();
        let more = self.ins().icmp_imm_u(IntCC::NotEqual, left, 0);
        self.ins().brif(more, head, &again, exit, &done);
        self.switch_to_block(exit);
        self.block_params(exit).to_vec()
    }

    /// The same over `begin..end`, which may be empty (i64); the body also gets the index.
    pub fn repeat_range(
        &mut self,
        [begin, end]: [Value; 2],
        vars: &[Value],
        mut body: impl FnMut(&mut Self, Value, &[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        let some = self.ins().icmp(IntCC::SignedLessThan, begin, end);
        self.branch(
            some,
            |b| {
                let count = b.ins().isub(end, begin);
                let vars: Vec<Value> = std::iter::once(begin).chain(vars.iter().copied()).collect();
                let end = b.repeat_runtime(count, &vars, |b, v| {
                    let next = body(b, v[0], &v[1..]);
                    std::iter::once(b.offset(v[0], 1)).chain(next).collect()
                });
                end[1..].to_vec()
            },
            |_| vars.to_vec(),
        )
    }

    /// Returns `code` where `condition` is not 0.
    pub fn refuse(&mut self, condition: Value, code: i32) {
        let (bad, go) = (self.create_block(), self.create_block());
        self.ins().brif(condition, bad, &[], go, &[]);
        self.switch_to_block(bad);
        let code = self.int(I32, i64::from(code));
        self.ins().return_(&[code]);
        self.switch_to_block(go);
    }

    /// Runs `then` where `condition` is not 0, else `otherwise`; both give values of the same types.
    pub fn branch(
        &mut self,
        condition: Value,
        then: impl FnOnce(&mut Self) -> Vec<Value>,
        otherwise: impl FnOnce(&mut Self) -> Vec<Value>,
    ) -> Vec<Value> {
        let (yes, no, join) = (self.create_block(), self.create_block(), self.create_block());
        self.ins().brif(condition, yes, &[], no, &[]);
        self.switch_to_block(yes);
        let values = then(self);
        for v in &values {
            let ty = self.func.dfg.value_type(*v);
            self.append_block_param(join, ty);
        }
        let args: Vec<BlockArg> = values.into_iter().map(Into::into).collect();
        self.ins().jump(join, &args);
        self.switch_to_block(no);
        let args: Vec<BlockArg> = otherwise(self).into_iter().map(Into::into).collect();
        self.ins().jump(join, &args);
        self.switch_to_block(join);
        self.block_params(join).to_vec()
    }

    /// Walks `pointers` over `dims`, outermost first, and runs `body` at each position.
    pub fn nest(&mut self, dims: &[Dim], pointers: &[Value], body: &mut dyn FnMut(&mut Self, &[Value])) {
        let Some((dim, inner)) = dims.split_first() else { return body(self, pointers) };
        self.repeat(dim.count, pointers, |b, p| {
            b.nest(inner, p, body);
            p.iter().zip(&dim.strides).map(|(p, s)| b.offset(*p, *s)).collect()
        });
    }

    /// Copies `bytes` bytes, in 16-byte pieces and a tail of exact size.
    pub fn copy(&mut self, from: Value, to: Value, bytes: usize) {
        self.fill_pieces(from, to, bytes, &mut |b, ty, from, offset| b.load(ty, from, offset));
    }

    /// Writes `bytes` bytes of the repeated pattern.
    pub fn fill(&mut self, to: Value, bytes: usize, pattern: [u8; 8]) {
        self.fill_pieces(to, to, bytes, &mut |b, ty, _, _| {
            if ty.is_vector() {
                b.vector(ty, pattern.repeat(2))
            } else {
                b.int(ty, i64::from_le_bytes(pattern))
            }
        });
    }

    fn fill_pieces(
        &mut self,
        from: Value,
        to: Value,
        bytes: usize,
        piece: &mut dyn FnMut(&mut Self, Type, Value, i32) -> Value,
    ) {
        const UNROLL: usize = 8;
        let (mut from, mut to, mut left) = (from, to, bytes);
        let chunk = 16 * UNROLL;
        if left > 2 * chunk {
            let end = self.repeat(left / chunk, &[from, to], |b, p| {
                for i in 0..UNROLL {
                    let v = piece(b, I8X16, p[0], 16 * i as i32);
                    b.store(v, p[1], 16 * i as i32);
                }
                vec![b.offset(p[0], chunk as i64), b.offset(p[1], chunk as i64)]
            });
            (from, to, left) = (end[0], end[1], left % chunk);
        }
        let mut at = 0;
        for (ty, size) in [(I8X16, 16), (I64, 8), (I32, 4), (I16, 2), (I8, 1)] {
            while left - at >= size {
                let v = piece(self, ty, from, at as i32);
                self.store(v, to, at as i32);
                at += size;
            }
        }
    }
}

/// Merges neighbouring dimensions that every pointer walks without a gap, and drops those of one element.
pub(crate) fn merge_dims(dims: Vec<Dim>) -> Vec<Dim> {
    let mut out: Vec<Dim> = Vec::new();
    for dim in dims.into_iter().filter(|d| d.count != 1) {
        match out.last_mut() {
            Some(outer)
                if (0..dim.strides.len()).all(|i| outer.strides[i] == dim.strides[i] * dim.count as i64) =>
            {
                outer.count *= dim.count;
                outer.strides = dim.strides;
            }
            _ => out.push(dim),
        }
    }
    out
}
