//! What happens to data between the file and the network: the preprocessing specification.
//!
//! Given as a preset (`imagenet`), a small TOML file, or flags, later ones overriding earlier ones:
//!
//! ```toml
//! resize = 256                  # shortest side, or [height, width] exactly; bilinear with antialiasing
//! crop = 224                    # centre crop, square, or [height, width]
//! scale = 0.00392156862745098   # value = (pixel * scale - mean) / std
//! mean = [0.485, 0.456, 0.406]  # one value, or one for each channel of `channels`
//! std = [0.229, 0.224, 0.225]
//! channels = "rgb"              # order that the network expects, "rgb" or "bgr"
//! layout = "nchw"               # of arrays in files; images and rows are "nhwc" by nature
//! rows = [32, 32, 3]            # a PNG whose row i holds image i, as height, width, channels
//! affine = { scale = 0.58, zero_point = 83 }   # integer features: value = scale * (q - zero_point)
//! ```
use crate::{Code, Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Largest side that a resize or crop may ask for.
const MAX_SIDE: usize = 16_384;

/// One number for both sides, or height and width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Size {
    /// Resize: the shortest side. Crop: both sides.
    One(usize),
    /// Height and width.
    Both([usize; 2]),
}

/// One number for all channels, or one for each.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum PerChannel {
    /// The same for all channels.
    One(f32),
    /// One for each channel, in the order that the network expects.
    Each(Vec<f32>),
}

impl PerChannel {
    /// The value of a channel.
    pub fn get(&self, channel: usize) -> f32 {
        match self {
            Self::One(v) => *v,
            Self::Each(v) => v.get(channel).copied().unwrap_or_default(),
        }
    }

    fn count(&self) -> Option<usize> {
        match self {
            Self::One(_) => None,
            Self::Each(v) => Some(v.len()),
        }
    }

    fn values(&self) -> &[f32] {
        match self {
            Self::One(v) => std::slice::from_ref(v),
            Self::Each(v) => v,
        }
    }
}

/// Order of colour channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    /// Red first.
    Rgb,
    /// Blue first.
    Bgr,
}

/// How arrays in files lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DataLayout {
    /// As the network's input.
    Nchw,
    /// Channels innermost.
    Nhwc,
}

/// What the integers of a feature array mean: real = scale · (q − zero_point).
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Affine {
    /// Scale.
    pub scale: f32,
    /// Zero point.
    pub zero_point: i32,
}

/// The specification; every part is optional, the default changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// Resize images first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize: Option<Size>,
    /// Then cut the centre out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<Size>,
    /// Factor of the pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f32>,
    /// Subtracted after scaling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<PerChannel>,
    /// Divisor after that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<PerChannel>,
    /// Channel order that the network expects of images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<Channels>,
    /// Layout of arrays in files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<DataLayout>,
    /// Shape of one row of a PNG that holds a whole set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<[usize; 3]>,
    /// Meaning of integer features.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affine: Option<Affine>,
}

impl Preprocess {
    /// The preset of that name: `imagenet` is 256 shortest side, 224 centre crop, x/255, the usual mean and deviation.
    pub fn preset(name: &str) -> Option<Self> {
        (name == "imagenet").then(|| Self {
            resize: Some(Size::One(256)),
            crop: Some(Size::One(224)),
            scale: Some(1.0 / 255.0),
            mean: Some(PerChannel::Each(vec![0.485, 0.456, 0.406])),
            std: Some(PerChannel::Each(vec![0.229, 0.224, 0.225])),
            channels: Some(Channels::Rgb),
            ..Self::default()
        })
    }

    /// A preset's name or the path of a TOML file.
    ///
    /// # Errors
    /// [`Code::FILE`] or [`Code::DATA`], with line and column of a mistake.
    pub fn load(preset_or_path: &str) -> Result<Self> {
        if let Some(preset) = Self::preset(preset_or_path) {
            return Ok(preset);
        }
        let path = Path::new(preset_or_path);
        let text = std::fs::read_to_string(path).map_err(|e| {
            Error::file(path, "read", &e).help("give the path of a preprocess.toml, or the preset `imagenet`")
        })?;
        let spec: Self = toml::from_str(&text).map_err(|e| {
            Error::new(Code::DATA, format!("{} is not a preprocessing specification", path.display()))
                .because(e.to_string().trim_end().to_owned())
                .help("keys: resize, crop, scale, mean, std, channels, layout, rows, affine")
        })?;
        spec.validate().map_err(|e| e.in_file(path))?;
        Ok(spec)
    }

    /// This specification with the parts that `over` gives replaced.
    #[must_use]
    pub fn overridden(self, over: Self) -> Self {
        Self {
            resize: over.resize.or(self.resize),
            crop: over.crop.or(self.crop),
            scale: over.scale.or(self.scale),
            mean: over.mean.or(self.mean),
            std: over.std.or(self.std),
            channels: over.channels.or(self.channels),
            layout: over.layout.or(self.layout),
            rows: over.rows.or(self.rows),
            affine: over.affine.or(self.affine),
        }
    }

    /// Checks that every number makes sense.
    ///
    /// # Errors
    /// [`Code::DATA`] naming the key.
    pub fn validate(&self) -> Result<()> {
        let bad = |key: &str, why: &str| {
            Err(Error::new(Code::DATA, format!("preprocessing: `{key}` {why}"))
                .help("see `goshawk compile --help` for the form of the preprocessing options"))
        };
        for (key, size) in [("resize", self.resize), ("crop", self.crop)] {
            let sides = match size {
                None => continue,
                Some(Size::One(n)) => [n, n],
                Some(Size::Both(both)) => both,
            };
            if sides.iter().any(|n| *n == 0 || *n > MAX_SIDE) {
                return bad(key, &format!("must be between 1 and {MAX_SIDE}"));
            }
        }
        if self.scale.is_some_and(|s| !s.is_finite() || s == 0.0) {
            return bad("scale", "must be finite and not 0");
        }
        for (key, values) in [("mean", &self.mean), ("std", &self.std)] {
            let Some(values) = values else { continue };
            let all = values.values();
            if all.is_empty() || all.iter().any(|v| !v.is_finite() || (key == "std" && *v <= 0.0)) {
                return bad(key, if key == "std" { "must be positive and finite" } else { "must be finite" });
            }
        }
        if self.rows.is_some_and(|r| r.contains(&0) || r.iter().any(|d| *d > MAX_SIDE)) {
            return bad("rows", "must be height, width and channels, all positive");
        }
        if let Some(affine) = self.affine {
            if !affine.scale.is_finite() || affine.scale <= 0.0 {
                return bad("affine", "must have a positive, finite scale");
            }
            if self.scale.is_some() || self.mean.is_some() || self.std.is_some() {
                return bad("affine", "cannot be combined with scale, mean or std: give one or the other");
            }
        }
        Ok(())
    }

    /// Checks the per-channel lists against the network.
    ///
    /// # Errors
    /// [`Code::DATA`] where a list has another length.
    pub fn check_channels(&self, channels: usize) -> Result<()> {
        for (key, values) in [("mean", &self.mean), ("std", &self.std)] {
            if let Some(n) = values.as_ref().and_then(PerChannel::count).filter(|n| *n != channels) {
                return Err(Error::new(
                    Code::DATA,
                    format!(
                        "preprocessing: `{key}` has {n} values, the network's input has {channels} channels"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Applies scale, mean and std, or the affine mapping, to a tensor of [channels][plane].
    pub fn normalize(&self, values: &mut [f32], channels: usize) {
        if let Some(Affine { scale, zero_point }) = self.affine {
            values.iter_mut().for_each(|v| *v = scale * (*v - zero_point as f32));
            return;
        }
        if self.scale.is_none() && self.mean.is_none() && self.std.is_none() {
            return;
        }
        let plane = (values.len() / channels.max(1)).max(1);
        for (c, plane) in values.chunks_mut(plane).enumerate() {
            let scale = self.scale.unwrap_or(1.0);
            let mean = self.mean.as_ref().map_or(0.0, |m| m.get(c));
            let std = self.std.as_ref().map_or(1.0, |s| s.get(c));
            plane.iter_mut().for_each(|v| *v = (*v * scale - mean) / std);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> std::result::Result<Preprocess, String> {
        toml::from_str::<Preprocess>(text)
            .map_err(|e| e.to_string())
            .and_then(|p| p.validate().map(|()| p).map_err(|e| e.to_string()))
    }

    #[test]
    fn toml_in_all_forms() {
        let p = parse(
            "resize = [224, 200]\ncrop = 224\nscale = 0.5\nmean = 1\nstd = [1.0, 2.0, 3.0]\nchannels = 'bgr'\n\
             layout = 'nhwc'\nrows = [32, 32, 3]",
        )
        .expect("valid");
        assert_eq!((p.resize, p.crop), (Some(Size::Both([224, 200])), Some(Size::One(224))));
        assert_eq!(p.mean, Some(PerChannel::One(1.0)));
        assert_eq!((p.channels, p.layout), (Some(Channels::Bgr), Some(DataLayout::Nhwc)));
        let text = toml::to_string(&p).expect("toml");
        assert_eq!(parse(&text), Ok(p));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, reason) in [
            ("crop = 0", "crop"),
            ("scale = inf", "scale"),
            ("std = [1.0, 0.0]", "std"),
            ("mean = []", "mean"),
            ("colour = 'rgb'", "colour"),
            ("channels = 'rbg'", "rbg"),
            ("affine = { scale = 0.0, zero_point = 1 }", "affine"),
            ("affine = { scale = 1.0, zero_point = 1 }\nmean = 2.0", "affine"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn later_parts_override_earlier_ones() {
        let base = Preprocess::preset("imagenet").expect("preset");
        let over = Preprocess { crop: Some(Size::One(32)), ..Preprocess::default() };
        let both = base.clone().overridden(over);
        assert_eq!((both.crop, both.resize), (Some(Size::One(32)), base.resize));
    }

    #[test]
    fn normalization_is_per_channel() {
        let p = parse("scale = 0.5\nmean = [1.0, 2.0]\nstd = [1.0, 4.0]").expect("valid");
        let mut x = [2.0, 4.0, 8.0, 12.0];
        p.normalize(&mut x, 2);
        assert_eq!(x, [0.0, 1.0, 0.5, 1.0]);
        assert!(p.check_channels(2).is_ok() && p.check_channels(3).is_err());
        let p = parse("affine = { scale = 0.5, zero_point = 83 }").expect("valid");
        let mut x = [83.0, 85.0];
        p.normalize(&mut x, 1);
        assert_eq!(x, [0.0, 1.0]);
    }
}
