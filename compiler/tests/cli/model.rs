//! A small residual network and data for it, made on the spot.
use goshawk_compiler::{
    data::npy,
    import::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto},
};
use goshawk_ir::{Shape, Tensor};
use prost::Message;

/// Numbers in −1..1 from Marsaglia's xorshift32.
pub fn noise(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// x [1,3,8,8] → conv, relu → conv → + → relu → mean → [1,4].
pub fn residual() -> ModelProto {
    let conv = |x: &str, w: &str, b: &str, y: &str| {
        let pads = AttributeProto::ints("pads", &[1, 1, 1, 1]);
        NodeProto::new("Conv", &[x, w, b], &[y], vec![pads])
    };
    let node = |op: &str, x: &[&str], y: &str| NodeProto::new(op, x, &[y], vec![]);
    let weights = |name: &str, dims: &[i64], seed: u32, scale: f32| {
        let values: Vec<f32> =
            noise(seed, dims.iter().product::<i64>() as usize).iter().map(|v| v * scale).collect();
        TensorProto::f32(name, dims, &values)
    };
    let graph = GraphProto {
        name: "small".into(),
        node: vec![
            conv("x", "w1", "b1", "conv1"),
            node("Relu", &["conv1"], "relu1"),
            conv("relu1", "w2", "b2", "conv2"),
            node("Add", &["conv2", "relu1"], "sum"),
            node("Relu", &["sum"], "relu2"),
            node("GlobalAveragePool", &["relu2"], "mean"),
            node("Flatten", &["mean"], "flat"),
            NodeProto::new(
                "Gemm",
                &["flat", "w3", "b3"],
                &["logits"],
                vec![AttributeProto::int("transB", 1)],
            ),
        ],
        initializer: vec![
            weights("w1", &[8, 3, 3, 3], 1, 0.4),
            weights("b1", &[8], 2, 0.2),
            weights("w2", &[8, 8, 3, 3], 3, 0.2),
            weights("b2", &[8], 4, 0.2),
            weights("w3", &[4, 8], 5, 1.0),
            weights("b3", &[4], 6, 0.5),
        ],
        input: vec![ValueInfoProto::f32("x", &[1, 3, 8, 8])],
        output: vec![ValueInfoProto::f32("logits", &[1, 4])],
        ..GraphProto::default()
    };
    ModelProto::new(graph, 13)
}

pub fn bytes(model: &ModelProto) -> Vec<u8> {
    model.encode_to_vec()
}

/// The residual network with a change.
pub fn changed(change: impl FnOnce(&mut GraphProto)) -> Vec<u8> {
    let mut model = residual();
    change(model.graph.as_mut().expect("a graph"));
    bytes(&model)
}

/// A `.npy` of inputs.
pub fn samples(count: usize) -> Vec<u8> {
    array(&[count, 3, 8, 8], noise(77, count * 3 * 64))
}

/// A `.npy` of these values.
pub fn array(dims: &[usize], values: Vec<f32>) -> Vec<u8> {
    npy::encode(&Tensor::from_f32(Shape::new(dims.to_vec()).expect("shape"), values).expect("tensor"))
}
