//! Greedy placements of blocks, the choice among them, and a local search from the best.
use super::lifetime::Block;
use std::cmp::Reverse;

/// Offsets of all blocks (in the order of `blocks`) and the arena size of the smallest placement found.
pub fn best(blocks: &[Block], lower_bound: usize) -> (Vec<usize>, usize) {
    let mut best: Option<Placement> = None;
    for order in orders(blocks) {
        for fit in [Fit::First, Fit::Best] {
            let placed = Placement::new(blocks, order.clone(), fit);
            if best.as_ref().is_none_or(|b| placed.size < b.size) {
                best = Some(placed);
            }
            if best.as_ref().is_some_and(|b| b.size == lower_bound) {
                break;
            }
        }
    }
    let Some(mut best) = best else { return (Vec::new(), 0) };
    search(blocks, lower_bound, &mut best);
    (best.offsets, best.size)
}

/// An order of placement and what it gives.
struct Placement {
    order: Vec<usize>,
    fit: Fit,
    offsets: Vec<usize>,
    size: usize,
}

impl Placement {
    fn new(blocks: &[Block], order: Vec<usize>, fit: Fit) -> Self {
        let offsets = place(blocks, &order, fit);
        let size = blocks.iter().zip(&offsets).map(|(b, o)| b.bytes + o).max().unwrap_or(0);
        Self { order, fit, offsets, size }
    }
}

/// Moves a block that reaches to the top of the arena to an earlier position in the order of placement, and keeps what
/// is not worse. The random numbers are always the same (Marsaglia 2003, xorshift64), and so is the result.
fn search(blocks: &[Block], lower_bound: usize, best: &mut Placement) {
    /// Comparisons of pairs of blocks that all tries may take together: some tenths of a second.
    const WORK: usize = 60_000_000;
    let tries = (WORK / (blocks.len() * blocks.len()).max(1)).min(2000);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut below = |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n as u64) as usize
    };
    for _ in 0..tries {
        if best.size == lower_bound {
            return;
        }
        let mut order = best.order.clone();
        let top = |i: &usize| best.offsets[*i] + blocks[*i].bytes == best.size;
        // Now and then any block, so that the search does not stay where it is.
        let from = match order.iter().position(top) {
            Some(at) if at > 0 && below(4) > 0 => at,
            _ => below(order.len()),
        };
        let block = order.remove(from);
        order.insert(below(from + 1), block);
        let next = Placement::new(blocks, order, if below(8) == 0 { best.fit.other() } else { best.fit });
        if next.size <= best.size {
            *best = next;
        }
    }
}

/// Orders of placement: by size, by the breadth (sum of live bytes) of the steps that a block is live in, by length of
/// life, by size·life, in execution order and its reverse.
fn orders(blocks: &[Block]) -> Vec<Vec<usize>> {
    let sorted = |key: &dyn Fn(usize) -> (Reverse<usize>, Reverse<usize>)| {
        let mut order: Vec<usize> = (0..blocks.len()).collect();
        order.sort_by_key(|i| key(*i));
        order
    };
    let life = |i: usize| blocks[i].to - blocks[i].from + 1;
    let breadth: Vec<usize> = blocks
        .iter()
        .map(|b| {
            let live_at =
                |step| blocks.iter().filter(|o| o.from <= step && step <= o.to).map(|o| o.bytes).sum();
            // The fullest moment of a life is the start of some block in it.
            let starts = blocks.iter().map(|o| o.from).filter(|s| (b.from..=b.to).contains(s));
            starts.map(live_at).max().unwrap_or(b.bytes)
        })
        .collect();
    vec![
        sorted(&|i| (Reverse(blocks[i].bytes), Reverse(life(i)))),
        sorted(&|i| (Reverse(breadth[i]), Reverse(blocks[i].bytes))),
        sorted(&|i| (Reverse(life(i)), Reverse(blocks[i].bytes))),
        sorted(&|i| (Reverse(life(i) * blocks[i].bytes), Reverse(life(i)))),
        (0..blocks.len()).collect(),
        (0..blocks.len()).rev().collect(),
    ]
}

/// Which gap to take.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    /// The lowest that is large enough.
    First,
    /// The smallest that is large enough.
    Best,
}

impl Fit {
    const fn other(self) -> Self {
        match self {
            Self::First => Self::Best,
            Self::Best => Self::First,
        }
    }
}

/// Places blocks one by one, each in a gap between the placed blocks that it meets.
fn place(blocks: &[Block], order: &[usize], fit: Fit) -> Vec<usize> {
    let mut offsets = vec![0; blocks.len()];
    let mut placed: Vec<usize> = Vec::with_capacity(blocks.len());
    for i in order {
        let mut taken: Vec<(usize, usize)> = placed
            .iter()
            .filter(|j| blocks[**j].meets(&blocks[*i]))
            .map(|j| (offsets[*j], offsets[*j] + blocks[*j].bytes))
            .collect();
        taken.sort_unstable();
        let need = blocks[*i].bytes;
        let (mut end, mut choice) = (0, None::<(usize, usize)>);
        for (from, to) in taken {
            let gap = from.saturating_sub(end);
            if gap >= need && choice.is_none_or(|(size, _)| fit == Fit::Best && gap < size) {
                choice = Some((gap, end));
            }
            end = end.max(to);
        }
        offsets[*i] = choice.map_or(end, |(_, offset)| offset);
        placed.push(*i);
    }
    offsets
}
