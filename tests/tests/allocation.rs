//! From a model to bit widths: what layers cost, the problem, the plan, and what the lowered network says to it.
use goshawk_compiler::{
    codegen::Target,
    driver::{
        allocate::{
            Watched, budget, frontier,
            setup::{self, Choices},
            solver,
        },
        costs::{
            Costs,
            energy::Coefficients,
            measure::{self, Options},
            roofline::Roofline,
            table::CostTable,
        },
        model::Model,
        progress::Silent,
    },
    import,
};
use goshawk_ir::{IntOp, Tensor};
use goshawk_passes::{
    allocate::{Effort, Limit},
    bits::{BitPlan, LayerBits},
    calibrate::{Calibrator, Method},
    lower,
    sensitivity::{Curvature, LayerProfile, Metric, Profile},
};
use goshawk_tests::models;
use prost::Message;
use std::collections::BTreeMap;

fn bits(text: &str) -> LayerBits {
    LayerBits::parse(text).expect("widths")
}

/// Four convolutions, two of which read one tensor, and a linear layer.
fn model() -> Model {
    use goshawk_compiler::import::proto::{
        AttributeProto as A, GraphProto, ModelProto, NodeProto, ValueInfoProto,
    };
    let mut rng = models::Random(7);
    let conv = |x: &str, w: &str, y: &str, pad: i64| {
        NodeProto::new("Conv", &[x, w], &[y], vec![A::ints("pads", &[pad; 4])])
    };
    let node = vec![
        conv("x", "w1", "c1", 1),
        NodeProto::new("Relu", &["c1"], &["r1"], vec![]),
        conv("r1", "w2", "c2", 1),
        conv("r1", "w3", "c3", 0),
        NodeProto::new("Add", &["c2", "c3"], &["sum"], vec![]),
        NodeProto::new("Relu", &["sum"], &["r2"], vec![]),
        conv("r2", "w4", "c4", 1),
        NodeProto::new("Relu", &["c4"], &["r4"], vec![]),
        NodeProto::new("GlobalAveragePool", &["r4"], &["pool"], vec![]),
        NodeProto::new("Flatten", &["pool"], &["flat"], vec![]),
        NodeProto::new("Gemm", &["flat", "w5"], &["y"], vec![A::int("transB", 1)]),
    ];
    let initializer = vec![
        models::random(&mut rng, "w1", &[8, 3, 3, 3]),
        models::random(&mut rng, "w2", &[16, 8, 3, 3]),
        models::random(&mut rng, "w3", &[16, 8, 1, 1]),
        models::random(&mut rng, "w4", &[8, 16, 3, 3]),
        models::random(&mut rng, "w5", &[10, 8]),
    ];
    let graph = GraphProto {
        name: "branches".into(),
        node,
        initializer,
        input: vec![ValueInfoProto::f32("x", &[1, 3, 12, 12])],
        output: vec![ValueInfoProto::f32("y", &[1, 10])],
        ..GraphProto::default()
    };
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("branches.onnx");
    std::fs::write(&path, ModelProto::new(graph, 13).encode_to_vec()).expect("writable");
    Model::load(&path, &import::Options::default(), &mut |_, _| {}).expect("imports")
}

fn calibrator(model: &Model) -> Calibrator {
    let mut rng = models::Random(3);
    let mut calibrator = Calibrator::new(&model.graph, Method::MinMax);
    for _ in 0..4 {
        let inputs: Vec<Tensor> = model
            .inputs()
            .iter()
            .map(|i| Tensor::from_f32(i.shape.clone(), rng.floats(i.shape.count())).expect("a tensor"))
            .collect();
        calibrator.observe_batch(&model.graph, &inputs).expect("finite");
    }
    calibrator
}

/// A profile whose error falls by 4 with each bit and differs between layers.
fn profile(model: &Model, costs: &CostTable) -> Profile {
    let facts = &costs.models[&model.sha256];
    let mut order: Vec<_> = facts.iter().collect();
    order.sort_by_key(|(_, f)| f.position);
    let layers = order.into_iter().map(|(name, f)| {
        let errors = |scale: f64| Curvature {
            errors: (2..=8u8).map(|b| (b, scale * 4f64.powi(-i32::from(b)))).collect(),
            ..Curvature::default()
        };
        LayerProfile {
            name: name.clone(),
            parameters: f.weights,
            macs: f.macs,
            input: f.reads.clone(),
            input_elements: f.input,
            weights: errors(1.0 + f.position as f64),
            activations: errors(0.1),
            ..LayerProfile::default()
        }
    });
    Profile { layers: layers.collect(), model_sha256: model.sha256.clone(), ..Profile::default() }
}

#[test]
fn costs_are_measured_and_the_plan_keeps_what_was_promised() {
    let model = model();
    let calibrator = calibrator(&model);
    let lowering = lower::Options::default();
    let ranges = |plan: &BitPlan| model.ranges(&calibrator, plan, &lowering);
    let widths = vec![bits("w8a8"), bits("w4a8"), bits("w4a4")];
    let options = Options {
        widths: widths.clone(),
        runs: 4,
        cold_bytes: 1 << 20,
        again: false,
        lowering: lowering.clone(),
    };
    let target = Target::parse(None, "native").expect("this machine");
    let mut table = CostTable::default();
    let measured =
        measure::measure(&model, &ranges, &target, &options, &mut table, &Silent).expect("measures");
    assert_eq!((measured.variants, measured.measured), (15, 15), "five shapes at three widths");
    assert_eq!(measured.model.wholes.len(), 3 + 4, "uniform and mixed ones");
    assert!(measured.model.wholes.iter().all(|w| w.measured_us > 0.0 && w.predicted_us.is_finite()));
    let table = CostTable::parse(&table.print().expect("text")).expect("reads back");
    let again =
        measure::measure(&model, &ranges, &target, &options, &mut table.clone(), &Silent).expect("measures");
    assert_eq!(again.measured, 0, "the table knows all variants");

    let (_, cpu) = table.cpu(Some(&measure::isa(&target))).expect("measured");
    let facts = &table.models[&model.sha256];
    let costs = Costs {
        facts,
        energy: Coefficients::default(),
        cpu: Some(cpu),
        blend: cpu.models.get(&model.sha256),
        roofline: Roofline::new(Some(cpu)),
    };
    assert!(
        facts.values().all(|f| widths.iter().all(|b| costs.latency(f, *b).1 && costs.latency(f, *b).0 > 0.0))
    );
    assert_eq!(facts["c2"].reads, facts["c3"].reads);
    assert!(facts["c1"].first && facts["y"].last && !facts["c4"].first);
    assert_eq!(facts["c2"].macs, 16 * 12 * 12 * 8 * 9);

    let profile = profile(&model, &table);
    let choices = Choices { widths, pins: BTreeMap::new(), free_ends: false, metric: Metric::Error };
    let mut problem = setup::problem(&profile, &costs, &choices).expect("a problem");
    assert_eq!(problem.classes.len(), 4, "the two readers of one tensor are one class");
    let half = "size=0.5".parse::<budget::Budget>().expect("a budget");
    let limit = budget::limit(&problem, &half).expect("a limit");
    problem.limits.push(limit);
    let watched = Watched::default();
    let ilp = solver("ilp", &watched).expect("known");
    let solution = ilp.solve(&problem, &Effort::default()).expect("feasible");
    assert!(solution.certificate.proven);
    let plan = setup::plan(&problem, &solution.choices);
    assert_eq!((plan.layers["c1"], plan.layers["y"]), (LayerBits::W8A8, LayerBits::W8A8));
    assert_eq!(plan.layers["c2"].activations, plan.layers["c3"].activations);

    // The bytes of the lowered network are those of the problem.
    let quantized = model.lower(&ranges(&plan).expect("ranges"), &plan, &lowering).expect("lowers");
    let graph = &quantized.graph;
    let mut bytes = 0;
    for id in graph.ids().filter(|id| matches!(graph.node(*id).op, IntOp::Conv(_) | IntOp::Linear(_))) {
        let types = graph.operand_types(id);
        bytes += types[1].bytes() + 9 * types[1].shape[0];
    }
    let size = problem.metric("size").expect("known");
    assert_eq!(solution.totals[size], bytes as f64);
    assert!(bytes as f64 <= problem.limits[0].max);

    // The frontier: a smaller budget never has less sensitivity.
    problem.limits.clear();
    let points =
        frontier::sweep(&problem, ilp.as_ref(), &[size], 9, &Effort::default(), &Silent).expect("points");
    assert!(points.len() >= 3, "{}", points.len());
    for pair in points.windows(2) {
        assert!(pair[0].totals[0] >= pair[1].totals[0] && pair[0].totals[size] <= pair[1].totals[size]);
    }
    let naive = frontier::naive(&problem, 4, 1);
    for n in &naive {
        problem.limits = vec![Limit { metric: size, max: n.totals[size] }];
        let best = ilp.solve(&problem, &Effort::default()).expect("the naive one is feasible");
        assert!(
            best.totals[0] <= n.totals[0] * (1.0 + 1e-9),
            "{}: {} against {}",
            n.name,
            n.totals[0],
            best.totals[0]
        );
    }
}

#[test]
fn pins_decide_for_those_who_read_the_same_tensor() {
    let model = model();
    let calibrator = calibrator(&model);
    let plan = measure::everywhere(LayerBits::W8A8);
    let lowering = lower::Options::default();
    let ranges = model.ranges(&calibrator, &plan, &lowering).expect("ranges");
    let quantized = model.lower(&ranges, &plan, &lowering).expect("lowers");
    let facts = goshawk_compiler::driver::costs::facts::of(&model, &quantized).expect("facts");
    let table = CostTable { models: [(model.sha256.clone(), facts.clone())].into(), ..CostTable::default() };
    let profile = profile(&model, &table);
    let costs = Costs {
        facts: &facts,
        energy: Coefficients::default(),
        cpu: None,
        blend: None,
        roofline: Roofline::new(None),
    };
    let choices = |pins: &[(&str, &str)]| Choices {
        widths: vec![bits("w8a8"), bits("w4a8"), bits("w4a4")],
        pins: pins.iter().map(|(n, b)| ((*n).to_owned(), bits(b))).collect(),
        free_ends: false,
        metric: Metric::Error,
    };
    let problem = setup::problem(&profile, &costs, &choices(&[("c2", "w4a4")])).expect("a problem");
    let class = problem.classes.iter().find(|c| c.members.contains(&"c2".to_owned())).expect("its class");
    assert!(class.choices.iter().all(|c| c.bits.iter().all(|b| b.activations == 4)));
    let contradiction = setup::problem(&profile, &costs, &choices(&[("c2", "w4a4"), ("c3", "w8a8")]));
    assert!(contradiction.is_err_and(|e| e.to_string().contains("no activation width in common")));
    let unknown = setup::problem(&profile, &costs, &choices(&[("nope", "w8a8")]));
    assert!(unknown.is_err_and(|e| e.to_string().contains("nope")));
    // Every plan of the problem resolves: pinned widths never contradict the coupling.
    let plan = setup::plan(&problem, &problem.at_level(bits("w8a8")));
    plan.resolve(&model.graph).expect("consistent");
}
