//! What happened before what in a block: a vector clock for every warp.
//!
//! A block counts its synchronisations as steps. A warp's epoch is the step of its last one, and an access
//! is remembered as (thread, epoch of its warp). `seen[v][w]` is the last epoch of warp w that is ordered
//! before what warp v does now. So an access is ordered before a later one by a thread of warp v if the
//! thread is the same, or its epoch is at most `seen[v][its warp]`; of the warp itself that is every epoch
//! before the current one, since what begins an epoch there is a synchronisation of its lanes too.
//!
//! Steps go on from block to block, so that what earlier blocks left in a shadow is ordered before
//! everything, and nothing has to be cleared.

/// Warps in a block, at most.
pub const WARPS: usize = 32;

#[derive(Debug, Default, Clone)]
pub struct Clocks {
    warps: usize,
    /// The last step before this block.
    base: u32,
    step: u32,
    epoch: [u32; WARPS],
    seen: [[u32; WARPS]; WARPS],
    /// The least of `seen[v]`: what is not younger is ordered whichever warp did it.
    floor: [u32; WARPS],
    /// What fences of this block have published, and how often; what each warp has taken up of it.
    released: [u32; WARPS],
    releases: u32,
    acquired: [u32; WARPS],
    /// Warps of which no thread is left.
    exited: u32,
}

impl Clocks {
    /// A new block of so many warps. False if the steps are used up: then every shadow must be cleared,
    /// and they begin again.
    pub fn begin(&mut self, warps: usize) -> bool {
        let enough = self.step < 1 << 31;
        let base = if enough { self.step } else { 0 };
        *self = Clocks { warps, base, step: base + 1, ..Clocks::default() };
        self.epoch.fill(self.step);
        self.seen.fill([base; WARPS]);
        self.floor.fill(base);
        enough
    }

    /// The last step before this block: what is not younger was not done in it.
    pub fn base(&self) -> u32 {
        self.base
    }

    pub fn epoch(&self, warp: usize) -> u32 {
        self.epoch[warp]
    }

    pub fn floor(&self, warp: usize) -> u32 {
        self.floor[warp]
    }

    /// Steps of this block so far: no epoch is later.
    pub fn steps(&self) -> u32 {
        self.step - self.base
    }

    /// Whether an access by `thread` of the block, remembered with `epoch`, is ordered before one that
    /// thread `by` does now.
    #[inline]
    pub fn ordered(&self, thread: u32, epoch: u32, by: u32) -> bool {
        thread == by || epoch <= self.seen[by as usize / WARPS][thread as usize / WARPS]
    }

    /// A barrier was completed by these warps. At a barrier of the `whole` block warps whose threads have
    /// all exited count as having arrived: that is when hardware lets it go.
    pub fn barrier(&mut self, warps: u32, whole: bool) {
        let arrived = if whole { warps | self.exited } else { warps };
        let mut joined = [self.base; WARPS];
        for w in (0..self.warps).filter(|w| arrived >> w & 1 != 0) {
            for (all, one) in joined.iter_mut().zip(&self.seen[w]) {
                *all = (*all).max(*one);
            }
        }
        for (w, all) in joined.iter_mut().enumerate().take(self.warps) {
            if arrived >> w & 1 != 0 {
                *all = (*all).max(self.epoch[w]);
            }
        }
        self.step += 1;
        for w in (0..self.warps).filter(|w| warps >> w & 1 != 0) {
            self.seen[w] = joined;
            self.epoch[w] = self.step;
            self.lower_floor(w);
        }
    }

    /// `bar.warp.sync`: all lanes of the warp count as ordered, whichever took part.
    pub fn warp_sync(&mut self, warp: usize) {
        self.seen[warp][warp] = self.epoch[warp];
        self.step += 1;
        self.epoch[warp] = self.step;
        self.lower_floor(warp);
    }

    /// A fence publishes what is ordered before it, to whoever makes a strong access later.
    pub fn fence(&mut self, warp: usize) {
        for (all, one) in self.released.iter_mut().zip(&self.seen[warp]) {
            *all = (*all).max(*one);
        }
        self.released[warp] = self.epoch[warp];
        self.releases += 1;
        self.step += 1;
        self.epoch[warp] = self.step;
    }

    /// A strong access takes up what fences have published.
    pub fn acquire(&mut self, warp: usize) {
        if self.acquired[warp] == self.releases {
            return;
        }
        self.acquired[warp] = self.releases;
        for (one, all) in self.seen[warp].iter_mut().zip(&self.released) {
            *one = (*one).max(*all);
        }
        self.lower_floor(warp);
    }

    /// No thread of the warp is left.
    pub fn exit(&mut self, warp: usize) {
        self.exited |= 1 << warp;
    }

    fn lower_floor(&mut self, warp: usize) {
        self.floor[warp] = self.seen[warp][..self.warps].iter().copied().min().unwrap_or(self.base);
    }
}
