//! Holds `tests/tract_oracle.rs`, which compares the importer and the float interpreter with tract-onnx.
