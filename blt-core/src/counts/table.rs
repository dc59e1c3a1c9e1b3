//! The model: every context with its entropy, every byte after it with its probability.

use super::config::{CountsConfig, CountsError};
use super::entries::{Entry, prune};
use super::file::{decode, encode};
use super::held_out::Heads;
use super::levels::{Level, Pair, levels};

/// A context.
#[derive(Clone, Copy)]
pub(super) struct Context {
    key: u64,
    /// Where its pairs start; they end where those of the next context start.
    pairs: u32,
    /// The context of one byte less.
    parent: u32,
    /// Of the next byte, in nats.
    pub entropy: f32,
    /// What the probabilities of the parent are multiplied by.
    escape: f32,
}

/// Bytes that a context takes, its places in the index included.
const CONTEXT_BYTES: usize = size_of::<Context>() + 12;

/// A fitted model. Reading it does not change it, and threads can share it.
pub struct Counts {
    config: CountsConfig,
    /// Level by level, from the empty context on, and one after the last.
    contexts: Vec<Context>,
    pairs: Vec<Pair>,
    /// The index of each level.
    indexes: Vec<Index>,
    /// Discounts of counts of 1, 2 and more, for each level.
    pub(super) discounts: Vec<[f32; 3]>,
    pub(super) heads: Heads,
    encoded: Vec<u8>,
}

impl Counts {
    /// Prunes entries until their model fits the memory bound, and makes it.
    pub(super) fn within(mut entries: Vec<Entry>, heads: Heads, config: CountsConfig) -> Self {
        loop {
            let made = levels(&entries, config.order);
            let contexts: usize = made.iter().map(|level| level.contexts.len()).sum();
            let pairs: usize = made.iter().map(|level| level.pairs.len()).sum();
            let bytes = contexts * CONTEXT_BYTES + pairs * size_of::<Pair>();
            if bytes > config.memory && entries.len() > 256 {
                let share = config.memory as f64 / bytes as f64;
                let limit = (entries.len() as f64 * share.min(0.9)) as usize;
                prune(&mut entries, limit.max(256));
                continue;
            }
            let encoded = encode(&entries, &heads, config.order);
            drop(entries);
            return Counts::of_levels(made, heads, encoded, config);
        }
    }

    /// Reads what [`to_bytes`](Counts::to_bytes) gave.
    ///
    /// # Errors
    /// If the bytes are not whole, or of another order.
    pub fn from_bytes(bytes: Vec<u8>, config: CountsConfig) -> Result<Self, CountsError> {
        config.check()?;
        let (entries, heads, order) = decode(&bytes)?;
        if order != config.order {
            return Err(CountsError::Damaged("it has another order"));
        }
        Ok(Counts::of_levels(levels(&entries, order), heads, bytes, config))
    }

    /// The model as a file holds it.
    pub fn to_bytes(&self) -> &[u8] {
        &self.encoded
    }

    fn of_levels(
        mut levels: Vec<Level>,
        heads: Heads,
        encoded: Vec<u8>,
        config: CountsConfig,
    ) -> Self {
        let (mut contexts, mut pairs) = (Vec::new(), Vec::new());
        let (mut indexes, mut discounts) = (Vec::new(), Vec::new());
        // Of the level before, whose first context has the number `first`.
        let mut above: Option<(Level, Vec<f64>, u32)> = None;
        for mut level in levels.drain(..) {
            let d = discounts_of(&level.pairs);
            let n = level.contexts.len();
            let mut sums = vec![0.0; n];
            let (first, first_pair) = (contexts.len() as u32, pairs.len() as u32);
            contexts.extend((0..n).map(|i| Context {
                key: level.contexts[i],
                pairs: first_pair + level.pairs_of[i],
                parent: 0,
                entropy: 0.0,
                escape: 0.0,
            }));
            let own = &mut contexts[first as usize..];
            match &above {
                None => {
                    let mut lower = Lower::uniform();
                    own[0].escape = lower.interpolate(&mut level.pairs, d, &mut sums[0]);
                    own[0].entropy = entropy_of(sums[0]);
                }
                Some((parents, sums_of, first_parent)) => {
                    let mut lower = Lower::uniform();
                    for (p, &sum) in sums_of.iter().enumerate() {
                        let children =
                            parents.children_of[p] as usize..parents.children_of[p + 1] as usize;
                        if children.is_empty() {
                            continue;
                        }
                        let of_parent =
                            parents.pairs_of[p] as usize..parents.pairs_of[p + 1] as usize;
                        lower.set(&parents.pairs[of_parent], sum);
                        for c in children {
                            let of_child =
                                level.pairs_of[c] as usize..level.pairs_of[c + 1] as usize;
                            let pairs = &mut level.pairs[of_child];
                            own[c].escape = lower.interpolate(pairs, d, &mut sums[c]);
                            own[c].entropy = entropy_of(sums[c]);
                            own[c].parent = first_parent + p as u32;
                        }
                    }
                }
            }
            pairs.extend_from_slice(&level.pairs);
            indexes.push(Index::of(&level.contexts, first));
            discounts.push(d.map(|d| d as f32));
            above = Some((level, sums, first));
        }
        let end = pairs.len() as u32;
        contexts.push(Context { key: 0, pairs: end, parent: 0, entropy: 0.0, escape: 0.0 });
        Counts { config, contexts, pairs, indexes, discounts, heads, encoded }
    }

    /// As it was made.
    pub fn config(&self) -> CountsConfig {
        self.config
    }

    /// Number of contexts.
    pub fn n_contexts(&self) -> usize {
        self.contexts.len() - 1
    }

    /// Bytes of memory that it takes.
    pub fn memory(&self) -> usize {
        self.n_contexts() * CONTEXT_BYTES + self.pairs.len() * size_of::<Pair>()
    }

    /// The context of the last `depth` bytes of `key` (a [`suffix`](super::entries::suffix)).
    #[inline]
    pub(super) fn find(&self, key: u64, depth: usize) -> Option<u32> {
        self.found(self.probe(key, depth), key, depth)
    }

    /// The first place where the index of a level may have `key`.
    #[inline]
    pub(super) fn probe(&self, key: u64, depth: usize) -> Probe {
        let index = &self.indexes[depth];
        let slot = index.start(key);
        Probe { slot, context: index.slots[slot] }
    }

    /// [`find`](Counts::find), from a probe of the same key and level on.
    #[inline]
    pub(super) fn found(&self, probe: Probe, key: u64, depth: usize) -> Option<u32> {
        self.indexes[depth].find(probe, key, &self.contexts)
    }

    #[inline]
    pub(super) fn context(&self, context: u32) -> &Context {
        &self.contexts[context as usize]
    }

    /// The bytes that followed a context, in ascending order.
    #[inline]
    pub(super) fn pairs(&self, context: u32) -> &[Pair] {
        let (start, end) =
            (self.contexts[context as usize].pairs, self.contexts[context as usize + 1].pairs);
        &self.pairs[start as usize..end as usize]
    }

    #[inline]
    pub(super) fn parent(&self, context: u32) -> u32 {
        self.contexts[context as usize].parent
    }

    /// The probability of `byte` after a context.
    #[inline]
    pub(super) fn probability(&self, mut context: u32, byte: u8) -> f32 {
        let mut escape = 1.0;
        loop {
            match self.step(self.pairs(context), context, byte, escape) {
                Ok(p) => return p,
                Err(parent) => (context, escape) = parent,
            }
        }
    }

    /// One context of a search for `byte`, whose pairs are given: its probability, or where the
    /// search goes on and what is then multiplied.
    #[inline]
    pub(super) fn step(
        &self,
        pairs: &[Pair],
        context: u32,
        byte: u8,
        escape: f32,
    ) -> Result<f32, (u32, f32)> {
        if let Some(pair) = pairs.iter().find(|pair| pair.byte == byte) {
            return Ok(escape * pair.probability);
        }
        let escape = escape * self.context(context).escape;
        if context == 0 { Ok(escape / 256.0) } else { Err((self.parent(context), escape)) }
    }

    /// The probabilities of all bytes after a context.
    pub(super) fn probabilities(&self, context: u32, out: &mut [f32; 256]) {
        match context {
            0 => *out = [1.0 / 256.0; 256],
            _ => self.probabilities(self.parent(context), out),
        }
        let escape = self.context(context).escape;
        out.iter_mut().for_each(|p| *p *= escape);
        for pair in self.pairs(context) {
            out[pair.byte as usize] = pair.probability;
        }
    }
}

fn entropy_of(sum: f64) -> f32 {
    (-sum).max(0.0) as f32
}

/// Modified Kneser-Ney discounts, from how many counts are 1, 2, 3 and 4.
fn discounts_of(pairs: &[Pair]) -> [f64; 3] {
    let mut n = [0u64; 4];
    for pair in pairs.iter().filter(|pair| pair.count <= 4) {
        n[pair.count as usize - 1] += 1;
    }
    let n = n.map(|n| n as f64);
    let y = n[0] / (n[0] + 2.0 * n[1]);
    std::array::from_fn(|i| {
        let count = (i + 1) as f64;
        let found = count - (count + 1.0) * y * n[i + 1] / n[i];
        // Small levels have none of some counts.
        let usual = 0.5 * count;
        if found.is_finite() { found.clamp(0.05 * count, 0.95 * count) } else { usual }
    })
}

/// The distribution after a parent, of the bytes that followed it.
struct Lower {
    p: [f64; 256],
    /// `p ln p`
    q: [f64; 256],
    /// The sum of `p ln p` over all bytes, those that did not follow it included.
    sum: f64,
}

impl Lower {
    fn uniform() -> Self {
        let p = 1.0 / 256f64;
        Lower { p: [p; 256], q: [p * p.ln(); 256], sum: p.ln() }
    }

    /// `pairs` of the parent; a child's bytes are among them.
    fn set(&mut self, pairs: &[Pair], sum: f64) {
        for pair in pairs {
            let p = pair.probability as f64;
            (self.p[pair.byte as usize], self.q[pair.byte as usize]) = (p, p * p.ln());
        }
        self.sum = sum;
    }

    /// Sets the probabilities of a child's pairs. Returns its escape, and in `sum` its sum of
    /// `p ln p` over all bytes.
    fn interpolate(&mut self, pairs: &mut [Pair], discounts: [f64; 3], sum: &mut f64) -> f32 {
        let total: f64 = pairs.iter().map(|pair| pair.count as f64).sum();
        let of = |count: u32| discounts[count.min(3) as usize - 1];
        let escape = pairs.iter().map(|pair| of(pair.count)).sum::<f64>() / total;
        let (mut p_seen, mut q_seen, mut own) = (0.0, 0.0, 0.0);
        for pair in pairs {
            let at = pair.byte as usize;
            let p = (pair.count as f64 - of(pair.count)) / total + escape * self.p[at];
            p_seen += self.p[at];
            q_seen += self.q[at];
            own += p * p.ln();
            pair.probability = p as f32;
        }
        let unseen = (1.0 - p_seen).max(0.0) * escape.ln() + (self.sum - q_seen).min(0.0);
        *sum = own + escape * unseen;
        escape as f32
    }
}

/// Finds a level's contexts: open addressing, at most half full.
struct Index {
    slots: Vec<u32>,
    shift: u32,
}

const EMPTY: u32 = u32::MAX;

/// A slot of an index, and what stands in it.
#[derive(Clone, Copy, Default)]
pub(super) struct Probe {
    slot: usize,
    context: u32,
}

impl Index {
    /// `keys`: of the contexts `first`, `first + 1`, ...
    fn of(keys: &[u64], first: u32) -> Self {
        let bits = (2 * keys.len()).next_power_of_two().trailing_zeros().max(1);
        let mut index = Index { slots: vec![EMPTY; 1 << bits], shift: 64 - bits };
        for (i, &key) in keys.iter().enumerate() {
            let mut slot = index.start(key);
            while index.slots[slot] != EMPTY {
                slot = (slot + 1) & (index.slots.len() - 1);
            }
            index.slots[slot] = first + i as u32;
        }
        index
    }

    #[inline]
    fn start(&self, key: u64) -> usize {
        // The bytes of a short context are the highest ones, and a product moves bits up alone.
        let mixed = key.rotate_left(32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed ^ mixed >> 32).wrapping_mul(0xc2b2_ae3d_27d4_eb4f) >> self.shift) as usize
    }

    #[inline]
    fn find(&self, mut probe: Probe, key: u64, contexts: &[Context]) -> Option<u32> {
        loop {
            match probe.context {
                EMPTY => return None,
                found if contexts[found as usize].key == key => return Some(found),
                _ => {
                    probe.slot = (probe.slot + 1) & (self.slots.len() - 1);
                    probe.context = self.slots[probe.slot];
                }
            }
        }
    }
}
