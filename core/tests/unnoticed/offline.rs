//! A stopped replica's file, read by the code that `inspect` uses.

use std::time::Duration;

use crate::cluster::{Cluster, say};
use tigerchat_core::io::DiskOp;
use tigerchat_core::store::grid::block::{BlockRef, Fault};
use tigerchat_core::store::superblock::Superblock;
use tigerchat_core::types::TenantId;
use tigerchat_core::vsr::offline::{FileBlocks, Stopped, verify};
use tigerchat_core::wire::entry::RequestKind;

fn ready(messages: u64) -> Cluster {
    let mut cluster = Cluster::with_slots(3, 16);
    cluster.pass(Duration::from_millis(50));
    cluster.register();
    cluster.open_room();
    for number in 1..=messages {
        cluster.publish(number).expect("acknowledged");
    }
    cluster.pass(Duration::from_millis(600));
    cluster
}

/// Reads from a file, or from what is left of it.
fn read_from(disk: &[u8]) -> impl FnMut(u64, &mut [u8]) -> bool + '_ {
    |offset, into| {
        let from = usize::try_from(offset).unwrap();
        let Some(bytes) = disk.get(from..from + into.len()) else { return false };
        into.copy_from_slice(bytes);
        true
    }
}

fn bodies(stopped: &Stopped, disk: &[u8]) -> Vec<String> {
    let mut read = read_from(disk);
    let mut blocks = FileBlocks::new(&stopped.superblock.config, &mut read);
    let mut bodies = Vec::new();
    let mut sink = |message: tigerchat_core::wire::chat::MessageEvent<'_>| {
        bodies.push(String::from_utf8(message.body.to_vec()).unwrap());
    };
    let shown = stopped.chat().messages(TenantId(1), "general", &mut blocks, &mut sink);
    assert!(shown.is_ok(), "{shown:?}");
    bodies
}

#[test]
fn a_file_shows_all_messages_and_every_entry_of_its_log() {
    let cluster = ready(120);
    let all: Vec<String> = (1..=120_u32).map(|number| number.to_string()).collect();
    for at in 0..3 {
        let disk = &cluster.outside[at].disk;
        let mut read = read_from(disk);
        let stopped = Stopped::read(&mut read).expect("a whole file");
        assert_eq!((stopped.executed(), stopped.head_uncertain), (cluster.view(at).commit, false));
        assert!(stopped.known_commit >= cluster.view(at).checkpoint);
        assert_eq!(bodies(&stopped, disk), all, "replica {at}");
        let mut entries = 0;
        for (header, _, whole) in stopped.log() {
            assert!(whole, "{header:?}");
            let entry = stopped.entry(&header, None, &mut read).expect("it is there");
            assert_eq!(entry.len(), header.size.get() as usize);
            entries += 1;
        }
        assert_eq!(entries, cluster.view(at).op - cluster.view(at).checkpoint);
        let verified = verify(&mut read).expect("a whole file");
        assert!(verified.is_complete && verified.damaged.is_empty());
        assert_eq!(verified.whole, stopped.references().count() as u64);
    }
}

#[test]
fn what_can_not_be_read_is_not_there_and_everything_else_is() {
    let cluster = ready(120);
    let disk = &cluster.outside[0].disk;
    let stopped = Stopped::read(&mut read_from(disk)).expect("a whole file");
    let (header, ..) = stopped.log().last().expect("a log");
    assert_eq!(stopped.entry(&header, None, &mut |_, _| false), None);
    let mut other = header;
    other.op = (header.op.get() + 16).into();
    assert_eq!(stopped.entry(&other, None, &mut read_from(disk)), None, "its slot has another entry");
    // One block is damaged, and the file ends before another one.
    let config = &stopped.superblock.config;
    let mut blocks: Vec<_> = stopped.references().copied().collect();
    blocks.sort_unstable();
    let offset = |address| usize::try_from(config.layout.grid().offset_of(address)).unwrap();
    let (first, last) = (blocks[0], blocks[blocks.len() - 1]);
    let mut damaged = disk[..offset(last.address)].to_vec();
    damaged[offset(first.address) + 40] ^= 1;
    let mut read = read_from(&damaged);
    let mut found = FileBlocks::new(config, &mut read);
    let whole: Vec<bool> = blocks.iter().map(|block| found.read(block).is_ok()).collect();
    let expected: Vec<bool> = blocks.iter().map(|block| *block != first && *block != last).collect();
    assert_eq!(whole, expected);
    assert_eq!(found.read(&last).err(), Some(Fault::Damaged));
}

/// What a damaged list names is not known; the lists beside it are looked at all the same.
#[test]
fn whatever_is_known_of_a_checkpoint_is_looked_at_though_its_beginning_is_damaged() {
    let cluster = ready(120);
    let whole = &cluster.outside[0].disk;
    let stopped = Stopped::read(&mut read_from(whole)).expect("a whole file");
    let grid = stopped.superblock.config.layout.grid();
    let at = |block: &BlockRef| usize::try_from(grid.offset_of(block.address)).unwrap() + 40;
    let mut disk = whole.clone();
    stopped.references().for_each(|block| disk[at(block)] ^= 1);
    // First the root is all that is known, then what it names, and so on.
    let mut beside = 0;
    for known in 0.. {
        let verified = verify(&mut read_from(&disk)).expect("its superblock is whole");
        if verified.is_complete {
            break;
        }
        assert_eq!(verified.whole, known);
        beside = beside.max(verified.damaged.len());
        disk[at(&verified.damaged[0])] ^= 1;
    }
    assert!(beside > 2, "{beside} beside each other");
}

/// The log has nearly two intervals behind its checkpoint, and the superblock knows that all of it is committed, as that of
/// a restored file does: reading it makes no checkpoint, whose blocks would be nowhere.
#[test]
fn a_file_whose_log_is_longer_than_an_interval_is_read_as_it_is() {
    let mut cluster = Cluster::with_slots(1, 64);
    cluster.pass(Duration::from_millis(50));
    cluster.register();
    cluster.open_room();
    let grid = cluster.config.layout.hot_size();
    let of_a_checkpoint = |op: &DiskOp| match op {
        DiskOp::Write { offset, .. } => *offset >= grid,
        DiskOp::Read { .. } | DiskOp::Sync { .. } => false,
    };
    let without_checkpoints = |cluster: &mut Cluster| {
        while let Some(at) = cluster.outside[0].submitted.iter().position(|op| !of_a_checkpoint(op)) {
            let op = cluster.outside[0].submitted.remove(at);
            let event = cluster.complete(0, op);
            cluster.turn(0, Some(event));
        }
    };
    let mut bodies_said = Vec::new();
    for number in cluster.view(0).op..62 {
        let mut bytes = Vec::new();
        bodies_said.push(format!("{number} {}", "long ".repeat(180)));
        say(cluster.key(number), &bodies_said[bodies_said.len() - 1]).encode(&mut bytes).unwrap();
        cluster.number += 1;
        cluster.post_request(RequestKind::Commands, &bytes);
        let (from, to, frame) = cluster.wire.pop_back().expect("just put there");
        cluster.deliver(from, to, frame);
        without_checkpoints(&mut cluster);
        if cluster.view(0).op == number {
            // It waits for the checkpoint, until that is seen to stand still.
            cluster.only_time(Duration::from_millis(300));
            without_checkpoints(&mut cluster);
        }
        assert_eq!(cluster.view(0).op, number + 1);
    }
    assert_eq!((cluster.view(0).checkpoint, cluster.view(0).commit), (0, 62));
    let mut disk = cluster.outside[0].disk.clone();
    let mut superblock = Superblock::open(&disk).unwrap();
    superblock.commit = 62;
    let zone = superblock.zone();
    disk[..zone.len()].copy_from_slice(&zone);
    let stopped = Stopped::read(&mut read_from(&disk)).expect("a whole file");
    assert_eq!((stopped.executed(), stopped.known_commit), (62, 62));
    assert_eq!(stopped.references().count(), 0, "there is no checkpoint");
    assert_eq!(bodies(&stopped, &disk), bodies_said);
}
