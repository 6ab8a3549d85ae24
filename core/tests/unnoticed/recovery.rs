//! A replica comes back: what its slots and its superblock say is what it claims, and nothing more.

use std::time::Duration;

use crate::cluster::{Cluster, say};
use tigerchat_core::io::DiskOp;
use tigerchat_core::store::layout::SECTOR;
use tigerchat_core::vsr::replica::Status;
use tigerchat_core::wire::entry::RequestKind;
use tigerchat_core::wire::frame::Command;
use zerocopy::IntoBytes;

const LONG: Duration = Duration::from_secs(3);

/// Takes the writes of an op's slot off a replica's disk queue: they do not end for now.
fn hold_back(cluster: &mut Cluster, at: usize, op: u64) -> Vec<DiskOp> {
    let layout = cluster.config.layout;
    let slot = u32::try_from(op % u64::from(layout.wal_slots)).unwrap();
    let from = layout.slot_offset(slot);
    let slot = from..from + u64::from(layout.slot_sectors) * SECTOR as u64;
    let is_of_slot = |op: &DiskOp| matches!(op, DiskOp::Write { offset, .. } if slot.contains(offset));
    let (held, others) = cluster.outside[at].submitted.drain(..).partition(is_of_slot);
    cluster.outside[at].submitted = others;
    held
}

/// Two replicas came back whole, so their slots above the head never held what was lost. The next entry reaches them and
/// is on neither disk when its primary falls: both say that they never had it, and the view goes on without it.
#[test]
fn who_came_back_whole_nacks_what_it_never_had() {
    let mut cluster = Cluster::with_slots(3, 16);
    cluster.pass(Duration::from_millis(50));
    cluster.register();
    cluster.open_room();
    for number in 1..=21 {
        cluster.publish(number).expect("acknowledged");
    }
    for at in [1, 2] {
        cluster.crash(at);
        cluster.start(at);
        cluster.pass(LONG);
    }
    assert_eq!((cluster.primary(), cluster.statuses()), (Some(0), vec![Status::Normal; 3]));
    let op = cluster.view(0).op + 1;
    let (mut bytes, body) = (Vec::new(), "22".to_owned());
    say(cluster.key(22), &body).encode(&mut bytes).unwrap();
    cluster.number += 1;
    cluster.post_request(RequestKind::Commands, &bytes);
    cluster.settle_frames();
    let held = [1, 2].map(|at| (at, hold_back(&mut cluster, at, op)));
    assert!(held.iter().all(|(at, writes)| writes.len() == 1 && cluster.view(*at).op == op));
    cluster.crash(0);
    cluster.pass(LONG);
    let primary = cluster.primary().expect("two who never had it decide");
    assert_eq!(cluster.view(primary).op, op - 1);
    for (at, writes) in held {
        cluster.outside[at].submitted.extend(writes);
    }
    cluster.pass(LONG);
    cluster.register();
    assert_eq!(cluster.publish(23).expect("acknowledged").seq, 22);
    cluster.start(0);
    cluster.pass(LONG);
    assert!((1..3).all(|at| cluster.state(at) == cluster.state(0)));
}

/// A long entry fills its slot, then its replica comes back: how much of the slot is filled it knows from looking at it.
/// So a short entry that takes the slot leaves nothing of the long one behind.
#[test]
fn h41_a_short_entry_leaves_nothing_behind_of_a_long_one_that_lay_there_before_a_restart() {
    let mut cluster = Cluster::with_slots(3, 16);
    cluster.pass(Duration::from_millis(50));
    cluster.register();
    cluster.open_room();
    let body = "long ".repeat(190);
    let long: Vec<_> = (1..=6).map(|number| say(cluster.key(number), &body)).collect();
    cluster.request(&long).expect("acknowledged");
    cluster.pass(LONG);
    let layout = cluster.config.layout;
    let slot = u32::try_from(cluster.view(1).op % u64::from(layout.wal_slots)).unwrap();
    let second = usize::try_from(layout.slot_offset(slot)).unwrap() + SECTOR;
    let says_long = |cluster: &Cluster| {
        let sector = &cluster.outside[1].disk[second..second + SECTOR];
        sector.windows(10).any(|words| words == b"long long ")
    };
    assert!(says_long(&cluster), "it fills more than a sector");
    cluster.crash(1);
    cluster.start(1);
    cluster.pass(Duration::from_millis(30));
    for number in 7..=22 {
        cluster.publish(number).expect("acknowledged");
    }
    cluster.settle();
    assert!(!says_long(&cluster));
}

/// The disk lost the head of a replica's log. What its primary said of the log before, and comes late, would have it end
/// sooner than what was acknowledged: only an answer to the question that it asks since counts.
#[test]
fn h24_what_a_primary_said_before_it_was_asked_tells_nobody_where_the_log_ends() {
    let mut cluster = Cluster::new(3);
    cluster.pass(Duration::from_millis(50));
    cluster.register();
    cluster.open_room();
    for number in 1..=4 {
        cluster.publish(number).expect("acknowledged");
    }
    cluster.pass(LONG);
    let (head, layout) = (cluster.view(2).op, cluster.config.layout);
    let older = cluster.replica(0).header(head - 1).expect("it is in the log");
    cluster.crash(2);
    let slot = u32::try_from(head % u64::from(layout.wal_slots)).unwrap();
    cluster.outside[2].disk[usize::try_from(layout.slot_offset(slot)).unwrap() + 300] ^= 1;
    cluster.start(2);
    while cluster.complete_one(2) {}
    assert_eq!(cluster.view(2).status, Status::RecoveringHead);
    let mut late = cluster.outside[2].pool.draft(160).expect("pool");
    late.extend(&[0; 32]).and_then(|()| late.extend(older.as_bytes())).unwrap();
    cluster.forge(0, 2, Command::StartView, |frame| {
        frame.header.op = (head - 1).into();
        frame.payload = Some(late.seal());
    });
    assert_eq!(cluster.view(2).status, Status::RecoveringHead);
    cluster.pass(LONG);
    assert_eq!((cluster.view(2).status, cluster.view(2).op), (Status::Normal, head));
}
