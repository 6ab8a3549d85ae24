//! The edge, one behaviour at a time: real bytes of clients, a real shard behind.

use std::time::Duration;

use crate::gateway::{World, seqs};
use tigerchat_core::io::*;
use tigerchat_core::types::{ConnectionId, ReplicaId};
use tigerchat_core::vsr::membership::Change;
use tigerchat_core::wire::frame::{Command, Frame, FrameHeader};

#[test]
fn a_publish_is_acknowledged_and_reaches_subscribers_of_both_edges_once() {
    let mut world = World::new();
    let (ada, bob) = (world.client(0, 1, "ada"), world.client(1, 2, "bob"));
    let line = world.open(1, 3, Transport::Line);
    world.say(1, line, "join general");
    world.pass(5);
    let key = world.key(7);
    world.publish(0, ada, 9, &key, "hello");
    world.pass(5);
    let to_ada = world.frames(ada);
    let acks: Vec<_> =
        to_ada.iter().filter(|frame| frame.starts_with(r#"{"id":9,"publish":{"seq":"1""#)).collect();
    assert_eq!(acks.len(), 1, "{to_ada:?}");
    assert_eq!(seqs(&to_ada), [1]);
    assert_eq!(seqs(&world.frames(bob)), [1]);
    assert!(world.lines(line).contains(&"[general #1] ada: hello".to_string()));
}

#[test]
fn h43_a_retry_through_another_edge_yields_the_first_result() {
    let mut world = World::new();
    let (ada, again) = (world.client(0, 1, "ada"), world.client(1, 2, "ada"));
    let key = world.key(1);
    world.publish(0, ada, 9, &key, "once");
    world.publish(1, again, 4, &key, "once");
    world.publish(1, again, 5, &key, "other");
    world.pass(5);
    let frames = world.frames(again);
    assert!(
        frames.iter().any(|frame| frame.starts_with(r#"{"id":4,"publish":{"seq":"1""#)
            && frame.contains("\"duplicate\":true"))
    );
    assert!(frames.iter().any(
        |frame| frame.starts_with(r#"{"id":5,"error":{"code":13002"#) && frame.contains("\"seq\":\"1\"")
    ));
    assert_eq!(seqs(&frames), [1], "delivered once");
}

#[test]
fn h51_subscribers_miss_nothing_when_the_primary_dies() {
    let mut world = World::new();
    let (ada, bob) = (world.client(0, 1, "ada"), world.client(1, 2, "bob"));
    let mut seen = Vec::new();
    for number in 0..60 {
        if number == 30 {
            world.cluster.crash(0);
        }
        let key = world.key(number);
        world.publish(0, ada, number + 10, &key, "x");
        world.pass(3);
        seen.extend(seqs(&world.frames(bob)));
    }
    world.pass(3000);
    seen.extend(seqs(&world.frames(bob)));
    assert_eq!(seen, (1..=60).collect::<Vec<_>>());
    let acks = world.frames(ada).iter().filter(|frame| frame.contains(r#""publish":{"seq""#)).count();
    assert!(acks >= 30, "those in flight at the crash are acknowledged too");
}

#[test]
fn h50_pipelined_publishes_of_one_connection_commit_in_the_order_sent() {
    let mut world = World::new();
    let ada = world.client(0, 1, "ada");
    for number in 0..200_u32 {
        let key = world.key(number);
        let text = format!(
            r#"{{"id":{},"publish":{{"room":"general","key":"{key}","body":{number}}}}}"#,
            number + 10
        );
        world.turn(0, Some(EdgeEvent::Frame { connection: ada, bytes: text.as_bytes() }));
    }
    world.pass(200);
    let frames = world.frames(ada);
    for number in 0..200_u32 {
        let ack = format!(r#"{{"id":{},"publish":{{"seq":"{}""#, number + 10, number + 1);
        assert!(frames.iter().any(|frame| frame.starts_with(&ack)), "{number}");
    }
}

#[test]
fn h52_history_and_live_stream_join_without_gap_or_duplicate_wherever_a_subscription_begins() {
    let mut world = World::new();
    let ada = world.client(0, 1, "ada");
    for number in 0..150 {
        let key = world.key(number);
        world.publish(0, ada, number + 10, &key, "x");
    }
    for (id, since, first) in [(10, r#","since":{"seq":"20"}"#, 21), (11, r#","last":7"#, 144), (12, "", 151)]
    {
        let late = world.open(1, id, Transport::WebSocket);
        world.say(1, late, r#"{"id":1,"connect":{"token":"demo:late"}}"#);
        world.say(1, late, &format!(r#"{{"id":2,"subscribe":{{"room":"general"{since}}}}}"#));
        // Published while the first pages are on their way.
        let key = world.key(1000 + id as u32);
        world.publish(0, ada, 999, &key, "x");
        world.pass(50);
        let frames = world.frames(late);
        let head = 150 + id - 9;
        let got = seqs(&frames);
        assert_eq!(got.last(), Some(&head), "{frames:?}");
        let begins = got[0];
        assert!(begins == first || since.is_empty() || id == 11 && begins >= first, "{got:?}");
        assert_eq!(got, (begins..=head).collect::<Vec<_>>());
    }
}

#[test]
fn h52_who_connects_anew_reads_no_less_than_it_has_seen() {
    let mut world = World::new();
    world.client(0, 1, "ada");
    let late = world.open(1, 2, Transport::WebSocket);
    let floor = u64::MAX;
    world.say(1, late, &format!(r#"{{"id":1,"connect":{{"token":"demo:late","floor":"{floor}"}}}}"#));
    world.say(1, late, r#"{"id":2,"history":{"room":"general"}}"#);
    world.pass(500);
    let answered = |frames: &[String]| frames.iter().any(|frame| frame.starts_with(r#"{"id":2,"#));
    assert!(!answered(&world.frames(late)), "no replica has come so far");
    let here = world.open(1, 3, Transport::WebSocket);
    world.say(1, here, r#"{"id":1,"connect":{"token":"demo:late","floor":"1"}}"#);
    world.say(1, here, r#"{"id":2,"history":{"room":"general"}}"#);
    world.pass(500);
    assert!(answered(&world.frames(here)));
}

#[test]
fn h53_a_cursor_of_another_epoch_or_beyond_the_head_is_refused_by_number() {
    let mut world = World::new();
    let ada = world.client(0, 1, "ada");
    let late = world.open(1, 2, Transport::WebSocket);
    world.say(1, late, r#"{"id":1,"connect":{"token":"demo:late"}}"#);
    world.say(1, late, r#"{"id":2,"subscribe":{"room":"general","since":{"epoch":"999","seq":"0"}}}"#);
    world.say(1, late, r#"{"id":3,"subscribe":{"room":"general","since":{"seq":"55"}}}"#);
    world.say(1, late, r#"{"id":4,"subscribe":{"room":"nowhere"}}"#);
    world.pass(5);
    let frames = world.frames(late);
    for (id, code) in [(2, 14002), (3, 14003), (4, 13001)] {
        let error = format!(r#"{{"id":{id},"error":{{"code":{code}"#);
        assert!(frames.iter().any(|frame| frame.starts_with(&error)), "{error} in {frames:?}");
    }
    let _ = ada;
}

#[test]
fn h55_a_client_that_reads_nothing_loses_nothing_and_holds_nobody_up() {
    let mut world = World::new();
    let (ada, slow) = (world.client(0, 1, "ada"), world.client(0, 2, "slow"));
    world.stuck.push(slow);
    for number in 0..300 {
        let key = world.key(number);
        world.publish(0, ada, number + 10, &key, "xxxxxxxxxxxxxxxxxxxx");
    }
    world.pass(20);
    assert_eq!(seqs(&world.frames(ada)).len(), 300);
    let held = world.read.get(&slow).map_or(0, Vec::len);
    assert!(held < 16 * 1024, "a budget of 4 KiB, and what was under way: {held}");
    world.stuck.clear();
    let mut got = Vec::new();
    world.turn(0, Some(EdgeEvent::Drained { connection: slow, bytes: held }));
    for _ in 0..100 {
        world.pass(2);
        got.extend(seqs(&world.frames(slow)));
    }
    assert_eq!(got, (1..=300).collect::<Vec<_>>());
}

/// It asks for pages as fast as it can and reads none of them: refused at first, closed if it does not stop.
#[test]
fn h55_a_client_that_asks_and_never_reads_is_refused_and_then_closed() {
    let mut world = World::new();
    let (ada, greedy) = (world.client(0, 1, "ada"), world.client(0, 2, "greedy"));
    for number in 0..20 {
        let key = world.key(number);
        world.publish(0, ada, number + 10, &key, "xxxxxxxxxxxxxxxxxxxx");
    }
    world.pass(20);
    let _read = world.frames(greedy);
    world.stuck.push(greedy);
    let held = |world: &World| world.read.get(&greedy).map_or(0, Vec::len);
    let mut refused = 0;
    for id in 100..1_000 {
        world.say(0, greedy, &format!(r#"{{"id":{id},"history":{{"room":"general","limit":20}}}}"#));
        world.pass(2);
        if world.edges[0].2.closed.contains(&(greedy, CloseCode::SLOW_CONSUMER)) {
            break;
        }
        let text = String::from_utf8_lossy(&world.read[&greedy]).into_owned();
        refused = text.matches("\"code\":11004").count();
    }
    assert!(refused > 10, "{refused} questions were refused");
    assert!(
        world.edges[0].2.closed.contains(&(greedy, CloseCode::SLOW_CONSUMER)),
        "{} bytes wait",
        held(&world)
    );
    assert!(held(&world) <= crate::gateway::limits().unread() + 4096, "{} bytes were kept", held(&world));
    let key = world.key(99);
    world.publish(0, ada, 99, &key, "still here");
    world.pass(20);
    assert_eq!(seqs(&world.frames(ada)).last(), Some(&21));
}

#[test]
fn bad_input_gets_its_numbered_error_and_the_connection_lives() {
    let mut world = World::new();
    let client = world.open(0, 1, Transport::WebSocket);
    let asked = [
        ("nonsense", 10001),
        (r#"{"id":1,"publish":{"room":"general","key":"00","body":1}}"#, 15001),
        (r#"{"id":2,"history":{"room":"general"}}"#, 10003),
        (r#"{"id":3,"connect":{"token":"wrong"}}"#, 10005),
        (r#"{"id":4,"connect":{"token":"secret"}}"#, 0),
        (r#"{"id":5,"connect":{"token":"secret"}}"#, 10004),
        (r#"{"id":6,"fly":{}}"#, 10002),
        (r#"{"id":7,"history":{"room":"nowhere"}}"#, 13001),
        (r#"{"id":8,"room_open":{"room":"no spaces"}}"#, 13006),
        (r#"{"id":9,"unsubscribe":{"room":"general"}}"#, 14004),
        (r#"{"id":10,"ping":{}}"#, 0),
    ];
    for (text, code) in asked {
        world.say(0, client, text);
        world.pass(5);
        let frames = world.frames(client);
        assert_eq!(frames.len(), 1, "{text}: {frames:?}");
        let error = format!("\"error\":{{\"code\":{code},");
        assert_eq!(frames[0].contains(&error), code != 0, "{text}: {frames:?}");
    }
    assert!(world.edges[0].2.closed.is_empty());
}

#[test]
fn a_join_that_is_refused_does_not_stand_in_the_way_of_the_next() {
    let mut world = World::new();
    let line = world.open(0, 1, Transport::Line);
    world.say(0, line, "join no,comma");
    world.say(0, line, "join general");
    world.pass(5);
    let lines = world.lines(line);
    assert!(lines.iter().any(|said| said.starts_with("! 13006 ")), "{lines:?}");
    assert!(lines.contains(&"* joined general".to_string()), "{lines:?}");
}

#[test]
fn presence_follows_connections_and_an_edge_that_dies_leaves_no_ghosts() {
    let mut world = World::new();
    let (ada, bob) = (world.client(0, 1, "ada"), world.client(1, 2, "bob"));
    world.pass(5);
    world.say(0, ada, r#"{"id":5,"presence":{"room":"general"}}"#);
    world.pass(5);
    let frames = world.frames(ada);
    assert!(frames.iter().any(|frame| frame.contains(r#""users":["ada","bob"]"#)), "{frames:?}");
    world.edges.remove(1);
    world.pass(8000);
    let frames = world.frames(ada);
    assert!(
        frames.iter().any(|frame| frame.contains(r#""presence":{"user":"bob","present":false}"#)),
        "{frames:?}"
    );
    world.say(0, ada, r#"{"id":6,"presence":{"room":"general"}}"#);
    world.pass(5);
    assert!(world.frames(ada).iter().any(|frame| frame.contains(r#""users":["ada"]"#)));
    let _ = bob;
}

#[test]
fn who_leaves_while_the_edge_has_no_room_for_the_report_is_no_ghost_afterwards() {
    let mut world = World::new();
    let (ada, bob) = (world.client(0, 1, "ada"), world.client(0, 2, "bob"));
    // Nothing is answered while ada fills all that may wait; at the end with commands as small as a report.
    let body = "x".repeat(900);
    for publishes in [true, false] {
        let refused = (10..1_000).any(|id| {
            let key = world.key(id);
            let text = if publishes {
                format!(r#"{{"id":{id},"publish":{{"room":"general","key":"{key}","body":"{body}"}}}}"#)
            } else {
                format!(r#"{{"id":{id},"room_open":{{"room":"general"}}}}"#)
            };
            world.turn(0, Some(EdgeEvent::Frame { connection: ada, bytes: text.as_bytes() }));
            world.frames(ada).iter().any(|frame| frame.contains(r#""name":"overloaded""#))
        });
        assert!(refused, "there is an end to what may wait");
    }
    world.turn(0, Some(EdgeEvent::Closed { connection: bob }));
    world.pass(3_000);
    world.frames(ada);
    world.say(0, ada, r#"{"id":6,"presence":{"room":"general"}}"#);
    world.pass(50);
    let frames = world.frames(ada);
    assert!(frames.iter().any(|frame| frame.contains(r#""users":["ada"]"#)), "{frames:?}");
}

#[test]
fn an_evicted_session_is_replaced_and_nothing_is_lost_or_doubled() {
    let mut world = World::new();
    let ada = world.client(0, 1, "ada");
    // The edge falls silent for longer than its lease, with publishes on their way.
    let key = world.key(1);
    let text = format!(r#"{{"id":9,"publish":{{"room":"general","key":"{key}","body":1}}}}"#);
    world.turn(0, Some(EdgeEvent::Frame { connection: ada, bytes: text.as_bytes() }));
    world.edges[0].2.sent.clear();
    world.cluster.pass(Duration::from_secs(9));
    world.pass(1500);
    let frames = world.frames(ada);
    assert!(frames.iter().any(|frame| frame.starts_with(r#"{"id":9,"publish":{"seq":"1""#)), "{frames:?}");
    assert_eq!(seqs(&frames), [1]);
    world.say(0, ada, r#"{"id":6,"presence":{"room":"general"}}"#);
    world.pass(5);
    assert!(world.frames(ada).iter().any(|frame| frame.contains(r#""users":["ada"]"#)), "reported again");
}

#[test]
fn a_line_client_may_join_and_speak_in_one_breath() {
    let mut world = World::new();
    let bob = world.client(1, 2, "bob");
    let line = world.open(0, 1, Transport::Line);
    for text in ["join general", "send first", "send second"] {
        world.turn(0, Some(EdgeEvent::Frame { connection: line, bytes: text.as_bytes() }));
    }
    world.pass(20);
    assert_eq!(seqs(&world.frames(bob)), [1, 2]);
    let lines = world.lines(line);
    assert!(
        lines.contains(&"* sent #2".to_string()) && lines.contains(&"* joined general".to_string()),
        "{lines:?}"
    );
}

#[test]
fn who_reads_back_is_told_how_to_go_on_in_every_form() {
    let mut world = World::new();
    let ada = world.client(0, 1, "ada");
    for number in 1..=5 {
        let (key, id) = (world.key(number), number + 10);
        let of = if number > 3 { r#","parent":"2""# } else { "" };
        let text = format!(
            r#"{{"id":{id},"publish":{{"room":"general","key":"{key}"{of},"body":"no. {number}"}}}}"#
        );
        world.say(0, ada, &text);
        world.pass(5);
    }
    let delivered = world.frames(ada);
    let has = |frames: &[String], what: &str| frames.iter().any(|frame| frame.contains(what));
    assert!(has(&delivered, r#""parent":"2","thread_seq":"2","chain""#), "{delivered:?}");
    let mut ask = |members: &str| {
        world.say(0, ada, &format!(r#"{{"id":77,"history":{{"room":"general",{members}}}}}"#));
        world.pass(5);
        world.frames(ada).into_iter().find(|frame| frame.starts_with(r#"{"id":77,"#)).expect("an answer")
    };
    let page = ask(r#""before":"4","limit":2"#);
    assert!(page.contains(r#""older":true,"newer":true,"messages":[{"seq":"2""#), "{page}");
    assert!(page.contains(r#""replies":"2","last_reply":"5""#) && page.contains(r#"{"seq":"3""#), "{page}");
    let page = ask(r#""thread":"2","from":"2""#);
    let thread =
        r#""thread":{"parent":"2","first":"1","head":"2"},"older":true,"newer":false,"messages":[{"seq":"5""#;
    assert!(page.contains(thread), "{page}");
    assert!(ask(r#""from":"1","before":"2""#).contains(r#""code":14006,"name":"position_conflict""#));
    assert!(ask(r#""since_time":"2","until_time":"2""#).contains(r#""code":14007,"name":"range_empty""#));
    assert!(ask(r#""before":"9""#).contains(r#""code":14003,"name":"position_ahead""#));

    let line = world.open(0, 2, Transport::Line);
    let mut ask = |text: &str| {
        world.say(0, line, text);
        world.pass(5);
        world.lines(line)
    };
    ask("join general");
    let said = ["[general #3] ada: \"no. 3\"", "* older: history before 3; newer: history from 4"];
    assert_eq!(ask("history around 3 1"), said);
    assert_eq!(ask("thread 2 1").last().map(String::as_str), Some("* older: thread 2 before 2"));
    assert!(ask("reply 3 Hi").contains(&"* sent #6".to_string()));
    assert_eq!(ask("thread 3"), ["[general #6] guest1: Hi"]);
    assert!(ask("reply 99 Hi")[0].starts_with("! 15003 parent_unknown"));
    assert!(ask("history before")[0].starts_with("! 10001 malformed"));
}

#[test]
fn h57_clients_miss_nothing_while_every_replica_is_replaced_by_another() {
    let mut world = World::new();
    let (ada, bob) = (world.client(0, 1, "ada"), world.client(1, 2, "bob"));
    let (mut acknowledged, mut seen) = (0, Vec::new());
    for lost in 0..3_u16 {
        world.cluster.crash(usize::from(lost));
        world.pass(1000);
        let id = world.cluster.join();
        let replace = Change::Replace { lost: ReplicaId(lost), id, address: Vec::new() };
        assert_eq!(world.cluster.change(&replace), None);
        for number in 0..20 {
            let number = 100 * u32::from(lost) + number;
            let key = world.key(number);
            world.publish(0, ada, number + 10, &key, "x");
            world.pass(40);
            let acks = world.frames(ada);
            acknowledged += acks.iter().filter(|frame| frame.contains("\"publish\":{\"seq\"")).count();
            seen.extend(seqs(&world.frames(bob)));
        }
    }
    world.pass(2000);
    acknowledged += world.frames(ada).iter().filter(|frame| frame.contains("\"publish\":{\"seq\"")).count();
    seen.extend(seqs(&world.frames(bob)));
    assert_eq!(acknowledged, 60);
    assert_eq!(seen, (1..=60).collect::<Vec<u64>>());
}

/// The feed has brought messages before anybody of this edge looked at their room; whoever answers is behind it.
#[test]
fn h52_a_subscription_does_not_begin_behind_what_the_feed_has_brought() {
    for behind in [1, 2] {
        let mut world = World::new();
        let ada = world.client(0, 1, "ada");
        let bob = world.open(1, 2, Transport::WebSocket);
        world.say(1, bob, r#"{"id":1,"connect":{"token":"demo:bob"}}"#);
        world.pass(5);
        let others: Vec<usize> = (0..3).filter(|at| *at != behind).collect();
        for other in &others {
            world.cluster.cut.push((crate::cluster::replica(*other), crate::cluster::replica(behind)));
        }
        for number in 1..=3 {
            let key = world.key(number);
            world.publish(0, ada, 9, &key, "unseen");
        }
        world.pass(5);
        let edge = world.edges[1].0;
        let ways = others.iter().map(|other| (edge, crate::cluster::replica(*other)));
        world.cluster.cut.extend(ways);
        world.say(1, bob, r#"{"id":3,"subscribe":{"room":"general"}}"#);
        world.pass(400);
        world.cluster.cut.clear();
        world.pass(1_500);
        let frames = world.frames(bob);
        let subscribed = frames.iter().find(|frame| frame.starts_with(r#"{"id":3,"subscribe""#));
        assert!(subscribed.is_some_and(|frame| frame.contains(r#""head":"3""#)), "{behind}: {frames:?}");
    }
}

/// When, in milliseconds from now on, the edge sends such a frame to some replica while nobody hears it.
fn unheard(world: &mut World, edge: usize, command: Command, millis: u64) -> Vec<u64> {
    let mut times = Vec::new();
    for at in 1..=millis {
        world.cluster.only_time(Duration::from_millis(1));
        world.turn(edge, None);
        let sent = std::mem::take(&mut world.edges[edge].2.sent);
        if sent.iter().any(|(_, _, frame)| frame.header.command() == command) {
            times.push(at);
        }
    }
    times
}

/// That replica says that it leads this view.
fn leads(world: &World, replica: u16, view: u64) -> Frame {
    let mut header = FrameHeader::new(Command::PongClient, crate::cluster::CLUSTER, crate::cluster::SHARD);
    (header.view, header.a, header.flags) = (view.into(), u64::from(replica).into(), 1.into());
    let mut frame = Frame { header, payload: None };
    frame.seal(crate::cluster::replica(replica.into()), world.edges[0].0, 1, 1);
    frame
}

/// Publishes; the request is lost.
fn publish_unheard(world: &mut World, ada: ConnectionId, id: u32) {
    let (key, body) = (world.key(id), "x");
    let text = format!(r#"{{"id":{id},"publish":{{"room":"general","key":"{key}","body":"{body}"}}}}"#);
    world.turn(0, Some(EdgeEvent::Frame { connection: ada, bytes: text.as_bytes() }));
    world.edges[0].2.sent.clear();
}

#[test]
fn a_silent_shard_is_asked_who_leads_and_sent_what_is_unanswered_once_somebody_says_so() {
    let mut world = World::new();
    let ada = world.client(0, 1, "ada");
    world.pass(400);
    publish_unheard(&mut world, ada, 10);
    let renewals = |at: &u64| *at < 400;
    let asked: Vec<u64> =
        unheard(&mut world, 0, Command::PingClient, 400).into_iter().filter(renewals).collect();
    for at in [60, 70, 90, 130, 210, 290, 370] {
        assert!(asked.contains(&at), "{at} is not in {asked:?}");
    }
    assert!(asked.len() <= 8, "and once for the lease: {asked:?}");
    assert_eq!(unheard(&mut world, 0, Command::Request, 1_000), [0; 0], "not into the dark");
    world.pass(3_000);
    assert_eq!(seqs(&world.frames(ada)), [1]);
    publish_unheard(&mut world, ada, 11);
    assert!(unheard(&mut world, 0, Command::PingClient, 70).contains(&60), "no longer than at first");
}

/// The primary is there and answers nothing but pings: what it owes it is sent later and later.
#[test]
fn a_primary_that_does_not_answer_is_sent_again_later_and_later() {
    let mut world = World::new();
    let ada = world.client(0, 1, "ada");
    publish_unheard(&mut world, ada, 10);
    let mut times = Vec::new();
    for at in 1..=1_500_u64 {
        world.cluster.only_time(Duration::from_millis(1));
        world.turn(0, None);
        let sent = std::mem::take(&mut world.edges[0].2.sent);
        let of = |command| sent.iter().any(|(_, _, frame)| frame.header.command() == command);
        if of(Command::Request) {
            times.push(at);
        }
        if of(Command::PingClient) {
            world.turn(
                0,
                Some(EdgeEvent::Received { from: crate::cluster::replica(0), frame: leads(&world, 0, 0) }),
            );
        }
    }
    let waits: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits.is_sorted() && waits.last() > Some(&400) && waits.len() < 6, "{times:?}");
}

#[test]
fn an_edge_that_nobody_knows_registers_again_later_and_later() {
    let mut world = World::new();
    world.add_edge(503);
    world.turn(2, None);
    world.edges[2].2.sent.clear();
    assert_eq!(unheard(&mut world, 2, Command::Request, 2_000), [60, 180, 420, 900, 1_400, 1_900]);
    world.pass(1_000);
    assert!(world.edges[2].1.edge().unwrap().is_ready());
}

#[test]
fn h57_who_leads_is_asked_later_and_later_until_a_new_primary_says_so() {
    let mut world = World::new();
    let ada = world.client(0, 1, "ada");
    publish_unheard(&mut world, ada, 10);
    world.turn(0, Some(EdgeEvent::PeerReset(crate::cluster::replica(0))));
    let asked = unheard(&mut world, 0, Command::PingClient, 50);
    assert_eq!(asked[..3], [1, 10, 30], "at once, then as long as it takes");
    let frame = leads(&world, 1, 1);
    world.turn(0, Some(EdgeEvent::Received { from: crate::cluster::replica(1), frame }));
    let sent = std::mem::take(&mut world.edges[0].2.sent);
    let requests: Vec<_> =
        sent.iter().filter(|(_, _, frame)| frame.header.command() == Command::Request).collect();
    assert!(
        matches!(requests[..], [(_, to, _)] if *to == crate::cluster::replica(1)),
        "at once, to who says so"
    );
    assert_eq!(unheard(&mut world, 0, Command::PingClient, 40), [0; 0], "the search is over");
}

#[test]
fn an_author_erases_what_they_said_and_everybody_hears_of_it() {
    let mut world = World::new();
    let (ada, bob) = (world.client(0, 1, "ada"), world.client(1, 2, "bob"));
    let line = world.open(1, 3, Transport::Line);
    world.say(1, line, "join general");
    world.pass(5);
    for (number, text) in ["first", "secret", "third"].iter().enumerate() {
        let key = world.key(number as u32);
        world.publish(0, ada, 10 + number as u32, &key, text);
    }
    world.pass(5);
    world.frames(bob);
    let key = world.key(50);
    let erase = |id: u32, seq: u64| {
        format!(r#"{{"id":{id},"erase":{{"room":"general","key":"{key}","seq":"{seq}"}}}}"#)
    };
    // Nobody erases what another one said, nor what is not there.
    world.say(1, bob, &erase(20, 2));
    world.pass(20);
    assert!(world.frames(bob).iter().any(|frame| frame.starts_with(r#"{"id":20,"error":{"code":10006"#)));
    world.say(0, ada, &erase(20, 9));
    world.pass(20);
    world.say(0, ada, &erase(21, 2));
    world.pass(20);
    let said = world.frames(ada);
    assert!(said.iter().any(|frame| frame.starts_with(r#"{"id":20,"error":{"code":14003"#)), "{said:?}");
    assert!(said.iter().any(|frame| frame.starts_with(r#"{"id":21,"erase":{"seq":"4""#)), "{said:?}");
    let told = world.frames(bob);
    assert!(told.iter().any(|frame| frame.contains(r#""kind":2"#) && frame.contains(r#"{"erased":"2"}"#)));
    assert!(world.lines(line).contains(&"[general #4] ada erased #2".to_string()));
    // A retry is answered as the first one was.
    world.say(0, ada, &erase(22, 2));
    world.pass(20);
    let said = world.frames(ada);
    let again = said.iter().find(|frame| frame.starts_with(r#"{"id":22,"erase":{"seq":"4""#));
    assert!(again.is_some_and(|frame| frame.contains(r#""duplicate":true"#)), "{said:?}");
    // An erasure is not erased.
    let next = world.key(51);
    world.say(0, ada, &format!(r#"{{"id":23,"erase":{{"room":"general","key":"{next}","seq":"4"}}}}"#));
    world.pass(20);
    assert!(world.frames(ada).iter().any(|frame| frame.starts_with(r#"{"id":23,"error":{"code":13008"#)));
    // History, catching up, lines: whoever asks from now on.
    let late = world.open(1, 9, Transport::WebSocket);
    world.say(1, late, r#"{"id":1,"connect":{"token":"demo:late"}}"#);
    world.say(1, late, r#"{"id":2,"subscribe":{"room":"general","since":{"seq":"0"}}}"#);
    for consistency in ["local", "linearizable"] {
        world.say(
            1,
            late,
            &format!(r#"{{"id":3,"history":{{"room":"general","consistency":"{consistency}"}}}}"#),
        );
    }
    world.say(1, line, "history");
    world.pass(50);
    let frames = world.frames(late);
    assert_eq!(seqs(&frames), [1, 2, 3, 4]);
    assert_eq!(frames.iter().filter(|frame| frame.contains(r#""history""#)).count(), 2);
    for frame in &frames {
        assert!(!frame.contains("secret"), "{frame}");
    }
    assert!(frames.iter().filter(|frame| frame.contains(r#""erased":true"#)).count() == 3);
    let lines = world.lines(line);
    assert!(lines.contains(&"[general #2] ada: (erased)".to_string()), "{lines:?}");
    assert!(lines.iter().all(|line| !line.contains("secret")));
}
