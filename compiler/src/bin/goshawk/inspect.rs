//! `goshawk inspect`: what is in a model, and everything that keeps it from compiling.
use crate::{Outcome, args::ImportArgs, output};
use goshawk_compiler::{Code, Error, Result, artifact, driver::bits_file, import};
use goshawk_passes::bits::BitPlan;
use std::{fmt::Write, path::PathBuf};

/// Show a model's operators, shapes and costs, and all unsupported nodes at once
#[derive(clap::Args)]
pub struct Args {
    /// ONNX model
    model: PathBuf,
    /// List every node
    #[arg(long)]
    nodes: bool,
    /// Write a bits file that lists every layer, to be edited
    #[arg(long, value_name = "FILE")]
    bits_template: Option<PathBuf>,
    #[command(flatten)]
    import: ImportArgs,
}

pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let facts = import::inspect(&args.model, &args.import.options())?;
    if let Some(path) = &args.bits_template {
        let model = args.import.load(&args.model)?;
        let plan = BitPlan::uniform("w8a8").map_err(|e| Error::from_ir(Code::BITS, e))?;
        let listed = bits_file::listed(&plan, &model.graph)?;
        artifact::write_atomic(path, bits_file::print(&listed).as_bytes())?;
    }
    output::print(json, &facts, |f| human(f, args.nodes))?;
    Ok(if facts.unsupported.is_empty() { Outcome::Done } else { Outcome::CheckFailed })
}

fn human(f: &import::Inspection, nodes: bool) -> String {
    let shape = |s: &Option<Vec<usize>>| s.as_ref().map_or("?".to_owned(), |d| format!("{d:?}"));
    let mut out = format!("{}  (opset {}, {})\n", f.name, f.opset, f.producer);
    for (label, ports) in [("input ", &f.inputs), ("output", &f.outputs)] {
        for p in ports {
            let _ = writeln!(out, "{label}  {}  {}{}", p.name, p.elem, shape(&p.shape));
        }
    }
    let _ = writeln!(
        out,
        "{} MACs, {} parameters, {} nodes",
        output::count(f.macs),
        output::count(f.params),
        f.nodes.len()
    );
    let operators: Vec<_> = f.operators.iter().map(|(op, n)| format!("{op} {n}")).collect();
    let _ = writeln!(out, "operators: {}", operators.join(", "));
    for note in &f.notes {
        let _ = writeln!(out, "note: {note}");
    }
    if nodes {
        let rows: Vec<_> = f
            .nodes
            .iter()
            .map(|n| {
                vec![
                    n.output.clone(),
                    n.op.clone(),
                    shape(&n.shape),
                    output::count(n.macs),
                    output::count(n.params),
                ]
            })
            .collect();
        out.push('\n');
        out.push_str(&output::table(&["tensor", "operator", "shape", "MACs", "params"], &rows));
    }
    if f.unsupported.is_empty() {
        out.push_str("goshawk compiles all of it");
    } else {
        let _ = writeln!(out, "\n{} problems:", f.unsupported.len());
        for p in &f.unsupported {
            let _ = writeln!(out, "  [{}] {p}", p.code);
        }
    }
    out
}
