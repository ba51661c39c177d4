//! 3×3 convolutions by Winograd's F(2, 3) along lines ([`crate::ukernel::line`]), with AVX-512 VNNI, where it is provably exact
//! and faster: two thirds of the products, for activations of up to 7 bits.
//!
//! The lines of the image with their padding are transformed into the scratch area, where pairs of results follow each
//! other without a gap. Tiles are some pairs of a *group* of lines: one line where its pairs are a multiple of what a tile
//! holds, more where the tiles of one would be small. Filters are transformed when compiling: a third more bytes than
//! 8-bit weights.
mod body;
mod cost;
mod proof;

pub(crate) use body::define;

use super::{
    conv::ConvSpec,
    tiles::{self, Joined},
    winograd::{self, Blocks, PADDING, VECTORS},
};
use crate::{
    codegen::{
        target::Target,
        tuning::{Algorithm, TileChoice},
    },
    ukernel::{
        Grid, Isa, Rescale, Tile, Weights,
        line::{self, Data, SCALE_BITS, TAPS},
        pack::Channel,
    },
};
use goshawk_ir::DType;
use proof::Proof;

/// Most lines of a group; its tiles are called one after the other.
const LINES: usize = 8;

/// What the planner decided.
#[derive(Clone, Debug)]
pub(crate) struct LinePlan {
    /// Lines of a group.
    lines: usize,
    /// Pairs of a line.
    pairs: usize,
    blocks: Vec<Blocks>,
    proof: Proof,
    rescale: Rescale,
    /// Bias with the zero point folded in; shifts of the doubled sums.
    channels: Vec<Channel>,
    /// The residual sum that follows.
    join: Option<Joined>,
    /// Modelled cycles for one image.
    pub cycles: f64,
}

/// Pairs of a group that a tile computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    first: usize,
    count: usize,
}

/// Plans the layer, or says why it cannot be computed so; nothing where the target has no kernels for it, or where no such
/// algorithm is for its filters.
pub(crate) fn plan(
    spec: &ConvSpec,
    target: &Target,
    choice: Option<TileChoice>,
    join: Option<Joined>,
) -> Result<LinePlan, Option<String>> {
    if tiles::choose_isa(target)? != Isa::Vnni512 {
        return Err(None);
    }
    let window = &spec.window;
    if !winograd::has_shape(spec) {
        return Err(None);
    }
    if window.pads[1] > PADDING {
        return Err(Some(format!("{} columns of padding", window.pads[1])));
    }
    let bounds = spec.bounds();
    let proof = Proof::new(spec, &bounds)?;
    let (rescale, channels) = tiles::scaled_channels(spec, target, Isa::Vnni512, &bounds, SCALE_BITS)?;
    let plan = LinePlan {
        lines: 1,
        pairs: spec.out[1].div_ceil(2),
        blocks: Vec::new(),
        proof,
        rescale,
        channels,
        join,
        cycles: f64::INFINITY,
    };
    Ok(plan.choose_tiles(spec, choice.filter(|c| VECTORS.contains(&c.vectors))))
}

/// What a layer may be told to have.
pub(crate) fn choices(target: &Target) -> Vec<TileChoice> {
    if tiles::choose_isa(target) != Ok(Isa::Vnni512) {
        return Vec::new();
    }
    let choice = |vectors| [1, LINES].map(|lines| TileChoice { vectors, lines, algorithm: Algorithm::Line });
    VECTORS.into_iter().flat_map(choice).collect()
}

impl LinePlan {
    /// The groups and blocks of the lowest cost.
    fn choose_tiles(mut self, spec: &ConvSpec, choice: Option<TileChoice>) -> Self {
        let most = spec.out[0].min(LINES);
        let mut best = self.clone();
        for lines in (1..=most).filter(|l| choice.is_none_or(|c| c.lines.min(most) == *l)) {
            for vectors in VECTORS.into_iter().filter(|v| choice.is_none_or(|c| c.vectors == *v)) {
                (self.lines, self.blocks) = (lines, winograd::blocks(spec, Isa::Vnni512, vectors));
                self.cycles = self.cost(spec);
                if self.cycles < best.cycles {
                    best = self.clone();
                }
            }
        }
        best
    }

    /// Name of the kernel for reports.
    pub fn name(&self) -> String {
        let vectors = self.blocks.iter().map(|b| b.vectors).max().unwrap_or(0);
        let pairs = self.parts(self.lines, vectors).iter().map(|p| p.count).max().unwrap_or(0);
        let rescale = match self.rescale {
            Rescale::Float => "f32",
            Rescale::Integer { .. } => "i64",
        };
        let join = tiles::join_name(self.join.as_ref());
        let channels = vectors * Isa::Vnni512.lanes();
        format!("vnni512 winograd 1x2 {pairs}x{channels} i8 by {} lines {rescale}{join}", self.lines)
    }

    /// Bytes of scratch, which threads share.
    pub fn scratch(&self, spec: &ConvSpec) -> usize {
        (spec.out[0] + TAPS - 1) * self.line_bytes(spec)
    }

    /// Bytes of a transformed line.
    fn line_bytes(&self, spec: &ConvSpec) -> usize {
        self.pairs * line::pair_bytes(spec.input[3])
    }

    /// The tiles of a group of so many lines, as equal as can be.
    fn parts(&self, lines: usize, vectors: usize) -> Vec<Part> {
        let pairs = lines * self.pairs;
        let count = pairs.div_ceil(line::max_pairs(vectors));
        let start = |i: usize| i * pairs / count.max(1);
        (0..count).map(|i| Part { first: start(i), count: start(i + 1) - start(i) }).collect()
    }

    /// Tiles of a block of so many vectors.
    fn tiles(&self, spec: &ConvSpec, vectors: usize) -> usize {
        let (groups, rest) = (spec.out[0] / self.lines, spec.out[0] % self.lines);
        groups * self.parts(self.lines, vectors).len() + self.parts(rest, vectors).len()
    }

    fn data(&self, spec: &ConvSpec) -> Data {
        let [_, _, columns, channels] = spec.input;
        Data {
            columns,
            channels,
            before: spec.window.pads[1],
            pairs: self.pairs,
            zero_point: spec.input_zero_point as u8,
            centre: self.proof.centre(),
        }
    }

    /// Bytes of a block's transformed filters.
    fn filter_bytes(&self, spec: &ConvSpec, vectors: usize) -> usize {
        line::filter_bytes(spec.input[3], vectors)
    }

    /// Bytes of the next block's filters that a tile fetches meanwhile, where few tiles read a block's.
    fn fetched(&self, spec: &ConvSpec, vectors: usize) -> usize {
        const FEW: usize = 24;
        let tiles = self.tiles(spec, vectors);
        if tiles > FEW { 0 } else { self.filter_bytes(spec, vectors).div_ceil(tiles) }
    }

    fn tile(&self, spec: &ConvSpec, blocks: &Blocks, part: Part) -> Tile {
        let output = tiles::output(spec, self.join.as_ref());
        let channels = spec.input[3];
        Tile {
            weights: Weights::Int8,
            dot: None,
            grid: if output.dtype == DType::U8 { Grid::U8 } else { Grid::I16 },
            rows: 2 * part.count,
            vectors: blocks.vectors,
            columns: blocks.columns,
            kernel_rows: TAPS,
            run: line::depth(channels),
            row_stride: line::pair_bytes(channels),
            line: 2 * part.count,
            line_stride: 0,
            prefetch: self.fetched(spec, blocks.vectors),
            kernel_row_stride: self.line_bytes(spec),
            out_stride: spec.pitch,
            out_line: 2 * self.pairs,
            out_width: spec.out[1],
            out_first: part.first % self.pairs * 2,
            zero_point: output.zero_point,
            clamp: (output.lo, output.hi),
            rescale: self.rescale,
            join: self.join.as_ref().map(|j| j.join.clone()),
        }
    }

    /// How threads share the layer; nothing where there are several images, which go through one scratch area.
    fn shared(&self, spec: &ConvSpec) -> Option<Shared> {
        let image: usize = spec.input.iter().product();
        let filters: usize = self.blocks.iter().map(|b| b.count * self.filter_bytes(spec, b.vectors)).sum();
        (spec.input[0] == 1).then_some(if filters > image { Shared::Channels } else { Shared::Lines })
    }
}

/// How threads share a layer of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shared {
    /// By groups of lines: every thread reads all filters.
    Lines,
    /// By blocks of channels: every thread transforms all lines, writing the same bytes as the others.
    Channels,
}

impl Shared {
    fn units(self, spec: &ConvSpec, plan: &LinePlan) -> usize {
        match self {
            Self::Lines => spec.out[0].div_ceil(plan.lines),
            Self::Channels => plan.blocks.iter().map(|b| b.count).sum(),
        }
    }
}
