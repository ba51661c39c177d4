//! Profiles as JSON, for other programs, and from them (docs/sensitivity.md has the schema with examples).
//!
//! Written files hold every field. Read files may hold as little as layer names and traces, so that the figures of
//! PyHessian (`"trace_sum"`, the trace itself) or NNCF (`"trace"`, already divided by the number of weights) come in by a
//! few lines of script.
use crate::{Code, Error, Result};
use goshawk_passes::{
    bits::LayerBits,
    sensitivity::{
        Curvature, Eigenvalue, Estimate, FLOAT, LayerProfile, Measured, Origin, Profile, Spectrum,
        profile::VERSION,
    },
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// First field of every file.
const FORMAT: &str = "goshawk sensitivity 1";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileJson {
    format: String,
    #[serde(default)]
    model_sha256: String,
    #[serde(default)]
    origin: OriginJson,
    layers: Vec<LayerJson>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    spectra: BTreeMap<String, SpectrumJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    baseline: Option<MeasuredJson>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct OriginJson {
    tool: String,
    data_sha256: String,
    samples: u64,
    loss: String,
    calibration: String,
    seed: u64,
    settings: String,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LayerJson {
    name: String,
    parameters: u64,
    macs: u64,
    input: String,
    input_elements: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    curved_by: Option<String>,
    weights: CurvatureJson,
    activations: CurvatureJson,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    measured: BTreeMap<String, MeasuredJson>,
    /// Average Hessian trace of the weights: short for `weights.hutchinson`. Only read.
    #[serde(skip_serializing)]
    trace: Option<EstimateJson>,
    /// The trace itself; divided by `parameters`. Only read.
    #[serde(skip_serializing)]
    trace_sum: Option<EstimateJson>,
    /// Largest eigenvalue: short for `weights.eigenvalues`. Only read.
    #[serde(skip_serializing)]
    eigenvalue: Option<f64>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CurvatureJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    hutchinson: Option<EstimateJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gauss_newton: Option<EstimateJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fisher: Option<EstimateJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    channels: Vec<EstimateJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_error: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    eigenvalues: Vec<EigenvalueJson>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    errors: BTreeMap<u8, f64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    channel_errors: BTreeMap<u8, Vec<f64>>,
}

/// A bare number, or a number with its error.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(untagged)]
enum EstimateJson {
    Number(f64),
    Estimate(FullEstimate),
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FullEstimate {
    mean: f64,
    #[serde(default)]
    std_error: f64,
    #[serde(default)]
    samples: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EigenvalueJson {
    value: f64,
    #[serde(default)]
    residual: f64,
    #[serde(default)]
    products: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MeasuredJson {
    loss: EstimateJson,
    divergence: EstimateJson,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accuracy: Option<f64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpectrumJson {
    dimension: u64,
    steps: u64,
    runs: Vec<Vec<(f64, f64)>>,
}

impl From<Estimate> for EstimateJson {
    fn from(e: Estimate) -> Self {
        Self::Estimate(FullEstimate { mean: e.mean, std_error: e.std_error, samples: e.samples })
    }
}

impl From<EstimateJson> for Estimate {
    fn from(e: EstimateJson) -> Self {
        match e {
            EstimateJson::Number(mean) => Self::exact(mean),
            EstimateJson::Estimate(FullEstimate { mean, std_error, samples }) => {
                Self { mean, std_error, samples }
            }
        }
    }
}

impl From<&Curvature> for CurvatureJson {
    fn from(c: &Curvature) -> Self {
        let eigenvalue =
            |e: &Eigenvalue| EigenvalueJson { value: e.value, residual: e.residual, products: e.products };
        Self {
            hutchinson: c.hutchinson.map(Into::into),
            gauss_newton: c.gauss_newton.map(Into::into),
            fisher: c.fisher.map(Into::into),
            channels: c.channels.iter().copied().map(Into::into).collect(),
            data_error: c.data_error,
            eigenvalues: c.eigenvalues.iter().map(eigenvalue).collect(),
            errors: c.errors.clone(),
            channel_errors: c.channel_errors.clone(),
        }
    }
}

impl From<CurvatureJson> for Curvature {
    fn from(c: CurvatureJson) -> Self {
        let eigenvalue =
            |e: EigenvalueJson| Eigenvalue { value: e.value, residual: e.residual, products: e.products };
        Self {
            hutchinson: c.hutchinson.map(Into::into),
            gauss_newton: c.gauss_newton.map(Into::into),
            fisher: c.fisher.map(Into::into),
            channels: c.channels.into_iter().map(Into::into).collect(),
            data_error: c.data_error,
            eigenvalues: c.eigenvalues.into_iter().map(eigenvalue).collect(),
            errors: c.errors,
            channel_errors: c.channel_errors,
        }
    }
}

impl From<&Measured> for MeasuredJson {
    fn from(m: &Measured) -> Self {
        Self { loss: m.loss.into(), divergence: m.divergence.into(), accuracy: m.accuracy }
    }
}

impl From<MeasuredJson> for Measured {
    fn from(m: MeasuredJson) -> Self {
        Self { loss: m.loss.into(), divergence: m.divergence.into(), accuracy: m.accuracy }
    }
}

/// `w4a32`; [`FLOAT`] is 32.
pub fn widths(text: &str) -> std::result::Result<(u8, u8), String> {
    let bad = || {
        format!("`{text}` is not a pair of widths: write w4a32, w32a4, w4a4 …, 32 for a side left in float")
    };
    let (w, a) = text.strip_prefix('w').and_then(|t| t.split_once('a')).ok_or_else(bad)?;
    let side = |t: &str| match t.parse::<u8>() {
        Ok(b) if b == FLOAT || LayerBits::parse(&format!("w{b}a8")).is_ok() => Ok(b),
        _ => Err(bad()),
    };
    Ok((side(w)?, side(a)?))
}

/// The JSON text of a profile.
///
/// # Errors
/// [`Code::DATA`] where a number is not finite: JSON has no such numbers.
pub fn print(profile: &Profile) -> Result<String> {
    let layer = |l: &LayerProfile| LayerJson {
        name: l.name.clone(),
        parameters: l.parameters,
        macs: l.macs,
        input: l.input.clone(),
        input_elements: l.input_elements,
        curved_by: l.curved_by.clone(),
        weights: (&l.weights).into(),
        activations: (&l.activations).into(),
        measured: l.measured.iter().map(|((w, a), m)| (format!("w{w}a{a}"), m.into())).collect(),
        ..LayerJson::default()
    };
    let o = &profile.origin;
    let json = ProfileJson {
        format: FORMAT.to_owned(),
        model_sha256: profile.model_sha256.clone(),
        origin: OriginJson {
            tool: o.tool.clone(),
            data_sha256: o.data_sha256.clone(),
            samples: o.samples,
            loss: o.loss.clone(),
            calibration: o.calibration.clone(),
            seed: o.seed,
            settings: o.settings.clone(),
        },
        layers: profile.layers.iter().map(layer).collect(),
        spectra: profile
            .spectra
            .iter()
            .map(|(n, s)| {
                let s = SpectrumJson { dimension: s.dimension, steps: s.steps, runs: s.runs.clone() };
                (n.clone(), s)
            })
            .collect(),
        baseline: profile.baseline.as_ref().map(Into::into),
    };
    let text = serde_json::to_string_pretty(&json).map_err(|e| Error::new(Code::DATA, e.to_string()))?;
    // serde_json writes infinite numbers as null, which would not read back.
    match text.contains(": null") {
        true => Err(Error::new(Code::DATA, "the profile has numbers that are not finite")),
        false => Ok(text + "\n"),
    }
}

/// Reads a profile from JSON.
///
/// # Errors
/// [`Code::DATA`] with line and reason.
pub fn parse(text: &str) -> Result<Profile> {
    let bad = |why: String| {
        Error::new(Code::DATA, "this is not a sensitivity profile in JSON").because(why).help(format!(
            "the least is {{\"format\": \"{FORMAT}\", \"layers\": [{{\"name\": \"conv1\", \"trace\": 0.1}}]}}; \
             docs/sensitivity.md has the schema"
        ))
    };
    let json: ProfileJson = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
    if json.format != FORMAT {
        return Err(bad(format!("its format is {:?}, not {FORMAT:?}", json.format)));
    }
    let mut layers: Vec<LayerProfile> = Vec::new();
    for l in json.layers {
        let name = l.name.clone();
        if name.is_empty() || layers.iter().any(|o| o.name == name) {
            return Err(bad(format!("layer {name:?} has no name, or one that another layer has")));
        }
        layers.push(layer(l).map_err(|e| bad(format!("layer {name:?}: {e}")))?);
    }
    let spectrum = |s: SpectrumJson| Spectrum { dimension: s.dimension, steps: s.steps, runs: s.runs };
    let o = json.origin;
    Ok(Profile {
        version: VERSION,
        model_sha256: json.model_sha256,
        origin: Origin {
            tool: if o.tool.is_empty() { "import".into() } else { o.tool },
            data_sha256: o.data_sha256,
            samples: o.samples,
            loss: o.loss,
            calibration: o.calibration,
            seed: o.seed,
            settings: o.settings,
        },
        layers,
        spectra: json.spectra.into_iter().map(|(n, s)| (n, spectrum(s))).collect(),
        baseline: json.baseline.map(Into::into),
    })
}

fn layer(l: LayerJson) -> std::result::Result<LayerProfile, String> {
    let mut weights: Curvature = l.weights.into();
    if let Some(trace) = l.trace {
        weights.hutchinson = Some(trace.into());
    }
    if let Some(sum) = l.trace_sum {
        if l.parameters == 0 {
            return Err("`trace_sum` needs `parameters`, the number of weights that it is divided by".into());
        }
        weights.hutchinson = Some(Estimate::from(sum).scaled(1.0 / l.parameters as f64));
    }
    if let Some(value) = l.eigenvalue {
        weights.eigenvalues = vec![Eigenvalue { value, ..Eigenvalue::default() }];
    }
    let measured = l.measured.into_iter().map(|(bits, m)| Ok((widths(&bits)?, m.into())));
    Ok(LayerProfile {
        name: l.name,
        parameters: l.parameters,
        macs: l.macs,
        input: l.input,
        input_elements: l.input_elements,
        curved_by: l.curved_by,
        weights,
        activations: l.activations.into(),
        measured: measured.collect::<std::result::Result<_, String>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::sensitivity::file::tests::everything;

    #[test]
    fn what_is_exported_imports_exactly() {
        let text = print(&everything()).expect("finite");
        assert_eq!(parse(&text), Ok(everything()));
    }

    #[test]
    fn names_and_traces_are_enough() {
        let text = r#"{"format": "goshawk sensitivity 1", "layers": [
            {"name": "a", "trace": 0.5, "eigenvalue": 3},
            {"name": "b", "parameters": 4, "trace_sum": {"mean": 8, "std_error": 2}}]}"#;
        let p = parse(text).expect("a profile");
        assert_eq!(p.layers[0].weight_trace(), Some(Estimate::exact(0.5)));
        assert_eq!(p.layers[0].weights.eigenvalues[0].value, 3.0);
        assert_eq!(p.layers[1].weight_trace().map(|e| (e.mean, e.std_error)), Some((2.0, 0.5)));
    }

    #[test]
    fn mistakes_are_named() {
        let reason = |layers: &str| {
            let text = format!("{{\"format\": \"{FORMAT}\", \"layers\": [{layers}]}}");
            parse(&text).expect_err("refused").reason.expect("a reason")
        };
        assert!(reason(r#"{"name": "a", "trase": 1}"#).contains("trase"));
        assert!(reason(r#"{"name": "a", "trace_sum": 1}"#).contains("parameters"));
        assert!(reason(r#"{"name": "a"}, {"name": "a"}"#).contains("another layer"));
        assert!(
            reason(r#"{"name": "a", "measured": {"w9a8": {"loss": 1, "divergence": 1}}}"#).contains("w9a8")
        );
        assert!(parse("{").expect_err("refused").reason.expect("a reason").contains("line 1"));
        let mut infinite = everything();
        infinite.layers[0].weights.data_error = Some(f64::INFINITY);
        assert!(print(&infinite).is_err());
    }

    #[test]
    fn pairs_of_widths() {
        assert_eq!(widths("w4a32"), Ok((4, 32)));
        assert!(widths("w1a8").is_err() && widths("w4").is_err() && widths("w33a4").is_err());
    }
}
