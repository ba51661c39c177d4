//! Winograd kernels alone: each against the transforms in plain Rust, and all four together against a direct
//! convolution; every buffer between guard pages.
#![cfg(target_arch = "x86_64")]

use goshawk_compiler::ukernel::{
    Dot, Grid, Isa, Rescale, Tile, Weights,
    pack::Channel,
    winograd::{self, DATA, Data, Filters, OFFSET, Outcome, PHASES, Product, RESULTS, SCALE_BITS, TAPS},
};
use goshawk_ir::{Dyadic, Requant};
use goshawk_tests::{
    generate::Random,
    guard::{Code, Guarded},
};

const SEEDS: u64 = 400;

/// Instruction sets that this CPU has.
fn isas() -> Vec<Isa> {
    let vnni = is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq");
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let isas = [(Isa::Vnni512, vnni), (Isa::Avx2, avx2)];
    for (isa, _) in isas.iter().filter(|(_, has)| !has) {
        eprintln!("skipped: this CPU has no {}", isa.name());
    }
    isas.into_iter().filter(|(_, has)| *has).map(|(isa, _)| isa).collect()
}

/// Dot products for every other seed where AVX2's kernels may have them here.
fn dot(isa: Isa, seed: u64) -> Option<Dot> {
    let vex = is_x86_feature_detected!("avxvnni");
    let evex = is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vl");
    let dot = if vex { Some(Dot::Vex) } else { evex.then_some(Dot::Evex) };
    dot.filter(|_| isa == Isa::Avx2 && seed.is_multiple_of(2))
}

/// Instruction sets and seeds.
fn cases() -> impl Iterator<Item = (Isa, u64)> {
    isas().into_iter().flat_map(|isa| (0..SEEDS).map(move |seed| (isa, seed)))
}

type Place = fn(&[u8]) -> Guarded;
const PLACES: [Place; 2] = [Guarded::at_start, Guarded::at_end];

fn run(code: &[u8], [a, w, e]: [*const u8; 3], out: &mut Guarded) {
    // SAFETY: the buffers have the sizes that the kernels' contracts name; guard pages catch anything else.
    unsafe { Code::new(code).call(a, w, out.as_mut_ptr(), e, std::ptr::null_mut()) };
}

/// A row of tiles: rows of pixels, columns of padding.
struct Image {
    data: Data,
    rows: [Vec<u8>; DATA],
    /// Largest pixel.
    largest: usize,
}

fn image(isa: Isa, r: &mut Random) -> Image {
    let channels = r.pick(&[1, 3, 8, 16, 24, 39, 48, 64, 65, 100, 128, 200]);
    let columns = 1 + r.below(17);
    let before = r.below(3);
    let behind = r.below(3);
    let out = (columns + before + behind).saturating_sub(TAPS - 1).max(1);
    let tiles = out.div_ceil(RESULTS);
    let largest = r.pick(&[1, 15, 31, 63]);
    let extreme = r.below(3) == 0;
    let value = |r: &mut Random| if extreme { r.pick(&[0, largest]) } else { r.below(largest + 1) } as u8;
    let zero_point = value(r);
    let depth = winograd::depth(channels);
    let gap = r.pick(&[0, 0, 5]);
    let (tile, plane) = match isa {
        Isa::Vnni512 => (depth, tiles * depth + gap),
        Isa::Avx2 => (DATA * DATA * depth + gap, depth),
    };
    // Position (1, 1) has values of its own, 0 to 4 times the largest pixel.
    let (offset, centre) = match isa {
        Isa::Vnni512 => (OFFSET as u8, if largest > 31 { 128 } else { 0 }),
        Isa::Avx2 => {
            let offset = (2 * largest).next_multiple_of(4) as u8;
            (offset, offset.wrapping_neg())
        }
    };
    let rows = std::array::from_fn(|_| (0..columns * channels).map(|_| value(r)).collect());
    let data = Data { isa, columns, channels, before, tiles, zero_point, offset, centre, tile, plane };
    Image { data, rows, largest }
}

impl Image {
    /// Pixel of a row of the tiles, zero point outside the image.
    fn at(&self, row: usize, column: usize, channel: usize) -> i64 {
        let inside = column.checked_sub(self.data.before).filter(|c| *c < self.data.columns);
        let byte = inside.map(|c| self.rows[row][c * self.data.channels + channel]);
        i64::from(byte.unwrap_or(self.data.zero_point))
    }

    fn transform(&self, place: Place) -> Guarded {
        let rows = [0, 1, 2, 3].map(|i| place(&self.rows[i]));
        let table: Vec<u8> = rows.iter().flat_map(|r| (r.as_ptr() as usize).to_le_bytes()).collect();
        let table = place(&table);
        let Data { tile, plane, tiles, channels, .. } = self.data;
        let bytes = 15 * plane + (tiles - 1) * tile + winograd::depth(channels);
        let mut out = place(&vec![0xA5; bytes]);
        let code = self.data.assemble().expect("assembles");
        run(&code, [table.as_ptr(), std::ptr::null(), std::ptr::null()], &mut out);
        out
    }
}

#[test]
fn data_transforms() {
    for (isa, seed) in cases() {
        let image = image(isa, &mut Random::new(seed));
        let d = &image.data;
        for place in PLACES {
            let out = image.transform(place);
            let mut written = vec![false; out.len()];
            for tile in 0..d.tiles {
                for k in 0..winograd::depth(d.channels) {
                    let x = std::array::from_fn(|r| {
                        std::array::from_fn(|c| {
                            if k < d.channels { image.at(r, RESULTS * tile + c, k) } else { 0 }
                        })
                    });
                    for (r, row) in winograd::square(x, winograd::data).into_iter().enumerate() {
                        for (c, v) in row.into_iter().enumerate() {
                            let at = (r * DATA + c) * d.plane + tile * d.tile + k;
                            written[at] = true;
                            if k < d.channels {
                                let centre = if (r, c) == (1, 1) { i64::from(d.centre) } else { 0 };
                                let want = (v + i64::from(d.offset) + centre).rem_euclid(256);
                                assert_eq!(i64::from(out[at]), want, "seed {seed} {d:?} {r} {c} {tile} {k}");
                            }
                        }
                    }
                }
            }
            let untouched = out.iter().zip(&written).filter(|(_, w)| !**w).all(|(b, _)| *b == 0xA5);
            assert!(untouched, "seed {seed}: a byte between two planes was written");
        }
    }
}

fn weights(r: &mut Random, channels: usize, outputs: usize, limit: i32) -> Vec<Vec<i8>> {
    let extreme = r.below(3) == 0;
    let (lo, hi) = (-limit, limit - 1);
    let value = |r: &mut Random| if extreme { r.pick(&[lo, hi]) } else { r.between(lo, hi) } as i8;
    (0..outputs).map(|_| (0..TAPS * TAPS * channels).map(|_| value(r)).collect()).collect()
}

fn slices(weights: &[Vec<i8>]) -> Vec<&[i8]> {
    weights.iter().map(Vec::as_slice).collect()
}

fn transform(filters: &Filters, weights: &[Vec<i8>], place: Place) -> Guarded {
    let packed = place(&filters.pack(&slices(weights)));
    assert_eq!(packed.len(), filters.packed_bytes());
    let mut out = place(&vec![0xA5; filters.bytes()]);
    let code = filters.assemble().expect("assembles");
    run(&code, [packed.as_ptr(), std::ptr::null(), std::ptr::null()], &mut out);
    out
}

#[test]
fn filter_transforms() {
    for (isa, seed) in cases() {
        let mut r = Random::new(seed);
        let channels = 1 + r.below(70);
        let vectors = 1 + r.below(2);
        let outputs = 1 + r.below(isa.lanes() * vectors);
        let filters = Filters { isa, vectors, depth: winograd::depth(channels) };
        let weights = weights(&mut r, channels, outputs, 8);
        let mut want = filters.transformed(&slices(&weights));
        if isa == Isa::Avx2 {
            // A line behind each position.
            want.chunks_mut(filters.plane()).for_each(|p| p[filters.plane() - 64..].fill(0xA5));
        }
        for place in PLACES {
            let out = transform(&filters, &weights, place);
            // Padding channels hold transformed zeros.
            assert!(*out == *want, "seed {seed} {filters:?} {outputs} of {channels}");
        }
    }
}

fn words(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn word(bytes: &[u8], index: usize) -> i32 {
    i32::from_le_bytes([0, 1, 2, 3].map(|b| bytes[index * 4 + b]))
}

/// What products are made of, and where they start.
struct Factors {
    product: Product,
    data: Vec<u8>,
    filters: Filters,
    u: Vec<u8>,
    starts: Vec<i32>,
}

fn factors(isa: Isa, seed: u64) -> Factors {
    let mut r = Random::new(seed);
    let vectors = 1 + r.below(2);
    let lanes = vectors * isa.lanes();
    let depth = 8 * (1 + r.below(r_depth(isa)));
    let tiles = 1 + r.below(winograd::max_tiles(isa, vectors));
    let extreme = r.below(3) == 0;
    let gap = r.pick(&[0, 3]);
    let (tile, plane, positions) = match isa {
        Isa::Vnni512 => (depth, tiles * depth + gap, DATA),
        Isa::Avx2 => (DATA * DATA * depth + gap, depth, DATA * DATA),
    };
    let period = 1 + r.below(depth / 4 + 1);
    let column = tiles * lanes * 4 + r.pick(&[0, 64]);
    let dot = dot(isa, seed);
    let product = Product { isa, tiles, vectors, depth, tile, plane, column, dot, period };
    let filters = Filters { isa, vectors, depth };
    // With AVX2 as large as sums of a period allow.
    let (most_data, most_weight) = match isa {
        Isa::Vnni512 => (255, 127),
        Isa::Avx2 => {
            let top = r.pick(&[62, 254]);
            (top, (i16::MAX as usize / (2 * period.min(depth / 4)) / top).min(72))
        }
    };
    let byte = |r: &mut Random| if extreme { r.pick(&[0, most_data]) } else { r.below(most_data + 1) } as u8;
    let data = (0..(positions - 1) * plane + (tiles - 1) * tile + depth).map(|_| byte(&mut r)).collect();
    let limit = most_weight as i32;
    let weight = |r: &mut Random| {
        let w = if extreme { r.pick(&[-limit, limit]) } else { r.between(-limit, limit) };
        w as i8 as u8
    };
    let bytes = if isa == Isa::Vnni512 { filters.row() } else { filters.bytes() };
    let u = (0..bytes).map(|_| weight(&mut r)).collect();
    let starts = (0..2 * lanes).map(|_| r.between(-1000, 1000)).collect();
    Factors { product, data, filters, u, starts }
}

/// Most eighths of a depth.
fn r_depth(isa: Isa) -> usize {
    match isa {
        Isa::Vnni512 => 9,
        // Steps beyond those that are unrolled whatever their number.
        Isa::Avx2 => 24,
    }
}

impl Factors {
    /// The sum of a position of the row of positions, of a tile and a channel.
    fn sum(&self, [row, column]: [usize; 2], tile: usize, n: usize) -> i64 {
        let Product { depth, tile: pitch, plane, .. } = self.product;
        (0..depth)
            .map(|k| {
                let at = self.filters.position(row, column) + k / 4 * self.filters.step();
                let weight = self.u[at + n * 4 + k % 4] as i8;
                let x = self.data[(row * DATA + column) * plane + tile * pitch + k];
                i64::from(x) * i64::from(weight)
            })
            .sum()
    }
}

#[test]
fn products() {
    for (isa, seed) in cases() {
        let f = factors(isa, seed);
        let Product { tiles, vectors, column, .. } = f.product;
        let lanes = vectors * isa.lanes();
        let code = f.product.assemble().expect("assembles");
        let columns = if isa == Isa::Vnni512 { RESULTS } else { DATA * DATA };
        for place in PLACES {
            let (a, w, e) = (place(&f.data), place(&f.u), place(&words(&f.starts)));
            let mut out = place(&vec![0xA5; (columns - 1) * column + tiles * lanes * 4]);
            run(&code, [a.as_ptr(), w.as_ptr(), e.as_ptr()], &mut out);
            for (tile, n) in (0..tiles).flat_map(|tile| (0..lanes).map(move |n| (tile, n))) {
                let wanted: Vec<i64> = match isa {
                    Isa::Vnni512 => {
                        let mut c = std::array::from_fn(|column| f.sum([0, column], tile, n));
                        for (half, column) in PHASES[0].into_iter().enumerate() {
                            c[column] += i64::from(f.starts[half * lanes + n]);
                        }
                        winograd::results(c).to_vec()
                    }
                    Isa::Avx2 => (0..DATA * DATA).map(|p| f.sum([p / DATA, p % DATA], tile, n)).collect(),
                };
                for (c, want) in wanted.into_iter().enumerate() {
                    let got = word(&out, (c * column) / 4 + tile * lanes + n);
                    assert_eq!(i64::from(got), want, "seed {seed} {:?} {tile} {n} {c}", f.product);
                }
            }
        }
    }
}

/// A convolution of one row of tiles, from pixels to pixels.
#[test]
fn all_four_are_a_convolution() {
    for (isa, seed) in cases() {
        let mut r = Random::new(seed);
        let image = image(isa, &mut r);
        let d = &image.data;
        let vectors = 1 + r.below(2);
        let lanes = isa.lanes();
        let outputs =
            if r.below(2) == 0 { lanes * vectors } else { lanes * (vectors - 1) + 1 + r.below(lanes) };
        // AVX2 can sum any two products of 4-bit weights and pixels of at most 5 bits, and smaller weights with 6.
        let limit = if isa == Isa::Avx2 && image.largest > 31 { 4 } else { 8 };
        let weights = weights(&mut r, d.channels, outputs, limit);
        let largest = usize::from(d.offset) + 2 * image.largest;
        let period = (i16::MAX as usize / (2 * 9 * limit as usize * largest)).max(1);
        let grid = r.pick(&[Grid::U8, Grid::I16]);
        let (rows, columns) = (1 + r.below(2), (2 * d.tiles - r.below(2)).max(1));
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
        let channels: Vec<(Dyadic, i32)> =
            (0..outputs).map(|_| (dyadic(&mut r), r.between(-5000, 5000))).collect();
        let pitch = outputs * grid.bytes() + r.pick(&[0, 3]);
        let line = columns * pitch;
        let depth = winograd::depth(d.channels);
        let filters = Filters { isa, vectors, depth };
        let tile_sums = vectors * lanes * 4;
        let column = d.tiles * tile_sums;
        // Sums that are left of a row of positions.
        let in_row = if isa == Isa::Vnni512 { RESULTS } else { DATA };
        let outcome = Outcome {
            isa,
            tile: Tile {
                weights: Weights::Int8,
                dot: None,
                grid,
                rows: 1,
                vectors,
                columns: outputs,
                kernel_rows: 1,
                run: 4,
                row_stride: 0,
                line: 1,
                line_stride: 0,
                prefetch: 0,
                kernel_row_stride: 0,
                out_stride: pitch,
                out_line: 1,
                out_width: columns,
                out_first: 0,
                zero_point,
                clamp,
                rescale,
                join: None,
            },
            columns,
            rows,
            column,
            row: in_row * column,
        };
        let starts: Vec<_> = (0..outputs)
            .map(|n| {
                let mut offsets = [[0i64; DATA]; DATA];
                for k in 0..d.channels {
                    let g = std::array::from_fn(|r| {
                        std::array::from_fn(|c| i64::from(weights[n][(r * TAPS + c) * d.channels + k]))
                    });
                    for (r, row) in winograd::square(g, winograd::filter).into_iter().enumerate() {
                        for (c, u) in row.into_iter().enumerate() {
                            let centre = if (r, c) == (1, 1) { i64::from(d.centre) } else { 0 };
                            // Modulo 256 as the data are.
                            offsets[r][c] += u * (i64::from(d.offset) + centre).rem_euclid(256);
                        }
                    }
                }
                winograd::square(offsets, winograd::results)
                    .map(|row| row.map(|v| channels[n].1 - (v >> SCALE_BITS) as i32))
            })
            .collect();
        let starts = winograd::starts(isa, &starts, vectors);
        let epilogue: Vec<Channel> = channels
            .iter()
            .map(|(d, _)| Channel { bias: 0, mult: d.mult, shift: d.shift + SCALE_BITS })
            .collect();
        let epilogue = isa.epilogue(&epilogue, &outcome.tile);
        for place in PLACES {
            let v = image.transform(place);
            let u = transform(&filters, &weights, place);
            let (starts, epilogue) = (place(&starts), place(&epilogue));
            let mut sums = place(&vec![0; DATA * outcome.row]);
            let most = winograd::max_tiles(isa, vectors).min(d.tiles);
            let calls = if isa == Isa::Vnni512 { DATA } else { 1 };
            for (row, first) in (0..calls).flat_map(|r| (0..d.tiles).step_by(most).map(move |f| (r, f))) {
                let Data { tile, plane, .. } = *d;
                let tiles = most.min(d.tiles - first);
                let dot = dot(isa, seed);
                let product = Product { isa, tiles, vectors, depth, tile, plane, column, dot, period };
                let code = product.assemble().expect("assembles");
                let a = v[row * DATA * plane + first * tile..].as_ptr();
                let w = u[row * filters.row()..].as_ptr();
                let e = starts[row * starts.len() / DATA..].as_ptr();
                let to = sums[row * outcome.row + first * tile_sums..].as_mut_ptr();
                // SAFETY: as in `run`.
                unsafe { Code::new(&code).call(a, w, to, e, std::ptr::null_mut()) };
            }
            let mut out =
                place(&vec![0xA5; (rows - 1) * line + (columns - 1) * pitch + outputs * grid.bytes()]);
            let code = outcome.assemble().expect("assembles");
            run(&code, [sums.as_ptr(), starts.as_ptr(), epilogue.as_ptr()], &mut out);
            let mut written = vec![false; out.len()];
            for y in 0..rows {
                for x in 0..columns {
                    for n in 0..outputs {
                        let mut sum = i64::from(channels[n].1);
                        for (r, c, k) in (0..TAPS)
                            .flat_map(|r| (0..TAPS).map(move |c| (r, c)))
                            .flat_map(|(r, c)| (0..d.channels).map(move |k| (r, c, k)))
                        {
                            let w = i64::from(weights[n][(r * TAPS + c) * d.channels + k]);
                            sum += image.at(y + r, x + c, k) * w;
                        }
                        let requant =
                            Requant { mult: vec![channels[n].0], zero_point, lo: clamp.0, hi: clamp.1 };
                        let want = requant.apply(sum as i32, 0);
                        let at = y * line + x * pitch + n * grid.bytes();
                        let got = match grid {
                            Grid::U8 => i32::from(out[at]),
                            Grid::I16 => i32::from(i16::from_le_bytes([out[at], out[at + 1]])),
                        };
                        assert_eq!(got, want, "seed {seed} {d:?} {outcome:?} {y} {x} {n}");
                        written[at..at + grid.bytes()].fill(true);
                    }
                }
            }
            let untouched = out.iter().zip(&written).filter(|(_, w)| !**w).all(|(b, _)| *b == 0xA5);
            assert!(untouched, "seed {seed}: a byte outside the pixels was written");
        }
    }
}
