//! What a replica says of its own disk after an erasure is so: looked for in every byte of it.

use std::time::Duration;

use crate::cluster::{CLUSTER, Cluster, EDGE, SHARD, replica, say};
use tigerchat_core::types::{Address, TenantId};
use tigerchat_core::wire::chat::{Command as ChatCommand, Erase, Key};
use tigerchat_core::wire::frame::{Command, Frame, FrameHeader};

const WORD: &[u8] = b"the-secret.";
const SLOTS: u32 = 16;

fn erase<'a>(key: Key, of: Key, epoch: u64, seq: u64, now: bool) -> ChatCommand<'a> {
    let (tenant, room, user) = (TenantId(1), "general", "ada");
    ChatCommand::Erase(Erase { tenant, room, user, key, epoch, seq, author: user, of, salt: [5; 16], now })
}

fn holds(cluster: &Cluster, at: usize) -> bool {
    cluster.outside[at].disk.windows(WORD.len()).any(|window| window == WORD)
}

/// A shard with a secret in it, of which the entry reaches into the second sector of its slot. Its key, and where it is.
fn with_secret(before: u64) -> (Cluster, Key, u64, u64) {
    with_secret_in(Cluster::with_slots(3, SLOTS), before)
}

fn with_secret_in(mut cluster: Cluster, before: u64) -> (Cluster, Key, u64, u64) {
    cluster.pass(Duration::from_millis(50));
    cluster.register();
    cluster.open_room();
    for number in 1..=before {
        cluster.publish(number).expect("acknowledged");
    }
    let filler = "x".repeat(900);
    let secret = String::from_utf8(WORD.repeat(60)).unwrap();
    let key = cluster.key(1_000);
    let mut said: Vec<_> = (2_000..2_004).map(|number| say(cluster.key(number), &filler)).collect();
    said.push(say(key, &secret));
    let outcome = *cluster.request(&said).expect("acknowledged").last().unwrap();
    assert_eq!(outcome.error, None);
    (cluster, key, outcome.epoch, outcome.seq)
}

/// Publishes until all replicas say that they are clean; whoever says so is.
fn until_clean(cluster: &mut Cluster, op: u64, most: u64) -> u64 {
    for number in 1..=most {
        cluster.publish(10_000 + op * 1_000 + number).expect("acknowledged");
        cluster.pass(Duration::from_millis(20));
        let mut all = true;
        for at in 0..3 {
            let says = cluster.nodes[at].is_some() && cluster.replica(at).cleared() >= op;
            assert!(!says || !holds(cluster, at), "replica {at} says that it is clean as of op {op}");
            all &= says;
        }
        if all {
            return number;
        }
    }
    panic!("not clean within {most} ops");
}

#[test]
fn a_replica_that_says_it_is_clean_is() {
    for (before, behind, restart) in
        [(0, 0, None), (3, 1, None), (0, 7, None), (5, 30, None), (2, 60, None), (4, 20, Some(1))]
    {
        let (mut cluster, of, epoch, seq) = with_secret(before);
        for number in 0..behind {
            cluster.publish(5_000 + number).expect("acknowledged");
        }
        cluster.pass(Duration::from_millis(50));
        assert!((0..3).all(|at| holds(&cluster, at)), "it is there before");
        let key = cluster.key(9_000);
        let done = cluster.request(&[erase(key, of, epoch, seq, true)]).unwrap()[0];
        assert_eq!(done.error, None);
        if let Some(at) = restart {
            cluster.crash(at);
            cluster.start(at);
            cluster.pass(Duration::from_millis(500));
        }
        // The rest of the interval, that of the erasure's checkpoint, that of the wipe's, and when it is named.
        let ops = until_clean(&mut cluster, done.op, 5 * u64::from(SLOTS / 2));
        assert!(ops >= u64::from(SLOTS / 2), "it is not said before it can be so");
    }
}

/// Whether any follower that lacks ops is sent the secret, from whichever op on it asks.
fn is_sent(cluster: &mut Cluster) -> bool {
    let (primary, commit) = (cluster.primary().unwrap(), cluster.view(0).commit);
    (1..=commit).any(|from| {
        let mut frame = Frame { header: FrameHeader::new(Command::Follow, CLUSTER, SHARD), payload: None };
        (frame.header.op, frame.header.nonce) = (from.into(), 9.into());
        frame.seal(Address::Edge(EDGE), replica(primary), 1, 1_000_000 + commit * 1_000 + from);
        cluster.to_edge.clear();
        cluster.deliver(Address::Edge(EDGE), replica(primary), frame);
        cluster.settle();
        let shows = |frame: &Frame| frame.body().windows(WORD.len()).any(|window| window == WORD);
        cluster.to_edge.iter().any(|frame| frame.header.command() == Command::Committed && shows(frame))
    })
}

#[test]
fn who_follows_is_not_sent_what_was_erased_since() {
    let (mut cluster, of, epoch, seq) = with_secret(3);
    cluster.pass(Duration::from_millis(50));
    assert!(is_sent(&mut cluster), "it is there before");
    let key = cluster.key(9_000);
    let done = cluster.request(&[erase(key, of, epoch, seq, false)]).unwrap()[0];
    assert_eq!(done.error, None);
    cluster.pass(Duration::from_millis(50));
    assert!(!is_sent(&mut cluster));
}

#[test]
fn without_a_hurry_it_is_gone_within_the_bound() {
    let (mut cluster, of, epoch, seq) = with_secret(3);
    for number in 0..40 {
        cluster.publish(5_000 + number).expect("acknowledged");
    }
    let key = cluster.key(9_000);
    let done = cluster.request(&[erase(key, of, epoch, seq, false)]).unwrap()[0];
    assert_eq!(done.error, None);
    until_clean(&mut cluster, done.op, 130 * u64::from(SLOTS / 2));
}

/// What retention removes lies in blocks until these are merged; not if it was erased before. (Found by the simulator:
/// a message of a block of checkpoint 5 was erased by op 47 and removed by op 50, so nobody rewrote the block; checkpoint
/// 6 wiped what was free, and all five replicas said that they were clean, with the message in a block in
/// use. With no other erasure nobody ever said so.)
#[test]
fn what_retention_removes_right_after_its_erasure_is_gone_too() {
    for behind in [0, 3, 20] {
        let mut small = Cluster::with_slots(3, SLOTS);
        small.config.limits.room_messages = 10;
        let (mut cluster, of, epoch, seq) = with_secret_in(small.formatted_anew(), 3);
        for _ in 0..behind {
            // Nothing is said in the room: the secret is to be there still.
            cluster.request(&[]).expect("acknowledged");
        }
        let key = cluster.key(9_000);
        let done = cluster.request(&[erase(key, of, epoch, seq, true)]).unwrap()[0];
        assert_eq!(done.error, None);
        for two in 0..2 {
            let keys = (9_001..9_007).map(|number| cluster.key(number + 10 * two));
            let said: Vec<_> = keys.map(|key| say(key, "x")).collect();
            cluster.request(&said).expect("acknowledged");
        }
        until_clean(&mut cluster, done.op, 5 * u64::from(SLOTS / 2));
    }
}

#[test]
fn who_was_away_claims_nothing_before_it_has_wiped_its_own_disk() {
    let (mut cluster, of, epoch, seq) = with_secret(3);
    for number in 0..30 {
        cluster.publish(5_000 + number).expect("acknowledged");
    }
    cluster.pass(Duration::from_millis(50));
    let away = (0..3).find(|at| cluster.primary() != Some(*at)).unwrap();
    cluster.crash(away);
    let key = cluster.key(9_000);
    let done = cluster.request(&[erase(key, of, epoch, seq, true)]).unwrap()[0];
    assert_eq!(done.error, None);
    for number in 0..100 {
        cluster.publish(6_000 + number).expect("acknowledged");
    }
    assert!(holds(&cluster, away));
    cluster.start(away);
    cluster.pass(Duration::from_secs(3));
    for number in 0..40 {
        cluster.publish(7_000 + number).expect("acknowledged");
        cluster.pass(Duration::from_millis(20));
        let says = cluster.replica(away).cleared() >= done.op;
        assert!(!says || !holds(&cluster, away));
    }
    // Once more, as its error told the operator: now it is there.
    let key = cluster.key(9_001);
    let again = cluster.request(&[erase(key, of, epoch, seq, true)]).unwrap()[0];
    assert_eq!(again.error, None);
    until_clean(&mut cluster, again.op, 5 * u64::from(SLOTS / 2));
}
