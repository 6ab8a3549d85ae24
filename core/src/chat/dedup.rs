//! Exactly once between a client and a room: what became of each key that was used.
//!
//! The one law: **a key is remembered or refused, never forgotten and executed again** (H45). When room is needed,
//! the oldest key leaves and the horizon moves up to it: the author's own when they hold their share of the table,
//! else the shard's. Keys before a horizon are refused, unless they are still remembered.
//!
//! "Oldest" is by the time inside the key, then by slot. Authors hold their keys in a list as long as each is newer than
//! the one before, which is the rule and costs nothing, and the others in a leftist heap; a binary heap
//! of authors by their oldest key finds the oldest of all. Both heaps cost O(log n) in the worst case, whatever keys
//! clients invent. Their shapes differ from replica to replica; what they yield does not. Keys, authors and the
//! horizon are also rows of the forest, written as they change ([`super::tables`]); heaps and indexes are made anew.

use alloc::vec::Vec;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::index::{Hash, Index, Slots};
use super::limits::Limits;
use super::names::UserName;
use super::rooms::RoomId;
use super::tables;
use crate::store::forest::Forest;
use crate::types::TenantId;
use crate::wire::chat::Key;
use crate::wire::entry::Digest;

/// A key and the first result that it had, as it lies in memory and in its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Used {
    pub(super) key: [u8; 16],
    /// The first message's salt: a retry through another edge draws another one, and is compared under this.
    pub(super) salt: [u8; 16],
    /// Salted digest of everything that must be equal in a retry.
    pub(super) content: Digest,
    pub(super) chain: Digest,
    pub(super) op: U64,
    pub(super) time: U64,
    pub(super) seq: U64,
    pub(super) index: U32,
    pub(super) room: U32,
    /// Slot of the author, set by the table.
    pub(super) author: U32,
}

/// Bytes of an encoded [`Used`].
pub(super) const USED: usize = 132;
const _: () = assert!(size_of::<Used>() == USED);

impl Used {
    /// Whether its message was erased: what was kept of the content is gone.
    pub(super) fn is_erased(&self) -> bool {
        self.content == Digest::ZERO
    }

    fn unix_ms(&self) -> u64 {
        Key(self.key).unix_ms()
    }
}

/// No slot.
const NONE: u32 = u32::MAX;

/// A used key's place in its author's list (`left` is the next one) or leftist heap, with what decides it: whoever walks a heap of many keys pays for
/// each line of memory that is touched.
#[derive(Clone, Copy)]
struct Links {
    /// The time inside the key, milliseconds.
    unix_ms: u64,
    left: u32,
    right: u32,
    /// Lengths of the right spines of both: so that who walks down one needs not look at the other.
    left_rank: u8,
    right_rank: u8,
}

impl Links {
    fn alone(used: &Used) -> Self {
        Self { unix_ms: used.unix_ms(), left: NONE, right: NONE, left_rank: 0, right_rank: 0 }
    }

    /// Length of its own right spine.
    fn rank(&self) -> u8 {
        self.right_rank + 1
    }
}

/// A user who has keys in the table.
#[derive(Clone, Copy)]
struct Author {
    tenant: TenantId,
    name: UserName,
    /// Keys of theirs before this time are refused, milliseconds.
    horizon: u64,
    keys: u32,
    /// Those that came in the order of their age: the oldest and the newest.
    first: u32,
    last: u32,
    /// Of the others the oldest.
    root: u32,
    /// Place in the heap of authors.
    place: u32,
}

pub(super) struct Dedup {
    used: Vec<Used>,
    links: Vec<Links>,
    index: Index,
    authors: Vec<Author>,
    author_slots: Slots,
    author_index: Index,
    /// A binary heap of authors by their oldest key.
    by_age: Vec<u32>,
    /// Keys of anybody before this time are refused, milliseconds.
    horizon: u64,
    limit: u32,
    share: u32,
    seed: u64,
}

impl Dedup {
    pub(super) fn new(limits: &Limits, seed: u64) -> Self {
        let entries = limits.keys as usize;
        Self {
            used: Vec::with_capacity(entries),
            links: Vec::with_capacity(entries),
            index: Index::new(limits.keys),
            authors: Vec::with_capacity(entries),
            author_slots: Slots::new(limits.keys),
            author_index: Index::new(limits.keys),
            by_age: Vec::with_capacity(entries),
            horizon: 0,
            limit: limits.keys,
            share: limits.keys_per_author(),
            seed,
        }
    }

    pub(super) fn len(&self) -> u32 {
        self.used.len() as u32
    }

    /// Keys of anybody before this time are refused, milliseconds.
    pub(super) fn horizon(&self) -> u64 {
        self.horizon
    }

    /// Keys of this author before this time are refused, milliseconds.
    pub(super) fn author_horizon(&self, tenant: TenantId, name: &str) -> u64 {
        let author = self.author(tenant, name).map_or(0, |author| self.authors[author as usize].horizon);
        author.max(self.horizon)
    }

    /// What became of this key of this author in this room.
    pub(super) fn find(&self, room: RoomId, tenant: TenantId, name: &str, key: Key) -> Option<&Used> {
        let author = self.author(tenant, name)?;
        self.find_slot(room, author, key).map(|slot| &self.used[slot as usize])
    }

    /// Remembers a key that is not in the table; older ones leave when there is no room.
    pub(super) fn insert(&mut self, forest: &mut Forest, tenant: TenantId, name: &str, mut used: Used) {
        let author = self.author(tenant, name);
        let over_share = author.filter(|author| self.authors[*author as usize].keys >= self.share);
        let slot = if let Some(author) = over_share {
            let (slot, unix_ms) = self.remove_oldest(author);
            self.authors[author as usize].horizon = self.authors[author as usize].horizon.max(unix_ms + 1);
            self.write_author(forest, author);
            slot
        } else if self.len() == self.limit {
            let author = self.by_age[0];
            let (slot, unix_ms) = self.remove_oldest(author);
            self.horizon = self.horizon.max(unix_ms + 1);
            if self.authors[author as usize].keys == 0 {
                self.forget(author);
                tables::clear(forest, tables::AUTHORS, author);
            }
            tables::put_horizon(forest, self.horizon);
            slot
        } else {
            self.used.push(used);
            self.links.push(Links::alone(&used));
            self.len() - 1
        };
        // Looked up again: the author may just have been forgotten.
        let author = self.author(tenant, name).unwrap_or_else(|| {
            let author = self.author_slots.take();
            let name = UserName::new(name).expect("the caller checked the name");
            self.put_author(author, tenant, name, 0);
            self.write_author(forest, author);
            author
        });
        used.author = author.into();
        self.used[slot as usize] = used;
        tables::put_used(forest, slot, &used);
        self.links[slot as usize] = Links::alone(&used);
        self.attach(slot);
    }

    /// Its message was erased: salt and digest go, since together they say whether a guess of the content is right.
    pub(super) fn erase(
        &mut self,
        forest: &mut Forest,
        (room, seq): (RoomId, u64),
        (tenant, name): (TenantId, &str),
        key: Key,
    ) {
        let author = self.author(tenant, name);
        let Some(slot) = author.and_then(|author| self.find_slot(room, author, key)) else { return };
        let used = &mut self.used[slot as usize];
        if used.seq.get() == seq {
            (used.salt, used.content) = ([0; 16], Digest::ZERO);
            tables::put_used(forest, slot, used);
        }
    }

    /// Authors with their slots, in order of these.
    fn authors(&self) -> impl Iterator<Item = (u32, &Author)> {
        self.author_slots.iter().map(|slot| (slot, &self.authors[slot as usize]))
    }

    /// From a checkpoint, before any author or key.
    pub(super) fn restore_horizon(&mut self, horizon: u64) {
        self.horizon = horizon;
    }

    /// From a checkpoint, before their keys. False: there can be no such author.
    pub(super) fn restore_author(&mut self, slot: u32, tenant: TenantId, name: &str, horizon: u64) -> bool {
        let Some(user) = UserName::new(name) else { return false };
        if self.author(tenant, name).is_some() || !self.author_slots.take_at(slot) {
            return false;
        }
        self.put_author(slot, tenant, user, horizon);
        true
    }

    /// From a checkpoint, in order of slots, and then [`Self::finish_restore`]. False: there can be no such key.
    pub(super) fn restore_used(&mut self, used: Used) -> bool {
        let (room, author) = (used.room.get(), used.author.get());
        let possible = self.len() < self.limit
            && self.author_slots.is_taken(author)
            && self.authors[author as usize].keys < self.share
            && self.find_slot(room, author, Key(used.key)).is_none();
        if possible {
            self.used.push(used);
            self.links.push(Links::alone(&used));
            self.index.insert(self.hash(room, author, &used.key), self.len() - 1);
            self.authors[author as usize].keys += 1;
        }
        possible
    }

    /// Makes the lists, of all keys at once.
    /// False: some author has no key, and would never leave.
    pub(super) fn finish_restore(&mut self) -> bool {
        let slots = (0..).zip(&self.used);
        let mut ages: Vec<(u32, u64, u32)> =
            slots.map(|(slot, used)| (used.author.get(), used.unix_ms(), slot)).collect();
        ages.sort_unstable();
        for of_author in ages.chunk_by(|a, b| a.0 == b.0) {
            let (author, _, first) = of_author[0];
            for pair in of_author.windows(2) {
                self.links[pair[0].2 as usize].left = pair[1].2;
            }
            let entry = &mut self.authors[author as usize];
            (entry.first, entry.last) = (first, of_author.last().map_or(first, |newest| newest.2));
            self.enter_ages(author);
        }
        self.authors().all(|(_, author)| author.keys > 0)
    }

    fn author(&self, tenant: TenantId, name: &str) -> Option<u32> {
        self.author_index.find(self.author_hash(tenant, name.as_bytes()), |slot| {
            let author = &self.authors[slot as usize];
            author.tenant == tenant && author.name.as_bytes() == name.as_bytes()
        })
    }

    fn find_slot(&self, room: RoomId, author: u32, key: Key) -> Option<u32> {
        self.index.find(self.hash(room, author, &key.0), |slot| {
            let used = &self.used[slot as usize];
            used.room.get() == room && used.author.get() == author && used.key == key.0
        })
    }

    fn put_author(&mut self, slot: u32, tenant: TenantId, name: UserName, horizon: u64) {
        self.author_index.insert(self.author_hash(tenant, name.as_bytes()), slot);
        let (first, last, root) = (NONE, NONE, NONE);
        let author = Author { tenant, name, horizon, keys: 0, first, last, root, place: NONE };
        // A checkpoint may leave out free slots below this one.
        while self.authors.len() <= slot as usize {
            self.authors.push(author);
        }
        self.authors[slot as usize] = author;
    }

    fn write_author(&self, forest: &mut Forest, slot: u32) {
        let Author { tenant, horizon, ref name, .. } = self.authors[slot as usize];
        tables::put_author(forest, slot, tenant, horizon, name);
    }

    /// Puts a key that is in its slot into the index and into its author's list, or heap if it is not the newest there.
    fn attach(&mut self, slot: u32) {
        let used = self.used[slot as usize];
        let author = used.author.get();
        self.index.insert(self.hash(used.room.get(), author, &used.key), slot);
        self.authors[author as usize].keys += 1;
        let Author { last, root, .. } = self.authors[author as usize];
        if last == NONE {
            (self.authors[author as usize].first, self.authors[author as usize].last) = (slot, slot);
        } else if self.is_older(last, slot) {
            self.links[last as usize].left = slot;
            self.authors[author as usize].last = slot;
        } else {
            self.authors[author as usize].root = self.merge(root, slot).0;
        }
        self.enter_ages(author);
    }

    /// Moves an author to their place among the others, also one who had none.
    fn enter_ages(&mut self, author: u32) {
        if self.authors[author as usize].place == NONE {
            self.authors[author as usize].place = self.by_age.len() as u32;
            self.by_age.push(author);
        }
        self.settle(author);
    }

    /// Removes the oldest key of an author. Returns its slot and time.
    fn remove_oldest(&mut self, author: u32) -> (u32, u64) {
        let slot = self.oldest(author);
        let (used, links) = (self.used[slot as usize], self.links[slot as usize]);
        self.index.remove(self.hash(used.room.get(), author, &used.key), slot);
        if slot == self.authors[author as usize].first {
            let entry = &mut self.authors[author as usize];
            entry.first = links.left;
            entry.last = if links.left == NONE { NONE } else { entry.last };
        } else {
            self.authors[author as usize].root = self.merge(links.left, links.right).0;
        }
        let entry = &mut self.authors[author as usize];
        entry.keys -= 1;
        if entry.keys > 0 {
            self.settle(author);
        } else {
            self.leave_ages(author);
        }
        (slot, links.unix_ms)
    }

    /// Removes an author without keys. What they may not use again, nobody may: their horizon is handed to the
    /// shard, which as a rule is there already, because their newest key was the oldest of all.
    fn forget(&mut self, author: u32) {
        let Author { tenant, name, horizon, .. } = self.authors[author as usize];
        self.author_index.remove(self.author_hash(tenant, name.as_bytes()), author);
        self.author_slots.release(author);
        self.horizon = self.horizon.max(horizon);
    }

    /// Whether the key in slot `a` leaves before the one in slot `b`.
    fn is_older(&self, a: u32, b: u32) -> bool {
        (self.links[a as usize].unix_ms, a) < (self.links[b as usize].unix_ms, b)
    }

    /// Joins two leftist heaps: along their right spines, which are logarithmic. The root, and the length of its spine.
    fn merge(&mut self, a: u32, b: u32) -> (u32, u8) {
        if a == NONE || b == NONE {
            let root = a.min(b);
            return (root, self.links.get(root as usize).map_or(0, Links::rank));
        }
        let (older, newer) = if self.is_older(a, b) { (a, b) } else { (b, a) };
        let Links { unix_ms, left, right, left_rank, .. } = self.links[older as usize];
        let (right, right_rank) = self.merge(right, newer);
        let links = if left_rank < right_rank {
            Links { unix_ms, left: right, right: left, left_rank: right_rank, right_rank: left_rank }
        } else {
            Links { unix_ms, left, right, left_rank, right_rank }
        };
        self.links[older as usize] = links;
        (older, links.rank())
    }

    /// Moves an author to their place in the heap of authors after their oldest key changed.
    fn settle(&mut self, author: u32) {
        let mut at = self.authors[author as usize].place as usize;
        while at > 0 && self.is_older_author(author, self.by_age[(at - 1) / 2]) {
            self.set_place(at, self.by_age[(at - 1) / 2]);
            at = (at - 1) / 2;
        }
        loop {
            let children = [2 * at + 1, 2 * at + 2].into_iter().filter(|child| *child < self.by_age.len());
            let oldest = children.reduce(|left, right| {
                if self.is_older_author(self.by_age[right], self.by_age[left]) { right } else { left }
            });
            let Some(child) = oldest.filter(|child| self.is_older_author(self.by_age[*child], author)) else {
                break;
            };
            self.set_place(at, self.by_age[child]);
            at = child;
        }
        self.set_place(at, author);
    }

    fn leave_ages(&mut self, author: u32) {
        let at = self.authors[author as usize].place as usize;
        self.authors[author as usize].place = NONE;
        self.by_age.swap_remove(at);
        if let Some(moved) = self.by_age.get(at).copied() {
            self.authors[moved as usize].place = at as u32;
            self.settle(moved);
        }
    }

    fn set_place(&mut self, at: usize, author: u32) {
        self.by_age[at] = author;
        self.authors[author as usize].place = at as u32;
    }

    /// The oldest key of an author who has one.
    fn oldest(&self, author: u32) -> u32 {
        let Author { first, root, .. } = self.authors[author as usize];
        if first == NONE || root != NONE && self.is_older(root, first) { root } else { first }
    }

    fn is_older_author(&self, a: u32, b: u32) -> bool {
        self.is_older(self.oldest(a), self.oldest(b))
    }

    fn hash(&self, room: RoomId, author: u32, key: &[u8; 16]) -> u32 {
        Hash::new(self.seed).number(u64::from(room) << 32 | u64::from(author)).bytes(key).finish()
    }

    fn author_hash(&self, tenant: TenantId, name: &[u8]) -> u32 {
        Hash::new(self.seed).number(u64::from(tenant.0)).bytes(name).finish()
    }
}

#[cfg(test)]
impl Dedup {
    /// Writes all rows, for comparisons with those that were written one by one.
    pub(super) fn write_all(&self, forest: &mut Forest) {
        tables::put_horizon(forest, self.horizon);
        self.authors().for_each(|(slot, _)| self.write_author(forest, slot));
        (0..).zip(&self.used).for_each(|(slot, used)| tables::put_used(forest, slot, used));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::shape::forest_shape;
    use crate::chat::tests::LAYOUT;
    use proptest::prelude::*;

    use zerocopy::FromZeros;

    const NAMES: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];

    fn used(unix_ms: u64, number: u64) -> Used {
        let mut random = [0; 10];
        random[..8].copy_from_slice(&number.to_le_bytes());
        // No message has op 0: a row of zeroes is no row.
        Used { key: Key::new(unix_ms, random).0, op: U64::new(1), ..Used::new_zeroed() }
    }

    proptest! {
        /// Full heaps of many authors against lists that are searched from end to end.
        #[test]
        fn the_oldest_key_leaves_first(draws in prop::collection::vec((0usize..144, 0u64..300), 1..900)) {
            let limits = Limits { keys: 128, ..Limits::tiny() };
            let mut dedup = Dedup::new(&limits, 0);
            let mut forest = Forest::new(forest_shape(&limits, &LAYOUT));
            // Author, time and number of each key, by slot.
            let mut model: Vec<(usize, u64, u64)> = Vec::new();
            for (number, (author, unix_ms)) in draws.into_iter().enumerate() {
                // Some authors write far more than others.
                let (author, number) = (author.isqrt(), number as u64);
                dedup.insert(&mut forest, TenantId(1), NAMES[author], used(unix_ms, number));
                let key = (author, unix_ms, number);
                let keys = model.iter().filter(|key| key.0 == author).count();
                let over_share = keys == limits.keys_per_author() as usize;
                if over_share || model.len() == 128 {
                    let leaving = model.iter().enumerate().filter(|(_, key)| !over_share || key.0 == author);
                    let (slot, _) = leaving.min_by_key(|(slot, key)| (key.1, *slot)).unwrap();
                    model[slot] = key;
                } else {
                    model.push(key);
                }
            }
            prop_assert_eq!(dedup.len() as usize, model.len());
            for (slot, (author, unix_ms, number)) in model.into_iter().enumerate() {
                let key = used(unix_ms, number);
                prop_assert_eq!(dedup.used[slot].key, key.key);
                let row = tables::used(&forest, slot as u32).unwrap();
                prop_assert_eq!(row, Some(dedup.used[slot]));
                let found = dedup.find(0, TenantId(1), NAMES[author], Key(key.key));
                prop_assert_eq!(found.map(|found| found.key), Some(key.key));
            }
            let ranks = dedup.links.iter().map(Links::rank).max();
            prop_assert!(ranks < Some(6), "right spines are logarithmic");
            // From a checkpoint the heaps have another shape, and the same keys leave.
            let mut other = Dedup::new(&limits, 7);
            other.restore_horizon(dedup.horizon);
            for (slot, author) in dedup.authors() {
                let name = core::str::from_utf8(author.name.as_bytes()).unwrap();
                prop_assert!(other.restore_author(slot, author.tenant, name, author.horizon));
            }
            prop_assert!(dedup.used.iter().all(|used| other.restore_used(*used)));
            prop_assert!(other.finish_restore());
            for (number, author) in (1_000..1_200).zip((0..NAMES.len()).cycle()) {
                for dedup in [&mut dedup, &mut other] {
                    dedup.insert(&mut forest, TenantId(1), NAMES[author], used(number / 3 % 400, number));
                }
                prop_assert_eq!(&dedup.used, &other.used);
                prop_assert_eq!(dedup.horizon, other.horizon);
            }
        }
    }
}
