//! Calibration and test data: `.npy`, `.npz`, folders of images.
