//! Scratch memory for runs.
use crate::abi::ARENA_ALIGN;
use std::ffi::c_void;

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; ARENA_ALIGN]);

/// Memory aligned to [`ARENA_ALIGN`], zeroed when it is made.
///
/// A run leaves no state in it: any arena serves any network that needs at most as many bytes, one run at a time.
pub struct Arena {
    lines: Vec<Line>,
}

impl Arena {
    /// An arena of at least `bytes` bytes, never empty.
    pub fn new(bytes: usize) -> Self {
        Self { lines: vec![Line([0; ARENA_ALIGN]); bytes.div_ceil(ARENA_ALIGN).max(1)] }
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.lines.len() * ARENA_ALIGN
    }

    /// Never true; an arena holds at least one cache line.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// First byte, aligned to [`ARENA_ALIGN`].
    pub fn as_mut_ptr(&mut self) -> *mut c_void {
        self.lines.as_mut_ptr().cast()
    }
}
