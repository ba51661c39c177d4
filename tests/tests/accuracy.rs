//! Accuracy that quantization may cost, on labelled test sets, calibrated as the command does by default.
//!
//! The example network is measured in every test run. The others need `GOSHAWK_ASSETS` and minutes:
//! `cargo test --release -p goshawk-tests --test accuracy -- --include-ignored --nocapture`. The integer network runs as
//! machine code; that this equals the interpreter is the business of `models.rs`.
use goshawk_compiler::driver::model::DEFAULT_METHOD;
use goshawk_ir::{Tensor, interp};
use goshawk_passes::bits::BitPlan;
use goshawk_tests::{
    subjects::Subject,
    whole::{Quantized, Result, at},
};
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;

/// A claim: the integer network loses at most so many percentage points of top-1.
struct Claim {
    network: &'static str,
    bits: &'static str,
    /// Most points lost.
    points: f64,
    /// Least float accuracy in percent: with wrong preprocessing, nothing would be shown.
    float: f64,
    long: bool,
}

const CLAIMS: [Claim; 5] = [
    Claim { network: "fashion", bits: "w8a8", points: 0.5, float: 90.0, long: false },
    Claim { network: "dscnn_kws", bits: "w8a8", points: 1.0, float: 91.0, long: false },
    Claim { network: "resnet20", bits: "w8a8", points: 0.3, float: 91.6, long: true },
    Claim { network: "mobilenet_v2", bits: "w8a8", points: 1.5, float: 84.0, long: true },
    Claim { network: "efficientnet_lite0", bits: "w8a8", points: 1.5, float: 87.0, long: true },
];

fn main() -> ExitCode {
    let trials = CLAIMS.into_iter().map(|claim| {
        let there = Subject::named(claim.network).is_some_and(|s| s.model().is_some());
        let note = if there { "" } else { " (absent: set GOSHAWK_ASSETS)" };
        let name = format!("{}::{}{note}", claim.network, claim.bits);
        let ignored = claim.long || !there;
        Trial::test(name, move || check(&claim).map_err(Failed::from)).with_ignored_flag(ignored)
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn check(claim: &Claim) -> Result<()> {
    let subject = Subject::named(claim.network).ok_or("no such network")?;
    let plan = BitPlan::uniform(claim.bits).map_err(at("bits"))?;
    let model = Quantized::new(&subject, &plan, DEFAULT_METHOD, 100)?;
    let jit = model.jit("native")?;
    let set = subject.test_set(&model.float, None).map_err(at("test data"))?;
    let (mut float, mut int) = (0u32, 0u32);
    for i in 0..set.len() {
        let inputs = set.sample(i).map_err(at("test data"))?;
        let labels = set.labels(i).map_err(at("labels"))?;
        let real = interp::float::run(&model.float, &inputs).map_err(at("float interpreter"))?;
        float += u32::from(top1(&real)? == labels);
        int += u32::from(top1(&jit.run_f32(&inputs).map_err(at("machine code"))?)? == labels);
    }
    let percent = |right: u32| 100.0 * f64::from(right) / set.len() as f64;
    let (float, int) = (percent(float), percent(int));
    let summary = format!("{} {}: float {float:.2} %, integer {int:.2} %", claim.network, claim.bits);
    eprintln!("{summary} of {} samples", set.len());
    if float < claim.float {
        return Err(format!("{summary}: the float network should reach {} %", claim.float));
    }
    if float - int > claim.points {
        return Err(format!("{summary}: more than {} points lost", claim.points));
    }
    Ok(())
}

/// Class with the largest logit; the first output holds the logits of one sample.
fn top1(outputs: &[Tensor]) -> Result<[u32; 1]> {
    let logits = outputs.first().ok_or("no output")?.as_f32().map_err(at("logits"))?;
    let best = logits.iter().enumerate().max_by(|(i, a), (j, b)| a.total_cmp(b).then(j.cmp(i)));
    best.map(|(i, _)| [i as u32]).ok_or_else(|| "no logits".to_owned())
}
