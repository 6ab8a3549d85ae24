//! A replica on its grid: pages of old messages come from blocks, damaged blocks from peers, and a full grid refuses what
//! would make it grow.

use std::time::Duration;

use crate::cluster::{CLUSTER, Cluster, EDGE, SHARD, replica, say};
use tigerchat_core::errors::ErrorCode;
use tigerchat_core::io::{DiskOp, Fatal};
use tigerchat_core::store::grid::block::{BlockRef, Kind};
use tigerchat_core::store::layout::{SECTOR, SUPERBLOCK_ZONE};
use tigerchat_core::store::superblock::Superblock;
use tigerchat_core::types::{Address, TenantId};
use tigerchat_core::vsr::machine::Machine as _;
use tigerchat_core::vsr::marks::Mark;
use tigerchat_core::wire::chat::{AnswerHead, Command as ChatCommand, Query, RoomEvent};
use tigerchat_core::wire::codec::Reader;
use tigerchat_core::wire::frame::{Command, Frame, FrameHeader};

const LONG: Duration = Duration::from_millis(600);

fn ready(replicas: u8, messages: u64) -> Cluster {
    ready_with(Cluster::with_slots(replicas, 16), messages)
}

fn ready_with(mut cluster: Cluster, messages: u64) -> Cluster {
    cluster.pass(Duration::from_millis(50));
    cluster.register();
    cluster.open_room();
    for number in 1..=messages {
        cluster.publish(number).expect("acknowledged");
    }
    cluster.pass(LONG);
    cluster
}

/// Asks a replica for a page, and gives it time.
fn ask(cluster: &mut Cluster, at: usize, from: u64, limit: u32) -> Option<(AnswerHead, Vec<String>)> {
    let mut query = Vec::new();
    Query::History { tenant: TenantId(1), room: "general", from, limit }.encode(&mut query).unwrap();
    let mut frame = Frame { header: FrameHeader::new(Command::Query, CLUSTER, SHARD), payload: None };
    let mut draft = cluster.outside[at].pool.draft(query.len()).expect("pool");
    draft.extend(&query).unwrap();
    frame.payload = Some(draft.seal());
    frame.header.nonce = u128::from(from * 1_000 + u64::from(limit)).into();
    frame.seal(Address::Edge(EDGE), replica(at), 1, from + 1);
    cluster.to_edge.clear();
    cluster.wire.push_back((Address::Edge(EDGE), replica(at), frame));
    cluster.settle();
    cluster.pass(LONG);
    let answer = cluster.to_edge.iter().find(|frame| frame.header.command() == Command::Answer)?;
    let mut reader = Reader::new(answer.body());
    let head = AnswerHead::decode(&mut reader).unwrap();
    let mut bodies = Vec::new();
    for _ in 0..head.count {
        let Ok(RoomEvent::Message(message)) = RoomEvent::decode(&mut reader) else { panic!("messages") };
        bodies.push(String::from_utf8(message.body.to_vec()).unwrap());
    }
    Some((head, bodies))
}

fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

fn references(cluster: &Cluster, at: usize) -> Vec<BlockRef> {
    let mut all = Vec::new();
    cluster.replica(at).machine().forest().references_from(1, 1_024, &mut all);
    all
}

fn damage(cluster: &mut Cluster, at: usize, block: &BlockRef) {
    let offset = usize::try_from(cluster.config.layout.grid().offset_of(block.address)).unwrap();
    cluster.outside[at].disk[offset + 40] ^= 4;
}

fn kind_of(cluster: &Cluster, at: usize, block: &BlockRef) -> u8 {
    let offset = usize::try_from(cluster.config.layout.grid().offset_of(block.address)).unwrap();
    cluster.outside[at].disk[offset + 4]
}

fn is_whole(cluster: &Cluster, at: usize, other: usize, block: &BlockRef) -> bool {
    let offset = usize::try_from(cluster.config.layout.grid().offset_of(block.address)).unwrap();
    cluster.outside[at].disk[offset + 40] == cluster.outside[other].disk[offset + 40]
}

#[test]
fn pages_of_any_age_are_answered_by_every_replica_also_after_a_restart() {
    let mut cluster = ready(3, 120);
    for at in 0..3 {
        for from in [1, 40, 77, 101] {
            let (head, bodies) = ask(&mut cluster, at, from, 20).expect("an answer");
            assert_eq!((head.error, head.first, head.head), (None, 1, 120));
            assert_eq!(bodies, numbers(from..=from + 19), "replica {at}");
        }
        cluster.crash(at);
        cluster.start(at);
        cluster.pass(LONG);
        assert_eq!(ask(&mut cluster, at, 3, 50).expect("an answer").1, numbers(3..=52), "replica {at}");
    }
    let waited = (0..3).any(|at| cluster.replica(at).marks().has(Mark::QueryWaits));
    assert!(waited, "some of them were not in memory");
}

/// All blocks of one replica are damaged, one after the other: each page is answered all the same.
#[test]
fn h34_a_damaged_block_is_had_from_a_peer_and_written_again() {
    let mut cluster = ready(3, 120);
    cluster.crash(1);
    cluster.start(1);
    cluster.pass(LONG);
    let all = references(&cluster, 1);
    all.iter().for_each(|block| damage(&mut cluster, 1, block));
    assert_eq!(ask(&mut cluster, 1, 1, 50).expect("an answer").1, numbers(1..=50));
    assert!(cluster.replica(1).marks().has(Mark::BlockRepaired));
    // Scrubbing comes by all others.
    for _ in 0..all.len() / 4 {
        cluster.pass(LONG);
    }
    let damaged = all.iter().filter(|block| !is_whole(&cluster, 1, 0, block)).count();
    assert_eq!(damaged, 0, "of {}", all.len());
    assert!(cluster.replica(1).scrubbed().blocks >= all.len() as u64);
}

/// Entries that were executed long ago rot in the log of one replica, and so do copies of its superblock: nobody asks for
/// them, and they are written again all the same.
#[test]
fn h30_what_rots_in_the_log_and_in_the_superblock_is_found_and_written_again() {
    let mut cluster = ready(3, 120);
    cluster.pass(LONG);
    let layout = cluster.config.layout;
    let before = cluster.outside[1].disk.clone();
    let slots = 0..layout.wal_slots;
    let offset = |slot| usize::try_from(layout.slot_offset(slot)).unwrap();
    let disk = &mut cluster.outside[1].disk;
    slots.clone().for_each(|slot| disk[offset(slot) + 200] ^= 8);
    for copy in [0, 3] {
        disk[usize::try_from(Superblock::copy_offset(copy)).unwrap() + 100] ^= 8;
    }
    let looks = 8 * 4 * slots.len() as u64;
    for look in 0..looks {
        cluster.pass(Duration::from_millis(50));
        if look % 8 == 0 {
            // Otherwise an entry would end the session.
            cluster.ping();
        }
    }
    let replica = cluster.replica(1);
    assert!(replica.marks().has(Mark::EntryRotten) && replica.marks().has(Mark::SuperblockRotten));
    assert!(replica.scrubbed().rotten > 2, "{:?}", replica.scrubbed());
    assert!(replica.scrubbed().logs > 1 && replica.scrubbed().entries > 0, "{:?}", replica.scrubbed());
    let disk = &cluster.outside[1].disk;
    let is_there =
        |slot: &u32| disk[offset(*slot)..offset(*slot) + 4032] == before[offset(*slot)..offset(*slot) + 4032];
    assert_eq!(slots.clone().filter(is_there).count(), slots.len());
    let copies = Superblock::read_copies(&disk[..SUPERBLOCK_ZONE]);
    assert!(copies.iter().all(|copy| copy.is_ok() && *copy == copies[0]), "{copies:?}");
    assert_eq!(copies[0].as_ref().unwrap().incarnation, 1);
}

/// A start looks at a part of the log. What it did not look at is written whole, until scrubbing has: soon, then.
#[test]
fn after_a_start_all_of_the_log_is_read_before_anything_else() {
    let mut cluster = ready(3, 120);
    cluster.pass(LONG);
    cluster.crash(1);
    cluster.start(1);
    cluster.pass(Duration::from_millis(25) * cluster.config.layout.wal_slots);
    let done = cluster.replica(1).scrubbed();
    assert!(done.entries == u64::from(cluster.config.layout.wal_slots) && done.logs == 1, "{done:?}");
    let key = cluster.key(121);
    cluster.outside[1].submitted.clear();
    cluster.stalled.push(1);
    cluster.request(&[say(key, "short")]).expect("two are a quorum");
    let wal = SUPERBLOCK_ZONE as u64..cluster.config.layout.hot_size();
    let written = cluster.outside[1].submitted.iter().find_map(|op| match op {
        DiskOp::Write { offset, data, .. } if wal.contains(offset) => Some(data.len()),
        _ => None,
    });
    assert_eq!(written, Some(SECTOR), "no more than it fills");
}

#[test]
fn h40_what_no_replica_has_whole_is_served_by_none() {
    let mut cluster = ready(3, 120);
    let all = references(&cluster, 0);
    for at in 0..3 {
        cluster.crash(at);
        let messages = all.iter().filter(|block| kind_of(&cluster, at, block) == Kind::Records as u8);
        let messages: Vec<BlockRef> = messages.copied().collect();
        assert!(messages.len() >= 2);
        messages.iter().for_each(|block| damage(&mut cluster, at, block));
    }
    (0..3).for_each(|at| cluster.start(at));
    cluster.pass(LONG * 3);
    assert_eq!(ask(&mut cluster, 0, 1, 50), None, "better no answer than a wrong one");
    // What is in memory is answered as before.
    let head = cluster.replica(0).machine().room(TenantId(1), "general").expect("it is there").head;
    assert_eq!(ask(&mut cluster, 0, head, 1).expect("an answer").1, numbers(head..=head));
}

/// A replica that was away for long takes over a checkpoint, and of its old one all blocks that are the same.
#[test]
fn a_transfer_takes_what_is_on_the_own_disk_from_there() {
    let mut cluster = ready(3, 200);
    cluster.crash(2);
    cluster.pass(Duration::from_millis(200));
    for number in 201..=240 {
        cluster.publish(number).expect("two are a quorum");
    }
    cluster.start(2);
    cluster.pass(LONG * 2);
    assert!(cluster.replica(2).marks().has(Mark::TransferDone));
    assert!(cluster.replica(2).marks().has(Mark::TransferKept));
    assert_eq!(cluster.state(2), cluster.state(0));
    assert_eq!(ask(&mut cluster, 2, 1, 50).expect("an answer").1, numbers(1..=50));
}

/// The disk of a new replica is slow, and its peers make checkpoints faster than it can look at all blocks of one: it takes
/// over a checkpoint all the same while they go on, because what it has it need not look at again. When it has one, their
/// logs are past it: so it takes the next ones over too, of which it has the most, and follows in the end. (What it reads
/// again for each is the tables and the lists of blocks: a small part, as long as messages are many. Measured before: with
/// 10 million messages each transfer looked at all blocks, which took longer than the log holds, for as long as the load
/// went on.)
#[test]
fn a_transfer_gets_there_while_the_shard_serves() {
    let mut large = Cluster::with_slots(3, 64);
    large.config.layout.blocks_max = 4_096;
    let mut cluster = ready_with(large.formatted_anew(), 0);
    let mut said = 0;
    let mut say_one = |cluster: &mut Cluster| {
        said += 1;
        let (key, body) = (cluster.key(said), "long ".repeat(190));
        if said % 100 == 0 {
            cluster.ping();
        }
        assert_eq!(cluster.request(&[say(key, &body)]).expect("two are a quorum")[0].seq, said);
        cluster.pass(Duration::from_millis(2));
    };
    (0..4_000).for_each(|_| say_one(&mut cluster));
    cluster.pass(LONG);
    cluster.crash(2);
    cluster.outside[2].disk[SUPERBLOCK_ZONE..].fill(0);
    let all = references(&cluster, 0).len();
    cluster.start(2);
    // It reads its empty log first.
    while cluster.complete_one(2) {}
    cluster.stalled.push(2);
    let (per_op, interval) = (6, cluster.config.layout.interval() as usize);
    assert!(all > 2 * per_op * interval, "a checkpoint of {all} blocks is gone before all were looked at");
    for _ in 0..2 * all {
        say_one(&mut cluster);
        for _ in 0..per_op {
            cluster.complete_one(2);
        }
        if cluster.view(2).commit + 2 > cluster.view(0).commit {
            break;
        }
    }
    let counts = cluster.replica(2).marks();
    assert!(counts.has(Mark::TransferGone), "checkpoints went by");
    assert!(counts.has(Mark::TransferDone), "{:?}", cluster.view(2));
    assert!(
        cluster.view(2).commit + 2 > cluster.view(0).commit,
        "{:?} {:?}",
        cluster.view(2),
        cluster.view(0)
    );
    cluster.stalled.clear();
    cluster.pass(LONG);
    assert_eq!(cluster.state(2), cluster.state(0));
}

/// Blocks of a node's grid that are not what they were.
fn changed(cluster: &Cluster, at: usize, before: &[u8]) -> usize {
    let grid = cluster.config.layout.grid();
    let (from, size) = (usize::try_from(grid.offset_of(1)).unwrap(), grid.block_bytes());
    let now = cluster.outside[at].disk[from..].chunks_exact(size);
    now.zip(before[from..].chunks_exact(size)).filter(|(now, before)| now != before).count()
}

/// A checkpoint is made in the measure of the ops of its interval: not all of it at once, which the first of them would wait
/// for, and nothing is left over at the end, for which everybody would.
#[test]
fn the_work_of_a_checkpoint_keeps_pace_with_ops() {
    let mut cluster = ready_with(Cluster::with_slots(3, 128), 0);
    let interval = cluster.config.layout.interval();
    for number in 1.. {
        let (key, body) = (cluster.key(number), "long ".repeat(190));
        cluster.request(&[say(key, &body)]).expect("acknowledged");
        if cluster.view(0).commit == 6 * interval {
            break;
        }
    }
    let before: Vec<Vec<u8>> = cluster.outside.iter().map(|outside| outside.disk.clone()).collect();
    let mut made = vec![Vec::new(); 3];
    for number in 1..interval {
        let (key, body) = (cluster.key(1_000_000 + number), "long ".repeat(190));
        cluster.request(&[say(key, &body)]).expect("acknowledged");
        for (at, made) in made.iter_mut().enumerate() {
            made.push(changed(&cluster, at, &before[at]));
        }
    }
    for (at, made) in made.iter().enumerate() {
        let (all, part) = (*made.last().unwrap(), interval as usize / 8);
        assert!(all > 12, "{made:?}");
        for eighth in 1..=3 {
            let (done, most) = (made[part * eighth - 1], all * (eighth + 2) / 6);
            assert!(done > 0 && done <= most, "{done} of {all} after {eighth} eighths: {made:?}");
        }
        assert_eq!(made[part * 7 - 1], all, "{made:?}");
        assert_eq!(cluster.view(at).checkpoint, 6 * interval);
        assert!(!cluster.replica(at).marks().has(Mark::CheckpointAwaited), "nobody waited");
    }
}

/// The grid is full: what would make it grow is refused with its number and has no effect, reads go on, and a retention
/// of some messages a room lets the same shard run for ever.
#[test]
fn h35_a_full_grid_refuses_what_grows_and_loses_nothing() {
    let mut small = Cluster::with_slots(3, 16);
    small.config.layout.blocks_max = 420;
    let mut cluster = ready_with(small.formatted_anew(), 0);
    let mut said = 0;
    let refused = loop {
        let (key, body) = (cluster.key(said + 1), "long ".repeat(190));
        let outcome = cluster.request(&[say(key, &body)]).expect("answered")[0];
        match outcome.error {
            None => said = outcome.seq,
            Some(error) => break error,
        }
        assert!(said < 5_000, "it never filled up");
    };
    assert_eq!(refused, ErrorCode::StorageFull);
    assert!(said > 60, "{said}");
    let open = ChatCommand::RoomOpen { tenant: TenantId(1), room: "another", user: "ada" };
    assert_eq!(cluster.request(&[open]).expect("answered")[0].error, Some(ErrorCode::StorageFull));
    // For many more ops: checkpoints go on. Now and then one frees a little, and somebody finds room.
    let mut refusals = 0;
    for number in 0..120 {
        let (key, body) = (cluster.key(10_000 + number), "long ".repeat(190));
        let outcome = cluster.request(&[say(key, &body)]).expect("answered")[0];
        assert!(outcome.error.is_none_or(|error| error == ErrorCode::StorageFull), "{outcome:?}");
        refusals += u32::from(outcome.error.is_some());
        said = said.max(if outcome.error.is_none() { outcome.seq } else { 0 });
    }
    assert!(refusals > 60, "{refusals}");
    cluster.pass(LONG);
    let (head, bodies) = ask(&mut cluster, 1, said, 1).expect("an answer");
    assert_eq!((head.head, bodies.len()), (said, 1));
    assert!((0..3).all(|at| cluster.outside[at].stopped.is_none()));
    assert!((1..3).all(|at| cluster.state(at) == cluster.state(0)));
}

#[test]
fn h35_with_retention_a_small_grid_never_fills_up() {
    let mut small = Cluster::with_slots(3, 16);
    small.config.layout.blocks_max = 420;
    small.config.limits.room_messages = 20;
    let mut cluster = ready_with(small.formatted_anew(), 0);
    for number in 1..=900 {
        let (key, body) = (cluster.key(number), "long ".repeat(190));
        let outcome = cluster.request(&[say(key, &body)]).expect("answered")[0];
        assert_eq!((outcome.error, outcome.seq), (None, number));
        cluster.pass(Duration::from_millis(2));
    }
    cluster.pass(LONG);
    let (head, _) = ask(&mut cluster, 2, 0, 5).expect("an answer");
    assert_eq!((head.first, head.head), (881, 900));
    let gone = ask(&mut cluster, 2, 1, 5).expect("an answer").0;
    assert_eq!(gone.error, Some(ErrorCode::PositionGone));
}

/// All blocks of a peer's checkpoint are here and the superblock is about to name it, when the peer says that it has a
/// newer one. (Found by the simulator: seed 70477.)
#[test]
fn h37_a_transfer_that_is_whole_does_not_begin_anew() {
    let mut cluster = ready(3, 2);
    cluster.crash(2);
    cluster.pass(Duration::from_millis(200));
    for number in 3..=60 {
        cluster.publish(number).expect("two are a quorum");
    }
    cluster.start(2);
    let names_it =
        |op: &DiskOp| matches!(op, DiskOp::Write { offset, .. } if *offset < SUPERBLOCK_ZONE as u64);
    let mut interrupted = 0;
    for _ in 0..20_000 {
        for (from, to, frame) in cluster.collect() {
            cluster.deliver(from, to, frame);
        }
        if cluster.view(2).state_lost && cluster.outside[2].submitted.iter().any(names_it) {
            for from in [0, 1] {
                cluster.forge(from, 2, Command::Block, |frame| {
                    frame.header.flags = 1.into();
                    frame.header.op = 1_000.into();
                });
            }
            interrupted += 1;
        }
        if !(0..3).any(|at| cluster.complete_one(at)) {
            cluster.only_time(Duration::from_millis(1));
        }
        let view = cluster.view(2);
        assert!(view.checkpoint <= view.commit, "what is named is what is executed: {view:?}");
        if view.commit > 56 {
            break;
        }
    }
    assert!(interrupted > 0, "there was such a moment");
    cluster.pass(LONG);
    assert_eq!(cluster.state(2), cluster.state(0));
}

/// Alone there is nobody to have a block from: a merge that needs a damaged one ends the replica with the reason, before
/// the log fills up and all stands still.
#[test]
fn h34_a_replica_that_is_alone_says_that_its_history_is_damaged() {
    let mut cluster = ready(1, 120);
    let all = references(&cluster, 0);
    cluster.crash(0);
    for block in &all {
        if kind_of(&cluster, 0, block) == Kind::Records as u8 {
            damage(&mut cluster, 0, block);
        }
    }
    cluster.start(0);
    cluster.pass(LONG);
    cluster.register();
    cluster.number = cluster.replica(0).sessions().iter().map(|session| session.number).max().unwrap_or(0);
    for number in 121..=200 {
        if cluster.outside[0].stopped.is_some() {
            break;
        }
        cluster.publish(number);
    }
    assert_eq!(cluster.outside[0].stopped, Some(Fatal::CheckpointLost));
}
