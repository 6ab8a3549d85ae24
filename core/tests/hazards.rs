//! What is known to go wrong in replication, one story each, named by its number (`docs/hazards.md`).

use std::time::Duration;

use crate::cluster::{CLUSTER, Cluster, EDGE, SHARD, replica, say};
use tigerchat_core::io::{DiskError, DiskOp, Event, Fatal};
use tigerchat_core::store::superblock::Superblock;
use tigerchat_core::types::Address;
use tigerchat_core::vsr::replica::Status;
use tigerchat_core::wire::frame::{Command, Frame, FrameHeader};

const LONG: Duration = Duration::from_secs(3);

fn ready(replicas: u8) -> Cluster {
    let mut cluster = Cluster::new(replicas);
    cluster.pass(Duration::from_millis(50));
    cluster.register();
    cluster.open_room();
    cluster.publish(1).expect("acknowledged");
    cluster.pass(Duration::from_millis(30));
    cluster
}

fn commands(frames: &[(Address, Address, Frame)]) -> Vec<Command> {
    frames.iter().map(|(_, _, frame)| frame.header.command()).collect()
}

/// Puts a publish into the primary; frames and disks stand still.
fn prepare_one(cluster: &mut Cluster, number: u64) {
    let mut bytes = Vec::new();
    say(cluster.key(number), "x").encode(&mut bytes).unwrap();
    cluster.number += 1;
    cluster.post_request(tigerchat_core::wire::entry::RequestKind::Commands, &bytes);
    let (from, to, frame) = cluster.wire.pop_front().unwrap();
    cluster.deliver(from, to, frame);
}

fn assert_agree(cluster: &Cluster) {
    assert!((1..cluster.nodes.len()).all(|at| cluster.state(at) == cluster.state(0)));
}

/// Replica 0 has a longer log of an older view, replica 1 a shorter one of a newer view in which something was
/// acknowledged: the newer view decides, not the higher op.
#[test]
fn h01_the_log_of_the_newest_view_wins_over_a_longer_one() {
    let mut cluster = ready(3);
    for other in [1, 2] {
        cluster.cut.push((replica(0), replica(other)));
        cluster.cut.push((replica(other), replica(0)));
    }
    for number in 2..=6 {
        prepare_one(&mut cluster, number);
    }
    cluster.settle();
    let alone = cluster.view(0).op;
    cluster.pass(LONG);
    cluster.number -= 5;
    assert_eq!(cluster.publish(7).expect("the others go on").seq, 2);
    cluster.pass(Duration::from_millis(50));
    assert!(alone > cluster.view(1).op, "replica 0 has the longer log");
    (0..3).for_each(|at| cluster.crash(at));
    assert!(Superblock::open(&cluster.outside[1].disk).unwrap().log_view > 0);
    cluster.cut.clear();
    cluster.start(0);
    cluster.start(1);
    cluster.pass(LONG);
    assert_eq!(cluster.publish(8).expect("two are a quorum").seq, 3, "what was acknowledged is there");
    cluster.start(2);
    cluster.pass(LONG);
    assert_agree(&cluster);
}

#[test]
fn h03_no_do_view_change_leaves_before_its_view_is_durable() {
    let mut cluster = ready(3);
    cluster.crash(0);
    cluster.only_time(Duration::from_millis(400));
    // Both backups ask; each hears the other; both enter the view. Their disks stand still.
    let mut seen = Vec::new();
    for _ in 0..5 {
        let frames = cluster.collect();
        seen.extend(commands(&frames));
        frames.into_iter().for_each(|(from, to, frame)| cluster.deliver(from, to, frame));
    }
    assert!(seen.contains(&Command::StartViewChange));
    assert_eq!(
        (cluster.view(1).status, cluster.view(1).view),
        (Status::ViewChange, 0),
        "what it says is durable"
    );
    assert!(!seen.contains(&Command::DoViewChange));
    cluster.settle();
    assert!(cluster.primary().is_some());
}

#[test]
fn h04_no_prepare_ok_leaves_before_the_entry_is_durable_and_the_primary_counts_itself_no_sooner() {
    let mut cluster = ready(3);
    let committed = cluster.view(0).commit_max;
    prepare_one(&mut cluster, 2);
    let frames = cluster.collect();
    assert_eq!(commands(&frames), [Command::Prepare, Command::Prepare], "sent before it is flushed");
    frames.into_iter().for_each(|(from, to, frame)| cluster.deliver(from, to, frame));
    assert!(!commands(&cluster.collect()).contains(&Command::PrepareOk));
    assert!(cluster.complete_one(1));
    let frames = cluster.collect();
    assert_eq!(commands(&frames), [Command::PrepareOk]);
    frames.into_iter().for_each(|(from, to, frame)| cluster.deliver(from, to, frame));
    assert_eq!(cluster.view(0).commit_max, committed, "one durable copy is no quorum");
    assert!(cluster.complete_one(0));
    assert_eq!(cluster.view(0).commit_max, committed + 1);
}

#[test]
fn h07_a_commit_number_of_a_newer_view_commits_nothing() {
    let mut cluster = ready(3);
    prepare_one(&mut cluster, 2);
    for (from, to, frame) in cluster.collect() {
        cluster.deliver(from, to, frame);
    }
    let (before, head) = (cluster.view(1).commit, cluster.view(1).op);
    assert!(head > before);
    cluster.forge(2, 1, Command::Commit, |frame| {
        frame.header.view = 5.into();
        frame.header.op = head.into();
        frame.header.commit = head.into();
    });
    assert_eq!((cluster.view(1).commit, cluster.view(1).commit_max), (before, before));
}

#[test]
fn h08_a_prepare_ok_of_another_view_or_of_another_entry_is_not_counted() {
    let mut cluster = ready(3);
    cluster.crash(0);
    cluster.pass(LONG);
    let primary = cluster.primary().unwrap();
    let other = if primary == 1 { 2 } else { 1 };
    prepare_one(&mut cluster, 2);
    while cluster.complete_one(primary) {}
    cluster.collect();
    let view = cluster.view(primary);
    assert_eq!(view.commit_max + 1, view.op);
    for (of_view, digest) in [(view.view - 1, true), (view.view, false)] {
        let (_, real) = digest_of_head(&cluster, primary);
        cluster.forge(other, primary, Command::PrepareOk, |frame| {
            frame.header.view = of_view.into();
            frame.header.op = view.op.into();
            let half = if digest { real } else { real ^ 1 };
            frame.header.a = u64::try_from(half & u128::from(u64::MAX)).unwrap().into();
            frame.header.b = u64::try_from(half >> 64).unwrap().into();
        });
        assert_eq!(
            cluster.view(primary).commit_max,
            view.commit_max,
            "view {of_view}, right digest: {digest}"
        );
    }
}

/// The head's op, and the half of its digest that a prepare_ok carries, from the prepare that is sent again.
fn digest_of_head(cluster: &Cluster, primary: usize) -> (u64, u128) {
    let head = cluster.view(primary).op;
    let entry = cluster.replica(primary).header(head).expect("the head is known");
    (head, entry.digest().half())
}

#[test]
fn h09_one_replica_is_one_voter_however_often_it_is_heard() {
    let mut cluster = ready(5);
    // Only replica 1, primary of view 1, and replica 4 are left: no quorum of five.
    [0, 2, 3].into_iter().for_each(|at| cluster.crash(at));
    cluster.pass(Duration::from_millis(300));
    for _ in 0..6 {
        for view in 1..=6_u64 {
            cluster.forge(4, 1, Command::StartViewChange, |frame| frame.header.op = view.into());
        }
        cluster.settle();
        cluster.pass(Duration::from_millis(100));
    }
    assert_eq!(cluster.view(1).view, 0);
    assert_eq!(cluster.primary(), None);
}

/// Three of five are left and elect: one is heard three times by whoever is to lead, the other never.
#[test]
fn h09_a_do_view_change_is_one_vote_however_often_it_comes() {
    let mut cluster = ready(5);
    [0, 3].into_iter().for_each(|at| cluster.crash(at));
    let mut heard: Vec<(u64, Address)> = Vec::new();
    for _ in 0..2_000 {
        cluster.only_time(Duration::from_millis(1));
        for (from, to, frame) in cluster.collect() {
            assert_ne!(frame.header.command(), Command::StartView, "two of five elect nobody");
            if frame.header.command() == Command::DoViewChange && from != to {
                let view = frame.header.view.get();
                let first = heard.iter().find(|(of, _)| *of == view).map(|(_, from)| *from);
                if first.is_some_and(|first| first != from) {
                    continue;
                }
                heard.push((view, from));
                cluster.deliver(from, to, frame.clone());
                cluster.deliver(from, to, frame.clone());
            }
            cluster.deliver(from, to, frame);
        }
        for at in [1, 2, 4] {
            while cluster.complete_one(at) {}
        }
    }
    assert!(heard.len() > 1, "it was tried: {heard:?}");
    assert_eq!(cluster.primary(), None);
    cluster.pass(LONG * 2);
    assert!(cluster.primary().is_some(), "with the third vote there is one");
}

/// What a replica says for a view it says once: after a restart it votes for later ones alone.
#[test]
fn h09_a_restarted_replica_votes_in_no_view_that_it_may_have_voted_in() {
    let mut cluster = ready(3);
    cluster.crash(0);
    let mut voted = Vec::new();
    for _ in 0..4_000 {
        cluster.only_time(Duration::from_millis(1));
        let before = voted.len();
        for (from, to, frame) in cluster.collect() {
            // Nobody gets a vote, so that one is asked for again and again.
            if frame.header.command() != Command::DoViewChange {
                cluster.deliver(from, to, frame);
            } else if from == replica(2) {
                voted.push(frame.header.view.get());
            }
        }
        for at in 1..3 {
            while cluster.complete_one(at) {}
        }
        if voted.len() > before {
            cluster.crash(2);
            cluster.start(2);
        }
    }
    assert!(voted.is_sorted_by(|earlier, later| earlier < later), "a view twice: {voted:?}");
    assert!(voted.len() > 2, "it was asked again: {voted:?}");
}

#[test]
fn h10_no_start_view_leaves_before_the_new_log_is_durable() {
    let mut cluster = ready(3);
    cluster.crash(0);
    let mut announced = false;
    for _ in 0..2000 {
        cluster.only_time(Duration::from_millis(1));
        let frames = cluster.collect();
        for (from, to, frame) in frames {
            if frame.header.command() == Command::StartView {
                let view = frame.header.view.get();
                let Address::Replica { replica: sender, .. } = from else { panic!("a replica") };
                let disk = &cluster.outside[usize::from(sender.0)].disk;
                assert_eq!(Superblock::open(disk).unwrap().log_view, view, "the disk says it first");
                announced = true;
            }
            cluster.deliver(from, to, frame);
        }
        for at in 1..3 {
            cluster.complete_one(at);
        }
    }
    assert!(announced);
}

#[test]
fn h11_a_replica_that_missed_many_views_joins_again() {
    let mut cluster = ready(3);
    cluster.crash(2);
    // Views go up while replica 2 is away: each primary dies once.
    for _ in 0..4 {
        let primary = cluster.primary().unwrap();
        cluster.crash(primary);
        cluster.start(primary);
        cluster.pass(LONG);
    }
    let view = cluster.view(cluster.primary().unwrap()).view;
    assert!(view >= 4, "{view}");
    cluster.start(2);
    cluster.pass(LONG);
    assert_eq!(cluster.statuses(), [Status::Normal; 3]);
    assert_eq!(cluster.view(2).view, cluster.view(cluster.primary().unwrap()).view);
}

#[test]
fn h14_an_entry_of_a_deposed_primary_replaces_nothing_and_moves_no_head() {
    let mut cluster = ready(3);
    // Replica 0 prepares alone; nobody gets it.
    for other in [1, 2] {
        cluster.cut.push((replica(0), replica(other)));
        cluster.cut.push((replica(other), replica(0)));
    }
    prepare_one(&mut cluster, 2);
    let late: Vec<_> = cluster
        .collect()
        .into_iter()
        .filter(|(_, _, frame)| frame.header.command() == Command::Prepare)
        .collect();
    assert_eq!(late.len(), 2);
    cluster.pass(LONG);
    // Its entry would be the next one in the new view, and then it would be in the place of another.
    for next in [None, Some(3)] {
        if let Some(number) = next {
            cluster.number -= 1;
            cluster.publish(number).expect("the others go on");
        }
        cluster.cut.clear();
        let before = (cluster.view(1).op, cluster.view(2).op, cluster.state(1));
        for (from, to, frame) in late.clone() {
            cluster.deliver(from, to, frame);
        }
        assert_eq!((cluster.view(1).op, cluster.view(2).op, cluster.state(1)), before);
    }
    cluster.pass(LONG);
    assert_agree(&cluster);
}

/// Found by the simulator. Replica 0, asked in view 1 for the entry that it had prepared alone, answers when all are on
/// their way to view 2, which begins without that entry; the answer reaches replica 2 when that is a backup of view 2:
///
/// ```text
///   0  view 0: op 7, alone          between views, in view 2: ── prepare (answer, op 7 of view 0, view 2) ──┐
///   1                               view 2 begins at op 6                                                    │
///   2                               normal in view 2, head 6 ◀───────────────────────────────────────────────┘
/// ```
#[test]
fn h14_an_answer_of_somebody_between_views_moves_no_head() {
    let mut cluster = ready(3);
    for other in [1, 2] {
        cluster.cut.push((replica(0), replica(other)));
        cluster.cut.push((replica(other), replica(0)));
    }
    prepare_one(&mut cluster, 2);
    let late = cluster
        .collect()
        .into_iter()
        .find(|(_, to, frame)| frame.header.command() == Command::Prepare && *to == replica(2));
    let (from, to, mut frame) = late.expect("replica 0 leads");
    cluster.pass(LONG);
    let before = (cluster.view(2).op, cluster.state(2));
    assert_eq!(frame.header.op.get(), before.0 + 1, "it would be the next one");
    assert_eq!(cluster.view(2).status, Status::Normal);
    frame.header.view = cluster.view(2).view.into();
    frame.header.flags = 1.into();
    let (incarnation, counter) = (frame.header.incarnation.get(), frame.header.counter.get() + 1_000);
    frame.seal(from, to, incarnation, counter);
    cluster.cut.clear();
    cluster.deliver(from, to, frame);
    assert_eq!((cluster.view(2).op, cluster.state(2)), before);
    cluster.pass(LONG);
    assert_agree(&cluster);
}

#[test]
fn h15_a_backup_executes_nothing_across_a_gap() {
    let mut cluster = ready(3);
    let before = cluster.view(1).commit;
    cluster.cut.push((replica(0), replica(1)));
    prepare_one(&mut cluster, 2);
    cluster.settle();
    cluster.cut.clear();
    prepare_one(&mut cluster, 3);
    for (from, to, frame) in cluster.collect() {
        cluster.deliver(from, to, frame);
    }
    assert_eq!(cluster.view(1).commit, before, "the entry in between is missing");
    cluster.settle();
    cluster.pass(Duration::from_millis(300));
    assert_agree(&cluster);
    assert!(cluster.view(1).commit >= before + 2);
}

#[test]
fn h19_a_primary_whose_entry_finds_no_quorum_is_replaced_though_its_heartbeats_flow() {
    let mut cluster = ready(3);
    let view = cluster.view(0).view;
    cluster.cut.extend([(replica(1), replica(0)), (replica(2), replica(0))]);
    prepare_one(&mut cluster, 2);
    cluster.pass(LONG);
    let primary = cluster.primary().expect("another primary");
    assert!(primary != 0 && cluster.view(primary).view > view);
}

#[test]
fn h21_a_replica_that_is_still_reading_its_disk_votes_for_nothing() {
    let mut cluster = ready(3);
    cluster.crash(1);
    cluster.start(1);
    cluster.collect();
    cluster.forge(2, 1, Command::StartViewChange, |frame| frame.header.op = 9.into());
    cluster.forge(2, 1, Command::Ping, |_| {});
    assert!(cluster.collect().is_empty(), "it says nothing at all");
    cluster.settle();
    cluster.pass(Duration::from_millis(100));
    assert_eq!(cluster.view(1).status, Status::Normal);
}

#[test]
fn h25_what_a_view_change_truncated_never_comes_back_from_the_disk() {
    let mut cluster = ready(3);
    for other in [1, 2] {
        cluster.cut.push((replica(0), replica(other)));
        cluster.cut.push((replica(other), replica(0)));
    }
    for number in 2..=4 {
        prepare_one(&mut cluster, number);
    }
    cluster.settle();
    let alone = cluster.view(0).op;
    cluster.pass(LONG);
    cluster.cut.clear();
    cluster.pass(LONG);
    assert!(cluster.view(0).op < alone, "truncated");
    for _ in 0..2 {
        cluster.crash(0);
        cluster.start(0);
        cluster.pass(LONG);
        assert!(cluster.view(0).op < alone, "and not read again");
    }
    assert_agree(&cluster);
}

#[test]
fn h27_a_damaged_entry_is_fetched_from_a_peer_and_never_reported_as_absent() {
    let mut cluster = ready(3);
    for number in 2..=9 {
        cluster.publish(number).unwrap();
    }
    cluster.pass(Duration::from_millis(50));
    cluster.crash(1);
    let layout = cluster.config.layout;
    // An entry in the middle of the log, damaged in its body.
    let slot = u32::try_from(5 % u64::from(layout.wal_slots)).unwrap();
    let at = usize::try_from(layout.slot_offset(slot)).unwrap();
    cluster.outside[1].disk[at + 200] ^= 1;
    cluster.start(1);
    cluster.settle();
    cluster.crash(0);
    cluster.pass(LONG);
    cluster.start(0);
    cluster.pass(LONG);
    assert_eq!(cluster.statuses(), [Status::Normal; 3]);
    cluster.register();
    assert_eq!(cluster.publish(10).unwrap().seq, 10, "nothing was truncated");
    cluster.pass(Duration::from_millis(100));
    assert_agree(&cluster);
}

#[test]
fn h31_a_failed_flush_ends_the_replica_and_other_disk_errors_do_not() {
    for (error, ends) in [(DiskError::Fsync, true), (DiskError::Write, false), (DiskError::Full, false)] {
        let mut cluster = ready(3);
        prepare_one(&mut cluster, 2);
        for (from, to, frame) in cluster.collect() {
            cluster.deliver(from, to, frame);
        }
        let op = cluster.outside[1].submitted.remove(0);
        let DiskOp::Write { token, .. } = op else { panic!("a write of the log") };
        cluster.turn(1, Some(Event::Stored { token, result: Err(error) }));
        assert_eq!(cluster.outside[1].stopped, ends.then_some(Fatal::FsyncFailed), "{error:?}");
        if !ends {
            cluster.settle();
            cluster.pass(Duration::from_millis(300));
            assert_agree(&cluster);
        }
    }
}

#[test]
fn h33_a_replica_that_slept_for_about_one_wrap_comes_back_whole() {
    let slots = u64::from(Cluster::new(3).config.layout.wal_slots);
    for asleep in [slots - 2, slots - 1, slots, slots + 1, slots + slots / 2, 2 * slots] {
        let mut cluster = ready(3);
        cluster.crash(2);
        // Whoever is silent for so long is not waited for.
        cluster.pass(Duration::from_millis(100));
        for number in 0..asleep {
            cluster.publish(number + 2).expect("acknowledged");
        }
        cluster.start(2);
        cluster.pass(LONG);
        assert_eq!(cluster.statuses(), [Status::Normal; 3], "asleep for {asleep}");
        assert_agree(&cluster);
    }
}

/// The checkpoint that would free the log is never durable: the log grows to its last slot and no further.
#[test]
fn h33_the_log_takes_nothing_over_what_is_in_no_durable_checkpoint() {
    let mut cluster = ready(1);
    let layout = cluster.config.layout;
    let slots = u64::from(layout.wal_slots);
    let of_a_checkpoint =
        |op: &DiskOp| matches!(op, DiskOp::Write { offset, .. } if *offset >= layout.hot_size());
    for number in 2..slots * 2 {
        if number == slots / 2 + 2 {
            // Its work stands still, and no entry waits for that before the last slot.
            cluster.only_time(Duration::from_millis(300));
        }
        prepare_one(&mut cluster, number);
        while let Some(at) = cluster.outside[0].submitted.iter().position(|op| !of_a_checkpoint(op)) {
            let op = cluster.outside[0].submitted.remove(at);
            let event = cluster.complete(0, op);
            cluster.turn(0, Some(event));
        }
        let view = cluster.view(0);
        assert!(view.op <= view.checkpoint + slots, "{view:#?}");
    }
    assert_eq!((cluster.view(0).checkpoint, cluster.view(0).op), (0, slots), "full to the last slot");
    cluster.settle();
    cluster.pass(LONG);
    // What it could not take is forgotten; the client goes on after the last that was executed.
    cluster.number = cluster.replica(0).sessions().iter().map(|session| session.number).max().unwrap_or(0);
    cluster.publish(9_000).expect("served again");
    assert!(cluster.view(0).checkpoint > 0);
}

#[test]
fn h37_a_crash_at_any_disk_operation_of_a_checkpoint_loses_nothing() {
    // One replica: nobody can help it.
    for stop_after in 0..40 {
        let mut cluster = ready(1);
        let interval = u64::from(cluster.config.layout.wal_slots) / 2;
        for number in 2..interval {
            cluster.publish(number).expect("acknowledged");
        }
        let acknowledged = interval - 1;
        prepare_one(&mut cluster, 9_000);
        for _ in 0..stop_after {
            cluster.complete_one(0);
        }
        cluster.crash(0);
        cluster.start(0);
        cluster.settle();
        cluster.pass(Duration::from_secs(8));
        cluster.register();
        let seq = cluster.publish(9_001).expect("serves again").seq;
        assert!(seq == acknowledged + 1 || seq == acknowledged + 2, "after {stop_after}: {seq}");
    }
}

#[test]
fn h46_a_reply_names_the_request_that_it_answers() {
    let mut cluster = ready(3);
    let key = cluster.key(2);
    cluster.request(&[say(key, "mine")]).unwrap();
    // The same number with other commands: no reply of another request is passed off as its own.
    assert_eq!(cluster.again(&[say(key, "other")]), None);
}

/// The way from the primary to one backup is cut, for good: it still follows, by way of the other backup.
#[test]
fn h18_one_cut_link_from_the_primary_does_not_cost_the_spare() {
    let mut cluster = ready(3);
    // A view change that it misses, and then the cut.
    let everybody_to_2 = [(replica(0), replica(2)), (replica(1), replica(2))];
    cluster.cut.extend(everybody_to_2);
    cluster.crash(0);
    cluster.start(0);
    cluster.pass(LONG);
    let primary = cluster.primary().expect("somebody leads");
    cluster.cut.clear();
    cluster.cut.push((replica(primary), replica(2)));
    cluster.register();
    for number in 2..=40 {
        cluster.publish(number).expect("acknowledged");
        cluster.pass(Duration::from_millis(5));
    }
    cluster.pass(LONG);
    assert_eq!(cluster.primary(), Some(primary), "no storm");
    assert_eq!((cluster.view(2).status, cluster.view(2).view), (Status::Normal, cluster.view(primary).view));
    assert_eq!(cluster.view(2).commit, cluster.view(primary).commit);
    // It is a spare indeed: without the primary the two others go on.
    cluster.crash(primary);
    cluster.pass(LONG);
    cluster.register();
    cluster.publish(41).expect("the other backup and the spare are a quorum");
}

/// A replica hears of a newer view before it has heard that its newest entry is committed: it gives up nothing.
#[test]
fn h13_hearing_of_a_newer_view_truncates_nothing() {
    let mut cluster = ready(3);
    for other in [0, 1] {
        cluster.cut.push((replica(other), replica(2)));
        cluster.cut.push((replica(2), replica(other)));
    }
    prepare_one(&mut cluster, 2);
    for (from, to, frame) in cluster.collect() {
        cluster.deliver(from, to, frame);
    }
    while cluster.complete_one(0) || cluster.complete_one(1) {}
    let acknowledgements: Vec<_> = cluster.collect();
    acknowledgements.into_iter().for_each(|(from, to, frame)| cluster.deliver(from, to, frame));
    let committed = cluster.view(0).commit;
    assert_eq!((cluster.view(1).commit_max, cluster.view(1).op), (committed - 1, committed));
    cluster.cut.clear();
    for command in [Command::Ping, Command::Commit, Command::Prepare, Command::Pong] {
        cluster.forge(2, 1, command, |frame| {
            frame.header.view = 9.into();
            frame.header.flags = 1.into();
        });
    }
    cluster.crash(0);
    cluster.pass(LONG);
    assert!(cluster.view(cluster.primary().expect("two are a quorum")).commit >= committed);
    cluster.start(0);
    cluster.pass(LONG);
    assert_agree(&cluster);
    cluster.register();
    assert_eq!(cluster.publish(3).expect("acknowledged").seq, 3, "the second message is there");
}

/// A primary that is cut off from the others, and does not know yet that they have another one, answers local reads;
/// a linearizable one it does not answer.
#[test]
fn h48_a_deposed_primary_answers_no_linearizable_read() {
    let mut cluster = ready(3);
    let ask = |cluster: &mut Cluster, nonce: u128, linearizable: u16| {
        let mut frame = Frame { header: FrameHeader::new(Command::Query, CLUSTER, SHARD), payload: None };
        frame.header.nonce = nonce.into();
        frame.header.flags = linearizable.into();
        frame.seal(Address::Edge(EDGE), replica(0), 1, 1_000 + u64::try_from(nonce).unwrap());
        cluster.to_edge.clear();
        cluster.deliver(Address::Edge(EDGE), replica(0), frame);
        cluster.settle();
        let answers =
            |frame: &Frame| frame.header.command() == Command::Answer && frame.header.nonce == nonce;
        cluster.to_edge.iter().any(answers)
    };
    assert!(ask(&mut cluster, 1, 1), "with a quorum at hand");
    for other in [1, 2] {
        cluster.cut.push((replica(0), replica(other)));
        cluster.cut.push((replica(other), replica(0)));
    }
    assert!(!ask(&mut cluster, 2, 1));
    assert!(ask(&mut cluster, 3, 0), "what it has executed it may tell");
    cluster.cut.clear();
    cluster.pass(Duration::from_millis(60));
    assert!(ask(&mut cluster, 4, 1), "once it hears the others again");
}
