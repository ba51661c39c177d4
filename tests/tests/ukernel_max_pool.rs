//! Assembled maximum pools alone: random shapes against the definition, every buffer between guard pages.
#![cfg(target_arch = "x86_64")]

use goshawk_compiler::ukernel::{Isa, MaxPool, row::Row};
use goshawk_tests::{
    generate::Random,
    guard::{Code, Guarded},
};

fn random_case(r: &mut Random, channels: usize) -> (MaxPool, Vec<Vec<u8>>) {
    let kernel = if r.chance(60) { r.pick(&[[2, 2], [3, 3]]) } else { [1 + r.below(5), 1 + r.below(5)] };
    let (stride, width) = (1 + r.below(3), 1 + r.below(30));
    let pad = r.below(kernel[1]) as isize;
    let room = (width + pad as usize + r.below(kernel[1])).saturating_sub(kernel[1]);
    let row = Row { channels, kernel, stride, pad, width, out_width: room / stride + 1 };
    let rows = (0..kernel[0]).map(|_| (0..width * channels).map(|_| r.below(256) as u8).collect()).collect();
    let words = channels.is_multiple_of(2) && r.chance(50);
    (MaxPool { row, words }, rows)
}

fn expected(pool: &MaxPool, rows: &[Vec<u8>]) -> Vec<u8> {
    let (g, bytes) = (&pool.row, if pool.words { 2 } else { 1 });
    let mut out = Vec::new();
    for pixel in 0..g.out_width {
        for channel in (0..g.channels).step_by(bytes) {
            let first = (pixel * g.stride) as isize - g.pad;
            let columns = (first..first + g.kernel[1] as isize).filter(|c| g.inside(*c));
            let taps =
                columns.flat_map(|c| rows.iter().map(move |row| &row[c as usize * g.channels + channel..]));
            let value = |tap: &[u8]| match pool.words {
                true => i32::from(i16::from_le_bytes([tap[0], tap[1]])),
                false => i32::from(tap[0]),
            };
            let largest = taps.map(value).max().unwrap_or(0);
            out.extend(&largest.to_le_bytes()[..bytes]);
        }
    }
    out
}

fn run(pool: &MaxPool, isa: Isa, rows: &[Vec<u8>], place: fn(&[u8]) -> Guarded) -> Vec<u8> {
    let code = Code::new(&pool.assemble(isa).expect("the kernel assembles"));
    let rows: Vec<Guarded> = rows.iter().map(|row| place(row)).collect();
    let table: Vec<u8> = rows.iter().flat_map(|row| (row.as_ptr() as u64).to_le_bytes()).collect();
    let table = place(&table);
    let mut out = place(&vec![0xA5; pool.row.out_width * pool.row.channels]);
    let (unused, mut scratch) = (0u8, 0u8);
    // SAFETY: the buffers have the sizes that the kernel's contract names; guard pages catch anything else. It takes two
    // of the five pointers.
    unsafe { code.call(table.as_ptr(), &unused, out.as_mut_ptr(), &unused, &mut scratch) };
    out.to_vec()
}

fn check(isa: Isa) {
    for seed in 0..1050u64 {
        let channels = match seed % 75 {
            n @ 0..70 => n as usize + 1,
            n => [96, 128, 144, 192, 256][n as usize - 70],
        };
        let (pool, rows) = random_case(&mut Random::new(seed), channels);
        if !pool.exists(isa) {
            continue;
        }
        let want = expected(&pool, &rows);
        assert!(run(&pool, isa, &rows, Guarded::at_end) == want, "seed {seed}: {pool:?}");
        assert!(run(&pool, isa, &rows, Guarded::at_start) == want, "seed {seed}: {pool:?}");
    }
}

#[test]
fn avx512_pools_equal_the_definition() {
    if is_x86_feature_detected!("avx512bw") {
        check(Isa::Vnni512)
    } else {
        eprintln!("skipped: these kernels need AVX-512 BW")
    }
}

#[test]
fn avx2_pools_equal_the_definition() {
    if is_x86_feature_detected!("avx2") { check(Isa::Avx2) } else { eprintln!("skipped: no AVX2") }
}
