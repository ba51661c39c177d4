//! Calibration over the interpreter: what is watched, sharding, clamps, errors.
mod common;
use common::{Net, Rng};
use goshawk_ir::{FloatGraph, Shape, Tensor, op::float::BinaryFn, op::float::UnaryFn};
use goshawk_passes::{
    calibrate::{Calibrator, Method, Ranges},
    pipeline,
};

const METHODS: [Method; 5] =
    [Method::MinMax, Method::MovingAverage, Method::Percentile(99.0), Method::Mse, Method::Kl];

/// A small prepared network with a Relu6, a residual and a function.
fn network() -> FloatGraph {
    let mut n = Net::new(1);
    let x = n.input(&[1, 3, 8, 8]);
    let a = n.conv(x, 4, 3, 1, 1, true);
    let a = n.batch_norm(a);
    let a = n.clip(a, 0.0, 6.0);
    let b = n.conv(a, 4, 3, 1, 4, false);
    let c = n.add(a, b);
    let y = n.unary(c, &[UnaryFn::Sigmoid]);
    let mut g = n.done(&[y]);
    pipeline::prepare(&mut g, &mut |_, _| ()).unwrap();
    g
}

fn samples(count: usize) -> Vec<Vec<Tensor>> {
    let mut rng = Rng(5);
    (0..count).map(|i| vec![rng.tensor(&[1, 3, 8, 8], -1.0 - i as f32 / 8.0, 2.0)]).collect()
}

fn observed(g: &FloatGraph, method: Method, samples: &[Vec<Tensor>]) -> Calibrator {
    let mut c = Calibrator::new(g, method);
    for sample in samples {
        c.observe_batch(g, sample).unwrap();
    }
    c
}

fn ranges(g: &FloatGraph, method: Method, samples: &[Vec<Tensor>]) -> Ranges {
    observed(g, method, samples).finish(&|_| 4).unwrap()
}

#[test]
fn every_value_gets_a_range_inside_what_was_seen_and_inside_its_clamp() {
    let g = network();
    let widest = ranges(&g, Method::MinMax, &samples(12));
    assert_eq!(
        widest.map.keys().map(String::as_str).collect::<Vec<_>>(),
        ["binary", "conv", "conv.1", "input", "unary.1"]
    );
    assert_eq!(widest.get("conv").map(|(lo, _)| lo), Some(0.0));
    for method in METHODS {
        for (name, (lo, hi)) in ranges(&g, method, &samples(12)).map {
            let (least, most) = widest.get(&name).unwrap();
            assert!(
                least <= lo && lo <= hi && hi <= most,
                "{method} {name}: [{lo}, {hi}] in [{least}, {most}]"
            );
            assert!(name != "conv" || hi <= 6.0);
        }
    }
    assert!(widest.get("nothing").is_none());
}

#[test]
fn shards_do_not_change_the_result() {
    let g = network();
    let data = samples(11);
    for method in METHODS {
        let whole = ranges(&g, method, &data);
        for size in [1, 3, 10] {
            let mut shards = data.chunks(size).map(|part| observed(&g, method, part));
            let mut all = shards.next().unwrap();
            shards.for_each(|shard| all.merge(shard).unwrap());
            assert_eq!(all.finish(&|_| 4).unwrap(), whole, "{method} in shards of {size}");
        }
    }
}

#[test]
fn order_matters_to_moving_averages_only() {
    let g = network();
    let (data, mut reversed) = (samples(6), samples(6));
    reversed.reverse();
    for method in METHODS {
        let same = ranges(&g, method, &data) == ranges(&g, method, &reversed);
        assert_eq!(same, method != Method::MovingAverage, "{method}");
    }
}

#[test]
fn moving_average_follows_its_formula() {
    let mut n = Net::new(2);
    let x = n.input(&[2]);
    let g = n.done(&[x]);
    let sample = |lo: f32, hi: f32| vec![Tensor::from_f32(Shape::new([2]).unwrap(), vec![lo, hi]).unwrap()];
    let r = ranges(&g, Method::MovingAverage, &[sample(0.0, 1.0), sample(-1.0, 3.0)]);
    let (lo, hi) = r.get("input").unwrap();
    assert!((lo + 0.01).abs() < 1e-6 && (hi - 1.02).abs() < 1e-6);
}

#[test]
fn few_bits_give_narrower_ranges_and_sixteen_the_extrema() {
    let g = network();
    let c = observed(&g, Method::Mse, &samples(12));
    let width = |bits: u8| {
        let (lo, hi) = c.finish(&|_| bits).unwrap().get("input").unwrap();
        hi - lo
    };
    assert!(width(2) < width(8) && width(8) <= width(16));
    assert_eq!(c.finish(&|_| 16).unwrap(), ranges(&g, Method::MinMax, &samples(12)));
}

#[test]
fn nothing_observed_is_an_error() {
    for method in METHODS {
        let error = Calibrator::new(&network(), method).finish(&|_| 8).unwrap_err().to_string();
        assert!(error.contains("input: nothing was observed"), "{error}");
    }
}

#[test]
fn values_that_are_not_finite_name_the_tensor() {
    let mut n = Net::new(3);
    let (x, y) = (n.input(&[2]), n.input(&[2]));
    let d = n.binary(BinaryFn::Div, x, y);
    let g = n.done(&[d]);
    let tensor = |v: [f32; 2]| Tensor::from_f32(Shape::new([2]).unwrap(), v.to_vec()).unwrap();
    for (x, y, want) in [
        ([1.0, 0.0], [1.0, 0.0], "binary: element 1 is NaN"),
        ([1.0; 2], [0.0, 1.0], "binary: element 0 is inf"),
    ] {
        let mut c = Calibrator::new(&g, Method::Kl);
        let error = c.observe_batch(&g, &[tensor(x), tensor(y)]).unwrap_err().to_string();
        assert!(error.starts_with(want), "{error}");
    }
    let mut c = Calibrator::new(&g, Method::MinMax);
    let error = c.observe_batch(&g, &[tensor([f32::NAN, 0.0]), tensor([1.0; 2])]).unwrap_err().to_string();
    assert!(error.starts_with("input: element 0 is NaN"), "{error}");
}

#[test]
fn calibrations_that_do_not_belong_together_are_refused() {
    let (g, mut n) = (network(), Net::new(4));
    let x = n.input(&[2]);
    let other = n.done(&[x]);
    let mut c = Calibrator::new(&g, Method::Mse);
    assert!(c.merge(Calibrator::new(&g, Method::Kl)).is_err());
    assert!(c.merge(Calibrator::new(&other, Method::Mse)).is_err());
    let error = c.observe_batch(&other, &[]).unwrap_err().to_string();
    assert!(error.contains("not the one that is calibrated"), "{error}");
}

#[test]
fn methods_print_and_parse() {
    for method in METHODS {
        assert_eq!(method.to_string().parse(), Ok(method));
    }
    for bad in ["", "max", "percentile:", "percentile:50", "percentile:101", "percentile:NaN"] {
        assert!(bad.parse::<Method>().is_err(), "{bad}");
    }
    let c = observed(&network(), Method::Percentile(40.0), &samples(1));
    assert!(c.finish(&|_| 8).is_err());
    let c = observed(&network(), Method::Mse, &samples(1));
    assert!(c.finish(&|_| 1).is_err());
}
