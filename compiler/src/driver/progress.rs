//! Progress of long work, told to whoever shows it, and the wish to stop.
use crate::{Code, Error, Result};

/// Told about long work. The `goshawk` command draws a bar on a terminal; callers of the library may ignore it.
pub trait Progress: Sync {
    /// Work of `total` steps begins.
    fn begin(&self, what: &str, total: usize);
    /// One more step is done; called from several threads.
    fn step(&self);
    /// Work of which `done` steps of about `total` are behind: begins it, or corrects what was said of it.
    fn resume(&self, what: &str, done: usize, total: usize) {
        let _ = done;
        self.begin(what, total);
    }
    /// The work is done.
    fn end(&self);
    /// Whether the user wants to stop.
    fn interrupted(&self) -> bool {
        false
    }
}

/// Shows nothing and never stops.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _what: &str, _total: usize) {}
    fn step(&self) {}
    fn end(&self) {}
}

/// An error if the user wants to stop.
///
/// # Errors
/// [`Code::INTERRUPTED`].
pub fn check(progress: &dyn Progress) -> Result<()> {
    match progress.interrupted() {
        true => Err(Error::new(Code::INTERRUPTED, "interrupted")),
        false => Ok(()),
    }
}
