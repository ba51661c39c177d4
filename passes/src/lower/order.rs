//! How a value of the float graph lies in memory in the integer graph.
//!
//! A value of logical dimensions d₀ … dᵣ (ONNX order) is stored with its dimensions permuted: stored dimension j is
//! logical dimension `order[j]`. Image tensors [N,C,H,W] are stored NHWC, order [0,2,3,1]; all else as it is. Transpose
//! then costs nothing, it only relabels; Reshape costs nothing where the dimensions that it merges are neighbours in
//! memory; and data moves only where an operator insists on an order. So a channel shuffle becomes one transpose, and
//! a network exported with NHWC around its ends loses those transposes.

/// The order that operators expect: NHWC for rank 4, as it is for other ranks.
pub fn default(rank: usize) -> Vec<usize> {
    if rank == 4 { vec![0, 2, 3, 1] } else { (0..rank).collect() }
}

/// Dimensions in memory.
pub fn stored(logical: &[usize], order: &[usize]) -> Vec<usize> {
    order.iter().map(|i| logical[*i]).collect()
}

/// Whether both orders mean the same sequence of elements: they agree but for dimensions of length 1.
pub fn same_elements(logical: &[usize], a: &[usize], b: &[usize]) -> bool {
    long(logical, a).eq(long(logical, b))
}

fn long<'a>(logical: &'a [usize], order: &'a [usize]) -> impl Iterator<Item = usize> + 'a {
    order.iter().copied().filter(|i| logical[*i] > 1)
}

/// The permutation that takes memory in order `from` to order `to`.
pub fn permutation(from: &[usize], to: &[usize]) -> Vec<usize> {
    to.iter().map(|t| from.iter().position(|f| f == t).unwrap_or(0)).collect()
}

/// Order of the result of a transpose that moves no data: result dimension i is operand dimension perm\[i\].
pub fn relabelled(order: &[usize], perm: &[usize]) -> Vec<usize> {
    permutation(perm, order)
}

/// How to reshape: bring the operand into the order `before`, then memory is the result's in the order `after`.
pub struct Reshape {
    /// Order of the operand that makes merged dimensions neighbours; the operand's own order where that is possible.
    pub before: Vec<usize>,
    /// Order of the result.
    pub after: Vec<usize>,
}

/// Plans the reshape of a value of dimensions `a` in `order` to dimensions `b` of the same count.
///
/// Both shapes are cut into the smallest runs of dimensions with equal products. Runs keep their place in memory (that
/// of their first member), and inside a run the dimensions must lie in logical order.
pub fn reshape(a: &[usize], order: &[usize], b: &[usize]) -> Reshape {
    let in_memory: Vec<usize> = long(a, order).collect();
    let place = |i: &usize| in_memory.iter().position(|m| m == i).unwrap_or(0);
    let mut runs = runs(a, b);
    runs.sort_by_key(|(from, _)| from.iter().map(place).min());
    let before: Vec<usize> = runs.iter().flat_map(|(from, _)| from.clone()).collect();
    let after: Vec<usize> = runs.iter().flat_map(|(_, to)| to.clone()).collect();
    let before = if before == in_memory { order.to_vec() } else { with_ones(a, &before) };
    Reshape { before, after: with_ones(b, &after) }
}

/// Pairs of index lists into `a` and `b` (dimensions of length 1 left out) with equal products.
fn runs(a: &[usize], b: &[usize]) -> Vec<(Vec<usize>, Vec<usize>)> {
    let mut left = (0..a.len()).filter(|i| a[*i] > 1).peekable();
    let mut right = (0..b.len()).filter(|i| b[*i] > 1).peekable();
    let mut runs = Vec::new();
    while left.peek().is_some() || right.peek().is_some() {
        let (mut from, mut to) = (Vec::new(), Vec::new());
        let (mut p, mut q) = (1usize, 1usize);
        loop {
            if p <= q
                && let Some(i) = left.next()
            {
                p *= a[i];
                from.push(i);
            } else if let Some(i) = right.next() {
                q *= b[i];
                to.push(i);
            } else {
                break;
            }
            if p == q {
                break;
            }
        }
        runs.push((from, to));
    }
    runs
}

/// `long` completed with the dimensions of length 1: the default or the logical order where it has the same elements,
/// else those dimensions first.
fn with_ones(dims: &[usize], longs: &[usize]) -> Vec<usize> {
    let logical: Vec<usize> = (0..dims.len()).collect();
    for candidate in [default(dims.len()), logical] {
        if long(dims, &candidate).eq(longs.iter().copied()) {
            return candidate;
        }
    }
    (0..dims.len()).filter(|i| dims[*i] == 1).chain(longs.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flatten_of_an_image_needs_data_to_move_unless_it_is_one_pixel_or_one_channel() {
        let plan = reshape(&[1, 8, 4, 4], &default(4), &[1, 128]);
        assert_eq!(stored(&[1, 8, 4, 4], &plan.before), [1, 8, 4, 4]);
        for dims in [[1, 8, 1, 1], [1, 1, 4, 4], [3, 1, 4, 4], [3, 8, 1, 1]] {
            let plan = reshape(&dims, &default(4), &[dims[0], dims[1] * dims[2] * dims[3]]);
            assert_eq!(plan.before, default(4), "{dims:?}");
            assert_eq!(plan.after, [0, 1]);
        }
    }

    #[test]
    fn channel_shuffle_is_one_transpose() {
        let split = reshape(&[1, 12, 5, 6], &default(4), &[1, 3, 4, 5, 6]);
        assert_eq!(split.before, default(4));
        assert_eq!(stored(&[1, 3, 4, 5, 6], &split.after), [1, 5, 6, 3, 4]);
        let order = relabelled(&split.after, &[0, 2, 1, 3, 4]);
        let dims = [1, 4, 3, 5, 6];
        assert_eq!(stored(&dims, &order), [1, 5, 6, 3, 4], "a transpose moves nothing");
        let merge = reshape(&dims, &order, &[1, 12, 5, 6]);
        assert_eq!(stored(&dims, &merge.before), [1, 5, 6, 4, 3]);
        assert_eq!(merge.after, default(4));
        assert!(!same_elements(&dims, &order, &merge.before));
    }

    #[test]
    fn nhwc_heads_lose_their_transposes() {
        // conv → transpose to NHWC → reshape [N, H·W·2, 4]
        let order = relabelled(&default(4), &[0, 2, 3, 1]);
        assert_eq!(order, [0, 1, 2, 3]);
        let plan = reshape(&[1, 5, 6, 8], &order, &[1, 60, 4]);
        assert_eq!((plan.before, plan.after), (vec![0, 1, 2, 3], vec![0, 1, 2]));
    }

    #[test]
    fn permutation_takes_one_order_to_another() {
        let perm = permutation(&[0, 2, 3, 1], &[0, 1, 2, 3]);
        assert_eq!(perm, [0, 3, 1, 2]);
        assert_eq!(relabelled(&[0, 2, 3, 1], &[0, 2, 3, 1]), [0, 1, 2, 3]);
    }
}
