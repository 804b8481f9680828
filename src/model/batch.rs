//! One packed micro-batch: what the static step reads.

/// Documents packed one behind the other. Attention and positions restart at each document.
///
/// Lengths: `tokens`, `position_ids` are `T` (the real tokens; at most the micro-batch's
/// capacity, never padded). `cu_seqlens` has one entry more than there are documents and starts
/// with 0. `loss_positions[i]` is the row whose hidden state predicts `targets[i]`; the row and
/// its target always lie in one document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MicroBatch {
    pub tokens: Vec<u32>,
    pub position_ids: Vec<u32>,
    pub cu_seqlens: Vec<u32>,
    pub loss_positions: Vec<u32>,
    pub targets: Vec<u32>,
}
