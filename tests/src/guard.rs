//! Memory whose last byte touches an inaccessible page, so that reading or writing one byte too far is a fault; and
//! executable memory for kernels under test.
use std::{
    ops::{Deref, DerefMut},
    ptr::NonNull,
    slice,
};

const PAGE: usize = 4096;

/// `len` bytes between two inaccessible pages. [`Guarded::at_end`] puts the last byte at the upper page,
/// [`Guarded::at_start`] the first at the lower one.
pub struct Guarded {
    map: NonNull<u8>,
    map_len: usize,
    start: usize,
    len: usize,
}

impl Guarded {
    /// Bytes that end at the upper guard page.
    pub fn at_end(bytes: &[u8]) -> Self {
        let room = bytes.len().next_multiple_of(PAGE).max(PAGE);
        Self::map(bytes, PAGE + room - bytes.len(), room)
    }

    /// Bytes that start behind the lower guard page.
    pub fn at_start(bytes: &[u8]) -> Self {
        let room = bytes.len().next_multiple_of(PAGE).max(PAGE);
        Self::map(bytes, PAGE, room)
    }

    fn map(bytes: &[u8], start: usize, room: usize) -> Self {
        let map_len = room + 2 * PAGE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping; the result is checked before use.
        let map = unsafe { libc::mmap(std::ptr::null_mut(), map_len, libc::PROT_NONE, flags, -1, 0) };
        assert_ne!(map, libc::MAP_FAILED, "mmap of {map_len} bytes");
        let map = NonNull::new(map.cast::<u8>()).expect("mmap does not return null");
        // SAFETY: the pages between the guards belong to the mapping above.
        let ok = unsafe {
            libc::mprotect(map.as_ptr().add(PAGE).cast(), room, libc::PROT_READ | libc::PROT_WRITE)
        };
        assert_eq!(ok, 0, "mprotect");
        let mut guarded = Self { map, map_len, start, len: bytes.len() };
        guarded.copy_from_slice(bytes);
        guarded
    }
}

impl Deref for Guarded {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: start..start + len lies in the readable pages of the mapping, initialised by the kernel to zero.
        unsafe { slice::from_raw_parts(self.map.as_ptr().add(self.start), self.len) }
    }
}

impl DerefMut for Guarded {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and the mapping is owned by `self` alone.
        unsafe { slice::from_raw_parts_mut(self.map.as_ptr().add(self.start), self.len) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` and nothing borrows it any more.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.map_len) };
    }
}

/// Code in executable memory, never writable at the same time.
pub struct Code {
    map: NonNull<u8>,
    len: usize,
}

impl Code {
    /// Copies the code and makes it executable.
    pub fn new(code: &[u8]) -> Self {
        let len = code.len().next_multiple_of(PAGE);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping, checked, filled while writable and only then made executable.
        unsafe {
            let map = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert_ne!(map, libc::MAP_FAILED, "mmap of {len} bytes");
            std::ptr::copy_nonoverlapping(code.as_ptr(), map.cast(), code.len());
            assert_eq!(libc::mprotect(map, len, libc::PROT_READ | libc::PROT_EXEC), 0, "mprotect");
            Self { map: NonNull::new(map.cast()).expect("mmap does not return null"), len }
        }
    }

    /// Calls the code as a leaf of five pointers.
    ///
    /// # Safety
    /// The code follows the System V convention and touches only memory that the pointers allow.
    pub unsafe fn call(
        &self,
        a: *const u8,
        w: *const u8,
        out: *mut u8,
        epilogue: *const u8,
        scratch: *mut u8,
    ) {
        type Leaf = unsafe extern "sysv64" fn(*const u8, *const u8, *mut u8, *const u8, *mut u8);
        // SAFETY: the mapping holds a function of this signature, as the caller promises.
        unsafe { std::mem::transmute::<*mut u8, Leaf>(self.map.as_ptr())(a, w, out, epilogue, scratch) }
    }

    /// Calls the code as a leaf of seven pointers: those of [`Self::call`], residual, second result.
    ///
    /// # Safety
    /// As [`Self::call`].
    pub unsafe fn call_joined(
        &self,
        [a, w, epilogue, residual]: [*const u8; 4],
        [out, scratch, second]: [*mut u8; 3],
    ) {
        type Leaf =
            unsafe extern "sysv64" fn(*const u8, *const u8, *mut u8, *const u8, *mut u8, *const u8, *mut u8);
        // SAFETY: the mapping holds a function of this signature, as the caller promises.
        unsafe {
            let leaf = std::mem::transmute::<*mut u8, Leaf>(self.map.as_ptr());
            leaf(a, w, out, epilogue, scratch, residual, second);
        }
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` and no call is running: `call` borrows `self`.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.len) };
    }
}
