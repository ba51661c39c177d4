//! The kernels around the tiles, alone: random shapes and counts against the normative arithmetic, every buffer between
//! guard pages, bytes outside the result untouched.
#![cfg(target_arch = "x86_64")]

use goshawk_compiler::ukernel::{
    Grid,
    edge::{Copy, Dequantize, Formula, Lut, Map, Operand, Quantize, Simd},
};
use goshawk_ir::{
    Dyadic,
    quant::{dequantize, quantize},
};
use goshawk_tests::{
    generate::Random,
    guard::{Code, Guarded},
    interpret,
};

const UNTOUCHED: u8 = 0xA5;

fn levels() -> Vec<Simd> {
    let mut levels = Vec::new();
    if is_x86_feature_detected!("avx512vbmi") && is_x86_feature_detected!("avx512bw") {
        levels.push(Simd::Vbmi);
    }
    if is_x86_feature_detected!("avx512bw") {
        levels.push(Simd::Avx512);
    }
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        levels.push(Simd::Avx2);
    }
    if levels.is_empty() {
        eprintln!("skipped: these kernels need AVX2");
    }
    levels
}

/// Runs a kernel with its buffers at the end and at the start of their pages; gives the result's bytes.
fn run(code: &[u8], a: &[u8], b: &[u8], constants: &[u8], out_len: usize, count: usize) -> Vec<u8> {
    let code = Code::new(code);
    let mut results = [Guarded::at_end, Guarded::at_start].map(|place: fn(&[u8]) -> Guarded| {
        let (a, b, constants) = (place(a), place(b), place(constants));
        let mut out = place(&vec![UNTOUCHED; out_len]);
        let count = std::ptr::without_provenance_mut(count);
        // SAFETY: the buffers have the sizes that the kernel's contract names; guard pages catch anything else.
        unsafe { code.call(a.as_ptr(), b.as_ptr(), out.as_mut_ptr(), constants.as_ptr(), count) };
        out.to_vec()
    });
    assert!(results[0] == results[1]);
    std::mem::take(&mut results[0])
}

fn put(out: &mut [u8], at: usize, grid: Grid, value: i32) {
    out[at..at + grid.bytes()].copy_from_slice(&value.to_le_bytes()[..grid.bytes()]);
}

fn get(bytes: &[u8], index: usize, grid: Grid) -> i32 {
    match grid {
        Grid::U8 => i32::from(bytes[index]),
        Grid::I16 => i32::from(i16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]])),
    }
}

/// Everything an input may hold: near the grid, ties, far away, not finite.
fn real(r: &mut Random, scale: f32) -> f32 {
    match r.below(8) {
        0 => [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, f32::MAX, f32::MIN, 1e-40][r.below(8)],
        1 => (r.below(600) as f32 - 300.0 + 0.5) * scale,
        _ => (r.below(60_000) as f32 - 30_000.0) * 0.01 * scale,
    }
}

#[test]
fn quantization() {
    let mut r = Random::new(1);
    for simd in levels() {
        for case in 0..4000 {
            let count = 1 + r.below(70);
            let (planes, pixel, grid) = match r.below(8) {
                0 => (1, 2, Grid::I16),
                1 => (1, 1, Grid::U8),
                2 => (2, 2, Grid::U8),
                3 | 4 => (3, 3, Grid::U8),
                5 => (3, 4, Grid::U8),
                6 => (4, 4, Grid::U8),
                _ => (4, 5 + r.below(40), Grid::U8),
            };
            let plane_stride = 4 * (count + r.below(3));
            let q = Quantize { planes, plane_stride, pixel, grid };
            assert!(q.exists());
            let scale = [0.02, 1.0, 0.3, 1e-3][r.below(4)];
            let (zero_point, range) = match grid {
                Grid::U8 => {
                    let zp = [0, 255, 128, r.below(256) as i32][r.below(4)];
                    (zp, if r.below(2) == 0 { (0, 255) } else { (0, zp.max(15)) })
                }
                Grid::I16 => (0, (-32767, 32767)),
            };
            let floats: Vec<f32> =
                (0..(planes - 1) * plane_stride / 4 + count).map(|_| real(&mut r, scale)).collect();
            let bytes: Vec<u8> = floats.iter().flat_map(|f| f.to_le_bytes()).collect();
            let end = if pixel > 4 { 4 } else { pixel };
            let len = (count - 1) * pixel + end;
            let mut want = vec![UNTOUCHED; len];
            for i in 0..count {
                for plane in 0..planes {
                    let x = floats[plane * plane_stride / 4 + i];
                    put(&mut want, i * pixel + plane, grid, quantize(x, scale, zero_point, range));
                }
                if (planes, pixel) == (3, 4) {
                    want[i * pixel + 3] = zero_point as u8;
                }
            }
            let code = q.assemble(simd).expect("assembles");
            let got = run(&code, &bytes, &[0], &q.constants(scale, zero_point, range), len, count);
            assert!(got == want, "{simd:?} case {case}: {q:?} count {count}\n{got:?}\n{want:?}");
        }
    }
}

#[test]
fn dequantization() {
    let mut r = Random::new(2);
    for simd in levels() {
        for case in 0..4000 {
            let count = 1 + r.below(70);
            let (planes, pixel, grid) = match r.below(9) {
                0 => (1, 2, Grid::I16),
                1 => (2, 4, Grid::I16),
                2 => (2, 4 + 2 * r.below(20), Grid::I16),
                3 => (1, 1, Grid::U8),
                4 => (2, 2, Grid::U8),
                5 | 6 => (3, 3, Grid::U8),
                7 => (4, 4, Grid::U8),
                _ => (4, 5 + r.below(40), Grid::U8),
            };
            let plane_stride = 4 * (count + r.below(3));
            let d = Dequantize { planes, plane_stride, pixel, grid };
            assert!(d.exists());
            let (scale, zero_point) = (0.037, if grid == Grid::U8 { r.below(256) as i32 } else { 0 });
            let bytes: Vec<u8> =
                (0..(count - 1) * pixel + planes * grid.bytes()).map(|_| r.below(256) as u8).collect();
            let len = (planes - 1) * plane_stride + 4 * count;
            let mut want = vec![UNTOUCHED; len];
            for i in 0..count {
                for plane in 0..planes {
                    let q = get(&bytes[i * pixel..], plane, grid);
                    let at = plane * plane_stride + 4 * i;
                    want[at..at + 4].copy_from_slice(&dequantize(q, scale, zero_point).to_le_bytes());
                }
            }
            let code = d.assemble(simd).expect("assembles");
            let got = run(&code, &bytes, &[0], &d.constants(scale, zero_point), len, count);
            assert!(got == want, "{simd:?} case {case}: {d:?} count {count}");
        }
    }
}

fn dyadic(r: &mut Random, near: f64) -> Dyadic {
    Dyadic::from_f64(near * 2f64.powf(r.below(2000) as f64 / 500.0 - 2.0)).expect("in range")
}

fn random_map(r: &mut Random) -> Map {
    let grid = |r: &mut Random| if r.below(3) == 0 { Grid::I16 } else { Grid::U8 };
    let operand = |r: &mut Random, grid: Grid| Operand {
        grid,
        zero_point: if grid == Grid::U8 { r.below(256) as i32 } else { 0 },
        splat: false,
    };
    let out = grid(r);
    let ratio = |from: Grid| match (from, out) {
        (Grid::U8, Grid::I16) => 60.0,
        (Grid::I16, Grid::U8) => 0.004,
        _ => 0.7,
    };
    let (a, b) = (grid(r), grid(r));
    let (formula, mut operands) = match r.below(6) {
        0 => (Formula::Requant(dyadic(r, ratio(a))), vec![operand(r, a)]),
        1 => {
            let d = dyadic(r, if out == Grid::U8 { 0.004 } else { 0.3 });
            (Formula::Mul(d), vec![operand(r, Grid::U8), operand(r, Grid::U8)])
        }
        n => {
            let (da, db) = (dyadic(r, ratio(a)), dyadic(r, ratio(b)));
            let formula = if n == 2 { Formula::Subtract(da, db) } else { Formula::Add(da, db) };
            (formula, vec![operand(r, a), operand(r, b)])
        }
    };
    if operands.len() == 2 && r.below(3) == 0 {
        operands[r.below(2)].splat = true;
    }
    let (zero_point, clamp) = match out {
        Grid::U8 => {
            let zp = [0, 128, 255, r.below(256) as i32][r.below(4)];
            (zp, [(0, 255), (zp, 255), (0, zp.max(15))][r.below(3)])
        }
        Grid::I16 => (0, [(-32767, 32767), (0, 32767), (-100, 3000)][r.below(3)]),
    };
    Map { formula, operands, grid: out, zero_point, clamp }
}

fn reference(map: &Map, x: &[i32]) -> i32 {
    let rescaled = match map.formula {
        Formula::Requant(d) => d.apply(x[0]),
        Formula::Mul(d) => d.apply(x[0] * x[1]),
        Formula::Add(a, b) => a.apply(x[0]) + b.apply(x[1]),
        Formula::Subtract(a, b) => a.apply(x[0]) - b.apply(x[1]),
    };
    (rescaled + i64::from(map.zero_point)).clamp(i64::from(map.clamp.0), i64::from(map.clamp.1)) as i32
}

#[test]
fn element_wise_arithmetic() {
    let mut r = Random::new(3);
    let mut refused = 0;
    for case in 0..3000 {
        let map = random_map(&mut r);
        if !map.exact() {
            refused += 1;
            continue;
        }
        let count = if case % 50 == 0 { 70_000 } else { 1 + r.below(200) };
        let operands: Vec<Vec<u8>> = map
            .operands
            .iter()
            .map(|o| {
                let n = if o.splat { 1 } else { count };
                (0..n * o.grid.bytes()).map(|_| r.below(256) as u8).collect()
            })
            .collect();
        let mut want = vec![0; count * map.grid.bytes()];
        for i in 0..count {
            let x: Vec<i32> = map
                .operands
                .iter()
                .zip(&operands)
                .map(|(o, bytes)| get(bytes, if o.splat { 0 } else { i }, o.grid) - o.zero_point)
                .collect();
            put(&mut want, i * map.grid.bytes(), map.grid, reference(&map, &x));
        }
        for simd in levels() {
            let code = map.assemble(simd).expect("assembles");
            let b: &[u8] = operands.get(1).map_or(&[0], |b| b);
            let got = run(&code, &operands[0], b, &map.constants(), want.len(), count);
            assert!(got == want, "{simd:?} case {case}: {map:?} count {count}");
        }
    }
    // Ties and large ratios are refused; they are rare.
    assert!(refused < 900, "{refused} of 3000 layers have no kernel");
}

/// Half-way cases: the fused form rounds them to even, the normative rule up.
#[test]
fn the_proof_refuses_ties_and_large_values() {
    let operand = Operand { grid: Grid::U8, zero_point: 0, splat: false };
    let map = |ratio: f64| Map {
        formula: Formula::Requant(Dyadic::from_f64(ratio).expect("in range")),
        operands: vec![operand],
        grid: Grid::U8,
        zero_point: 0,
        clamp: (0, 255),
    };
    assert!(!map(0.5).exact());
    assert!(!map(0.25).exact());
    assert!(map(1.0).exact());
    assert!(map(0.4999).exact());
    assert!(!map(20_000.0).exact());
}

#[test]
fn tables() {
    let mut r = Random::new(4);
    for simd in levels() {
        for grid in [Grid::U8, Grid::I16] {
            let lut = Lut { grid };
            if !lut.exists(simd) {
                continue;
            }
            let code = lut.assemble(simd).expect("assembles");
            for case in 0..400 {
                let count = if case == 0 { 70_000 } else { 1 + r.below(150) };
                let [table, x, want] = random_look_up(&mut r, grid, count);
                let got = run(&code, &x, &table, &[0], want.len(), count);
                assert!(got == want, "{simd:?} {grid:?} case {case} count {count}");
            }
        }
    }
}

/// Table, elements, what these give.
fn random_look_up(r: &mut Random, grid: Grid, count: usize) -> [Vec<u8>; 3] {
    let n = grid.bytes();
    let table: Vec<u8> = (0..256 * n).map(|_| r.below(256) as u8).collect();
    let x: Vec<u8> = (0..count).map(|_| r.below(256) as u8).collect();
    let want = x.iter().flat_map(|x| table[usize::from(*x) * n..][..n].to_vec()).collect();
    [table, x, want]
}

/// For CPUs unlike this one; where it has what the kernel needs, the two ways must agree.
#[test]
fn interpreted_tables() {
    let (mut r, here) = (Random::new(6), levels());
    for (simd, grid) in [Simd::Vbmi, Simd::Avx512].into_iter().flat_map(|s| [(s, Grid::U8), (s, Grid::I16)]) {
        let code = Lut { grid }.assemble(simd).expect("assembles");
        for count in 0..=200 {
            let [table, x, want] = random_look_up(&mut r, grid, count);
            let mut got = vec![UNTOUCHED; want.len()];
            interpret::call(&code, [&x, &table, &[]], &mut got, count).expect("runs");
            assert!(got == want, "{simd:?} {grid:?} count {count}");
            if here.contains(&simd) {
                assert!(got == run(&code, &x, &table, &[0], want.len(), count), "{simd:?} {grid:?} {count}");
            }
        }
    }
}

/// A byte too few of anything is an error for the interpreter.
#[test]
fn interpreted_tables_stay_in_bounds() {
    let mut r = Random::new(7);
    for (simd, grid) in [Simd::Vbmi, Simd::Avx512].into_iter().flat_map(|s| [(s, Grid::U8), (s, Grid::I16)]) {
        let code = Lut { grid }.assemble(simd).expect("assembles");
        for count in [1, 31, 32, 33, 63, 64, 65, 128, 200] {
            let [table, x, out] = random_look_up(&mut r, grid, count);
            let look_up = |x: &[u8], table: &[u8], out: &[u8]| {
                interpret::call(&code, [x, table, &[]], &mut out.to_vec(), count)
            };
            look_up(&x, &table, &out).expect("nothing is missing");
            for result in [
                look_up(&x[1..], &table, &out),
                look_up(&x, &table[1..], &out),
                look_up(&x, &table, &out[1..]),
            ] {
                let error = result.expect_err("a byte is missing");
                assert!(error.contains("outside the buffers"), "{simd:?} {grid:?} {count}: {error}");
            }
        }
    }
}

#[test]
fn copies() {
    let mut r = Random::new(5);
    for simd in levels() {
        for case in 0..3000 {
            let bytes = if r.below(10) == 0 { 1 + r.below(5000) } else { 1 + r.below(300) };
            let copy = Copy { bytes, from: bytes + r.below(70), to: bytes + r.below(70) };
            let rows = 1 + r.below(5);
            let from: Vec<u8> = (0..(rows - 1) * copy.from + bytes).map(|_| r.below(256) as u8).collect();
            let mut want = vec![UNTOUCHED; (rows - 1) * copy.to + bytes];
            for row in 0..rows {
                want[row * copy.to..][..bytes].copy_from_slice(&from[row * copy.from..][..bytes]);
            }
            let code = copy.assemble(simd).expect("assembles");
            let got = run(&code, &from, &[0], &[0], want.len(), rows);
            assert!(got == want, "{simd:?} case {case}: {copy:?} rows {rows}");
        }
    }
}

/// A count of zero touches nothing.
#[test]
fn nothing_to_do() {
    let map = Map {
        formula: Formula::Requant(Dyadic::from_f64(0.7).expect("in range")),
        operands: vec![Operand { grid: Grid::U8, zero_point: 3, splat: false }],
        grid: Grid::U8,
        zero_point: 0,
        clamp: (0, 255),
    };
    for simd in levels() {
        let q = Quantize { planes: 3, plane_stride: 64, pixel: 3, grid: Grid::U8 };
        let d = Dequantize { planes: 3, plane_stride: 64, pixel: 3, grid: Grid::U8 };
        let copy = Copy { bytes: 100, from: 100, to: 100 };
        let kernels = [
            (q.assemble(simd), q.constants(1.0, 0, (0, 255))),
            (d.assemble(simd), d.constants(1.0, 0)),
            (map.assemble(simd), map.constants()),
            (copy.assemble(simd), vec![0]),
        ];
        for (code, constants) in kernels {
            run(&code.expect("assembles"), &[], &[], &constants, 0, 0);
        }
    }
}
