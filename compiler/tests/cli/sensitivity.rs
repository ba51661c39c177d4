//! `goshawk sensitivity`: profiles, reports, resumption, import and merge.
use super::{Place, model, text};
use goshawk_compiler::{
    Code,
    data::{self, Dataset},
    driver::{
        model::{DEFAULT_METHOD, Model},
        progress::{Progress, Silent},
        sensitivity::{self, Estimator, Exact, Loss, Request, Settings, file},
    },
    import,
};
use goshawk_passes::sensitivity::{FLOAT, krylov};
use serde_json::Value;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The residual network with labels: classes 0 to 3 in turn.
fn labelled() -> Place {
    let place = Place::new();
    place.save(
        "x_labels.json",
        serde_json::to_string(&(0..16).map(|i| i % 4).collect::<Vec<_>>()).expect("JSON"),
    );
    place
}

fn reason(place: &Place, args: &str) -> String {
    let output = place.goshawk(args);
    assert_eq!(output.status.code(), Some(2), "goshawk {args}\n{}", text(&output.stdout));
    text(&output.stderr)
}

#[test]
fn a_profile_has_every_layer_and_every_number() {
    let place = labelled();
    let args = "sensitivity model.onnx --data x.npy -o net.sens --html r.html --export p.json --measure w4a32,w32a4 \
                --methods errors,gauss-newton,fisher,hutchinson,eigenvalues --max-probes 8 --spectrum conv2 --top 2";
    let report = place.json(args);
    let layers = report["profile"]["layers"].as_array().expect("layers");
    let names: Vec<_> = layers.iter().map(|l| l["name"].as_str().expect("a name")).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    for layer in layers {
        for side in ["weights", "activations"] {
            let c = &layer[side];
            assert!(c["gauss_newton"]["mean"].as_f64().is_some_and(|m| m > 0.0), "{layer}");
            // Four classes: the traces are exact.
            assert_eq!(c["gauss_newton"]["std_error"], 0.0);
            assert!(c["hutchinson"]["std_error"].as_f64().is_some_and(|e| e > 0.0));
            assert!(c["fisher"]["mean"].as_f64().is_some_and(|m| m > 0.0));
            let error = |bits: &str| c["errors"][bits].as_f64().expect("an error");
            assert!(error("2") > error("4") && error("4") > error("8"));
            let channels = c["channels"].as_array().expect("channels").len();
            assert_eq!(c["channel_errors"]["4"].as_array().map(Vec::len), Some(channels));
        }
        assert_eq!(layer["weights"]["eigenvalues"].as_array().map(Vec::len), Some(2));
        assert!(layer["measured"]["w4a32"]["divergence"]["mean"].as_f64().is_some_and(|d| d > 0.0));
        assert!(layer.get("curved_by").is_none(), "piecewise linear");
    }
    assert!(report["agreement"].as_array().is_some_and(|a| a.len() > 6));
    assert_eq!(report["profile"]["spectra"].as_object().map(serde_json::Map::len), Some(1));
    let exported: Value = serde_json::from_slice(&place.read("p.json")).expect("JSON");
    assert_eq!(exported, report["profile"]);
    let page = text(&place.read("r.html"));
    assert!(page.contains("<svg") && page.contains("Spectral density") && !page.contains("<script"));
    // The same command has nothing left to do and says the same.
    let before = place.read("net.sens");
    let again = place.json(args);
    assert_eq!((again["profile"].clone(), place.read("net.sens")), (report["profile"].clone(), before));
    assert!(place.ok("sensitivity model.onnx --merge net.sens").contains("Rank correlation"));
}

#[test]
fn threads_do_not_matter_and_seeds_do() {
    let place = Place::new();
    let run = |name: &str, options: &str| {
        place.ok(&format!(
            "sensitivity model.onnx --data x.npy -o {name} --exact never --max-probes 8 {options}"
        ));
        place.read(name)
    };
    let one = run("a.sens", "--threads 1 --seed 1");
    assert_eq!(one, run("b.sens", "--threads 3 --seed 1"));
    assert_ne!(one, run("c.sens", "--threads 1 --seed 2"));
    // Two seeds on the same data pool.
    let error = |args: &str| {
        let report = place.json(&format!("sensitivity model.onnx {args}"));
        report["profile"]["layers"][0]["weights"]["gauss_newton"]["std_error"].as_f64().expect("an error")
    };
    let (a, c, both) = (error("--merge a.sens"), error("--merge c.sens"), error("--merge a.sens,c.sens"));
    assert!(both < a && both < c, "{a} {c} {both}");
}

#[test]
fn damaged_foreign_and_unfinished_files_are_refused_and_kept() {
    let place = Place::new();
    place.ok("sensitivity model.onnx --data x.npy -o a.sens --methods errors");
    let bytes = place.read("a.sens");
    place.save("cut.sens", &bytes[..bytes.len() - 1]);
    assert!(reason(&place, "sensitivity model.onnx --merge cut.sens").contains("cut off"));
    let mut damaged = bytes.clone();
    damaged[40] ^= 1;
    place.save("damaged.sens", &damaged);
    assert!(reason(&place, "sensitivity model.onnx --merge damaged.sens").contains("check sum"));
    place.save("other.onnx", model::changed(|g| g.name = "other".into()));
    assert!(reason(&place, "sensitivity other.onnx --merge a.sens").contains("another model"));
    place.save("notes.txt", "not a profile");
    let error = reason(&place, "sensitivity model.onnx --data x.npy -o notes.txt");
    assert!(error.contains("not overwritten"), "{error}");
    assert_eq!(place.read("notes.txt"), b"not a profile");
}

#[test]
fn figures_of_other_tools_come_in_as_json() {
    let place = Place::new();
    let names =
        place.json("sensitivity model.onnx --data x.npy --methods errors")["profile"]["layers"].clone();
    let name = |i: usize| names[i]["name"].as_str().expect("a name").to_owned();
    let json = |layers: &str| format!("{{\"format\": \"goshawk sensitivity 1\", \"layers\": [{layers}]}}");
    let layers = format!("{{\"name\": \"{}\", \"trace\": 0.25}}", name(1));
    place.save("own.json", json(&layers));
    // Omega needs the errors too: one run gives them, the import the traces.
    let report =
        place.json("sensitivity model.onnx --data x.npy --methods errors --import own.json -o net.sens");
    let layer = &report["profile"]["layers"][1];
    assert_eq!(layer["weights"]["hutchinson"]["mean"], 0.25);
    assert!(layer["weights"]["errors"]["4"].as_f64().is_some_and(|e| e > 0.0));
    place.save("bad.json", json("{\"name\": \"nobody\", \"trace\": 1}"));
    assert!(reason(&place, "sensitivity model.onnx --import bad.json").contains("no layer nobody"));
    let layers = format!("{{\"name\": \"{}\", \"trace\": 1, \"parameters\": 5}}", name(1));
    place.save("size.json", json(&layers));
    assert!(reason(&place, "sensitivity model.onnx --import size.json").contains("the profile says 5"));
    assert!(reason(&place, "sensitivity model.onnx").contains("--data"));
    assert!(reason(&place, "sensitivity model.onnx --data x.npy --loss labels").contains("labels"));
    assert!(
        reason(&place, "sensitivity model.onnx --data x.npy --spectrum nobody --methods errors")
            .contains("nobody")
    );
}

/// Stops after some steps.
struct Stop(AtomicUsize);

impl Progress for Stop {
    fn begin(&self, _: &str, _: usize) {}
    fn step(&self) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    }
    fn end(&self) {}
    fn interrupted(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

fn settings() -> Settings {
    Settings {
        estimators: Estimator::ALL.iter().map(|(e, _)| *e).collect(),
        loss: Loss::Labels,
        widths: [2, 4, 8].into(),
        tolerance: 0.01,
        max_probes: 12,
        exact: Exact::Never,
        per_layer: true,
        top: 2,
        eigen_method: krylov::Method::Power,
        eigen_tolerance: 1e-3,
        eigen_products: 20,
        eigen_samples: 6,
        measure: vec![(4, FLOAT), (2, 4)],
        spectra: Vec::new(),
        spectrum_steps: 8,
        spectrum_runs: 2,
        calibration: DEFAULT_METHOD,
        batch: Some(3),
        memory: 1 << 28,
        seed: 11,
    }
}

#[test]
fn an_interrupted_run_goes_on_and_gives_the_same_file() {
    let place = labelled();
    let model =
        Model::load(&place.path("model.onnx"), &import::Options::default(), &mut |_, _| {}).expect("loads");
    let options = data::Options { samples: Some(16), ..data::Options::default() };
    let set = Dataset::open(&place.path("x.npy"), &model.inputs(), &options).expect("opens");
    let mut settings = settings();
    settings.spectra.push(
        model
            .graph
            .node(goshawk_passes::sensitivity::layers::all(&model.graph).expect("acyclic")[1].node)
            .name
            .clone(),
    );
    let run = |name: &str, progress: &dyn Progress, settings: &Settings| {
        let path = place.path(name);
        let request = Request {
            model: &model,
            data: &set,
            targets: None,
            settings,
            threads: 2,
            file: Some(&path),
            restart: false,
            progress,
        };
        sensitivity::run(&request)
    };
    let whole = run("whole.sens", &Silent, &settings).expect("runs");
    let mut interruptions = 0;
    loop {
        // Every attempt may go a little further, so that the stop comes in every stage.
        match run("pieces.sens", &Stop(AtomicUsize::new(18 + 5 * interruptions)), &settings) {
            Ok(profile) => {
                assert_eq!(profile, whole);
                break;
            }
            Err(e) => assert_eq!(e.code, Code::INTERRUPTED, "{e}"),
        }
        interruptions += 1;
        if place.list().contains(&"pieces.sens".to_owned()) {
            let path = place.path("pieces.sens");
            assert!(file::read(&path, Some(&model.sha256)).is_ok());
            assert!(file::load(&path, None).is_err_and(|e| e.what.contains("not finished")));
            let other = Settings { seed: 12, ..settings.clone() };
            let error = run("pieces.sens", &Silent, &other).expect_err("another run's file");
            assert!(error.reason.is_some_and(|r| r.contains("seed 12")));
        }
        assert!(interruptions < 60);
    }
    assert!(interruptions >= 3, "{interruptions}");
    assert_eq!(place.read("pieces.sens"), place.read("whole.sens"));
}
