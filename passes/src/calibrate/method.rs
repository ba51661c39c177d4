//! The choice of calibration method, and its name on the command line.
use goshawk_ir::{IrError, Result, ensure};
use std::{fmt, str::FromStr};

/// How ranges are chosen from what was observed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// Everything that was seen.
    MinMax,
    /// Exponential average of the extrema of samples.
    MovingAverage,
    /// All but a share of (100 − p) percent at either end; p in (50, 100].
    Percentile(f32),
    /// Smallest expected squared error at the tensor's width.
    Mse,
    /// Smallest Kullback–Leibler divergence at the tensor's width.
    Kl,
}

impl Method {
    pub(super) fn needs_histogram(self) -> bool {
        match self {
            Self::MinMax | Self::MovingAverage => false,
            Self::Percentile(_) | Self::Mse | Self::Kl => true,
        }
    }

    pub(super) fn check(self) -> Result<()> {
        if let Self::Percentile(p) = self {
            ensure!(p > 50.0 && p <= 100.0, "percentile {p} is outside (50, 100]; 99.99 is usual");
        }
        Ok(())
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MinMax => f.write_str("min-max"),
            Self::MovingAverage => f.write_str("moving-average"),
            Self::Percentile(p) => write!(f, "percentile:{p}"),
            Self::Mse => f.write_str("mse"),
            Self::Kl => f.write_str("kl"),
        }
    }
}

/// `min-max`, `moving-average`, `percentile` (99.99), `percentile:P`, `mse`, `kl`.
impl FromStr for Method {
    type Err = IrError;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || {
            IrError::new(format!(
                "unknown calibration method {text:?}: expected min-max, moving-average, percentile:P, mse or kl"
            ))
        };
        let method = match text {
            "min-max" => Self::MinMax,
            "moving-average" => Self::MovingAverage,
            "percentile" => Self::Percentile(99.99),
            "mse" => Self::Mse,
            "kl" => Self::Kl,
            _ => {
                let p = text.strip_prefix("percentile:").ok_or_else(unknown)?;
                Self::Percentile(p.parse().map_err(|_| unknown())?)
            }
        };
        method.check()?;
        Ok(method)
    }
}
