//! What replication promises and nothing else here looked at: each was found by a mutant that nobody noticed
//! (`cargo xtask mutants`).

use std::time::Duration;

use crate::cluster::{CLUSTER, Cluster, EDGE, SHARD, replica, say};
use tigerchat_core::errors::ErrorCode;
use tigerchat_core::io::DiskOp;
use tigerchat_core::store::layout::SUPERBLOCK_ZONE;
use tigerchat_core::store::superblock::Superblock;
use tigerchat_core::types::{Address, ReplicaId};
use tigerchat_core::vsr::membership::Change;
use tigerchat_core::wire::entry::RequestKind;
use tigerchat_core::wire::frame::{Command, Frame, FrameHeader};

const MOMENT: Duration = Duration::from_millis(100);
/// Longer than the lease of a session and the quarter of it after which it is looked at.
const LEASE: Duration = Duration::from_secs(8);
/// Of a committed frame: what came before is not to be had any more.
const RESET: u16 = 1;

fn ready(replicas: u8) -> Cluster {
    let mut cluster = Cluster::with_slots(replicas, 16);
    cluster.pass(MOMENT);
    cluster.register();
    cluster.open_room();
    cluster.publish(1).expect("acknowledged");
    cluster.pass(MOMENT);
    cluster
}

/// The disk takes everything but one part of the checkpoint: until that is there too, a crash finds the old one.
#[test]
fn no_superblock_names_a_checkpoint_of_which_a_part_is_not_durable() {
    let mut cluster = ready(1);
    let (zone, area) = (SUPERBLOCK_ZONE as u64, cluster.config.layout.hot_size());
    let named = |cluster: &Cluster| Superblock::open(&cluster.outside[0].disk).unwrap().checkpoint.op();
    let before = named(&cluster);
    let mut held = Vec::new();
    let mut superblocks = 0;
    let is_of_a_checkpoint = |op: &DiskOp| match op {
        DiskOp::Write { offset, .. } => *offset >= area,
        DiskOp::Sync { .. } => true,
        // Scrubbing reads the log.
        DiskOp::Read { .. } => false,
    };
    for number in 2..14 {
        cluster.number += 1;
        let body = number.to_string();
        let mut bytes = Vec::new();
        say(cluster.key(number), &body).encode(&mut bytes).unwrap();
        cluster.post_request(RequestKind::Commands, &bytes);
        for _ in 0..20 {
            cluster.only_time(Duration::from_millis(1));
            cluster.settle_frames();
            for op in std::mem::take(&mut cluster.outside[0].submitted) {
                superblocks += usize::from(matches!(op, DiskOp::Write { offset, .. } if offset < zone));
                if is_of_a_checkpoint(&op) {
                    held.push(op);
                } else {
                    let event = cluster.complete(0, op);
                    cluster.turn(0, Some(event));
                }
            }
        }
    }
    assert!(!held.is_empty(), "a checkpoint was due");
    while let Some(op) = held.pop() {
        assert_eq!(named(&cluster), before, "{} operations have not ended", held.len() + 1);
        let event = cluster.complete(0, op);
        cluster.turn(0, Some(event));
        // The last of them was the flush: then the superblock is written.
        let more = std::mem::take(&mut cluster.outside[0].submitted);
        let (of_it, other): (Vec<_>, Vec<_>) = more.into_iter().partition(is_of_a_checkpoint);
        held.extend(of_it);
        cluster.outside[0].submitted = other;
    }
    cluster.settle();
    assert!(named(&cluster) > before, "and then it is named; {superblocks} writes of the superblock before");
}

/// The first command of an op happened at the op's time, and has its index in the op.
#[test]
fn the_first_command_of_an_entry_has_the_time_of_the_entry() {
    let mut cluster = ready(3);
    let outcome = cluster.publish(2).expect("acknowledged");
    let header = cluster.replica(0).header(outcome.op).expect("known");
    assert_eq!((outcome.index, outcome.time), (0, header.timestamp.get()));
}

/// An edge whose lease ran out is told: otherwise it believes in a session that is none.
#[test]
fn an_edge_whose_session_expired_is_told() {
    let mut cluster = ready(3);
    let session = cluster.session;
    cluster.to_edge.clear();
    cluster.pass(LEASE);
    let told = |frame: &Frame| frame.header.command() == Command::Eviction && frame.header.a.get() == session;
    assert!(cluster.to_edge.iter().any(told), "of session {session}");
    // The news may be lost: whoever still pings with that session is told again, and that it has none.
    cluster.to_edge.clear();
    cluster.ping();
    assert!(cluster.to_edge.iter().any(told), "of session {session} again");
    let pong = cluster.to_edge.iter().find(|frame| frame.header.command() == Command::PongClient);
    assert_eq!(pong.expect("an answer").header.b.get(), 0);
}

/// A follower that lacks some ops gets these, and not the news that it has to begin anew.
#[test]
fn a_follower_gets_what_it_lacks_from_the_op_that_it_names_on() {
    let mut cluster = ready(3);
    for number in 2..=6 {
        cluster.publish(number).expect("acknowledged");
    }
    cluster.pass(MOMENT);
    let commit = cluster.view(0).commit;
    let mut follow = |from: u64| {
        let mut frame = Frame { header: FrameHeader::new(Command::Follow, CLUSTER, SHARD), payload: None };
        (frame.header.op, frame.header.nonce) = (from.into(), 9.into());
        frame.seal(Address::Edge(EDGE), replica(0), 1, 5_000 + from);
        cluster.to_edge.clear();
        cluster.deliver(Address::Edge(EDGE), replica(0), frame);
        cluster.settle();
        let committed = |frame: &&Frame| frame.header.command() == Command::Committed;
        let told = |frame: &Frame| (frame.header.op.get(), frame.header.flags.get() & RESET);
        cluster.to_edge.iter().filter(committed).map(told).collect::<Vec<_>>()
    };
    assert_eq!(follow(0), [(commit, RESET)], "whoever names none begins now");
    assert_eq!(follow(commit - 2), [(commit - 2, 0), (commit - 1, 0), (commit, 0)]);
    assert_eq!(follow(commit + 1), [], "it lacks nothing");
}

/// Four voters, of which three are a quorum, and one is down: none of the others may be taken away, as its own
/// consent to that does not count.
#[test]
fn who_is_to_leave_does_not_count_for_its_own_leaving() {
    let mut cluster = ready(3);
    let id = cluster.join();
    assert_eq!(cluster.change(&Change::Standby { id, address: Vec::new() }), None);
    assert_eq!(cluster.change(&Change::Promote { id }), None);
    let primary = cluster.primary().expect("somebody leads");
    let others: Vec<usize> = (0..4).filter(|at| *at != primary).collect();
    cluster.crash(others[0]);
    cluster.pass(Duration::from_secs(2));
    assert_eq!(cluster.primary(), Some(primary));
    let leaving = ReplicaId(u16::try_from(others[1]).unwrap());
    assert_eq!(cluster.change_once(&Change::Remove { id: leaving }), Some(ErrorCode::NoHealthyQuorum));
    cluster.start(others[0]);
    cluster.pass(Duration::from_secs(2));
    assert_eq!(cluster.change(&Change::Remove { id: leaving }), None, "all four are there");
}

/// Puts a publish into replica 0; what it sends is lost.
fn prepare_unheard(cluster: &mut Cluster, number: u64) {
    let mut bytes = Vec::new();
    say(cluster.key(number), "x").encode(&mut bytes).unwrap();
    cluster.number += 1;
    cluster.post_request(RequestKind::Commands, &bytes);
    let (from, to, frame) = cluster.wire.pop_front().unwrap();
    cluster.deliver(from, to, frame);
    cluster.collect();
}

fn is_first_hand_prepare(from: &Address, frame: &Frame) -> bool {
    *from == replica(0) && frame.header.command() == Command::Prepare && frame.header.flags.get() & 1 == 0
}

/// A primary does not rely on being asked for what was lost; once it leads no more, it says nothing of its own.
#[test]
fn a_primary_sends_again_what_nobody_acknowledged_and_only_while_it_leads() {
    let mut cluster = ready(3);
    prepare_unheard(&mut cluster, 2);
    let op = cluster.view(0).op;
    let (mut again, mut deposed) = (0, 0);
    for _ in 0..3_000 {
        cluster.only_time(Duration::from_millis(1));
        let (leads, view) = (cluster.view(0).is_primary, cluster.view(0).view);
        for (from, to, frame) in cluster.collect() {
            if is_first_hand_prepare(&from, &frame) {
                assert!(frame.header.view.get() == 0 && frame.header.op.get() == op, "in view {view}");
                again += 1;
            }
            // The backups go on without it; what they say reaches it, so that it learns of their view.
            if from != replica(0) {
                cluster.deliver(from, to, frame);
            }
        }
        while (0..3).any(|at| cluster.complete_one(at)) {}
        deposed += usize::from(!leads && view > 0);
    }
    assert!(again >= 2, "to each backup");
    assert!(deposed > 500, "and others lead for a while: {deposed}");
}

/// The acknowledgement of an entry was lost. The primary's heartbeat says that it knows of none: it comes again.
#[test]
fn a_heartbeat_that_lacks_an_acknowledgement_brings_it_again() {
    let mut cluster = ready(3);
    let head = cluster.view(0).op + 1;
    let mut bytes = Vec::new();
    say(cluster.key(2), "x").encode(&mut bytes).unwrap();
    cluster.number += 1;
    cluster.post_request(RequestKind::Commands, &bytes);
    for step in 0.. {
        let frames = cluster.collect();
        let lost = frames.iter().any(|(from, _, frame)| {
            *from == replica(1) && frame.header.command() == Command::PrepareOk && frame.header.op == head
        });
        if lost {
            break;
        }
        assert!(step < 50, "it never acknowledges");
        frames.into_iter().for_each(|(from, to, frame)| cluster.deliver(from, to, frame));
        while cluster.complete_one(1) {}
    }
    let (view, commit) = (cluster.view(1).view, cluster.view(1).commit_max);
    assert!(commit < head);
    cluster.forge(0, 1, Command::Commit, |frame| {
        frame.header.view = view.into();
        frame.header.op = head.into();
        frame.header.commit = commit.into();
    });
    let answers = cluster.collect();
    let again = |(from, to, frame): &(Address, Address, Frame)| {
        let acknowledges = frame.header.command() == Command::PrepareOk && frame.header.op == head;
        *from == replica(1) && *to == replica(0) && acknowledges
    };
    assert!(answers.iter().any(again));
}

/// An operator who asks who the members are is told how far each of them has come, also who lags.
#[test]
fn the_list_of_members_says_who_lags() {
    let mut cluster = ready(3);
    cluster.crash(2);
    cluster.pass(MOMENT);
    let behind = cluster.view(0).op;
    (2..=5).for_each(|number| assert!(cluster.publish(number).is_some()));
    cluster.pass(MOMENT);
    let mut frame = Frame { header: FrameHeader::new(Command::Reconfigure, CLUSTER, SHARD), payload: None };
    frame.seal(Address::Edge(EDGE), replica(0), 1, 7_000);
    cluster.to_edge.clear();
    cluster.deliver(Address::Edge(EDGE), replica(0), frame);
    cluster.settle();
    let answer = cluster.to_edge.iter().find(|frame| frame.header.command() == Command::Members);
    let body = answer.expect("an answer").body();
    // Of each the op and the release of its binary, then the release in force, and what is cleared of erasures here.
    let (told, rest) = body[body.len() - (3 * 12 + 12)..].split_at(3 * 12);
    let (in_force, cleared) = rest.split_at(4);
    let told: Vec<(u64, u32)> = told
        .chunks_exact(12)
        .map(|one| {
            let (op, release) = one.split_at(8);
            let op = u64::from_le_bytes(op.try_into().expect("8 bytes"));
            (op, u32::from_le_bytes(release.try_into().expect("4 bytes")))
        })
        .collect();
    assert_eq!(told, [(behind + 4, 1), (behind + 4, 1), (behind, 1)]);
    assert_eq!(in_force, 1_u32.to_le_bytes());
    assert_eq!(cleared, [0; 8]);
}

/// An acknowledgement counts only among those who act by the same members.
#[test]
fn h57_an_acknowledgement_of_other_members_is_not_counted() {
    let mut cluster = ready(3);
    prepare_unheard(&mut cluster, 2);
    while cluster.complete_one(0) {}
    let view = cluster.view(0);
    assert_eq!(view.commit_max + 1, view.op);
    let half = cluster.replica(0).header(view.op).expect("known").digest().half();
    let members = cluster.replica(0).members().number;
    for (of, counted) in [(members + 1, 0), (members, 1)] {
        cluster.forge(1, 0, Command::PrepareOk, |frame| {
            frame.header.config = of.into();
            frame.header.view = view.view.into();
            frame.header.op = view.op.into();
            frame.header.a = u64::try_from(half & u128::from(u64::MAX)).unwrap().into();
            frame.header.b = u64::try_from(half >> 64).unwrap().into();
        });
        assert_eq!(cluster.view(0).commit_max, view.commit_max + counted, "of members {of}");
    }
}

/// What a view change cut off still lies on the disk, and links to what is left. A replica that starts takes what its
/// superblock says, before it has heard anybody.
#[test]
fn h25_what_was_cut_off_is_not_taken_from_the_disk_though_it_links() {
    let mut cluster = ready(3);
    let links = [(0, 1), (0, 2), (1, 0), (2, 0)].map(|(from, to)| (replica(from), replica(to)));
    cluster.cut.extend(links);
    prepare_unheard(&mut cluster, 2);
    prepare_unheard(&mut cluster, 3);
    while cluster.complete_one(0) {}
    let alone = cluster.view(0).op;
    // Not for so long that the session expires: the others' entry for that would take the place of these.
    cluster.pass(MOMENT * 10);
    cluster.cut.clear();
    cluster.pass(MOMENT * 10);
    let kept = cluster.view(0).op;
    assert_eq!(kept + 2, alone, "cut off");
    cluster.crash(0);
    cluster.cut.extend(links);
    cluster.start(0);
    while cluster.complete_one(0) {}
    assert_eq!(cluster.view(0).op, kept);
}
