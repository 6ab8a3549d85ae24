//! What is promised of a log that is repaired, cut off or replaced.

use std::time::Duration;

use crate::cluster::{Cluster, EDGE, replica, say};
use tigerchat_core::store::superblock::Superblock;
use tigerchat_core::types::Address;
use tigerchat_core::vsr::replica::Status;
use tigerchat_core::wire::entry::RequestKind;
use tigerchat_core::wire::frame::{Command, Frame};

const MOMENT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(3);

fn ready(wal_slots: u32) -> Cluster {
    let mut cluster = Cluster::with_slots(3, wal_slots);
    cluster.pass(MOMENT);
    cluster.register();
    cluster.open_room();
    cluster
}

fn isolate(cluster: &mut Cluster, at: usize) {
    for other in (0..cluster.nodes.len()).filter(|other| *other != at) {
        cluster.cut.extend([(replica(at), replica(other)), (replica(other), replica(at))]);
    }
}

/// A state that came from a peer is of committed ops, also for whoever heard of no commit since.
#[test]
fn nothing_is_executed_that_is_not_known_to_be_committed_also_after_a_state_transfer() {
    let mut cluster = ready(16);
    isolate(&mut cluster, 2);
    assert_eq!(cluster.hand_over(1), None);
    cluster.pass(MOMENT);
    assert_eq!(cluster.primary(), Some(1));
    cluster.register();
    for number in 1..=60 {
        cluster.publish(number).expect("two are a quorum");
    }
    let behind = cluster.view(2).checkpoint;
    cluster.cut.clear();
    for _ in 0..3_000 {
        cluster.only_time(Duration::from_millis(1));
        while let frames = cluster.collect()
            && !frames.is_empty()
        {
            for (from, to, frame) in frames {
                cluster.deliver(from, to, frame);
                let view = cluster.view(2);
                assert!(view.commit_max >= view.commit, "{view:?}");
            }
            while (0..3).any(|at| cluster.complete_one(at)) {
                let view = cluster.view(2);
                assert!(view.commit_max >= view.commit, "{view:?}");
            }
        }
    }
    assert!(cluster.view(2).checkpoint > behind + 16, "it took the state of a peer");
    assert_eq!(cluster.statuses(), [Status::Normal; 3]);
}

/// A cluster of which replica 1 has a log of 400 entries, some damaged on its disk, knows what they are and can't have
/// them from anybody for now.
fn with_damaged(damaged: impl Fn(u64) -> bool) -> Cluster {
    let mut cluster = ready(1024);
    while cluster.view(0).op < 400 {
        let number = cluster.view(0).op;
        cluster.publish(number).expect("acknowledged");
    }
    cluster.pass(MOMENT);
    cluster.crash(1);
    let layout = cluster.config.layout;
    for op in (1..=400).filter(|op| damaged(*op)) {
        let slot = layout.slot_offset(u32::try_from(op).unwrap());
        cluster.outside[1].disk[usize::try_from(slot).unwrap() + 200] ^= 1;
    }
    cluster.lost = vec![Command::Prepare];
    cluster.start(1);
    cluster.pass(LONG);
    let view = cluster.view(1);
    assert_eq!((view.status, view.op, view.commit), (Status::Normal, 400, 0));
    cluster
}

/// Who can't go on for want of one entry gives others all the rest of a long log, and does not run out of memory.
#[test]
fn a_log_longer_than_memory_is_given_to_whoever_asks() {
    let mut cluster = with_damaged(|op| op == 1);
    let view = cluster.view(1).view;
    let mut given = 0;
    for op in 2..=400 {
        let half = cluster.replica(0).header(op).expect("known").digest().half();
        cluster.forge(2, 1, Command::RequestPrepare, |frame| {
            (frame.header.view, frame.header.op) = (view.into(), op.into());
            frame.header.a = u64::try_from(half & u128::from(u64::MAX)).unwrap().into();
            frame.header.b = u64::try_from(half >> 64).unwrap().into();
        });
        while cluster.complete_one(1) {}
        let is_it = |frame: &Frame| frame.header.command() == Command::Prepare && frame.header.op == op;
        given +=
            cluster.collect().iter().filter(|(from, _, frame)| *from == replica(1) && is_it(frame)).count();
    }
    assert_eq!(given, 399);
}

/// Who is to lead has a long log of which it executed little, and all of it is damaged on its disk: it gets it back with no more memory
/// than any replica has.
#[test]
fn a_log_longer_than_memory_is_repaired_before_it_is_led() {
    let mut cluster = with_damaged(|_| true);
    cluster.crash(0);
    cluster.lost.clear();
    for _ in 0..LONG.as_millis() {
        cluster.only_time(Duration::from_millis(1));
        while let frames = cluster.collect()
            && !frames.is_empty()
        {
            for (from, to, frame) in frames {
                // Whoever keeps the replies that it gives to the edge keeps its memory.
                if to != Address::Edge(EDGE) {
                    cluster.deliver(from, to, frame);
                }
            }
            while (0..3).any(|at| cluster.complete_one(at)) {}
        }
    }
    assert_eq!(cluster.primary(), Some(1));
    cluster.to_edge.clear();
    cluster.register();
    cluster.publish(401).expect("acknowledged");
    cluster.start(0);
    cluster.pass(LONG);
    assert_eq!(cluster.statuses(), [Status::Normal; 3]);
    assert!((1..3).all(|at| cluster.state(at) == cluster.state(0)));
}

/// Brings a publish before replica 0, and returns what that sends.
fn prepare(cluster: &mut Cluster, number: u64) -> Vec<(Address, Address, Frame)> {
    let mut bytes = Vec::new();
    say(cluster.key(number), "x").encode(&mut bytes).unwrap();
    cluster.number += 1;
    cluster.post_request(RequestKind::Commands, &bytes);
    let (from, to, frame) = cluster.wire.pop_front().expect("there is a primary");
    cluster.deliver(from, to, frame);
    cluster.collect()
}

/// What overtook the entry before it waits for that, and need not be sent again.
#[test]
fn entries_that_come_in_another_order_are_all_taken() {
    let mut cluster = ready(16);
    cluster.pass(MOMENT);
    let head = cluster.view(1).op;
    let mut frames: Vec<_> = (1..=2).flat_map(|number| prepare(&mut cluster, number)).collect();
    frames.retain(|(_, to, frame)| *to == replica(1) && frame.header.command() == Command::Prepare);
    assert_eq!(frames.len(), 2);
    for (taken, (from, to, frame)) in [0, 2].into_iter().zip(frames.into_iter().rev()) {
        cluster.deliver(from, to, frame);
        assert_eq!(cluster.view(1).op, head + taken);
    }
}

/// Whoever is asked for an entry that it does not have says where it is, so that another one is asked.
#[test]
fn who_does_not_have_the_entry_that_it_is_asked_for_answers() {
    let mut cluster = ready(16);
    cluster.pass(MOMENT);
    let (op, view) = (cluster.view(1).op, cluster.view(1).view);
    let half = cluster.replica(0).header(op).expect("known").digest().half();
    for (other, answer) in [(0, Command::Prepare), (1, Command::Pong)] {
        cluster.forge(2, 1, Command::RequestPrepare, |frame| {
            (frame.header.view, frame.header.op) = (view.into(), op.into());
            frame.header.a = (u64::try_from(half & u128::from(u64::MAX)).unwrap() ^ other).into();
            frame.header.b = u64::try_from(half >> 64).unwrap().into();
        });
        while cluster.complete_one(1) {}
        let answers: Vec<Command> =
            cluster.collect().iter().map(|(_, _, frame)| frame.header.command()).collect();
        assert_eq!(answers, [answer]);
    }
}

/// A replica that starts knows at once what was committed when its last view began.
#[test]
fn the_superblock_of_a_new_view_says_what_is_committed() {
    let mut cluster = ready(32);
    for number in 1..=5 {
        cluster.publish(number).expect("acknowledged");
    }
    cluster.pass(MOMENT);
    let committed = cluster.view(1).commit;
    assert_eq!((cluster.hand_over(1), cluster.view(1).checkpoint), (None, 0));
    cluster.pass(MOMENT);
    for at in 0..3 {
        let superblock = Superblock::open(&cluster.outside[at].disk).unwrap();
        assert_eq!((superblock.log_view, superblock.commit), (1, committed), "replica {at}");
    }
}

/// One acknowledgement for one entry: a turn in which nothing became durable is no reason for another.
#[test]
fn an_entry_is_acknowledged_once() {
    let mut cluster = ready(16);
    cluster.pass(MOMENT);
    let mut acks = Vec::new();
    let mut frames = prepare(&mut cluster, 1);
    let op = cluster.view(0).op;
    for _ in 0..40 {
        for (from, to, frame) in std::mem::take(&mut frames) {
            if frame.header.command() == Command::PrepareOk {
                acks.push((from, frame.header.op.get()));
            }
            cluster.deliver(from, to, frame);
        }
        while (0..3).any(|at| cluster.complete_one(at)) {}
        cluster.only_time(Duration::from_millis(1));
        frames = cluster.collect();
    }
    acks.sort_unstable();
    assert_eq!(acks, [(replica(1), op), (replica(2), op)]);
}
