//! Allocations made better by hand: repair of broken limits, single changes, exchanges of two.
use super::{
    bound::worth,
    core::{Node, ROUNDING},
};

/// Whether nothing exceeds its room.
pub(super) fn fits(excess: &[f64]) -> bool {
    excess.iter().all(|e| *e <= ROUNDING)
}

/// A change of one class: its new item, and what changes.
struct Move {
    class: usize,
    item: u32,
    value: f64,
    cost: Vec<f64>,
}

fn moves(node: &Node, picks: &[u32]) -> Vec<Move> {
    let mut all = Vec::new();
    for (class, pick) in picks.iter().enumerate() {
        let from = *pick as usize;
        for item in node.items(class).filter(|i| *i != from) {
            let cost = node.costs(item).iter().zip(node.costs(from)).map(|(a, b)| a - b).collect();
            all.push(Move { class, item: item as u32, value: node.value[item] - node.value[from], cost });
        }
    }
    all
}

/// How far the limits are broken.
fn broken(excess: &[f64]) -> f64 {
    excess.iter().map(|e| e.max(0.0)).sum()
}

/// Changes items until the limits hold, each time the one that mends most for its loss; false if it gets stuck.
pub(super) fn repair(node: &Node, picks: &mut [u32]) -> bool {
    let (_, mut excess) = worth(node, picks);
    for _ in 0..node.choice.len() + 1 {
        if fits(&excess) {
            return true;
        }
        let before = broken(&excess);
        let mut best: Option<(f64, Move)> = None;
        for m in moves(node, picks) {
            let after: f64 = excess.iter().zip(&m.cost).map(|(e, c)| (e + c).max(0.0)).sum();
            if after < before {
                let score = m.value.max(0.0) / (before - after);
                if best.as_ref().is_none_or(|(s, _)| score < *s) {
                    best = Some((score, m));
                }
            }
        }
        let Some((_, m)) = best else { return false };
        picks[m.class] = m.item;
        excess.iter_mut().zip(&m.cost).for_each(|(e, c)| *e += c);
    }
    false
}

/// Improves an allocation that fits by single changes and by exchanges of two classes until neither helps.
pub(super) fn polish(node: &Node, picks: &mut [u32], pairs: bool) {
    let (_, mut excess) = worth(node, picks);
    // Each round improves the objective; the limit is against rounding that goes in circles.
    for _ in 0..4 * node.choice.len() + 16 {
        let all = moves(node, picks);
        let fit = |cost: &[f64]| excess.iter().zip(cost).all(|(e, c)| e + c <= ROUNDING);
        let gain = |m: &&Move| m.value < -1e-15;
        let single =
            all.iter().filter(gain).filter(|m| fit(&m.cost)).min_by(|a, b| a.value.total_cmp(&b.value));
        if let Some(m) = single {
            picks[m.class] = m.item;
            excess.iter_mut().zip(&m.cost).for_each(|(e, c)| *e += c);
            continue;
        }
        if !pairs {
            return;
        }
        let mut best: Option<(f64, &Move, &Move)> = None;
        // One of the two gains by itself but does not fit; the other makes room.
        for a in all.iter().filter(gain) {
            for b in all.iter().filter(|b| b.class != a.class) {
                let value = a.value + b.value;
                let better = value < best.as_ref().map_or(-1e-15, |(v, _, _)| *v);
                let costs = || excess.iter().zip(a.cost.iter().zip(&b.cost));
                if better && costs().all(|(e, (x, y))| e + x + y <= ROUNDING) {
                    best = Some((value, a, b));
                }
            }
        }
        let Some((_, a, b)) = best else { return };
        for m in [a, b] {
            picks[m.class] = m.item;
            excess.iter_mut().zip(&m.cost).for_each(|(e, c)| *e += c);
        }
    }
}
