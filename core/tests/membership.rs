//! Changes of members, one story each (H57, H23, I08, I29).

use std::time::Duration;

use crate::cluster::{Cluster, replica};
use tigerchat_core::errors::ErrorCode;
use tigerchat_core::io::Fatal;
use tigerchat_core::types::ReplicaId;
use tigerchat_core::vsr::membership::{Change, Members, Role};
use tigerchat_core::vsr::replica::Status;
use tigerchat_core::wire::frame::Command;

const MOMENT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(3);

fn ready(replicas: u8) -> Cluster {
    let mut cluster = Cluster::new(replicas);
    cluster.pass(Duration::from_millis(50));
    cluster.register();
    cluster.open_room();
    publish(&mut cluster, 1);
    cluster.pass(MOMENT);
    cluster
}

/// Publishes, in a new session if need be.
fn publish(cluster: &mut Cluster, number: u64) {
    for _ in 0..20 {
        if cluster.publish(number).is_some_and(|outcome| outcome.error.is_none()) {
            return;
        }
        cluster.pass(MOMENT);
        if cluster.primary().is_some() {
            cluster.register();
        }
    }
    panic!("message {number} is never acknowledged");
}

fn standby(id: ReplicaId) -> Change {
    Change::Standby { id, address: Vec::new() }
}

fn replace(lost: u16, id: ReplicaId) -> Change {
    Change::Replace { lost: ReplicaId(lost), id, address: Vec::new() }
}

fn members(cluster: &Cluster) -> &Members {
    cluster.replica(cluster.primary().expect("a primary")).members()
}

fn voters(cluster: &Cluster) -> Vec<u16> {
    let mut voters: Vec<u16> = members(cluster).voters().map(|id| id.0).collect();
    voters.sort_unstable();
    voters
}

/// All members that are up have the same members, log and state.
fn assert_agree(cluster: &Cluster) {
    let all = members(cluster);
    let up = all.ids().map(|id| usize::from(id.0)).filter(|at| cluster.nodes[*at].is_some());
    let primary = cluster.primary().unwrap();
    for at in up {
        assert_eq!(cluster.replica(at).members(), all, "replica {at}");
        assert!(cluster.state(at) == cluster.state(primary), "replica {at}");
    }
}

#[test]
fn h57_a_standby_receives_the_log_counts_for_nothing_and_is_promoted() {
    let mut cluster = ready(3);
    let id = cluster.join();
    assert_eq!(cluster.view(3).status, Status::Recovering, "it does not know the shard yet");
    assert_eq!(cluster.change(&standby(id)), None);
    publish(&mut cluster, 2);
    cluster.pass(MOMENT);
    assert_eq!(voters(&cluster), [0, 1, 2]);
    assert_eq!(cluster.view(3).commit, cluster.view(0).commit);
    assert_agree(&cluster);
    // Two of three voters are gone: the standby makes no quorum.
    cluster.crash(1);
    cluster.crash(2);
    cluster.pass(LONG);
    assert_eq!(cluster.publish(3), None);
    cluster.start(1);
    cluster.start(2);
    cluster.pass(LONG);
    let view = members(&cluster).number;
    assert_eq!(cluster.change(&Change::Promote { id }), None);
    assert_eq!((voters(&cluster), members(&cluster).number), (vec![0, 1, 2, 3], view + 1));
    assert_eq!(members(&cluster).quorums().replication, 3);
    publish(&mut cluster, 4);
    cluster.pass(MOMENT);
    assert_agree(&cluster);
}

/// A standby never spoke in any view: other members are no reason for it to leave one, in which all others stay.
#[test]
fn h57_members_that_change_while_a_standby_asks_where_the_log_begins_do_not_lead_it_astray() {
    let mut cluster = ready(3);
    cluster.crash(0);
    cluster.pass(LONG);
    cluster.start(0);
    for number in 2..100 {
        publish(&mut cluster, number);
    }
    let view = cluster.view(1).view;
    let id = cluster.join();
    // It begins with a state transfer, which does not end yet.
    cluster.lost = vec![Command::Block];
    assert_eq!(cluster.change(&standby(id)), None);
    cluster.pass(MOMENT);
    assert_eq!((cluster.view(3).status, cluster.view(3).view), (Status::ViewChange, view));
    assert_eq!(cluster.change(&standby(ReplicaId(4))), None);
    cluster.pass(MOMENT);
    assert_eq!(cluster.replica(3).members().number, members(&cluster).number);
    cluster.lost.clear();
    publish(&mut cluster, 100);
    cluster.pass(LONG);
    assert_eq!((cluster.view(3).status, cluster.view(3).view), (Status::Normal, view));
    assert!(cluster.state(3) == cluster.state(1));
}

#[test]
fn h57_a_change_costs_no_view_change() {
    let mut cluster = ready(3);
    let view = cluster.view(0).view;
    let id = cluster.join();
    assert_eq!(cluster.change(&standby(id)), None);
    assert_eq!(cluster.change(&Change::Promote { id }), None);
    let other = (cluster.primary().unwrap() + 1) % 3;
    assert_eq!(cluster.change(&Change::Remove { id: ReplicaId(u16::try_from(other).unwrap()) }), None);
    assert_eq!((cluster.view(0).view, members(&cluster).number), (view, 3));
    publish(&mut cluster, 2);
    assert_eq!(cluster.outside[other].stopped, Some(Fatal::Removed));
}

#[test]
fn h23_a_lost_disk_is_replaced_while_the_shard_serves() {
    let mut cluster = ready(3);
    let lost = (cluster.primary().unwrap() + 1) % 3;
    cluster.crash(lost);
    publish(&mut cluster, 2);
    let id = cluster.join();
    assert_eq!(cluster.change(&replace(u16::try_from(lost).unwrap(), id)), None);
    for number in 3..60 {
        // The log goes round: the new replica takes a checkpoint.
        publish(&mut cluster, number);
        cluster.ping();
    }
    cluster.pass(LONG);
    assert!(members(&cluster).is_voter(id), "promoted as soon as it had caught up");
    assert_eq!(voters(&cluster).len(), 3);
    assert_agree(&cluster);
    // Now it counts: another one may fail.
    let primary = cluster.primary().unwrap();
    cluster.crash(primary);
    cluster.pass(LONG);
    publish(&mut cluster, 60);
    // And the lost one, should it come back, learns that it is out.
    cluster.start(lost);
    cluster.pass(LONG);
    assert_eq!(cluster.outside[lost].stopped, Some(Fatal::Removed));
}

#[test]
fn h57_what_can_not_be_safe_is_refused() {
    let mut one = ready(1);
    assert_eq!(one.change(&Change::Remove { id: ReplicaId(0) }), Some(ErrorCode::QuorumsUnsafe));
    assert_eq!(one.change(&replace(0, ReplicaId(1))), Some(ErrorCode::QuorumsUnsafe), "alone");

    let mut cluster = ready(3);
    let id = ReplicaId(3);
    assert_eq!(cluster.change(&Change::Promote { id }), Some(ErrorCode::ReplicaNotStandby));
    assert_eq!(cluster.change(&Change::Promote { id: ReplicaId(1) }), Some(ErrorCode::ReplicaNotStandby));
    assert_eq!(cluster.change(&Change::Remove { id }), Some(ErrorCode::ReplicaUnknown));
    assert_eq!(cluster.change(&standby(ReplicaId(2))), Some(ErrorCode::ReplicaIdUsed));
    // A standby that never came can't be promoted.
    assert_eq!(cluster.change(&standby(id)), None);
    assert_eq!(cluster.change(&Change::Promote { id }), Some(ErrorCode::NotCaughtUp));
    assert_eq!(cluster.change(&Change::Remove { id }), None);
    assert_eq!(cluster.change(&standby(id)), Some(ErrorCode::ReplicaIdUsed), "not even by itself");
    // Without a second voter that follows, none may leave.
    let primary = cluster.primary().unwrap();
    let (down, left) = ((primary + 1) % 3, (primary + 2) % 3);
    cluster.crash(down);
    cluster.pass(LONG);
    let left = Change::Remove { id: ReplicaId(u16::try_from(left).unwrap()) };
    assert_eq!(cluster.change(&left), Some(ErrorCode::NoHealthyQuorum));
    publish(&mut cluster, 2);
}

#[test]
fn h57_one_change_at_a_time_and_of_the_members_that_were_seen() {
    let mut cluster = ready(3);
    assert_eq!(cluster.change(&standby(ReplicaId(3))), None);
    let primary = cluster.primary().unwrap();
    // Its disk stands still: the change is in flight.
    let other = (primary + 1) % 3;
    let links: Vec<_> =
        (0..3).filter(|at| *at != primary).map(|at| (replica(at), replica(primary))).collect();
    publish(&mut cluster, 2);
    cluster.pass(MOMENT);
    cluster.cut.extend(&links);
    let change = Change::Remove { id: ReplicaId(u16::try_from(other).unwrap()) };
    let first = cluster.change_once(&change);
    assert_eq!(first, None);
    assert_eq!(cluster.change_once(&standby(ReplicaId(4))), Some(ErrorCode::ChangeInFlight));
    cluster.cut.clear();
    cluster.pass(LONG);
    assert_eq!(voters(&cluster).len(), 2, "what was accepted is done in the end, or its view ended");
}

#[test]
fn h57_a_primary_that_removes_itself_hands_over() {
    let mut cluster = ready(3);
    let primary = cluster.primary().unwrap();
    assert_eq!(cluster.change(&Change::Remove { id: ReplicaId(u16::try_from(primary).unwrap()) }), None);
    cluster.pass(LONG);
    assert_eq!(cluster.outside[primary].stopped, Some(Fatal::Removed));
    cluster.crash(primary);
    publish(&mut cluster, 2);
    assert_eq!(voters(&cluster).len(), 2);
    cluster.pass(MOMENT);
    assert_agree(&cluster);
}

#[test]
fn h57_members_survive_a_power_loss_and_who_was_away_learns_them() {
    let mut cluster = ready(3);
    let away = (cluster.primary().unwrap() + 1) % 3;
    cluster.crash(away);
    let id = cluster.join();
    assert_eq!(cluster.change(&standby(id)), None);
    assert_eq!(cluster.change(&Change::Promote { id }), None);
    for number in 2..60 {
        publish(&mut cluster, number);
        cluster.ping();
    }
    (0..4).for_each(|at| cluster.crash(at));
    (0..4).for_each(|at| cluster.start(at));
    cluster.pass(LONG);
    publish(&mut cluster, 60);
    cluster.pass(LONG);
    assert_eq!(voters(&cluster), [0, 1, 2, 3]);
    assert_agree(&cluster);
    assert_eq!(members(&cluster).get(id).map(|member| member.role), Some(Role::Voter));
}

#[test]
fn h57_a_change_that_its_proposer_never_committed_is_undone_or_done_by_the_next_primary() {
    // The proposer is cut off from both others, or its change still reaches one of them, and it crashes.
    for reaches in [false, true] {
        let mut cluster = ready(3);
        let id = cluster.join();
        assert_eq!(cluster.change(&standby(id)), None);
        publish(&mut cluster, 2);
        cluster.pass(MOMENT);
        let old = cluster.primary().unwrap();
        let others: Vec<usize> = (0..3).filter(|at| *at != old).collect();
        for other in others.iter().chain(&[3]) {
            cluster.cut.push((replica(*other), replica(old)));
            if !(reaches && *other == others[0]) {
                cluster.cut.push((replica(old), replica(*other)));
            }
        }
        assert_eq!(cluster.change_once(&Change::Promote { id }), None);
        cluster.crash(old);
        cluster.cut.clear();
        cluster.pass(LONG);
        publish(&mut cluster, 3);
        cluster.start(old);
        cluster.pass(LONG);
        assert_eq!(members(&cluster).is_voter(id), reaches);
        assert_agree(&cluster);
    }
}

#[test]
fn h05_the_only_voter_does_not_resume_its_view_before_standbys_that_saw_more_of_it() {
    let mut cluster = ready(1);
    let id = cluster.join();
    assert_eq!(cluster.change(&standby(id)), None);
    publish(&mut cluster, 2);
    cluster.pass(MOMENT);
    // Sent, and not written: the standby has an entry that the only voter forgets.
    cluster.number += 1;
    let mut bytes = Vec::new();
    crate::cluster::say(cluster.key(9), "x").encode(&mut bytes).unwrap();
    cluster.post_request(tigerchat_core::wire::entry::RequestKind::Commands, &bytes);
    let (from, to, frame) = cluster.wire.pop_front().unwrap();
    cluster.deliver(from, to, frame);
    for (from, to, frame) in cluster.collect() {
        cluster.deliver(from, to, frame);
    }
    assert_eq!(cluster.view(1).op, cluster.view(0).op);
    cluster.crash(0);
    cluster.start(0);
    cluster.pass(MOMENT);
    cluster.number -= 1;
    publish(&mut cluster, 3);
    cluster.pass(LONG);
    assert_agree(&cluster);
}

/// Whoever joins may hear of members that it is not among yet, and waits: it acts by those that name it.
#[test]
fn who_joins_waits_for_members_that_it_is_among() {
    let mut cluster = ready(3);
    let first = cluster.join();
    assert_eq!(cluster.change(&standby(first)), None);
    let second = cluster.join();
    let at = usize::from(second.0);
    let mut told = Vec::new();
    members(&cluster).encode(&mut told);
    let mut draft = cluster.outside[at].pool.draft(told.len()).expect("pool");
    draft.extend(&told).unwrap();
    cluster.forge(0, at, Command::Members, |frame| frame.payload = Some(draft.seal()));
    cluster.pass(LONG);
    assert!(cluster.replica(at).members().is_unknown());
    assert_eq!(cluster.view(at).status, Status::Recovering);
    assert_eq!(cluster.change(&standby(second)), None);
    cluster.pass(LONG);
    assert!(cluster.replica(at).members().get(second).is_some());
    assert_eq!(cluster.view(at).status, Status::Normal);
}
