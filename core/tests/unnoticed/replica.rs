//! What a replica says of its log, and when it makes entries.

use std::time::Duration;

use crate::cluster::{CLUSTER, Cluster, EDGE, SHARD, replica, say};
use tigerchat_core::io::Fatal;
use tigerchat_core::types::{Address, TenantId};
use tigerchat_core::vsr::abdication::Abdication;
use tigerchat_core::vsr::marks::Mark;
use tigerchat_core::vsr::membership::Change;
use tigerchat_core::wire::chat::Query;
use tigerchat_core::wire::entry::RequestKind;
use tigerchat_core::wire::frame::{Command, Frame, FrameHeader};

fn ready(replicas: u8) -> Cluster {
    let mut cluster = Cluster::new(replicas);
    cluster.pass(Duration::from_millis(50));
    cluster.register();
    cluster.open_room();
    for number in 1..=3 {
        cluster.publish(number).expect("acknowledged");
    }
    cluster.pass(Duration::from_millis(50));
    cluster
}

/// Puts so many requests of one message each to the primary, one after the other; nobody else hears of them.
fn ask_alone(cluster: &mut Cluster, requests: u64) {
    for other in [1, 2] {
        cluster.cut.push((replica(0), replica(other)));
    }
    for number in 0..requests {
        let mut bytes = Vec::new();
        say(cluster.key(100 + number), "short").encode(&mut bytes).unwrap();
        cluster.number += 1;
        cluster.send_request(RequestKind::Commands, &bytes);
    }
}

#[test]
fn what_is_executed_is_committed_and_nothing_beyond() {
    let mut cluster = ready(3);
    ask_alone(&mut cluster, 1);
    let view = cluster.view(0);
    assert_eq!(view.op, view.commit + 1);
    let committed = |op| cluster.replica(0).committed(op).map(|(header, _)| header.op.get());
    assert_eq!(committed(view.commit), Some(view.commit));
    assert_eq!(committed(view.op), None);
    assert!(cluster.replica(0).header(view.op).is_some());
}

/// Two entries are made at once; whatever comes while they are in flight shares the next, unless it fills half of one.
#[test]
fn little_that_waits_makes_no_third_entry_in_flight() {
    let mut cluster = ready(3);
    ask_alone(&mut cluster, 4);
    let view = cluster.view(0);
    assert_eq!(view.op, view.commit + 2);
}

#[test]
fn an_answer_to_a_change_says_which_question_it_answers() {
    let mut cluster = ready(3);
    let mut frame = Frame { header: FrameHeader::new(Command::Reconfigure, CLUSTER, SHARD), payload: None };
    let bytes = Change::Remove { id: tigerchat_core::types::ReplicaId(9) }.encode();
    let mut draft = cluster.outside[0].pool.draft(bytes.len()).expect("pool");
    draft.extend(&bytes).unwrap();
    frame.payload = Some(draft.seal());
    frame.header.nonce = 77_u128.into();
    cluster.counter += 1;
    frame.seal(Address::Edge(EDGE), replica(0), 1, cluster.counter);
    cluster.to_edge.clear();
    cluster.wire.push_back((Address::Edge(EDGE), replica(0), frame));
    cluster.settle();
    let answer = cluster.to_edge.iter().find(|frame| frame.header.command() == Command::Members);
    assert_eq!(answer.expect("an answer").header.nonce.get(), 77);
}

/// What may have been acknowledged can't be read, and nobody else votes who could know better: it does not go on as if it
/// had never been.
#[test]
fn h24_who_votes_alone_and_does_not_know_its_head_ends() {
    let mut cluster = ready(1);
    let next = cluster.view(0).op + 1;
    cluster.crash(0);
    let slot = u32::try_from(next % u64::from(cluster.config.layout.wal_slots)).unwrap();
    let offset = usize::try_from(cluster.config.layout.slot_offset(slot)).unwrap();
    cluster.outside[0].disk[offset..offset + 512].fill(0xA7);
    cluster.start(0);
    cluster.pass(Duration::from_millis(500));
    assert_eq!(cluster.outside[0].stopped, Some(Fatal::CheckpointLost));
}

/// Entries without a digest are asked for in a view, and mean that view's log: who is in another has nothing to give.
#[test]
fn who_asks_for_a_range_in_another_view_gets_nothing() {
    let mut cluster = ready(3);
    let (view, op) = (cluster.view(0).view, cluster.view(0).op);
    for (asked, given) in [(view, 1), (view + 1, 0)] {
        cluster.forge(2, 0, Command::RequestPrepare, |frame| {
            (frame.header.view, frame.header.op, frame.header.flags) = (asked.into(), op.into(), 1.into());
        });
        while cluster.complete_one(0) {}
        let entries = cluster
            .collect()
            .iter()
            .filter(|(_, _, frame)| frame.header.command() == Command::Prepare)
            .count();
        assert_eq!(entries, given, "asked in view {asked}");
    }
}

/// Who lacks what no other log holds any more can't lead: it gives up the lead, and takes over a state only as a backup.
#[test]
fn h34_who_leads_and_lacks_what_nobody_has_gives_up_the_lead_and_keeps_its_state() {
    let mut cluster = ready(3);
    let (view, op) = (cluster.view(0).view, cluster.view(0).op);
    cluster.forge(1, 0, Command::Pong, |frame| {
        (frame.header.view, frame.header.op, frame.header.flags) = (view.into(), (op + 9).into(), 1.into());
        (frame.header.a, frame.header.b) = ((op + 9).into(), (op + 5).into());
    });
    assert_eq!(cluster.replica(0).abdications()[Abdication::Behind as usize], 1);
    assert!(!cluster.replica(0).marks().has(Mark::TransferBehind));
}

/// A replica that is alone is its own quorum: a read that has to be confirmed waits for nobody.
#[test]
fn who_is_alone_answers_a_linearizable_read_at_once() {
    let mut cluster = ready(1);
    let mut query = Vec::new();
    let history = Query::History { tenant: TenantId(1), room: "general", from: 1, limit: 3 };
    history.encode(&mut query).unwrap();
    let mut frame = Frame { header: FrameHeader::new(Command::Query, CLUSTER, SHARD), payload: None };
    let mut draft = cluster.outside[0].pool.draft(query.len()).expect("pool");
    draft.extend(&query).unwrap();
    frame.payload = Some(draft.seal());
    (frame.header.nonce, frame.header.flags) = (7.into(), 1.into());
    cluster.counter += 1;
    frame.seal(Address::Edge(EDGE), replica(0), 1, cluster.counter);
    cluster.to_edge.clear();
    cluster.deliver(Address::Edge(EDGE), replica(0), frame);
    cluster.settle();
    assert!(cluster.to_edge.iter().any(|frame| frame.header.command() == Command::Answer));
}

/// A backup hears of a longer log than it has, and asks for what it lacks and no more: what it asked for beyond that
/// would keep it from asking again.
#[test]
fn who_lacks_three_entries_asks_for_three() {
    let mut cluster = ready(3);
    cluster.cut.push((replica(0), replica(2)));
    for number in 4..=6 {
        cluster.publish(number).expect("two are a quorum");
    }
    cluster.cut.clear();
    cluster.only_time(Duration::from_millis(21));
    for (from, to, frame) in cluster.collect() {
        if to == replica(2) && frame.header.command() == Command::Commit {
            cluster.deliver(from, to, frame);
        }
    }
    let asked =
        cluster.collect().into_iter().find(|(_, _, frame)| frame.header.command() == Command::RequestPrepare);
    let header = asked.expect("it heard of them").2.header;
    assert_eq!((header.op.get(), header.flags.get()), (cluster.view(2).op + 1, 3));
}
