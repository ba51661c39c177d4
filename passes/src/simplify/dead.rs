//! Removes nodes that no network output depends on. Network inputs stay: they are part of the interface.
use goshawk_ir::{FloatGraph, Result};

/// Runs the pass.
///
/// # Errors
/// None; the signature is that of every pass.
pub fn run(g: &mut FloatGraph) -> Result<()> {
    g.remove_dead();
    Ok(())
}
