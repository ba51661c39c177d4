//! Energy of a layer: bit operations and bytes moved, with coefficients from a file.
//!
//! ```toml
//! bit_operation_pj = 0.003125   # per MAC · weight bit · activation bit
//! accumulate_pj = 0.1           # per MAC
//! weight_byte_pj = 160.0        # read from DRAM once per run
//! activation_byte_pj = 1.25     # read or written in cache
//! ```
//!
//! The defaults are Horowitz's figures for 45 nm (ISSCC 2014, "Computing's energy problem"): an 8-bit product 0.2 pJ, that
//! is 0.003125 pJ for each of its 64 bit pairs; a 32-bit addition 0.1 pJ; 640 pJ for 32 bits from DRAM; 10 pJ for 64 bits
//! from an 8 KiB SRAM. They rank allocations; absolute joules need the figures of the machine at hand.
use super::facts::LayerFacts;
use crate::{Code, Error, Result};
use goshawk_passes::bits::LayerBits;
use serde::Deserialize;
use std::path::Path;

/// Energy coefficients in picojoule.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Coefficients {
    /// Each pair of a weight bit and an activation bit in each product.
    pub bit_operation_pj: f64,
    /// Each addition to an accumulator.
    pub accumulate_pj: f64,
    /// Each byte of packed weights.
    pub weight_byte_pj: f64,
    /// Each byte of activations read or written.
    pub activation_byte_pj: f64,
}

impl Default for Coefficients {
    fn default() -> Self {
        Self {
            bit_operation_pj: 0.2 / 64.0,
            accumulate_pj: 0.1,
            weight_byte_pj: 640.0 / 4.0,
            activation_byte_pj: 10.0 / 8.0,
        }
    }
}

impl Coefficients {
    /// Reads a file; keys that it leaves out keep their defaults.
    ///
    /// # Errors
    /// [`Code::FILE`], [`Code::DATA`] for another syntax, unknown keys, negative numbers.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, "read", &e))?;
        Self::parse(&text).map_err(|e| e.in_file(path))
    }

    fn parse(text: &str) -> Result<Self> {
        let refuse = |why: String| {
            Error::new(Code::DATA, "these are no energy coefficients").because(why).help(
                "keys: bit_operation_pj, accumulate_pj, weight_byte_pj, activation_byte_pj; numbers of at least 0",
            )
        };
        let c: Self = toml::from_str(text).map_err(|e| refuse(e.message().to_owned()))?;
        let all = [c.bit_operation_pj, c.accumulate_pj, c.weight_byte_pj, c.activation_byte_pj];
        match all.iter().all(|v| v.is_finite() && *v >= 0.0) {
            true => Ok(c),
            false => Err(refuse("a coefficient is negative or not finite".into())),
        }
    }

    /// Energy of one run of a layer in joule.
    pub fn joules(&self, layer: &LayerFacts, bits: LayerBits) -> f64 {
        let operations = self.bit_operation_pj * layer.bops(bits) + self.accumulate_pj * layer.macs as f64;
        // Activations of all widths up to 8 bits are stored in bytes.
        let activations = self.activation_byte_pj * (layer.input + layer.output_bytes) as f64;
        let weights = self.weight_byte_pj * layer.bytes(bits.weights) as f64;
        (operations + activations + weights) * 1e-12
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_override_defaults_and_mistakes_are_named() {
        let c = Coefficients::parse("weight_byte_pj = 2.5").expect("valid");
        assert_eq!(c, Coefficients { weight_byte_pj: 2.5, ..Coefficients::default() });
        for text in ["weigth_byte_pj = 1.0", "weight_byte_pj = -1.0", "weight_byte_pj = nan", "x"] {
            assert!(Coefficients::parse(text).is_err_and(|e| e.code == Code::DATA), "{text}");
        }
    }
}
