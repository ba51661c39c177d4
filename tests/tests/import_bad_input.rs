//! Bad models: each is refused with the code, and with a message that names what is wrong and what to do.
use goshawk_compiler::{
    Code, Error,
    import::{
        self, Limits, Options,
        proto::{
            AttributeProto as A, DataType, DimensionProto, GraphProto, ModelProto, NodeProto,
            StringStringEntryProto, TensorProto, ValueInfoProto,
        },
    },
};
use goshawk_tests::models::small_cnn;
use prost::Message;
use std::{fs, path::Path};

fn load(model: &ModelProto) -> Result<goshawk_ir::FloatGraph, Error> {
    import::load(&model.encode_to_vec(), &Options::default())
}

/// The model after a change to its graph must be refused.
fn refused(code: Code, words: &[&str], change: impl FnOnce(&mut GraphProto)) -> Error {
    let mut model = small_cnn();
    change(model.graph.as_mut().expect("graph"));
    let error = load(&model).expect_err("the model is bad");
    check(&error, code, words);
    error
}

#[track_caller]
fn check(error: &Error, code: Code, words: &[&str]) {
    assert_eq!(error.code, code, "{error}");
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
    assert!(text.contains("help") || text.contains('('), "no remedy in: {text}");
}

#[test]
fn truncated() {
    let bytes = small_cnn().encode_to_vec();
    let error = import::load(&bytes[..bytes.len() / 2].to_vec(), &Options::default()).unwrap_err();
    check(&error, Code::MODEL, &["byte ", "complete"]);
    let error = import::load(&Vec::new(), &Options::default()).unwrap_err();
    check(&error, Code::MODEL, &["no graph"]);
    let error = import::load(&b"not an ONNX model".to_vec(), &Options::default()).unwrap_err();
    check(&error, Code::MODEL, &["byte "]);
}

#[test]
fn missing_file() {
    let error = import::load(Path::new("/nonexistent/model.onnx"), &Options::default()).unwrap_err();
    assert_eq!(error.code, Code::FILE);
    assert!(error.to_string().contains("/nonexistent/model.onnx"));
}

#[test]
fn cycle() {
    refused(Code::GRAPH, &["cycle", "\"conv\""], |g| g.node[0].input[0] = "relu".into());
}

#[test]
fn undefined_tensor() {
    refused(Code::GRAPH, &["\"ghost\"", "not defined", "node_relu"], |g| g.node[2].input[0] = "ghost".into());
    refused(Code::GRAPH, &["output \"ghost\"", "not defined"], |g| g.output[0].name = "ghost".into());
}

#[test]
fn duplicate_tensor() {
    refused(Code::GRAPH, &["\"conv\"", "twice"], |g| g.node[1].output[0] = "conv".into());
    refused(Code::GRAPH, &["\"gamma\"", "twice"], |g| g.initializer[3].name = "gamma".into());
    refused(Code::GRAPH, &["\"conv_w\"", "twice"], |g| g.node[0].output[0] = "conv_w".into());
}

#[test]
fn no_outputs() {
    refused(Code::GRAPH, &["no outputs"], |g| g.output.clear());
}

#[test]
fn impossible_dimensions() {
    for bad in [-1, 0] {
        refused(Code::GRAPH, &["input \"x\"", "positive"], |g| {
            g.input[0] = ValueInfoProto::f32("x", &[1, 3, bad, 8])
        });
    }
    refused(Code::MODEL, &["input \"x\"", "limit"], |g| {
        g.input[0] = ValueInfoProto::f32("x", &[1, 3, 1 << 40, 1 << 40])
    });
    refused(Code::GRAPH, &["initializer \"conv_w\"", "negative"], |g| g.initializer[0].dims[0] = -4);
    refused(Code::MODEL, &["initializer \"conv_w\"", "limit"], |g| g.initializer[0].dims[0] = i64::MAX);
    refused(Code::MODEL, &["rank"], |g| g.initializer[0].dims = vec![1; 9]);
}

#[test]
fn wrong_sizes() {
    refused(Code::GRAPH, &["initializer \"conv_w\"", "432 bytes", "expected 540"], |g| {
        g.initializer[0].dims[0] = 5
    });
    // Also where nothing reads it.
    refused(Code::GRAPH, &["initializer \"idle\""], |g| {
        g.initializer.push(TensorProto { name: "idle".into(), ..TensorProto::f32("", &[2], &[1.0]) });
    });
    // A weight that does not fit its operator.
    refused(Code::GRAPH, &["node_conv", "input channels"], |g| {
        g.initializer[0] = TensorProto::f32("conv_w", &[4, 1, 3, 3], &[0.5; 36])
    });
    refused(Code::GRAPH, &["node_conv", "kernel_shape"], |g| {
        g.node[0].attribute.push(A::ints("kernel_shape", &[5, 5]))
    });
}

#[test]
fn wrong_attributes() {
    for (attribute, word) in [
        (A::ints("strides", &[0, 1]), "strides"),
        (A::ints("strides", &[1]), "strides"),
        (A::ints("dilations", &[-1, 1]), "dilations"),
        (A::int("group", 0), "group"),
        (A::int("group", 2), "group"),
        (A::string("auto_pad", "SOME"), "auto_pad"),
        (A::int("strides", 1), "expected Ints"),
    ] {
        refused(Code::GRAPH, &["node_conv", word], |g| g.node[0].attribute.push(attribute));
    }
    refused(Code::GRAPH, &["node_conv", "pads"], |g| {
        g.node[0].attribute = vec![A::ints("pads", &[-1, 0, 0, 0])]
    });
}

#[test]
fn weights_that_are_not_numbers() {
    for (value, word) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        refused(Code::NON_FINITE, &["\"fc_w\"", "index 7", word], |g| {
            g.initializer[6].raw_data[28..32].copy_from_slice(&value.to_le_bytes());
        });
    }
}

#[test]
fn unsupported_nodes_are_listed_together() {
    let error =
        refused(Code::UNSUPPORTED, &["2 nodes", "node_relu", "Frobnicate", "node_flat", "LSTM"], |g| {
            g.node[2].op_type = "Frobnicate".into();
            g.node[4].op_type = "LSTM".into();
            // The declared shape lets the importer go on behind the first problem.
            g.value_info.push(ValueInfoProto::f32("relu", &[1, 4, 8, 8]));
        });
    assert!(error.remedy.is_some() || error.reason.is_some());
    let mut model = small_cnn();
    model.graph.as_mut().expect("graph").node[2].op_type = "Frobnicate".into();
    let facts = import::inspect(&model.encode_to_vec(), &Options::default())
        .expect("inspection never refuses operators");
    assert_eq!(facts.unsupported.len(), 1);
    let p = &facts.unsupported[0];
    assert_eq!((p.op.as_str(), p.node.as_str(), p.tensor.as_str()), ("Frobnicate", "node_relu", "relu"));
    assert!(p.remedy.is_some());
}

#[test]
fn what_is_left_out_on_purpose() {
    refused(Code::UNSUPPORTED, &["com.example::Relu"], |g| g.node[2].domain = "com.example".into());
    refused(Code::UNSUPPORTED, &["subgraph"], |g| {
        let sub = import::proto::Subgraph { name: "then".into() };
        g.node[2].attribute.push(A { name: "then_branch".into(), r#type: 5, g: Some(sub), ..A::default() });
    });
    refused(Code::UNSUPPORTED, &["training"], |g| g.node[1].attribute.push(A::int("training_mode", 1)));
    refused(Code::UNSUPPORTED, &["\"reflect\""], |g| {
        g.node[2] = NodeProto::new("Pad", &["bn", "amounts"], &["relu"], vec![A::string("mode", "reflect")]);
        g.initializer.push(TensorProto::i64("amounts", &[8], &[0, 0, 1, 1, 0, 0, 1, 1]));
    });
    refused(Code::UNSUPPORTED, &["Complex64"], |g| g.initializer[0].data_type = DataType::Complex64 as i32);
    let mut model = small_cnn();
    model.opset_import[0].version = 99;
    check(&load(&model).unwrap_err(), Code::UNSUPPORTED, &["99", "version_converter"]);
    model.opset_import.clear();
    check(&load(&model).unwrap_err(), Code::MODEL, &["version"]);
}

fn symbolic(name: &str, dims: &[Result<i64, &str>]) -> ValueInfoProto {
    let dim = dims.iter().map(|d| match d {
        Ok(v) => DimensionProto { dim_value: Some(*v), dim_param: None },
        Err(s) => DimensionProto { dim_value: None, dim_param: (!s.is_empty()).then(|| (*s).to_owned()) },
    });
    ValueInfoProto::typed(name, DataType::Float, dim.collect())
}

#[test]
fn symbolic_dimensions() {
    let words = &["height", "x.3", "--set-dim height=N"];
    refused(Code::SYMBOLIC_DIM, words, |g| {
        g.input[0] = symbolic("x", &[Err("batch"), Ok(3), Err("height"), Err("")])
    });

    let mut model = small_cnn();
    model.graph.as_mut().expect("graph").input[0] =
        symbolic("x", &[Err("batch"), Ok(3), Err("height"), Err("")]);
    let bytes = model.encode_to_vec();
    let mut options = Options::default();
    options.set_dims.extend([("height".to_owned(), 8), ("x.3".to_owned(), 8)]);
    let imported = import::import(&bytes, &options).expect("all dimensions are known");
    assert_eq!(imported.inspection.inputs[0].shape.as_deref(), Some(&[1, 3, 8, 8][..]));
    assert!(imported.inspection.notes[0].contains("batch"), "{:?}", imported.inspection.notes);
    options.set_dims.insert("batch".into(), 5);
    let imported = import::import(&bytes, &options).expect("all dimensions are known");
    assert_eq!(imported.inspection.outputs[0].shape.as_deref(), Some(&[5, 10][..]));
    options.set_dims.insert("width".into(), 5);
    check(&import::load(&bytes, &options).unwrap_err(), Code::SYMBOLIC_DIM, &["\"width\"", "batch, height"]);
}

#[test]
fn limits() {
    let bytes = small_cnn().encode_to_vec();
    for (limits, word) in [
        (Limits { file_bytes: 100, ..Limits::default() }, "file"),
        (Limits { nodes: 5, ..Limits::default() }, "number of nodes"),
        (Limits { items: 2, ..Limits::default() }, "number of fields"),
        (Limits { rank: 3, ..Limits::default() }, "rank"),
        (Limits { elements: 100, ..Limits::default() }, "elements"),
        (Limits { constant_bytes: 1000, ..Limits::default() }, "initializers"),
        (Limits { string_bytes: 3, ..Limits::default() }, "name"),
        (Limits { nesting: 1, ..Limits::default() }, "nesting"),
    ] {
        let error = import::load(&bytes, &Options { limits, ..Options::default() }).unwrap_err();
        check(&error, Code::MODEL, &[word]);
    }
    // A constant that is small in the file and large in memory.
    let error = refused(Code::MODEL, &["constant arithmetic"], |g| {
        g.initializer.push(TensorProto::i64("shape", &[2], &[1 << 15, 1 << 15]));
        g.node.push(NodeProto::new("ConstantOfShape", &["shape"], &["big"], vec![]));
        g.node.push(NodeProto::new("Add", &["y", "big"], &["sum"], vec![]));
        g.output[0].name = "sum".into();
    });
    assert!(error.place.is_some());
}

/// `conv_w` in another file.
fn external(location: &str, extra: &[(&str, &str)]) -> (Vec<u8>, Vec<u8>) {
    let mut model = small_cnn();
    let tensor = &mut model.graph.as_mut().expect("graph").initializer[0];
    let data = std::mem::take(&mut tensor.raw_data);
    tensor.data_location = 1;
    tensor.external_data = [&[("location", location)], extra]
        .concat()
        .iter()
        .map(|(k, v)| StringStringEntryProto { key: (*k).into(), value: (*v).into() })
        .collect();
    (model.encode_to_vec(), data)
}

#[test]
fn external_data() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let inside = folder.path().join("inside");
    fs::create_dir(&inside).expect("folder");
    let options = Options { external_data: Some(inside.clone()), ..Options::default() };
    let (model, data) = external("weights.bin", &[]);
    fs::write(inside.join("weights.bin"), &data).expect("file");
    fs::write(folder.path().join("outside.bin"), &data).expect("file");

    check(
        &import::load(&model, &Options::default()).unwrap_err(),
        Code::EXTERNAL_DATA,
        &["conv_w", "weights.bin", "--external-data"],
    );
    let plain = load(&small_cnn()).expect("the model is good");
    assert_eq!(import::load(&model, &options).expect("the folder was given"), plain);
    let (model, _) = external("weights.bin", &[("offset", "0"), ("length", "432")]);
    assert_eq!(import::load(&model, &options).expect("the folder was given"), plain);

    for (location, extra) in [
        ("../outside.bin", &[][..]),
        ("a/../../outside.bin", &[]),
        ("./weights.bin", &[]),
        ("", &[]),
        ("weights.bin", &[("offset", "1")]),
        ("weights.bin", &[("offset", "-1")]),
        ("weights.bin", &[("offset", "18446744073709551615"), ("length", "432")]),
        ("weights.bin", &[("length", "18446744073709551615")]),
        ("weights.bin", &[("length", "431")]),
    ] {
        let (model, _) = external(location, extra);
        let error = import::load(&model, &options).unwrap_err();
        assert_eq!(error.code, Code::EXTERNAL_DATA, "{location} {extra:?}: {error}");
        assert!(error.to_string().contains("conv_w"), "{error}");
    }
    let absolute = folder.path().join("outside.bin");
    let (model, _) = external(absolute.to_str().expect("UTF-8"), &[]);
    assert_eq!(import::load(&model, &options).unwrap_err().code, Code::EXTERNAL_DATA);
    let (model, _) = external("absent.bin", &[]);
    assert_eq!(import::load(&model, &options).unwrap_err().code, Code::FILE);
}

#[cfg(unix)]
#[test]
fn external_data_behind_links() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let inside = folder.path().join("inside");
    fs::create_dir(&inside).expect("folder");
    let options = Options { external_data: Some(inside.clone()), ..Options::default() };
    let (_, data) = external("", &[]);
    let outside = folder.path().join("outside.bin");
    fs::write(&outside, &data).expect("file");
    std::os::unix::fs::symlink(&outside, inside.join("soft.bin")).expect("link");
    fs::hard_link(&outside, inside.join("hard.bin")).expect("link");
    std::os::unix::fs::symlink(folder.path(), inside.join("up")).expect("link");
    for (location, word) in
        [("soft.bin", "symbolic link"), ("hard.bin", "hard links"), ("up/outside.bin", "symbolic link")]
    {
        let (model, _) = external(location, &[]);
        check_place(&import::load(&model, &options).unwrap_err(), word);
    }
}

fn check_place(error: &Error, word: &str) {
    assert_eq!(error.code, Code::EXTERNAL_DATA, "{error}");
    assert!(error.to_string().contains(word) && error.to_string().contains("conv_w"), "{error}");
}
