//! The float pipeline: one readable list, in order. What each pass does is in its file.
use crate::{bn_fold, fuse, simplify};
use goshawk_ir::{FloatGraph, IrError, Result};

/// A pass over the float graph.
pub type FloatPass = fn(&mut FloatGraph) -> Result<()>;

/// The passes between import and calibration, with the names that `--print-after` takes. Calibration observes the
/// result: ranges belong to fused nodes.
pub fn float_passes() -> Vec<(&'static str, FloatPass)> {
    vec![
        ("fold-constants", simplify::constants::run),
        ("scalar-operands", simplify::scalar::run),
        ("matmul-to-linear", simplify::matmul::run),
        ("compose-reshapes", simplify::reshape::run),
        ("compose-transposes", simplify::transpose::run),
        ("compose-slices", simplify::slice::run),
        ("remove-identities", simplify::identity::run),
        ("merge-padding", simplify::pad::run),
        ("common-subexpressions", simplify::subexpression::run),
        ("recognise-functions", fuse::recognise::run),
        ("fold-batch-norm", bn_fold::run),
        ("chain-functions", fuse::chain::run),
        ("hoist-clips", fuse::hoist::run),
        ("fuse-activations", fuse::activation::run),
        ("compose-reshapes-again", simplify::reshape::run),
        ("remove-identities-again", simplify::identity::run),
        ("dead-code", simplify::dead::run),
    ]
}

/// Runs every pass, calling `on_pass` with its name and the graph after it.
///
/// # Errors
/// A pass fails, or leaves a graph that breaks a rule of the IR (a bug, reported with the pass and the node).
pub fn prepare(g: &mut FloatGraph, on_pass: &mut dyn FnMut(&str, &FloatGraph)) -> Result<()> {
    for (name, pass) in float_passes() {
        pass(g).map_err(|e| IrError { message: format!("{} (in pass {name})", e.message), ..e })?;
        on_pass(name, g);
    }
    Ok(())
}
