//! Clean-ups of the integer graph, run at the end of lowering.
//!
//! * equal nodes become one (common subexpressions);
//! * a Requant to the same parameters, a Transpose that changes nothing and a Reshape to the same shape go;
//! * Reshape of Reshape, Transpose of Transpose become one node;
//! * Requant of a Requant that nobody else reads becomes one rescale with the exact product of both dyadic numbers:
//!   one rounding less (this defines the result; it is part of lowering, not an optimisation of a finished graph);
//! * a table behind a table or a rescale of bytes that nobody else reads becomes one table: exact;
//! * nodes that no output depends on go.
use goshawk_ir::{
    DType, Dyadic, IntGraph, IntOp, NodeId, Requant, Result, Tensor, TensorType,
    op::{
        float::{NoAttrs, Transpose},
        int::Rescale,
    },
};

/// Applies all rules until none fits.
///
/// # Errors
/// The graph has a cycle.
pub fn run(graph: &mut IntGraph) -> Result<()> {
    loop {
        graph.remove_dead();
        let mut changed = share_equal(graph)?;
        for id in graph.topo_order()? {
            if graph.contains(id) {
                changed |= simplify(graph, id)?;
            }
        }
        if !changed {
            graph.remove_dead();
            return Ok(());
        }
    }
}

/// Makes nodes of equal operator, operands and type one. Inputs and network outputs keep their own nodes.
fn share_equal(graph: &mut IntGraph) -> Result<bool> {
    let mut changed = false;
    // Equal nodes read the same operand, so it is enough to compare the readers of each value.
    for value in graph.topo_order()? {
        let users = graph.users(value);
        for (i, second) in users.iter().enumerate() {
            let equal = |first: &&NodeId| {
                let (a, b) = (graph.node(**first), graph.node(*second));
                a.operands() == b.operands() && a.ty == b.ty && a.op == b.op
            };
            if graph.is_output(*second) || graph.use_count(*second) == 0 {
                continue;
            }
            if let Some(first) = users[..i].iter().find(equal).copied() {
                graph.replace_uses(*second, first);
                changed = true;
            }
        }
    }
    Ok(changed)
}

/// Applies the first rule that fits at `id`.
fn simplify(graph: &mut IntGraph, id: NodeId) -> Result<bool> {
    let node = graph.node(id).clone();
    let Some(&x) = node.operands().first() else { return Ok(false) };
    let producer = graph.node(x).clone();
    // The operand of a network output must not be renamed away, nor an input become an output.
    let drops = |graph: &mut IntGraph| {
        if graph.is_output(id) && producer.op == IntOp::Input {
            return false;
        }
        let named = graph.use_count(id) > 0;
        graph.replace_uses(id, x);
        named
    };
    let only = graph.only_user(x) == Some(id);
    match (&node.op, &producer.op) {
        (IntOp::Requant(r), _) if node.ty == producer.ty && is_identity(&r.requant, &node.ty) => {
            Ok(drops(graph))
        }
        (IntOp::Transpose(t), _) if t.perm.iter().copied().eq(0..t.perm.len()) => Ok(drops(graph)),
        (IntOp::Reshape(_), _) if node.ty.shape == producer.ty.shape => Ok(drops(graph)),
        (IntOp::Reshape(_), IntOp::Reshape(_)) => {
            graph.set_operand(id, 0, producer.operands()[0]);
            Ok(true)
        }
        (IntOp::Transpose(outer), IntOp::Transpose(inner)) => {
            let perm = outer.perm.iter().map(|p| inner.perm[*p]).collect();
            graph.set_operand(id, 0, producer.operands()[0]);
            graph.node_mut(id).op = IntOp::Transpose(Transpose { perm });
            Ok(true)
        }
        (IntOp::Requant(outer), IntOp::Requant(inner)) if only && !is_clamp(&inner.requant, &producer.ty) => {
            let Some(mult) = product(outer.requant.dyadic(0), inner.requant.dyadic(0)) else {
                return Ok(false);
            };
            let requant = Requant { mult: vec![mult], ..outer.requant.clone() };
            graph.set_operand(id, 0, producer.operands()[0]);
            graph.node_mut(id).op = IntOp::Requant(Rescale { requant });
            Ok(true)
        }
        (IntOp::Lut(_), IntOp::Lut(_)) if only => {
            let first = entries(graph, producer.operands()[1])?;
            let second = entries(graph, node.operands()[1])?;
            let rows = first.len().max(second.len());
            let table = (0..rows)
                .map(|c| row(&first, c).iter().map(|v| row(&second, c)[*v as usize & 255]).collect())
                .collect();
            replace_table(graph, id, producer.operands()[0], table)
        }
        (IntOp::Lut(_), IntOp::Requant(r)) if only && is_byte(graph, producer.operands()[0]) => {
            let zero = graph.ty(producer.operands()[0]).zero_point();
            let second = entries(graph, node.operands()[1])?;
            let table = second
                .iter()
                .map(|t| (0..256).map(|q| t[r.requant.apply(q - zero, 0) as usize & 255]).collect())
                .collect();
            replace_table(graph, id, producer.operands()[0], table)
        }
        (IntOp::Requant(r), IntOp::Lut(_)) if only && producer.ty.dtype == DType::U8 => {
            let zero = producer.ty.zero_point();
            let first = entries(graph, producer.operands()[1])?;
            let table =
                first.iter().map(|t| t.iter().map(|q| r.requant.apply(q - zero, 0)).collect()).collect();
            replace_table(graph, id, producer.operands()[0], table)
        }
        _ => Ok(false),
    }
}

fn is_byte(graph: &IntGraph, id: NodeId) -> bool {
    graph.ty(id).dtype == DType::U8
}

/// Whether rescaling by 1 without a narrower clamp.
fn is_identity(requant: &Requant, ty: &TensorType) -> bool {
    let one = requant.mult.iter().all(|d| (d.value() - 1.0).abs() < 1e-12);
    one && !is_clamp(requant, ty)
}

/// Whether the clamp is narrower than the type.
fn is_clamp(requant: &Requant, ty: &TensorType) -> bool {
    ty.quant.as_ref().is_none_or(|q| (requant.lo, requant.hi) != q.range(ty.dtype))
}

/// a·b, where it is a dyadic number.
fn product(a: Dyadic, b: Dyadic) -> Option<Dyadic> {
    Dyadic::from_f64(a.value() * b.value()).ok()
}

/// The rows of a table.
fn entries(graph: &IntGraph, table: NodeId) -> Result<Vec<Vec<i32>>> {
    match graph.constant(table) {
        Some(t) => Ok(t.to_ints()?.chunks(256).map(<[i32]>::to_vec).collect()),
        None => goshawk_ir::bail!("the table {} is not a constant", graph.node(table).name),
    }
}

fn row(table: &[Vec<i32>], channel: usize) -> &[i32] {
    if table.len() == 1 { &table[0] } else { &table[channel] }
}

/// Makes node `id` a table lookup in `x`.
fn replace_table(graph: &mut IntGraph, id: NodeId, x: NodeId, rows: Vec<Vec<i32>>) -> Result<bool> {
    let shape = goshawk_ir::Shape::new([rows.len(), 256])?;
    let value = Tensor::from_ints(graph.ty(id).dtype, shape, &rows.concat())?;
    let name = graph.fresh_name(&format!("{}.table", graph.node(id).name));
    let table = graph.add_const(name, value, None);
    graph.set_operands(id, &[x, table]);
    graph.node_mut(id).op = IntOp::Lut(NoAttrs {});
    Ok(true)
}
