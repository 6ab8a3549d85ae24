//! Failures that are told from one another: when a primary gives up its place, when it does not, and how often views
//! may change at all.

use std::time::Duration;

use crate::cluster::{Cluster, replica};
use tigerchat_core::vsr::abdication::Abdication;
use tigerchat_core::vsr::replica::Status;

const LONG: Duration = Duration::from_secs(3);

fn ready(replicas: u8) -> Cluster {
    let mut cluster = Cluster::new(replicas);
    cluster.pass(Duration::from_millis(50));
    cluster.register();
    cluster.open_room();
    cluster.publish(1).expect("acknowledged");
    cluster.pass(Duration::from_millis(200));
    cluster
}

fn abdicated(cluster: &Cluster, at: usize, why: Abdication) -> u64 {
    cluster.replica(at).abdications()[why as usize]
}

fn abdications(cluster: &Cluster) -> u64 {
    let live = (0..cluster.nodes.len()).filter(|at| cluster.nodes[*at].is_some());
    live.map(|at| cluster.replica(at).abdications().iter().sum::<u64>()).sum()
}

/// Publishes for so long, every ten milliseconds. How many were acknowledged.
fn busy(cluster: &mut Cluster, time: Duration, number: &mut u64) -> u64 {
    let mut acknowledged = 0;
    for _ in 0..time.as_millis() / 10 {
        *number += 1;
        match cluster.publish(*number) {
            Some(outcome) if outcome.error.is_none() => acknowledged += 1,
            Some(outcome) => panic!("{outcome:?}"),
            None => cluster.number -= 1,
        }
        cluster.pass(Duration::from_millis(10));
    }
    acknowledged
}

#[test]
fn a_calm_cluster_stays_in_its_first_view() {
    for replicas in [1, 3, 5] {
        let mut cluster = ready(replicas);
        let mut number = 1;
        busy(&mut cluster, LONG, &mut number);
        cluster.pass(Duration::from_secs(20));
        assert_eq!((cluster.view(0).view, abdications(&cluster)), (0, 0));
        assert!((0..usize::from(replicas)).all(|at| cluster.replica(at).clocks_agree()));
    }
}

#[test]
fn a_silent_primary_is_replaced_within_300_milliseconds() {
    for seed in 0..20 {
        let mut cluster = ready(3);
        cluster.pass(Duration::from_millis(seed));
        for other in [1, 2] {
            cluster.cut.extend([(replica(0), replica(other)), (replica(other), replica(0))]);
        }
        let mut took = 0;
        while cluster.primary().is_none_or(|primary| primary == 0) {
            cluster.pass(Duration::from_millis(1));
            took += 1;
            assert!(took <= 300, "still nobody");
        }
    }
}

#[test]
fn h18_a_primary_that_only_sends_gives_up() {
    let mut cluster = ready(3);
    cluster.cut.extend([(replica(1), replica(0)), (replica(2), replica(0))]);
    cluster.pass(LONG);
    assert!(cluster.primary().is_some_and(|primary| primary != 0));
    assert_eq!(abdicated(&cluster, 0, Abdication::HearsNobody), 1);
}

#[test]
fn h18_a_primary_that_only_receives_does_not_stand_in_the_way() {
    let mut cluster = ready(3);
    cluster.cut.extend([(replica(0), replica(1)), (replica(0), replica(2))]);
    cluster.pass(LONG);
    assert!(cluster.primary().is_some_and(|primary| primary != 0));
    cluster.register();
    cluster.publish(2).expect("the others serve");
}

/// It hears one backup and is heard by the other: no answer ever comes.
#[test]
fn h18_a_primary_whose_questions_nobody_answers_gives_up() {
    let mut cluster = ready(3);
    cluster.cut.extend([(replica(0), replica(2)), (replica(1), replica(0))]);
    cluster.pass(LONG);
    assert!(cluster.primary().is_some_and(|primary| primary != 0), "{:?}", cluster.primary());
    assert_eq!(abdicated(&cluster, 0, Abdication::HeardByNobody), 1);
}

#[test]
fn h18_whose_reason_has_passed_goes_on() {
    let mut cluster = ready(3);
    let others = [
        (replica(1), replica(0)),
        (replica(2), replica(0)),
        (replica(0), replica(1)),
        (replica(0), replica(2)),
    ];
    // Nobody hears anybody, so nobody can take over.
    cluster.cut.extend(others);
    cluster.cut.extend([(replica(1), replica(2)), (replica(2), replica(1))]);
    cluster.pass(Duration::from_secs(1));
    assert_eq!(abdicated(&cluster, 0, Abdication::HearsNobody), 1);
    cluster.cut.clear();
    cluster.pass(LONG);
    assert_eq!(cluster.statuses(), [Status::Normal; 3]);
    let view = cluster.view(0).view;
    cluster.pass(Duration::from_secs(20));
    assert_eq!(cluster.view(0).view, view, "nobody asks any more");
}

#[test]
fn h19_a_primary_whose_disk_stands_still_while_the_others_go_on_is_replaced() {
    let mut cluster = ready(3);
    let mut number = 1;
    busy(&mut cluster, Duration::from_secs(1), &mut number);
    cluster.stalled.push(0);
    busy(&mut cluster, LONG, &mut number);
    assert_eq!(abdicated(&cluster, 0, Abdication::SlowDisk), 1);
    assert!(cluster.primary().is_some_and(|primary| primary != 0));
    cluster.register();
    assert!(busy(&mut cluster, Duration::from_secs(1), &mut number) >= 90, "and service is as before");
    cluster.stalled.clear();
    cluster.pass(LONG);
    assert_eq!(cluster.statuses(), [Status::Normal; 3]);
}

#[test]
fn h19_when_all_disks_stand_still_nobody_gives_up() {
    let mut cluster = ready(3);
    let mut number = 1;
    busy(&mut cluster, Duration::from_secs(1), &mut number);
    cluster.stalled.extend([0, 1, 2]);
    number += 1;
    assert_eq!(cluster.publish(number), None);
    cluster.pass(Duration::from_secs(10));
    assert_eq!((cluster.primary(), abdications(&cluster)), (Some(0), 0));
    cluster.stalled.clear();
    cluster.pass(Duration::from_millis(100));
    assert_eq!(cluster.view(0).view, 0);
}

#[test]
fn h19_what_finds_no_quorum_though_everybody_answers_ends_with_another_primary() {
    let mut cluster = ready(3);
    // The others' disks stand still, its own does not.
    cluster.stalled.extend([1, 2]);
    assert_eq!(cluster.publish(2), None);
    // Another primary would hardly do better: so it is borne for longer than silence.
    cluster.pass(Duration::from_millis(2_500));
    assert_eq!(abdicated(&cluster, 0, Abdication::NoProgress), 0);
    cluster.pass(Duration::from_millis(1_500));
    assert_eq!(abdicated(&cluster, 0, Abdication::NoProgress), 1);
    cluster.stalled.clear();
    cluster.pass(LONG);
    assert_eq!(cluster.statuses(), [Status::Normal; 3]);
}

#[test]
fn h60_a_primary_whose_clock_is_off_gives_up_and_poisons_no_timestamp() {
    for ahead in [-90_000, 90_000, 400 * 24 * 3_600_000_i64] {
        let mut cluster = ready(3);
        cluster.clocks.push((0, ahead));
        let mut number = 1;
        // From the first moment on its timestamps are those of the others.
        for _ in 0..5 {
            number += 1;
            let outcome = cluster.publish(number).expect("served");
            let off = outcome.time.abs_diff(cluster.now.wall.0);
            assert!(off < 600_000_000, "{ahead} ms ahead: {off} ns off");
        }
        cluster.pass(LONG);
        assert_eq!(abdicated(&cluster, 0, Abdication::Clock), 1, "{ahead} ms ahead");
        assert!(cluster.primary().is_some_and(|primary| primary != 0));
        assert!((0..3).all(|at| cluster.replica(at).clocks_agree()));
        let view = cluster.view(0).view;
        cluster.pass(Duration::from_secs(20));
        assert_eq!(cluster.view(0).view, view, "and that is all");
    }
}

#[test]
fn h60_a_clock_that_is_off_for_a_moment_does_not_cost_the_lead() {
    let mut cluster = ready(3);
    cluster.clocks.push((0, 90_000));
    cluster.pass(Duration::from_millis(600));
    cluster.clocks.clear();
    cluster.pass(LONG);
    assert_eq!((abdications(&cluster), cluster.primary()), (0, Some(0)));
}

#[test]
fn h60_two_clocks_far_apart_raise_an_alarm_and_time_goes_on_from_the_last_timestamp() {
    for ahead in [-90_000, 90_000, 400 * 24 * 3_600_000_i64] {
        for bad in [0, 1] {
            let mut cluster = ready(3);
            cluster.crash(2);
            // Until nobody knows any more what its clock showed.
            cluster.pass(Duration::from_secs(12));
            cluster.clocks.push((bad, ahead));
            cluster.pass(LONG);
            assert!(!cluster.replica(0).clocks_agree() && !cluster.replica(1).clocks_agree());
            cluster.register();
            let mut last = 0;
            for number in 2..6 {
                let outcome = cluster.publish(number).expect("served");
                assert_eq!(outcome.error, None);
                let off = outcome.time.abs_diff(cluster.now.wall.0);
                assert!(outcome.time > last && off < 600_000_000, "{ahead} ms ahead: {off} ns off");
                last = outcome.time;
                cluster.pass(Duration::from_millis(700));
            }
            assert_eq!(abdications(&cluster), 0, "no interval, no abdication");
            cluster.start(2);
            cluster.pass(LONG);
            assert!((0..3).all(|at| cluster.replica(at).clocks_agree()), "the third decides");
            assert!(cluster.primary().is_some_and(|primary| primary != bad));
        }
    }
}

#[test]
fn h60_alone_a_clock_is_what_it_is() {
    let mut cluster = ready(1);
    cluster.clocks.push((0, 30_000));
    cluster.pass(LONG);
    assert_eq!((abdications(&cluster), cluster.replica(0).clocks_agree()), (0, true));
}

/// Disks so slow that a view change takes longer than its first timeouts, again and again.
#[test]
fn h17_views_per_minute_are_bounded_however_slow_the_disks_and_one_view_wins() {
    for replicas in [3, 5] {
        for flush in [150, 250, 400, 700] {
            let mut cluster = ready(replicas);
            let all: Vec<usize> = (0..usize::from(replicas)).collect();
            cluster.crash(0);
            cluster.stalled = all.clone();
            let mut views = Vec::new();
            for tick in 0..60_000 / 10 {
                cluster.pass(Duration::from_millis(10));
                if tick % (flush / 10) == 0 {
                    for at in &all {
                        for _ in 0..cluster.outside[*at].submitted.len() {
                            cluster.complete_one(*at);
                        }
                    }
                }
                views.extend(cluster.primary().map(|primary| cluster.view(primary).view));
            }
            let highest = all.iter().skip(1).map(|at| cluster.view(*at).view).max().unwrap();
            assert!(highest <= 20, "{replicas} replicas, {flush} ms: view {highest} after a minute");
            assert!(cluster.primary().is_some(), "{replicas} replicas, {flush} ms: nobody leads");
            let last = views[views.len() - 500..].iter().all(|view| view == views.last().unwrap());
            assert!(last, "{replicas} replicas, {flush} ms: still changing");
        }
    }
}
