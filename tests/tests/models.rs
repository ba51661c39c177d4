//! Whole networks: interpreter, JIT and shared library give the same bytes.
//!
//! Every network of [`Subject::all`] is compiled at w8a8, small ones at w4a8 and w4a4 too, and runs on 20 inputs. The
//! large ones take minutes: `cargo test --release -p goshawk-tests --test models -- --include-ignored`. Networks that
//! this machine does not have are ignored by name, and fail if they are asked for.
use goshawk_ir::{Tensor, interp};
use goshawk_passes::{bits::BitPlan, calibrate::Method};
use goshawk_tests::{
    subjects::{Cost, Subject},
    whole::{Quantized, Result, at},
};
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;

const INPUTS: usize = 20;
const CALIBRATION: usize = 8;

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for subject in Subject::all() {
        let bits: &[&str] = match subject.cost {
            Cost::Short => &["w8a8", "w4a8", "w4a4"],
            Cost::Long => &["w8a8"],
        };
        for bits in bits {
            let there = subject.model().is_some();
            let note = if there { "" } else { " (absent: set GOSHAWK_ASSETS)" };
            let subject = subject.clone();
            let long = subject.cost == Cost::Long;
            let name = format!("{}::{bits}{note}", subject.name);
            let test = move || same_bytes(&subject, bits).map_err(Failed::from);
            trials.push(Trial::test(name, test).with_ignored_flag(long || !there));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn same_bytes(subject: &Subject, bits: &str) -> Result<()> {
    let plan = BitPlan::uniform(bits).map_err(at("bits"))?;
    let model = Quantized::new(subject, &plan, Method::MinMax, CALIBRATION)?;
    let folder = tempfile::tempdir().map_err(at("temporary folder"))?;
    let library = model.library("native", folder.path())?;
    let jit = model.jit("native")?;
    let mut session = library.session();
    let mut distinct = std::collections::BTreeSet::new();
    for (i, inputs) in subject.inputs(&model.float, INPUTS).map_err(at("test data"))?.iter().enumerate() {
        let quantized = interp::boundary::quantize_inputs(&model.int, inputs).map_err(at("inputs"))?;
        let expected = interp::int::run(&model.int, &quantized).map_err(at("interpreter"))?;
        let expected_bytes: Vec<Vec<u8>> = expected.iter().map(Tensor::to_bytes).collect();
        let from_jit = jit.run(&quantized).map_err(at("JIT"))?;
        compare("JIT", i, &expected_bytes, &from_jit.iter().map(Tensor::to_bytes).collect::<Vec<_>>())?;

        let packed: Vec<Vec<u8>> = quantized.iter().map(Tensor::to_bytes).collect();
        let packed: Vec<&[u8]> = packed.iter().map(Vec::as_slice).collect();
        let from_library = library.run(&packed).map_err(at("library"))?;
        compare("library", i, &expected_bytes, &from_library)?;

        // The f32 entry point: the same quantization, the same dequantization, bit for bit.
        let floats = interp::boundary::dequantize_outputs(&model.int, &expected).map_err(at("outputs"))?;
        let inputs: Vec<&[f32]> =
            inputs.iter().map(Tensor::as_f32).collect::<goshawk_ir::Result<_>>().map_err(at("inputs"))?;
        let mut got: Vec<Vec<f32>> = floats.iter().map(|t| vec![0.0; t.shape().count()]).collect();
        let mut slots: Vec<&mut [f32]> = got.iter_mut().map(Vec::as_mut_slice).collect();
        session.run_f32(&inputs, &mut slots).map_err(at("library, f32"))?;
        let bits = |v: &[f32]| v.iter().flat_map(|x| x.to_bits().to_le_bytes()).collect::<Vec<u8>>();
        let want: Vec<Vec<u8>> = floats.iter().map(Tensor::to_bytes).collect();
        compare("library, f32", i, &want, &got.iter().map(|v| bits(v)).collect::<Vec<_>>())?;
        distinct.insert(expected_bytes);
    }
    // A network that answers every input alike would make this test worthless.
    if distinct.len() < INPUTS / 2 {
        return Err(format!("{INPUTS} inputs gave only {} different outputs", distinct.len()));
    }
    Ok(())
}

fn compare(what: &str, input: usize, expected: &[Vec<u8>], got: &[Vec<u8>]) -> Result<()> {
    if expected.len() != got.len() {
        return Err(format!("{what}, input {input}: {} outputs instead of {}", got.len(), expected.len()));
    }
    for (o, (e, g)) in expected.iter().zip(got).enumerate() {
        let wrong = e.iter().zip(g).filter(|(a, b)| a != b).count();
        if e.len() != g.len() || wrong > 0 {
            let first = e.iter().zip(g).position(|(a, b)| a != b);
            return Err(format!(
                "{what}, input {input}, output {o}: {wrong} of {} bytes differ (first at {first:?}, {} bytes came)",
                e.len(),
                g.len()
            ));
        }
    }
    Ok(())
}
