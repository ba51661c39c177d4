//! The messages of a profile file, and their translation from and to [`Profile`] and [`State`].
//!
//! Own structs with prost's derive, as in [`crate::import::proto`]. Field numbers are for ever: new fields take new
//! numbers, and a reader skips what it does not know. What changes the meaning of an old field raises
//! [`goshawk_passes::sensitivity::profile::VERSION`].
use super::state::State;
use goshawk_passes::sensitivity::{
    Curvature, Eigenvalue, Estimate, LayerProfile, Measured, Origin, Profile, Spectrum,
    estimate::Moments,
    sums::{Cell, Sums, Traces},
};
use prost::Message;

/// A file's content.
#[derive(Clone, PartialEq, Message)]
pub struct FileMsg {
    /// The result so far.
    #[prost(message, optional, tag = "1")]
    pub profile: Option<ProfileMsg>,
    /// What an unfinished run needs to go on; absent when it is done.
    #[prost(message, optional, tag = "2")]
    pub state: Option<StateMsg>,
}

/// [`Profile`].
#[derive(Clone, PartialEq, Message)]
pub struct ProfileMsg {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    model_sha256: String,
    #[prost(message, optional, tag = "3")]
    origin: Option<OriginMsg>,
    #[prost(message, repeated, tag = "4")]
    layers: Vec<LayerMsg>,
    #[prost(btree_map = "string, message", tag = "5")]
    spectra: std::collections::BTreeMap<String, SpectrumMsg>,
    #[prost(message, optional, tag = "6")]
    baseline: Option<MeasuredMsg>,
}

#[derive(Clone, PartialEq, Message)]
struct OriginMsg {
    #[prost(string, tag = "1")]
    tool: String,
    #[prost(string, tag = "2")]
    data_sha256: String,
    #[prost(uint64, tag = "3")]
    samples: u64,
    #[prost(string, tag = "4")]
    loss: String,
    #[prost(string, tag = "5")]
    calibration: String,
    #[prost(uint64, tag = "6")]
    seed: u64,
    #[prost(string, tag = "7")]
    settings: String,
}

#[derive(Clone, PartialEq, Message)]
struct LayerMsg {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint64, tag = "2")]
    parameters: u64,
    #[prost(uint64, tag = "3")]
    macs: u64,
    #[prost(string, tag = "4")]
    input: String,
    #[prost(uint64, tag = "5")]
    input_elements: u64,
    #[prost(string, optional, tag = "6")]
    curved_by: Option<String>,
    #[prost(message, optional, tag = "7")]
    weights: Option<CurvatureMsg>,
    #[prost(message, optional, tag = "8")]
    activations: Option<CurvatureMsg>,
    #[prost(message, repeated, tag = "9")]
    measured: Vec<MeasuredMsg>,
}

#[derive(Clone, PartialEq, Message)]
struct CurvatureMsg {
    #[prost(message, optional, tag = "1")]
    hutchinson: Option<EstimateMsg>,
    #[prost(message, optional, tag = "2")]
    gauss_newton: Option<EstimateMsg>,
    #[prost(message, optional, tag = "3")]
    fisher: Option<EstimateMsg>,
    #[prost(double, repeated, tag = "4")]
    channel_means: Vec<f64>,
    #[prost(double, repeated, tag = "5")]
    channel_std_errors: Vec<f64>,
    #[prost(uint64, tag = "6")]
    channel_samples: u64,
    #[prost(double, optional, tag = "7")]
    data_error: Option<f64>,
    #[prost(message, repeated, tag = "8")]
    eigenvalues: Vec<EigenvalueMsg>,
    #[prost(btree_map = "uint32, double", tag = "9")]
    errors: std::collections::BTreeMap<u32, f64>,
    #[prost(btree_map = "uint32, message", tag = "10")]
    channel_errors: std::collections::BTreeMap<u32, DoublesMsg>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct EstimateMsg {
    #[prost(double, tag = "1")]
    mean: f64,
    #[prost(double, tag = "2")]
    std_error: f64,
    #[prost(uint64, tag = "3")]
    samples: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct EigenvalueMsg {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(double, tag = "2")]
    residual: f64,
    #[prost(uint64, tag = "3")]
    products: u64,
}

#[derive(Clone, PartialEq, Message)]
struct MeasuredMsg {
    #[prost(uint32, tag = "1")]
    weight_bits: u32,
    #[prost(uint32, tag = "2")]
    activation_bits: u32,
    #[prost(message, optional, tag = "3")]
    loss: Option<EstimateMsg>,
    #[prost(message, optional, tag = "4")]
    divergence: Option<EstimateMsg>,
    #[prost(double, optional, tag = "5")]
    accuracy: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct DoublesMsg {
    #[prost(double, repeated, tag = "1")]
    values: Vec<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct SpectrumMsg {
    #[prost(uint64, tag = "1")]
    dimension: u64,
    #[prost(uint64, tag = "2")]
    steps: u64,
    /// Node, weight, node, weight …
    #[prost(message, repeated, tag = "3")]
    runs: Vec<DoublesMsg>,
}

/// [`State`].
#[derive(Clone, PartialEq, Message)]
pub struct StateMsg {
    #[prost(string, repeated, tag = "2")]
    done: Vec<String>,
    #[prost(btree_map = "string, message", tag = "3")]
    traces: std::collections::BTreeMap<String, TracesMsg>,
}

#[derive(Clone, PartialEq, Message)]
struct TracesMsg {
    #[prost(uint64, repeated, tag = "1")]
    blocks: Vec<u64>,
    #[prost(uint64, tag = "2")]
    block: u64,
    #[prost(uint64, tag = "3")]
    batches: u64,
    #[prost(uint64, tag = "4")]
    rounds: u64,
    #[prost(message, repeated, tag = "5")]
    finished: Vec<SumsMsg>,
    #[prost(message, repeated, tag = "6")]
    current: Vec<SumsMsg>,
}

#[derive(Clone, PartialEq, Message)]
struct SumsMsg {
    /// Mean, variance of the total; then of every channel.
    #[prost(double, repeated, tag = "1")]
    cells: Vec<f64>,
    #[prost(uint64, tag = "2")]
    samples: u64,
    #[prost(double, tag = "3")]
    sample_mean: f64,
    #[prost(double, tag = "4")]
    sample_m2: f64,
}

impl From<Estimate> for EstimateMsg {
    fn from(e: Estimate) -> Self {
        Self { mean: e.mean, std_error: e.std_error, samples: e.samples }
    }
}

impl From<EstimateMsg> for Estimate {
    fn from(e: EstimateMsg) -> Self {
        Self { mean: e.mean, std_error: e.std_error, samples: e.samples }
    }
}

fn curvature_out(c: &Curvature) -> CurvatureMsg {
    CurvatureMsg {
        hutchinson: c.hutchinson.map(Into::into),
        gauss_newton: c.gauss_newton.map(Into::into),
        fisher: c.fisher.map(Into::into),
        channel_means: c.channels.iter().map(|e| e.mean).collect(),
        channel_std_errors: c.channels.iter().map(|e| e.std_error).collect(),
        channel_samples: c.channels.first().map_or(0, |e| e.samples),
        data_error: c.data_error,
        eigenvalues: c
            .eigenvalues
            .iter()
            .map(|e| EigenvalueMsg { value: e.value, residual: e.residual, products: e.products })
            .collect(),
        errors: c.errors.iter().map(|(b, e)| (u32::from(*b), *e)).collect(),
        channel_errors: c
            .channel_errors
            .iter()
            .map(|(b, e)| (u32::from(*b), DoublesMsg { values: e.clone() }))
            .collect(),
    }
}

fn width(bits: u32) -> Result<u8, String> {
    u8::try_from(bits).map_err(|_| format!("a width of {bits} bits"))
}

fn curvature_in(c: CurvatureMsg) -> Result<Curvature, String> {
    if c.channel_means.len() != c.channel_std_errors.len() {
        return Err("channels without errors".into());
    }
    let estimate = |(mean, std_error): (f64, f64)| Estimate { mean, std_error, samples: c.channel_samples };
    Ok(Curvature {
        hutchinson: c.hutchinson.map(Into::into),
        gauss_newton: c.gauss_newton.map(Into::into),
        fisher: c.fisher.map(Into::into),
        channels: c.channel_means.into_iter().zip(c.channel_std_errors).map(estimate).collect(),
        data_error: c.data_error,
        eigenvalues: c
            .eigenvalues
            .into_iter()
            .map(|e| Eigenvalue { value: e.value, residual: e.residual, products: e.products })
            .collect(),
        errors: c.errors.into_iter().map(|(b, e)| Ok((width(b)?, e))).collect::<Result<_, String>>()?,
        channel_errors: c
            .channel_errors
            .into_iter()
            .map(|(b, e)| Ok((width(b)?, e.values)))
            .collect::<Result<_, String>>()?,
    })
}

fn measured_out((w, a): (u8, u8), m: &Measured) -> MeasuredMsg {
    MeasuredMsg {
        weight_bits: w.into(),
        activation_bits: a.into(),
        loss: Some(m.loss.into()),
        divergence: Some(m.divergence.into()),
        accuracy: m.accuracy,
    }
}

fn measured_in(m: &MeasuredMsg) -> Result<((u8, u8), Measured), String> {
    let measured = Measured {
        loss: m.loss.map(Into::into).unwrap_or_default(),
        divergence: m.divergence.map(Into::into).unwrap_or_default(),
        accuracy: m.accuracy,
    };
    Ok(((width(m.weight_bits)?, width(m.activation_bits)?), measured))
}

/// A profile's message.
pub fn profile_out(p: &Profile) -> ProfileMsg {
    let layer = |l: &LayerProfile| LayerMsg {
        name: l.name.clone(),
        parameters: l.parameters,
        macs: l.macs,
        input: l.input.clone(),
        input_elements: l.input_elements,
        curved_by: l.curved_by.clone(),
        weights: Some(curvature_out(&l.weights)),
        activations: Some(curvature_out(&l.activations)),
        measured: l.measured.iter().map(|(bits, m)| measured_out(*bits, m)).collect(),
    };
    let spectrum = |s: &Spectrum| SpectrumMsg {
        dimension: s.dimension,
        steps: s.steps,
        runs: s
            .runs
            .iter()
            .map(|r| DoublesMsg { values: r.iter().flat_map(|(x, w)| [*x, *w]).collect() })
            .collect(),
    };
    ProfileMsg {
        version: p.version,
        model_sha256: p.model_sha256.clone(),
        origin: Some(OriginMsg {
            tool: p.origin.tool.clone(),
            data_sha256: p.origin.data_sha256.clone(),
            samples: p.origin.samples,
            loss: p.origin.loss.clone(),
            calibration: p.origin.calibration.clone(),
            seed: p.origin.seed,
            settings: p.origin.settings.clone(),
        }),
        layers: p.layers.iter().map(layer).collect(),
        spectra: p.spectra.iter().map(|(n, s)| (n.clone(), spectrum(s))).collect(),
        baseline: p.baseline.map(|b| measured_out((0, 0), &b)),
    }
}

/// The profile of a message.
///
/// # Errors
/// What does not fit together.
pub fn profile_in(p: ProfileMsg) -> Result<Profile, String> {
    let mut layers = Vec::new();
    for l in p.layers {
        let name = l.name.clone();
        let read = || -> Result<LayerProfile, String> {
            Ok(LayerProfile {
                name: l.name,
                parameters: l.parameters,
                macs: l.macs,
                input: l.input,
                input_elements: l.input_elements,
                curved_by: l.curved_by,
                weights: curvature_in(l.weights.unwrap_or_default())?,
                activations: curvature_in(l.activations.unwrap_or_default())?,
                measured: l.measured.iter().map(measured_in).collect::<Result<_, _>>()?,
            })
        };
        layers.push(read().map_err(|e| format!("layer {name}: {e}"))?);
    }
    let spectrum = |s: SpectrumMsg| Spectrum {
        dimension: s.dimension,
        steps: s.steps,
        runs: s
            .runs
            .into_iter()
            .map(|r| r.values.as_chunks().0.iter().map(|[x, w]| (*x, *w)).collect())
            .collect(),
    };
    let origin = p.origin.unwrap_or_default();
    Ok(Profile {
        version: p.version,
        model_sha256: p.model_sha256,
        origin: Origin {
            tool: origin.tool,
            data_sha256: origin.data_sha256,
            samples: origin.samples,
            loss: origin.loss,
            calibration: origin.calibration,
            seed: origin.seed,
            settings: origin.settings,
        },
        layers,
        spectra: p.spectra.into_iter().map(|(n, s)| (n, spectrum(s))).collect(),
        baseline: p.baseline.as_ref().map(measured_in).transpose()?.map(|(_, m)| m),
    })
}

fn sums_out(s: &Sums) -> SumsMsg {
    SumsMsg {
        cells: std::iter::once(&s.total).chain(&s.channels).flat_map(|c| [c.mean, c.variance]).collect(),
        samples: s.samples.count,
        sample_mean: s.samples.mean,
        sample_m2: s.samples.m2,
    }
}

fn sums_in(s: &SumsMsg) -> Sums {
    let mut cells =
        s.cells.as_chunks().0.iter().map(|[mean, variance]| Cell { mean: *mean, variance: *variance });
    Sums {
        total: cells.next().unwrap_or_default(),
        channels: cells.collect(),
        samples: Moments { count: s.samples, mean: s.sample_mean, m2: s.sample_m2 },
    }
}

/// A state's message.
pub fn state_out(s: &State) -> StateMsg {
    let traces = |t: &Traces| TracesMsg {
        blocks: t.blocks.clone(),
        block: t.block,
        batches: t.batches,
        rounds: t.rounds,
        finished: t.finished.iter().map(sums_out).collect(),
        current: t.current.iter().map(sums_out).collect(),
    };
    StateMsg {
        done: s.done.iter().cloned().collect(),
        traces: s.traces.iter().map(|(n, t)| (n.clone(), traces(t))).collect(),
    }
}

/// The state of a message.
///
/// # Errors
/// What does not fit together.
pub fn state_in(s: StateMsg) -> Result<State, String> {
    let mut traces = std::collections::BTreeMap::new();
    for (name, t) in s.traces {
        let (finished, current): (Vec<_>, Vec<_>) =
            (t.finished.iter().map(sums_in).collect(), t.current.iter().map(sums_in).collect());
        let lengths = |sums: &[Sums]| sums.iter().map(|s| s.channels.len()).collect::<Vec<_>>();
        if lengths(&finished) != lengths(&current) || t.blocks.len() != finished.len() {
            return Err(format!("the sums of {name} do not fit together"));
        }
        let (blocks, block, batches, rounds) = (t.blocks, t.block, t.batches, t.rounds);
        traces.insert(name, Traces { blocks, block, batches, finished, current, rounds });
    }
    Ok(State { done: s.done.into_iter().collect(), traces })
}
