//! Compiles layers alone and runs them, in passes over all of them and over whole networks.
use super::{
    facts::LayerFacts,
    measure::Options,
    runner::{self, PASSES, Quiet, Runner},
    variant::{self, Alone},
};
use crate::{
    Code, Error, Result,
    artifact::{
        CName,
        bundle::{self, Request},
        write_atomic,
    },
    codegen::{self, Target},
    driver::{
        model::Quantized,
        progress::{self, Progress},
    },
};
use goshawk_ir::{NodeId, TensorType};
use goshawk_passes::bits::{BitPlan, LayerBits};
use goshawk_runtime::Library;
use std::{path::Path, time::Duration};

/// A variant: key, widths, the network lowered to them, the layer's node and facts.
pub(super) type Variant<'a> = (String, LayerBits, &'a Quantized, NodeId, &'a LayerFacts);

/// Runs of each whole network in a pass, at least.
const WHOLES: usize = 15;

/// Compiles what is measured, and measures it.
pub(super) struct Bench<'a> {
    target: &'a Target,
    dir: &'a Path,
    options: &'a Options,
    libraries: usize,
}

impl<'a> Bench<'a> {
    pub(super) fn new(target: &'a Target, dir: &'a Path, options: &'a Options) -> Self {
        Self { target, dir, options, libraries: 0 }
    }

    /// Loads a shared library.
    pub(super) fn open(&mut self, bytes: &[u8]) -> Result<Library> {
        self.libraries += 1;
        let path = self.dir.join(format!("lib{}.so", self.libraries));
        write_atomic(&path, bytes)?;
        Library::open(&path).map_err(|e| Error::new(Code::RUN, e.to_string()))
    }

    fn compile(&mut self, alone: &Alone) -> Result<Library> {
        let bundle = bundle::compile(Request {
            graph: &alone.graph,
            levels: std::slice::from_ref(self.target),
            prefix: CName::from_model_name("layer"),
            model_sha256: String::new(),
            listing: false,
            tuning: codegen::Tuning::default(),
        })?;
        let bytes = bundle.shared("liblayer.so", None)?;
        self.open(&bytes)
    }

    /// Compiles the variants of a shape.
    pub(super) fn group(&mut self, group: &[Variant<'_>]) -> Result<Group> {
        let mut libraries = Vec::new();
        let mut preludes: Vec<(TensorType, usize)> = Vec::new();
        let mut members = Vec::new();
        for (_, _, quantized, id, _) in group {
            let (alone, made) = variant::layer(&quantized.graph, *id)?;
            libraries.push(self.compile(&alone)?);
            let own = libraries.len() - 1;
            let prelude = match made {
                None => None,
                Some(ty) => Some(match preludes.iter().find(|(t, _)| *t == ty) {
                    Some((_, at)) => *at,
                    None => {
                        libraries.push(self.compile(&variant::prelude(&ty)?)?);
                        preludes.push((ty, libraries.len() - 1));
                        libraries.len() - 1
                    }
                }),
            };
            members.push((own, prelude));
        }
        Ok(Group { libraries, members })
    }

    /// Several passes over all groups and whole networks.
    pub(super) fn measure(
        &self,
        groups: &[Group],
        wholes: &[(String, BitPlan, Library)],
        progress: &dyn Progress,
    ) -> Result<Times> {
        let mut runners: Vec<Vec<Runner<'_>>> =
            groups.iter().map(|g| g.libraries.iter().map(Runner::new).collect()).collect();
        runners.push(wholes.iter().map(|(.., library)| Runner::new(library)).collect());
        runners.iter_mut().flatten().try_for_each(|r| (0..3).try_for_each(|_| r.run()))?;
        let (mut warm, mut cold) =
            (vec![Quiet::default(); runners.len()], vec![Quiet::default(); groups.len()]);
        let mut spreads: Vec<Vec<f64>> = runners.iter().map(|r| vec![f64::INFINITY; r.len()]).collect();
        let mut walk = Walk(vec![0; self.options.cold_bytes]);
        let rounds = self.options.runs.div_ceil(PASSES).max(3);
        progress.begin("measuring", PASSES * runners.len());
        for _ in 0..PASSES {
            for (i, runners) in runners.iter_mut().enumerate() {
                progress::check(progress)?;
                // The run before the measured one loads weights and code again, whatever the other variants evicted.
                // What is fitted to the networks is no better than their times.
                let rounds = if i < groups.len() { rounds } else { rounds.max(WHOLES) };
                let times = runner::sample(runners, rounds, &mut |r, _| r.run())?;
                warm[i].add(&times);
                spreads[i].iter_mut().zip(&times).for_each(|(s, t)| *s = s.min(spread(t)));
                if let Some(cold) = cold.get_mut(i) {
                    cold.add(&runner::sample(runners, rounds.div_ceil(4), &mut |_, round| {
                        walk.go(round as u8);
                        Ok(())
                    })?);
                }
                progress.step();
            }
        }
        progress.end();
        let of = |(i, group): (usize, &Group)| {
            let variant = |(own, prelude): &(usize, Option<usize>)| {
                let alone = |times: &Quiet| {
                    let times = times.microseconds();
                    // Differences below the clock's resolution are not zero cost.
                    (times[*own] - prelude.map_or(0.0, |p| times[p])).max(0.05)
                };
                (alone(&warm[i]), alone(&cold[i]), spreads[i][*own])
            };
            group.members.iter().map(variant).collect()
        };
        Ok(Times {
            groups: groups.iter().enumerate().map(of).collect(),
            wholes: warm.last().map(|w| w.microseconds().to_vec()).unwrap_or_default(),
        })
    }
}

/// The variants of a shape, compiled.
pub(super) struct Group {
    libraries: Vec<Library>,
    /// Of each variant its library and that of the requantization in front of it.
    members: Vec<(usize, Option<usize>)>,
}

/// What was measured, in microseconds.
pub(super) struct Times {
    /// For each group (warm, cold, spread) of each variant.
    pub groups: Vec<Vec<(f64, f64, f64)>>,
    /// Of each whole network.
    pub wholes: Vec<f64>,
}

/// Memory to walk through.
struct Walk(Vec<u8>);

impl Walk {
    fn go(&mut self, round: u8) {
        // One write for each cache line.
        self.0.iter_mut().step_by(64).for_each(|b| *b = b.wrapping_add(round | 1));
        std::hint::black_box(&self.0);
    }
}

/// Half the distance of the quartiles over the median.
fn spread(times: &[Duration]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = |percent: usize| sorted.get(sorted.len() * percent / 100).map_or(0.0, Duration::as_secs_f64);
    (at(75) - at(25)) / 2.0 / at(50).max(1e-12)
}
