//! Images: decoding within limits, resize, centre crop.
use super::spec::{Channels, Preprocess, Size};
use crate::{Code, Error, Result};
use image::{DynamicImage, ImageReader, Limits, imageops::FilterType};
use std::path::{Path, PathBuf};

/// Largest side of an image file, and the memory that decoding it may take.
const MAX_SIDE: u32 = 32_768;
const MAX_ALLOC: u64 = 1 << 30;

/// Endings of files that are taken for images.
const ENDINGS: [&str; 4] = ["png", "jpg", "jpeg", "bmp"];

/// Whether the file's name says that it is an image.
pub fn is_image(path: &Path) -> bool {
    path.extension()
        .and_then(|e| e.to_str())
        .is_some_and(|e| ENDINGS.iter().any(|known| e.eq_ignore_ascii_case(known)))
}

/// The images of a folder, sorted by name.
///
/// # Errors
/// [`Code::FILE`] where the folder cannot be read.
pub fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e: std::io::Error| Error::file(folder, "read", &e);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if is_image(&path) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Decodes an image file.
///
/// # Errors
/// [`Code::DATA`]: damaged, not an image, or beyond the limits.
pub fn decode(path: &Path) -> Result<DynamicImage> {
    let mut reader = ImageReader::open(path)
        .and_then(ImageReader::with_guessed_format)
        .map_err(|e| Error::file(path, "open", &e))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_ALLOC);
    reader.limits(limits);
    reader.decode().map_err(|e| {
        Error::new(Code::DATA, format!("cannot decode the image {}", path.display()))
            .because(e.to_string())
            .help("goshawk reads PNG, JPEG and BMP; convert the file or take it out of the folder")
    })
}

/// Pixels as f32 in 0..=255 and [channels][height][width], after resize and crop; `channels` is 1 or 3.
///
/// # Errors
/// [`Code::DATA`]: the result is not `height` × `width`, or the network's input has another number of channels.
pub fn pixels(path: &Path, spec: &Preprocess, [channels, height, width]: [usize; 3]) -> Result<Vec<f32>> {
    let mut image = decode(path)?;
    if let Some(size) = spec.resize {
        let (h, w) = (image.height(), image.width());
        let (h, w) = match size {
            Size::Both([h, w]) => (h as u32, w as u32),
            Size::One(short) => {
                // torchvision's rule: the long side is truncated.
                let long = (short as u64 * u64::from(h.max(w)) / u64::from(h.min(w).max(1))).max(1) as u32;
                if h < w { (short as u32, long) } else { (long, short as u32) }
            }
        };
        if (h, w) != (image.height(), image.width()) {
            image = image.resize_exact(w, h, FilterType::Triangle);
        }
    }
    if let Some(size) = spec.crop {
        let (ch, cw) = match size {
            Size::One(n) => (n as u32, n as u32),
            Size::Both([h, w]) => (h as u32, w as u32),
        };
        let (h, w) = (image.height(), image.width());
        if ch > h || cw > w {
            return Err(Error::new(
                Code::DATA,
                format!("cannot cut {ch}x{cw} out of {}, which is {h}x{w}", path.display()),
            )
            .help("resize first, for example with --resize"));
        }
        image = image.crop_imm((w - cw).div_ceil(2), (h - ch).div_ceil(2), cw, ch);
    }
    let found = (image.height() as usize, image.width() as usize);
    if found != (height, width) {
        return Err(Error::new(
            Code::DATA,
            format!(
                "{} is {}x{} after preprocessing, the network needs {height}x{width}",
                path.display(),
                found.0,
                found.1
            ),
        )
        .help(format!("add --resize and --crop, for example --resize {height},{width}")));
    }
    let hwc = match channels {
        1 => image.into_luma8().into_raw(),
        3 => image.into_rgb8().into_raw(),
        _ => {
            return Err(Error::new(
                Code::DATA,
                format!("images have 1 or 3 channels, the network's input has {channels}"),
            )
            .help("give the data as .npy or .npz"));
        }
    };
    Ok(planes(&hwc, channels, spec.channels == Some(Channels::Bgr)))
}

/// Bytes of [height][width][channels] as f32 of [channels][height][width], the channels reversed on request.
pub fn planes(hwc: &[u8], channels: usize, reversed: bool) -> Vec<f32> {
    let order = |c: usize| if reversed { channels - 1 - c } else { c };
    (0..channels).flat_map(|c| hwc.iter().skip(order(c)).step_by(channels).map(|b| f32::from(*b))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GenericImage, Rgb, RgbImage};

    #[test]
    fn planes_take_channels_apart() {
        assert_eq!(planes(&[1, 2, 3, 4, 5, 6], 3, false), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(planes(&[1, 2, 3, 4, 5, 6], 3, true), [3.0, 6.0, 2.0, 5.0, 1.0, 4.0]);
    }

    #[test]
    fn the_centre_is_cut_out() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("a.png");
        let mut image = RgbImage::new(6, 4);
        image.copy_from(&RgbImage::from_pixel(2, 2, Rgb([9, 8, 7])), 2, 1).expect("inside");
        image.save(&path).expect("saved");
        let spec = Preprocess { crop: Some(Size::One(2)), ..Preprocess::default() };
        let x = pixels(&path, &spec, [3, 2, 2]).expect("pixels");
        assert_eq!(x, [9.0, 9.0, 9.0, 9.0, 8.0, 8.0, 8.0, 8.0, 7.0, 7.0, 7.0, 7.0]);
        let spec = Preprocess { resize: Some(Size::One(2)), ..Preprocess::default() };
        assert_eq!(pixels(&path, &spec, [1, 2, 3]).expect("pixels").len(), 6);
        assert!(pixels(&path, &spec, [3, 4, 4]).is_err_and(|e| e.what.contains("2x3")));
        let spec = Preprocess { crop: Some(Size::One(5)), ..Preprocess::default() };
        assert!(pixels(&path, &spec, [3, 5, 5]).is_err_and(|e| e.what.contains("cut")));
    }

    #[test]
    fn damaged_images_are_named() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("a.png");
        std::fs::write(&path, b"\x89PNG\r\n\x1a\nnothing").expect("written");
        let error = decode(&path).expect_err("damaged");
        assert!(error.code == Code::DATA && error.what.contains("a.png"));
    }
}
