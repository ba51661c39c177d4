//! Round trip, truncation and damage of profile files.
use super::*;
use goshawk_passes::sensitivity::{
    Curvature, Eigenvalue, Estimate, LayerProfile, Measured, Origin, Spectrum,
    sums::{Draws, Traces},
};

/// A profile that uses every field.
pub fn everything() -> Profile {
    let estimate = |x: f64| Estimate { mean: x, std_error: 0.1 * x, samples: 12 };
    let curvature = |x: f64| Curvature {
        hutchinson: Some(estimate(x)),
        gauss_newton: Some(estimate(-x)),
        fisher: Some(Estimate::exact(1.0 / 3.0)),
        channels: vec![estimate(x), estimate(f64::MIN_POSITIVE)],
        data_error: Some(0.25),
        eigenvalues: vec![Eigenvalue { value: 7.0 * x, residual: 1e-9, products: 17 }],
        errors: [(2, 1.5), (8, 1e-300)].into(),
        channel_errors: [(2, vec![1.0, 0.5])].into(),
    };
    let measured = Measured { loss: estimate(0.5), divergence: estimate(0.25), accuracy: Some(-0.01) };
    let layer = LayerProfile {
        name: "conv/1: ä".into(),
        parameters: 1 << 40,
        macs: 3,
        input: "x".into(),
        input_elements: 9,
        curved_by: Some("sigmoid".into()),
        weights: curvature(1.0),
        activations: curvature(2.0),
        measured: [((4, 32), measured), ((32, 4), Measured::default())].into(),
    };
    Profile {
        version: VERSION,
        model_sha256: "ab".into(),
        origin: Origin {
            tool: "goshawk".into(),
            data_sha256: "cd".into(),
            samples: 256,
            loss: "labels".into(),
            calibration: "mse".into(),
            seed: u64::MAX,
            settings: "tolerance 0.05".into(),
        },
        layers: vec![layer, LayerProfile { name: "fc".into(), ..LayerProfile::default() }],
        spectra: [(
            "fc".to_owned(),
            Spectrum { dimension: 5, steps: 2, runs: vec![vec![(1.0, 0.5), (2.0, 0.5)]] },
        )]
        .into(),
        baseline: Some(measured),
    }
}

fn content() -> Content {
    let mut traces = Traces::new(&[2, 1], 4);
    let mut draws = Draws::new(2);
    draws.push(0, vec![1.0, 2.0], &[3.0]);
    draws.push(0, vec![1.5, 2.0], &[3.5]);
    draws.push(1, vec![1.0], &[]);
    traces.add(&draws, 0.5).expect("fits");
    traces.end_block(&|_| true);
    traces.add(&draws, 0.5).expect("fits");
    let state =
        State { done: ["errors".to_owned()].into(), traces: [("gauss-newton".to_owned(), traces)].into() };
    Content { profile: everything(), state: Some(state) }
}

#[test]
fn what_is_written_reads_back_exactly() {
    assert_eq!(decode(&encode(&content())), Ok(content()));
    let done = Content { state: None, ..content() };
    assert_eq!(decode(&encode(&done)), Ok(done));
}

#[test]
fn a_file_cut_at_any_byte_is_refused_with_the_reason() {
    let bytes = encode(&content());
    for n in 0..bytes.len() {
        let error = decode(&bytes[..n]).expect_err("refused");
        let reason = error.reason.expect("a reason");
        assert!(
            error.code == Code::DATA && (reason.contains("cut off") || reason.contains("ends after")),
            "{n}: {reason}"
        );
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(decode(&longer).is_err());
}

#[test]
fn a_change_of_any_byte_is_noticed() {
    let bytes = encode(&content());
    for n in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[n] ^= 1 << (n % 8);
        assert!(decode(&damaged).is_err(), "byte {n}");
    }
}

#[test]
fn foreign_files_and_other_models_are_refused() {
    let reason = |bytes: &[u8]| decode(bytes).expect_err("refused").reason.expect("a reason");
    assert!(reason(b"{\"layers\": []}").contains("--import"));
    assert!(reason(b"").contains("ends after 0"));
    let mut newer = encode(&content());
    newer[MAGIC.len()] = 2;
    assert!(reason(&newer).contains("format is 2"));
    assert!(check_model(&everything(), Some("ef")).is_err_and(|e| e.what.contains("another model")));
    assert!(check_model(&everything(), Some("ab")).is_ok());
}

#[test]
fn an_unfinished_profile_is_not_loaded_as_a_finished_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a.sens");
    write(&path, &content()).expect("written");
    assert!(load(&path, Some("ab")).is_err_and(|e| e.what.contains("not finished")));
    assert_eq!(read(&path, Some("ab")), Ok(content()));
    save(&path, &everything()).expect("written");
    assert_eq!(load(&path, None), Ok(everything()));
}
