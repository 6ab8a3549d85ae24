//! What is cut between replicas, and what must go on all the same.

use std::time::Duration;

use crate::cluster::{Cluster, replica, say};
use tigerchat_core::vsr::replica::Status;

const LONG: Duration = Duration::from_secs(3);
const LINKS: [(usize, usize); 6] = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)];

fn ready() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.pass(Duration::from_millis(50));
    cluster.register();
    cluster.open_room();
    cluster
}

fn cut(cluster: &mut Cluster, pattern: u32) {
    let links = LINKS.into_iter().enumerate().filter(|(bit, _)| pattern >> bit & 1 == 1);
    cluster.cut.extend(links.map(|(_, (from, to))| (replica(from), replica(to))));
}

/// An edge asks whoever leads, again and again, as edges do.
fn serves(cluster: &mut Cluster, number: u64) -> bool {
    let (key, body) = (cluster.key(number), number.to_string());
    cluster.number += 1;
    for _ in 0..60 {
        if cluster.again(&[say(key, &body)]).is_some_and(|outcomes| outcomes[0].error.is_none()) {
            return true;
        }
        cluster.ping();
        cluster.pass(Duration::from_millis(100));
    }
    false
}

#[test]
fn h18_one_cut_link_costs_neither_the_service_nor_a_spare() {
    for (bit, link) in LINKS.into_iter().enumerate() {
        let mut cluster = ready();
        cut(&mut cluster, 1 << bit);
        for number in 1..=40 {
            assert!(serves(&mut cluster, number), "link {:?}, message {number}", link);
            cluster.pass(Duration::from_millis(20));
        }
        cluster.pass(Duration::from_millis(500));
        assert_eq!(cluster.statuses(), [Status::Normal; 3], "link {:?}", link);
        let views: Vec<_> = (0..3).map(|at| cluster.view(at)).collect();
        assert!(views.iter().all(|view| view.view == views[0].view), "link {:?}: {views:#?}", link);
        assert!(views.iter().all(|view| view.op == views[0].op), "link {:?}: {views:#?}", link);
        // The spare is one: whoever leads may go.
        let primary = cluster.primary().unwrap();
        cluster.crash(primary);
        cluster.cut.clear();
        cluster.pass(LONG);
        cluster.register();
        assert!(serves(&mut cluster, 41), "link {:?}, without replica {primary}", link);
    }
}

#[test]
fn h18_a_replica_that_a_new_primary_does_not_reach_joins_its_view_through_another() {
    let mut cluster = ready();
    // Replica 1 will lead; what it sends to replica 0 is lost.
    cluster.cut.push((replica(1), replica(0)));
    cluster.crash(0);
    cluster.pass(LONG);
    assert_eq!(cluster.primary(), Some(1));
    cluster.start(0);
    cluster.pass(LONG);
    assert_eq!(cluster.statuses(), [Status::Normal; 3]);
    assert_eq!((cluster.primary(), cluster.view(0).view), (Some(1), cluster.view(1).view));
}
#[test]
fn h18_wherever_two_replicas_hear_each_other_there_is_service() {
    for pattern in 0..64_u32 {
        let mut cluster = ready();
        cut(&mut cluster, pattern);
        let up = |from: usize, to: usize| !cluster.cut.contains(&(replica(from), replica(to)));
        let pair = [(0, 1), (0, 2), (1, 2)].into_iter().any(|(one, other)| up(one, other) && up(other, one));
        if !pair {
            continue;
        }
        for number in 1..=3 {
            let waits =
                |cluster: &Cluster| (0..3).map(|at| cluster.replica(at).waits_for()).collect::<Vec<_>>();
            let served = serves(&mut cluster, number);
            assert!(served, "pattern {pattern:06b}, message {number}: {:#?}", waits(&cluster));
        }
        // Whoever gives up the lead has done so by now.
        cluster.pass(LONG);
        let before = cluster.primary().map(|primary| cluster.view(primary).view);
        cluster.pass(LONG);
        let after = cluster.primary().map(|primary| cluster.view(primary).view);
        assert_eq!(before, after, "pattern {pattern:06b}: and it stays");
    }
}
