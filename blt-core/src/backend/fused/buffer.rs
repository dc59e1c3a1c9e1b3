//! Memory that is used again: scratch of a thread, activations and gradients of a step; and memory
//! that stays, for parameters and moments.

use memmap2::{MmapMut, MmapRaw};
use std::cell::RefCell;
use std::iter;
use std::ops::{Deref, DerefMut, Range};
use std::slice::{from_raw_parts, from_raw_parts_mut};
use std::sync::{Arc, Mutex, PoisonError};

/// Elements of a cache line.
const LINE: usize = 16;

/// A cache line. A vector register is as wide, and a load of one that lies in two lines costs two:
/// products of buffers that the allocator placed (16 bytes past a line, mostly) ran at three
/// quarters of their rate on an Intel machine.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// Numbers on the heap, from the beginning of a cache line on.
#[derive(Default)]
pub(crate) struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

impl Aligned {
    pub fn zeros(len: usize) -> Self {
        Self { lines: bytemuck::zeroed_vec(len.div_ceil(LINE)), len }
    }
}

impl Deref for Aligned {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

thread_local! {
    static FREE: RefCell<Vec<Aligned>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of the calling thread's, handed back when dropped, so that tasks do not ask the system
/// for pages. Its contents are whatever was there.
pub(crate) struct Scratch {
    data: Aligned,
    len: usize,
}

impl Scratch {
    pub fn new(len: usize) -> Self {
        let mut data = FREE.with_borrow_mut(|free| free.pop()).unwrap_or_default();
        if data.len() < len {
            data = Aligned::zeros(len);
        }
        Self { data, len }
    }

    /// A buffer with a copy of `from`.
    pub fn copy(from: &[f32]) -> Self {
        let mut scratch = Self::new(from.len());
        scratch.copy_from_slice(from);
        scratch
    }
}

impl Deref for Scratch {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.data[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.len]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        FREE.with_borrow_mut(|free| free.push(std::mem::take(&mut self.data)));
    }
}

/// Elements of a page.
const PAGE: usize = 1024;
/// Elements of a region, at least; what is never lent takes no memory.
const REGION: usize = 1 << 26;
/// Elements from which on a buffer lies in a region; the allocator is good at less.
const LARGE: usize = 16 * PAGE;

/// Memory mapped from the system, and which of its elements are free: whole pages, ascending, no
/// two adjacent.
struct Region {
    map: Arc<MmapRaw>,
    free: Vec<Range<usize>>,
}

/// Zeros from the system. Nothing where it refuses (a limit on address space, say).
fn map(len: usize) -> Option<MmapMut> {
    let map = MmapMut::map_anon(len * size_of::<f32>()).ok()?;
    // Fewer faults, and fewer misses of the TLB. A system that has none goes on with small pages.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Some(map)
}

impl Region {
    fn new(len: usize) -> Option<Self> {
        Some(Self { map: Arc::new(map(len)?.into()), free: iter::once(0..len).collect() })
    }

    /// The first free place, so that the pages in use stay few: a step frees in the reverse of its
    /// order.
    fn take(&mut self, len: usize) -> Option<usize> {
        let at = self.free.iter().position(|free| free.len() >= len)?;
        let start = self.free[at].start;
        match self.free[at].len() == len {
            true => drop(self.free.remove(at)),
            false => self.free[at].start += len,
        }
        Some(start)
    }

    fn give_back(&mut self, place: Range<usize>) {
        let at = self.free.partition_point(|free| free.end <= place.start);
        self.free.insert(at, place);
        if self.free.get(at + 1).is_some_and(|next| next.start == self.free[at].end) {
            self.free[at].end = self.free.remove(at + 1).end;
        }
        if at > 0 && self.free[at - 1].end == self.free[at].start {
            self.free[at - 1].end = self.free.remove(at).end;
        }
    }
}

static REGIONS: Mutex<Vec<Region>> = Mutex::new(Vec::new());

/// Where a buffer's numbers are.
enum Place {
    Heap(Aligned),
    /// `start..start + len` of a region, `len` rounded up to pages: of this buffer alone until it
    /// is dropped.
    Region {
        map: Arc<MmapRaw>,
        start: usize,
    },
}

/// A large buffer out of regions of the process, handed back when dropped: an activation's pages
/// are asked of the system in the first step, not in each (page faults were a sixth of a training
/// step), and they hold little more than was once lent at a time (an allocator kept half as much
/// again, and pages of one size beside pages of another a quarter). Its contents are whatever was
/// there.
pub(crate) struct Buffer {
    place: Place,
    len: usize,
}

impl Buffer {
    pub fn new(len: usize) -> Self {
        let heap = |len| Self { place: Place::Heap(Aligned::zeros(len)), len };
        if len < LARGE {
            return heap(len);
        }
        let pages = len.next_multiple_of(PAGE);
        // Every change leaves the regions whole.
        let mut regions = REGIONS.lock().unwrap_or_else(PoisonError::into_inner);
        let lent = |region: &mut Region| {
            let start = region.take(pages)?;
            Some(Self { place: Place::Region { map: region.map.clone(), start }, len })
        };
        if let Some(buffer) = regions.iter_mut().find_map(lent) {
            return buffer;
        }
        let Some(mut region) = Region::new(pages.max(REGION)) else {
            // The allocator's error is the one that people know.
            return heap(len);
        };
        let buffer = lent(&mut region);
        regions.push(region);
        buffer.unwrap_or_else(|| heap(len))
    }

    /// Zeros.
    pub fn zeros(len: usize) -> Self {
        let mut buffer = Self::new(len);
        buffer.fill(0.0);
        buffer
    }

    /// A copy of `from`.
    pub fn copy(from: &[f32]) -> Self {
        let mut buffer = Self::new(from.len());
        buffer.copy_from_slice(from);
        buffer
    }
}

impl From<Vec<f32>> for Buffer {
    fn from(data: Vec<f32>) -> Self {
        Self::copy(&data)
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        Self::copy(self)
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match &self.place {
            Place::Heap(data) => data,
            // SAFETY: `start..start + len` lies in the mapping, which `map` keeps; it is aligned
            // (whole pages from a page's start), was zeros and has held f32s since, and
            // is of this buffer alone until `drop` gives it back.
            Place::Region { map, start } => unsafe {
                from_raw_parts(map.as_ptr().cast::<f32>().add(*start), self.len)
            },
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        match &mut self.place {
            Place::Heap(data) => data,
            // SAFETY: as in `deref`, and the buffer is borrowed for writing.
            Place::Region { map, start } => unsafe {
                from_raw_parts_mut(map.as_mut_ptr().cast::<f32>().add(*start), self.len)
            },
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Place::Region { map, start } = &self.place else { return };
        let mut regions = REGIONS.lock().unwrap_or_else(PoisonError::into_inner);
        let region = regions.iter_mut().find(|region| Arc::ptr_eq(&region.map, map));
        if let Some(region) = region {
            region.give_back(*start..start + self.len.next_multiple_of(PAGE));
        }
    }
}

/// Numbers that stay as long as a model does: large ones in a mapping of their own, since what an
/// allocator places beside them and keeps when it is freed adds up to a seventh of them.
pub(crate) enum Lasting {
    Heap(Aligned),
    Mapped(MmapMut),
}

impl Lasting {
    /// Pages that are never touched take no memory.
    pub fn zeros(len: usize) -> Self {
        let mapped = (len >= LARGE).then(|| map(len)).flatten();
        mapped.map_or_else(|| Lasting::Heap(Aligned::zeros(len)), Lasting::Mapped)
    }

    pub fn copy(from: &[f32]) -> Self {
        let mut data = Self::zeros(from.len());
        data.copy_from_slice(from);
        data
    }
}

impl From<Vec<f32>> for Lasting {
    fn from(data: Vec<f32>) -> Self {
        Self::copy(&data)
    }
}

impl Clone for Lasting {
    fn clone(&self) -> Self {
        Self::copy(self)
    }
}

impl Deref for Lasting {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match self {
            Lasting::Heap(data) => data,
            Lasting::Mapped(map) => bytemuck::cast_slice(map),
        }
    }
}

impl DerefMut for Lasting {
    fn deref_mut(&mut self) -> &mut [f32] {
        match self {
            Lasting::Heap(data) => data,
            Lasting::Mapped(map) => bytemuck::cast_slice_mut(map),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Buffers that live together share no element, whatever was freed between them, and all is free again at the end.
        #[test]
        fn lent_places_are_disjoint(asked in proptest::collection::vec((1_usize..64, 0_usize..8), 1..200)) {
            let mut region = Region::new(1 << 20).expect("4 MiB");
            let mut lent: Vec<Range<usize>> = Vec::new();
            for (pages, drop) in asked {
                if let Some(start) = region.take(pages * PAGE) {
                    let place = start..start + pages * PAGE;
                    prop_assert!(place.end <= 1 << 20);
                    prop_assert!(lent.iter().all(|other| other.end <= place.start || place.end <= other.start));
                    lent.push(place);
                }
                if drop < lent.len() {
                    region.give_back(lent.swap_remove(drop));
                }
                prop_assert!(region.free.windows(2).all(|pair| pair[0].end < pair[1].start));
                let free: usize = region.free.iter().map(|free| free.len()).sum();
                prop_assert_eq!(free + lent.iter().map(|place| place.len()).sum::<usize>(), 1 << 20);
            }
            lent.into_iter().for_each(|place| region.give_back(place));
            prop_assert_eq!(region.free, vec![0..1 << 20]);
        }
    }

    #[test]
    fn numbers_begin_with_a_cache_line() {
        for len in [1, 7, 100, LARGE - 1, LARGE, LARGE + 1] {
            let (first, second) = (Scratch::new(len), Scratch::new(len));
            let (buffer, lasting) = (Buffer::new(len), Lasting::zeros(len));
            for numbers in [&*first, &*second, &*buffer, &*lasting] {
                assert_eq!((numbers.len(), numbers.as_ptr() as usize % 64), (len, 0));
            }
        }
        assert!(Aligned::zeros(17).iter().all(|x| *x == 0.0) && Scratch::new(0).is_empty());
    }

    #[test]
    fn a_buffer_keeps_what_was_written_while_others_come_and_go() {
        let lens = [1, LARGE - 1, LARGE, LARGE + 1, 3 * LARGE + 7, REGION + 1];
        let mut kept: Vec<(f32, Buffer)> = Vec::new();
        for round in 0..8 {
            for (i, &len) in lens[..if round == 0 { 6 } else { 5 }].iter().enumerate() {
                let value = (round * 10 + i) as f32;
                let mut buffer = Buffer::new(len);
                assert_eq!(buffer.len(), len);
                buffer.fill(value);
                kept.push((value, buffer));
            }
            kept.remove(round);
        }
        for (value, buffer) in &kept {
            assert!(buffer.iter().all(|x| x == value));
        }
        let lasting = Lasting::copy(&kept[3].1);
        assert_eq!(lasting.clone()[..], kept[3].1[..]);
        assert!(Lasting::zeros(LARGE + 1).iter().all(|x| *x == 0.0));
        let copy = kept[0].1.clone();
        assert_eq!(copy[..], kept[0].1[..]);
    }
}
