//! What does not fit is refused with the reason.
use super::{check::batch, common::Net, networks};
use goshawk_ir::{
    FloatOp, Tensor,
    op::float::{Axis, Conv, UnaryFn},
    op::window::ConvWindow,
};
use goshawk_passes::gradient::{Engine, Keep, Loss, Noise, Parts, Rows, Serial};

#[track_caller]
fn refused<T>(result: goshawk_ir::Result<T>, words: &[&str]) {
    let message = result.err().expect("an error").to_string();
    for word in words {
        assert!(message.contains(word), "{message:?} lacks {word:?}");
    }
}

#[test]
fn computed_weights_name_their_node() {
    let mut n = Net::new(1);
    let x = n.input(&[1, 2, 4, 4]);
    let w = n.input(&[3, 2, 1, 1]);
    let y = n.op(FloatOp::Conv(Conv { window: ConvWindow::unit(), clamp: None }), &[x, w]);
    let name = n.g.node(y).name.clone();
    refused(Engine::<f32>::new(&n.done(&[y])), &[&name, "computed weights"]);
}

#[test]
fn a_network_needs_layers_and_outputs_of_the_right_kind() {
    let mut n = Net::new(1);
    let x = n.input(&[1, 4]);
    let y = n.unary(x, &[UnaryFn::Tanh]);
    refused(Engine::<f32>::new(&n.done(&[y])), &["no convolution or linear layer"]);

    let engine = Engine::<f64>::new(&networks::functions()).unwrap();
    let x = batch(&networks::functions(), 1, 1);
    refused(engine.linearise(&x, &Loss::CrossEntropyOwn, Keep::Values, &Serial), &["one output", "2"]);

    let mut n = Net::new(1);
    let x = n.input(&[1, 2, 3, 3]);
    let y = n.conv(x, 3, 1, 0, 1, true);
    let y = n.op(FloatOp::Softmax(Axis { axis: 3 }), &[y]);
    let g = n.done(&[y]);
    let engine = Engine::<f64>::new(&g).unwrap();
    refused(engine.linearise(&batch(&g, 1, 1), &Loss::CrossEntropyOwn, Keep::Values, &Serial), &["axis 3"]);
}

#[test]
fn batches_labels_and_targets_are_checked() {
    let g = networks::windows();
    let engine = Engine::<f64>::new(&g).unwrap();
    let x = batch(&g, 2, 1);
    let run =
        |x: &[Vec<Tensor>], loss: &Loss<'_>| engine.linearise(x, loss, Keep::Everything, &Serial).map(|_| ());
    refused(run(&[], &Loss::CrossEntropyOwn), &["sample"]);
    refused(run(&x, &Loss::CrossEntropy(&[0])), &["1 labels for 2 samples"]);
    refused(run(&x, &Loss::CrossEntropy(&[0, 4])), &["label 1 is 4", "4 classes"]);
    refused(run(&x, &Loss::SquaredError(&[])), &["0 targets for 2 samples"]);
    refused(run(&x, &Loss::SquaredError(&[vec![], vec![]])), &["target 0 has 0 tensors"]);
    refused(run(&x, &Loss::SquaredError(&x)), &["target 0", "shape"]);
    refused(run(&[vec![]], &Loss::CrossEntropyOwn), &["sample 0 has 0 tensors"]);
    let small = Tensor::from_f32(goshawk_ir::Shape::new([1]).unwrap(), vec![0.0]).unwrap();
    refused(run(&[vec![small]], &Loss::CrossEntropyOwn), &["sample 0", "shape [1]"]);
    let mut infinite = x[0][0].as_f32().unwrap().to_vec();
    infinite[3] = f32::NAN;
    let infinite = Tensor::from_f32(x[0][0].shape().clone(), infinite).unwrap();
    refused(run(&[x[1].clone(), vec![infinite]], &Loss::CrossEntropyOwn), &["loss of sample 1", "NaN"]);
}

#[test]
fn directions_and_kept_values_are_checked() {
    let g = networks::windows();
    let engine = Engine::<f64>::new(&g).unwrap();
    let x = batch(&g, 2, 1);
    let lin = engine.linearise(&x, &Loss::CrossEntropyOwn, Keep::Values, &Serial).unwrap();
    refused(lin.hvp(&Parts::new(), Rows::All, &Serial), &["keeps everything"]);
    refused(lin.squares(Noise::Fisher, &Serial), &["labels"]);
    let lin = engine.linearise(&x, &Loss::CrossEntropyOwn, Keep::Nothing, &Serial).unwrap();
    refused(lin.squares(Noise::Exact, &Serial), &["keeps values"]);
    let lin = engine.linearise(&x, &Loss::CrossEntropyOwn, Keep::Everything, &Serial).unwrap();
    let mut v = Parts::new();
    v.weights.insert(99, vec![]);
    refused(lin.hvp(&v, Rows::All, &Serial), &["layer 99"]);
    let mut v = Parts::new();
    v.weights.insert(0, vec![0.0]);
    refused(lin.hvp(&v, Rows::All, &Serial), &["1 values"]);
    let mut v = Parts::new();
    v.activations.insert(0, vec![0.0]);
    refused(lin.hvp(&v, Rows::All, &Serial), &["1 values"]);
    refused(lin.hvp(&Parts::new(), Rows::Of(&[99], &[]), &Serial), &["99"]);
    let mut engine = Engine::<f64>::new(&g).unwrap();
    refused(engine.set_weights(0, &[1.0]), &["1 values"]);
    refused(engine.set_weights(99, &[1.0]), &["layer 99"]);
}
