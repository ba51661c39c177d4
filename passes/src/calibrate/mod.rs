//! Calibration: the range of every value of a prepared network, chosen from what representative samples make of it.
//!
//! A [`Calibrator`] watches the float interpreter; each [`Method`] is a file of its own. Calibrators of consecutive
//! samples merge, and the result does not depend on where the samples were divided.
//!
//! Ranges belong to nodes *after* fusing: the range of a convolution with a fused Relu6 is that of the clamped result,
//! and never exceeds the clamp. A range need not contain 0; quantization widens it where it must.
mod histogram;
mod kl;
mod method;
mod min_max;
mod moments;
mod moving_average;
mod mse;
mod percentile;
mod ranges;

pub use method::Method;
pub use moments::Moment;
pub use ranges::Ranges;

use goshawk_ir::{
    FloatGraph, FloatOp, NodeId, Result, Tensor, bail, ensure, interp, op::float::Clamp, op::float::UnaryFn,
};
use histogram::Histogram;
use moments::Collector;
use std::collections::BTreeMap;

/// What was seen of one value.
#[derive(Clone, Debug)]
struct Statistics {
    name: String,
    clamp: Option<Clamp>,
    extrema: (f32, f32),
    /// Extrema of every sample in order, for moving averages.
    samples: Vec<(f32, f32)>,
    /// For the methods that need it.
    histogram: Option<Histogram>,
}

/// Collects statistics of every value of one graph.
#[derive(Clone, Debug)]
pub struct Calibrator {
    method: Method,
    values: BTreeMap<NodeId, Statistics>,
    moments: Collector,
}

impl Calibrator {
    /// A calibrator for a prepared graph. Constants and values that nothing reads are left out.
    pub fn new(g: &FloatGraph, method: Method) -> Self {
        let watched = |id: &NodeId| {
            let is_input = matches!(g.node(*id).op, FloatOp::Input);
            is_input || (g.constant(*id).is_none() && g.use_count(*id) > 0)
        };
        let statistics = |id: NodeId| Statistics {
            name: g.node(id).name.clone(),
            clamp: clamp_of(&g.node(id).op),
            extrema: min_max::EMPTY,
            samples: Vec::new(),
            histogram: method.needs_histogram().then(Histogram::new),
        };
        let values = g.ids().filter(watched).map(|id| (id, statistics(id))).collect();
        Self { method, values, moments: Collector::new(g) }
    }

    /// How ranges are chosen.
    pub const fn method(&self) -> Method {
        self.method
    }

    /// Takes in what one sample makes of one value. Values that are not watched are ignored.
    ///
    /// # Errors
    /// The tensor is not f32, or has NaN or an infinity; the error names the node.
    pub fn observe(&mut self, id: NodeId, value: &Tensor) -> Result<()> {
        let Some(statistics) = self.values.get_mut(&id) else { return Ok(()) };
        let values = value.as_f32().map_err(|e| e.at(statistics.name.clone()))?;
        statistics.take(values, self.method).map_err(|e| e.at(statistics.name.clone()))?;
        self.moments.observe(id, value)
    }

    /// Runs the network on one sample (one tensor for each input) and takes in every value.
    ///
    /// # Errors
    /// The inputs do not fit, the graph is not the one calibrated, or a value has NaN or an infinity; the error names
    /// the node.
    pub fn observe_batch(&mut self, g: &FloatGraph, inputs: &[Tensor]) -> Result<()> {
        for (id, statistics) in &self.values {
            let same = g.contains(*id) && g.node(*id).name == statistics.name;
            ensure!(
                same,
                "the graph is not the one that is calibrated: {} is not where it was",
                statistics.name
            );
        }
        let mut problem = Ok(());
        interp::float::run_with(g, inputs, &mut |id, value| {
            if problem.is_ok() {
                problem = self.observe(id, value);
            }
        })?;
        problem
    }

    /// Adds what another calibrator of the same graph has seen: the samples that follow this one's. Only moving
    /// averages depend on the order.
    ///
    /// # Errors
    /// The other one watches another graph or uses another method.
    pub fn merge(&mut self, other: Self) -> Result<()> {
        ensure!(
            self.method == other.method,
            "calibrations by {} and {} do not merge",
            self.method,
            other.method
        );
        let names = |c: &Self| c.values.values().map(|s| s.name.clone()).collect::<Vec<_>>();
        ensure!(names(self) == names(&other), "calibrations of different graphs do not merge");
        for (statistics, theirs) in self.values.values_mut().zip(other.values.into_values()) {
            statistics.merge(theirs);
        }
        self.moments.merge(other.moments);
        Ok(())
    }

    /// Chooses the ranges; `bits` gives the width to which the node of that name will be quantized, which the methods
    /// that weigh rounding against clipping need. At 16 bits nothing is gained by clipping and those take the extrema.
    ///
    /// # Errors
    /// Nothing was observed, the percentile is outside (50, 100], or a width is outside 2..=16.
    pub fn finish(&self, bits: &dyn Fn(&str) -> u8) -> Result<Ranges> {
        self.method.check()?;
        let mut map = BTreeMap::new();
        for statistics in self.values.values() {
            let name = &statistics.name;
            let range = statistics.range(self.method, bits(name)).map_err(|e| e.at(name.clone()))?;
            map.insert(name.clone(), range);
        }
        Ok(Ranges { map, moments: self.moments.finish() })
    }
}

impl Statistics {
    fn take(&mut self, values: &[f32], method: Method) -> Result<()> {
        let mut extrema = min_max::EMPTY;
        for (i, v) in values.iter().enumerate() {
            ensure!(
                v.is_finite(),
                "element {i} is {v} in a calibration sample: a range cannot be chosen; check that the data is preprocessed \
                 as in training, and that the float model gives finite values on it"
            );
            extrema = min_max::join(extrema, (*v, *v));
        }
        self.extrema = min_max::join(self.extrema, extrema);
        if method == Method::MovingAverage {
            self.samples.push(extrema);
        }
        if let Some(histogram) = &mut self.histogram {
            histogram.add(values);
        }
        Ok(())
    }

    fn merge(&mut self, other: Self) {
        self.extrema = min_max::join(self.extrema, other.extrema);
        self.samples.extend(other.samples);
        if let (Some(mine), Some(theirs)) = (&mut self.histogram, other.histogram) {
            mine.merge(theirs);
        }
    }

    fn range(&self, method: Method, bits: u8) -> Result<(f32, f32)> {
        ensure!(
            self.extrema.0 <= self.extrema.1,
            "nothing was observed here: calibrate with at least one sample of representative data"
        );
        ensure!((2..=16).contains(&bits), "a width of {bits} bits is outside 2 to 16");
        let (lo, hi) = match (method, &self.histogram) {
            (Method::MovingAverage, _) => moving_average::range(&self.samples).unwrap_or(self.extrema),
            (Method::Percentile(p), Some(h)) => percentile::range(h, p.into(), self.extrema),
            (Method::Mse, Some(h)) if bits <= 8 => mse::range(h, bits, self.extrema),
            (Method::Kl, Some(h)) if bits <= 8 => kl::range(h, bits, self.extrema),
            (Method::MinMax | Method::Mse | Method::Kl, _) => self.extrema,
            (Method::Percentile(_), None) => bail!("the histogram is missing"),
        };
        Ok(self.clamp.map_or((lo, hi), |c| (c.apply(lo), c.apply(hi))))
    }
}

/// The bounds that the operator itself puts on its result.
fn clamp_of(op: &FloatOp) -> Option<Clamp> {
    match op {
        FloatOp::Conv(a) => a.clamp,
        FloatOp::Linear(a) => a.clamp,
        FloatOp::Binary(a) => a.clamp,
        FloatOp::Unary(a) => match a.chain.last() {
            Some(UnaryFn::Clip(c)) => Some(*c),
            _ => None,
        },
        _ => None,
    }
}
