//! Filetests: `.gir` files that carry their own expectations in comments.
//!
//! * `; test run`: the graph must verify. Every `; run: [inputs] … == [outputs] …` line gives one list of integers for
//!   each network input and output; all backends must agree with it. `; run half_even: …` asks the interpreter alone
//!   for PyTorch's rounding.
//! * `; test verify`: every `; error: text` stands at the end of the line of the node that breaks a rule (the `gir`
//!   line for errors without a node, the line of a syntax error); all errors and no others must be announced.
//!   Without `; error:` the graph must be valid.
//!
//! [`check`] also returns the file with its expectations rewritten to what the interpreter says.
use goshawk_ir::{
    IntGraph, IrError, Tensor,
    interp::int::{Options, run_options},
    text::parse,
    verify,
};
use std::{collections::BTreeMap, fmt::Write};

/// Executes a graph; nothing where the engine cannot take it.
pub type Execute = dyn Fn(&IntGraph, &[Tensor]) -> Result<Option<Vec<Tensor>>, String> + Send + Sync;

/// Something that runs integer graphs.
pub struct Backend {
    /// For messages.
    pub name: String,
    /// Runs the graph; says `None` for what it does not support.
    pub run: Box<Execute>,
}

impl Backend {
    /// The normative interpreter.
    pub fn interpreter() -> Self {
        let run = |g: &IntGraph, inputs: &[Tensor]| interpret(g, inputs, Options::default()).map(Some);
        Self { name: "interpreter".into(), run: Box::new(run) }
    }
}

fn interpret(g: &IntGraph, inputs: &[Tensor], options: Options) -> Result<Vec<Tensor>, String> {
    run_options(g, inputs, options, &mut |_, _| ()).map_err(|e| e.to_string())
}

/// What became of a file.
pub struct Outcome {
    /// What does not hold; empty where everything does.
    pub failures: Vec<String>,
    /// The file with its expectations rewritten.
    pub updated: String,
}

/// Checks one file.
///
/// # Errors
/// The file is no filetest: no `; test` line, unknown commands, malformed expectations.
pub fn check(text: &str, backends: &[Backend]) -> Result<Outcome, String> {
    let mut commands = text.lines().filter_map(|l| l.strip_prefix("; test "));
    match (commands.next(), commands.next()) {
        (Some("run"), None) => check_runs(text, backends),
        (Some("verify"), None) => Ok(check_errors(text)),
        (command, _) => Err(format!("expected one line `; test run` or `; test verify`, got {command:?}")),
    }
}

/// Line (from 0) and message of every error.
fn errors(text: &str) -> Vec<(usize, String)> {
    let found = match parse(text) {
        Err(e) => vec![e],
        Ok(graph) => verify::int(&graph).err().unwrap_or_default(),
    };
    let line_of = |e: &IrError| {
        let at = e.location.as_deref().unwrap_or_default();
        if let Some(line) = at.strip_prefix("line ").and_then(|l| l.split(',').next()) {
            return line.parse::<usize>().unwrap_or(1) - 1;
        }
        let prefix = format!("%{at}:");
        let node = text.lines().position(|l| !at.is_empty() && l.starts_with(&prefix));
        node.or_else(|| text.lines().position(|l| l.starts_with("gir "))).unwrap_or(0)
    };
    found.into_iter().map(|e| (line_of(&e), e.message)).collect()
}

fn check_errors(text: &str) -> Outcome {
    const MARK: &str = "; error: ";
    let mut found: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for (line, message) in errors(text) {
        found.entry(line).or_default().push(message);
    }
    let (mut failures, mut updated) = (Vec::new(), String::new());
    for (i, line) in text.lines().enumerate() {
        let (code, expected) = line.split_once(MARK).map_or((line, None), |(c, e)| (c, Some(e)));
        let found = found.remove(&i).unwrap_or_default();
        match (expected, &found[..]) {
            (None, []) => {}
            (Some(e), [one]) if one.contains(e) => {}
            _ => failures.push(format!("line {}: expected {expected:?}, found {found:?}", i + 1)),
        }
        let _ = write!(updated, "{}", code.trim_end());
        if !found.is_empty() {
            let _ = write!(updated, " {MARK}{}", found.join(" | "));
        }
        updated.push('\n');
    }
    Outcome { failures, updated }
}

fn check_runs(text: &str, backends: &[Backend]) -> Result<Outcome, String> {
    let graph: IntGraph = parse(text).map_err(|e| e.to_string())?;
    verify::int(&graph).map_err(|e| e.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let (mut failures, mut updated, mut runs) = (Vec::new(), String::new(), 0);
    for (i, line) in text.lines().enumerate() {
        let (mark, half_even) = ("; run: ", false);
        let (mark, half_even) = if line.starts_with("; run half_even: ") {
            ("; run half_even: ", true)
        } else {
            (mark, half_even)
        };
        let Some(body) = line.strip_prefix(mark) else {
            if line.starts_with("; run") {
                return Err(format!("line {}: expected `; run: [inputs] == [outputs]`", i + 1));
            }
            let _ = writeln!(updated, "{line}");
            continue;
        };
        runs += 1;
        let at = |message: String| format!("line {}: {message}", i + 1);
        let (given, expected) = body.split_once("==").unwrap_or((body, ""));
        let (given, expected) = (lists(given).map_err(at)?, lists(expected).map_err(at)?);
        if given.len() != graph.inputs.len() {
            return Err(at(format!("{} lists for {} inputs", given.len(), graph.inputs.len())));
        }
        let inputs: Vec<Tensor> = graph
            .inputs
            .iter()
            .zip(&given)
            .map(|(p, values)| {
                let ty = graph.ty(p.node);
                Tensor::from_ints(ty.dtype, ty.shape.clone(), values).map_err(|e| at(e.to_string()))
            })
            .collect::<Result<_, _>>()?;
        let reference = ints(&interpret(&graph, &inputs, Options { half_even }).map_err(at)?);
        if half_even {
            if reference != expected {
                failures.push(at(format!("half_even gives {}", show(&reference))));
            }
        } else {
            for backend in backends {
                match (backend.run)(&graph, &inputs) {
                    Err(e) => failures.push(at(format!("{}: {e}", backend.name))),
                    Ok(Some(got)) if ints(&got) != expected => {
                        failures.push(at(format!("{} gives {}", backend.name, show(&ints(&got)))));
                    }
                    Ok(_) => {}
                }
            }
        }
        let _ = writeln!(updated, "{mark}{} == {}", show(&given), show(&reference));
    }
    if runs == 0 {
        return Err("a run test has at least one `; run: ` line".into());
    }
    Ok(Outcome { failures, updated })
}

fn ints(tensors: &[Tensor]) -> Vec<Vec<i32>> {
    tensors.iter().map(|t| t.to_ints().unwrap_or_default()).collect()
}

fn show(lists: &[Vec<i32>]) -> String {
    lists.iter().map(|l| format!("{l:?}")).collect::<Vec<_>>().join(" ")
}

/// `[1, 2] [3]`
fn lists(text: &str) -> Result<Vec<Vec<i32>>, String> {
    let list = |body: &str| {
        let body = body.trim().strip_prefix('[').ok_or_else(|| format!("expected a list, got {body}"))?;
        body.split(',').map(|v| v.trim().parse().map_err(|e| format!("{v:?}: {e}"))).collect()
    };
    let Some(all) = text.trim().strip_suffix(']') else {
        return if text.trim().is_empty() {
            Ok(Vec::new())
        } else {
            Err(format!("expected lists, got {text}"))
        };
    };
    all.split(']').map(list).collect()
}
