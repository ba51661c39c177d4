//! Small ONNX models built in memory.
use goshawk_compiler::import::proto::{
    AttributeProto as A, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};

/// Numbers that look random and are the same everywhere (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// A float in [−1, 1).
    pub fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Floats in [−1, 1).
    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

/// A float tensor of random values.
pub fn random(rng: &mut Random, name: &str, dims: &[i64]) -> TensorProto {
    let count = dims.iter().product::<i64>() as usize;
    TensorProto::f32(name, dims, &rng.floats(count))
}

/// Conv, BatchNormalization, Relu, MaxPool, Flatten, Gemm on [1,3,8,8], opset 13.
pub fn small_cnn() -> ModelProto {
    let mut rng = Random(1);
    let mut variance = random(&mut rng, "variance", &[4]);
    variance.raw_data = [0.5f32, 1.0, 2.0, 0.25].iter().flat_map(|v| v.to_le_bytes()).collect();
    let initializer = vec![
        random(&mut rng, "conv_w", &[4, 3, 3, 3]),
        random(&mut rng, "conv_b", &[4]),
        random(&mut rng, "gamma", &[4]),
        random(&mut rng, "beta", &[4]),
        random(&mut rng, "mean", &[4]),
        variance,
        random(&mut rng, "fc_w", &[10, 64]),
        random(&mut rng, "fc_b", &[10]),
    ];
    let node = vec![
        NodeProto::new("Conv", &["x", "conv_w", "conv_b"], &["conv"], vec![A::ints("pads", &[1, 1, 1, 1])]),
        NodeProto::new("BatchNormalization", &["conv", "gamma", "beta", "mean", "variance"], &["bn"], vec![]),
        NodeProto::new("Relu", &["bn"], &["relu"], vec![]),
        NodeProto::new(
            "MaxPool",
            &["relu"],
            &["pool"],
            vec![A::ints("kernel_shape", &[2, 2]), A::ints("strides", &[2, 2])],
        ),
        NodeProto::new("Flatten", &["pool"], &["flat"], vec![]),
        NodeProto::new("Gemm", &["flat", "fc_w", "fc_b"], &["y"], vec![A::int("transB", 1)]),
    ];
    let graph = GraphProto {
        name: "small_cnn".into(),
        node,
        initializer,
        input: vec![ValueInfoProto::f32("x", &[1, 3, 8, 8])],
        output: vec![ValueInfoProto::f32("y", &[1, 10])],
        ..GraphProto::default()
    };
    ModelProto::new(graph, 13)
}
