//! Old and new binaries of one shard (H60): each op means the same to all of them, service never stops for an
//! upgrade, and whoever is too old says so and ends.

use std::time::Duration;

use crate::cluster::Cluster;
use tigerchat_core::errors::ErrorCode;
use tigerchat_core::io::Fatal;
use tigerchat_core::pool::{Message, Pool};
use tigerchat_core::store::superblock::OpenError;
use tigerchat_core::vsr::marks::Mark;
use tigerchat_core::vsr::membership::Change;
use tigerchat_core::vsr::release::{Releases, WrongRelease};
use tigerchat_core::vsr::replica::{Ignored, pool_classes};
use tigerchat_core::wire::entry::{Digest, ENTRY_HEADER, EntryHeader, RequestHeader, RequestKind};
use tigerchat_core::wire::frame::Command;
use zerocopy::IntoBytes as _;

const OLD: Releases = Releases { oldest: 1, newest: 1, hold: false };
const NEW: Releases = Releases { oldest: 1, newest: 2, hold: false };
const TOO_OLD: WrongRelease = WrongRelease { needed: 2, oldest: 1, newest: 1 };

/// Longer than all that an upgrade waits for.
const ENOUGH: Duration = Duration::from_millis(600);

fn served(replicas: u8) -> Cluster {
    let mut cluster = Cluster::new(replicas);
    cluster.register();
    cluster.open_room();
    cluster
}

/// Restarts a replica as another binary.
fn restart(cluster: &mut Cluster, at: usize, binary: Releases) {
    cluster.crash(at);
    cluster.binaries[at] = binary;
    cluster.start(at);
    cluster.settle();
}

/// Restarts one after the other, and writes meanwhile. The one that stays is a backup, and old.
fn all_but_one(cluster: &mut Cluster) -> usize {
    for at in 0..2 {
        restart(cluster, at, NEW);
        cluster.pass(ENOUGH);
        cluster.register();
    }
    if cluster.primary() == Some(2) {
        assert_eq!(cluster.hand_over(0), None);
        cluster.pass(ENOUGH);
        cluster.register();
    }
    assert_ne!(cluster.primary(), Some(2));
    2
}

fn upgraded(replicas: u8) -> Cluster {
    let mut cluster = served(replicas);
    for at in 0..usize::from(replicas) {
        restart(&mut cluster, at, NEW);
        cluster.pass(ENOUGH);
    }
    cluster.pass(ENOUGH);
    cluster.register();
    assert_eq!(releases(&cluster), vec![2; usize::from(replicas)]);
    cluster
}

fn releases(cluster: &Cluster) -> Vec<u32> {
    let live = (0..cluster.nodes.len()).filter(|at| cluster.nodes[*at].is_some());
    live.map(|at| cluster.replica(at).release()).collect()
}

fn publish(cluster: &mut Cluster, number: u64) {
    assert_eq!(cluster.publish(number).expect("there is service").error, None);
}

#[test]
fn h60_a_shard_moves_on_when_all_members_run_the_next_release_and_serves_all_the_while() {
    let mut cluster = served(3);
    let last = all_but_one(&mut cluster);
    publish(&mut cluster, 1);
    assert_eq!(releases(&cluster), [1, 1, 1], "one is old");
    assert!((0..2).any(|at| cluster.replica(at).marks().has(Mark::UpgradeWaits)));
    restart(&mut cluster, last, NEW);
    publish(&mut cluster, 2);
    cluster.pass(ENOUGH);
    publish(&mut cluster, 3);
    cluster.pass(ENOUGH);
    assert_eq!(releases(&cluster), [2, 2, 2]);
    let upgrades = (0..3).map(|at| cluster.replica(at).machine().release()).collect::<Vec<_>>();
    assert_eq!(upgrades, [2, 2, 2]);
    assert_eq!(cluster.state(0), cluster.state(1));
    assert_eq!(cluster.state(0), cluster.state(2));
}

#[test]
fn h60_an_op_keeps_its_release_whichever_binary_executes_it() {
    let mut cluster = served(3);
    (1..4).for_each(|number| publish(&mut cluster, number));
    // It executes again what the older binary had executed, before anything is upgraded.
    let backup = (0..3).find(|at| cluster.primary() != Some(*at)).unwrap();
    restart(&mut cluster, backup, NEW);
    cluster.pass(ENOUGH);
    assert_eq!(cluster.replica(backup).machine().release(), 1);
    let primary = cluster.primary().unwrap();
    assert_eq!(cluster.state(backup), cluster.state(primary));
    let op = cluster.view(backup).commit;
    assert_eq!((1..=op).map(|op| cluster.replica(backup).header(op).unwrap().release.get()).max(), Some(1));
}

#[test]
fn h60_a_binary_that_is_too_old_for_its_log_ends_and_says_which_it_needs() {
    let mut cluster = upgraded(3);
    publish(&mut cluster, 1);
    let backup = (0..3).find(|at| cluster.primary() != Some(*at)).unwrap();
    restart(&mut cluster, backup, OLD);
    assert_eq!(cluster.outside[backup].stopped, Some(Fatal::Release(TOO_OLD)));
    assert!(cluster.outside[backup].sent.is_empty(), "it said nothing");
    assert_eq!(
        TOO_OLD.to_string(),
        "16012: it has ops of release 2, this binary runs 1 to 1: start it with a newer one"
    );
    cluster.nodes[backup] = None;
    publish(&mut cluster, 2);
    // Once the superblock names a checkpoint or a log of that release, it does not even open.
    cluster.binaries[backup] = NEW;
    cluster.start(backup);
    cluster.pass(ENOUGH);
    (3..40).for_each(|number| publish(&mut cluster, number));
    cluster.pass(ENOUGH);
    cluster.crash(backup);
    cluster.binaries[backup] = OLD;
    assert_eq!(cluster.try_start(backup), Err(OpenError::Release(TOO_OLD)));
    cluster.binaries[backup] = NEW;
    cluster.start(backup);
    cluster.pass(ENOUGH);
    assert_eq!(cluster.state(0), cluster.state(1));
    assert_eq!(cluster.state(0), cluster.state(2));
}

#[test]
fn h60_a_binary_that_no_longer_runs_the_release_of_a_checkpoint_does_not_open_it() {
    let mut cluster = served(3);
    cluster.crash(1);
    cluster.binaries[1] = Releases { oldest: 2, newest: 3, hold: false };
    let error = cluster.try_start(1).unwrap_err();
    assert_eq!(error, OpenError::Release(WrongRelease { needed: 1, oldest: 2, newest: 3 }));
    assert!(error.to_string().ends_with("start it with an older one"), "{error}");
}

#[test]
fn h60_an_upgrade_that_met_a_downgrade_is_undone_and_the_shard_serves_under_the_old_release() {
    let mut cluster = served(3);
    let last = all_but_one(&mut cluster);
    let primary = cluster.primary().unwrap();
    // The upgrade is an entry of the primary's log, and of nobody else's.
    cluster.lost = vec![Command::Prepare];
    restart(&mut cluster, last, NEW);
    for _ in 0..150 {
        cluster.pass(Duration::from_millis(1));
        if cluster.replica(primary).header(cluster.view(primary).op).unwrap().release.get() == 2 {
            break;
        }
    }
    let op = cluster.view(primary).op;
    assert_eq!(cluster.replica(primary).header(op).unwrap().release.get(), 2);
    assert_eq!(cluster.primary(), Some(primary));
    cluster.crash(primary);
    let others: Vec<usize> = (0..3).filter(|at| *at != primary).collect();
    cluster.lost.clear();
    others.iter().for_each(|at| restart(&mut cluster, *at, OLD));
    cluster.pass(Duration::from_secs(2));
    cluster.register();
    publish(&mut cluster, 1);
    cluster.start(primary);
    cluster.pass(ENOUGH);
    assert_eq!(releases(&cluster), [1, 1, 1]);
    assert_eq!(cluster.replica(primary).header(op).unwrap().release.get(), 1, "another entry has its place");
    // Nothing is lost by it: the next time it comes through.
    others.iter().for_each(|at| {
        restart(&mut cluster, *at, NEW);
        cluster.pass(ENOUGH);
    });
    cluster.pass(ENOUGH);
    assert_eq!(releases(&cluster), [2, 2, 2]);
}

#[test]
fn h60_who_went_back_too_late_lets_the_upgrade_not_in_and_ends_when_it_is_committed() {
    let mut cluster = served(3);
    let last = all_but_one(&mut cluster);
    restart(&mut cluster, last, NEW);
    // It said that it runs the next release, and is gone.
    cluster.crash(last);
    cluster.pass(Duration::from_millis(150));
    let primary = cluster.primary().unwrap();
    assert_eq!(cluster.replica(primary).release(), 2);
    restart(&mut cluster, last, OLD);
    cluster.pass(ENOUGH);
    assert_eq!(cluster.outside[last].stopped, Some(Fatal::Release(TOO_OLD)));
    let marks = cluster.replica(last).marks();
    assert!(marks.has(Mark::ReleaseBeyond) && marks.has(Mark::ReleaseEnds));
    assert_eq!(cluster.replica(last).release(), 1, "it executed nothing of it");
    cluster.nodes[last] = None;
    publish(&mut cluster, 1);
    restart(&mut cluster, last, NEW);
    cluster.pass(ENOUGH);
    assert_eq!(cluster.state(last), cluster.state(primary));
}

#[test]
fn h60_one_replica_that_holds_keeps_the_shard_where_it_is() {
    let mut cluster = served(3);
    for at in 0..3 {
        restart(&mut cluster, at, Releases { hold: at == 1, ..NEW });
        cluster.pass(ENOUGH);
    }
    cluster.pass(Duration::from_secs(2));
    assert_eq!(releases(&cluster), [1, 1, 1]);
    restart(&mut cluster, 1, NEW);
    cluster.pass(ENOUGH);
    assert_eq!(releases(&cluster), [2, 2, 2]);
}

#[test]
fn h60_the_word_of_a_process_that_is_gone_counts_for_nothing() {
    let mut cluster = served(3);
    for at in 0..3 {
        restart(&mut cluster, at, Releases { hold: at == 0, ..NEW });
        cluster.pass(ENOUGH);
    }
    // Everybody said it once, but one is long down: what comes back may be older.
    cluster.crash(1);
    cluster.pass(ENOUGH);
    restart(&mut cluster, 0, NEW);
    cluster.pass(Duration::from_secs(2));
    assert_eq!(releases(&cluster), [1, 1]);
    restart(&mut cluster, 1, NEW);
    cluster.pass(ENOUGH);
    assert_eq!(releases(&cluster), [2, 2, 2]);
}

#[test]
fn h60_a_standby_whose_binary_is_too_old_is_not_promoted() {
    let mut cluster = upgraded(3);
    let standby = cluster.join();
    assert_eq!(cluster.change(&Change::Standby { id: standby, address: Vec::new() }), None);
    cluster.pass(ENOUGH);
    let (at, primary) = (usize::from(standby.0), cluster.primary().unwrap());
    cluster.forge(at, primary, Command::Ping, |frame| {
        frame.header.release = 1.into();
        frame.header.config = 1.into();
    });
    assert_eq!(cluster.change_once(&Change::Promote { id: standby }), Some(ErrorCode::ReleaseUnfit));
    cluster.pass(ENOUGH);
    assert_eq!(cluster.change(&Change::Promote { id: standby }), None, "it really runs it");
}

#[test]
fn h60_a_newcomer_whose_binary_is_too_old_ends() {
    let mut cluster = upgraded(3);
    (1..40).for_each(|number| publish(&mut cluster, number));
    cluster.binaries[0] = OLD;
    let standby = cluster.join();
    assert_eq!(cluster.change(&Change::Standby { id: standby, address: Vec::new() }), None);
    cluster.pass(Duration::from_secs(2));
    let at = usize::from(standby.0);
    assert_eq!(cluster.outside[at].stopped, Some(Fatal::Release(TOO_OLD)), "the state is of a newer release");
    assert_eq!(cluster.replica(at).release(), 1);
    publish(&mut cluster, 40);
}

#[test]
fn h60_no_members_change_while_an_upgrade_is_in_flight() {
    let mut cluster = served(3);
    let last = all_but_one(&mut cluster);
    let primary = cluster.primary().unwrap();
    cluster.lost = vec![Command::PrepareOk];
    restart(&mut cluster, last, NEW);
    cluster.pass(Duration::from_millis(120));
    let head = cluster.view(primary).op;
    assert_eq!(cluster.replica(primary).header(head).unwrap().release.get(), 2);
    let gone = Change::Remove { id: tigerchat_core::types::ReplicaId(last as u16) };
    assert_eq!(cluster.change_once(&gone), Some(ErrorCode::ChangeInFlight));
    cluster.lost.clear();
    cluster.pass(ENOUGH);
    assert_eq!(cluster.replica(primary).release(), 2);
}

/// What a backup holds a primary to, which may be broken: an entry after its head, of a release, with requests.
fn entry_after(cluster: &Cluster, at: usize, release: u32, kinds: &[RequestKind]) -> (EntryHeader, Vec<u8>) {
    let request = |kind: &RequestKind| {
        let (client, session, number, size) = (0.into(), 0.into(), 0.into(), 0.into());
        let digest = RequestHeader::digest_of(&[]).into();
        RequestHeader { client, session, number, size, kind: (*kind as u32).into(), digest }
    };
    let body: Vec<u8> = kinds.iter().flat_map(|kind| request(kind).as_bytes().to_vec()).collect();
    let mut header = cluster.replica(at).header(cluster.view(at).op).expect("the head is known");
    header.parent = header.digest();
    header.op = (header.op.get() + 1).into();
    header.size = u32::try_from(ENTRY_HEADER + body.len()).unwrap().into();
    (header.release, header.body) = (release.into(), Digest::of(&body));
    (header, body)
}

fn message(cluster: &Cluster, parts: &[&[u8]]) -> Option<Message> {
    let mut draft = Pool::new(&pool_classes(&cluster.config, 1)).draft(parts.concat().len())?;
    draft.extend(&parts.concat()).ok()?;
    Some(draft.seal())
}

fn malformed(cluster: &Cluster, at: usize) -> u64 {
    cluster.replica(at).ignored()[Ignored::Malformed as usize]
}

/// A cluster of which one backup, 1, runs more than one release after that in force.
fn far_ahead() -> Cluster {
    let mut cluster = served(3);
    restart(&mut cluster, 1, Releases { oldest: 1, newest: 9, hold: false });
    cluster.pass(ENOUGH);
    assert_eq!((cluster.primary(), releases(&cluster)), (Some(0), vec![1, 1, 1]));
    cluster
}

#[test]
fn h60_a_backup_lets_a_release_rise_by_one_and_with_an_upgrade_only() {
    use RequestKind::{Reconfigure, Upgrade};
    let mut cluster = far_ahead();
    let entries: [(u32, &[RequestKind], bool); 10] = [
        (1, &[Reconfigure], true),
        (2, &[Reconfigure], false),
        (2, &[], false),
        (3, &[Upgrade], false),
        (0, &[Upgrade], false),
        (2, &[Reconfigure, Upgrade, Reconfigure], true),
        (1, &[Reconfigure], false),
        (2, &[Reconfigure], true),
        (4, &[Upgrade], false),
        (3, &[Upgrade], true),
    ];
    for (release, kinds, taken) in entries {
        let (head, dropped) = (cluster.view(1).op, malformed(&cluster, 1));
        let (header, body) = entry_after(&cluster, 1, release, kinds);
        let payload = message(&cluster, &[header.as_bytes(), &body]);
        let view = cluster.view(1).view;
        cluster.forge(0, 1, Command::Prepare, |frame| {
            (frame.header.view, frame.header.op) = (view.into(), header.op);
            // Its sender is normal in its view.
            frame.header.flags = 2.into();
            frame.payload = payload;
        });
        let what = format!("release {release} with {kinds:?}");
        assert_eq!(cluster.view(1).op, head + u64::from(taken), "{what}");
        assert_eq!(malformed(&cluster, 1), dropped + u64::from(!taken), "{what}");
    }
}

#[test]
fn h60_the_log_of_a_view_in_which_a_release_is_skipped_or_goes_back_is_malformed() {
    for (release, taken) in [(0, false), (1, true), (2, true), (3, false)] {
        let mut cluster = far_ahead();
        let dropped = malformed(&cluster, 1);
        let head = cluster.replica(1).header(cluster.view(1).op).unwrap();
        let (header, _) = entry_after(&cluster, 1, release, &[RequestKind::Upgrade]);
        let payload = message(&cluster, &[&[0; 32], header.as_bytes(), head.as_bytes()]);
        cluster.forge(0, 1, Command::StartView, |frame| {
            (frame.header.view, frame.header.op) = (3.into(), header.op);
            frame.payload = payload;
        });
        while cluster.complete_one(1) {}
        let expected = if taken { (3, header.op.get()) } else { (0, head.op.get()) };
        assert_eq!((cluster.view(1).view, cluster.view(1).op), expected, "release {release}");
        assert_eq!(malformed(&cluster, 1), dropped + u64::from(!taken), "release {release}");
    }
}

#[test]
fn h60_the_primary_proposes_an_upgrade_and_nobody_else() {
    let mut cluster = served(3);
    let last = all_but_one(&mut cluster);
    let primary = cluster.primary().unwrap();
    // The others see nothing of it for a while.
    cluster.lost = vec![Command::Prepare];
    restart(&mut cluster, last, NEW);
    cluster.pass(Duration::from_millis(150));
    let proposed = |at: usize| cluster.replica(at).marks().has(Mark::UpgradeProposed);
    assert_eq!((cluster.primary(), releases(&cluster)), (Some(primary), vec![1, 1, 1]));
    assert_eq!((0..3).filter(|at| proposed(*at)).collect::<Vec<_>>(), [primary]);
}

/// An upgrade waits behind entries in flight, once however long that takes; when a member is gone meanwhile, whose binary may
/// come back older, it is not made.
#[test]
fn h60_an_upgrade_that_waits_is_asked_for_once_and_not_made_when_a_member_is_gone() {
    let mut cluster = served(3);
    let last = all_but_one(&mut cluster);
    let primary = cluster.primary().unwrap();
    cluster.lost = vec![Command::Prepare];
    for number in 1..=2 {
        assert_eq!(cluster.publish(number), None, "it is in flight");
    }
    restart(&mut cluster, last, NEW);
    cluster.pass(Duration::from_millis(350));
    assert!(cluster.replica(primary).marks().has(Mark::UpgradeProposed));
    let [waits, ..] = cluster.replica(primary).loads();
    assert_eq!((waits.what, waits.holds), ("requests that wait", 1));
    cluster.crash(last);
    cluster.pass(Duration::from_millis(500));
    cluster.lost.clear();
    cluster.pass(ENOUGH);
    assert_eq!((cluster.primary(), releases(&cluster)), (Some(primary), vec![1, 1]));
    assert_eq!(cluster.view(primary).commit, cluster.view(primary).op, "what was in flight is committed");
}

#[test]
fn h60_a_binary_that_is_too_old_for_the_log_of_a_view_says_what_the_head_needs() {
    let mut cluster = served(3);
    let head = cluster.replica(1).header(cluster.view(1).op).unwrap();
    let (header, _) = entry_after(&cluster, 1, 2, &[RequestKind::Upgrade]);
    let payload = message(&cluster, &[&[0; 32], header.as_bytes(), head.as_bytes()]);
    cluster.binaries[1] = OLD;
    cluster.crash(1);
    cluster.start(1);
    cluster.settle();
    cluster.forge(0, 1, Command::StartView, |frame| {
        (frame.header.view, frame.header.op) = (3.into(), header.op);
        frame.payload = payload;
    });
    assert_eq!(cluster.outside[1].stopped, Some(Fatal::Release(TOO_OLD)));
}
