//! Convolutions and linear layers as loops over GEMM tiles.
//!
//! A linear layer is a 1×1 convolution over an image of one row. Two ways to feed the tiles:
//! * *direct*: where a kernel row is a run of contiguous bytes and a multiple of 16 long, tiles read the tensor
//!   itself (NHWC, so the rows of a tile lie at a constant distance). Only pixels whose window lies inside the input.
//! * *gathered*: windows are copied to a panel on the stack, cells outside the input as the zero point
//!   (their x̂ is 0), the tail of k as zeros. Borders of direct layers, and everything else: any stride, dilation,
//!   group count and channel count.
//!
//! The zero point is folded into the bias: Σ (x − zp)·w = Σ x·w − zp·Σw. No tensor is read outside its bounds.
mod body;
mod layer;

pub(crate) use layer::{Kernels, define};

use super::{
    gemm::{Kind, MR, Weights},
    pack::KSTEP,
    rescale::{self, Lane, Output, Scheme},
    tiles,
};
use crate::codegen::target::Target;
use goshawk_ir::{Requant, op::window::ConvWindow};

/// Bytes of the panel that gathered windows may take, unless one window needs more.
const PANEL_BYTES: usize = 32 << 10;

/// A convolution with constant weights, independent of the graph.
#[derive(Clone, Debug)]
pub(crate) struct ConvSpec {
    /// N, H, W, C of the input.
    pub input: [usize; 4],
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Rows and columns of the result.
    pub out: [usize; 2],
    pub window: ConvWindow,
    /// Output channels.
    pub channels: usize,
    /// Bytes from one pixel of the result to the next: more than its channels where it is part of a Concat.
    pub pitch: usize,
    /// O, KH, KW, C/groups.
    pub weights: Vec<i8>,
    /// Weights come as 4-bit values.
    pub int4: bool,
    pub bias: Vec<i32>,
    pub requant: Requant,
    pub output: Output,
    pub input_zero_point: i32,
    /// Smallest and largest value that a cell of a window can hold: an input value or the zero point of the padding.
    pub input_range: (i32, i32),
}

impl ConvSpec {
    pub fn group_inputs(&self) -> usize {
        self.input[3] / self.window.groups
    }

    pub fn group_outputs(&self) -> usize {
        self.channels / self.window.groups
    }

    /// Weights of one output channel, before padding.
    pub fn k(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.group_inputs()
    }

    pub fn macs(&self) -> u64 {
        (self.input[0] * self.out[0] * self.out[1] * self.channels) as u64 * self.k() as u64
    }

    pub fn is_depthwise(&self) -> bool {
        self.window.groups > 1 && self.group_inputs() == 1 && self.group_outputs() == 1
    }

    pub fn weight(&self, channel: usize, k: usize) -> i32 {
        i32::from(self.weights[channel * self.k() + k])
    }

    /// Outputs along `axis` whose windows lie inside the input: [start, end), possibly empty.
    fn interior(&self, axis: usize) -> (usize, usize) {
        let (input, kernel, out) = (self.input[1 + axis], self.kernel[axis], self.out[axis]);
        let (stride, before) = (self.window.stride[axis], self.window.pads[axis]);
        let extent = (kernel - 1) * self.window.dilation[axis] + 1;
        let start = before.div_ceil(stride).min(out);
        let last = (input + before).checked_sub(extent).map_or(0, |room| room / stride + 1);
        (start, last.clamp(start, out))
    }

    /// [`Self::bound`] of every channel.
    pub fn bounds(&self) -> Vec<i64> {
        (0..self.channels).map(|c| self.bound(c)).collect()
    }

    /// Where the accumulators of a channel start, the zero point folded into the bias, and the least and the largest of any
    /// input.
    pub fn accumulators(&self, channel: usize) -> [i64; 3] {
        let (lo, hi) = self.input_range;
        let (lo, hi) = (i64::from(lo), i64::from(hi));
        let weights =
            self.weights[channel * self.k()..(channel + 1) * self.k()].iter().map(|w| i64::from(*w));
        let (positive, negative) = weights.fold((0, 0), |(p, n), w| (p + w.max(0), n - w.min(0)));
        let start = i64::from(self.bias[channel]) - i64::from(self.input_zero_point) * (positive - negative);
        [start, start + positive * lo - negative * hi, start + positive * hi - negative * lo]
    }

    /// The largest magnitude of [`Self::accumulators`].
    pub fn bound(&self, channel: usize) -> i64 {
        let [start, least, most] = self.accumulators(channel);
        most.max(-least).max(start.abs())
    }
}

/// What the planner decided for a GEMM layer.
#[derive(Clone, Debug)]
pub(crate) struct GemmPlan {
    pub kind: Kind,
    pub weights: Weights,
    pub scheme: Scheme,
    /// Interior windows are read in place.
    pub direct: bool,
    /// Pixels of the panel.
    pub panel: usize,
    /// k of a gathered window, padded.
    pub k: usize,
    /// Bytes of the panel, 0 where all windows are read in place.
    pub panel_bytes: usize,
    /// Why the layer is off the fastest path of its target.
    pub why: Option<String>,
    lanes: Vec<Lane>,
    bias: Vec<i32>,
}

/// Chooses kernel, weight format, requantization scheme and input mode.
pub(crate) fn plan(spec: &ConvSpec, target: &Target) -> GemmPlan {
    let (mut kind, mut why) = choose_kind(spec, target);
    let bounds = spec.bounds();
    let fold =
        |kind: Kind| if kind == Kind::Sdot { spec.input_zero_point - 128 } else { spec.input_zero_point };
    let biases = |kind: Kind| -> Vec<i64> {
        (0..spec.channels)
            .map(|c| {
                let sum: i64 = (0..spec.k()).map(|k| i64::from(spec.weight(c, k))).sum();
                i64::from(spec.bias[c]) - i64::from(fold(kind)) * sum
            })
            .collect()
    };
    if kind == Kind::Sdot && biases(kind).iter().any(|b| i32::try_from(*b).is_err()) {
        (kind, why) = (Kind::Pair, Some("the bias with folded zero point leaves 32 bits".into()));
    }
    let mut bias = biases(kind);
    let mut dyadics: Vec<(i32, u8)> =
        (0..spec.channels).map(|c| (spec.requant.dyadic(c).mult, spec.requant.dyadic(c).shift)).collect();
    let mut weights = if spec.int4 { Weights::Int4Offset } else { Weights::Int8 };
    let largest =
        bounds.iter().chain(&bias.iter().map(|b| b.abs()).collect::<Vec<_>>()).copied().max().unwrap_or(0);
    let times16 = matches!(kind, Kind::Vnni | Kind::Usdot | Kind::Sdot)
        && largest < 1 << 27
        && dyadics.iter().all(|d| d.1 <= 58);
    let mut bounds = bounds;
    if spec.int4 && times16 {
        weights = Weights::Int4Times16;
        bias.iter_mut().for_each(|b| *b *= 16);
        bounds.iter_mut().for_each(|b| *b *= 16);
        dyadics.iter_mut().for_each(|d| d.1 += 4);
    }
    let (scheme, lanes) = rescale::prepare(&dyadics, &bounds);
    if scheme == Scheme::Scalar {
        why.get_or_insert_with(|| {
            "scale ratios above ½ with large accumulators: scalar requantization".into()
        });
    }
    let run = spec.kernel[1] * spec.input[3];
    let direct = run.is_multiple_of(KSTEP)
        && spec.window.groups == 1
        && (spec.window.dilation[1] == 1 || spec.kernel[1] == 1)
        && spec.interior(0).0 < spec.interior(0).1
        && spec.interior(1).0 < spec.interior(1).1;
    if !direct && spec.window.groups == 1 {
        why.get_or_insert_with(|| "kernel rows are not runs of 16 bytes: windows are gathered".into());
    }
    let k = spec.k().next_multiple_of(KSTEP);
    let pixels = spec.out[0] * spec.out[1];
    // Whole tiles, or fewer pixels than a tile where they would take too much of the stack.
    let room = PANEL_BYTES / k;
    let panel = if room < MR { room.max(1) } else { room / MR * MR };
    let panel = panel.min(pixels.next_multiple_of(MR));
    let all_direct = direct && (0..2).all(|axis| spec.interior(axis) == (0, spec.out[axis]));
    let panel_bytes = if all_direct { 0 } else { panel * k };
    let bias = bias.iter().map(|b| *b as i32).collect();
    GemmPlan { kind, weights, scheme, direct, panel, k, panel_bytes, why, lanes, bias }
}

fn choose_kind(spec: &ConvSpec, target: &Target) -> (Kind, Option<String>) {
    if tiles::dot(target).is_some() {
        return (Kind::Vnni, None);
    }
    if target.has("i8mm") {
        return (Kind::Usdot, None);
    }
    if target.has("dotprod") {
        return (Kind::Sdot, None);
    }
    if !target.has("ssse3") {
        return (Kind::Pair, Some("the target has no 8-bit dot product".into()));
    }
    match saturating_pair(spec) {
        None => (Kind::Maddubs, None),
        Some(c) => (Kind::Pair, Some(format!("two weights of output channel {c} could saturate pmaddubsw"))),
    }
}

/// An output channel with neighbouring weights that could leave i16 in `pmaddubsw`, for the largest input.
fn saturating_pair(spec: &ConvSpec) -> Option<usize> {
    (0..spec.channels).find(|c| {
        (0..spec.k().next_multiple_of(2)).step_by(2).any(|k| {
            let w = [k, k + 1].map(|k| if k < spec.k() { spec.weight(*c, k) } else { 0 });
            let high: i32 = w.iter().map(|w| (*w).max(0)).sum();
            let low: i32 = w.iter().map(|w| (*w).min(0)).sum();
            let (_, largest) = spec.input_range;
            high * largest > i32::from(i16::MAX) || low * largest < i32::from(i16::MIN)
        })
    })
}
