//! Cost tables: measured latencies in a versioned file that can be moved between machines.
//!
//! JSON with a check sum over the content, like calibration profiles: an edited or cut table is refused. Times are by
//! the instruction sets of the compiled code and by shape and widths of the layer, so tables of several models and
//! targets merge. For each model the table also keeps its layers and how their times add up to that of the network.
use super::facts::LayerFacts;
use crate::{Code, Error, Result, driver::profile::hex};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, path::Path};

/// First field of every table.
const FORMAT: &str = "goshawk cost table 1";

/// Time of one variant of a layer in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Time {
    /// Median with the weights in cache from the run before.
    pub warm_us: f64,
    /// Median after the caches were emptied.
    pub cold_us: f64,
    /// Half the distance of the quartiles of the warm runs over their median: how much to trust it.
    pub spread: f64,
    /// Multiply-accumulates.
    pub macs: u64,
    /// Bytes of packed weights.
    pub weight_bytes: u64,
    /// Bytes of activations read and written.
    pub activation_bytes: u64,
    /// Bits of the weights.
    pub weight_bits: u8,
    /// Bits of the activations.
    pub activation_bits: u8,
    /// Whether the layer is depthwise.
    pub depthwise: bool,
}

impl Time {
    /// Between warm (share 0) and cold (share 1).
    pub fn blended(&self, cold_share: f64) -> f64 {
        self.warm_us + cold_share * (self.cold_us - self.warm_us)
    }
}

/// A network measured as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Whole {
    /// Widths of all layers, or a name.
    pub bits: String,
    /// Measured median in microseconds.
    pub measured_us: f64,
    /// Sum of the layers and the base.
    pub predicted_us: f64,
}

/// How the layers of one model add up on one target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelTable {
    /// Where between warm and cold a layer is inside the network.
    pub cold_share: f64,
    /// Time of everything that is not a layer, less what layers save inside of a network.
    pub base_us: f64,
    /// The measurements that share and base were fitted to.
    pub wholes: Vec<Whole>,
}

/// Times on one target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuTable {
    /// Name of the processor that was measured, as the operating system gives it; empty if unknown.
    pub processor: String,
    /// Times by [`LayerFacts::key`].
    pub layers: BTreeMap<String, Time>,
    /// Models by the hash of their file.
    pub models: BTreeMap<String, ModelTable>,
}

/// A cost table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostTable {
    /// Times by instruction sets (`x86_64-unknown-linux-gnu avx512vnni+…`).
    pub cpus: BTreeMap<String, CpuTable>,
    /// Layers of each model by the hash of its file.
    pub models: BTreeMap<String, BTreeMap<String, LayerFacts>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    sha256: String,
    table: CostTable,
}

impl CostTable {
    /// The text of the file.
    ///
    /// # Errors
    /// [`Code::INTERNAL`] where a number is not finite.
    pub fn print(&self) -> Result<String> {
        let internal = |e: serde_json::Error| {
            Error::new(Code::INTERNAL, "cannot write a cost table").because(e.to_string())
        };
        let table = self.rounded();
        let file = File { format: FORMAT.to_owned(), sha256: table.sha256()?, table };
        Ok(serde_json::to_string_pretty(&file).map_err(internal)? + "\n")
    }

    /// All times to a tenth of a nanosecond: decimals that short read back as the same numbers, so the check sum holds.
    #[must_use]
    pub fn rounded(&self) -> Self {
        let round = |v: &mut f64| *v = (*v * 1e4).round() / 1e4;
        let mut table = self.clone();
        for cpu in table.cpus.values_mut() {
            for t in cpu.layers.values_mut() {
                [&mut t.warm_us, &mut t.cold_us, &mut t.spread].into_iter().for_each(round);
            }
            for m in cpu.models.values_mut() {
                [&mut m.cold_share, &mut m.base_us].into_iter().for_each(round);
                for w in &mut m.wholes {
                    [&mut w.measured_us, &mut w.predicted_us].into_iter().for_each(round);
                }
            }
        }
        table
    }

    fn sha256(&self) -> Result<String> {
        let text = serde_json::to_string(self)
            .map_err(|e| Error::new(Code::INTERNAL, "cannot write a cost table").because(e.to_string()))?;
        Ok(hex(&Sha256::digest(text.as_bytes())))
    }

    /// Reads a table from its text.
    ///
    /// # Errors
    /// [`Code::DATA`]: another format or version, damaged.
    pub fn parse(text: &str) -> Result<Self> {
        let damaged = |why: String| {
            Error::new(Code::DATA, "the cost table cannot be used")
                .because(why)
                .help("measure again: goshawk profile-costs MODEL --calib DATA -o FILE")
        };
        // The version comes first: another one may have other fields.
        #[derive(Deserialize)]
        struct Head {
            format: String,
        }
        let head: Head = serde_json::from_str(text).map_err(|e| damaged(format!("it is damaged: {e}")))?;
        if head.format != FORMAT {
            return Err(damaged(format!("its format is {:?}, not {FORMAT:?}", head.format)));
        }
        let file: File = serde_json::from_str(text).map_err(|e| damaged(format!("it is damaged: {e}")))?;
        if file.table.sha256()? != file.sha256 {
            return Err(damaged("its check sum does not fit its content".into()));
        }
        Ok(file.table)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`Code::FILE`], [`Code::DATA`].
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, "read", &e))?;
        Self::parse(&text).map_err(|e| e.in_file(path))
    }

    /// The times for these instruction sets; of the only target if none is given.
    ///
    /// # Errors
    /// [`Code::TARGET`]: not in the table, or several and none chosen.
    pub fn cpu(&self, isa: Option<&str>) -> Result<(&str, &CpuTable)> {
        let known = || self.cpus.keys().cloned().collect::<Vec<_>>().join("; ");
        let found = match isa {
            Some(isa) => self.cpus.get_key_value(isa),
            None if self.cpus.len() == 1 => self.cpus.iter().next(),
            None => None,
        };
        found.map(|(k, v)| (k.as_str(), v)).ok_or_else(|| {
            let what = match isa {
                Some(isa) => format!("the cost table has no times for {isa}"),
                None => "the cost table has times for several targets".to_owned(),
            };
            Error::new(Code::TARGET, what).because(format!("it was measured for: {}", known())).help(
                "choose one of these with --target-cpu, or measure: goshawk profile-costs --target-cpu CPU",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> CostTable {
        let time = Time {
            warm_us: 0.1 + 0.2,
            cold_us: 2.0,
            spread: 0.01,
            macs: 9,
            weight_bytes: 3,
            activation_bytes: 4,
            weight_bits: 4,
            activation_bits: 8,
            depthwise: false,
        };
        let cpu = CpuTable { layers: [("conv w4a8".to_owned(), time)].into(), ..CpuTable::default() };
        CostTable { cpus: [("x86_64 avx2".to_owned(), cpu)].into(), ..CostTable::default() }
    }

    #[test]
    fn what_is_written_reads_back_exactly() {
        let text = table().print().expect("text");
        assert_eq!(CostTable::parse(&text), Ok(table().rounded()));
        // Times as they come from a clock.
        for i in 0..500 {
            let mut t = table();
            for time in t.cpus.values_mut().flat_map(|c| c.layers.values_mut()) {
                time.warm_us = f64::from(i).sqrt() * 1_234.567_891;
                time.cold_us = f64::from(i) / 3.0;
            }
            assert!(CostTable::parse(&t.print().expect("text")).is_ok(), "{i}");
        }
        assert_eq!(table().cpu(None).expect("the only one").0, "x86_64 avx2");
        assert!(table().cpu(Some("aarch64")).is_err_and(|e| e.reason.is_some_and(|r| r.contains("avx2"))));
    }

    #[test]
    fn damaged_tables_and_other_versions_are_refused() {
        let text = table().print().expect("text");
        let reason = |text: &str| CostTable::parse(text).expect_err("refused").to_string();
        assert!(reason(&text.replace("2.0", "3.0")).contains("check sum"));
        assert!(reason(&text.replace("table 1", "table 2")).contains("format"));
        assert!(reason(&text[..text.len() / 2]).contains("damaged"));
        assert!(reason("{}").contains("missing"));
    }
}
