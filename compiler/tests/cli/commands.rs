//! What every command does when all is well.
use super::{Place, model, text};
use goshawk_compiler::data::{self, Dataset, InputSpec};
use goshawk_ir::Shape;
use serde_json::Value;

/// Arrays of a `.npz` with rows of four values.
fn logits(place: &Place, file: &str, samples: usize) -> Vec<f32> {
    let spec = InputSpec { name: "logits".into(), shape: Shape::new([samples, 4]).expect("shape") };
    let set = Dataset::open(&place.path(file), &[spec], &data::Options::default()).expect("outputs");
    set.sample(0).expect("outputs")[0].as_f32().expect("f32").to_vec()
}

fn argmax(row: &[f32]) -> usize {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).expect("classes")
}

/// Labels are what the float network says: its top-1 is 100 %.
fn label(place: &Place) {
    place.ok("run model.onnx --data x.npy -o float.npz");
    let labels: Vec<usize> = logits(place, "float.npz", 16).chunks(4).map(argmax).collect();
    place.save("x_labels.json", serde_json::to_string(&labels).expect("JSON"));
}

#[test]
fn inspect_tells_costs_and_layers() {
    let place = Place::new();
    let facts = place.json("inspect model.onnx");
    assert_eq!(facts["macs"], 64 * 27 * 8 + 64 * 72 * 8 + 32);
    assert_eq!(facts["operators"]["Conv"], 2);
    assert!(place.ok("inspect model.onnx --nodes").contains("conv2"));
    place.ok("inspect model.onnx --bits-template bits.toml");
    let bits = text(&place.read("bits.toml"));
    assert_eq!(bits.matches("weights = ").count(), 1 + 3, "{bits}");
    place.ok("compile model.onnx --calib x.npy --bits bits.toml -o net.gir");
}

#[test]
fn unsupported_nodes_are_listed_all_at_once() {
    let place = Place::new();
    let bytes = model::changed(|g| {
        g.node[1].op_type = "Einsum".into();
        g.node[4].op_type = "NonZero".into();
    });
    place.save("odd.onnx", bytes);
    let output = place.goshawk("inspect odd.onnx");
    assert_eq!(output.status.code(), Some(1));
    let out = text(&output.stdout);
    assert!(out.contains("Einsum") && out.contains("NonZero"), "{out}");
    let output = place.goshawk("compile odd.onnx --calib x.npy -o net.so");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("E0201"));
}

#[test]
fn compiled_library_interpreter_and_text_give_the_same_bytes() {
    let place = Place::new();
    let report = place.json("compile model.onnx --calib x.npy --emit a,o,gir,s -o libnet.so --explain");
    assert_eq!(report["files"].as_array().map(Vec::len), Some(7));
    for file in ["libnet.so", "libnet.a", "net.o", "net.h", "net.json", "net.gir", "net.s"] {
        assert!(!place.read(file).is_empty(), "{file}");
    }
    assert!(text(&place.read("net.h")).contains("int net_run("));
    let manifest: Value = serde_json::from_slice(&place.read("net.json")).expect("JSON");
    assert_eq!(manifest["prefix"], "net");
    place.ok("run libnet.so --data x.npy -o so.npz");
    place.ok("run net.gir --data x.npy -o gir.npz");
    for engine in ["int", "native"] {
        place.ok(&format!("run model.onnx --engine {engine} --calib x.npy --data x.npy -o {engine}.npz"));
        assert_eq!(place.read("so.npz"), place.read(&format!("{engine}.npz")), "{engine}");
    }
    assert_eq!(place.read("so.npz"), place.read("gir.npz"));
    place.ok("compile model.onnx --calib x.npy --prefer size -o libsmall.so");
    place.ok("run libsmall.so --data x.npy -o small.npz");
    assert_eq!(place.read("so.npz"), place.read("small.npz"));
    place.ok("run model.onnx --data x.npy -o float.npz");
    let (float, int) = (logits(&place, "float.npz", 16), logits(&place, "so.npz", 16));
    let worst = float.iter().zip(&int).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst > 0.0 && worst < 0.1, "{worst}");
}

#[test]
fn the_same_input_gives_the_same_bytes_from_any_folder() {
    let (a, b) = (Place::new(), Place::new());
    for place in [&a, &b] {
        place.ok("compile model.onnx --calib x.npy --threads 1 --uniform w4a8 -o libnet.so");
    }
    let again = Place::new();
    again.ok("compile model.onnx --calib x.npy --threads 3 --uniform w4a8 -o libnet.so");
    for file in ["libnet.so", "net.h", "net.json"] {
        assert_eq!(a.read(file), b.read(file), "{file}");
        assert_eq!(a.read(file), again.read(file), "{file} with more threads");
    }
}

#[test]
fn profiles_replace_data() {
    let place = Place::new();
    place.ok("calibrate model.onnx --calib x.npy --method percentile:99.9 -o ranges.json");
    place.ok("compile model.onnx --ranges ranges.json -o a.o --name net");
    place.ok(
        "compile model.onnx --calib x.npy --method percentile:99.9 --save-ranges same.json -o b.o --name net",
    );
    assert_eq!(place.read("a.o"), place.read("b.o"));
    assert_eq!(place.read("ranges.json"), place.read("same.json"));
}

#[test]
fn eval_compares_engines_and_settings() {
    let place = Place::new();
    label(&place);
    let report = place.json("eval model.onnx --data x.npy --calib x.npy --uniform w8a8,w3a6 --max-drop 50");
    let results = report["results"].as_array().expect("results");
    let names: Vec<_> = results.iter().map(|r| r["name"].as_str().unwrap_or_default()).collect();
    assert_eq!(names, ["float", "w8a8 int", "w8a8 native", "w3a6 int", "w3a6 native"]);
    assert_eq!(results[0]["top1_percent"], 100.0);
    for native in [2, 4] {
        assert_eq!(results[native]["same_as_previous"], 16, "native equals the interpreter");
    }
    let output = place.goshawk("eval model.onnx --data x.npy --calib x.npy --min-top1 100.1 --engine float");
    assert_eq!(output.status.code(), Some(1), "a missed threshold is a failed check");
    place.ok("compile model.onnx --calib x.npy -o libnet.so");
    let report = place.json("eval model.onnx --data x.npy --engine float --library libnet.so");
    assert_eq!(report["results"][1]["rows"], 16);
}

#[test]
fn diff_names_the_worst_layers() {
    let place = Place::new();
    let eight = place.json("diff model.onnx --data x.npy --calib x.npy");
    let four = place.json("diff model.onnx --data x.npy --calib x.npy --uniform w4a4");
    let sqnr = |report: &Value, name: &str| {
        let layers = report["layers"].as_array().expect("layers").clone();
        let layer = layers.iter().find(|l| l["name"] == name).unwrap_or_else(|| panic!("{name} in {report}"));
        layer["sqnr_db"].as_f64().expect("a number")
    };
    assert!(sqnr(&eight, "logits") > 30.0, "{eight}");
    assert!(sqnr(&four, "logits") < sqnr(&eight, "logits") - 6.0, "fewer bits, more noise");
    assert!(four["worst"].as_array().is_some_and(|w| !w.is_empty()));
    let output = place.goshawk("diff model.onnx --data x.npy --calib x.npy --min-sqnr 200");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn bench_measures_settings_and_libraries() {
    let place = Place::new();
    place.ok("compile model.onnx --calib x.npy -o libnet.so");
    let report =
        place.json("bench libnet.so model.onnx --calib x.npy --uniform w8a8,w4a8 --runs 5 --warm-up 1");
    let rows = report["latencies"].as_array().expect("rows");
    assert_eq!(rows.len(), 3);
    for row in rows {
        let us = |key: &str| row[key].as_f64().expect("a number");
        assert!(us("min_us") > 0.0 && us("min_us") <= us("median_us") && us("median_us") <= us("p95_us"));
    }
    let out =
        place.ok("bench model.onnx --calib x.npy --target-cpu x86-64,native --integer --runs 5 --csv t.csv");
    assert!(out.contains("w8a8 x86-64") && out.contains("w8a8 native"), "{out}");
    let csv = text(&place.read("t.csv"));
    assert_eq!(csv.lines().count(), 3, "{csv}");
    let bad = place.goshawk("bench libnet.so --layers");
    assert!(text(&bad.stderr).contains("needs an ONNX model"), "{}", text(&bad.stderr));
}

#[test]
fn tuning_is_kept_in_a_file() {
    let place = Place::new();
    let compile = "compile model.onnx --calib x.npy --name net";
    place.ok(&format!("{compile} -o plain.so"));
    place.ok(&format!("{compile} --tune tiles.json -o tuned.so"));
    let file = place.read("tiles.json");
    let cache: serde_json::Value = serde_json::from_slice(&file).expect("JSON");
    assert_eq!(cache["format"], "goshawk tuning 2");
    // The library's file name is in it.
    let tuned = place.read("tuned.so");
    place.ok(&format!("{compile} --tune tiles.json -o tuned.so"));
    assert_eq!(place.read("tiles.json"), file, "what is known is not measured again");
    assert!(place.read("tuned.so") == tuned, "the same tiles, the same bytes");
    for library in ["plain", "tuned"] {
        place.ok(&format!("run {library}.so --data x.npy -o {library}.npz"));
    }
    assert_eq!(place.read("plain.npz"), place.read("tuned.npz"), "tiles do not change results");
    place.save("tiles.json", "{}");
    let output = place.goshawk(&format!("{compile} --tune tiles.json -o bad.so"));
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("tuning file is damaged"), "{}", text(&output.stderr));
}

#[test]
fn every_layer_is_measured() {
    let place = Place::new();
    let report = place.json("profile model.onnx --calib x.npy --runs 8 --csv layers.csv");
    let profile = &report["profiles"][0];
    let layers = profile["layers"].as_array().expect("layers");
    let op = |i: usize| layers[i]["op"].as_str().unwrap_or_default();
    assert_eq!((op(0), op(layers.len() - 1)), ("quantize", "dequantize"));
    let macs = |l: &serde_json::Value| l["macs"].as_u64().expect("a count");
    assert_eq!(layers.iter().map(macs).sum::<u64>(), profile["macs"].as_u64().expect("a count"));
    assert!(macs(profile) > 0);
    let share: f64 = layers.iter().map(|l| l["share"].as_f64().expect("a number")).sum();
    assert!((share - 1.0).abs() < 1e-6, "{share}");
    for layer in layers {
        let us = |key: &str| layer[key].as_f64().expect("a number");
        assert!(us("min_us") >= 0.0 && us("min_us") <= us("median_us"), "{layer}");
        assert_eq!(
            macs(layer) > 0,
            layer["of_peak"].is_number() || report["peaks"]["compute"] == serde_json::json!([])
        );
    }
    assert_eq!(text(&place.read("layers.csv")).lines().count(), layers.len() + 1);
    let bench = place.ok("bench model.onnx --calib x.npy --runs 5 --layers");
    assert!(bench.contains("dequantize") && bench.contains("median us"), "{bench}");
    assert!(place.ok("peak --runs 1").contains("L1 read"));
}

#[test]
fn images_are_preprocessed() {
    let place = Place::new();
    std::fs::create_dir(place.path("photos")).expect("folder");
    for i in 0..3u8 {
        let image = image::RgbImage::from_fn(20, 12, |x, y| image::Rgb([x as u8 * 10, y as u8 * 20, i * 80]));
        image.save(place.path(&format!("photos/{i}.png"))).expect("saved");
    }
    place.save("pre.toml", "resize = 10\ncrop = 8\nscale = 0.0039\nmean = [0.5, 0.5, 0.5]\nstd = 0.25\n");
    place.ok("compile model.onnx --calib photos --preprocess pre.toml -o net.o");
    let output = place.goshawk("compile model.onnx --calib photos -o other.o");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("12x20"), "{}", text(&output.stderr));
}

#[test]
fn passes_codes_and_operators_are_shown() {
    let place = Place::new();
    let out = place.ok("compile model.onnx --calib x.npy -o net.gir --print-after import");
    assert!(out.contains("after import") && !out.contains("after lower"));
    assert!(place.ok("explain E0401").contains("bits file"));
    assert!(place.ok("explain").contains("E0901"));
    assert!(place.ok("ops").contains("Conv"));
    assert!(place.json("ops")["onnx"].as_array().is_some_and(|ops| ops.len() > 40));
    assert!(text(&place.goshawk("--version").stdout).starts_with("goshawk "));
}

#[test]
fn other_targets_are_compiled_for() {
    let place = Place::new();
    place.ok("compile model.onnx --calib x.npy --target aarch64-unknown-linux-gnu -o net.o");
    assert_eq!(place.read("net.o")[18], 183, "EM_AARCH64");
    place.ok("compile model.onnx --calib x.npy --target-cpu x86-64 -o libnet.so");
}
