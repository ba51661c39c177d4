//! Where the rows of one network input come from, and how a row becomes f32.
use super::{
    idx, image,
    npy::{self, Element, Header},
    spec::{Channels, DataLayout, Preprocess},
};
use crate::{Code, Error, Result};
use goshawk_ir::Shape;
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// What a network input needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputSpec {
    /// Name of the input.
    pub name: String,
    /// Shape with the batch dimension.
    pub shape: Shape,
}

impl InputSpec {
    /// The inputs of a network.
    pub fn of(graph: &goshawk_ir::FloatGraph) -> Vec<Self> {
        let spec =
            |p: &goshawk_ir::Port| Self { name: p.name.clone(), shape: graph.ty(p.node).shape.clone() };
        graph.inputs.iter().map(spec).collect()
    }

    /// Rows that one run of the network takes: the outermost dimension, 1 where there is only one dimension.
    pub fn batch(&self) -> usize {
        if self.shape.rank() > 1 { self.shape.first().copied().unwrap_or(1) } else { 1 }
    }

    /// Dimensions of one row.
    pub fn row(&self) -> &[usize] {
        if self.shape.rank() > 1 { self.shape.get(1..).unwrap_or_default() } else { &self.shape }
    }

    /// Whether the network takes images with their channels innermost: [N,H,W,1] or [N,H,W,3].
    fn channels_last(&self) -> bool {
        matches!(*self.row(), [c, _, 1 | 3] if c != 1 && c != 3)
    }

    /// [channels, height, width] of a row; features of other ranks count as one channel.
    pub fn chw(&self) -> [usize; 3] {
        match *self.row() {
            [h, w, c] if self.channels_last() => [c, h, w],
            [c, h, w] => [c, h, w],
            _ => [1, 1, self.row().iter().product()],
        }
    }
}

/// Rows of an array that stays in its file, or of one that had to be unpacked, or image files.
pub(super) enum Source {
    /// A `.npy` file, read row by row.
    File { header: Header, file: Mutex<File> },
    /// Elements in memory, in the file's own element type.
    Memory { header: Header, bytes: Vec<u8> },
    /// Image files.
    Images(Vec<PathBuf>),
}

/// A source, what it feeds, and what to call it in messages.
pub(super) struct Input {
    pub spec: InputSpec,
    pub origin: String,
    pub source: Source,
    /// Whether the rows of an array have their channels innermost.
    pub nhwc: bool,
}

impl Input {
    /// A `.npy` file.
    pub fn npy(path: &Path, spec: InputSpec, preprocess: &Preprocess) -> Result<Self> {
        let mut file = File::open(path).map_err(|e| Error::file(path, "open", &e))?;
        let mut start = Vec::new();
        file.by_ref().take(70_000).read_to_end(&mut start).map_err(|e| Error::file(path, "read", &e))?;
        let origin = path.display().to_string();
        let header = Header::parse(&start).map_err(|e| unreadable(&origin, e))?;
        let have = file.metadata().map_err(|e| Error::file(path, "read", &e))?.len();
        let want = (header.data_bytes().map_err(|e| unreadable(&origin, e))? + header.offset) as u64;
        if have != want {
            return Err(unreadable(
                &origin,
                format!("shape {:?} needs a file of {want} bytes, it has {have}", header.dims),
            ));
        }
        Self::new(spec, origin, Source::File { header, file: Mutex::new(file) }, preprocess)
    }

    /// An array of a `.npz` file.
    pub fn npz(
        archive: &mut super::npz::Archive,
        origin: &str,
        array: &str,
        spec: InputSpec,
        preprocess: &Preprocess,
    ) -> Result<Self> {
        let (header, bytes) = archive.read(array)?;
        Self::new(spec, format!("array `{array}` of {origin}"), Source::Memory { header, bytes }, preprocess)
    }

    /// An idx file.
    pub fn idx(path: &Path, spec: InputSpec, preprocess: &Preprocess) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::file(path, "read", &e))?;
        let origin = path.display().to_string();
        let (header, bytes) = idx::parse(&bytes).map_err(|e| unreadable(&origin, e))?;
        Self::new(spec, origin, Source::Memory { header, bytes }, preprocess)
    }

    /// A PNG whose row i holds image i, height × width × channels.
    pub fn rows(path: &Path, rows: [usize; 3], spec: InputSpec, preprocess: &Preprocess) -> Result<Self> {
        let image = image::decode(path)?;
        let [h, w, c] = rows;
        let (width, count) = (image.width() as usize, image.height() as usize);
        let bytes = match c {
            1 => image.into_luma8().into_raw(),
            _ => image.into_rgb8().into_raw(),
        };
        let channels = if c == 1 { 1 } else { 3 };
        if width * channels != h * w * c {
            return Err(unreadable(
                &path.display().to_string(),
                format!("a row of {width} pixels with {channels} channels is not an image of {rows:?}"),
            ));
        }
        let header = Header { element: Element::Uint(1), dims: vec![count, h, w, c], offset: 0 };
        let nhwc = Preprocess { layout: Some(DataLayout::Nhwc), ..preprocess.clone() };
        Self::new(spec, path.display().to_string(), Source::Memory { header, bytes }, &nhwc)
    }

    /// Image files.
    pub fn images(files: Vec<PathBuf>, origin: String, spec: InputSpec) -> Result<Self> {
        if spec.row().len() != 3 {
            return Err(Error::new(
                Code::DATA,
                format!("input `{}` has shape {}, which no image has", spec.name, spec.shape),
            )
            .help("give the data as .npy or .npz"));
        }
        Ok(Self { spec, origin, source: Source::Images(files), nhwc: false })
    }

    fn new(spec: InputSpec, origin: String, mut source: Source, preprocess: &Preprocess) -> Result<Self> {
        let nhwc = preprocess.layout == Some(DataLayout::Nhwc);
        if preprocess.resize.is_some() || preprocess.crop.is_some() {
            return Err(Error::new(Code::DATA, format!("{origin} cannot be resized or cropped"))
                .because("resize and crop apply to image files, not to arrays")
                .help("leave them out of the preprocessing, or give a folder of images"));
        }
        if let Source::File { header, .. } | Source::Memory { header, .. } = &mut source {
            header.data_bytes().map_err(|e| unreadable(&origin, e))?;
            if *header.dims == *spec.shape && spec.batch() == 1 && spec.shape.first() != Some(&1) {
                header.dims.insert(0, 1);
            }
            check_row(&spec, &origin, header, nhwc)?;
        }
        Ok(Self { spec, origin, source, nhwc })
    }

    /// Number of rows.
    pub fn count(&self) -> usize {
        match &self.source {
            Source::File { header, .. } | Source::Memory { header, .. } => {
                header.dims.first().copied().unwrap_or(0)
            }
            Source::Images(files) => files.len(),
        }
    }

    /// Row `row` as the network takes it.
    pub fn row(&self, row: usize, preprocess: &Preprocess) -> Result<Vec<f32>> {
        let [c, h, w] = self.spec.chw();
        let bgr = preprocess.channels == Some(Channels::Bgr) && c == 3;
        let mut values = match &self.source {
            Source::Images(files) => match files.get(row) {
                Some(file) => image::pixels(file, preprocess, [c, h, w])?,
                None => return Err(self.missing(row)),
            },
            Source::File { header, file } => {
                let bytes = header.element.bytes() * c * h * w;
                let mut buffer = vec![0; bytes];
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.seek(SeekFrom::Start((header.offset + row * bytes) as u64))
                    .and_then(|_| file.read_exact(&mut buffer))
                    .map_err(|e| unreadable(&self.origin, e.to_string()).at(format!("row {row}")))?;
                drop(file);
                self.decode(header, &buffer, row, bgr)?
            }
            Source::Memory { header, bytes } => {
                let size = header.element.bytes() * c * h * w;
                let row_bytes = bytes.get(row * size..(row + 1) * size).ok_or_else(|| self.missing(row))?;
                self.decode(header, row_bytes, row, bgr)?
            }
        };
        preprocess.normalize(&mut values, c);
        Ok(if self.spec.channels_last() { interleaved(&values, c) } else { values })
    }

    /// Elements of a row as [channels][height][width].
    fn decode(&self, header: &Header, bytes: &[u8], row: usize, bgr: bool) -> Result<Vec<f32>> {
        let [c, h, w] = self.spec.chw();
        let mut values = Vec::with_capacity(c * h * w);
        npy::decode_f32(header.element, bytes, &mut values);
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::new(Code::DATA, format!("{} holds {}", self.origin, values[at]))
                .at(format!("row {row}, element {at}"))
                .help("calibration and test data must be finite"));
        }
        let plane = h * w;
        if self.nhwc || self.spec.channels_last() {
            values = (0..c).flat_map(|k| values.iter().skip(k).step_by(c)).copied().collect();
        }
        if bgr {
            values = values.chunks(plane).rev().flatten().copied().collect();
        }
        Ok(values)
    }

    fn missing(&self, row: usize) -> Error {
        Error::new(Code::INTERNAL, format!("{} has no row {row}", self.origin))
    }
}

/// Whether the rows of an array fit the input, up to dimensions of 1.
fn check_row(spec: &InputSpec, origin: &str, header: &Header, nhwc: bool) -> Result<()> {
    let squeeze = |dims: &[usize]| dims.iter().copied().filter(|d| *d != 1).collect::<Vec<_>>();
    let [c, h, w] = spec.chw();
    let want = if nhwc && spec.row().len() == 3 { vec![h, w, c] } else { spec.row().to_vec() };
    let have = header.dims.get(1..).unwrap_or_default();
    if header.dims.is_empty() || squeeze(have) != squeeze(&want) {
        let error = Error::new(Code::DATA, format!("{origin} does not fit the input `{}`", spec.name))
            .because(format!("its shape is {:?}; rows of shape {want:?} are needed", header.dims));
        let other = if nhwc { "nchw" } else { "nhwc" };
        let turned = if nhwc { vec![c, h, w] } else { vec![h, w, c] };
        return Err(if squeeze(have) == squeeze(&turned) {
            error.help(format!("the data lies the other way: --layout {other}"))
        } else {
            error.help(format!("the input of the network is {}", spec.shape))
        });
    }
    Ok(())
}

/// [channels][plane] → [plane][channels].
fn interleaved(values: &[f32], channels: usize) -> Vec<f32> {
    let plane = values.len() / channels.max(1);
    (0..plane).flat_map(|p| values.iter().skip(p).step_by(plane.max(1))).copied().collect()
}

pub(super) fn unreadable(origin: &str, why: impl Into<String>) -> Error {
    Error::new(Code::DATA, format!("cannot read {origin}")).because(why)
}
