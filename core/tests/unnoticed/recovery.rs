//! A replica comes back: what its slots and its superblock say is what it claims, and nothing more.

use std::time::Duration;

use crate::cluster::{Cluster, say};
use tigerchat_core::io::DiskOp;
use tigerchat_core::store::layout::SECTOR;
use tigerchat_core::vsr::replica::Status;
use tigerchat_core::wire::entry::RequestKind;

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
