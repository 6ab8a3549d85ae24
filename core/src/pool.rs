//! Pooled buffers: [`Draft`] (unique, writable) is sealed into [`Message`] (shared, immutable); the last reader
//! returns it to its pool in O(1), from whichever thread that reader lives on.
//!
//! The one law: **nothing allocates after the pool was made, and an empty pool is an answer (`None`), never
//! growth.** After quiescence every class is full again: a leak check for free. Only a pool of [`Pool::lazy`] makes its
//! buffers as they are needed, still never more of them.

use alloc::sync::{Arc, Weak};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::{Deref, Range};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crossbeam_queue::ArrayQueue;

/// Buffers of a class that are used again first.
const WARM: usize = 4;

/// Buffers of at least this size begin at an address that is a multiple of it, as direct IO demands.
pub const ALIGNMENT: usize = 4096;

/// One size class: `count` buffers of `size` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    pub size: usize,
    pub count: usize,
}

/// A bounded set of buffers in a few size classes. Cloning shares it.
#[derive(Clone)]
pub struct Pool {
    shelves: Arc<[Arc<Shelf>]>,
}

struct Shelf {
    class: Class,
    /// Those that came home last, as many as there is room for: a cache may still hold them. Used before the others,
    /// which would otherwise each have their turn, and each come from memory.
    warm: ArrayQueue<Arc<Buffer>>,
    free: ArrayQueue<Arc<Buffer>>,
    /// Those that were never used, after all others: as long as nobody has written to them, they take no memory.
    fresh: ArrayQueue<Arc<Buffer>>,
    /// Buffers of the class that a lazy pool has not made yet.
    unmade: AtomicUsize,
}

struct Buffer {
    /// Weak, so that a pool which is dropped while messages live does not live for ever.
    home: Weak<Shelf>,
    /// Messages that share this buffer. Kept apart from the `Arc`'s own count because exactly one reader must
    /// see itself as the last, and must then still hold the allocation to give it back.
    readers: AtomicU32,
    start: usize,
    capacity: usize,
    bytes: Vec<u8>,
}

impl Pool {
    /// Makes all buffers now. Classes are tried in ascending order of size.
    #[must_use]
    pub fn new(classes: &[Class]) -> Self {
        let mut classes = classes.to_vec();
        classes.sort_by_key(|class| class.size);
        Self { shelves: classes.into_iter().map(Shelf::stocked).collect() }
    }

    /// The same, but each buffer is made when it is first needed: for simulated processes, of which there are many
    /// and which use few of theirs.
    #[must_use]
    pub fn lazy(classes: &[Class]) -> Self {
        let mut classes = classes.to_vec();
        classes.sort_by_key(|class| class.size);
        Self { shelves: classes.into_iter().map(|class| Arc::new(Shelf::empty(class, 0))).collect() }
    }

    /// A writable buffer that holds at least `size` bytes, from the smallest class that fits; `None` when that
    /// class is used up. Never borrows from a larger class: small frames must not eat the room of batches.
    #[must_use]
    pub fn draft(&self, size: usize) -> Option<Draft> {
        let shelf = self.shelves.iter().find(|shelf| shelf.class.size >= size)?;
        // The last reader pushes a buffer back a moment before other readers have let go of their `Arc`; such a
        // buffer is put back and another one tried.
        for _ in 0..shelf.class.count.min(64) {
            let mut buffer = shelf.take()?;
            if Arc::get_mut(&mut buffer).is_some() {
                return Some(Draft { buffer: Some(buffer), len: 0 });
            }
            let _ = shelf.free.push(buffer);
        }
        None
    }

    /// Free buffers and all buffers of each class.
    pub fn levels(&self) -> impl Iterator<Item = (Class, usize)> + '_ {
        self.shelves.iter().map(|shelf| (shelf.class, shelf.level()))
    }

    /// How many buffers that could hold `size` bytes (of the class that would serve it) are free.
    #[must_use]
    pub fn free(&self, size: usize) -> usize {
        self.shelves.iter().find(|shelf| shelf.class.size >= size).map_or(0, |shelf| shelf.level())
    }

    /// Whether every buffer is home.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.shelves.iter().all(|shelf| shelf.level() == shelf.class.count)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.levels().map(|(class, free)| (class.size, free, class.count))).finish()
    }
}

impl Shelf {
    fn empty(class: Class, fresh: usize) -> Self {
        Self {
            class,
            warm: ArrayQueue::new(WARM),
            free: ArrayQueue::new(class.count.max(1)),
            fresh: ArrayQueue::new(fresh.max(1)),
            unmade: AtomicUsize::new(class.count),
        }
    }

    fn stocked(class: Class) -> Arc<Self> {
        let shelf = Arc::new(Self::empty(class, class.count));
        while let Some(buffer) = shelf.make() {
            assert!(shelf.fresh.push(buffer).is_ok(), "a shelf holds its own stock");
        }
        shelf
    }

    fn take(self: &Arc<Self>) -> Option<Arc<Buffer>> {
        let used = self.warm.pop().or_else(|| self.free.pop());
        used.or_else(|| self.fresh.pop()).or_else(|| self.make())
    }

    /// One of the buffers that were not made yet.
    fn make(self: &Arc<Self>) -> Option<Arc<Buffer>> {
        let one_less = |unmade: usize| unmade.checked_sub(1);
        self.unmade.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).ok()?;
        let Class { size, .. } = self.class;
        let slack = if size >= ALIGNMENT { ALIGNMENT } else { 0 };
        let bytes = vec![0; size + slack];
        let start = if slack == 0 { 0 } else { bytes.as_ptr().align_offset(ALIGNMENT) };
        let home = Arc::downgrade(self);
        Some(Arc::new(Buffer { home, readers: AtomicU32::new(0), start, capacity: size, bytes }))
    }

    /// Buffers that nobody holds.
    fn level(&self) -> usize {
        self.warm.len() + self.free.len() + self.fresh.len() + self.unmade.load(Ordering::Relaxed)
    }
}

impl Buffer {
    fn give_back(self: Arc<Self>) {
        if let Some(home) = self.home.upgrade() {
            let home_at_last = home.warm.push(self).or_else(|buffer| home.free.push(buffer));
            assert!(home_at_last.is_ok(), "a buffer came home twice");
        }
    }
}

/// No room for what should be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A buffer with one owner. Its content is what was written since it was taken; the rest of the buffer holds
/// old bytes that nobody reads.
pub struct Draft {
    buffer: Option<Arc<Buffer>>,
    len: usize,
}

impl Draft {
    fn buffer(&self) -> &Arc<Buffer> {
        self.buffer.as_ref().expect("present until sealed")
    }

    fn room(&mut self) -> &mut [u8] {
        let buffer = self.buffer.as_mut().expect("present until sealed");
        let buffer = Arc::get_mut(buffer).expect("a draft has one owner");
        &mut buffer.bytes[buffer.start..buffer.start + buffer.capacity]
    }

    #[must_use]
    pub fn capacity(&self) -> usize {
        self.buffer().capacity
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[must_use]
    pub fn remaining(&self) -> usize {
        self.capacity() - self.len
    }

    /// Appends, or leaves the draft untouched when there is no room.
    pub fn extend(&mut self, bytes: &[u8]) -> Result<(), Full> {
        if bytes.len() > self.remaining() {
            return Err(Full);
        }
        let at = self.len;
        self.room()[at..at + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        Ok(())
    }

    /// Makes the content `len` bytes long: shorter keeps the beginning, longer appends zeroes.
    ///
    /// # Panics
    /// When `len` exceeds the capacity: our own bug.
    pub fn resize(&mut self, len: usize) {
        assert!(len <= self.capacity(), "a draft of {} bytes can't hold {len}", self.capacity());
        let old = self.len;
        if len > old {
            self.room()[old..len].fill(0);
        }
        self.len = len;
    }

    /// Makes the content `len` bytes long without zeroing it: for who overwrites all of it, or drops the draft.
    ///
    /// # Panics
    /// When `len` exceeds the capacity: our own bug.
    pub fn resize_to_overwrite(&mut self, len: usize) {
        assert!(len <= self.capacity(), "a draft of {} bytes can't hold {len}", self.capacity());
        self.len = len;
    }

    /// The content, writable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        &mut self.room()[..len]
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let buffer = self.buffer();
        &buffer.bytes[buffer.start..buffer.start + self.len]
    }

    /// From now on shared and immutable.
    #[must_use]
    pub fn seal(mut self) -> Message {
        let buffer = self.buffer.take().expect("present until sealed");
        buffer.readers.store(1, Ordering::Relaxed);
        let range = 0..u32::try_from(self.len).expect("buffers are below 4 GiB");
        Message { buffer: Some(buffer), range }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            buffer.give_back();
        }
    }
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Draft({} of {})", self.len, self.capacity())
    }
}

/// A shared, immutable buffer, or a part of one.
pub struct Message {
    buffer: Option<Arc<Buffer>>,
    range: Range<u32>,
}

impl Message {
    /// A part of this message that shares its buffer.
    ///
    /// # Panics
    /// When the range reaches beyond the message: our own bug.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len());
        let mut part = self.clone();
        let (start, end) = (u32::try_from(range.start), u32::try_from(range.end));
        let base = self.range.start;
        part.range = base + start.expect("below 4 GiB")..base + end.expect("below 4 GiB");
        part
    }
}

impl Clone for Message {
    fn clone(&self) -> Self {
        let buffer = self.buffer.clone();
        buffer.as_ref().expect("present until dropped").readers.fetch_add(1, Ordering::Relaxed);
        Self { buffer, range: self.range.clone() }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take()
            && buffer.readers.fetch_sub(1, Ordering::AcqRel) == 1
        {
            buffer.give_back();
        }
    }
}

impl Deref for Message {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let buffer = self.buffer.as_ref().expect("present until dropped");
        &buffer.bytes[buffer.start + self.range.start as usize..buffer.start + self.range.end as usize]
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({})", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_class_is_an_answer_and_the_last_reader_refills_it() {
        let pool = Pool::new(&[Class { size: 64, count: 1 }, Class { size: 8192, count: 1 }]);
        let mut draft = pool.draft(10).unwrap();
        assert!(pool.draft(64).is_none(), "the small class is used up and the large one is not touched");
        draft.extend(b"hello").unwrap();
        assert_eq!(draft.extend(&[0; 60]), Err(Full));
        let message = draft.seal();
        let part = message.slice(1..3);
        drop(message);
        assert_eq!(&*part, b"el");
        assert!(!pool.is_full());
        drop(part);
        assert!(pool.is_full());
    }

    #[test]
    fn a_lazy_pool_has_as_many_buffers_as_another_and_makes_those_that_are_used() {
        let pool = Pool::lazy(&[Class { size: 64, count: 2 }]);
        assert!(pool.is_full() && pool.free(64) == 2);
        drop(pool.draft(64).unwrap());
        let (one, two) = (pool.draft(64).unwrap(), pool.draft(64).unwrap());
        assert!(pool.draft(64).is_none() && pool.free(64) == 0);
        drop(one);
        assert_eq!(pool.free(64), 1);
        drop(two);
        assert!(pool.is_full());
    }

    #[test]
    fn who_needs_few_buffers_at_a_time_gets_the_same_few_again() {
        let pool = Pool::new(&[Class { size: 64, count: 8 * WARM }]);
        let all: Vec<Draft> = (0..8 * WARM).map(|_| pool.draft(64).unwrap()).collect();
        drop(all);
        let at = |draft: Draft| draft.bytes().as_ptr() as usize;
        let used: alloc::collections::BTreeSet<usize> =
            (0..100).map(|_| at(pool.draft(64).unwrap())).collect();
        assert!(used.len() <= WARM, "{} buffers of {}", used.len(), 8 * WARM);
        assert!(pool.is_full());
    }

    #[test]
    fn no_more_buffers_are_touched_than_were_needed_at_a_time() {
        let pool = Pool::new(&[Class { size: 64, count: 8 * WARM }]);
        let at = |draft: &Draft| draft.bytes().as_ptr() as usize;
        let mut touched = alloc::collections::BTreeSet::new();
        for _ in 0..100 {
            let some: Vec<Draft> = (0..2 * WARM).map(|_| pool.draft(64).unwrap()).collect();
            touched.extend(some.iter().map(at));
        }
        assert_eq!(touched.len(), 2 * WARM);
    }

    #[test]
    fn large_buffers_are_aligned_for_direct_io() {
        let pool = Pool::new(&[Class { size: 8192, count: 3 }]);
        for _ in 0..3 {
            let mut draft = pool.draft(8192).unwrap();
            draft.resize(8192);
            assert_eq!(draft.bytes().as_ptr().align_offset(ALIGNMENT), 0);
        }
    }

    #[test]
    fn a_message_may_outlive_its_pool() {
        let pool = Pool::new(&[Class { size: 64, count: 1 }]);
        let mut draft = pool.draft(1).unwrap();
        draft.extend(b"x").unwrap();
        let message = draft.seal();
        drop(pool);
        assert_eq!(&*message, b"x");
    }
}
