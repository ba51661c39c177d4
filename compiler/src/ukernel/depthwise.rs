//! Depthwise convolution, one output row of all channels at a time: the description from which code, constants,
//! reference and tests are made.
//!
//! Dot products need several factors in one 32-bit lane. Without a sum over channels those are taps of one channel: a
//! *set* puts the bytes of up to four taps (two with AVX2, as words) of every channel side by side, by interleaving
//! whole vectors of channels. A set of kernel rows at one column serves every kernel column: the interleaved vector of
//! input column c is multiplied by the weights of kernel column 0 for one output, of column 1 for the output before, and so on.
//! So the kernel walks along the input, interleaves each column once (*event*), adds to all outputs that it touches, and
//! finishes the oldest. Kernel rows that are left over (the fifth of 5×5) lie in sets of several columns.
//!
//! Vectors are filled with 64 channels of one pixel, or with 32 of two or 16 of four neighbouring outputs (*pixels* of a
//! part), so that 16, 32, 96 or 144 channels waste no lanes. Kernel column kx then reads pixel p·stride + kx: with
//! kx = m·stride + class that is the vector of its class, moved on by m outputs.
//!
//! Columns outside the input are vectors of the zero point, rows outside a row of zero points that the caller passes.
use super::{
    Isa, Rescale,
    pack::Channel,
    row::{Events, Part, Row},
};
use iced_x86::IcedError;

/// A depthwise convolution along a row, with a result of u8.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Depthwise {
    /// Geometry.
    pub row: Row,
    /// Whether all channels have the same weights and requantization: one block of constants serves them all.
    pub alike: bool,
    /// Zero point of the input.
    pub input_zero_point: u8,
    /// Zero point of the output.
    pub zero_point: i32,
    /// Clamp of the output, inside 0..=255.
    pub clamp: (i32, i32),
    /// How accumulators become results.
    pub rescale: Rescale,
}

/// A byte (or word) of a lane: kernel row, and input columns to the right of the vector's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub row: usize,
    pub column: usize,
}

/// Taps that share a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set {
    pub slots: Vec<Slot>,
    /// Kernel columns that one use of the set covers.
    pub columns: usize,
}

/// One multiplication of an interleaved vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Use {
    /// Number of its weights.
    pub dot: usize,
    /// Pixels by which the vector is moved on inside its registers.
    pub shift: usize,
    /// The output is this many groups before the vector.
    pub back: usize,
}

/// The vectors of one set and one class of columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base {
    pub set: usize,
    pub class: usize,
    pub uses: Vec<Use>,
}

impl Base {
    /// Whether the vector of the event before is needed too.
    pub fn keeps(&self) -> bool {
        self.uses.iter().any(|u| u.shift > 0)
    }
}

/// What happens along a row for one part of the channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    /// Outputs of a vector.
    pub pixels: usize,
    pub sets: Vec<Set>,
    /// Set and kernel column of each multiplication.
    pub dots: Vec<(usize, usize)>,
    pub bases: Vec<Base>,
    /// An output is finished this many events after its first.
    pub latest: usize,
    /// Groups of `pixels` outputs in a row.
    pub groups: usize,
}

impl Schedule {
    pub fn new(row: &Row, slots: usize, pixels: usize) -> Self {
        let sets = sets(row.kernel[0], slots);
        let (mut dots, mut bases): (Vec<(usize, usize)>, Vec<Base>) = (Vec::new(), Vec::new());
        for (set, s) in sets.iter().enumerate() {
            for kx in (0..row.kernel[1]).step_by(s.columns) {
                let (moved, class) = (kx / row.stride, kx % row.stride);
                let shift = moved % pixels;
                let one = Use { dot: dots.len(), shift, back: moved / pixels + usize::from(shift > 0) };
                dots.push((set, kx));
                match bases.iter_mut().find(|b| (b.set, b.class) == (set, class)) {
                    Some(base) => base.uses.push(one),
                    None => bases.push(Base { set, class, uses: vec![one] }),
                }
            }
        }
        let latest = bases.iter().flat_map(|b| &b.uses).map(|u| u.back).max().unwrap_or(0);
        Self { pixels, sets, dots, bases, latest, groups: row.out_width.div_ceil(pixels) }
    }

    /// Input column of a slot of a base's vector at an event, for one of the vector's pixels; may lie outside.
    pub fn column(&self, row: &Row, base: &Base, slot: Slot, event: usize, pixel: usize) -> isize {
        let column = (event * self.pixels + pixel) * row.stride + base.class + slot.column;
        column as isize - row.pad
    }

    /// Whether the output group that a use adds to at an event exists.
    pub fn exists(&self, event: usize, back: usize) -> bool {
        event.checked_sub(back).is_some_and(|group| group < self.groups)
    }

    /// Whether a base's vector is needed at an event, or at the next one.
    pub fn needs(&self, base: &Base, event: usize) -> bool {
        base.uses
            .iter()
            .any(|u| self.exists(event, u.back) || (u.shift > 0 && self.exists(event + 1, u.back)))
    }

    /// The arrivals of vectors. Those are alike for which nothing is outside and every output exists.
    pub fn events(&self, row: &Row) -> Events {
        let inside = |event: usize| {
            self.bases.iter().all(|base| {
                self.sets[base.set].slots.iter().all(|slot| {
                    (0..self.pixels).all(|pixel| row.inside(self.column(row, base, *slot, event, pixel)))
                })
            })
        };
        let uniform = |event: usize| {
            event < self.groups
                && event >= self.latest
                && (event - self.latest + 1) * self.pixels <= row.out_width
                && inside(event)
        };
        let count = self.groups + self.latest;
        let start = (0..count).find(|e| uniform(*e)).unwrap_or(count);
        let end = (start..count).find(|e| !uniform(*e)).unwrap_or(count);
        // Sums rotate through the outputs under way; two copies of a vector alternate.
        let outputs = self.latest + 1;
        let copies = if self.bases.iter().any(Base::keeps) { 2 } else { 1 };
        let period = if outputs.is_multiple_of(copies) { outputs } else { outputs * copies };
        Events { count, pixels: self.pixels, uniform: start..end, period }
    }
}

/// Rows by the lane's slots; those left over with as many columns as fit.
fn sets(rows: usize, slots: usize) -> Vec<Set> {
    let all: Vec<usize> = (0..rows).collect();
    all.chunks(slots)
        .map(|rows| {
            let columns = slots / rows.len();
            let slots =
                (0..columns).flat_map(|column| rows.iter().map(move |row| Slot { row: *row, column }));
            Set { slots: slots.collect(), columns }
        })
        .collect()
}

/// Values of a layer.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// Weights: for each channel kernel rows × columns.
    pub weights: &'a [i8],
    /// Requantization of each channel, biases with the zero point folded in.
    pub channels: &'a [Channel],
}

impl Depthwise {
    /// Machine code: (`rdi` = addresses of the input rows, `rsi` = constants, `rdx` = output row).
    ///
    /// # Errors
    /// The assembler refuses an instruction, which is a defect of the kernel.
    pub fn assemble(&self, isa: Isa) -> Result<Vec<u8>, IcedError> {
        match isa {
            Isa::Vnni512 => super::x64::depthwise::vnni512::assemble(self),
            Isa::Avx2 => super::x64::depthwise::avx2::assemble(self),
        }
    }

    /// Weights and requantization in the order in which the code reads them.
    pub fn constants(&self, isa: Isa, values: &Values<'_>) -> Vec<u8> {
        let (slots, quads) = (slots(isa), isa.lanes() / 4);
        let mut out = Vec::new();
        for part in self.parts(isa) {
            let schedule = Schedule::new(&self.row, slots, part.pixels);
            // Bytes of a row vector that one pixel takes.
            let room = Self::vector_channels(isa) / part.pixels;
            for block in 0..if self.alike { 1 } else { part.blocks } {
                let first = part.first + block * part.channels;
                // Channel of each lane of each of the vectors into which a row vector is interleaved.
                let lanes: Vec<Vec<Option<usize>>> = (0..Self::vector_channels(isa) / isa.lanes())
                    .map(|v| {
                        (0..isa.lanes())
                            .map(|lane| (lane / 4 * 4 * quads + 4 * v + lane % 4) % room)
                            .map(|at| (at < part.channels).then_some(first + at))
                            .collect()
                    })
                    .collect();
                for (set, kx) in &schedule.dots {
                    for vector in &lanes {
                        for lane in vector {
                            self.lane_weights(&mut out, slots, &schedule.sets[*set], *kx, *lane, values);
                        }
                    }
                }
                for vector in &lanes {
                    let none = Channel { bias: 0, mult: 0, shift: 32 };
                    let channels: Vec<Channel> =
                        vector.iter().map(|c| c.map_or(none, |c| values.channels[c])).collect();
                    out.extend(isa.rescale_constants(&channels, self.rescale, self.zero_point, false));
                }
            }
        }
        out
    }

    fn lane_weights(
        &self,
        out: &mut Vec<u8>,
        slots: usize,
        set: &Set,
        kx: usize,
        channel: Option<usize>,
        values: &Values<'_>,
    ) {
        let [rows, columns] = self.row.kernel;
        for i in 0..slots {
            let tap =
                set.slots.get(i).filter(|s| kx + s.column < columns).map(|s| s.row * columns + kx + s.column);
            let weight = match (channel, tap) {
                (Some(channel), Some(tap)) => values.weights[channel * rows * columns + tap],
                _ => 0,
            };
            if slots == 2 { out.extend(i16::from(weight).to_le_bytes()) } else { out.push(weight as u8) }
        }
    }

    /// Channels of one pixel that fill a row vector.
    pub(super) const fn vector_channels(isa: Isa) -> usize {
        match isa {
            Isa::Vnni512 => 64,
            Isa::Avx2 => 16,
        }
    }

    /// How the channels are divided.
    pub(super) fn parts(&self, isa: Isa) -> Vec<Part> {
        let whole = Self::vector_channels(isa);
        let mut parts = Vec::new();
        if self.row.channels >= whole {
            parts.push(Part { first: 0, channels: whole, blocks: self.row.channels / whole, pixels: 1 });
        }
        let mut first = self.row.channels / whole * whole;
        match isa {
            Isa::Vnni512 => {
                while first < self.row.channels {
                    let rest = self.row.channels - first;
                    let (channels, pixels) = match rest {
                        1..=16 => (rest, 4),
                        17..=32 => (rest, 2),
                        33..=48 => (32, 2),
                        _ => (rest, 1),
                    };
                    let fits =
                        |pixels| super::x64::depthwise::vnni512::fits(&Schedule::new(&self.row, 4, pixels));
                    let (channels, pixels) = if fits(pixels) { (channels, pixels) } else { (rest, 1) };
                    parts.push(Part { first, channels, blocks: 1, pixels });
                    first += channels;
                }
            }
            // There are no masks: the last vector overlaps the one before.
            Isa::Avx2 if first == 0 => {
                parts.push(Part { first, channels: self.row.channels, blocks: 1, pixels: 1 });
            }
            Isa::Avx2 if first < self.row.channels => {
                parts.push(Part { first: self.row.channels - whole, channels: whole, blocks: 1, pixels: 1 });
            }
            Isa::Avx2 => {}
        }
        parts
    }
}

/// Taps of a 32-bit lane.
pub(super) const fn slots(isa: Isa) -> usize {
    match isa {
        Isa::Vnni512 => 4,
        Isa::Avx2 => 2,
    }
}
