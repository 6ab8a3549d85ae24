//! Turns what a process did into what an observer may see: after each turn the replica's position and what it
//! executed, at the end what it holds.
//!
//! The one law: **the system under test never knows that it is observed.** Everything here reads.

use std::collections::BTreeSet;

use tigerchat_core::chat::Chat;
use tigerchat_core::edge::{Edge, loads};
use tigerchat_core::store::forest::Forest;
use tigerchat_core::store::grid::block::{self, BlockRef};
use tigerchat_core::store::history::reader::Blocks;
use tigerchat_core::store::layout::Layout;
use tigerchat_core::store::sealing::Sealing;
use tigerchat_core::store::sector::{Place, Zone};
use tigerchat_core::types::{Address, EdgeId, ReplicaId};
use tigerchat_core::vsr::load::LOADS;
use tigerchat_core::vsr::machine::Machine as _;
use tigerchat_core::vsr::replica::{Replica, Status, View};
use tigerchat_core::wire::chat::MessageEvent;
use tigerchat_core::wire::entry::Digest;

use crate::TENANT;
use crate::disk::Disk;
use crate::history::{FinalReplica, FinalRoom, SeenMessage, What};
use crate::world::{CLUSTER, SHARD};

/// What was last seen of one replica.
#[derive(Debug, Default)]
pub struct Watch {
    last: Option<View>,
    /// The last op whose execution was told.
    executed: u64,
    checkpoint: u64,
    /// By which its machine acts.
    release: Option<u32>,
    /// The most that each queue and table held.
    fullest: [usize; LOADS],
}

/// What was last seen of an edge's process.
#[derive(Debug, Default)]
pub struct EdgeWatch {
    edge: Option<EdgeId>,
    fullest: [usize; loads::LOADS],
}

impl EdgeWatch {
    /// Compares with the last look. An edge that starts again has another id, and begins empty.
    pub fn look(&mut self, id: EdgeId, edge: &Edge, mut tell: impl FnMut(What)) {
        if self.edge != Some(id) {
            *self = Self { edge: Some(id), fullest: [0; loads::LOADS] };
        }
        for (load, fullest) in edge.loads().into_iter().zip(&mut self.fullest) {
            if load.holds > *fullest {
                *fullest = load.holds;
                tell(What::Fuller { at: Address::Edge(id), load });
            }
        }
    }
}

impl Watch {
    /// The process ended: what it executes next begins after its checkpoint.
    pub fn restarted(&mut self) {
        self.last = None;
        self.executed = 0;
        self.release = None;
        self.fullest = [0; LOADS];
    }

    /// Its status, and whether it leads its view.
    #[must_use]
    pub fn stance(&self) -> Option<(Status, bool)> {
        self.last.map(|last| (last.status, last.is_primary))
    }

    /// Compares with the last look. Also collects the views in which a replica was normal.
    pub fn look(
        &mut self,
        id: ReplicaId,
        replica: &Replica<Chat>,
        sound_disk: bool,
        views: &mut BTreeSet<u64>,
        mut tell: impl FnMut(What),
    ) {
        for (load, fullest) in replica.loads().into_iter().zip(&mut self.fullest) {
            if load.holds > *fullest {
                *fullest = load.holds;
                let at = Address::Replica { shard: SHARD, replica: id };
                tell(What::Fuller { at, load });
            }
        }
        let now = replica.observe();
        if self.last == Some(now) || now.status == Status::Recovering {
            return;
        }
        if now.status == Status::Normal {
            views.insert(now.view);
        }
        if self.last.is_none() && now.state_lost && !now.transferring {
            tell(What::StateLost { replica: id, sound_disk });
        }
        if self.last.is_none_or(|last| last.members != now.members) {
            tell(What::Members { replica: id, members: replica.members().clone() });
        }
        let moved = self.last.is_none_or(|last| position(&last) != position(&now));
        if moved {
            let View { incarnation, view, log_view, op, commit, checkpoint, .. } = now;
            tell(What::Position { replica: id, incarnation, view, log_view, op, commit, checkpoint });
        }
        let from = if self.last.is_none() { now.checkpoint } else { self.executed };
        for op in from + 1..=now.commit {
            // What came with a checkpoint was executed elsewhere.
            let Some((header, entry)) = replica.committed(op) else { continue };
            let (entry_view, config, release) =
                (header.view.get(), header.config.get(), header.release.get());
            tell(What::Executed {
                replica: id,
                op,
                entry,
                parent: header.parent,
                entry_view,
                config,
                release,
                time: header.timestamp.get(),
            });
        }
        // Who lost its state acts by nothing.
        let release = Some(replica.machine().release()).filter(|_| !now.state_lost);
        if let Some(release) = release.filter(|release| self.release != Some(*release)) {
            self.release = Some(release);
            tell(What::Release { replica: id, op: now.commit, release });
        }
        self.executed = now.commit;
        if now.checkpoint > self.checkpoint {
            self.checkpoint = now.checkpoint;
            tell(What::Checkpointed { replica: id, op: now.checkpoint, state: now.checkpoint_digest });
        }
        self.last = Some(now);
    }
}

fn position(view: &View) -> (u64, u64, u64, u64, u64, u64) {
    (view.incarnation, view.view, view.log_view, view.op, view.commit, view.checkpoint)
}

/// Blocks as they lie on disks: of several, the first that has it whole.
#[derive(Debug)]
pub struct DiskBlocks<'a> {
    layout: Layout,
    disks: Vec<(&'a Disk, Option<&'a dyn Sealing>)>,
    payload: Vec<u8>,
}

impl<'a> DiskBlocks<'a> {
    #[must_use]
    pub fn new(layout: Layout, disks: Vec<(&'a Disk, Option<&'a dyn Sealing>)>) -> Self {
        Self { layout, disks, payload: Vec::new() }
    }
}

impl Blocks for DiskBlocks<'_> {
    fn get(&mut self, reference: &BlockRef) -> Option<&[u8]> {
        let grid = self.layout.grid();
        let mut image = vec![0; grid.block_bytes()];
        let whole = self.disks.iter().any(|(disk, sealing)| {
            let place = Place { cluster: CLUSTER, shard: SHARD, zone: Zone::Grid, sealing: *sealing };
            disk.peek(grid.offset_of(reference.address), &mut image);
            block::open(place, &grid, reference, &image, &mut self.payload).is_ok()
        });
        whole.then_some(&self.payload)
    }
}

/// Those of a replica's forest that are on their way to the disk come first.
struct AllBlocks<'a, 'b> {
    forest: &'a Forest,
    disks: &'a mut DiskBlocks<'b>,
}

impl Blocks for AllBlocks<'_, '_> {
    fn get(&mut self, reference: &BlockRef) -> Option<&[u8]> {
        self.forest.under_way(reference).or_else(|| self.disks.get(reference))
    }
}

/// What a replica holds at the end.
///
/// # Panics
/// When a block of its history is on no disk: the atlas would not have allowed that.
#[must_use]
pub fn final_of(id: ReplicaId, replica: &Replica<Chat>, disks: &mut DiskBlocks<'_>) -> FinalReplica {
    let chat = replica.machine();
    let mut encoded = Vec::new();
    chat.encode(&mut encoded);
    let mut blocks = AllBlocks { forest: chat.forest(), disks };
    let rooms = chat.rooms().map(|room| {
        let mut messages = Vec::new();
        let read = chat.messages(TENANT, room.name, &mut blocks, &mut |message| messages.push(seen(message)));
        assert_eq!(read, Ok(()), "history of {} on replica {} is whole somewhere", room.name, id.0);
        FinalRoom {
            room: room.name.to_owned(),
            epoch: room.epoch,
            first: room.first,
            head: room.head,
            messages,
            present: chat.present(TENANT, room.name).into_iter().map(str::to_owned).collect(),
        }
    });
    FinalReplica {
        replica: id,
        commit: replica.observe().commit,
        rooms: rooms.collect(),
        state: Digest::of(&encoded),
    }
}

/// A message as a client saw it.
#[must_use]
pub fn seen(message: MessageEvent<'_>) -> SeenMessage {
    SeenMessage {
        room: message.room.to_owned(),
        epoch: message.epoch,
        seq: message.seq,
        time: message.time,
        author: message.author.to_owned(),
        key: message.key,
        kind: message.kind,
        parent: message.parent,
        thread_seq: message.thread.seq,
        content_type: message.content_type.to_owned(),
        salt: message.salt,
        chain: message.chain,
        erased: message.erased,
        body: message.body.to_vec(),
    }
}
