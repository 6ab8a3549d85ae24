//! Planned hand-over (H58): the lead goes to whom it was meant for, or stays, and no request ever fails.

use std::time::Duration;

use crate::cluster::{Cluster, say};
use tigerchat_core::errors::ErrorCode;
use tigerchat_core::io::{DiskError, DiskOp, Event};
use tigerchat_core::vsr::abdication::Abdication;
use tigerchat_core::vsr::membership::Change;
use tigerchat_core::vsr::replica::Status;
use tigerchat_core::wire::entry::RequestKind;
use tigerchat_core::wire::frame::Command;

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(3);

fn ready(replicas: u8) -> Cluster {
    let mut cluster = Cluster::new(replicas);
    cluster.pass(Duration::from_millis(50));
    cluster.register();
    cluster.open_room();
    for number in 1..=10 {
        cluster.publish(number).expect("acknowledged");
    }
    cluster.pass(Duration::from_millis(150));
    cluster
}

/// It was tried and did not come to be: replica 0 leads in its view, and serves.
fn assert_stays(cluster: &mut Cluster, number: u64) {
    cluster.pass(Duration::from_millis(150));
    assert_eq!((cluster.primary(), cluster.view(0).view), (Some(0), 0));
    assert!(!cluster.replica(0).is_handing_over());
    assert_eq!(cluster.publish(number).expect("served").error, None);
}

#[test]
fn h58_the_lead_goes_to_whom_it_was_meant_for_without_a_pause() {
    for replicas in [3, 5, 7] {
        let mut cluster = ready(replicas);
        let mut number = 10;
        for round in 1..3 * usize::from(replicas) {
            // Also across several views at once.
            let target = (round * 2) % usize::from(replicas);
            if cluster.primary() == Some(target) {
                continue;
            }
            let before = cluster.primary().expect("somebody leads");
            assert_eq!(cluster.hand_over(target), None);
            cluster.settle();
            cluster.pass(SHORT);
            assert_eq!(cluster.primary(), Some(target));
            let told = cluster.replica(before).hand_overs();
            assert!(told.begun > 0);
            assert_eq!((told.done, told.given_up, told.refused), (told.begun, 0, 0));
            number += 1;
            assert_eq!(cluster.publish(number).expect("served").seq, number);
            cluster.pass(Duration::from_millis(150));
        }
        let reasons =
            (0..usize::from(replicas)).map(|at| cluster.replica(at).abdications().iter().sum::<u64>());
        assert_eq!(reasons.sum::<u64>(), 0, "it was no failure");
    }
}

#[test]
fn h58_what_is_in_flight_is_committed_first_and_what_comes_meanwhile_waits() {
    let mut cluster = ready(3);
    let mut bytes = Vec::new();
    say(cluster.key(11), "in flight").encode(&mut bytes).unwrap();
    cluster.number += 1;
    cluster.post_request(RequestKind::Commands, &bytes);
    let (from, to, frame) = cluster.wire.pop_front().unwrap();
    cluster.deliver(from, to, frame);
    let head = cluster.view(0).op;
    assert_eq!(cluster.hand_over(1), None);
    assert!(cluster.replica(0).is_handing_over());
    // Another request while the pipeline drains.
    let key = cluster.key(12);
    let mut late = Vec::new();
    say(key, "late").encode(&mut late).unwrap();
    cluster.number += 1;
    cluster.post_request(RequestKind::Commands, &late);
    let (from, to, frame) = cluster.wire.pop_back().unwrap();
    cluster.deliver(from, to, frame);
    assert_eq!(cluster.view(0).op, head, "nothing follows what was in flight");
    cluster.to_edge.clear();
    cluster.settle();
    cluster.pass(SHORT);
    assert_eq!(cluster.primary(), Some(1));
    let replies = cluster.to_edge.iter().filter(|frame| frame.header.command() == Command::Reply);
    assert_eq!(replies.count(), 1, "the old primary answered what it had begun");
    let announced = cluster.to_edge.iter().any(|frame| {
        frame.header.command() == Command::PongClient
            && frame.header.a.get() == 1
            && frame.header.b.get() != 0
    });
    assert!(announced, "the new one says so without being asked");
    assert_eq!(cluster.again(&[say(key, "late")]).expect("served")[0].seq, 12);
}

#[test]
fn h58_a_hand_over_to_nobody_who_could_lead_is_refused_at_once() {
    let mut cluster = ready(3);
    assert_eq!(cluster.hand_over(0), Some(ErrorCode::ReplicaUnknown), "it leads already");
    assert_eq!(cluster.hand_over(9), Some(ErrorCode::ReplicaUnknown));
    let id = cluster.join();
    assert_eq!(cluster.change(&Change::Standby { id, address: Vec::new() }), None);
    cluster.pass(LONG);
    assert_eq!(
        cluster.hand_over(usize::from(id.0)),
        Some(ErrorCode::ReplicaUnknown),
        "a standby does not lead"
    );
    assert_stays(&mut cluster, 11);
    assert_eq!(cluster.replica(0).hand_overs().begun, 0);
}

#[test]
fn h58_to_a_crashed_replica_the_lead_is_not_given() {
    let mut cluster = ready(3);
    cluster.crash(1);
    // Nobody knows yet: it is tried, and given up.
    assert_eq!(cluster.hand_over(1), None);
    assert_eq!(cluster.hand_over(2), Some(ErrorCode::ChangeInFlight));
    assert_stays(&mut cluster, 11);
    assert_eq!(cluster.replica(0).hand_overs().given_up, 1);
    cluster.pass(Duration::from_secs(1));
    assert_eq!(cluster.hand_over(1), Some(ErrorCode::NotCaughtUp));
    assert_eq!(cluster.hand_over(2), None);
    cluster.settle();
    cluster.pass(SHORT);
    assert_eq!(cluster.primary(), Some(2));
}

#[test]
fn h58_to_a_lagging_replica_the_lead_is_not_given() {
    let mut cluster = ready(3);
    cluster.stalled.push(1);
    for number in 11..=20 {
        cluster.publish(number).expect("acknowledged");
    }
    assert_eq!(cluster.hand_over(1), Some(ErrorCode::NotCaughtUp));
    cluster.stalled.clear();
    cluster.pass(Duration::from_millis(100));
    // A little behind: it has heard of an entry that is not durable there, and declines.
    cluster.stalled.push(1);
    cluster.publish(21).expect("acknowledged");
    assert_eq!(cluster.hand_over(1), None);
    cluster.settle();
    assert_eq!(cluster.replica(0).hand_overs().refused, 1);
    assert_stays(&mut cluster, 22);
}

#[test]
fn h58_to_a_replica_that_takes_a_checkpoint_the_lead_is_not_given() {
    let mut cluster = ready(3);
    cluster.crash(1);
    cluster.pass(Duration::from_millis(500));
    for number in 11..=120 {
        cluster.publish(number).expect("acknowledged");
    }
    cluster.start(1);
    cluster.stalled.push(1);
    let mut refused = 0;
    for _ in 0..3_000 {
        cluster.pass(Duration::from_millis(1));
        cluster.complete_one(1);
        let behind = cluster.view(1).commit < cluster.view(0).commit;
        if !behind {
            break;
        }
        refused += 1;
        assert!(cluster.hand_over(1).is_some() || cluster.replica(0).is_handing_over());
        cluster.settle();
        assert_eq!(cluster.primary(), Some(0));
    }
    assert!(refused > 10, "it was behind for a while");
    cluster.stalled.clear();
    assert_stays(&mut cluster, 121);
}

#[test]
fn h58_to_a_replica_whose_disk_refuses_or_whose_clock_is_off_the_lead_is_not_given() {
    let mut cluster = ready(3);
    cluster.stalled.push(1);
    cluster.publish(11).expect("acknowledged");
    let write = cluster.outside[1].submitted.iter().position(|op| matches!(op, DiskOp::Write { .. }));
    let DiskOp::Write { token, .. } = cluster.outside[1].submitted.remove(write.expect("its log")) else {
        panic!("a write")
    };
    cluster.turn(1, Some(Event::Stored { token, result: Err(DiskError::Full) }));
    assert_eq!(cluster.hand_over(1), None);
    cluster.settle();
    assert_eq!(cluster.replica(0).hand_overs().refused, 1);
    assert_stays(&mut cluster, 12);
    cluster.stalled.clear();
    cluster.pass(LONG);

    cluster.clocks.push((1, 5_000));
    assert_eq!(cluster.hand_over(1), None);
    cluster.settle();
    assert_eq!(cluster.replica(0).hand_overs().refused, 2);
    assert_stays(&mut cluster, 13);
    assert_eq!(cluster.replica(0).abdications()[Abdication::Clock as usize], 0);
}

#[test]
fn h58_a_hand_over_that_is_cut_short_loses_nothing() {
    for victim in [0, 1] {
        for delivered in 0..12 {
            let mut cluster = ready(3);
            assert_eq!(cluster.hand_over(1), None);
            for _ in 0..delivered {
                let frames = cluster.collect();
                frames.into_iter().for_each(|(from, to, frame)| cluster.deliver(from, to, frame));
                (0..3).for_each(|at| {
                    cluster.complete_one(at);
                });
            }
            cluster.crash(victim);
            cluster.pass(LONG);
            cluster.start(victim);
            cluster.pass(LONG);
            assert_eq!(cluster.statuses(), [Status::Normal; 3], "victim {victim} after {delivered}");
            cluster.register();
            assert_eq!(cluster.publish(11).expect("served").seq, 11);
            cluster.pass(Duration::from_millis(200));
            assert!((1..3).all(|at| cluster.state(at) == cluster.state(0)));
        }
    }
}

#[test]
fn h58_only_who_is_to_lead_may_say_that_it_was_planned() {
    let mut cluster = ready(3);
    for (from, view) in [(2, 1_u64), (1, 2), (2, 4)] {
        cluster.forge(from, 0, Command::StartViewChange, |frame| {
            frame.header.op = view.into();
            frame.header.flags = 1.into();
        });
        cluster.settle();
        assert_eq!((cluster.primary(), cluster.view(0).view), (Some(0), 0), "{from} asks for {view}");
    }
    // And only its primary may ask a replica to lead.
    cluster.forge(2, 1, Command::HandOver, |frame| frame.header.op = 1.into());
    cluster.settle();
    cluster.pass(Duration::from_millis(100));
    assert_eq!((cluster.primary(), cluster.view(0).view), (Some(0), 0));
}

/// Two balancers that disagree: the lead goes to and fro as often as they say, never oftener, and all is served.
#[test]
fn h58_two_balancers_that_disagree_cost_a_view_each_and_no_request() {
    let mut cluster = ready(3);
    let (mut asked, mut number) = (0, 10);
    for round in 0..60 {
        if cluster.hand_over(1 + round % 2).is_none() {
            asked += 1;
        }
        cluster.settle();
        cluster.pass(SHORT);
        number += 1;
        assert_eq!(cluster.publish(number).expect("served").seq, number);
    }
    let leader = cluster.primary().expect("somebody leads");
    // From 1 to 2 is one view further, from 2 to 1 two.
    assert!(asked > 10 && cluster.view(leader).view <= 2 * asked, "{asked}: {}", cluster.view(leader).view);
}

#[test]
fn h58_a_primary_that_is_told_to_stop_gives_the_lead_away_first() {
    let mut cluster = ready(3);
    cluster.shut_down(0);
    assert!(cluster.replica(0).is_handing_over());
    cluster.settle();
    cluster.pass(SHORT);
    assert!(!cluster.replica(0).is_handing_over());
    let led = cluster.primary().expect("somebody else leads");
    assert_ne!(led, 0);
    cluster.crash(0);
    assert_eq!(cluster.publish(11).expect("served").seq, 11);
    assert_eq!(cluster.primary(), Some(led));
}
