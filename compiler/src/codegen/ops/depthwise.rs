//! Depthwise convolutions by assembled row kernels (`crate::ukernel::depthwise`), for x86-64 with AVX2 or AVX-512 VNNI.
use super::{
    conv::ConvSpec,
    rows::{self, Range, Rows},
    tiles::{self, Leaves},
};
use crate::{
    Result,
    codegen::{
        emitter::{Emitter, fail},
        parallel::LayerFn,
        target::Target,
    },
    ukernel::{
        Depthwise, Isa, Rescale,
        depthwise::Values,
        pack::Channel,
        row::{MAX_KERNEL, Row},
    },
};
use cranelift_module::Module;
use goshawk_ir::DType;

/// What the planner decided for a layer of row kernels.
#[derive(Clone, Debug)]
pub(crate) struct RowPlan {
    isa: Isa,
    leaf: Depthwise,
    channels: Vec<Channel>,
}

impl RowPlan {
    /// Name of the kernel for reports. Four-bit weights are unpacked when compiling.
    pub fn name(&self, spec: &ConvSpec) -> String {
        let [rows, columns] = self.leaf.row.kernel;
        let weights = if spec.int4 { "i4 as i8" } else { "i8" };
        let rescale = match self.leaf.rescale {
            Rescale::Float => "f32",
            Rescale::Integer { .. } => "i64",
        };
        format!(
            "{} depthwise {rows}x{columns} s{} {weights} {rescale}",
            self.isa.name(),
            self.leaf.row.stride
        )
    }
}

/// Describes the row kernel, or says why the layer cannot have one; nothing where the target has none at all.
pub(crate) fn plan(spec: &ConvSpec, target: &Target) -> std::result::Result<RowPlan, Option<String>> {
    let Some(isa) = rows::isa(target) else { return Err(None) };
    let [rows, columns] = spec.kernel;
    if spec.output.dtype != DType::U8 {
        return Err(Some("the result has 16 bits".into()));
    }
    if rows > MAX_KERNEL || columns > MAX_KERNEL {
        return Err(Some(format!("a kernel of {rows}x{columns} is larger than {MAX_KERNEL}x{MAX_KERNEL}")));
    }
    if spec.window.dilation[1] != 1 && columns != 1 {
        return Err(Some("taps of a kernel row are not neighbours (dilation)".into()));
    }
    let bounds = spec.bounds();
    let channels = tiles::channels(spec, isa, &bounds)?;
    let [_, _, width, _] = spec.input;
    let row = Row {
        channels: spec.channels,
        kernel: spec.kernel,
        stride: spec.window.stride[1],
        pad: spec.window.pads[1] as isize,
        width,
        out_width: spec.out[1],
    };
    let leaf = Depthwise {
        row,
        alike: false,
        input_zero_point: spec.input_zero_point as u8,
        zero_point: spec.output.zero_point,
        clamp: (spec.output.lo, spec.output.hi),
        rescale: tiles::choose_rescale(spec, target, &channels, &bounds),
    };
    Ok(RowPlan { isa, leaf, channels })
}

/// Defines the layer's function: (input, result, range of output rows).
pub(crate) fn define<M: Module>(
    em: &mut Emitter<M>,
    leaves: &mut Leaves,
    name: &str,
    spec: &ConvSpec,
    plan: &RowPlan,
) -> Result<LayerFn> {
    let code = plan.leaf.assemble(plan.isa).map_err(|e| fail(name, &e))?;
    let leaf = rows::leaf(em, leaves, "depthwise", code)?;
    let values = Values { weights: &spec.weights, channels: &plan.channels };
    let constants = plan.leaf.constants(plan.isa, &values);
    let class_bytes = constants.len();
    let constants = em.rodata(&format!("{name}_weights"), constants)?;
    let rows = Rows {
        input: spec.input,
        out: spec.out,
        kernel: spec.kernel[0],
        dilation: spec.window.dilation[0],
        stride: spec.window.stride[0],
        pad: spec.window.pads[0],
        fill: [spec.input_zero_point as u8; 2],
        classes: vec![0],
    };
    rows.define(em, name, &[Range { leaf, start: 0, constants, class_bytes }])
}
