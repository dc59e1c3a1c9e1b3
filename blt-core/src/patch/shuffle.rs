//! The patches of a rule with their lengths at other places: what a rule is compared with, to see
//! whether its places matter beside its sizes.

use super::patches::{Patches, PatchesBuilder};
use crate::bytes::Batch;

/// `patches` with the lengths of each span's patches in another order: as many patches, of the same
/// lengths. BOS keeps its patch, and the end of a span says of the next byte what it said.
///
/// A span's order is drawn from `seed` and from its own ids alone, so it is the same in any batch
/// and in every pass over the documents. Patches that start in the span's context, which an earlier
/// span counts, are shuffled among themselves, so that those that count keep their number.
pub fn shuffled_patches(batch: &Batch, patches: &Patches, seed: u64) -> Patches {
    let mut shuffled = PatchesBuilder::new(batch);
    for s in 0..batch.n_spans() {
        let mut lengths: Vec<usize> = patches.span_lengths(s).collect();
        let not_counted = lengths.len() - patches.n_counted(batch, s);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        for id in batch.span_ids(s) {
            hasher.update(&id.to_le_bytes());
        }
        let mut draws = hasher.finalize_xof();
        let (context, counted) = lengths.split_at_mut(not_counted);
        // The last patch of the context may reach into what counts: it stays where it is.
        let last = context.len().max(2) - 1;
        for group in [&mut context[1..last], counted] {
            for i in (1..group.len()).rev() {
                let mut draw = [0; 8];
                draws.fill(&mut draw);
                // The high half of the product; its bias is below n / 2^64.
                let below = (u64::from_le_bytes(draw) as u128 * (i as u128 + 1)) >> 64;
                group.swap(i, below as usize);
            }
        }
        let mut start = batch.offsets[s];
        for length in lengths {
            shuffled.starts.push(start);
            start += length;
        }
        shuffled.next = patches.next_starts[s];
        shuffled.end_span();
    }
    shuffled.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::Span;
    use crate::patch::{PatchStats, space_patches};

    const TEXT: &str = "Twice two makes four, and never in any other place than here, my dear.";

    #[test]
    fn the_same_lengths_stand_at_other_places() {
        let batch = Batch::from_documents([TEXT.as_bytes(), b"", b"a", b"one two three four"]);
        let patches = space_patches(&batch);
        let shuffled = shuffled_patches(&batch, &patches, 7);
        assert_ne!(shuffled.starts, patches.starts);
        assert_eq!(shuffled.span_offsets, patches.span_offsets);
        assert_eq!(shuffled.next_starts, patches.next_starts);
        for s in 0..batch.n_spans() {
            let lengths = |patches: &Patches| patches.span_lengths(s).collect::<Vec<_>>();
            let (mut ours, mut theirs) = (lengths(&shuffled), lengths(&patches));
            assert_eq!(ours[0], 1, "BOS is a patch of its own");
            ours.sort_unstable();
            theirs.sort_unstable();
            assert_eq!(ours, theirs);
        }
        assert_ne!(shuffled_patches(&batch, &patches, 8), shuffled);
    }

    #[test]
    fn a_document_has_the_same_places_alone_and_in_a_batch() {
        let alone = Batch::from_documents([TEXT.as_bytes()]);
        let starts = shuffled_patches(&alone, &space_patches(&alone), 7).starts;
        let batch = Batch::from_documents([b"some other text".as_slice(), TEXT.as_bytes()]);
        let together = shuffled_patches(&batch, &space_patches(&batch), 7);
        let (a, p) = (batch.offsets[1], together.span_offsets[1]);
        assert_eq!(together.starts[p..].iter().map(|i| i - a).collect::<Vec<_>>(), starts);
    }

    #[test]
    fn patches_that_count_keep_their_number_beside_a_context() {
        for context in 0..TEXT.len() {
            let mut batch = Batch::new();
            let range = 9..9 + TEXT.len();
            batch.push(Span { row: 0, range, context, last: true }, TEXT.as_bytes());
            let patches = space_patches(&batch);
            let shuffled = shuffled_patches(&batch, &patches, 7);
            assert_eq!(PatchStats::of(&batch, &shuffled), PatchStats::of(&batch, &patches));
        }
    }
}
