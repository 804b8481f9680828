//! Cutting packed documents into blocks of rows, one task each, without allocating.

/// Rows `begin..end` (absolute) of the document `document`, which is rows `start..stop`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub document: usize,
    pub start: usize,
    pub stop: usize,
    pub begin: usize,
    pub end: usize,
}

/// Calls `f` for every block of at most `size` rows of every document, in parallel, with the
/// block's rows of `a` (`a_width` elements a row) and of `b`.
///
/// Blocks are counted from the start of their document. Call it inside `Cpu::install`.
pub(super) fn for_each_block<A: Send, B: Send>(
    cu_seqlens: &[u32],
    size: usize,
    (a, a_width): (&mut [A], usize),
    (b, b_width): (&mut [B], usize),
    f: &(impl Fn(Block, &mut [A], &mut [B]) + Sync),
) {
    documents(cu_seqlens, 0, &Cut { size, a_width, b_width }, a, b, f);
}

struct Cut {
    size: usize,
    a_width: usize,
    b_width: usize,
}

fn documents<A: Send, B: Send>(
    cu: &[u32],
    first: usize,
    cut: &Cut,
    a: &mut [A],
    b: &mut [B],
    f: &(impl Fn(Block, &mut [A], &mut [B]) + Sync),
) {
    let count = cu.len().saturating_sub(1);
    if count > 1 {
        let mid = count / 2;
        let rows = (cu[mid] - cu[0]) as usize;
        let (a0, a1) = a.split_at_mut(rows * cut.a_width);
        let (b0, b1) = b.split_at_mut(rows * cut.b_width);
        rayon::join(
            || documents(&cu[..=mid], first, cut, a0, b0, f),
            || documents(&cu[mid..], first + mid, cut, a1, b1, f),
        );
    } else if count == 1 && cu[1] > cu[0] {
        let (start, stop) = (cu[0] as usize, cu[1] as usize);
        let all = Block { document: first, start, stop, begin: start, end: stop };
        halves(all, cut, a, b, f);
    }
}

fn halves<A: Send, B: Send>(
    block: Block,
    cut: &Cut,
    a: &mut [A],
    b: &mut [B],
    f: &(impl Fn(Block, &mut [A], &mut [B]) + Sync),
) {
    let count = (block.end - block.begin).div_ceil(cut.size);
    if count <= 1 {
        return f(block, a, b);
    }
    let rows = count / 2 * cut.size;
    let mid = block.begin + rows;
    let (a0, a1) = a.split_at_mut(rows * cut.a_width);
    let (b0, b1) = b.split_at_mut(rows * cut.b_width);
    rayon::join(
        || halves(Block { end: mid, ..block }, cut, a0, b0, f),
        || halves(Block { begin: mid, ..block }, cut, a1, b1, f),
    );
}
