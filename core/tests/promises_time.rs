//! What is promised of the time of entries.

mod cluster;

use std::time::Duration;

use cluster::Cluster;
use tigerchat_core::wire::entry::RequestKind;
use tigerchat_core::wire::frame::Command;

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
