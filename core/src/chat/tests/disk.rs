//! A disk in memory on which checkpoints of a machine are made, and from which another machine begins.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::LAYOUT;
use crate::chat::{Chat, tables};
use crate::store::forest::{Checkpoint, Forest, ForestShape, Opening};
use crate::store::grid::block::BlockRef;
use crate::store::history::reader::Blocks;
use crate::vsr::machine::Machine;

/// Payloads by address.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk(BTreeMap<u64, (BlockRef, Vec<u8>)>);

impl Disk {
    /// Does up to so many steps of the checkpoint that is due or under way. Writes and reads end at once.
    pub(super) fn work(&mut self, forest: &mut Forest, steps: u32) {
        if forest.is_due() {
            forest.begin();
        }
        forest.advance(steps).expect("the grid has room");
        while let Some((reference, payload)) = forest.writer().next_write() {
            let payload = payload.to_vec();
            self.0.insert(reference.address, (reference, payload));
            forest.writer().written(reference.address);
        }
        let wanted: Vec<BlockRef> = forest.wanted().copied().collect();
        for reference in wanted {
            let payload = self.get(&reference).expect("what is referenced was written");
            forest.give(&reference, payload).expect("it is one of ours");
        }
    }

    pub(super) fn complete(&mut self, forest: &mut Forest) {
        while !forest.is_complete() {
            self.work(forest, 100);
        }
    }

    pub(super) fn open(&mut self, shape: ForestShape, checkpoint: Checkpoint) -> Forest {
        let mut opening = Opening::new(shape, checkpoint);
        while let Some(reference) = opening.wanted().first().copied() {
            let payload = self.get(&reference).expect("what is referenced was written");
            opening.give(payload).expect("it is one of ours");
        }
        opening.done().expect("nothing is wanted any more")
    }

    /// Makes a checkpoint of a machine at `op`, and its forest from that.
    pub(super) fn pass_through(&mut self, chat: &mut Chat, op: u64) -> Forest {
        self.complete(chat.forest_mut());
        chat.forest_mut().freeze(op, &[]);
        self.complete(chat.forest_mut());
        let checkpoint = chat.forest().newest().expect("it was made");
        self.open(chat.forest().shape().clone(), checkpoint)
    }

    /// Another machine, which hashes with another seed, from a checkpoint of this one.
    pub(super) fn restarted(&mut self, chat: &mut Chat, op: u64, seed: u64) -> Chat {
        let forest = self.pass_through(chat, op);
        let mut other = Chat::with_seed(chat.limits(), &LAYOUT, seed);
        other.restore(forest).expect("its own checkpoint");
        other
    }
}

impl Blocks for Disk {
    fn get(&mut self, reference: &BlockRef) -> Option<&[u8]> {
        self.0.get(&reference.address).filter(|found| found.0 == *reference).map(|found| &found.1[..])
    }
}

/// The forest's pages are what the tables in memory say, every row and every free slot.
pub(super) fn assert_written(chat: &Chat) {
    let mut fresh = Forest::new(chat.forest.shape().clone());
    tables::put_release(&mut fresh, chat.release);
    let counters = tables::counters(&chat.forest).expect("a row of ours");
    tables::put_hurry(&mut fresh, counters.hurry);
    for id in 0..chat.rooms.len() {
        tables::put_room(&mut fresh, id, &chat.rooms.row(id));
        fresh.cut(id, chat.forest.first(id));
    }
    chat.dedup.write_all(&mut fresh);
    chat.presence.write_all(&mut fresh);
    chat.threads.write_all(&chat.forest, &mut fresh);
    chat.write_retention(&mut fresh);
    assert!(fresh.pages().bytes() == chat.forest.pages().bytes(), "a row was changed and not written");
}
