//! What replication promises and nothing else here looked at: each was found by a mutant that nobody noticed
//! (`cargo xtask mutants`).

mod cluster;

use std::time::Duration;

use cluster::{CLUSTER, Cluster, EDGE, SHARD, replica, say};
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
    let (zone, area) = (SUPERBLOCK_ZONE as u64, cluster.config.layout.checkpoint_offset(0));
    let named = |cluster: &Cluster| Superblock::open(&cluster.outside[0].disk).unwrap().checkpoint.op();
    let before = named(&cluster);
    let mut held = Vec::new();
    let mut superblocks = 0;
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
                let DiskOp::Write { offset, .. } = &op else { panic!("nothing is read") };
                superblocks += usize::from(*offset < zone);
                if *offset >= area {
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
        assert_eq!(named(&cluster), before, "{} parts are not durable", held.len() + 1);
        let event = cluster.complete(0, op);
        cluster.turn(0, Some(event));
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
