//! The ONNX backend tests of the supported operators, through the importer and the float interpreter.
//!
//! `tests/scripts/gen_onnx_node_tests.py` writes the cases (`GOSHAWK_ONNX_TESTS`, else `target/onnx-node-tests`). The
//! cases feed everything at run time; a compiler wants shapes, bounds and such at import, so each runs twice:
//! - with all float operands at run time, but for those that must be constant ([`must_be_constant`]);
//! - with only the first operand at run time: the form of real networks, which takes the folding paths.
//!
//! Integer and truth values are constants in both forms; integer results are cast to float in the model.
//! Exceptions are in `tests/onnx_backend_skips.txt` with reasons. They run too: one that passes is a failure.
use goshawk_compiler::import::{
    self, Options,
    proto::{AttributeProto, DataType, ModelProto, NodeProto, TensorProto},
};
use goshawk_ir::{Shape, Tensor, interp};
use libtest_mimic::{Arguments, Failed, Trial};
use prost::Message;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

type Outcome<T> = Result<T, String>;

/// (pattern, reason) of every exception.
fn skips(text: &str) -> Vec<(&str, &str)> {
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines.map(|l| l.split_once(' ').expect("an exception is a name and a reason")).collect()
}

/// Whether a pattern with `*` for any characters matches the whole name.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len()).any(|i| rest.is_char_boundary(i) && matches(tail, &rest[i..]))
        }),
    }
}

/// Float operands that decide shapes or kernels.
fn must_be_constant(op: &str, operand: usize) -> bool {
    match op {
        "Clip" | "Pad" | "Resize" | "Upsample" | "Dropout" => operand > 0,
        "Range" | "Mod" | "Where" | "Floor" | "Ceil" | "Round" | "ReduceProd" | "Expand" | "Tile" => true,
        "CastLike" => operand > 0,
        "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" => true,
        _ => false,
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    AllAtRunTime,
    FirstAtRunTime,
}

fn read_tensor(path: &Path) -> Outcome<TensorProto> {
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    TensorProto::decode(&bytes[..]).map_err(|e| e.to_string())
}

fn tensors(case: &Path, kind: &str) -> Outcome<Vec<TensorProto>> {
    let paths = (0..).map(|i| case.join(format!("{kind}_{i}.pb"))).take_while(|p| p.is_file());
    paths.map(|p| read_tensor(&p)).collect()
}

fn is_float(code: i32) -> bool {
    let floats = [DataType::Float, DataType::Double, DataType::Float16, DataType::Bfloat16];
    floats.iter().any(|t| *t as i32 == code)
}

/// The values of a tensor as floats, decoded apart from the importer: NaN and infinities are values here.
fn values(t: &TensorProto) -> Outcome<Tensor> {
    let raw = &t.raw_data[..];
    macro_rules! raw {
        ($t:ty) => {
            raw.as_chunks().0.iter().map(|b| <$t>::from_le_bytes(*b) as f32).collect()
        };
    }
    let typed_ints = || t.int32_data.iter().map(|v| *v as f32).collect::<Vec<_>>();
    let half_bits = || match raw.is_empty() {
        true => t.int32_data.iter().map(|v| *v as u16).collect(),
        false => raw.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b)).collect::<Vec<_>>(),
    };
    let v: Vec<f32> = match DataType::try_from(t.data_type).map_err(|e| e.to_string())? {
        DataType::Float if raw.is_empty() => t.float_data.clone(),
        DataType::Float => raw!(f32),
        DataType::Double if raw.is_empty() => t.double_data.iter().map(|v| *v as f32).collect(),
        DataType::Double => raw!(f64),
        DataType::Float16 => half_bits().into_iter().map(half).collect(),
        DataType::Bfloat16 => half_bits().into_iter().map(|b| f32::from_bits(u32::from(b) << 16)).collect(),
        DataType::Int64 if raw.is_empty() => t.int64_data.iter().map(|v| *v as f32).collect(),
        DataType::Int64 => raw!(i64),
        DataType::Uint64 => raw!(u64),
        DataType::Uint32 => raw!(u32),
        _ if raw.is_empty() => typed_ints(),
        DataType::Int32 => raw!(i32),
        DataType::Int16 => raw!(i16),
        DataType::Uint16 => raw!(u16),
        DataType::Int8 => raw!(i8),
        DataType::Uint8 | DataType::Bool => raw!(u8),
        other => return Err(format!("test data of type {other:?}")),
    };
    let dims: Vec<usize> = t.dims.iter().map(|d| *d as usize).collect();
    Shape::new(dims).and_then(|s| Tensor::from_f32(s, v)).map_err(|e| e.to_string())
}

/// IEEE half precision by its definition.
fn half(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 0x3ff));
    sign * match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        e => (1.0 + fraction / 1024.0) * 2f32.powi(e - 15),
    }
}

/// Makes constants of the inputs that the form does not feed; returns the positions of the others.
/// `integers`: the result holds integers.
fn bind(model: &mut ModelProto, inputs: &[TensorProto], integers: bool, form: Form) -> Outcome<Vec<usize>> {
    let graph = model.graph.as_mut().ok_or("no graph")?;
    let first_fed = (0..graph.input.len()).find(|i| inputs.get(*i).is_some_and(|t| is_float(t.data_type)));
    let mut fed = Vec::new();
    let mut kept = Vec::new();
    for (i, value) in graph.input.iter().enumerate() {
        if graph.initializer.iter().any(|t| t.name == value.name) {
            kept.push(value.clone());
            continue;
        }
        let tensor = inputs.get(i).ok_or("an input has no data")?;
        let constant = graph.node.iter().any(|n| {
            n.input.iter().enumerate().any(|(k, name)| {
                let to_int = integers && matches!(n.op_type.as_str(), "Cast" | "CastLike");
                *name == value.name && (to_int || must_be_constant(&n.op_type, k))
            })
        });
        let at_run_time = match form {
            Form::AllAtRunTime => is_float(tensor.data_type) && !constant,
            Form::FirstAtRunTime => is_float(tensor.data_type) && !constant && Some(i) == first_fed,
        };
        if at_run_time {
            fed.push(i);
            kept.push(value.clone());
        } else {
            graph.initializer.push(TensorProto { name: value.name.clone(), ..tensor.clone() });
        }
    }
    graph.input = kept;
    Ok(fed)
}

/// Integer results become float results.
fn cast_outputs(model: &mut ModelProto, outputs: &[TensorProto]) -> Outcome<()> {
    let graph = model.graph.as_mut().ok_or("no graph")?;
    for (value, tensor) in graph.output.iter_mut().zip(outputs) {
        if !is_float(tensor.data_type) {
            let name = format!("{}_as_float", value.name);
            let to = vec![AttributeProto::int("to", DataType::Float as i64)];
            graph.node.push(NodeProto::new("Cast", &[&value.name], &[&name], to));
            value.name = name;
        }
    }
    Ok(())
}

fn compare(is: &Tensor, want: &Tensor, (rtol, atol): (f32, f32)) -> Outcome<()> {
    if is.shape() != want.shape() {
        return Err(format!("shape {}, expected {}", is.shape(), want.shape()));
    }
    let (a, b) = (is.as_f32().map_err(|e| e.to_string())?, want.as_f32().map_err(|e| e.to_string())?);
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        let same = a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= atol + rtol * b.abs();
        if !same {
            return Err(format!("element {i} is {a}, expected {b}"));
        }
    }
    Ok(())
}

fn run_form(case: &Path, form: Form) -> Outcome<Vec<usize>> {
    let bytes = std::fs::read(case.join("model.onnx")).map_err(|e| e.to_string())?;
    let mut model = ModelProto::decode(&bytes[..]).map_err(|e| e.to_string())?;
    let (inputs, outputs) = (tensors(case, "input")?, tensors(case, "output")?);
    let tolerance = std::fs::read_to_string(case.join("tolerance.txt")).map_err(|e| e.to_string())?;
    let tolerance: Vec<f32> = tolerance.split_whitespace().filter_map(|w| w.parse().ok()).collect();
    let [rtol, atol] = tolerance[..] else { return Err("tolerance.txt is damaged".into()) };

    let fed = bind(&mut model, &inputs, outputs.iter().any(|t| !is_float(t.data_type)), form)?;
    cast_outputs(&mut model, &outputs)?;
    let graph = import::load(&model.encode_to_vec(), &Options::default()).map_err(|e| e.to_string())?;
    goshawk_ir::verify::float(&graph).map_err(|e| format!("the verifier refuses the graph: {}", e[0]))?;
    let data: Vec<Tensor> = fed.iter().map(|i| values(&inputs[*i])).collect::<Outcome<_>>()?;
    let results = interp::float::run(&graph, &data).map_err(|e| e.to_string())?;
    if results.len() != outputs.len() {
        return Err(format!("{} results, expected {}", results.len(), outputs.len()));
    }
    for (k, (result, want)) in results.iter().zip(&outputs).enumerate() {
        // goshawk computes in f32 whatever the model stores; bfloat16 results of the suite are rounded to 8 bits.
        let rtol = if want.data_type == DataType::Bfloat16 as i32 { rtol.max(1.0 / 256.0) } else { rtol };
        compare(result, &values(want)?, (rtol, atol)).map_err(|e| format!("output {k}: {e}"))?;
    }
    Ok(fed)
}

fn run(case: &Path) -> Outcome<()> {
    let all = run_form(case, Form::AllAtRunTime).map_err(|e| format!("all operands at run time: {e}"))?;
    if all.len() > 1 {
        run_form(case, Form::FirstAtRunTime).map_err(|e| format!("first operand at run time: {e}"))?;
    }
    Ok(())
}

fn trial(case: PathBuf, name: String, list: &str) -> Trial {
    let reason = skips(list)
        .into_iter()
        .find(|(pattern, _)| matches(pattern, &name))
        .map(|(_, reason)| reason.to_owned());
    match reason {
        None => Trial::test(name, move || run(&case).map_err(Failed::from)),
        Some(reason) => Trial::test(name, move || match run(&case) {
            Err(_) => Ok(()),
            Ok(()) => {
                Err(format!("listed as an exception ({reason}), but passes: take it off the list").into())
            }
        })
        .with_kind("listed"),
    }
}

/// Every exception must name a case.
fn check_list(names: &BTreeSet<String>, list: &str) -> Result<(), Failed> {
    let idle: Vec<_> = skips(list)
        .into_iter()
        .filter(|(p, _)| !names.iter().any(|n| matches(p, n)))
        .map(|(p, _)| p)
        .collect();
    if idle.is_empty() {
        Ok(())
    } else {
        Err(format!("exceptions without a case: {}", idle.join(", ")).into())
    }
}

fn main() {
    let list = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/onnx_backend_skips.txt"))
        .expect("the list of exceptions");
    let default = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/onnx-node-tests"));
    let root = std::env::var_os("GOSHAWK_ONNX_TESTS").map_or(default, PathBuf::from);
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&root)
        .map(|d| d.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| p.is_dir()).collect())
        .unwrap_or_default();
    cases.sort();
    let named = |p: &PathBuf| p.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let names: BTreeSet<String> = cases.iter().map(named).collect();
    let absent = names.is_empty();
    let mut trials: Vec<Trial> =
        cases.into_iter().map(|c| (named(&c), c)).map(|(n, c)| trial(c, n, &list)).collect();
    let title =
        if absent { "cases from tests/scripts/gen_onnx_node_tests.py" } else { "exceptions_name_cases" };
    trials.push(Trial::test(title, move || check_list(&names, &list)).with_ignored_flag(absent));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
