//! Room in the log beside checkpoints (`core/src/vsr/room.rs`): entries wait for the work of checkpoints a little at a time,
//! not all at once at the end; and for no work that stands still, nor for that of fewer than a quorum needs.

use std::time::Duration;

use tigerchat_core::io::DiskOp;
use tigerchat_core::vsr::marks::Mark;
use tigerchat_core::wire::entry::RequestKind;

use crate::cluster::{Cluster, say};

const SLOTS: u32 = 64;
const INTERVAL: u64 = 32;

/// What lies in the grid: blocks of a checkpoint.
fn is_block(cluster: &Cluster, op: &DiskOp) -> bool {
    matches!(op, DiskOp::Write { offset, .. } if *offset >= cluster.config.layout.hot_size())
}

/// Does everything that is to be done at this moment, but for blocks of those replicas.
fn settle_but_blocks(cluster: &mut Cluster, of: &[usize]) {
    loop {
        let mut idle = true;
        for at in 0..cluster.nodes.len() {
            while let Some(nth) = cluster.outside[at]
                .submitted
                .iter()
                .position(|op| !of.contains(&at) || !is_block(cluster, op))
            {
                idle = false;
                let op = cluster.outside[at].submitted.remove(nth);
                let event = cluster.complete(at, op);
                cluster.turn(at, Some(event));
            }
            let sent: Vec<_> = cluster.outside[at].sent.drain(..).collect();
            cluster.wire.extend(sent);
        }
        while let Some((from, to, frame)) = cluster.wire.pop_front() {
            idle = false;
            cluster.deliver(from, to, frame);
        }
        if idle {
            return;
        }
    }
}

/// Asks for one more entry; says how far the log goes then.
fn prepare_one(cluster: &mut Cluster, slow: &[usize]) -> u64 {
    let number = cluster.view(0).op + 1;
    let (key, body) = (cluster.key(number), "long ".repeat(190));
    let mut bytes = Vec::new();
    say(key, &body).encode(&mut bytes).unwrap();
    cluster.number += 1;
    cluster.post_request(RequestKind::Commands, &bytes);
    settle_but_blocks(cluster, slow);
    cluster.view(0).op
}

/// A shard whose first checkpoint is about to be made: one op more, and the work begins.
fn about_to_work(replicas: u8) -> Cluster {
    let mut cluster = Cluster::with_slots(replicas, SLOTS);
    cluster.register();
    cluster.open_room();
    while cluster.view(0).op < INTERVAL {
        prepare_one(&mut cluster, &[]);
    }
    cluster
}

/// Goes on until no entry is made any more; the requests that wait are as many as the window has room for.
fn until_held(cluster: &mut Cluster, slow: &[usize]) -> u64 {
    for _ in 0..INTERVAL {
        let before = cluster.view(0).op;
        if prepare_one(cluster, slow) == before {
            return before;
        }
    }
    panic!("entries were never held: {:?}", cluster.view(0));
}

#[test]
fn entries_wait_for_the_work_and_go_on_with_each_part_of_it() {
    let mut cluster = about_to_work(1);
    let mut head = until_held(&mut cluster, &[0]);
    let wall = 2 * INTERVAL;
    assert!((INTERVAL + INTERVAL / 4..wall).contains(&head), "held at {head}, before the wall {wall}");
    assert!(cluster.replica(0).marks().has(Mark::EntriesHeld));
    let mut steps = 0;
    while cluster.view(0).checkpoint == 0 {
        // Some of its blocks are written: room for what waits, and for a little more.
        for _ in 0..2 {
            cluster.complete_one(0);
        }
        settle_but_blocks(&mut cluster, &[0]);
        let now = cluster.view(0).op;
        assert!(now >= head && now <= head + INTERVAL / 2, "{head}, then {now}");
        steps += usize::from(now > head);
        head = now;
        cluster.only_time(Duration::from_millis(30));
    }
    assert!(steps > 0, "it went on while the work did");
}

#[test]
fn work_that_stands_still_is_waited_for_no_longer() {
    let mut cluster = about_to_work(1);
    let head = until_held(&mut cluster, &[0]);
    cluster.only_time(Duration::from_millis(300));
    settle_but_blocks(&mut cluster, &[0]);
    assert!(cluster.view(0).op > head, "{:?}", cluster.view(0));
    assert_eq!(cluster.view(0).checkpoint, 0);
}

#[test]
fn one_slow_backup_holds_nobody_and_two_do() {
    let mut cluster = about_to_work(3);
    for _ in 0..INTERVAL - 4 {
        prepare_one(&mut cluster, &[2]);
    }
    assert!(!cluster.replica(0).marks().has(Mark::EntriesHeld), "a quorum has room");
    let mut cluster = about_to_work(3);
    let head = until_held(&mut cluster, &[1, 2]);
    assert!(cluster.replica(0).marks().has(Mark::EntriesHeld));
    assert!(head < 2 * INTERVAL, "{head}");
    // One of them goes on, says so by itself, and that is a quorum.
    settle_but_blocks(&mut cluster, &[2]);
    cluster.only_time(Duration::from_millis(30));
    settle_but_blocks(&mut cluster, &[2]);
    assert!(cluster.view(0).op > head, "{:?}", cluster.view(0));
}

/// That there is room again is said once; if it gets lost, entries wait a moment and no longer.
#[test]
fn room_of_which_the_word_got_lost_holds_nobody_for_long() {
    let mut cluster = about_to_work(3);
    let head = until_held(&mut cluster, &[1, 2]);
    for at in [1, 2] {
        while cluster.complete_one(at) {}
        cluster.outside[at].sent.clear();
    }
    settle_but_blocks(&mut cluster, &[]);
    assert_eq!(cluster.view(0).op, head, "nobody said anything");
    cluster.only_time(Duration::from_millis(300));
    settle_but_blocks(&mut cluster, &[]);
    assert!(cluster.view(0).op > head, "{:?}", cluster.view(0));
}
