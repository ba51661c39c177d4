//! The C ABI of compiled libraries, version 2: the types of `include/goshawk.h` in Rust.
//!
//! The header is the single source that generated headers quote; the assertions below keep this mirror in step, and
//! the C ABI tests compare `sizeof` and `offsetof` with a C compiler's.
use std::{
    ffi::{c_char, c_int, c_void},
    mem::{offset_of, size_of},
};

/// Text that is common to all compiled libraries: `goshawk.h` and `goshawk_pool.h`.
pub const COMMON_HEADER: &str =
    concat!(include_str!("../include/goshawk.h"), "\n", include_str!("../include/goshawk_pool.h"));

/// Version of the ABI that this crate speaks.
pub const ABI_VERSION: u32 = 2;
/// Alignment of the arena in bytes.
pub const ARENA_ALIGN: usize = 64;

/// Success.
pub const OK: c_int = 0;
/// A pointer that must not be null is null.
pub const E_NULL: c_int = 1;
/// The arena is not aligned to [`ARENA_ALIGN`].
pub const E_ALIGN: c_int = 2;
/// The CPU runs none of the levels of instruction sets that the library has code for.
pub const E_ISA: c_int = 3;
/// The executor's size, number of threads or `parallel_for` makes no sense.
pub const E_EXECUTOR: c_int = 4;
/// `parallel_for` returned an error: the outputs and the arena hold anything.
pub const E_PARALLEL: c_int = 5;

/// Largest rank of a tensor.
pub const MAX_RANK: usize = 8;

/// A part of the work: (data, index).
pub type Task = unsafe extern "C" fn(*mut c_void, usize);

/// `goshawk_executor`: lets the caller's threads take part in a run.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Executor {
    /// Size of this struct.
    pub struct_size: usize,
    /// Tasks that can run at the same time, the caller's included; at least 1.
    pub threads: usize,
    /// Handed to `parallel_for`.
    pub context: *mut c_void,
    /// Calls `task(data, 0)` to `task(data, count - 1)` once each, in any order, and returns 0 when all are done. Another
    /// result ends the run; no task may be running then.
    pub parallel_for: Option<unsafe extern "C" fn(*mut c_void, Task, *mut c_void, usize) -> c_int>,
}

/// `goshawk_tensor_info`: an input or output of the network.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TensorRecord {
    /// Size of this record in the library.
    pub struct_size: u32,
    /// Element type: 0 f32, 1 i32, 2 i16, 3 i8, 4 u8.
    pub dtype: i32,
    /// Zero point.
    pub zero_point: i32,
    /// Scale.
    pub scale: f32,
    /// Bits that the values use.
    pub bits: u32,
    /// Valid entries of `dims`.
    pub rank: u32,
    /// Valid entries of `f32_dims`.
    pub f32_rank: u32,
    /// 0.
    pub reserved: u32,
    /// Dimensions of the integer entry point.
    pub dims: [i64; MAX_RANK],
    /// Dimensions of the f32 entry point.
    pub f32_dims: [i64; MAX_RANK],
    /// Name in the ONNX model, terminated by 0.
    pub name: [c_char; 128],
}

/// `goshawk_model_info`: facts about a compiled network; offsets count from its first byte.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ModelRecord {
    /// Size of this record in the library.
    pub struct_size: u32,
    /// [`ABI_VERSION`] of the library.
    pub abi_version: u32,
    /// Scratch memory that a run needs, in bytes.
    pub arena_bytes: u64,
    /// Alignment of the arena in bytes.
    pub arena_align: u32,
    /// Stack that a run needs at most, in bytes.
    pub stack_bytes: u32,
    /// Number of inputs.
    pub input_count: u32,
    /// Number of outputs.
    pub output_count: u32,
    /// Distance of two [`TensorRecord`]s in bytes.
    pub tensor_size: u32,
    /// Offset of the first input's record.
    pub inputs_offset: u32,
    /// Offset of the first output's record.
    pub outputs_offset: u32,
    /// Offset of the manifest: JSON text and a 0 byte.
    pub json_offset: u32,
    /// Length of the manifest without the 0 byte.
    pub json_bytes: u32,
    /// Number of levels of instruction sets, at least 1.
    pub level_count: u32,
    /// Distance of two [`LevelRecord`]s in bytes.
    pub level_size: u32,
    /// Offset of the first level's record.
    pub levels_offset: u32,
    /// Name of the network, terminated by 0.
    pub name: [c_char; 64],
    /// Target triple and instruction sets of the best level, terminated by 0.
    pub isa: [c_char; 256],
    /// SHA-256 of the ONNX file in hexadecimal, terminated by 0.
    pub model_sha256: [c_char; 65],
    /// 0.
    pub reserved_tail: [c_char; 7],
}

/// `goshawk_level_info`: a level of instruction sets.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LevelRecord {
    /// Size of this record in the library.
    pub struct_size: u32,
    /// 0.
    pub reserved: u32,
    /// Target triple and instruction sets, terminated by 0.
    pub isa: [c_char; 256],
}

/// `<prefix>_run` and `<prefix>_run_f32`: pointers to the structs of input and output pointers, arena, executor.
pub type RunFn =
    unsafe extern "C" fn(*const *const c_void, *const *mut c_void, *mut c_void, *const Executor) -> c_int;
/// `<prefix>_level`: index of the level that this CPU runs, -1 if there is none.
pub type LevelFn = unsafe extern "C" fn() -> c_int;
/// `<prefix>_info`.
pub type InfoFn = unsafe extern "C" fn() -> *const ModelRecord;

const _: () = {
    assert!(size_of::<TensorRecord>() == 288 && offset_of!(TensorRecord, name) == 160);
    assert!(size_of::<ModelRecord>() == 456 && offset_of!(ModelRecord, name) == 64);
    assert!(offset_of!(ModelRecord, arena_bytes) == 8 && offset_of!(ModelRecord, level_count) == 52);
    assert!(size_of::<LevelRecord>() == 264 && offset_of!(LevelRecord, isa) == 8);
    assert!(size_of::<Executor>() == 4 * size_of::<usize>());
};
