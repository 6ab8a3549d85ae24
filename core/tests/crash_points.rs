//! Every point at which a process can end in the midst of a view change, a checkpoint and a state transfer:
//! enumerated, not drawn. A point lies after each frame that is delivered and each disk operation that completes.

use std::time::Duration;

use crate::cluster::{Cluster, say};
use tigerchat_core::io::DiskOp;
use tigerchat_core::vsr::replica::Status;
use tigerchat_core::wire::entry::RequestKind;

/// What became of the writes that were on their way as the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnTheirWay {
    Lost,
    Written,
}

/// One step: the next frame, or else the next disk operation of the first node that has one. False when all is still.
fn step(cluster: &mut Cluster) -> bool {
    for at in 0..cluster.nodes.len() {
        let sent: Vec<_> = cluster.outside[at].sent.drain(..).collect();
        cluster.wire.extend(sent);
    }
    if let Some((from, to, frame)) = cluster.wire.pop_front() {
        cluster.deliver(from, to, frame);
        return true;
    }
    (0..cluster.nodes.len()).any(|at| cluster.complete_one(at))
}

fn end(cluster: &mut Cluster, at: usize, writes: OnTheirWay) {
    if writes == OnTheirWay::Written {
        for op in std::mem::take(&mut cluster.outside[at].submitted) {
            if matches!(op, DiskOp::Write { .. }) {
                cluster.complete(at, op);
            }
        }
    }
    cluster.crash(at);
}

/// Lets time pass step by step until `done`, and ends a process after so many steps. Returns the steps there were.
fn until(
    cluster: &mut Cluster,
    mut crash: Option<(u64, usize, OnTheirWay)>,
    done: impl Fn(&Cluster) -> bool,
) -> u64 {
    let mut steps = 0;
    for _ in 0..4_000 {
        if crash.is_none() && done(cluster) {
            return steps;
        }
        while step(cluster) {
            steps += 1;
            if let Some((after, at, writes)) = crash
                && steps == after
            {
                end(cluster, at, writes);
                crash = None;
                cluster.start(at);
            }
        }
        if let Some((after, ..)) = crash
            && done(cluster)
            && steps < after
        {
            return steps;
        }
        cluster.now.mono.0 += 1_000_000;
        cluster.now.wall.0 += 1_000_000;
        for at in 0..cluster.nodes.len() {
            cluster.turn(at, None);
        }
    }
    steps
}

/// All come back, what was acknowledged is there, and service goes on.
fn must_be_whole(cluster: &mut Cluster, acknowledged: u64, context: &str) {
    for at in 0..cluster.nodes.len() {
        if cluster.nodes[at].is_none() {
            cluster.start(at);
        }
    }
    cluster.settle();
    cluster.pass(Duration::from_millis(1_500));
    cluster.register();
    // Requests that died with their primary are forgotten; the client goes on after the last that was executed.
    if let Some(primary) = cluster.primary() {
        let sessions = cluster.replica(primary).sessions();
        cluster.number = sessions.iter().map(|session| session.number).max().unwrap_or(0);
    }
    let seq = cluster.publish(9_999).unwrap_or_else(|| {
        let waits: Vec<String> = (0..3).map(|at| cluster.replica(at).waits_for()).collect();
        panic!("{context}: no service: {waits:#?}")
    });
    assert!(seq.seq > acknowledged, "{context}: {} after {acknowledged}", seq.seq);
    cluster.pass(Duration::from_millis(500));
    assert_eq!(cluster.statuses(), [Status::Normal; 3], "{context}");
    assert!((1..3).all(|at| cluster.state(at) == cluster.state(0)), "{context}");
}

/// Runs a story with a crash after each of its steps, at each replica, with both fates of its writes.
fn enumerate(story: impl Fn(Option<(u64, usize, OnTheirWay)>) -> u64, victims: &[usize]) -> u64 {
    let steps = story(None);
    assert!(steps > 10, "a story with something in it: {steps}");
    let mut points = 0;
    for victim in victims {
        for writes in [OnTheirWay::Lost, OnTheirWay::Written] {
            for after in 1..=steps {
                story(Some((after, *victim, writes)));
                points += 1;
            }
        }
    }
    points
}

fn ready(messages: u64) -> Cluster {
    let mut cluster = Cluster::with_slots(3, 16);
    cluster.pass(Duration::from_millis(50));
    cluster.register();
    cluster.open_room();
    for number in 1..=messages {
        cluster.publish(number).expect("acknowledged");
    }
    cluster.pass(Duration::from_millis(30));
    cluster
}

fn post(cluster: &mut Cluster, number: u64) {
    let mut bytes = Vec::new();
    let body = number.to_string();
    say(cluster.key(number), &body).encode(&mut bytes).unwrap();
    cluster.number += 1;
    cluster.post_request(RequestKind::Commands, &bytes);
}

#[test]
fn every_point_of_a_view_change() {
    let story = |crash: Option<(u64, usize, OnTheirWay)>| {
        let mut cluster = ready(3);
        post(&mut cluster, 4);
        post(&mut cluster, 5);
        // The old primary has sent its prepares and is gone; its backups have them, one of them not flushed.
        for _ in 0..7 {
            step(&mut cluster);
        }
        cluster.crash(0);
        let steps = until(&mut cluster, crash, |cluster| {
            cluster.primary().is_some() && (1..3).all(|at| cluster.view(at).status == Status::Normal)
        });
        must_be_whole(&mut cluster, 3, &format!("{crash:?}"));
        steps
    };
    let points = enumerate(story, &[1, 2]);
    assert!(points > 100, "{points}");
}

#[test]
fn every_point_of_a_checkpoint() {
    let interval = 8;
    let story = |crash: Option<(u64, usize, OnTheirWay)>| {
        // The register and the room are two ops.
        let mut cluster = ready(interval - 3);
        let before = cluster.view(1).checkpoint;
        post(&mut cluster, 90);
        post(&mut cluster, 91);
        let steps = until(&mut cluster, crash, |cluster| {
            (0..3).all(|at| cluster.nodes[at].is_some() && cluster.view(at).checkpoint > before)
        });
        must_be_whole(&mut cluster, interval - 3, &format!("{crash:?}"));
        steps
    };
    let points = enumerate(story, &[0, 1, 2]);
    assert!(points > 100, "{points}");
}

#[test]
fn every_point_of_a_state_transfer() {
    let story = |crash: Option<(u64, usize, OnTheirWay)>| {
        let mut cluster = ready(2);
        cluster.crash(2);
        // Whoever is silent for so long is not waited for.
        cluster.pass(Duration::from_millis(100));
        for number in 3..=40 {
            cluster.publish(number).expect("two are a quorum");
        }
        cluster.start(2);
        let steps = until(&mut cluster, crash, |cluster| {
            cluster.view(2).status == Status::Normal && cluster.view(2).commit == cluster.view(0).commit
        });
        must_be_whole(&mut cluster, 40, &format!("{crash:?}"));
        steps
    };
    let points = enumerate(story, &[2, 0]);
    assert!(points > 100, "{points}");
}
