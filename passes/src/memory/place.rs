//! Greedy placements of blocks, and the choice among them.
use super::lifetime::Block;
use std::cmp::Reverse;

/// Offsets of all blocks (in the order of `blocks`) and the arena size of the smallest placement found.
pub fn best(blocks: &[Block], lower_bound: usize) -> (Vec<usize>, usize) {
    let mut best: Option<(Vec<usize>, usize)> = None;
    for order in orders(blocks) {
        for fit in [Fit::First, Fit::Best] {
            let placed = place(blocks, &order, fit);
            let size = blocks.iter().zip(&placed).map(|(b, o)| b.bytes + o).max().unwrap_or(0);
            if best.as_ref().is_none_or(|(_, s)| size < *s) {
                best = Some((placed, size));
            }
            if size == lower_bound {
                break;
            }
        }
    }
    best.unwrap_or_default()
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
