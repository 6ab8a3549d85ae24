//! What is promised of a primary that gives up, and of those who take over.

use std::time::Duration;

use crate::cluster::{CLUSTER, Cluster, EDGE, SHARD, replica};
use tigerchat_core::types::{Address, ReplicaId};
use tigerchat_core::vsr::abdication::Abdication;
use tigerchat_core::vsr::replica::Status;
use tigerchat_core::wire::frame::{Command, Frame, FrameHeader};

fn ready() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.pass(Duration::from_millis(50));
    cluster.register();
    cluster.open_room();
    cluster.pass(Duration::from_millis(200));
    cluster
}

/// Lets time pass, and looks at all that is sent meanwhile.
fn watch(cluster: &mut Cluster, time: Duration, mut see: impl FnMut(&Address, &Address, &Frame)) {
    for _ in 0..time.as_millis() {
        cluster.only_time(Duration::from_millis(1));
        cluster.now.wall.0 += 1_000_000;
        while let frames = cluster.collect()
            && !frames.is_empty()
        {
            for (from, to, frame) in frames {
                see(&from, &to, &frame);
                cluster.deliver(from, to, frame);
            }
            while (0..cluster.nodes.len()).any(|at| cluster.complete_one(at)) {}
        }
    }
}

/// How many heartbeats replica 0 sends.
fn heartbeats(cluster: &mut Cluster, time: Duration) -> usize {
    let mut count = 0;
    watch(cluster, time, |from, _, frame| {
        count += usize::from(*from == replica(0) && frame.header.command() == Command::Commit);
    });
    count
}

/// Whoever hears nobody does harm by sounding alive; whose clock is off serves until another one takes over.
#[test]
fn who_gives_up_falls_silent_only_if_it_does_harm_by_sounding_alive() {
    for (why, silent) in [(Abdication::HearsNobody, true), (Abdication::Clock, false)] {
        let mut cluster = ready();
        // Nobody learns that it asks for the next view, so it goes on asking.
        cluster.lost = vec![Command::StartViewChange];
        match why {
            Abdication::Clock => cluster.clocks.push((0, 90_000)),
            _ => cluster.cut.extend([(replica(1), replica(0)), (replica(2), replica(0))]),
        }
        for _ in 0..3_000 {
            cluster.pass(Duration::from_millis(1));
            if cluster.replica(0).abdications()[why as usize] > 0 {
                break;
            }
        }
        assert_eq!(cluster.replica(0).abdications()[why as usize], 1, "{why}");
        assert_eq!(
            cluster.view(0).status,
            Status::Normal,
            "{why}: it asks, and leads until somebody else does"
        );
        assert_eq!(heartbeats(&mut cluster, Duration::from_millis(100)) == 0, silent, "{why}");
    }
}

/// Whoever looks for the time that a message took finds it where it went.
#[test]
fn the_time_of_an_entry_is_told_by_stages() {
    let mut cluster = ready();
    let before = cluster.replica(0).stages();
    cluster.stalled = vec![1, 2];
    assert_eq!(cluster.publish(1), None, "no quorum writes");
    let [_, _, entries, ..] = cluster.replica(0).loads();
    assert_eq!((entries.what, entries.holds), ("entries in flight", 1));
    cluster.pass(Duration::from_millis(7));
    cluster.stalled.clear();
    cluster.pass(Duration::from_millis(5));
    let after = cluster.replica(0).stages();
    assert_eq!((after.entries - before.entries, after.requests - before.requests), (1, 1));
    assert_eq!(after.quorum - before.quorum, 8_000_000, "the disks go on a millisecond later");
    assert_eq!(after.commit - before.commit, 0, "executed in the turn that heard of it");
    assert_eq!(cluster.replica(0).loads()[2].holds, 0);
}

/// Two that ask at the same time again and again would be in each other's way for ever.
#[test]
fn what_is_asked_again_is_asked_at_irregular_intervals() {
    let mut cluster = ready();
    cluster.lost = vec![Command::StartViewChange];
    cluster.crash(0);
    let mut asked: Vec<u32> = Vec::new();
    for now in 0..2_000 {
        watch(&mut cluster, Duration::from_millis(1), |from, to, frame| {
            let asks = frame.header.command() == Command::StartViewChange;
            if asks && (*from, *to) == (replica(1), replica(2)) {
                asked.push(now);
            }
        });
    }
    let gaps: std::collections::BTreeSet<u32> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(asked.len() > 10 && gaps.len() > 3, "asked at {asked:?}");
}

/// A replica that was told how its view began, and is not yet through with that, is asked to come to the next.
#[test]
fn who_is_about_to_begin_a_view_comes_along_to_the_next() {
    let mut cluster = ready();
    let head = cluster.view(2).op;
    cluster.crash(2);
    let layout = cluster.config.layout;
    let slot = layout.slot_offset(u32::try_from(head).unwrap());
    cluster.outside[2].disk[usize::try_from(slot).unwrap() + 200] ^= 1;
    cluster.lost = vec![Command::StartView];
    cluster.start(2);
    cluster.settle();
    assert_eq!((cluster.view(2).status, cluster.view(2).view), (Status::RecoveringHead, 0));
    cluster.stalled = vec![2];
    cluster.lost.clear();
    for _ in 0..200 {
        cluster.pass(Duration::from_millis(1));
        if cluster.view(2).status == Status::ViewChange {
            break;
        }
    }
    assert_eq!((cluster.view(2).status, cluster.view(2).view), (Status::ViewChange, 0));
    cluster.forge(1, 2, Command::StartViewChange, |frame| frame.header.op = 1.into());
    assert_eq!(cluster.view(2).primary, ReplicaId(1), "two are a quorum");
    cluster.stalled.clear();
    cluster.settle();
    assert_eq!(cluster.view(2).view, 1);
}

/// A session that a new primary never heard of ends too, and whoever asks with one that is gone is told.
#[test]
fn leases_go_on_with_the_next_primary() {
    let mut cluster = ready();
    let session = cluster.session;
    assert_eq!(cluster.hand_over(1), None);
    cluster.pass(Duration::from_millis(100));
    assert_eq!(cluster.primary(), Some(1));
    let told = |cluster: &Cluster, of: u64| {
        let evicts =
            |frame: &&Frame| frame.header.command() == Command::Eviction && frame.header.a.get() == of;
        cluster.to_edge.iter().filter(evicts).count()
    };
    // Nothing was committed in its view yet.
    cluster.session = session + 999;
    cluster.ping();
    assert_eq!((told(&cluster, session), told(&cluster, session + 999)), (0, 1));
    cluster.pass(Duration::from_secs(8));
    assert_eq!(told(&cluster, session), 1);
}

/// Who was deposed keeps nothing of what it was asked for as primary.
#[test]
fn what_waited_for_a_primary_is_gone_with_its_view() {
    let mut cluster = ready();
    for other in [1, 2] {
        cluster.cut.extend([(replica(0), replica(other)), (replica(other), replica(0))]);
    }
    let mut query = Frame { header: FrameHeader::new(Command::Query, CLUSTER, SHARD), payload: None };
    query.header.flags = 1.into();
    query.seal(Address::Edge(EDGE), replica(0), 1, 7_000);
    cluster.deliver(Address::Edge(EDGE), replica(0), query);
    assert_eq!(cluster.publish(1), None);
    let waits = |cluster: &Cluster| {
        let of =
            ["requests that wait", "requests in flight", "entries in flight", "leases", "reads that wait"];
        let loads = cluster.replica(0).loads();
        of.map(|what| loads.iter().find(|load| load.what == what).expect("there is one").holds)
    };
    assert_eq!(waits(&cluster), [0, 1, 1, 1, 1]);
    cluster.pass(Duration::from_secs(1));
    assert!(cluster.primary().is_some_and(|primary| primary != 0));
    cluster.cut.clear();
    cluster.pass(Duration::from_secs(1));
    assert_eq!((cluster.statuses(), waits(&cluster)), (vec![Status::Normal; 3], [0; 5]));
}

/// Whoever hears of a newer view asks its primary first.
#[test]
fn a_newer_view_is_asked_for_at_its_primary_first() {
    for (view, primary) in [(3, 3), (4, 4), (7, 2)] {
        let mut cluster = Cluster::new(5);
        cluster.pass(Duration::from_millis(200));
        cluster.forge(0, 1, Command::Commit, |frame| frame.header.view = view.into());
        let asked: Vec<Address> = cluster
            .collect()
            .into_iter()
            .filter(|(_, _, frame)| frame.header.command() == Command::RequestStartView)
            .map(|(_, to, _)| to)
            .collect();
        assert_eq!(asked, [replica(primary)], "view {view}");
    }
}
