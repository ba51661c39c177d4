//! Data sets of every kind, good and bad, written into a temporary folder.
use super::*;
use goshawk_ir::Shape;
use spec::{Affine, Channels, DataLayout};
use std::collections::BTreeMap;
use tempfile::TempDir;

fn input(dims: &[usize]) -> Vec<InputSpec> {
    vec![InputSpec { name: "input".into(), shape: shape(dims) }]
}

fn shape(dims: &[usize]) -> Shape {
    Shape::new(dims.to_vec()).expect("shape")
}

fn f32s(dims: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_f32(shape(dims), values.to_vec()).expect("tensor")
}

fn u8s(dims: &[usize], values: &[u8]) -> Tensor {
    Tensor::from_u8(shape(dims), values.to_vec()).expect("tensor")
}

fn save(dir: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).expect("written");
    path
}

fn save_npz(dir: &TempDir, arrays: &[(&str, Tensor)]) -> PathBuf {
    let arrays: BTreeMap<_, _> = arrays.iter().map(|(n, t)| ((*n).to_owned(), t.clone())).collect();
    save(dir, "set.npz", npz::encode(&arrays).expect("npz"))
}

fn values(set: &Dataset, sample: usize) -> Vec<f32> {
    set.sample(sample).expect("sample")[0].as_f32().expect("f32").to_vec()
}

fn refused(path: &Path, inputs: &[InputSpec], options: &Options) -> Error {
    match Dataset::open(path, inputs, options) {
        Err(e) => e,
        Ok(_) => panic!("{} was accepted", path.display()),
    }
}

fn dir() -> TempDir {
    tempfile::tempdir().expect("dir")
}

#[test]
fn npy_rows_are_read_from_the_file() {
    let dir = dir();
    let path = save(&dir, "x.npy", npy::encode(&f32s(&[3, 2], &[1., 2., 3., 4., 5., 6.])));
    save(&dir, "x_labels.json", "[7, 8, 9]");
    let set = Dataset::open(&path, &input(&[1, 2]), &Options::default()).expect("set");
    assert_eq!((set.len(), values(&set, 2)), (3, vec![5., 6.]));
    assert_eq!(set.labels(1).expect("labels"), [8]);
    let set = Dataset::open(&path, &input(&[1, 2]), &Options { samples: Some(2), ..Options::default() })
        .expect("set");
    assert_eq!((values(&set, 0), values(&set, 1)), (vec![1., 2.], vec![3., 4.]));
    let set = Dataset::open(&path, &input(&[3, 2]), &Options::default()).expect("set");
    assert_eq!((set.len(), set.labels(0).expect("labels")), (1, &[7, 8, 9][..]));
}

#[test]
fn npz_arrays_are_found_by_name() {
    let dir = dir();
    let x = u8s(&[2, 3, 1], &[80, 83, 85, 1, 2, 3]);
    let options = Options {
        preprocess: Preprocess {
            affine: Some(Affine { scale: 0.5, zero_point: 83 }),
            ..Preprocess::default()
        },
        ..Options::default()
    };
    for name in ["input", "x", "images", "x_int8"] {
        let path = save_npz(&dir, &[(name, x.clone()), ("y", u8s(&[2], &[4, 5]))]);
        let set = Dataset::open(&path, &input(&[1, 1, 3, 1]), &options).expect(name);
        assert_eq!(values(&set, 0), [-1.5, 0.0, 1.0]);
        assert_eq!(set.labels(1).expect("labels"), [5]);
    }
    let path = save_npz(&dir, &[("a", x.clone()), ("b", x.clone())]);
    assert!(refused(&path, &input(&[1, 3]), &options).what.contains("input"));
    let two = [input(&[1, 3]), vec![InputSpec { name: "b".into(), shape: shape(&[1, 3]) }]].concat();
    assert!(refused(&path, &two, &options).what.contains("`input`"));
}

#[test]
fn arrays_are_turned_into_the_networks_layout() {
    let dir = dir();
    let path = save(&dir, "x.npy", npy::encode(&u8s(&[1, 1, 2, 3], &[1, 2, 3, 4, 5, 6])));
    let error = refused(&path, &input(&[1, 3, 1, 2]), &Options::default());
    assert!(error.remedy.is_some_and(|h| h.contains("--layout nhwc")));
    let mut options = Options::default();
    options.preprocess.layout = Some(DataLayout::Nhwc);
    let set = Dataset::open(&path, &input(&[1, 3, 1, 2]), &options).expect("set");
    assert_eq!(values(&set, 0), [1., 4., 2., 5., 3., 6.]);
    options.preprocess.channels = Some(Channels::Bgr);
    let set = Dataset::open(&path, &input(&[1, 3, 1, 2]), &options).expect("set");
    assert_eq!(values(&set, 0), [3., 6., 2., 5., 1., 4.]);
}

#[test]
fn png_rows_and_folders() {
    let dir = dir();
    let strip = ::image::RgbImage::from_raw(4, 2, (0..24).collect()).expect("image");
    let path = dir.path().join("strip.png");
    strip.save(&path).expect("saved");
    let mut options = Options::default();
    options.preprocess.rows = Some([2, 2, 3]);
    let set = Dataset::open(&path, &input(&[1, 3, 2, 2]), &options).expect("set");
    assert_eq!((set.len(), values(&set, 1)[..5].to_vec()), (2, vec![12., 15., 18., 21., 13.]));
    options.preprocess.rows = Some([3, 2, 3]);
    assert!(refused(&path, &input(&[1, 3, 2, 2]), &options).reason.is_some_and(|r| r.contains("4 pixels")));

    let set = Dataset::open(dir.path(), &input(&[1, 3, 2, 4]), &Options::default()).expect("set");
    assert_eq!((set.len(), set.is_labelled()), (1, false));
    assert!(set.labels(0).is_err_and(|e| e.remedy.is_some()));
    save(&dir, "labels.csv", "file,label\nstrip.png,3\n");
    let set = Dataset::open(dir.path(), &input(&[1, 3, 2, 4]), &Options::default()).expect("set");
    assert_eq!(set.labels(0).expect("labels"), [3]);
    for name in ["gone.png", "../strip.png"] {
        save(&dir, "labels.csv", format!("file,label\n{name},3\n"));
        assert!(refused(dir.path(), &input(&[1, 3, 2, 4]), &Options::default()).what.contains(name));
    }
}

#[test]
fn channels_last_networks_get_interleaved_images() {
    let dir = dir();
    ::image::RgbImage::from_raw(2, 2, (0..12).collect())
        .expect("image")
        .save(dir.path().join("a.png"))
        .expect("saved");
    let set = Dataset::open(dir.path(), &input(&[1, 2, 2, 3]), &Options::default()).expect("set");
    assert_eq!(values(&set, 0), (0..12u8).map(f32::from).collect::<Vec<_>>());
}

#[test]
fn unusable_sets_are_refused_with_file_and_shape() {
    let dir = dir();
    let options = Options::default();
    let nan = save(&dir, "nan.npy", npy::encode(&f32s(&[2, 2], &[1., 2., f32::NAN, 4.])));
    let set = Dataset::open(&nan, &input(&[1, 2]), &options).expect("set");
    let error = set.sample(1).expect_err("NaN");
    assert!(error.what.contains("nan.npy") && error.place.is_some_and(|p| p.contains("row 1, element 0")));

    let error = refused(&nan, &input(&[1, 3]), &options);
    assert!(error.reason.is_some_and(|r| r.contains("[2, 2]") && r.contains("[3]")), "wrong shape");
    let mut short = npy::encode(&f32s(&[2, 2], &[1.; 4]));
    short.pop();
    let path = save(&dir, "short.npy", short);
    assert!(refused(&path, &input(&[1, 2]), &options).reason.is_some_and(|r| r.contains("bytes")));
    let empty = b"\x93NUMPY\x01\x00\x36\x00{'descr': '<f4', 'fortran_order': False, 'shape': (0,2)}";
    let path = save(&dir, "empty.npy", &empty[..]);
    assert!(refused(&path, &input(&[1, 2]), &options).what.contains("empty"));
    std::fs::create_dir(dir.path().join("none")).expect("dir");
    assert!(refused(&dir.path().join("none"), &input(&[1, 3, 2, 2]), &options).what.contains("empty"));
    assert_eq!(refused(&dir.path().join("gone"), &input(&[1, 2]), &options).code, Code::FILE);
    let path = save(&dir, "bad.npz", "PK no");
    assert_eq!(refused(&path, &input(&[1, 2]), &options).code, Code::DATA);
    let path = save(&dir, "a.txt", "1 2");
    assert!(refused(&path, &input(&[1, 2]), &options).remedy.is_some());
    let resized =
        Options { preprocess: Preprocess::preset("imagenet").expect("preset"), ..Options::default() };
    assert!(refused(&nan, &input(&[1, 2]), &resized).what.contains("resized"));
    save(&dir, "nan_labels.txt", "1\n2\n3\n");
    assert!(refused(&nan, &input(&[1, 2]), &options).what.contains("3 labels for 2 rows"));
}
