//! The kernel plan: which kernel computes each layer, and why. Data, so that it can be printed and tested.
use super::{
    Options, join,
    ops::{
        conv::{self, ConvSpec, GemmPlan},
        depthwise::{self, RowPlan},
        gemm::{Kind, Weights},
        line::{self, LinePlan},
        pool::{PoolPlan, PoolSpec},
        rescale::{Output, Scheme},
        tiles::{self, Joined, TilePlan},
        window::DepthwisePlan,
        winograd::{self, WinogradPlan},
    },
    parallel::{self, Sharing},
    target::Target,
    tuning::{Algorithm, Prefer, Tuning},
};
use crate::{Error, Result};
use goshawk_ir::{
    DType, IntGraph, IntOp, IrError, NodeId, Operator, Requant, TensorType, op::window::ConvWindow, range,
};
use goshawk_passes::memory::MemoryPlan;
use serde::Serialize;
use std::collections::BTreeMap;

/// What a layer became.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerReport {
    /// Name of the node.
    pub name: String,
    /// Operator.
    pub op: String,
    /// Kernel and its variant.
    pub kernel: String,
    /// Bits of the weights, if there are any.
    pub weights_bits: Option<u8>,
    /// Bits of the activations that the layer reads.
    pub activation_bits: Option<u8>,
    /// Multiply-accumulates.
    pub macs: u64,
    /// Why the layer is off the fastest path of the target.
    pub why: Option<String>,
    /// Winograd instead of a direct convolution: why, or why not, where the layer's shape allows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub winograd: Option<String>,
    /// Shape by which tuning knows a layer of tiles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tiles: Option<String>,
}

impl LayerReport {
    /// What there is to say about the choice of the kernel, for tables.
    pub fn remark(&self) -> String {
        let winograd = self.winograd.as_ref().map(|w| format!("winograd: {w}"));
        self.why.clone().or(winograd).unwrap_or_default()
    }
}

/// Kernels of all layers in execution order.
#[derive(Clone, Debug)]
pub struct KernelPlan {
    /// Reports of all layers that have code.
    pub layers: Vec<LayerReport>,
    /// Bytes that the caller must provide: the memory plan's arena and the kernels' scratch area behind it. This,
    /// not [`MemoryPlan::arena_bytes`], belongs into headers and info blocks.
    pub arena_bytes: usize,
    /// Bytes of the scratch area.
    pub scratch_bytes: usize,
    pub(crate) convs: BTreeMap<NodeId, ConvChoice>,
    /// By which it is decided whether threads share a layer.
    pub(crate) sharing: BTreeMap<NodeId, Sharing>,
    pub(crate) pools: BTreeMap<NodeId, PoolPlan>,
    pub(crate) order: Vec<NodeId>,
}

/// How a convolution or linear layer is computed.
#[derive(Clone, Debug)]
pub(crate) enum ConvChoice {
    Gemm(ConvSpec, GemmPlan),
    Tiles(ConvSpec, TilePlan),
    Winograd(ConvSpec, WinogradPlan),
    Line(ConvSpec, LinePlan),
    DepthwiseRows(ConvSpec, RowPlan),
    Depthwise(ConvSpec),
}

impl ConvChoice {
    /// Whether the layer's function takes the scratch area.
    pub fn takes_scratch(&self) -> bool {
        matches!(self, Self::Tiles(..) | Self::Winograd(..) | Self::Line(..))
    }
}

/// Chooses the kernels.
///
/// # Errors
/// [`crate::Code::INTERNAL`] for graphs that the verifier would refuse.
pub(crate) fn plan(
    graph: &IntGraph,
    memory: &MemoryPlan,
    target: &Target,
    options: &Options,
) -> Result<KernelPlan> {
    let tuning = &options.tuning;
    let order = graph.topo_order().map_err(|e| Error::internal(&e))?;
    let (mut layers, mut convs, mut scratch) = (Vec::new(), BTreeMap::new(), 0);
    let mut shared = BTreeMap::new();
    let mut pools = BTreeMap::new();
    for id in &order {
        let node = graph.node(*id);
        let types = graph.operand_types(*id);
        let mut report = LayerReport {
            name: node.name.clone(),
            op: node.op.name().to_owned(),
            kernel: String::new(),
            weights_bits: None,
            activation_bits: types.first().and_then(|t| t.quant.as_ref()).map(|q| q.bits),
            macs: 0,
            why: None,
            winograd: None,
            tiles: None,
        };
        let sharing = |macs: u64| Sharing {
            nanoseconds: parallel::nanoseconds(graph, *id, macs, target),
            share_all: options.share_all,
        };
        match &node.op {
            IntOp::Input | IntOp::Const(_) => continue,
            IntOp::Conv(_) | IntOp::Linear(_) => {
                let join = memory.join(*id);
                let pitch = match join {
                    Some(join) => {
                        let sum = graph.ty(join.add);
                        sum.shape.last().map(|channels| sum.dtype.bytes(*channels))
                    }
                    None => {
                        let slot = memory.slot(*id).map_err(|e| Error::internal(&e.at(&node.name)))?;
                        slot.rows.map(|rows| rows.pitch)
                    }
                };
                let spec = conv_spec(graph, *id, pitch)?;
                report.weights_bits = types.get(1).and_then(|t| t.quant.as_ref()).map(|q| q.bits);
                report.macs = spec.macs();
                let choice = if spec.is_depthwise() {
                    match depthwise::plan(&spec, target) {
                        Ok(plan) => {
                            report.kernel = plan.name(&spec);
                            ConvChoice::DepthwiseRows(spec, plan)
                        }
                        Err(why) => {
                            let plan = DepthwisePlan::new(&spec);
                            let weights = if spec.int4 { "i4" } else { "i8" };
                            report.kernel = format!("depthwise {weights} {:?}", plan.scheme).to_lowercase();
                            let scalar = plan.scheme == Scheme::Scalar;
                            let slow =
                                scalar.then(|| "scale ratios do not allow vector requantization".into());
                            report.why = slow.or(why);
                            ConvChoice::Depthwise(spec)
                        }
                    }
                } else {
                    let joined = join.and_then(|j| join::joined(graph, j, &spec));
                    match tiles::plan(&spec, target, tuning, joined.clone()) {
                        Ok(direct) => {
                            report.tiles = Some(direct.shape.clone());
                            let sharing = sharing(report.macs);
                            let (choice, bytes) =
                                fastest(spec, target, tuning, direct, joined, sharing, &mut report);
                            scratch = scratch.max(bytes);
                            choice
                        }
                        Err(_) if join.is_some() => {
                            let broken =
                                IrError::new("the memory plan joins it with a sum, but its kernel cannot");
                            return Err(Error::internal(&broken.at(&node.name)));
                        }
                        Err(why) => {
                            let plan = conv::plan(&spec, target);
                            report.kernel = gemm_name(&plan);
                            report.why = plan.why.clone().or(why);
                            ConvChoice::Gemm(spec, plan)
                        }
                    }
                };
                convs.insert(*id, choice);
            }
            IntOp::Add(_) | IntOp::Requant(_) if memory.join(*id).is_some() => {
                let conv = memory.join(*id).map_or("", |j| graph.node(j.conv).name.as_str());
                report.kernel = format!("in the tiles of {conv}");
            }
            IntOp::MaxPool(_) | IntOp::AvgPool(_) => {
                report.kernel.clone_from(&report.op);
                if let Some(plan) = pool(graph, *id, target)? {
                    report.kernel = plan.name();
                    pools.insert(*id, plan);
                }
            }
            IntOp::Concat(_) => {
                let there = |x: &NodeId| memory.slot(*x).is_ok_and(|slot| slot.rows.is_some());
                let missing = node.operands().iter().filter(|x| !there(x)).count();
                report.kernel = match missing {
                    0 => "nothing: operands are written in place".into(),
                    n if n < node.operands().len() => format!("copy of {n} operands, the rest in place"),
                    _ => "copy".into(),
                };
            }
            IntOp::Add(_)
            | IntOp::Mul(_)
            | IntOp::Requant(_)
            | IntOp::Lut(_)
            | IntOp::Slice(_)
            | IntOp::Pad(_)
            | IntOp::Reshape(_)
            | IntOp::Transpose(_)
            | IntOp::ResizeNearest(_)
            | IntOp::ResizeLinear(_)
            | IntOp::Softmax(_) => report.kernel.clone_from(&report.op),
        }
        shared.insert(*id, sharing(report.macs));
        layers.push(report);
    }
    let scratch_bytes = scratch.next_multiple_of(64);
    let arena_bytes = memory.arena_bytes.next_multiple_of(64) + scratch_bytes;
    Ok(KernelPlan { layers, arena_bytes, scratch_bytes, convs, pools, sharing: shared, order })
}

/// The fastest way to compute a layer that could have the `direct` tiles, and its bytes of scratch: Winograd in two dimensions or
/// in one where that is exact and faster. The report says which and why.
fn fastest(
    spec: ConvSpec,
    target: &Target,
    tuning: &Tuning,
    direct: TilePlan,
    joined: Option<Joined>,
    sharing: Sharing,
    report: &mut LayerReport,
) -> (ConvChoice, usize) {
    let choice = tuning.choice(&direct.shape);
    let of = |algorithm| choice.filter(|c| c.algorithm == algorithm);
    let square = winograd::plan(&spec, target, of(Algorithm::Square), joined.clone());
    let line = line::plan(&spec, target, of(Algorithm::Line), joined);
    let words = |name: &str, plan: std::result::Result<f64, &Option<String>>| match plan {
        Ok(cycles) => Some(format!("{name} {}k", (cycles / 1e3).round())),
        Err(why) => why.as_ref().map(|why| format!("{name} impossible ({why})")),
    };
    let ways: Vec<String> =
        [words("2x2", square.as_ref().map(|p| p.cycles)), words("1x2", line.as_ref().map(|p| p.cycles))]
            .into_iter()
            .flatten()
            .collect();
    let modelled = [
        Some((Algorithm::Direct, direct.cycles)),
        square.as_ref().ok().map(|p| (Algorithm::Square, p.cycles)),
        line.as_ref().ok().map(|p| (Algorithm::Line, p.cycles)),
    ];
    let modelled = modelled.into_iter().flatten().min_by(|a, b| a.1.total_cmp(&b.1));
    let exact = square.is_ok() || line.is_ok();
    let algorithm = match (tuning.prefer, choice, modelled) {
        (Prefer::Size, ..) => Algorithm::Direct,
        (_, Some(choice), _) => choice.algorithm,
        (_, None, modelled) => modelled.map_or(Algorithm::Direct, |(algorithm, _)| algorithm),
    };
    report.winograd = match choice {
        _ if !exact => (!ways.is_empty()).then(|| ways.join(", ")),
        _ if tuning.prefer == Prefer::Size => Some("exact, but it makes the arena or the file larger".into()),
        Some(_) => Some("chosen by measurement".into()),
        None => {
            let direct = (direct.cycles / 1e3).round();
            Some(format!("modelled cycles of an image: {}, direct {direct}k", ways.join(", ")))
        }
    };
    let (choice, kernel, scratch) = match (algorithm, square, line) {
        (Algorithm::Square, Ok(plan), _) => {
            let (name, scratch) = (plan.name(), plan.scratch(&spec, sharing));
            (ConvChoice::Winograd(spec, plan), name, scratch)
        }
        (Algorithm::Line, _, Ok(plan)) => {
            let (name, scratch) = (plan.name(), plan.scratch(&spec));
            (ConvChoice::Line(spec, plan), name, scratch)
        }
        _ => {
            let (name, scratch) = (direct.name(), direct.scratch(&spec, sharing));
            (ConvChoice::Tiles(spec, direct), name, scratch)
        }
    };
    report.kernel = kernel;
    (choice, scratch)
}

/// The row kernels of a pool, if it can have them.
fn pool(graph: &IntGraph, id: NodeId, target: &Target) -> Result<Option<PoolPlan>> {
    let node = graph.node(id);
    let types = graph.operand_types(id);
    let Some(x) = types.first().filter(|t| matches!(t.dtype, DType::U8 | DType::I16)) else {
        return Ok(None);
    };
    let dims = |s: &goshawk_ir::Shape| s.dims4().map_err(|e| Error::internal(&e));
    let ([n, h, w, c], [_, rows, columns, _]) = (dims(&x.shape)?, dims(&node.ty.shape)?);
    let (input, out) = ([n, h, w, x.dtype.bytes(c)], [rows, columns]);
    Ok(match &node.op {
        IntOp::MaxPool(window) => PoolSpec { window, input, out }.max(target, x.dtype),
        IntOp::AvgPool(a) if x.dtype == DType::U8 => {
            let spec = PoolSpec { window: &a.window, input, out };
            spec.average(target, &a.requant, x.zero_point(), output(&node.ty, &a.requant))
        }
        _ => None,
    })
}

fn gemm_name(plan: &GemmPlan) -> String {
    let kind = match plan.kind {
        Kind::Vnni => "vpdpbusd",
        Kind::Maddubs => "pmaddubsw",
        Kind::Usdot => "usdot",
        Kind::Sdot => "sdot",
        Kind::Pair => "pmaddwd/smull",
    };
    let weights = match plan.weights {
        Weights::Int8 => "i8",
        Weights::Int4Times16 => "i4 times 16",
        Weights::Int4Offset => "i4 offset",
    };
    let mode = if plan.direct { "direct" } else { "gathered" };
    let scheme = format!("{:?}", plan.scheme).to_lowercase();
    format!("gemm 4x8 {kind} {weights} {mode} {scheme}")
}

/// The result grid of an operator with a requantization.
pub(crate) fn output(ty: &TensorType, requant: &Requant) -> Output {
    Output { dtype: ty.dtype, zero_point: requant.zero_point, lo: requant.lo, hi: requant.hi }
}

/// `pitch`: bytes from one pixel of the result to the next, where it is not packed.
pub(super) fn conv_spec(graph: &IntGraph, id: NodeId, pitch: Option<usize>) -> Result<ConvSpec> {
    let node = graph.node(id);
    let broken =
        |what: &str| Error::internal(&goshawk_ir::IrError::new(what.to_owned()).at(node.name.clone()));
    let &[x, w, bias] = node.operands() else { return Err(broken("expected input, weights and bias")) };
    let constant = |id, what| graph.constant(id).ok_or_else(|| broken(what));
    let (weights, bias) =
        (constant(w, "the weights are not constant")?, constant(bias, "the bias is not constant")?);
    let (xt, wt) = (graph.ty(x), graph.ty(w));
    if xt.dtype != DType::U8 {
        return Err(broken("the input is not u8"));
    }
    let dims = |s: &goshawk_ir::Shape| s.dims4().map_err(|e| Error::internal(&e));
    let (input, kernel, out, window, requant) = match &node.op {
        IntOp::Conv(a) => {
            let [_, kh, kw, _] = dims(&wt.shape)?;
            let [_, oh, ow, _] = dims(&node.ty.shape)?;
            (dims(&xt.shape)?, [kh, kw], [oh, ow], a.window.clone(), &a.requant)
        }
        IntOp::Linear(a) => {
            let (m, k) = (xt.shape[0], xt.shape[1]);
            ([1, 1, m, k], [1, 1], [1, m], ConvWindow::unit(), &a.requant)
        }
        _ => return Err(broken("expected a convolution or a linear layer")),
    };
    let ints = |t: &goshawk_ir::Tensor| t.to_ints().map_err(|e| Error::internal(&e));
    // Padding cells hold the zero point, which no value may ever reach.
    let (lo, hi) = range::values(graph, x).map_err(|e| Error::internal(&e))?;
    let input_range = (lo.min(xt.zero_point()), hi.max(xt.zero_point()));
    Ok(ConvSpec {
        input,
        kernel,
        out,
        window,
        channels: wt.shape[0],
        pitch: pitch.unwrap_or(node.ty.dtype.bytes(wt.shape[0])),
        weights: ints(weights)?.into_iter().map(|v| v as i8).collect(),
        int4: wt.dtype == DType::I4,
        bias: ints(bias)?,
        requant: requant.clone(),
        output: output(&node.ty, requant),
        input_zero_point: xt.zero_point(),
        input_range,
    })
}
