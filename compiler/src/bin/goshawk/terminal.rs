//! Progress bars on a terminal, silence in a pipe, and Ctrl-C.
use goshawk_compiler::driver::progress::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::IsTerminal,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// The first Ctrl-C asks the command to stop at the next safe point, the second one stops it.
pub fn catch_interrupts() {
    // Without a handler Ctrl-C kills the process, which is safe too: outputs appear by rename.
    let _ = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
}

/// Takes an unfinished bar off the terminal.
pub fn clear() {
    if let Some(bar) = BAR.lock().unwrap_or_else(PoisonError::into_inner).take() {
        bar.finish_and_clear();
    }
}

/// Draws on stderr if it is a terminal.
pub struct Terminal;

impl Progress for Terminal {
    fn begin(&self, what: &str, total: usize) {
        clear();
        if !std::io::stderr().is_terminal() {
            return;
        }
        let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
        let style =
            ProgressStyle::with_template("{msg:12} [{bar:40}] {pos}/{len}  {elapsed} of about {duration}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        bar.set_message(what.to_owned());
        *BAR.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar);
    }

    fn resume(&self, what: &str, done: usize, total: usize) {
        let known =
            BAR.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(|b| b.message() == what);
        if !known {
            self.begin(what, total);
        }
        if let Some(bar) = &*BAR.lock().unwrap_or_else(PoisonError::into_inner) {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        }
    }

    fn step(&self) {
        if let Some(bar) = &*BAR.lock().unwrap_or_else(PoisonError::into_inner) {
            bar.inc(1);
        }
    }

    fn end(&self) {
        clear();
    }

    fn interrupted(&self) -> bool {
        INTERRUPTED.load(Ordering::Relaxed)
    }
}
