//! Calibration profiles: calibrated ranges in a JSON file, so that compiling again needs no data.
//!
//! A profile belongs to one model (by the hash of its file) and says so; ranges are by the name of the tensor. The
//! check sum covers everything else in the file: an edited profile is refused, since nothing else would notice.
use crate::{Code, Error, Result};
use goshawk_passes::calibrate::{Moment, Ranges};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, path::Path};

/// First field of every profile.
const FORMAT: &str = "goshawk calibration profile 2";

/// How ranges were made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Hash of the model file, in hexadecimal.
    pub model_sha256: String,
    /// Method of calibration, as `--method` takes it.
    pub method: String,
    /// Activation widths for which the ranges were chosen, as `--uniform` takes them, or a bits file's name.
    pub bits: String,
    /// Number of samples.
    pub samples: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    format: String,
    #[serde(flatten)]
    content: Content,
    sha256: String,
}

#[derive(Serialize, Deserialize)]
struct Content {
    origin: Origin,
    /// Smallest and largest value by tensor name.
    ranges: BTreeMap<String, [f32; 2]>,
    /// Mean and mean square of every channel by tensor name.
    moments: BTreeMap<String, Vec<[f32; 2]>>,
}

impl Content {
    fn sha256(&self) -> Result<String> {
        let text = serde_json::to_string(self)
            .map_err(|e| Error::new(Code::INTERNAL, "cannot write a profile").because(e.to_string()))?;
        Ok(hex(&Sha256::digest(text.as_bytes())))
    }
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The text of a profile.
///
/// # Errors
/// [`Code::QUANTIZE`] where a range is not finite.
pub fn print(ranges: &Ranges, origin: &Origin) -> Result<String> {
    let mut map = BTreeMap::new();
    for (name, (min, max)) in &ranges.map {
        if !min.is_finite() || !max.is_finite() {
            return Err(Error::new(Code::QUANTIZE, format!("the range of {name} is {min} to {max}")));
        }
        map.insert(name.clone(), [*min, *max]);
    }
    let pairs = |m: &Vec<Moment>| m.iter().map(|m| [m.mean, m.square]).collect();
    let moments = ranges.moments.iter().map(|(name, m)| (name.clone(), pairs(m))).collect();
    let content = Content { origin: origin.clone(), ranges: map, moments };
    let sha256 = content.sha256()?;
    let profile = Profile { format: FORMAT.to_owned(), content, sha256 };
    serde_json::to_string_pretty(&profile)
        .map(|text| text + "\n")
        .map_err(|e| Error::new(Code::INTERNAL, "cannot write a profile").because(e.to_string()))
}

/// Reads a profile that must belong to the model with this hash.
///
/// # Errors
/// [`Code::FILE`] where it cannot be read, [`Code::DATA`] where it is damaged or belongs to another model.
pub fn load(path: &Path, model_sha256: &str) -> Result<(Ranges, Origin)> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, "read", &e))?;
    parse(&text, model_sha256).map_err(|e| e.in_file(path))
}

/// As [`load`], from the text.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, model_sha256: &str) -> Result<(Ranges, Origin)> {
    let damaged = |why: String| {
        Error::new(Code::DATA, "the calibration profile is damaged")
            .because(why)
            .help("calibrate again: goshawk calibrate MODEL --calib DATA --save-ranges FILE")
    };
    let profile: Profile = serde_json::from_str(text).map_err(|e| damaged(e.to_string()))?;
    if profile.format != FORMAT {
        return Err(damaged(format!("its format is {:?}, not {FORMAT:?}", profile.format)));
    }
    if profile.content.sha256()? != profile.sha256 {
        return Err(damaged("its check sum does not fit its content".into()));
    }
    let Content { origin, ranges, moments } = profile.content;
    if origin.model_sha256 != model_sha256 {
        return Err(Error::new(Code::DATA, "the calibration profile belongs to another model")
            .because(format!(
                "it was made from the model with hash {}, this one has {model_sha256}",
                origin.model_sha256
            ))
            .help("calibrate this model: goshawk calibrate MODEL --calib DATA --save-ranges FILE"));
    }
    if let Some((name, [min, max])) =
        ranges.iter().find(|(_, [min, max])| min.partial_cmp(max).is_none_or(std::cmp::Ordering::is_gt))
    {
        return Err(damaged(format!("the range of {name} is {min} to {max}")));
    }
    let map = ranges.into_iter().map(|(name, [min, max])| (name, (min, max))).collect();
    let pairs = |m: Vec<[f32; 2]>| m.into_iter().map(|[mean, square]| Moment { mean, square }).collect();
    let moments = moments.into_iter().map(|(name, m)| (name, pairs(m))).collect();
    Ok((Ranges { map, moments }, origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin { model_sha256: "ab".into(), method: "mse".into(), bits: "w8a8".into(), samples: 100 }
    }

    fn ranges() -> Ranges {
        let map = [("conv1", (-0.1f32, 6.3)), ("x", (f32::MIN_POSITIVE, 1e30))];
        let moments = [("x".to_owned(), vec![Moment { mean: 0.1, square: 1e-20 }])].into();
        Ranges { map: map.into_iter().map(|(n, r)| (n.to_owned(), r)).collect(), moments }
    }

    #[test]
    fn what_is_written_reads_back_exactly() {
        let text = print(&ranges(), &origin()).expect("text");
        assert_eq!(parse(&text, "ab"), Ok((ranges(), origin())));
    }

    #[test]
    fn foreign_and_damaged_profiles_are_refused_with_the_reason() {
        let text = print(&ranges(), &origin()).expect("text");
        let reason = |text: &str, model: &str| parse(text, model).expect_err("refused").to_string();
        assert!(reason(&text, "cd").contains("another model"));
        assert!(reason(&text.replace("6.3", "6.4"), "ab").contains("check sum"));
        assert!(reason(&text.replace("profile 2", "profile 1"), "ab").contains("format"));
        assert!(reason(&text[..text.len() / 2], "ab").contains("damaged"));
        assert!(reason("{}", "ab").contains("missing"));
        let infinite = Ranges { map: [("a".to_owned(), (0.0, f32::INFINITY))].into(), ..Ranges::default() };
        assert!(print(&infinite, &origin()).is_err_and(|e| e.code == Code::QUANTIZE));
    }
}
