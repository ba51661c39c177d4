//! `goshawk ops`: what is supported, from the tables that the compiler itself uses.
use crate::{Outcome, output};
use goshawk_compiler::{Result, import};
use goshawk_ir::{FloatOp, IntOp, Operator};
use serde::Serialize;

/// List the supported ONNX operators and the operators of the two intermediate representations
#[derive(clap::Args)]
pub struct Args {}

#[derive(Serialize)]
struct Report {
    opsets: [i64; 2],
    onnx: Vec<&'static str>,
    float: &'static [&'static str],
    int: &'static [&'static str],
}

pub fn run(_args: &Args, json: bool) -> Result<Outcome> {
    let report = Report {
        opsets: [*import::OPSETS.start(), *import::OPSETS.end()],
        onnx: import::operators(),
        float: FloatOp::NAMES,
        int: IntOp::NAMES,
    };
    output::print(json, &report, |r| {
        format!(
            "ONNX operators (opset {} to {}; `goshawk inspect` checks a model's attributes):\n{}\n\
             Float network:\n{}\nInteger network, all compiled to native code:\n{}",
            r.opsets[0],
            r.opsets[1],
            columns(&r.onnx),
            columns(r.float),
            columns(r.int)
        )
    })?;
    Ok(Outcome::Done)
}

/// Words in aligned columns.
fn columns(words: &[&str]) -> String {
    let width = words.iter().map(|w| w.len()).max().unwrap_or(0) + 2;
    let line = |line: &[&str]| {
        let cells: String = line.iter().map(|w| format!("{w:<width$}")).collect();
        format!("  {}\n", cells.trim_end())
    };
    words.chunks((100 / width).max(1)).map(line).collect()
}
