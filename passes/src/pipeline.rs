//! The float pipeline: one readable list, in order. What each pass does is in its file.
use crate::{bn_fold, fuse, simplify};
use goshawk_ir::{FloatGraph, IrError, Result, verify};

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

/// Runs every pass, calling `on_pass` with its name and the graph after it, and verifies the graph before the first and
/// after each.
///
/// # Errors
/// The graph breaks a rule of the IR, a pass fails, or a pass leaves a graph that breaks a rule (a bug). The error names
/// the node and the pass.
pub fn prepare(g: &mut FloatGraph, on_pass: &mut dyn FnMut(&str, &FloatGraph)) -> Result<()> {
    verified(g).map_err(|e| IrError { message: format!("{} (before the first pass)", e.message), ..e })?;
    for (name, pass) in float_passes() {
        pass(g)
            .and_then(|()| verified(g))
            .map_err(|e| IrError { message: format!("{} (in pass {name})", e.message), ..e })?;
        on_pass(name, g);
    }
    Ok(())
}

/// The first of the verifier's errors.
fn verified(g: &FloatGraph) -> Result<()> {
    verify::float(g).map_err(|errors| {
        errors
            .into_iter()
            .next()
            .unwrap_or_else(|| IrError::new("the verifier found an error without a message"))
    })
}
