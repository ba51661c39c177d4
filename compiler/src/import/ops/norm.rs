//! BatchNormalization at inference.
use crate::import::{
    cx::{Cx, Value},
    refusal::{Result, unsupported},
};
use goshawk_ir::{FloatOp, op::float::BatchNorm};

pub fn batch_norm(cx: &mut Cx<'_, '_>) -> Result<Vec<Value>> {
    // Opset 14 has training_mode; before opset 7 is_test had to be set. In between the number of outputs decided.
    let training = cx.attrs.flag("training_mode", false)?;
    if training || !cx.attrs.flag("is_test", true)? {
        return Err(unsupported("batch normalization in training mode")
            .help("export the model in inference mode (model.eval())"));
    }
    if !cx.attrs.flag("spatial", true)? {
        return Err(unsupported("batch normalization per activation (spatial = 0)")
            .help("export with opset 9 or later"));
    }
    let epsilon = cx.attrs.float("epsilon", 1e-5)?;
    let operands = (0..5).map(|i| cx.operand(i)).collect::<Result<Vec<_>>>()?;
    cx.emit(FloatOp::BatchNorm(BatchNorm { epsilon }), &operands)
}
