//! Retention in a shard: by age and by number, with rules that change while replicas are away, and a grid that does not
//! grow.

use std::time::Duration;

use crate::cluster::{CLUSTER, Cluster, EDGE, SHARD, replica, say};
use tigerchat_core::errors::ErrorCode;
use tigerchat_core::types::{Address, TenantId};
use tigerchat_core::wire::chat::{AnswerHead, Command as ChatCommand, Outcome, Query};
use tigerchat_core::wire::codec::Reader;
use tigerchat_core::wire::frame::{Command, Frame, FrameHeader};
use tigerchat_core::wire::retention::{FOREVER, Retain, Retained};

const SLOTS: u32 = 16;
const LONG: Duration = Duration::from_millis(600);

fn retain(messages: Option<u32>, age_s: Option<u32>) -> ChatCommand<'static> {
    let (tenant, room, user) = (TenantId(1), "general", "operator");
    ChatCommand::Retain(Retain { tenant, room, user, messages, age_s })
}

/// A shard on small files in which messages become so old.
fn ready(age_s: u32, blocks_max: u32) -> Cluster {
    let mut cluster = Cluster::with_slots(3, SLOTS);
    cluster.config.limits.room_age_s = age_s;
    cluster.config.layout.blocks_max = blocks_max;
    let mut cluster = cluster.formatted_anew();
    cluster.pass(Duration::from_millis(50));
    cluster.register();
    cluster.open_room();
    cluster
}

/// Says something long, and lets a moment pass.
fn said(cluster: &mut Cluster, number: u64) -> Outcome {
    // Seconds pass: the session's lease would end.
    cluster.ping();
    let (key, body) = (cluster.key(number), format!("{number} {}", "long ".repeat(180)));
    let outcome = cluster.request(&[say(key, &body)]).expect("acknowledged")[0];
    assert_eq!(outcome.error, None);
    cluster.pass(Duration::from_millis(20));
    outcome
}

fn do_one(cluster: &mut Cluster, command: ChatCommand<'_>) {
    assert_eq!(cluster.request(&[command]).expect("acknowledged")[0].error, None);
    cluster.pass(LONG);
}

fn first(cluster: &Cluster, at: usize) -> u64 {
    cluster.replica(at).machine().room(TenantId(1), "general").expect("it was opened").first
}

/// What a replica answers, and the rest of it.
fn ask(cluster: &mut Cluster, at: usize, query: &Query<'_>) -> (AnswerHead, Vec<u8>) {
    let mut bytes = Vec::new();
    query.encode(&mut bytes).unwrap();
    let mut frame = Frame { header: FrameHeader::new(Command::Query, CLUSTER, SHARD), payload: None };
    let mut draft = cluster.outside[at].pool.draft(bytes.len()).expect("pool");
    draft.extend(&bytes).unwrap();
    frame.payload = Some(draft.seal());
    frame.header.nonce = u128::from(cluster.now.mono.0).into();
    frame.seal(Address::Edge(EDGE), replica(at), 1, cluster.now.mono.0);
    cluster.to_edge.clear();
    cluster.wire.push_back((Address::Edge(EDGE), replica(at), frame));
    cluster.settle();
    cluster.pass(LONG);
    let answer = cluster.to_edge.iter().find(|frame| frame.header.command() == Command::Answer);
    let mut reader = Reader::new(answer.expect("an answer").body());
    (AnswerHead::decode(&mut reader).unwrap(), reader.rest().to_vec())
}

fn history(cluster: &mut Cluster, at: usize, from: u64) -> AnswerHead {
    ask(cluster, at, &Query::History { tenant: TenantId(1), room: "general", from, limit: 9 }).0
}

/// All replicas have the same state, and of history what it says.
fn must_agree(cluster: &mut Cluster) {
    cluster.pass(Duration::from_secs(2));
    assert!((0..3).all(|at| cluster.outside[at].stopped.is_none()));
    for at in 1..3 {
        assert!(cluster.state(at) == cluster.state(0), "replica {at} has another state");
        assert_eq!(first(cluster, at), first(cluster, 0));
    }
    let (begins, head) = (first(cluster, 0), history(cluster, 0, 0).head);
    for at in 0..3 {
        assert_eq!(history(cluster, at, begins - 1).error, Some(ErrorCode::PositionGone));
        let page = history(cluster, at, begins);
        assert_eq!((page.error, page.first, page.head), (None, begins, head));
        assert!(page.count > 0 || begins == head + 1);
    }
}

#[test]
fn a_grid_does_not_grow_while_messages_become_too_old() {
    // A second that a message may be old, one that marks are wide and one that clocks are coarse: 150 messages at most.
    let mut cluster = ready(1, 1024);
    let mut used = [0; 4];
    let count = 600;
    for number in 1..=count {
        assert_eq!(said(&mut cluster, number).seq, number);
        assert!(first(&cluster, 0) + 151 >= number, "message {} is still served", first(&cluster, 0));
        let now = cluster.replica(1).machine().usage().blocks;
        let most = &mut used[((number - 1) * 4 / count) as usize];
        *most = now.max(*most);
    }
    assert!(used[3] <= used[1] + used[1] / 4, "more and more blocks are in use: {used:?}");
    must_agree(&mut cluster);
    assert!(first(&cluster, 0) > 440);
}

#[test]
fn who_was_away_while_rules_changed_has_the_same_history() {
    let mut cluster = ready(0, 2048);
    for number in 1..=160 {
        said(&mut cluster, number);
    }
    assert_eq!(first(&cluster, 0), 1);
    let away = (0..3).find(|at| cluster.primary() != Some(*at)).expect("one leads");
    cluster.crash(away);
    do_one(&mut cluster, retain(None, Some(1)));
    // The room had lived for three seconds: its marks are a second wide.
    assert!(first(&cluster, 0).max(first(&cluster, 2)) > 1);
    for number in 161..=260 {
        said(&mut cluster, number);
    }
    do_one(&mut cluster, retain(Some(7), Some(FOREVER)));
    let begins = first(&cluster, cluster.primary().expect("one leads"));
    assert_eq!(begins, 254);
    // It is so far behind that it takes a checkpoint over.
    cluster.start(away);
    cluster.pass(LONG);
    for number in 261..=290 {
        said(&mut cluster, number);
    }
    must_agree(&mut cluster);
    assert_eq!(first(&cluster, away), 284);
    let (_, shown) = ask(&mut cluster, away, &Query::Retention { tenant: TenantId(1), room: "general" });
    let shown = Retained::decode(&mut Reader::new(&shown)).unwrap();
    assert_eq!((shown.room.messages, shown.room.age_s, shown.late_s), (7, FOREVER, 0));
    // All of them begin anew with what they have on their disks.
    for at in 0..3 {
        cluster.crash(at);
    }
    for at in 0..3 {
        cluster.start(at);
    }
    cluster.pass(Duration::from_secs(2));
    must_agree(&mut cluster);
    assert_eq!(first(&cluster, 1), 284);
}

#[test]
fn a_silent_room_is_emptied_and_goes_on_behind_what_it_had() {
    let mut cluster = ready(2, 1024);
    for number in 1..=20 {
        said(&mut cluster, number);
    }
    cluster.pass(Duration::from_secs(4));
    // Nothing was done in the shard meanwhile, so no time has passed in its log.
    assert_eq!(first(&cluster, 0), 1);
    cluster.register();
    let open = ChatCommand::RoomOpen { tenant: TenantId(1), room: "another", user: "ada" };
    do_one(&mut cluster, open);
    assert!((0..3).all(|at| first(&cluster, at) == 21));
    let gone = history(&mut cluster, 1, 20);
    assert_eq!((gone.error, gone.first, gone.head), (Some(ErrorCode::PositionGone), 21, 20));
    must_agree(&mut cluster);
    for at in 0..3 {
        cluster.crash(at);
        cluster.start(at);
    }
    cluster.pass(Duration::from_secs(1));
    assert!((0..3).all(|at| first(&cluster, at) == 21), "it stays so");
    cluster.register();
    assert_eq!(said(&mut cluster, 21).seq, 21);
    must_agree(&mut cluster);
}
