//! 3×3 convolutions by Winograd's F(2×2, 3×3) ([`crate::ukernel::winograd`]), where it is provably exact and faster.
//!
//! Two loops around the same four kernels. *By rows*: all filters are transformed first and stay in the second-level
//! cache, tile rows follow each other in sections. *By channels*, where filters are many and the image is small: the
//! data of the whole image are transformed first, blocks of output channels follow each other, each block's filters
//! are transformed when it is its turn. Both read 4-bit weights: what they become is 3.6 times as large, and
//! transforming it takes less time than fetching it from beyond the second level.
//!
//! With VNNI transformed data lie in 16 planes and a section is multiplied as a whole; with AVX2 the positions of a tile lie
//! together and groups of tiles go from products to pixels one after the other ([`compute`]).
//!
//! Every thread works in an area of its own, with its own transformed data and filters; threads share sections, or blocks
//! of channels.
mod body;
mod compute;
mod cost;
mod proof;

pub(crate) use body::define;

use super::{
    conv::ConvSpec,
    tiles::{self, Joined},
};
use crate::{
    codegen::{
        parallel::Sharing,
        target::Target,
        tuning::{Algorithm, TileChoice},
    },
    ukernel::{
        Dot, Grid, Isa, Rescale, Tile, Weights,
        pack::Channel,
        winograd::{self, DATA, Data, Filters, Outcome, Product, RESULTS, SCALE_BITS, TAPS},
    },
};
use goshawk_ir::DType;
use proof::Proof;

/// Most columns of padding before the image that the data transform knows.
pub(super) const PADDING: usize = 2;

/// Vectors that a block can have.
pub(super) const VECTORS: [usize; 2] = [1, 2];
/// Fewest tile rows that no section has: sections are to stay in the caches.
const SECTION: usize = 9;

/// What the planner decided.
#[derive(Clone, Debug)]
pub(crate) struct WinogradPlan {
    isa: Isa,
    dot: Option<Dot>,
    order: Order,
    /// Rows and columns of tiles.
    tiles: [usize; 2],
    /// Tile rows of a section: all of them where the order is by channels.
    rows: usize,
    blocks: Vec<Blocks>,
    proof: Proof,
    rescale: Rescale,
    /// Bias with the zero point folded in; shifts of the fourfold sums.
    channels: Vec<Channel>,
    /// The residual sum that follows.
    join: Option<Joined>,
    /// Modelled cycles for one image.
    pub cycles: f64,
}

/// Which loop is the outer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Rows,
    Channels,
}

/// Equal blocks of output channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocks {
    pub first: usize,
    pub count: usize,
    /// Vectors and channels of each.
    pub vectors: usize,
    pub columns: usize,
}

/// Plans the layer, or says why it cannot be computed so; nothing where the target has no kernels for it.
pub(crate) fn plan(
    spec: &ConvSpec,
    target: &Target,
    choice: Option<TileChoice>,
    join: Option<Joined>,
) -> Result<WinogradPlan, Option<String>> {
    let isa = tiles::choose_isa(target)?;
    let window = &spec.window;
    if !has_shape(spec) {
        return Err(None);
    }
    if !spec.int4 {
        return Err(Some("weights of 8 bits".into()));
    }
    if window.pads[1] > PADDING {
        return Err(Some(format!("{} columns of padding", window.pads[1])));
    }
    let bounds = spec.bounds();
    let (rescale, channels) = tiles::scaled_channels(spec, target, isa, &bounds, SCALE_BITS)?;
    let dot = tiles::dot(target).filter(|_| isa == Isa::Avx2);
    let proof = Proof::new(spec, isa, dot, &bounds)?;
    let tiles = spec.out.map(|n| n.div_ceil(RESULTS));
    let plan = WinogradPlan {
        isa,
        dot,
        order: Order::Rows,
        tiles,
        rows: 1,
        blocks: Vec::new(),
        proof,
        rescale,
        channels,
        join,
        cycles: f64::INFINITY,
    };
    Ok(plan.choose_loops(spec, choice.filter(|c| VECTORS.contains(&c.vectors))))
}

/// Whether the algorithm, in two dimensions or in one, is for filters of that shape.
pub(super) fn has_shape(spec: &ConvSpec) -> bool {
    let window = &spec.window;
    spec.kernel == [TAPS; 2] && window.stride == [1, 1] && window.dilation == [1, 1] && window.groups == 1
}

/// What a layer may be told to have.
pub(crate) fn choices(target: &Target) -> Vec<TileChoice> {
    if tiles::choose_isa(target).is_err() {
        return Vec::new();
    }
    let lines = [1, 2, 4, 1 << 16];
    VECTORS
        .into_iter()
        .flat_map(|vectors| lines.map(|lines| TileChoice { vectors, lines, algorithm: Algorithm::Square }))
        .collect()
}

impl WinogradPlan {
    /// The loops and blocks of the lowest cost.
    fn choose_loops(mut self, spec: &ConvSpec, choice: Option<TileChoice>) -> Self {
        let whole = (Order::Channels, self.tiles[0]);
        let sections = (1..self.tiles[0].min(SECTION)).map(|rows| (Order::Rows, rows));
        let mut best = self.clone();
        for (order, rows) in sections.chain([whole]) {
            if choice.is_some_and(|c| c.lines.min(self.tiles[0]) != rows) {
                continue;
            }
            for vectors in VECTORS {
                if choice.is_some_and(|c| c.vectors != vectors) {
                    continue;
                }
                (self.order, self.rows, self.blocks) = (order, rows, blocks(spec, self.isa, vectors));
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
        let order = match self.order {
            Order::Rows => format!("by {} rows", self.rows),
            Order::Channels => "by channels".into(),
        };
        let rescale = match self.rescale {
            Rescale::Float => "f32",
            Rescale::Integer { .. } => "i64",
        };
        let group = self.group(vectors);
        let join = tiles::join_name(self.join.as_ref());
        let (isa, channels) = (self.dot.map_or(self.isa.name(), Dot::name), vectors * self.isa.lanes());
        let period = match (self.isa, self.dot) {
            (Isa::Avx2, None) => format!(" in i16 for {}", self.proof.period()),
            _ => String::new(),
        };
        format!("{isa} winograd 2x2 {group}x{channels} i4{period} {order} {rescale}{join}")
    }

    /// Bytes of scratch that all threads need.
    pub fn scratch(&self, spec: &ConvSpec, sharing: Sharing) -> usize {
        sharing.scratch(self.units(), self.private(spec))
    }

    /// Bytes of scratch that one thread needs.
    pub fn private(&self, spec: &ConvSpec) -> usize {
        let Areas { data, sums, filters } = self.areas(spec);
        data + sums + filters
    }

    fn areas(&self, spec: &ConvSpec) -> Areas {
        let vectors = self.blocks.iter().map(|b| b.vectors).max().unwrap_or(0);
        let filters = |b: &Blocks| b.count * self.filters(spec, b.vectors).bytes();
        let filters = match self.order {
            Order::Rows => self.blocks.iter().map(filters).sum(),
            Order::Channels => self.filters(spec, vectors).bytes(),
        };
        let data = match self.isa {
            Isa::Vnni512 => DATA * DATA * self.plane(spec),
            Isa::Avx2 => (self.section() * self.tile_pitch(spec)).next_multiple_of(64),
        };
        Areas { data, sums: DATA * self.row(vectors), filters }
    }

    /// Tiles of a section.
    fn section(&self) -> usize {
        self.rows * self.tiles[1]
    }

    /// Tiles that are multiplied at a time, of a section with VNNI, of a row with AVX2: as equal groups as can be.
    fn group(&self, vectors: usize) -> usize {
        let tiles = match self.isa {
            Isa::Vnni512 => self.section(),
            Isa::Avx2 => self.tiles[1],
        };
        tiles.div_ceil(tiles.div_ceil(winograd::max_tiles(self.isa, vectors)))
    }

    /// Bytes from one tile's transformed data to the next. Of AVX2 all positions, and a line, so that tiles do not meet in
    /// one set of the cache.
    fn tile_pitch(&self, spec: &ConvSpec) -> usize {
        let depth = winograd::depth(spec.input[3]);
        match self.isa {
            Isa::Vnni512 => depth,
            Isa::Avx2 => DATA * DATA * depth + 64,
        }
    }

    /// Bytes from one position's transformed data to the next.
    fn plane(&self, spec: &ConvSpec) -> usize {
        let depth = winograd::depth(spec.input[3]);
        match self.isa {
            Isa::Vnni512 => (self.section() * depth).next_multiple_of(64),
            Isa::Avx2 => depth,
        }
    }

    /// Bytes of the sums of one tile.
    fn sum_bytes(&self, vectors: usize) -> usize {
        vectors * self.isa.lanes() * 4
    }

    /// Bytes of the sums in one column: of results of a section, of positions of a group.
    fn column(&self, vectors: usize) -> usize {
        let tiles = match self.isa {
            Isa::Vnni512 => self.section(),
            Isa::Avx2 => self.group(vectors),
        };
        tiles * self.sum_bytes(vectors)
    }

    /// Bytes of the sums in a row of positions.
    fn row(&self, vectors: usize) -> usize {
        let columns = match self.isa {
            Isa::Vnni512 => RESULTS,
            Isa::Avx2 => DATA,
        };
        columns * self.column(vectors)
    }

    fn data(&self, spec: &ConvSpec) -> Data {
        let [_, _, columns, channels] = spec.input;
        Data {
            isa: self.isa,
            columns,
            channels,
            before: spec.window.pads[1],
            tiles: self.tiles[1],
            zero_point: spec.input_zero_point as u8,
            offset: self.proof.offset(),
            centre: self.proof.centre(),
            tile: self.tile_pitch(spec),
            plane: self.plane(spec),
        }
    }

    fn filters(&self, spec: &ConvSpec, vectors: usize) -> Filters {
        Filters { isa: self.isa, vectors, depth: winograd::depth(spec.input[3]) }
    }

    fn product(&self, spec: &ConvSpec, vectors: usize, tiles: usize) -> Product {
        Product {
            isa: self.isa,
            tiles,
            vectors,
            depth: winograd::depth(spec.input[3]),
            tile: self.tile_pitch(spec),
            plane: self.plane(spec),
            column: self.column(vectors),
            dot: self.dot,
            period: self.proof.period(),
        }
    }

    fn tile(&self, spec: &ConvSpec, blocks: &Blocks) -> Tile {
        let output = tiles::output(spec, self.join.as_ref());
        Tile {
            weights: Weights::Int8,
            dot: None,
            grid: if output.dtype == DType::U8 { Grid::U8 } else { Grid::I16 },
            rows: 1,
            vectors: blocks.vectors,
            columns: blocks.columns,
            kernel_rows: 1,
            run: 4,
            row_stride: 0,
            line: 1,
            line_stride: 0,
            prefetch: 0,
            kernel_row_stride: 0,
            out_stride: spec.pitch,
            out_line: 1,
            out_width: spec.out[1],
            out_first: 0,
            zero_point: output.zero_point,
            clamp: (output.lo, output.hi),
            rescale: self.rescale,
            join: self.join.as_ref().map(|j| j.join.clone()),
        }
    }

    /// Bytes from one pixel to the next, and of one channel: of what is stored first, of the residual, of the second result.
    fn pixels(&self, spec: &ConvSpec) -> Vec<[usize; 2]> {
        tiles::pixels(spec, self.join.as_ref())
    }

    /// The last kernel, for so many rows and columns of pixels.
    fn outcome(&self, spec: &ConvSpec, blocks: &Blocks, [rows, columns]: [usize; 2]) -> Outcome {
        Outcome {
            isa: self.isa,
            tile: self.tile(spec, blocks),
            columns,
            rows,
            column: self.column(blocks.vectors),
            row: self.row(blocks.vectors),
        }
    }
}

/// Bytes of the parts of a thread's scratch area, in this order.
struct Areas {
    data: usize,
    sums: usize,
    filters: usize,
}

/// Blocks of `vectors` vectors, and what is left in one narrower block.
pub(super) fn blocks(spec: &ConvSpec, isa: Isa, vectors: usize) -> Vec<Blocks> {
    let width = vectors * isa.lanes();
    let (count, rest) = (spec.channels / width, spec.channels % width);
    let whole = Blocks { first: 0, count, vectors, columns: width };
    let last = Blocks { first: count * width, count: 1, vectors: rest.div_ceil(isa.lanes()), columns: rest };
    [(count > 0).then_some(whole), (rest > 0).then_some(last)].into_iter().flatten().collect()
}
