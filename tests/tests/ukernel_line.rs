//! Kernels of Winograd along lines alone: the data transform against plain Rust, and both together against a direct convolution;
//! every buffer between guard pages.
#![cfg(target_arch = "x86_64")]

use goshawk_compiler::ukernel::{
    Grid, Rescale, Tile, Weights,
    line::{self, Data, OFFSET, SCALE_BITS, TAPS},
    pack::Channel,
    winograd::{self, DATA},
};
use goshawk_ir::{Dyadic, Requant};
use goshawk_tests::{
    generate::Random,
    guard::{Code, Guarded},
};

const SEEDS: u64 = 600;

type Place = fn(&[u8]) -> Guarded;
const PLACES: [Place; 2] = [Guarded::at_start, Guarded::at_end];

fn here() -> bool {
    let here = is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq");
    if !here {
        eprintln!("skipped: this CPU has no avx512vnni");
    }
    here
}

/// Lines of pixels.
struct Image {
    data: Data,
    lines: Vec<Vec<u8>>,
    /// Pixels are at least and at most these.
    range: (i64, i64),
}

fn image(r: &mut Random, lines: usize) -> Image {
    let channels = r.pick(&[1, 3, 4, 8, 16, 31, 39, 48, 64, 65, 100, 128, 200]);
    let columns = 1 + r.below(17);
    let before = r.below(3);
    let out = (columns + before + r.below(3)).saturating_sub(TAPS - 1).max(1);
    let (lo, hi) = r.pick(&[(0, 1), (0, 63), (0, 127), (5, 100), (100, 227), (128, 255)]);
    let extreme = r.below(3) == 0;
    let value = |r: &mut Random| if extreme { r.pick(&[lo, hi]) } else { r.between(lo, hi) } as u8;
    let zero_point = value(r);
    // What the offset of position 1 is more than the others'.
    let centre = if 2 * hi < 128 { 0 } else { (-2 * lo - 128).rem_euclid(256) as u8 };
    let lines = (0..lines).map(|_| (0..columns * channels).map(|_| value(r)).collect()).collect();
    let data = Data { columns, channels, before, pairs: out.div_ceil(2), zero_point, centre };
    Image { data, lines, range: (i64::from(lo), i64::from(hi)) }
}

impl Image {
    /// Pixel of a line with its padding.
    fn at(&self, line: usize, column: usize, channel: usize) -> i64 {
        let byte = self.data.column(column).map(|c| self.lines[line][c * self.data.channels + channel]);
        i64::from(byte.unwrap_or(self.data.zero_point))
    }

    /// What is added to the transformed data of a position.
    fn offset(&self, position: usize) -> i64 {
        match position {
            1 if 2 * self.range.1 >= OFFSET => -2 * self.range.0,
            _ => OFFSET,
        }
    }

    fn line_bytes(&self) -> usize {
        self.data.pairs * line::pair_bytes(self.data.channels)
    }

    fn transform(&self, line: usize, place: Place) -> Guarded {
        let pixels = place(&self.lines[line]);
        let mut out = place(&vec![0xA5; self.line_bytes()]);
        let code = Code::new(&self.data.assemble().expect("assembles"));
        let none = std::ptr::null();
        // SAFETY: the buffers have the sizes that the kernel's contract names; guard pages catch anything else.
        unsafe { code.call(pixels.as_ptr(), none, out.as_mut_ptr(), none, std::ptr::null_mut()) };
        out
    }
}

#[test]
fn data_transforms() {
    if !here() {
        return;
    }
    for seed in 0..SEEDS {
        let image = image(&mut Random::new(seed), 1);
        let Data { pairs, channels, .. } = image.data;
        for place in PLACES {
            let out = image.transform(0, place);
            for (pair, k) in (0..pairs).flat_map(|p| (0..channels).map(move |k| (p, k))) {
                let v = winograd::data(std::array::from_fn(|c| image.at(0, 2 * pair + c, k)));
                for (position, v) in v.into_iter().enumerate() {
                    let at = pair * line::pair_bytes(channels) + position * line::depth(channels) + k;
                    let want = v + image.offset(position);
                    assert_eq!(
                        i64::from(out[at]),
                        want,
                        "seed {seed} {:?} {pair} {position} {k}",
                        image.data
                    );
                }
            }
        }
    }
}

/// A tile of pairs that begins anywhere in the first of some lines.
#[test]
fn tiles_are_a_convolution() {
    if !here() {
        return;
    }
    for seed in 0..SEEDS {
        let mut r = Random::new(seed);
        let lines = 1 + r.below(3);
        let image = image(&mut r, lines + TAPS - 1);
        let Data { pairs, channels, .. } = image.data;
        let vectors = 1 + r.below(2);
        let outputs = if r.below(2) == 0 { 16 * vectors } else { 16 * (vectors - 1) + 1 + r.below(16) };
        let extreme = r.below(3) == 0;
        let weight = |r: &mut Random| if extreme { r.pick(&[-32, 31]) } else { r.between(-32, 31) } as i8;
        let weights: Vec<Vec<i8>> =
            (0..outputs).map(|_| (0..TAPS * TAPS * channels).map(|_| weight(&mut r)).collect()).collect();
        let filters: Vec<&[i8]> = weights.iter().map(Vec::as_slice).collect();
        let first = r.below(pairs);
        let count = 1 + r.below((lines * pairs - first).min(line::max_pairs(vectors)));
        let out_width = (2 * pairs - r.below(2)).max(1);
        let grid = r.pick(&[Grid::U8, Grid::I16]);
        let (zero_point, clamp) = match grid {
            Grid::U8 => (r.pick(&[0, 7]), r.pick(&[(0, 255), (0, 15), (3, 200)])),
            Grid::I16 => (0, (-32767, 32767)),
        };
        let rescale = match r.below(3) {
            0 => Rescale::Integer { short_shift: false },
            1 => Rescale::Integer { short_shift: true },
            _ => Rescale::Float,
        };
        let dyadic = |r: &mut Random| {
            let dyadic = Dyadic { mult: r.between(1 << 30, i32::MAX), shift: r.between(36, 46) as u8 };
            if rescale == Rescale::Float { dyadic.shortened() } else { dyadic }
        };
        let requants: Vec<(Dyadic, i32)> =
            (0..outputs).map(|_| (dyadic(&mut r), r.between(-5000, 5000))).collect();
        let tile = Tile {
            weights: Weights::Int8,
            dot: None,
            grid,
            rows: 2 * count,
            vectors,
            columns: outputs,
            kernel_rows: TAPS,
            run: line::depth(channels),
            row_stride: line::pair_bytes(channels),
            line: 2 * count,
            line_stride: 0,
            prefetch: r.pick(&[0, 100, 5000]),
            kernel_row_stride: image.line_bytes(),
            out_stride: outputs * grid.bytes() + r.pick(&[0, 3]),
            out_line: 2 * pairs,
            out_width,
            out_first: 2 * first,
            zero_point,
            clamp,
            rescale,
            join: None,
        };
        let mut second = Vec::new();
        let starts: Vec<Channel> = requants
            .iter()
            .zip(&weights)
            .map(|((dyadic, bias), weights)| {
                let mut sums = [0; DATA];
                for (row, k) in (0..TAPS).flat_map(|row| (0..channels).map(move |k| (row, k))) {
                    let tap = |c: usize| i64::from(weights[(row * TAPS + c) * channels + k]);
                    for (position, u) in line::filter([tap(0), tap(1), tap(2)]).into_iter().enumerate() {
                        sums[position] += u * image.offset(position);
                    }
                }
                let start = line::results(sums).map(|share| i64::from(*bias) - (share >> SCALE_BITS));
                let [first, other] = line::starts(start);
                second.push(other);
                Channel { bias: first, mult: dyadic.mult, shift: dyadic.shift + SCALE_BITS }
            })
            .collect();
        let exists: Vec<usize> = (0..tile.rows).filter(|row| tile.exists(*row)).collect();
        let last = *exists.last().expect("the first result exists");
        let mut want = vec![0xA5; tile.result(last) * tile.out_stride + outputs * grid.bytes()];
        for row in &exists {
            let at = 2 * first + row;
            let (y, x) = (at / (2 * pairs), at % (2 * pairs));
            for (n, (dyadic, bias)) in requants.iter().enumerate() {
                let mut sum = i64::from(*bias);
                for (i, w) in weights[n].iter().enumerate() {
                    let (row, column, k) = (i / channels / TAPS, i / channels % TAPS, i % channels);
                    sum += image.at(y + row, x + column, k) * i64::from(*w);
                }
                let requant = Requant { mult: vec![*dyadic], zero_point, lo: clamp.0, hi: clamp.1 };
                let value = requant.apply(sum as i32, 0).to_le_bytes();
                let at = tile.result(*row) * tile.out_stride + n * grid.bytes();
                want[at..at + grid.bytes()].copy_from_slice(&value[..grid.bytes()]);
            }
        }
        let code = Code::new(&line::assemble(&tile).expect("assembles"));
        for place in PLACES {
            let data: Vec<u8> =
                (0..image.lines.len()).flat_map(|l| image.transform(l, place).to_vec()).collect();
            // From the tile's first pair to its last one's last filter row.
            let from = first * line::pair_bytes(channels);
            let to = from + (TAPS - 1) * image.line_bytes() + count * line::pair_bytes(channels);
            let data = place(&data[from..to]);
            let filters = place(&line::pack(&filters, channels, vectors));
            let epilogue = place(&line::epilogue(&starts, &second, &tile));
            let mut out = place(&vec![0xA5; want.len()]);
            let constants = epilogue[line::second_bytes(vectors)..].as_ptr();
            // SAFETY: as above.
            unsafe {
                code.call(data.as_ptr(), filters.as_ptr(), out.as_mut_ptr(), constants, std::ptr::null_mut());
            }
            assert!(*out == want, "seed {seed} {tile:?}");
        }
    }
}
