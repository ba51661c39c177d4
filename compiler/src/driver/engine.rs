//! What runs a network: the float interpreter, the integer interpreter, machine code.
use crate::{Code, Error, Result, codegen::JitModel};
use goshawk_ir::{FloatGraph, IntGraph, Shape, Tensor, interp};
use goshawk_runtime::Library;

/// A network with something that executes it. All take and give f32 in the layout of the ONNX model.
#[derive(Clone, Copy)]
pub enum Engine<'a> {
    /// Float reference.
    Float(&'a FloatGraph),
    /// Integer reference: the normative semantics.
    Int(&'a IntGraph),
    /// Machine code in this process.
    Jit(&'a JitModel),
    /// A compiled library.
    Library(&'a Library),
}

impl Engine<'_> {
    /// Name in reports.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Float(_) => "float",
            Self::Int(_) => "int",
            Self::Jit(_) => "native",
            Self::Library(_) => "library",
        }
    }

    /// Runs once.
    ///
    /// # Errors
    /// [`Code::RUN`] where the tensors do not fit or machine code cannot run here.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let failed = |e| Error::from_ir(Code::RUN, e);
        match self {
            Self::Float(graph) => interp::float::run(graph, inputs).map_err(failed),
            Self::Int(graph) => interp::boundary::run_f32(graph, inputs).map_err(failed),
            Self::Jit(model) => model.run_f32(inputs),
            Self::Library(library) => run_library(library, inputs),
        }
    }
}

fn run_library(library: &Library, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    let failed = |e| Error::from_ir(Code::RUN, e);
    let slices = inputs.iter().map(|t| t.as_f32().map_err(failed)).collect::<Result<Vec<_>>>()?;
    let outputs = library.run_f32(&slices).map_err(|e| Error::new(Code::RUN, e.to_string()))?;
    let tensor = |(info, values): (&goshawk_runtime::TensorInfo, Vec<f32>)| {
        let dims: Vec<usize> = info.f32_dims.clone();
        Shape::new(dims).and_then(|shape| Tensor::from_f32(shape, values)).map_err(failed)
    };
    library.info().outputs.iter().zip(outputs).map(tensor).collect()
}
