//! Calibration and test data: `.npy`, `.npz`, idx files, folders of images, PNGs that hold one image a row.
//!
//! [`Dataset`] finds the rows and checks their shapes when it is opened and reads them when they are asked for, so a
//! set never lies in memory as f32. It can be read from several threads at once.

pub mod idx;
pub mod image;
pub mod labels;
pub mod npy;
pub mod npz;
mod source;
pub mod spec;

pub use source::InputSpec;
pub use spec::Preprocess;

use crate::{Code, Error, Result};
use goshawk_ir::Tensor;
use labels::Labels;
use source::Input;
use std::path::{Path, PathBuf};

/// How to read a data set.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What happens to the data on its way into the network.
    pub preprocess: Preprocess,
    /// File of labels; without it, arrays `y` or `labels` of a `.npz`, or the file that lies beside the data.
    pub labels: Option<PathBuf>,
    /// Take only this many samples, evenly spread over the set (sets are often sorted by class).
    pub samples: Option<usize>,
}

/// A set of samples for a network.
pub struct Dataset {
    origin: String,
    inputs: Vec<Input>,
    preprocess: Preprocess,
    labels: Option<Vec<u32>>,
    /// Samples in the order in which they are given out; a sample is `batch` consecutive rows.
    order: Vec<usize>,
    batch: usize,
}

impl Dataset {
    /// Opens the set at `path` for a network with these inputs.
    ///
    /// # Errors
    /// [`Code::FILE`] where a file cannot be opened; [`Code::DATA`], naming file, array and shape, where it is damaged,
    /// empty or does not fit the network.
    pub fn open(path: &Path, inputs: &[InputSpec], options: &Options) -> Result<Self> {
        options.preprocess.validate()?;
        let origin = path.display().to_string();
        let (opened, labels) = if has_ending(path, "npz") {
            open_npz(path, inputs, &options.preprocess)?
        } else {
            let [spec] = inputs else {
                return Err(Error::new(
                    Code::DATA,
                    format!("the network has {} inputs, {origin} can feed only one", inputs.len()),
                )
                .help(format!(
                    "give a .npz with the arrays {}",
                    inputs.iter().map(|i| format!("`{}`", i.name)).collect::<Vec<_>>().join(", ")
                )));
            };
            let (input, listed) = open_single(path, spec.clone(), options)?;
            (vec![input], listed)
        };
        for input in &opened {
            options.preprocess.check_channels(input.spec.chw()[0])?;
        }
        let rows = opened.iter().map(Input::count).min().unwrap_or(0);
        if let Some(odd) = opened.iter().find(|i| i.count() != rows) {
            return Err(Error::new(
                Code::DATA,
                format!("{} has {} rows, another array {rows}", odd.origin, odd.count()),
            ));
        }
        let batch = inputs.iter().map(InputSpec::batch).max().unwrap_or(1).max(1);
        if rows < batch {
            return Err(match rows {
                0 => Error::new(Code::DATA, format!("{origin} is empty"))
                    .help("a data set needs at least one row; folders need PNG, JPEG or BMP files"),
                _ => Error::new(
                    Code::DATA,
                    format!("{origin} has {rows} rows, the network takes {batch} at once"),
                ),
            });
        }
        let labels = match (&options.labels, labels) {
            (Some(file), _) => Some(in_order(labels::read(file)?, file)?),
            (None, Some(own)) => Some(own),
            (None, None) => match labels::beside(path) {
                Some(file) => Some(in_order(labels::read(&file)?, &file)?),
                None => None,
            },
        };
        if let Some(labels) = labels.as_ref().filter(|l| l.len() != rows) {
            return Err(Error::new(
                Code::DATA,
                format!("{} labels for {rows} rows of {origin}", labels.len()),
            ));
        }
        let total = rows / batch;
        let order = match options.samples {
            Some(0) => return Err(Error::new(Code::DATA, "0 samples were asked for")),
            Some(n) if n < total => (0..n).map(|i| i * total / n).collect(),
            _ => (0..total).collect(),
        };
        Ok(Self { origin, inputs: opened, preprocess: options.preprocess.clone(), labels, order, batch })
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there are none; an opened set has at least one.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Rows of a sample: the batch size of the network.
    pub const fn batch(&self) -> usize {
        self.batch
    }

    /// Whether the rows have labels.
    pub const fn is_labelled(&self) -> bool {
        self.labels.is_some()
    }

    /// Classes of the rows of a sample.
    ///
    /// # Errors
    /// [`Code::DATA`] where the set has no labels.
    pub fn labels(&self, sample: usize) -> Result<&[u32]> {
        let Some(labels) = &self.labels else {
            return Err(Error::new(Code::DATA, format!("{} has no labels", self.origin))
                .help("add --labels FILE (a JSON list, one number a line, a CSV, .npy or idx)"));
        };
        let first = self.position(sample)? * self.batch;
        Ok(labels.get(first..first + self.batch).unwrap_or_default())
    }

    /// The tensors of a sample, one for each network input, in the network's shapes.
    ///
    /// # Errors
    /// [`Code::DATA`], naming file and row: unreadable image, wrong size, NaN or infinity.
    pub fn sample(&self, sample: usize) -> Result<Vec<Tensor>> {
        let position = self.position(sample)?;
        let tensor = |input: &Input| {
            let batch = input.spec.batch();
            let mut values = Vec::with_capacity(input.spec.shape.count());
            for row in position * batch..(position + 1) * batch {
                values.extend(input.row(row, &self.preprocess)?);
            }
            Tensor::from_f32(input.spec.shape.clone(), values).map_err(|e| Error::internal(&e))
        };
        self.inputs.iter().map(tensor).collect()
    }

    /// What the set is called in messages.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    fn position(&self, sample: usize) -> Result<usize> {
        self.order.get(sample).copied().ok_or_else(|| {
            Error::new(Code::INTERNAL, format!("sample {sample} of {} does not exist", self.origin))
        })
    }
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|e| e.eq_ignore_ascii_case(ending))
}

/// The rows of one input, and the labels that choose them where labels name files.
fn open_single(path: &Path, spec: InputSpec, options: &Options) -> Result<(Input, Option<Vec<u32>>)> {
    let preprocess = &options.preprocess;
    if path.is_dir() {
        return open_folder(path, spec, options.labels.as_deref());
    }
    if !path.exists() {
        return Err(Error::new(Code::FILE, format!("{} does not exist", path.display())));
    }
    let input = match preprocess.rows {
        Some(rows) if image::is_image(path) => Input::rows(path, rows, spec, preprocess)?,
        _ if image::is_image(path) => Input::images(vec![path.to_owned()], path.display().to_string(), spec)?,
        _ if has_ending(path, "npy") => Input::npy(path, spec, preprocess)?,
        _ if has_ending(path, "gz")
            || has_ending(path, "idx")
            || path.to_string_lossy().ends_with("-ubyte") =>
        {
            Input::idx(path, spec, preprocess)?
        }
        _ => {
            return Err(Error::new(Code::DATA, format!("cannot tell what {} is", path.display())).help(
                "data sets are .npy, .npz, idx files (.gz), a folder of images, or a PNG with --rows",
            ));
        }
    };
    Ok((input, None))
}

fn open_folder(path: &Path, spec: InputSpec, labels: Option<&Path>) -> Result<(Input, Option<Vec<u32>>)> {
    let listed = match labels.map(Path::to_owned).or_else(|| labels::beside(path)) {
        Some(file) => Some((labels::read(&file)?, file)),
        None => None,
    };
    let origin = path.display().to_string();
    let Some((Labels::ByFile(list), file)) = listed else {
        return Ok((Input::images(image::list(path)?, origin, spec)?, None));
    };
    let (mut files, mut classes) = (Vec::new(), Vec::new());
    for (name, class) in list {
        // Only plain names: a labels file must not reach outside of its folder.
        let image = Path::new(&name).file_name().filter(|n| *n == name.as_str()).map(|n| path.join(n));
        match image {
            Some(image) if image.is_file() => files.push(image),
            _ => {
                return Err(Error::new(Code::DATA, format!("{} names `{name}`", file.display()))
                    .because(format!("{origin} has no such file")));
            }
        }
        classes.push(class);
    }
    Ok((Input::images(files, origin, spec)?, Some(classes)))
}

/// Arrays named like the inputs; a single input also takes `x`, `images`, or the only array of numbers.
fn open_npz(
    path: &Path,
    inputs: &[InputSpec],
    preprocess: &Preprocess,
) -> Result<(Vec<Input>, Option<Vec<u32>>)> {
    let origin = path.display().to_string();
    let mut archive = npz::Archive::open(path)?;
    let names = archive.names();
    let label_name = names.iter().find(|n| *n == "y" || *n == "labels").cloned();
    let mut numeric = Vec::new();
    for name in names.iter().filter(|n| Some(*n) != label_name.as_ref()) {
        if archive.header(name)?.element != npy::Element::Other {
            numeric.push(name.as_str());
        }
    }
    let mut opened = Vec::new();
    for spec in inputs {
        let found = match numeric.as_slice() {
            all if all.contains(&spec.name.as_str()) => Some(spec.name.as_str()),
            all if inputs.len() == 1 => ["x", "images"]
                .into_iter()
                .find(|n| all.contains(n))
                .or(if let [only] = all { Some(*only) } else { None }),
            _ => None,
        };
        let Some(array) = found else {
            return Err(Error::new(
                Code::DATA,
                format!("{origin} has no array for the input `{}`", spec.name),
            )
            .because(format!("its arrays are {}", names.join(", ")))
            .help(format!("name the array `{}`", spec.name)));
        };
        opened.push(Input::npz(&mut archive, &origin, array, spec.clone(), preprocess)?);
    }
    let labels = match label_name {
        Some(name) => {
            let (header, bytes) = archive.read(&name)?;
            let labels = labels::from_array(&header, &bytes)
                .map_err(|e| source::unreadable(&format!("array `{name}` of {origin}"), e))?;
            Some(in_order(labels, path)?)
        }
        None => None,
    };
    Ok((opened, labels))
}

fn in_order(labels: Labels, file: &Path) -> Result<Vec<u32>> {
    match labels {
        Labels::InOrder(list) => Ok(list),
        // A folder has used the names already; its rows are in the order of the list.
        Labels::ByFile(list) => {
            if list.is_empty() {
                return Err(Error::new(Code::DATA, format!("{} is empty", file.display())));
            }
            Ok(list.into_iter().map(|(_, class)| class).collect())
        }
    }
}

#[cfg(test)]
mod tests;
