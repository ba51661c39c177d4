//! Assembled tiles alone: random shapes against the normative arithmetic, every buffer between guard pages.
#![cfg(target_arch = "x86_64")]

use goshawk_compiler::ukernel::{Grid, Isa, Rescale, Tile, Weights, pack::Channel};
use goshawk_ir::{Dyadic, Requant};
use goshawk_tests::{
    generate::Random,
    guard::{Code, Guarded},
};

struct Case {
    isa: Isa,
    tile: Tile,
    activations: Vec<u8>,
    /// [channel][k]
    weights: Vec<Vec<i8>>,
    channels: Vec<Channel>,
}

fn random_case(r: &mut Random, isa: Isa) -> Case {
    let lanes = isa.lanes();
    let weights = match isa {
        Isa::Vnni512 => r.pick(&[Weights::Int8, Weights::Int4Times16]),
        Isa::Avx2 => {
            let period = 2 + r.below(8);
            r.pick(&[Weights::Int8, Weights::Int16, Weights::Int4Offset { period }])
        }
    };
    let vectors = r.pick(isa.vectors());
    let rows = 1 + r.below(isa.max_rows(weights, vectors));
    let int4 = !matches!(weights, Weights::Int8 | Weights::Int16);
    // One vector of INT4 pairs two steps; a period of one step cannot.
    let whole = if int4 && vectors == 1 { 8 } else { 4 };
    let run = whole * (1 + r.below(12));
    let kernel_rows = 1 + r.below(3);
    let columns = if r.below(2) == 0 { vectors * lanes } else { (vectors - 1) * lanes + 1 + r.below(lanes) };
    let grid = r.pick(&[Grid::U8, Grid::I16]);
    let rescale = match r.below(4) {
        0 => Rescale::Integer { short_shift: true },
        1 => Rescale::Integer { short_shift: false },
        _ => Rescale::Float,
    };
    let row_stride = r.pick(&[4, run, run + 4, 2 * run]);
    // A tile in one line of the image, or over several.
    let line = r.pick(&[rows, rows, rows.div_ceil(2), 1]);
    let line_stride = (line - 1) * row_stride + run + r.below(9);
    let last_pixel = (rows - 1) / line * line_stride + (rows - 1) % line * row_stride;
    let far = last_pixel + run + r.below(9);
    let kernel_row_stride = r.pick(&[line_stride, far]);
    let (zero_point, clamp) = match grid {
        Grid::U8 => {
            let zp = r.pick(&[0, 7, 128, 255]);
            (zp, r.pick(&[(0, 255), (0, 15), (zp, 255), (zp, 255.min(zp + 20))]))
        }
        Grid::I16 => (0, r.pick(&[(-32767, 32767), (0, 32767), (-100, 3000)])),
    };
    let tile = Tile {
        weights,
        grid,
        rows,
        vectors,
        columns,
        kernel_rows,
        run,
        row_stride,
        line,
        line_stride,
        prefetch: r.pick(&[0, 4096]),
        kernel_row_stride,
        out_stride: columns * grid.bytes() + r.pick(&[0, 0, 3, 64]),
        zero_point,
        clamp,
        rescale,
    };
    let extreme = r.below(4) == 0;
    // Without VNNI, INT8 tiles are for weights that cannot saturate: 255 · (64 + 64) < 2^15.
    let limit = match (isa, weights) {
        _ if int4 => 7,
        (Isa::Avx2, Weights::Int8) => 64,
        _ => 127,
    };
    let furthest = (0..rows).map(|i| tile.pixel(i)).max().unwrap_or(0);
    let span = (kernel_rows - 1) * kernel_row_stride + furthest + run;
    let activations = (0..span).map(|_| if extreme { 255 } else { r.below(256) as u8 }).collect();
    let channel_weights = (0..columns)
        .map(|_| {
            let sign = r.pick(&[-1, 1]);
            (0..tile.depth())
                .map(|_| if extreme { sign * limit } else { r.between(-limit, limit) } as i8)
                .collect()
        })
        .collect();
    let channels = (0..columns)
        .map(|_| {
            let dyadic = Dyadic {
                mult: r.between(1 << 30, i32::MAX),
                // Times-16 tiles add 4 to the shift, which must stay at or below 62.
                shift: match rescale {
                    Rescale::Integer { short_shift: true } => r.between(31, 40),
                    Rescale::Integer { short_shift: false } => r.between(32, 58),
                    Rescale::Float => r.between(34, 58),
                } as u8,
            };
            let dyadic = if rescale == Rescale::Float { dyadic.shortened() } else { dyadic };
            Channel { bias: r.between(-100_000, 100_000), mult: dyadic.mult, shift: dyadic.shift }
        })
        .collect();
    Case { isa, tile, activations, weights: channel_weights, channels }
}

fn expected(case: &Case) -> Vec<i32> {
    let t = &case.tile;
    let mut out = Vec::with_capacity(t.rows * t.columns);
    for row in 0..t.rows {
        for (channel, weights) in case.channels.iter().zip(&case.weights) {
            let mut acc = channel.bias;
            for k in 0..t.depth() {
                let at = t.pixel(row) + (k / t.run) * t.kernel_row_stride + k % t.run;
                acc += i32::from(case.activations[at]) * i32::from(weights[k]);
            }
            let requant = Requant {
                mult: vec![Dyadic { mult: channel.mult, shift: channel.shift }],
                zero_point: t.zero_point,
                lo: t.clamp.0,
                hi: t.clamp.1,
            };
            out.push(requant.apply(acc, 0));
        }
    }
    out
}

fn run(case: &Case, place: fn(&[u8]) -> Guarded) -> Vec<i32> {
    let t = &case.tile;
    let code = Code::new(&case.isa.assemble(t).expect("the tile assembles"));
    let weights: Vec<&[i8]> = case.weights.iter().map(Vec::as_slice).collect();
    let packed = case.isa.pack(&weights, t);
    let epilogue = case.isa.epilogue(&case.channels, t);
    let bytes = t.grid.bytes();
    let out_len = (t.rows - 1) * t.out_stride + t.columns * bytes;
    let (a, w, e) = (place(&case.activations), place(&packed), place(&epilogue));
    let mut out = place(&vec![0xA5; out_len]);
    let mut scratch = place(&vec![0; case.isa.scratch_bytes(t).max(1)]);
    // SAFETY: the buffers have the sizes that the tile's contract names; guard pages catch anything else.
    unsafe { code.call(a.as_ptr(), w.as_ptr(), out.as_mut_ptr(), e.as_ptr(), scratch.as_mut_ptr()) };
    let mut result = Vec::new();
    for row in 0..t.rows {
        for column in 0..t.columns {
            let at = row * t.out_stride + column * bytes;
            result.push(match t.grid {
                Grid::U8 => i32::from(out[at]),
                Grid::I16 => i32::from(i16::from_le_bytes([out[at], out[at + 1]])),
            });
        }
        let gap = row * t.out_stride + t.columns * bytes..((row + 1) * t.out_stride).min(out_len);
        assert!(out[gap].iter().all(|b| *b == 0xA5), "a byte between two pixels was written");
    }
    result
}

fn check(isa: Isa) {
    for seed in 0..3000 {
        let case = random_case(&mut Random::new(seed), isa);
        let want = expected(&case);
        assert_eq!(run(&case, Guarded::at_end), want, "seed {seed}: {:?}", case.tile);
        assert_eq!(run(&case, Guarded::at_start), want, "seed {seed}: {:?}", case.tile);
    }
}

#[test]
fn vnni512_tiles_equal_the_normative_arithmetic() {
    let has = is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq");
    if has { check(Isa::Vnni512) } else { eprintln!("skipped: vnni512 tiles need a CPU with AVX-512 VNNI") }
}

#[test]
fn avx2_tiles_equal_the_normative_arithmetic() {
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        check(Isa::Avx2)
    } else {
        eprintln!("skipped: avx2 tiles need AVX2 and FMA")
    }
}
