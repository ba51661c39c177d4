//! Assembled tiles alone: random shapes against the normative arithmetic, every buffer between guard pages.
#![cfg(target_arch = "x86_64")]

use goshawk_compiler::ukernel::{
    Dot, Grid, Isa, Join, Rescale, Tile, Weights,
    join::{Constants, Second},
    pack::Channel,
};
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
    /// Constants and residual of a joined tile, [row][channel].
    joined: Option<(Constants, Vec<i32>)>,
}

/// A residual sum behind a tile whose accumulators are rescaled to about ±200 000.
fn random_join(r: &mut Random, tile: &mut Tile) -> (Constants, Vec<i32>) {
    let residual = r.pick(&[Grid::U8, Grid::I16]);
    let mut dyadic = |least: f64| Dyadic::from_f64(least * (1.0 + r.unit())).expect("in range").shortened();
    let scales = [dyadic(0.3), dyadic(if residual == Grid::U8 { 20.0 } else { 0.4 }), dyadic(0.004)];
    let one = Dyadic::from_f64(1.0).expect("in range");
    let [own, other] = [0, 1].map(|i| if r.below(2) == 0 { one } else { scales[i] });
    let residual_zero_point = if residual == Grid::U8 { r.pick(&[0, 3, 128, 255]) } else { 0 };
    let second = (tile.grid == Grid::I16 && r.below(3) > 0).then(|| {
        let zero_point = r.pick(&[0, 128]);
        let clamp = r.pick(&[(0, 255), (0, 15), (zero_point, 255)]);
        // A bound of the sum beyond which the second result does not change need not be kept for it.
        let at = |bound: i32| scales[2].apply(bound) + i64::from(zero_point);
        let (least, most) = (at(tile.clamp.0), at(tile.clamp.1));
        let mut needed = |changes: bool| changes || r.below(4) == 0;
        let clamps_sum = (needed(least > i64::from(clamp.0)), needed(most < i64::from(clamp.1)));
        (Second { stride: tile.columns + r.pick(&[0, 5]), clamp, clamps_sum }, zero_point)
    });
    // Bounds of the convolution's result; what is outside of the last ones never occurs.
    let bounds = r.pick(&[(-32767, 32767), (-120, 135), (0, 9000), (-(1 << 20), 1 << 20)]);
    tile.join = Some(Join {
        residual,
        stride: tile.columns * residual.bytes() + r.pick(&[0, 7]),
        clamps: bounds.1 < 1 << 20,
        own_unit: own == one,
        residual_unit: other == one && residual_zero_point == 0,
        second: second.map(|(s, _)| s),
        ahead: r.pick(&[None, Some([64, 128, 4096])]),
    });
    let constants = Constants {
        own,
        bounds,
        residual: other,
        residual_zero_point,
        clamp: tile.clamp,
        second: second.map(|(_, zero_point)| (scales[2], zero_point)),
    };
    let (lo, hi) = if residual == Grid::U8 { (0, 255) } else { (-32767, 32767) };
    let values = (0..tile.rows * tile.columns).map(|_| r.between(lo, hi)).collect();
    (constants, values)
}

fn random_case(r: &mut Random, isa: Isa, dot: Option<Dot>) -> Case {
    let lanes = isa.lanes();
    let weights = match isa {
        Isa::Vnni512 => {
            let forms = [Weights::Int8, Weights::Int4Times16, Weights::Int4Unpacking, Weights::Int4Bytes];
            r.pick(&forms)
        }
        Isa::Avx2 if dot.is_some() => r.pick(&[Weights::Int8, Weights::Int4Times16]),
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
    // INT4 by dot products rescales in f32 only.
    let rescale = match if dot.is_some() && int4 { 3 } else { r.below(4) } {
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
    let out_line = r.pick(&[rows, rows, rows.div_ceil(2), 1]);
    // With AVX-512 the last pixel of a line may be missing, and the tile may begin inside a line.
    let missing = isa == Isa::Vnni512 && out_line > 1 && r.below(3) == 0;
    let out_width = if missing { out_line - 1 } else { out_line + r.below(3) };
    let out_first = if isa == Isa::Vnni512 { r.below(out_width.min(out_line)) } else { 0 };
    let mut tile = Tile {
        weights,
        dot,
        grid,
        rows,
        vectors,
        columns,
        kernel_rows,
        run,
        row_stride,
        line,
        line_stride,
        prefetch: match weights {
            Weights::Int4Unpacking | Weights::Int4Offset { .. } => 0,
            _ => r.pick(&[0, 100, 4096]),
        },
        kernel_row_stride,
        out_stride: columns * grid.bytes() + r.pick(&[0, 0, 3, 64]),
        out_line,
        out_width,
        out_first,
        zero_point,
        clamp,
        rescale,
        join: None,
    };
    let joined = (rescale == Rescale::Float && r.below(2) == 0).then(|| random_join(r, &mut tile));
    let extreme = r.below(4) == 0;
    // Without VNNI, INT8 tiles are for weights that cannot saturate: 255 · (64 + 64) < 2^15.
    let limit = match (isa, weights) {
        _ if int4 => 7,
        (Isa::Avx2, Weights::Int8) if dot.is_none() => 64,
        _ => 127,
    };
    // Sums of the smallest 4-bit weight leave i16 in too long periods of AVX2.
    let least = if int4 && isa == Isa::Vnni512 { -8 } else { -limit };
    let furthest = (0..rows).map(|i| tile.pixel(i)).max().unwrap_or(0);
    let span = (kernel_rows - 1) * kernel_row_stride + furthest + run;
    let activations = (0..span).map(|_| if extreme { 255 } else { r.below(256) as u8 }).collect();
    let channel_weights = (0..columns)
        .map(|_| {
            let sign = r.pick(&[-1, 1]);
            (0..tile.depth())
                .map(|_| if extreme { sign * limit } else { r.between(least, limit) } as i8)
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
    Case { isa, tile, activations, weights: channel_weights, channels, joined }
}

/// The result, and the second result of a joined tile that has one.
fn expected(case: &Case) -> [Vec<i32>; 2] {
    let t = &case.tile;
    let (mut out, mut second) = (Vec::with_capacity(t.rows * t.columns), Vec::new());
    for row in 0..t.rows {
        for (channel, weights) in case.channels.iter().zip(&case.weights) {
            let mut acc = channel.bias;
            for k in 0..t.depth() {
                let at = t.pixel(row) + (k / t.run) * t.kernel_row_stride + k % t.run;
                acc += i32::from(case.activations[at]) * i32::from(weights[k]);
            }
            let own = Dyadic { mult: channel.mult, shift: channel.shift };
            let requant = |d: Dyadic, zero_point, (lo, hi), x| {
                Requant { mult: vec![d], zero_point, lo, hi }.apply(x, 0)
            };
            let Some((c, residual)) = &case.joined else {
                out.push(requant(own, t.zero_point, t.clamp, acc));
                continue;
            };
            let n = requant(own, 0, c.bounds, acc);
            let x = residual[out.len()] - c.residual_zero_point;
            let sum = c.own.apply(n) + c.residual.apply(x) + i64::from(t.zero_point);
            let sum = sum.clamp(i64::from(t.clamp.0), i64::from(t.clamp.1)) as i32;
            out.push(sum);
            if let (Some(s), Some((d, zero_point))) = (t.join.as_ref().and_then(|j| j.second), c.second) {
                second.push(requant(d, zero_point, s.clamp, sum));
            }
        }
    }
    [out, second]
}

/// Values as they lie in memory, `stride` bytes from one pixel to the next.
fn laid_out(t: &Tile, grid: Grid, stride: usize, values: &[i32]) -> Vec<u8> {
    let last = (0..t.rows).rev().find(|row| t.exists(*row)).expect("the first pixel exists");
    let mut bytes = vec![0xA5; t.result(last) * stride + t.columns * grid.bytes()];
    for (i, v) in values.iter().enumerate().filter(|(i, _)| t.exists(i / t.columns)) {
        let at = t.result(i / t.columns) * stride + i % t.columns * grid.bytes();
        bytes[at..at + grid.bytes()].copy_from_slice(&v.to_le_bytes()[..grid.bytes()]);
    }
    bytes
}

/// Runs the tile and checks all that it wrote, gaps between pixels included.
fn check_case(case: &Case, place: fn(&[u8]) -> Guarded, [want, want_second]: &[Vec<i32>; 2], seed: u64) {
    let t = &case.tile;
    let code = Code::new(&case.isa.assemble(t).expect("the tile assembles"));
    let weights: Vec<&[i8]> = case.weights.iter().map(Vec::as_slice).collect();
    let packed = case.isa.pack(&weights, t);
    let mut epilogue = case.isa.epilogue(&case.channels, t);
    let want = laid_out(t, t.grid, t.out_stride, want);
    let mut scratch = place(&vec![0; case.isa.scratch_bytes(t).max(1)]);
    let mut out = place(&vec![0xA5; want.len()]);
    let (a, w) = (place(&case.activations), place(&packed));
    if let (Some((constants, residual)), Some(join)) = (&case.joined, &t.join) {
        epilogue.extend(constants.bytes(join));
        let e = place(&epilogue);
        let x = place(&laid_out(t, join.residual, join.stride, residual));
        let want = join.second.map(|s| laid_out(t, Grid::U8, s.stride, want_second)).unwrap_or_default();
        let mut second = place(&vec![0xA5; want.len().max(1)]);
        // SAFETY: the buffers have the sizes that the tile's contract names; guard pages catch anything else.
        unsafe {
            code.call_joined(
                [a.as_ptr(), w.as_ptr(), e.as_ptr(), x.as_ptr()],
                [out.as_mut_ptr(), scratch.as_mut_ptr(), second.as_mut_ptr()],
            );
        }
        assert!(second[..want.len()] == want, "second result, seed {seed}: {t:?}");
    } else {
        let e = place(&epilogue);
        // SAFETY: as above.
        unsafe { code.call(a.as_ptr(), w.as_ptr(), out.as_mut_ptr(), e.as_ptr(), scratch.as_mut_ptr()) };
    }
    assert!(*out == want, "seed {seed}: {t:?}");
    if t.weights == Weights::Int4Unpacking {
        let unpacked = case.isa.pack(&weights, &Tile { weights: Weights::Int4Bytes, ..t.clone() });
        assert!(*scratch == unpacked, "unpacked weights, seed {seed}: {t:?}");
    }
}

fn check(isa: Isa, dot: Option<Dot>) {
    for seed in 0..4000 {
        let case = random_case(&mut Random::new(seed), isa, dot);
        let want = expected(&case);
        check_case(&case, Guarded::at_end, &want, seed);
        check_case(&case, Guarded::at_start, &want, seed);
    }
}

#[test]
fn vnni512_tiles_equal_the_normative_arithmetic() {
    let has = is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq");
    if has {
        check(Isa::Vnni512, None)
    } else {
        eprintln!("skipped: vnni512 tiles need a CPU with AVX-512 VNNI")
    }
}

#[test]
fn avx2_tiles_equal_the_normative_arithmetic() {
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        check(Isa::Avx2, None)
    } else {
        eprintln!("skipped: avx2 tiles need AVX2 and FMA")
    }
}

#[test]
fn ymm_dot_products_equal_the_normative_arithmetic() {
    let mut ran = false;
    if is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vl") {
        check(Isa::Avx2, Some(Dot::Evex));
        ran = true;
    }
    if is_x86_feature_detected!("avxvnni") {
        check(Isa::Avx2, Some(Dot::Vex));
        ran = true;
    }
    if !ran {
        eprintln!("skipped: tiles of vpdpbusd ymm need AVX-VNNI, or AVX-512 VNNI and VL");
    }
}

/// The two encodings differ in nothing else, so a CPU that has one of them tests both.
#[test]
fn both_encodings_are_the_same_instructions() {
    let text = |code: &[u8]| -> Vec<String> {
        let instructions = iced_x86::Decoder::new(64, code, 0).into_iter();
        instructions
            .take_while(|i| i.mnemonic() != iced_x86::Mnemonic::Ret)
            .map(|i| (i.mnemonic(), i.op_register(0), i.op_register(1), i.op_register(2)))
            .map(|i| format!("{i:?}"))
            .collect()
    };
    for seed in 0..200 {
        let [vex, evex] = [Dot::Vex, Dot::Evex].map(|dot| {
            let case = random_case(&mut Random::new(seed), Isa::Avx2, Some(dot));
            text(&case.isa.assemble(&case.tile).expect("the tile assembles"))
        });
        assert_eq!(vex, evex, "seed {seed}");
        assert!(vex.iter().any(|i| i.contains("Vpdpbusd")), "seed {seed}");
    }
}
