//! ONNX front end: bytes → limits → [`goshawk_ir::FloatGraph`].
