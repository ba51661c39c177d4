//! What a compiled library says about itself, checked and copied out of its memory.
use crate::{
    abi::{ABI_VERSION, ARENA_ALIGN, LevelRecord, MAX_RANK, ModelRecord, TensorRecord},
    error::LoadError,
};
use std::{
    ffi::{CStr, c_char},
    mem::size_of,
};

/// Most inputs or outputs that are believed: a limit against nonsense.
const MAX_TENSORS: u32 = 1 << 12;
/// Most levels that are believed.
const MAX_LEVELS: u32 = 255;
/// Largest arena that is believed.
const MAX_ARENA: u64 = 1 << 40;

/// Element type at the integer entry point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// Signed 32 bit.
    I32,
    /// Signed 16 bit.
    I16,
    /// Signed 8 bit.
    I8,
    /// Unsigned 8 bit.
    U8,
}

impl DType {
    /// The type of that number in the C ABI.
    pub const fn from_abi(number: i32) -> Option<Self> {
        Some(match number {
            0 => Self::F32,
            1 => Self::I32,
            2 => Self::I16,
            3 => Self::I8,
            4 => Self::U8,
            _ => return None,
        })
    }

    /// Size and alignment of an element in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::I16 => 2,
            Self::I8 | Self::U8 => 1,
        }
    }
}

/// An input or output of the network: real = scale · (q − zero_point).
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Name in the ONNX model, cut after 127 bytes.
    pub name: String,
    /// Element type at the integer entry point.
    pub dtype: DType,
    /// Bits that the values use.
    pub bits: u32,
    /// Scale.
    pub scale: f32,
    /// Zero point.
    pub zero_point: i32,
    /// Dimensions at the integer entry point, NHWC for images.
    pub dims: Vec<usize>,
    /// Dimensions at the f32 entry point, as in the ONNX model.
    pub f32_dims: Vec<usize>,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// Bytes at the integer entry point.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.bytes()
    }
}

/// Facts about a compiled network.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// Name of the network, cut after 63 bytes.
    pub name: String,
    /// Target triple and instruction sets of the best level.
    pub isa: String,
    /// Target triple and instruction sets of every level that the library has code for, best first.
    pub levels: Vec<String>,
    /// SHA-256 of the ONNX file in hexadecimal.
    pub model_sha256: String,
    /// Scratch memory that a run needs, in bytes.
    pub arena_bytes: usize,
    /// Stack that a run needs at most, in bytes.
    pub stack_bytes: usize,
    /// Inputs in order.
    pub inputs: Vec<TensorInfo>,
    /// Outputs in order.
    pub outputs: Vec<TensorInfo>,
    /// The manifest, JSON.
    pub manifest: String,
}

impl ModelInfo {
    /// Copies and checks the info block.
    ///
    /// # Safety
    /// `record` is null or points to the info block of a library that goshawk compiled.
    ///
    /// # Errors
    /// Another ABI version, or numbers that make no sense.
    pub(crate) unsafe fn read(record: *const ModelRecord) -> Result<Self, LoadError> {
        if record.is_null() || !record.is_aligned() {
            return Err(LoadError::BadInfo("no info block".into()));
        }
        // SAFETY: every version of the block starts with struct_size and abi_version.
        let [size, version] = unsafe { *record.cast::<[u32; 2]>() };
        if version != ABI_VERSION {
            return Err(LoadError::AbiVersion { found: version });
        }
        if (size as usize) < size_of::<ModelRecord>() {
            return Err(LoadError::BadInfo(format!("info block of {size} bytes")));
        }
        // SAFETY: the block has at least the size of the record.
        let model = unsafe { &*record };
        if model.arena_bytes > MAX_ARENA || model.arena_align as usize != ARENA_ALIGN {
            let (bytes, align) = (model.arena_bytes, model.arena_align);
            return Err(LoadError::BadInfo(format!("arena of {bytes} bytes aligned to {align}")));
        }
        if (model.tensor_size as usize) < size_of::<TensorRecord>()
            || model.tensor_size % 8 != 0
            || (model.inputs_offset | model.outputs_offset) % 8 != 0
            || model.input_count.max(model.output_count) > MAX_TENSORS
        {
            return Err(LoadError::BadInfo("table of tensors".into()));
        }
        if (model.level_size as usize) < size_of::<LevelRecord>()
            || (model.level_size | model.levels_offset) % 8 != 0
            || !(1..=MAX_LEVELS).contains(&model.level_count)
        {
            return Err(LoadError::BadInfo("table of levels".into()));
        }
        let base = record.cast::<u8>();
        let levels = (0..model.level_count as usize).map(|i| {
            let offset = model.levels_offset as usize + i * model.level_size as usize;
            // SAFETY: the library has `level_count` records of `level_size` bytes there, 8-byte aligned.
            text(unsafe { &(*base.add(offset).cast::<LevelRecord>()).isa })
        });
        let table = |offset: u32, count: u32| {
            (0..count as usize)
                .map(|i| {
                    // SAFETY: the library has `count` records of `tensor_size` bytes there, 8-byte aligned as the
                    // block is.
                    let tensor = unsafe {
                        &*base.add(offset as usize + i * model.tensor_size as usize).cast::<TensorRecord>()
                    };
                    tensor_info(tensor)
                })
                .collect::<Result<Vec<_>, _>>()
        };
        // SAFETY: `json_bytes` bytes of the block lie there.
        let json = unsafe {
            std::slice::from_raw_parts(base.add(model.json_offset as usize), model.json_bytes as usize)
        };
        Ok(Self {
            name: text(&model.name),
            isa: text(&model.isa),
            levels: levels.collect(),
            model_sha256: text(&model.model_sha256),
            arena_bytes: model.arena_bytes as usize,
            stack_bytes: model.stack_bytes as usize,
            inputs: table(model.inputs_offset, model.input_count)?,
            outputs: table(model.outputs_offset, model.output_count)?,
            manifest: String::from_utf8_lossy(json).into_owned(),
        })
    }
}

fn tensor_info(t: &TensorRecord) -> Result<TensorInfo, LoadError> {
    let name = text(&t.name);
    let bad = |what: String| LoadError::BadInfo(format!("tensor {name}: {what}"));
    let dims = |dims: &[i64; MAX_RANK], rank: u32| {
        let dims = dims.get(..rank as usize).ok_or_else(|| bad(format!("rank {rank}")))?;
        let mut count = 1usize;
        let mut result = Vec::with_capacity(dims.len());
        for d in dims {
            let d = usize::try_from(*d).ok().filter(|d| *d > 0);
            let checked =
                d.and_then(|d| Some((d, count.checked_mul(d).filter(|c| *c <= i32::MAX as usize)?)));
            let (d, c) = checked.ok_or_else(|| bad(format!("dimensions {dims:?}")))?;
            count = c;
            result.push(d);
        }
        Ok((result, count))
    };
    let (int_dims, count) = dims(&t.dims, t.rank)?;
    let (f32_dims, f32_count) = dims(&t.f32_dims, t.f32_rank)?;
    if count != f32_count {
        return Err(bad(format!("shapes {int_dims:?} and {f32_dims:?} differ in size")));
    }
    Ok(TensorInfo {
        dtype: DType::from_abi(t.dtype).ok_or_else(|| bad(format!("element type {}", t.dtype)))?,
        bits: t.bits,
        scale: t.scale,
        zero_point: t.zero_point,
        dims: int_dims,
        f32_dims,
        name: name.clone(),
    })
}

/// Text up to the first 0 byte.
fn text(chars: &[c_char]) -> String {
    let bytes: Vec<u8> = chars.iter().map(|c| *c as u8).chain([0]).collect();
    CStr::from_bytes_until_nul(&bytes).map_or_else(|_| String::new(), |t| t.to_string_lossy().into_owned())
}
