//! Assembled depthwise row kernels alone: random shapes against the normative arithmetic, every buffer between guard
//! pages.
#![cfg(target_arch = "x86_64")]

use goshawk_compiler::ukernel::{
    Depthwise, Isa, Rescale, depthwise::Values, pack::Channel, rescale::as_float, row::Row,
};
use goshawk_ir::{Dyadic, Requant};
use goshawk_tests::{
    generate::Random,
    guard::{Code, Guarded},
};

struct Case {
    spec: Depthwise,
    /// For each kernel row the pixels of one input row.
    rows: Vec<Vec<u8>>,
    /// [channel][tap]
    weights: Vec<i8>,
    channels: Vec<Channel>,
}

fn random_case(r: &mut Random, channels: usize) -> Case {
    let kernel = match r.below(6) {
        0..=2 => [3, 3],
        3 | 4 => [5, 5],
        _ => [1 + r.below(5), 1 + r.below(5)],
    };
    let stride = r.pick(&[1, 1, 2, 2, 3]);
    let (width, pad) = (1 + r.below(30), r.below(kernel[1]));
    let after = r.below(kernel[1]);
    let room = (width + pad + after).saturating_sub(kernel[1]);
    let pad = if width + pad + after < kernel[1] { kernel[1] - 1 } else { pad };
    let out_width = room / stride + 1;
    let input_zero_point = r.pick(&[0, 3, 128, 255]);
    let zero_point = r.pick(&[0, 7, 128, 255]);
    let clamp = r.pick(&[(0, 255), (0, 15), (zero_point, 255), (zero_point, 255.min(zero_point + 20))]);
    let extreme = r.chance(25);
    let taps = kernel[0] * kernel[1];
    let rows = (0..kernel[0])
        .map(|_| (0..width * channels).map(|_| if extreme { 255 } else { r.below(256) as u8 }).collect())
        .collect();
    let limit = r.pick(&[7, 127]);
    let mut weights = Vec::new();
    let float = r.chance(50);
    let mut list = Vec::new();
    for _ in 0..channels {
        let sign = r.pick(&[-1, 1]);
        let own: Vec<i8> =
            (0..taps).map(|_| if extreme { sign * limit } else { r.between(-limit, limit) } as i8).collect();
        let bias =
            r.between(-100_000, 100_000) - input_zero_point * own.iter().map(|w| i32::from(*w)).sum::<i32>();
        weights.extend(own);
        let any = Dyadic { mult: r.between(1 << 30, i32::MAX), shift: r.between(31, 58) as u8 };
        let short = Dyadic::from_f64(2f64.powf(-2.0 - 14.0 * r.unit())).expect("in range").shortened();
        let Dyadic { mult, shift } = if float { short } else { any };
        list.push(Channel { bias, mult, shift });
    }
    let bound = 255 * 127 * taps as i64 + 100_000 + 255 * 127 * taps as i64;
    let float = float && list.iter().all(|c| as_float(c.mult, c.shift, bound, i64::MAX).is_some());
    let rescale = if float {
        Rescale::Float
    } else {
        Rescale::Integer { short_shift: list.iter().any(|c| c.shift < 32) }
    };
    // A range of columns in the middle of a row begins right of the input's first column.
    let skipped = if r.chance(15) { r.below(out_width) } else { 0 };
    let pad = pad as isize - (skipped * stride) as isize;
    let row = Row { channels, kernel, stride, pad, width, out_width: out_width - skipped };
    let alike = r.chance(15);
    if alike {
        weights = weights[..taps].repeat(channels);
        list = vec![list[0]; channels];
    }
    let input_zero_point = input_zero_point as u8;
    let spec = Depthwise { row, alike, input_zero_point, zero_point, clamp, rescale };
    Case { spec, rows, weights, channels: list }
}

fn expected(case: &Case) -> Vec<u8> {
    let (s, g) = (&case.spec, &case.spec.row);
    let taps = g.kernel[0] * g.kernel[1];
    let mut out = Vec::with_capacity(g.out_width * g.channels);
    for pixel in 0..g.out_width {
        for (channel, c) in case.channels.iter().enumerate() {
            let mut acc = c.bias;
            for (ky, row) in case.rows.iter().enumerate() {
                for kx in 0..g.kernel[1] {
                    let column = (pixel * g.stride + kx) as isize - g.pad;
                    let x = if g.inside(column) {
                        row[column as usize * g.channels + channel]
                    } else {
                        s.input_zero_point
                    };
                    acc += i32::from(x) * i32::from(case.weights[channel * taps + ky * g.kernel[1] + kx]);
                }
            }
            let mult = vec![Dyadic { mult: c.mult, shift: c.shift }];
            let requant = Requant { mult, zero_point: s.zero_point, lo: s.clamp.0, hi: s.clamp.1 };
            out.push(requant.apply(acc, 0) as u8);
        }
    }
    out
}

fn run(case: &Case, isa: Isa, place: fn(&[u8]) -> Guarded) -> Vec<u8> {
    let s = &case.spec;
    let code = Code::new(&s.assemble(isa).expect("the kernel assembles"));
    let constants = s.constants(isa, &Values { weights: &case.weights, channels: &case.channels });
    let rows: Vec<Guarded> = case.rows.iter().map(|row| place(row)).collect();
    let table: Vec<u8> = rows.iter().flat_map(|row| (row.as_ptr() as u64).to_le_bytes()).collect();
    let (table, constants) = (place(&table), place(&constants));
    let mut out = place(&vec![0xA5; s.row.out_width * s.row.channels]);
    let (unused, mut scratch) = (0u8, 0u8);
    // SAFETY: the buffers have the sizes that the kernel's contract names; guard pages catch anything else. It takes three of
    // the five pointers.
    unsafe { code.call(table.as_ptr(), constants.as_ptr(), out.as_mut_ptr(), &unused, &mut scratch) };
    out.to_vec()
}

fn check(isa: Isa) {
    let (mut float, mut cases) = (0, 0);
    for seed in 0..2100u64 {
        // Every tail of channels, and channel counts of real networks.
        let channels = match seed % 75 {
            n @ 0..70 => n as usize + 1,
            n => [96, 144, 160, 192, 240][n as usize - 70],
        };
        let case = random_case(&mut Random::new(seed), channels);
        cases += 1;
        float += usize::from(case.spec.rescale == Rescale::Float);
        let want = expected(&case);
        assert!(run(&case, isa, Guarded::at_end) == want, "seed {seed}: {:?}", case.spec);
        assert!(run(&case, isa, Guarded::at_start) == want, "seed {seed}: {:?}", case.spec);
    }
    assert!(float * 4 > cases, "only {float} of {cases} cases rescale in f32");
}

#[test]
fn vnni512_rows_equal_the_normative_arithmetic() {
    let has = is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq");
    if has { check(Isa::Vnni512) } else { eprintln!("skipped: these kernels need a CPU with AVX-512 VNNI") }
}

#[test]
fn avx2_rows_equal_the_normative_arithmetic() {
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        check(Isa::Avx2)
    } else {
        eprintln!("skipped: these kernels need AVX2 and FMA")
    }
}
