//! What is promised of the time of entries, and of what is asked again in time.

use std::time::Duration;

use crate::cluster::{CLUSTER, Cluster, EDGE, SHARD, replica};
use tigerchat_core::types::Address;
use tigerchat_core::wire::entry::RequestKind;
use tigerchat_core::wire::frame::{Command, Frame, FrameHeader};

/// The clock of whoever leads first is a year ahead, and the log is empty: nothing goes into it before another clock was
/// heard, for all that follows would be dated by it.
#[test]
fn the_first_entry_of_a_log_waits_for_a_second_clock() {
    let mut cluster = Cluster::new(3);
    (0..3).for_each(|at| cluster.crash(at));
    let year = 365 * 24 * 3_600_000_i64;
    cluster.clocks = (0..3).map(|at| (at, if at == 1 { year } else { 0 })).collect();
    cluster.lost = vec![Command::Pong];
    (0..3).for_each(|at| cluster.start(at));
    while cluster.primary().is_none() {
        cluster.pass(Duration::from_millis(1));
    }
    assert_eq!((cluster.primary(), cluster.view(1).op), (Some(1), 0));
    cluster.send_request(RequestKind::Register, &[]);
    cluster.pass(Duration::from_millis(20));
    let waits = |cluster: &Cluster| cluster.replica(1).loads()[0].holds;
    assert_eq!((cluster.primary(), cluster.view(1).op, waits(&cluster)), (Some(1), 0, 1));
    cluster.lost.clear();
    cluster.pass(Duration::from_millis(200));
    assert_eq!((cluster.view(1).commit, waits(&cluster)), (1, 0));
    let time = cluster.replica(1).header(1).expect("known").timestamp.get();
    assert!(time.abs_diff(cluster.now.wall.0) < 1_000_000_000, "{time}");
}

/// Set in the nonce of a ping that asks whether this is still everybody's view.
const ROUND: u128 = 1 << 127;

/// The pings of a read's round are lost: it is asked again with each heartbeat, until it comes through.
#[test]
fn a_read_whose_question_is_lost_is_asked_again_with_each_heartbeat() {
    let mut cluster = Cluster::new(3);
    cluster.pass(Duration::from_millis(200));
    let mut frame = Frame { header: FrameHeader::new(Command::Query, CLUSTER, SHARD), payload: None };
    (frame.header.flags, frame.header.nonce) = (1.into(), 5.into());
    frame.seal(Address::Edge(EDGE), replica(0), 1, 9_000);
    cluster.deliver(Address::Edge(EDGE), replica(0), frame);
    cluster.to_edge.clear();
    let (mut asked, mut heartbeats) = (Vec::new(), Vec::new());
    for now in 0..400 {
        for (from, to, frame) in cluster.collect() {
            let round = frame.header.command() == Command::Ping && frame.header.nonce.get() & ROUND != 0;
            if (from, to) == (replica(0), replica(1)) {
                asked.extend(round.then_some(now));
                heartbeats.extend((frame.header.command() == Command::Commit).then_some(now));
            }
            if !round || now > 300 {
                cluster.deliver(from, to, frame);
            }
        }
        while (0..3).any(|at| cluster.complete_one(at)) {}
        cluster.only_time(Duration::from_millis(1));
        cluster.now.wall.0 += 1_000_000;
    }
    let answers = |cluster: &Cluster| {
        cluster.to_edge.iter().filter(|frame| frame.header.command() == Command::Answer).count()
    };
    assert_eq!(answers(&cluster), 1, "once a question comes through");
    let again: Vec<i32> = asked[1..].iter().copied().filter(|at| *at <= 300).collect();
    heartbeats.retain(|at| *at >= again[0] && *at <= 300);
    assert_eq!(again, heartbeats);
    assert!(again.len() > 3, "{again:?}");
}

/// A read that comes while an older one's question is under way needs a question of its own: what the others say to
/// the first they may have said before the second came.
#[test]
fn h48_a_read_is_not_answered_by_a_question_that_was_asked_before_it_came() {
    let mut cluster = Cluster::new(3);
    cluster.pass(Duration::from_millis(200));
    let ask = |cluster: &mut Cluster, nonce: u64| {
        let mut frame = Frame { header: FrameHeader::new(Command::Query, CLUSTER, SHARD), payload: None };
        (frame.header.flags, frame.header.nonce) = (1.into(), u128::from(nonce).into());
        frame.seal(Address::Edge(EDGE), replica(0), 1, 9_000 + nonce);
        cluster.deliver(Address::Edge(EDGE), replica(0), frame);
    };
    let answered = |cluster: &Cluster| {
        let answers = cluster.to_edge.iter().filter(|frame| frame.header.command() == Command::Answer);
        answers.map(|frame| frame.header.nonce.get()).collect::<Vec<_>>()
    };
    cluster.to_edge.clear();
    ask(&mut cluster, 1);
    // The question reaches the others, and before their answers come there is a second read.
    cluster.collect().into_iter().for_each(|(from, to, frame)| cluster.deliver(from, to, frame));
    ask(&mut cluster, 2);
    cluster.collect().into_iter().for_each(|(from, to, frame)| cluster.deliver(from, to, frame));
    cluster.collect().into_iter().for_each(|(from, to, frame)| {
        if matches!(to, Address::Edge(_)) {
            cluster.deliver(from, to, frame);
        } else {
            cluster.wire.push_back((from, to, frame));
        }
    });
    assert_eq!(answered(&cluster), [1], "the second waits for an answer to a question of its own");
    cluster.settle();
    assert_eq!(answered(&cluster), [1, 2]);
}
