//! Tuning: every layer's tiles by measurement, kept in a file.
//!
//! The whole network is compiled once for each candidate (the static rule; every width of tiles, inside one row and over
//! several), with time stamps between its layers; the runs of all candidates are interleaved, and each shape gets the
//! candidate with the least time over all layers of that shape.
//! So a layer is measured between its neighbours, with the caches as it will find them. What is in the file is not
//! measured again: with a complete file the result depends on nothing but file and model.
use super::{
    layers,
    model::Quantized,
    progress::{self, Progress},
};
use crate::{
    Code, Error, Result, artifact,
    codegen::{self, JitModel, Options, Target, TileChoice, Tuning},
};
use goshawk_ir::Tensor;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// First field of every tuning file.
const FORMAT: &str = "goshawk tuning 2";
/// A candidate must be faster than the static rule by this factor, so that noise decides nothing.
const GAIN: f64 = 1.02;
/// Measured runs of each candidate.
const RUNS: usize = 30;

/// A tuning file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    format: String,
    /// Version of goshawk whose kernels were measured; another one measures again.
    version: String,
    /// Measurements by instruction set and shape.
    shapes: BTreeMap<String, Shape>,
}

/// What was found for a shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    /// Its tiles; nothing for those of the static rule.
    tiles: Option<TileChoice>,
    /// What was measured.
    measured: Vec<Measured>,
}

/// Time of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Measured {
    /// Tiles; nothing for those of the static rule.
    tiles: Option<TileChoice>,
    /// Microseconds, summed over the layers of that shape.
    us: f64,
}

impl Default for Cache {
    fn default() -> Self {
        Self { format: FORMAT.into(), version: env!("CARGO_PKG_VERSION").into(), shapes: BTreeMap::new() }
    }
}

impl Cache {
    /// Reads a file; an empty cache if there is none, or if another version of goshawk wrote it.
    ///
    /// # Errors
    /// [`Code::FILE`] where it cannot be read, [`Code::DATA`] where it is damaged.
    pub fn load(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(Error::file(path, "read", &e)),
        };
        Self::parse(&text).map_err(|e| e.in_file(path))
    }

    fn parse(text: &str) -> Result<Self> {
        let damaged = |why: String| {
            Error::new(Code::DATA, "the tuning file is damaged")
                .because(why)
                .help("delete it to measure again")
        };
        let cache: Self = serde_json::from_str(text).map_err(|e| damaged(e.to_string()))?;
        if cache.format != FORMAT {
            return Err(damaged(format!("its format is {:?}, not {FORMAT:?}", cache.format)));
        }
        let odd = |s: &Shape| s.tiles.is_some_and(|t| t.vectors == 0 || t.lines == 0);
        if let Some((name, _)) = cache.shapes.iter().find(|(_, s)| odd(s)) {
            return Err(damaged(format!("{name} has empty tiles")));
        }
        Ok(if cache.version == env!("CARGO_PKG_VERSION") { cache } else { Self::default() })
    }

    /// Writes the file.
    ///
    /// # Errors
    /// [`Code::FILE`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::new(Code::INTERNAL, "cannot write a tuning file").because(e.to_string()))?;
        artifact::write_atomic(path, (text + "\n").as_bytes())
    }

    /// The choices, for code generation.
    pub fn tuning(&self) -> Tuning {
        let choices = self.shapes.iter().filter_map(|(name, shape)| Some((name.clone(), shape.tiles?)));
        Tuning { choices: choices.collect(), ..Tuning::default() }
    }

    /// Measures the shapes of the network that the cache lacks; returns how many those were.
    ///
    /// # Errors
    /// [`Code::TARGET`] where there is something to measure and the target does not run here; [`Code::INTERRUPTED`].
    pub fn fill(&mut self, quantized: &Quantized, target: &Target, progress: &dyn Progress) -> Result<usize> {
        let options = Options::new(target.clone(), "tune");
        let plan = quantized.plan(&options)?;
        let missing: BTreeSet<String> = plan
            .layers
            .into_iter()
            .filter_map(|l| l.tiles)
            .filter(|shape| !self.shapes.contains_key(shape))
            .collect();
        if missing.is_empty() {
            return Ok(0);
        }
        if !target.runs_here() {
            return Err(Error::new(Code::TARGET, format!("cannot tune for {}", target.isa()))
                .because(format!("it does not run here, and the tuning file lacks {} shapes", missing.len()))
                .help("tune on a machine of that kind and bring the file"));
        }
        let candidates: Vec<Option<TileChoice>> =
            std::iter::once(None).chain(codegen::tile_choices(target).into_iter().map(Some)).collect();
        let models = candidates
            .iter()
            .map(|choice| {
                let tuning = Tuning::all(*choice);
                let options = Options { profile: true, tuning, ..Options::new(target.clone(), "tune") };
                quantized.jit(&options)
            })
            .collect::<Result<Vec<JitModel>>>()?;
        let times = measure(&models, &layers::noise(&quantized.graph)?, progress)?;
        for shape in &missing {
            let measured: Vec<Measured> = candidates
                .iter()
                .zip(models.iter().zip(&times))
                .map(|(tiles, (model, times))| Measured { tiles: *tiles, us: of_shape(model, times, shape) })
                .collect();
            self.shapes.insert(shape.clone(), Shape { tiles: choose(&measured), measured });
        }
        Ok(missing.len())
    }
}

/// The fastest candidate; the static rule, which is the first, unless another is clearly faster.
fn choose(measured: &[Measured]) -> Option<TileChoice> {
    let first = measured.first()?;
    let best = measured.iter().min_by(|a, b| a.us.total_cmp(&b.us))?;
    if best.us * GAIN < first.us { best.tiles } else { first.tiles }
}

/// Time of all layers of a shape.
fn of_shape(model: &JitModel, times: &[f64], shape: &str) -> f64 {
    let names: BTreeSet<&str> =
        model.layers.iter().filter(|l| l.tiles.as_deref() == Some(shape)).map(|l| l.name.as_str()).collect();
    let conversion = |op: &str| matches!(op, "quantize" | "dequantize" | "copy");
    let layers = model.steps.iter().zip(times);
    layers.filter(|(s, _)| names.contains(s.name.as_str()) && !conversion(&s.op)).map(|(_, us)| us).sum()
}

/// Least time of every step of every model in microseconds, in interleaved rounds.
fn measure(models: &[JitModel], inputs: &[Tensor], progress: &dyn Progress) -> Result<Vec<Vec<f64>>> {
    let mut sessions = models.iter().map(|m| m.session(inputs)).collect::<Result<Vec<_>>>()?;
    let mut best: Vec<Vec<u64>> = models.iter().map(|m| vec![u64::MAX; m.steps.len()]).collect();
    let clock = models.first().and_then(JitModel::ticks);
    let start = std::time::Instant::now();
    progress.begin("tuning", RUNS);
    for _ in 0..RUNS {
        progress::check(progress)?;
        for (session, best) in sessions.iter_mut().zip(&mut best) {
            // The first run brings the candidate's weights back into the caches.
            session.run()?;
            session.run()?;
            for (best, ticks) in best.iter_mut().zip(session.step_ticks()) {
                *best = (*best).min(ticks);
            }
        }
        progress.step();
    }
    progress.end();
    let passed = clock.zip(models.first().and_then(JitModel::ticks)).map_or(1, |(a, b)| b.saturating_sub(a));
    let us_of_tick = start.elapsed().as_secs_f64() * 1e6 / passed.max(1) as f64;
    Ok(best.into_iter().map(|all| all.into_iter().map(|t| t as f64 * us_of_tick).collect()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codegen::Algorithm;

    const TALL: TileChoice = TileChoice { vectors: 2, lines: 1, algorithm: Algorithm::Direct };

    fn measured(rule: f64, tall: f64) -> Vec<Measured> {
        vec![Measured { tiles: None, us: rule }, Measured { tiles: Some(TALL), us: tall }]
    }

    #[test]
    fn only_a_clear_gain_leaves_the_static_rule() {
        assert_eq!(choose(&measured(100.0, 99.5)), None);
        assert_eq!(choose(&measured(100.0, 90.0)), Some(TALL));
        assert_eq!(choose(&measured(90.0, 100.0)), None);
    }

    #[test]
    fn files_read_back_and_damaged_ones_are_refused() {
        let mut cache = Cache::default();
        let shape = Shape { tiles: Some(TALL), measured: measured(2.5, 1.5) };
        cache.shapes.insert("vnni512 conv".into(), shape);
        cache.shapes.insert("vnni512 other".into(), Shape { tiles: None, measured: measured(1.5, 2.5) });
        let text = serde_json::to_string(&cache).expect("text");
        assert_eq!(Cache::parse(&text), Ok(cache.clone()));
        assert_eq!(cache.tuning().choice("vnni512 conv"), Some(TALL));
        assert_eq!(cache.tuning().choice("vnni512 other"), None);
        let reason = |text: &str| Cache::parse(text).expect_err("refused").to_string();
        assert!(reason(&text.replace("tuning 2", "tuning 1")).contains("format"));
        assert!(reason(&text.replace("\"vectors\":2", "\"vectors\":0")).contains("empty tiles"));
        assert!(reason(&text[1..]).contains("damaged"));
        let other = text.replace(env!("CARGO_PKG_VERSION"), "0.0.0");
        assert_eq!(
            Cache::parse(&other),
            Ok(Cache::default()),
            "kernels of another version are measured again"
        );
    }
}
