//! Winograd kernels alone: each against the transforms in plain Rust, and all four together against a direct
//! convolution; every buffer between guard pages.
#![cfg(target_arch = "x86_64")]

use goshawk_compiler::ukernel::{
    Grid, Isa, Rescale, Tile, Weights,
    pack::Channel,
    winograd::{self, DATA, Data, Filters, OFFSET, Outcome, PHASES, Product, RESULTS, SCALE_BITS, TAPS},
};
use goshawk_ir::{Dyadic, Requant};
use goshawk_tests::{
    generate::Random,
    guard::{Code, Guarded},
};

const SEEDS: u64 = 400;

fn runs_here() -> bool {
    let has = is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq");
    if !has {
        eprintln!("skipped: Winograd kernels need a CPU with AVX-512 VNNI");
    }
    has
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
}

fn image(r: &mut Random) -> Image {
    let channels = r.pick(&[1, 3, 8, 16, 48, 64, 65, 100, 128, 200]);
    let columns = 1 + r.below(17);
    let before = r.below(3);
    let behind = r.below(3);
    let out = (columns + before + behind).saturating_sub(TAPS - 1).max(1);
    let tiles = out.div_ceil(RESULTS);
    let largest = r.pick(&[1, 15, 31, 63]);
    let extreme = r.below(3) == 0;
    let value = |r: &mut Random| if extreme { r.pick(&[0, largest]) } else { r.below(largest + 1) } as u8;
    let zero_point = value(r);
    let centre = if largest > 31 { 128 } else { 0 };
    let plane = tiles * winograd::depth(channels) + r.pick(&[0, 0, 5]);
    let rows = std::array::from_fn(|_| (0..columns * channels).map(|_| value(r)).collect());
    Image { data: Data { columns, channels, before, tiles, zero_point, centre, plane }, rows }
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
        let bytes = 15 * self.data.plane + self.data.tiles * winograd::depth(self.data.channels);
        let mut out = place(&vec![0xA5; bytes]);
        let code = self.data.assemble().expect("assembles");
        run(&code, [table.as_ptr(), std::ptr::null(), std::ptr::null()], &mut out);
        out
    }
}

#[test]
fn data_transforms() {
    if !runs_here() {
        return;
    }
    for seed in 0..SEEDS {
        let image = image(&mut Random::new(seed));
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
                            let at = (r * DATA + c) * d.plane + tile * winograd::depth(d.channels) + k;
                            written[at] = true;
                            if k < d.channels {
                                let centre = if (r, c) == (1, 1) { i64::from(d.centre) } else { 0 };
                                let want = (v + OFFSET + centre).rem_euclid(256);
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

fn weights(r: &mut Random, channels: usize, outputs: usize) -> Vec<Vec<i8>> {
    let extreme = r.below(3) == 0;
    let value = |r: &mut Random| if extreme { r.pick(&[-8, 7]) } else { r.between(-8, 7) } as i8;
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
    if !runs_here() {
        return;
    }
    for seed in 0..SEEDS {
        let mut r = Random::new(seed);
        let channels = 1 + r.below(70);
        let vectors = 1 + r.below(2);
        let outputs = 1 + r.below(16 * vectors);
        let filters = Filters { vectors, depth: winograd::depth(channels) };
        let weights = weights(&mut r, channels, outputs);
        let want = filters.transformed(&slices(&weights));
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

#[test]
fn products() {
    if !runs_here() {
        return;
    }
    for seed in 0..SEEDS {
        let mut r = Random::new(seed);
        let vectors = 1 + r.below(2);
        let lanes = vectors * 16;
        let depth = 8 * (1 + r.below(9));
        let tiles = 1 + r.below(winograd::max_tiles(vectors));
        let extreme = r.below(3) == 0;
        let product = Product {
            tiles,
            vectors,
            depth,
            plane: tiles * depth + r.pick(&[0, 3]),
            column: tiles * lanes * 4 + r.pick(&[0, 64]),
        };
        let filters = Filters { vectors, depth };
        let byte = |r: &mut Random| if extreme { r.pick(&[0, 255]) } else { r.below(256) } as u8;
        let data: Vec<u8> = (0..3 * product.plane + tiles * depth).map(|_| byte(&mut r)).collect();
        let u: Vec<u8> = (0..filters.row()).map(|_| byte(&mut r)).collect();
        let starts: Vec<i32> = (0..2 * lanes).map(|_| r.between(-1000, 1000)).collect();
        let code = product.assemble().expect("assembles");
        for place in PLACES {
            let (a, w, e) = (place(&data), place(&u), place(&words(&starts)));
            let mut out = place(&vec![0xA5; product.column + tiles * lanes * 4]);
            run(&code, [a.as_ptr(), w.as_ptr(), e.as_ptr()], &mut out);
            for tile in 0..tiles {
                for n in 0..lanes {
                    let mut c = [0i64; DATA];
                    for (phase, columns) in PHASES.into_iter().enumerate() {
                        for (half, column) in columns.into_iter().enumerate() {
                            if phase == 0 {
                                c[column] = i64::from(starts[half * lanes + n]);
                            }
                            for k in 0..depth {
                                let at = phase * filters.phase() + (k / 4 * 2 + half) * lanes * 4;
                                let weight = u[at + n * 4 + k % 4] as i8;
                                let x = data[column * product.plane + tile * depth + k];
                                c[column] += i64::from(x) * i64::from(weight);
                            }
                        }
                    }
                    for (column, want) in winograd::results(c).into_iter().enumerate() {
                        let got = word(&out, column * product.column / 4 + tile * lanes + n);
                        assert_eq!(i64::from(got), want, "seed {seed} {product:?} {tile} {n} {column}");
                    }
                }
            }
        }
    }
}

/// A convolution of one row of tiles, from pixels to pixels.
#[test]
fn all_four_are_a_convolution() {
    if !runs_here() {
        return;
    }
    for seed in 0..SEEDS {
        let mut r = Random::new(seed);
        let image = image(&mut r);
        let d = &image.data;
        let vectors = 1 + r.below(2);
        let outputs = if r.below(2) == 0 { 16 * vectors } else { 16 * (vectors - 1) + 1 + r.below(16) };
        let weights = weights(&mut r, d.channels, outputs);
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
        let filters = Filters { vectors, depth };
        let column = d.tiles * vectors * 64;
        let outcome = Outcome {
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
                out_width: 0,
                zero_point,
                clamp,
                rescale,
                join: None,
            },
            columns,
            rows,
            column,
            row: 2 * column,
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
                            // 128 added to 128 is 0 modulo 256, which is what the data hold.
                            offsets[r][c] += u * (OFFSET + centre).rem_euclid(256);
                        }
                    }
                }
                winograd::square(offsets, winograd::results)
                    .map(|row| row.map(|v| channels[n].1 - (v >> SCALE_BITS) as i32))
            })
            .collect();
        let starts = winograd::starts(&starts, vectors);
        let epilogue: Vec<Channel> = channels
            .iter()
            .map(|(d, _)| Channel { bias: 0, mult: d.mult, shift: d.shift + SCALE_BITS })
            .collect();
        let epilogue = Isa::Vnni512.epilogue(&epilogue, &outcome.tile);
        for place in PLACES {
            let v = image.transform(place);
            let u = transform(&filters, &weights, place);
            let (starts, epilogue) = (place(&starts), place(&epilogue));
            let mut sums = place(&vec![0; DATA * outcome.row]);
            let most = winograd::max_tiles(vectors).min(d.tiles);
            for row in 0..DATA {
                for first in (0..d.tiles).step_by(most) {
                    let tiles = most.min(d.tiles - first);
                    let product = Product { tiles, vectors, depth, plane: d.plane, column };
                    let code = product.assemble().expect("assembles");
                    let a = v[row * DATA * d.plane + first * depth..].as_ptr();
                    let w = u[row * filters.row()..].as_ptr();
                    let e = starts[row * 2 * vectors * 64..].as_ptr();
                    let to = sums[row * outcome.row + first * vectors * 64..].as_mut_ptr();
                    // SAFETY: as in `run`.
                    unsafe { Code::new(&code).call(a, w, to, e, std::ptr::null_mut()) };
                }
            }
            let mut out =
                place(&vec![0xA5; (rows - 1) * line + (columns - 1) * pitch + outputs * grid.bytes()]);
            let code = outcome.assemble().expect("assembles");
            run(&code, [sums.as_ptr(), std::ptr::null(), epilogue.as_ptr()], &mut out);
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
