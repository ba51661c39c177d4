//! Ten thousand damaged copies of a model: the importer never panics, never asks for much memory, and what it accepts
//! keeps the rules of the verifier.
#![allow(clippy::print_stdout, reason = "the figures belong in the log of the test")]

use goshawk_compiler::{
    Code,
    import::{self, Options},
};
use goshawk_tests::models::{Random, small_cnn};
use prost::Message;
use std::{
    alloc::{GlobalAlloc, Layout, System},
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

/// The system's allocator, watched for the largest request.
struct Watched;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and `alloc` took the block from the system.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

const COPIES: u64 = 10_000;
/// The model has 4 kB; nothing that is derived from it comes near this.
const MAX_REQUEST: usize = 1 << 20;

/// A damaged copy, by one of six kinds of damage.
fn damage(model: &[u8], rng: &mut Random) -> Vec<u8> {
    let mut bytes = model.to_vec();
    let at = |rng: &mut Random, bytes: &[u8]| rng.below(bytes.len().max(1));
    match rng.below(6) {
        // Truncation.
        0 => bytes.truncate(at(rng, model)),
        // Bit flips, in the structured front part half of the time: most of the file is weights.
        1 => {
            for _ in 0..1 + rng.below(8) {
                let i = if rng.below(2) == 0 { rng.below(400) } else { at(rng, &bytes) };
                bytes[i] ^= 1 << rng.below(8);
            }
        }
        // A piece of the file over another place, or inserted there.
        2 => {
            let (from, len) = (at(rng, model), 1 + rng.below(64));
            let piece = &model[from..(from + len).min(model.len())];
            let to = at(rng, model);
            let end = if rng.below(2) == 0 { to } else { (to + piece.len()).min(model.len()) };
            bytes.splice(to..end, piece.iter().copied());
        }
        // A number blown up to the largest.
        3 => {
            let i = at(rng, model);
            bytes.splice(i..i + 1, [0xff; 9].into_iter().chain([0x01]));
        }
        // Bytes lost.
        4 => {
            let i = at(rng, model);
            bytes.drain(i..(i + 1 + rng.below(16)).min(model.len()));
        }
        // Interesting values.
        _ => {
            for _ in 0..1 + rng.below(4) {
                let i = at(rng, &bytes);
                bytes[i] = [0, 1, 0x7f, 0x80, 0xff, 0x08, 0x12, 0x3a][rng.below(8)];
            }
        }
    }
    bytes
}

#[test]
fn damaged_models_are_refused_or_sound() {
    let model = small_cnn().encode_to_vec();
    import::load(&model, &Options::default()).expect("the undamaged model imports");
    let started = std::time::Instant::now();
    let mut outcomes: BTreeMap<Option<Code>, u64> = BTreeMap::new();
    for seed in 0..COPIES {
        let bytes = damage(&model, &mut Random(seed));
        LARGEST.store(0, Ordering::Relaxed);
        let outcome = std::panic::catch_unwind(|| import::load(&bytes, &Options::default()))
            .unwrap_or_else(|_| panic!("the importer panics on the copy of seed {seed}"));
        let largest = LARGEST.load(Ordering::Relaxed);
        assert!(largest <= MAX_REQUEST, "seed {seed} makes the importer ask for {largest} bytes at once");
        if let Some(Err(errors)) = outcome.as_ref().ok().map(goshawk_ir::verify::float) {
            panic!("seed {seed} gives a graph that the verifier refuses: {}", errors[0]);
        }
        *outcomes.entry(outcome.err().map(|e| e.code)).or_default() += 1;
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{} bytes, {COPIES} copies in {seconds:.1} s: {outcomes:?}", model.len());
    assert!(seconds < 60.0, "{seconds} s");
    // The damage must reach every stage, or the test shows nothing.
    for code in [None, Some(Code::MODEL), Some(Code::GRAPH), Some(Code::NON_FINITE), Some(Code::UNSUPPORTED)]
    {
        assert!(
            outcomes.get(&code).is_some_and(|n| *n >= 20),
            "only few copies end as {code:?}: {outcomes:?}"
        );
    }
}
