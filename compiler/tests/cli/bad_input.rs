//! Bad input: a clear error with a code, exit status 2, nothing half-written.
use super::{Place, command, model, text};
use goshawk_compiler::{
    data::npz,
    import::proto::{DimensionProto, StringStringEntryProto, TensorProto, ValueInfoProto},
};
use goshawk_ir::{Shape, Tensor};
use std::{process::Stdio, time::Duration};

/// The command fails with exit status 2, the code and the words, and leaves no new file.
fn refused(place: &Place, args: &str, code: &str, words: &[&str]) {
    let before = place.list();
    let output = place.goshawk(args);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "goshawk {args}\n{error}");
    assert!(error.contains(&format!("error[{code}]")), "goshawk {args}: {code} expected\n{error}");
    for word in words {
        assert!(error.contains(word), "goshawk {args}: {word:?} expected\n{error}");
    }
    assert_eq!(text(&output.stdout), "", "goshawk {args}");
    assert_eq!(place.list(), before, "goshawk {args} left something behind");
}

/// A model file that does not compile.
fn bad_model(name: &str, bytes: Vec<u8>, code: &str, words: &[&str]) {
    let place = Place::new();
    let file = format!("{name}.onnx");
    place.save(&file, bytes);
    refused(&place, &format!("compile {file} --calib x.npy -o libnet.so"), code, words);
}

#[test]
fn damaged_models() {
    let good = model::bytes(&model::residual());
    bad_model("truncated", good[..good.len() * 2 / 3].to_vec(), "E0101", &["truncated.onnx"]);
    bad_model("text", b"this is no model".to_vec(), "E0101", &["text.onnx"]);
    bad_model("empty", Vec::new(), "E0101", &["empty.onnx"]);
    let cyclic = model::changed(|g| g.node[0].input[0] = "relu2".into());
    bad_model("cyclic", cyclic, "E0102", &["cycl"]);
    let undefined = model::changed(|g| g.node[2].input[0] = "nowhere".into());
    bad_model("undefined", undefined, "E0102", &["nowhere"]);
    let negative = model::changed(|g| g.initializer[0].dims[0] = -8);
    bad_model("negative", negative, "E0102", &["w1"]);
    let huge = model::changed(|g| g.initializer[0].dims[0] = i64::MAX / 2);
    bad_model("huge", huge, "E0101", &["w1"]);
    let not_a_number = model::changed(|g| {
        let mut values = model::noise(3, 8 * 72);
        values[17] = f32::NAN;
        g.initializer[2] = TensorProto::f32("w2", &[8, 8, 3, 3], &values);
    });
    bad_model("nan", not_a_number, "E0105", &["w2"]);
    let infinite = model::changed(|g| {
        g.initializer[1] = TensorProto::f32("b1", &[8], &[f32::INFINITY; 8]);
    });
    bad_model("inf", infinite, "E0105", &["b1"]);
}

#[test]
fn symbolic_dimensions_are_fixed_by_name() {
    let place = Place::new();
    let bytes = model::changed(|g| {
        let dim = |value: Option<i64>, name: Option<&str>| DimensionProto {
            dim_value: value,
            dim_param: name.map(str::to_owned),
        };
        let dims = vec![dim(Some(1), None), dim(Some(3), None), dim(None, Some("H")), dim(Some(8), None)];
        g.input[0] = ValueInfoProto::typed("x", goshawk_compiler::import::proto::DataType::Float, dims);
    });
    place.save("symbolic.onnx", bytes);
    refused(&place, "compile symbolic.onnx --calib x.npy -o libnet.so", "E0104", &["H", "--set-dim"]);
    place.ok("compile symbolic.onnx --set-dim H=8 --calib x.npy -o libnet.so");
}

#[test]
fn external_data_only_from_the_given_folder() {
    let place = Place::new();
    let external = |location: &str| {
        model::changed(|g| {
            let entry = StringStringEntryProto { key: "location".into(), value: location.into() };
            g.initializer[0].raw_data = Vec::new();
            g.initializer[0].data_location = 1;
            g.initializer[0].external_data = vec![entry];
        })
    };
    place.save("external.onnx", external("weights.bin"));
    place.save("outside.onnx", external("../weights.bin"));
    let weights: Vec<u8> = model::noise(1, 8 * 27).iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::create_dir(place.path("data")).expect("folder");
    place.save("data/weights.bin", &weights);
    place.save("weights.bin", &weights);
    refused(&place, "compile external.onnx --calib x.npy -o a.o", "E0103", &["--external-data"]);
    refused(
        &place,
        "compile outside.onnx --external-data data --calib x.npy -o a.o",
        "E0103",
        &["weights.bin"],
    );
    place.ok("compile external.onnx --external-data data --calib x.npy -o a.o");
}

#[test]
fn unusable_calibration_data() {
    let place = Place::new();
    let compile = |data: &str| format!("compile model.onnx --calib {data} -o libnet.so");
    refused(&place, "compile model.onnx -o libnet.so", "E0301", &["--calib"]);
    refused(&place, &compile("missing.npy"), "E0601", &["missing.npy"]);
    let mut values = model::noise(5, 3 * 64);
    values[100] = f32::NAN;
    place.save("nan.npy", model::array(&[1, 3, 8, 8], values));
    refused(&place, &compile("nan.npy"), "E0301", &["nan.npy", "NaN"]);
    place.save("shape.npy", model::array(&[4, 3, 8, 9], model::noise(5, 4 * 3 * 72)));
    refused(&place, &compile("shape.npy"), "E0301", &["shape.npy", "[4, 3, 8, 9]", "[3, 8, 8]"]);
    place.save(
        "empty.npy",
        b"\x93NUMPY\x01\x00\x3a\x00{'descr': '<f4', 'fortran_order': False, 'shape': (0,3,8,8)}",
    );
    refused(&place, &compile("empty.npy"), "E0301", &["empty.npy", "empty"]);
    std::fs::create_dir(place.path("none")).expect("folder");
    refused(&place, &compile("none"), "E0301", &["none", "empty"]);
    std::fs::create_dir(place.path("broken")).expect("folder");
    place.save("broken/a.png", b"\x89PNG\r\n\x1a\n no more");
    refused(&place, &compile("broken"), "E0301", &["a.png"]);
    place.save("cut.npy", &model::samples(4)[..1000]);
    refused(&place, &compile("cut.npy"), "E0301", &["cut.npy", "bytes"]);
    let tensor = Tensor::from_f32(Shape::new([1, 2]).expect("shape"), vec![0.0; 2]).expect("tensor");
    let arrays = [("a".to_owned(), tensor.clone()), ("b".to_owned(), tensor)].into();
    place.save("names.npz", npz::encode(&arrays).expect("npz"));
    refused(&place, &compile("names.npz"), "E0301", &["`x`", "a, b"]);
    refused(&place, "eval model.onnx --data x.npy --calib x.npy", "E0301", &["--labels"]);
    place.save("pre.toml", "crop = 0");
    refused(&place, &format!("{} --preprocess pre.toml", compile("x.npy")), "E0301", &["crop", "pre.toml"]);
}

#[test]
fn bits_files_and_widths() {
    let place = Place::new();
    place.save("unknown.toml", "[layers]\nconv1 = { weights = 4 }\nconv22 = { weights = 4 }\n");
    refused(
        &place,
        "compile model.onnx --calib x.npy --bits unknown.toml -o a.so",
        "E0401",
        &["unknown.toml", "conv22"],
    );
    place.save("key.toml", "default = { weight = 4 }\n");
    refused(
        &place,
        "compile model.onnx --calib x.npy --bits key.toml -o a.so",
        "E0401",
        &["line 1", "weight"],
    );
    refused(&place, "compile model.onnx --calib x.npy --uniform w9a8 -o a.so", "E0401", &["w9a8"]);
    refused(&place, "compile model.onnx --calib x.npy --residual-bits 12 -o a.so", "E0402", &["12"]);
}

#[test]
fn outputs_targets_and_linkers() {
    let place = Place::new();
    let compile = "compile model.onnx --calib x.npy";
    refused(&place, &format!("{compile} -o missing/libnet.so"), "E0601", &["missing"]);
    refused(&place, &format!("{compile} -o model.onnx/libnet.so"), "E0601", &["model.onnx"]);
    std::fs::create_dir(place.path("net.h")).expect("folder");
    refused(&place, &format!("{compile} -o libnet.so"), "E0601", &["net.h"]);
    refused(&place, &format!("{compile} -o net"), "E0601", &["ending"]);
    refused(&place, &format!("{compile} -o m.so --linker no-such-linker"), "E0602", &["no-such-linker"]);
    refused(
        &place,
        &format!("{compile} -o m.so --target riscv64gc-unknown-linux-gnu"),
        "E0501",
        &["riscv64"],
    );
    refused(&place, &format!("{compile} -o m.so --target-cpu pentium"), "E0501", &["pentium"]);
    refused(&place, &format!("{compile} -o m.so --print-after nothing"), "E0401", &["nothing"]);
    refused(&place, "run libmissing.so --data x.npy -o out.npz", "E0701", &["libmissing.so"]);
    place.save("fake.so", b"\x7fELF");
    refused(&place, "run fake.so --data x.npy -o out.npz", "E0701", &["fake.so"]);
    refused(&place, "run model.onnx --data x.npy -o out.txt", "E0601", &["npz"]);
    refused(&place, "inspect missing.onnx", "E0601", &["missing.onnx"]);
}

#[test]
fn foreign_and_damaged_profiles() {
    let place = Place::new();
    place.ok("calibrate model.onnx --calib x.npy -o ranges.json");
    place.save("other.onnx", model::changed(|g| g.initializer[3] = TensorProto::f32("b2", &[8], &[0.25; 8])));
    refused(
        &place,
        "compile other.onnx --ranges ranges.json -o a.o",
        "E0301",
        &["another model", "ranges.json"],
    );
    let profile = place.read("ranges.json");
    place.save("half.json", &profile[..profile.len() / 2]);
    refused(&place, "compile model.onnx --ranges half.json -o a.o", "E0301", &["damaged", "half.json"]);
}

#[test]
fn wrong_usage() {
    let place = Place::new();
    for args in ["", "fly", "compile", "compile model.onnx -o a.so --mean x", "run model.onnx --engine gpu"] {
        let output = place.goshawk(args);
        assert_eq!(output.status.code(), Some(2), "goshawk {args}");
        assert!(!output.stderr.is_empty());
    }
    refused(&place, "explain E9999", "E0101", &["E9999"]);
}

/// Waits until the process has a handler for SIGINT, however long it takes to start.
#[cfg(unix)]
fn catches_interrupts(process: u32) {
    for _ in 0..600 {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:"));
        if caught.is_some_and(|m| u64::from_str_radix(m.trim(), 16).is_ok_and(|m| m & 2 != 0)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
#[cfg(unix)]
fn an_interrupt_leaves_nothing_behind() {
    let place = Place::new();
    place.save("many.npy", model::samples(60_000));
    let before = place.list();
    let child = command(&place.path(""))
        .args("compile model.onnx --calib many.npy --samples 60000 -o libnet.so".split(' '))
        .stderr(Stdio::piped())
        .spawn()
        .expect("goshawk starts");
    catches_interrupts(child.id());
    std::thread::sleep(Duration::from_millis(300));
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.is_ok_and(|s| s.success()));
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("E0702"));
    assert_eq!(place.list(), before);
}
